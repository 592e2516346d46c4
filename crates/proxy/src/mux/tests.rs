use bytes::{Bytes, BytesMut};
use isthmus_codec::message::{Context as Carried, Reply, TcpOpen};
use isthmus_codec::mux::LEAST_STREAMS;
use isthmus_model::ServiceName;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::*;
use crate::testing::{Plain, plenty, within};

/// A task that has nothing to do when it is woken.
struct Idle;

impl Wake for Idle {
    fn wake(self: Arc<Self>) {}
}

pub(crate) fn open() -> Open {
    let service = ServiceName::new("shop", "cart").unwrap();
    Open::Tcp(TcpOpen {
        service,
        port: 80,
        context: Carried::default(),
    })
}

/// Two ends of one connection over a pipe that holds `buffer` bytes.
pub(crate) fn pair(buffer: usize) -> (Link, Link) {
    pair_with(buffer, Settings::default())
}

fn pair_with(buffer: usize, settings: Settings) -> (Link, Link) {
    let (a, b) = tokio::io::duplex(buffer);
    (
        Link::start(Plain::new(a), Side::Dialler, settings.clone(), &plenty()),
        Link::start(Plain::new(b), Side::Listener, settings, &plenty()),
    )
}

/// Who takes as few streams as may be.
fn least() -> Settings {
    Settings {
        streams: LEAST_STREAMS,
        ..Settings::default()
    }
}

pub(crate) async fn run<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once_through_a_narrow_pipe() {
    const LENGTH: usize = 3_000_000;
    run(async {
        let (a, b) = pair(1_000);
        let stream = a.open(&open(), false).unwrap();
        let far = b.accept().await.unwrap();
        assert_eq!(far.open, open());
        far.stream.reply(&Reply::Accepted, false).unwrap();
        assert!(matches!(
            stream.receive().await,
            Ok(Item::Reply(Reply::Accepted))
        ));
        let echo = async {
            let mut pipe = Pipe::new(far.stream);
            let mut buffer = vec![0; 5_000];
            loop {
                let length = pipe.read(&mut buffer).await.unwrap();
                if length == 0 {
                    return pipe.shutdown().await.unwrap();
                }
                pipe.write_all(&buffer[..length]).await.unwrap();
            }
        };
        let sent: Bytes = (0..LENGTH)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let upload = async {
            stream.send(sent.clone()).await.unwrap();
            stream.finish(None).unwrap();
        };
        let receive = async {
            let mut received = BytesMut::new();
            loop {
                match stream.receive().await.unwrap() {
                    Item::Data(data) => received.extend_from_slice(&data),
                    Item::End(_) => return received.freeze(),
                    Item::Reply(_) => panic!("a second reply"),
                }
            }
        };
        let ((), (), received) = tokio::join!(echo, upload, receive);
        assert!(received == sent);
    })
    .await;
}

#[tokio::test]
async fn a_drained_link_refuses_new_streams_and_finishes_old_ones() {
    run(async {
        let (a, b) = pair(64_000);
        let stream = a.open(&open(), true).unwrap();
        let far = b.accept().await.unwrap();
        b.drain();
        assert!(b.is_leaving());
        a.left().await;
        far.stream.reply(&Reply::Accepted, true).unwrap();
        assert!(matches!(stream.receive().await, Ok(Item::Reply(_))));
        assert!(matches!(stream.receive().await, Ok(Item::End(None))));
        drop((stream, far));
        assert!(b.accept().await.is_none(), "the connection ends by itself");
        assert!(a.is_leaving());
        assert!(a.open(&open(), true).is_err());
    })
    .await;
}

