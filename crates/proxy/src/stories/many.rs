//! More requests at a time than one link carries.

use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use isthmus_model::AppProtocol::Http2;
use tokio::sync::Notify;

use super::http2::{call, data, h2_client, h2_program};
use crate::testing::{Scene, run, within};

/// What a client may have open at a time on one connection.
const OF_A_CLIENT: usize = 250;
/// Together more than one link carries.
const CLIENTS: usize = 5;

#[test]
fn streams_that_last_keep_nobody_waiting() {
    for scene in [Scene::local_speaking, Scene::stretched_speaking] {
        run(async {
            let go = Rc::new(Notify::new());
            let end = Rc::clone(&go);
            // Begins every reply at once, and ends none before it is told to. Nothing is in them: the
            // clients here keep little of what nobody has read.
            let address = h2_program(move |_, mut respond| {
                let end = Rc::clone(&end);
                async move {
                    let head = Response::builder().header("content-type", "application/grpc");
                    let mut reply = respond
                        .send_response(head.body(()).unwrap(), false)
                        .unwrap();
                    end.notified().await;
                    reply.send_data(Bytes::new(), true).unwrap();
                }
            })
            .await;
            let scene = scene(Http2, address);
            let mut replies = Vec::new();
            for _ in 0..CLIENTS {
                let mut client = h2_client(&scene).await;
                for _ in 0..OF_A_CLIENT {
                    client = within(client.ready()).await.unwrap();
                    let (reply, _) = client.send_request(call(None), true).unwrap();
                    replies.push(within(reply).await.unwrap());
                }
            }
            go.notify_waiters();
            for reply in &mut replies {
                while let Some(nothing) = within(data(reply.body_mut())).await {
                    assert_eq!(nothing, b""[..]);
                }
            }
        });
    }
}
