//! Everything that can wake the supervisor of `up`, besides signals and timers.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use isthmus_api::StatusView;
use isthmus_model::ClusterName;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::fleet::ProcessId;
use super::metrics::Flows;
use super::socket::{self, Reply, Request};
use crate::failure::Failure;

#[derive(Debug)]
pub(crate) enum Event {
    Ended(ProcessId, io::Result<ExitStatus>),
    /// What it needs is there.
    Admitted(ProcessId),
    /// Something that people want to know.
    Note(String),
    /// The mesh cannot be brought up.
    Failed(Failure),
    /// `None`: the control plane does not answer.
    Viewed(ClusterName, Option<Box<StatusView>>),
    Counted(Flows),
    /// A process is to be told to have a successor.
    Restart(ProcessId),
    Asked(Request, oneshot::Sender<Reply>),
}

pub(crate) type Events = mpsc::Sender<Event>;

/// Sends, and does not mind that the supervisor has gone: then nobody needs to know.
pub(crate) async fn tell(events: &Events, event: Event) {
    let _ = events.send(event).await;
}

/// Answers requests that come over the socket, each by way of the supervisor.
pub(crate) async fn answer(listener: UnixListener, events: Events) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer_one(stream, events.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer_one(mut stream: tokio::net::UnixStream, events: Events) {
    let reply = match socket::receive(&mut stream).await {
        Err(error) => Reply::Refused {
            what: format!("this is no request: {error}"),
            next: "use the isthmus of the same version as `up`".to_owned(),
        },
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            tell(&events, Event::Asked(request, sender)).await;
            match receiver.await {
                Ok(reply) => reply,
                Err(_) => return,
            }
        }
    };
    // Who asked may have gone.
    let _ = socket::send(&mut stream, &reply).await;
}