#[tokio::test]
async fn who_leaves_hears_its_peer_to_the_end() {
    run(async {
        let (io, peer) = tokio::io::duplex(64_000);
        let link = Link::start(
            Plain::new(io),
            Side::Listener,
            Settings::default(),
            &plenty(),
        );
        link.drain();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let accept = link.accept();
        tokio::select! {
            biased;
            _ = accept => panic!("it has closed while its peer may be sending"),
            () = std::future::ready(()) => {}
        }
        drop(peer);
        assert!(link.accept().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_lost_peer_ends_every_stream_and_a_dropped_stream_tells_the_peer() {
    run(async {
        let (io, peer) = tokio::io::duplex(64_000);
        let link = Link::start(
            Plain::new(io),
            Side::Dialler,
            Settings::default(),
            &plenty(),
        );
        let stream = link.open(&open(), false).unwrap();
        tokio::task::yield_now().await;
        drop(peer);
        let lost = stream.receive().await.unwrap_err();
        assert_eq!(lost, StreamError::Lost);

        let (a, b) = pair(64_000);
        let stream = a.open(&open(), false).unwrap();
        let far = b.accept().await.unwrap();
        drop(stream);
        let told = far.stream.receive().await.unwrap_err();
        assert_eq!(told, StreamError::Reset(ResetCode::Cancelled));
    })
    .await;
}

#[tokio::test]
async fn who_dialled_takes_no_streams() {
    run(async {
        let (a, b) = pair(64_000);
        let stream = b.open(&open(), false).unwrap();
        let told = stream.receive().await.unwrap_err();
        assert_eq!(told, StreamError::Reset(ResetCode::Refused));
        assert!(!a.is_leaving());
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_has_arrived_counts_though_its_time_is_over() {
    run(async {
        // Who was stopped for a while finds the answer to its ping in the socket at the moment at
        // which its patience has ended.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let io = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let patience = std::time::Duration::from_millis(5);
        let settings = Settings {
            patience,
            ..Settings::default()
        };
        let link = Link::start(Plain::new(io), Side::Dialler, settings, &plenty());
        tokio::task::yield_now().await;

        let now = Instant::now();
        let mut bytes = BytesMut::new();
        let mut far = Connection::new(Side::Listener, Settings::default(), now);
        let mut near = Connection::new(Side::Dialler, Settings::default(), now);
        near.transmit(&mut bytes, usize::MAX);
        far.receive(&mut bytes, now).unwrap();
        far.transmit(&mut bytes, usize::MAX);
        std::io::Write::write_all(&mut peer, &bytes).unwrap();
        while now.elapsed() < 10 * patience {
            std::thread::yield_now();
        }
        while link.0.borrow().machine.peer().is_none() {
            tokio::task::yield_now().await;
            assert!(!link.is_leaving());
        }
    })
    .await;
}

#[tokio::test]
async fn more_callers_than_streams_wait_for_their_turn() {
    const CALLERS: usize = 300;
    run(async {
        let (a, b) = pair(64_000);
        let calls: Vec<_> = (0..CALLERS)
            .map(|_| {
                let link = a.clone();
                tokio::task::spawn_local(async move {
                    link.room().await;
                    let stream = link.open(&open(), true).unwrap();
                    matches!(stream.receive().await, Ok(Item::Reply(_)))
                })
            })
            .collect();
        for _ in 0..CALLERS {
            let far = b.accept().await.unwrap();
            far.stream.reply(&Reply::Accepted, true).unwrap();
        }
        for call in calls {
            assert!(call.await.unwrap());
        }
    })
    .await;
}

/// A link with as many streams as it takes, which has heard nothing of its peer.
fn full_link() -> (Link, Vec<Stream>, tokio::io::DuplexStream) {
    let (io, peer) = tokio::io::duplex(64_000);
    let link = Link::start(
        Plain::new(io),
        Side::Dialler,
        Settings::default(),
        &plenty(),
    );
    let streams = (0..LEAST_STREAMS).map(|_| link.open(&open(), false).unwrap());
    let streams = streams.collect();
    (link, streams, peer)
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_full_link_leaves_nothing_behind() {
    run(async {
        let (link, _streams, _peer) = full_link();
        let task = Arc::new(Idle);
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        for _ in 0..3 {
            let mut room = pin!(link.room());
            let mut told = pin!(link.takes_expectations());
            for _ in 0..3 {
                assert!(room.as_mut().poll(&mut context).is_pending());
                assert!(told.as_mut().poll(&mut context).is_pending());
            }
        }
        assert_eq!(Arc::strong_count(&task), 2, "the task and its own waker");
    })
    .await;
}

#[tokio::test]
async fn a_full_link_tells_what_its_peer_takes() {
    run(async {
        let (link, _streams, mut peer) = full_link();
        let told = link.clone();
        let told = tokio::task::spawn_local(async move { told.takes_expectations().await });
        tokio::task::yield_now().await;
        let mut far = Connection::new(Side::Listener, least(), Instant::now());
        let mut bytes = BytesMut::new();
        far.transmit(&mut bytes, usize::MAX);
        peer.write_all(&bytes).await.unwrap();
        assert!(within(told).await.unwrap());
        assert!(link.is_full());
    })
    .await;
}
