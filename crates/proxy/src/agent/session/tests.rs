mod strangers;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_world::Snapshot;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::health::Judge;
use crate::testing::{Issuer, cluster, config, sidecar, within};

/// What an agent has around it.
struct Around {
    state: TempDir,
    report: watch::Sender<Report>,
    status: watch::Receiver<Status>,
    wanted: mpsc::Sender<ServiceName>,
    leaving: watch::Sender<bool>,
    _questions: mpsc::Receiver<Asked>,
    _view: Snapshot<View>,
}

fn vault(state: &TempDir) -> Vault {
    Vault::new(state.path(), "test".to_owned()).unwrap()
}

/// The agent of a proxy that only calls, and what it may reach of a control plane.
async fn agent() -> (Agent, Around, TcpListener) {
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let west = cluster("west");
    let mut config = config(&west, sidecar("frontend", None, [127, 0, 0, 1].into()));
    config.control = vec![control.local_addr().unwrap()];
    let me = Issuer::new().workload(&west, "frontend");
    let joined = Joined {
        identity: me.identity,
        leaf: me.leaf,
        trust: me.trust,
        node_key: [7; 32],
        renew_after: Duration::from_hours(1),
    };
    let state = tempfile::tempdir().unwrap();
    let mut own = vault(&state);
    own.claim();
    let (report, reported) = watch::channel(Report {
        found: Judge::new().found().clone(),
        looked: true,
        draining: false,
        silent: false,
    });
    let (status_sender, status) = watch::channel(Status::default());
    let (view_writer, view) = Snapshot::new(View::empty(west));
    let (wanted, wanted_receiver) = mpsc::channel(256);
    let (asker, questions) = mpsc::channel(1);
    let agent = Agent::new(
        Arc::new(config),
        joined,
        own,
        Arc::new(Metrics::new("test", 1)),
        view_writer,
        status_sender,
        reported,
        wanted_receiver,
        asker,
        RealChance::new().unwrap(),
    );
    let around = Around {
        state,
        report,
        status,
        wanted,
        leaving: watch::Sender::new(false),
        _questions: questions,
        _view: view,
    };
    (agent, around, control)
}

#[tokio::test]
async fn calls_of_services_that_are_not_known_hasten_no_try_at_a_control_plane_that_is_gone() {
    let (agent, around, control) = agent().await;
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    tokio::spawn(async move {
        while control.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::spawn(agent.run(around.leaving.subscribe()));
    for number in 0..100 {
        let service = ServiceName::new("shop", &format!("service-{number}")).unwrap();
        around.wanted.send(service).await.unwrap();
    }
    within(async {
        while around.wanted.capacity() < around.wanted.max_capacity() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let tries = tries.load(Ordering::Relaxed);
    assert!((1..10).contains(&tries), "{tries} tries");
}

#[tokio::test]
async fn only_a_control_plane_that_pushes_ends_the_backoff() {
    let (mut agent, _around, _control) = agent().await;
    agent.again.pause();
    let welcome = to_proxy::Message::Welcome(proto::Welcome::default());
    let push = to_proxy::Message::Push(proto::Push::default());
    for (message, is_fresh) in [(welcome, false), (push, true)] {
        let message = Some(message);
        let _ = agent.on_message(ToProxy { message });
        assert_eq!(agent.again.is_fresh(), is_fresh);
    }
}

#[tokio::test]
async fn who_is_asked_to_renew_does_so_soon_and_never_later_than_else() {
    let (mut agent, _around, _control) = agent().await;
    let usual = agent.renew_at;
    let mut ask = |after_ms| {
        let message = Some(to_proxy::Message::Renew(proto::Renew { after_ms }));
        assert!(agent.on_message(ToProxy { message }).is_none());
        agent.renew_at
    };
    assert_eq!(ask(u32::MAX), usual);
    let begin = SystemTime::now();
    let at = ask(10);
    assert!(
        at >= begin + Duration::from_millis(10) && at < usual,
        "{at:?}"
    );
    assert_eq!(ask(100_000), at);
}

#[tokio::test]
async fn a_process_falls_silent_while_it_connects() {
    let (agent, mut around, control) = agent().await;
    tokio::spawn(agent.run(around.leaving.subscribe()));
    let (mut socket, _) = within(control.accept()).await.unwrap();
    around.report.send_modify(|report| report.silent = true);
    let mut said = Vec::new();
    tokio::select! {
        biased;
        _ = socket.read_to_end(&mut said) => panic!("it has given up to connect before"),
        silent = within(around.status.wait_for(|status| status.silent)) => drop(silent.unwrap()),
    }
    assert!(vault(&around.state).claim(), "it may still write");
}

/// Such as that its program is healthy, just after it was introduced as one that is not yet.
#[tokio::test]
async fn what_is_reported_while_it_waits_for_its_control_plane_is_told_after_that() {
    let (mut agent, around, _control) = agent().await;
    agent.introduction();
    let report = &around.report;
    let answer = async {
        report.send_modify(|report| report.looked = false);
        tokio::task::yield_now().await;
    };
    agent.listening(answer).await;
    assert!(agent.report.has_changed().unwrap());
}

#[tokio::test]
async fn what_is_heard_between_streams_is_heard_by_the_next_one() {
    let (mut agent, around, _control) = agent().await;
    // As when the word comes just as a connection stands.
    around.report.send_modify(|report| report.silent = true);
    assert!(agent.introduction().is_none());
    assert!(around.status.borrow().silent);
    assert!(vault(&around.state).claim(), "it may still write");
}

#[tokio::test]
async fn the_view_is_written_once_the_process_before_has_stopped_to() {
    let (mut agent, around, _control) = agent().await;
    agent.vault.release();
    let mut before = vault(&around.state);
    assert!(before.claim());
    agent.keep_or_later();
    assert!(agent.keep_at.is_some());
    drop(before);
    agent.keep_or_later();
    assert_eq!(agent.keep_at, None);
    let identity = agent.joined.identity.to_string();
    let kept = vault(&around.state).view(&[7; 32], &identity).unwrap();
    assert!(kept.is_some());
}
