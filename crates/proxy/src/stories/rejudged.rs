//! What was allowed and is so no longer ends, also where it had begun before.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{LEAF_LIFETIME, TrustBundle};
use isthmus_model::AppProtocol::Tcp;
use isthmus_model::{Admission, Namespace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::HELLO;
use crate::testing::{
    ADMISSION, Facts, HOST, Issuer, Node, Scene, answering, program, read_head, run, within,
};

async fn echoing() -> std::net::SocketAddr {
    program(|mut socket| async move {
        let (mut read, mut write) = socket.split();
        // Whoever is cut off needs no answer.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

async fn tunnel(scene: &Scene) -> TcpStream {
    let mut socket = scene.client().await;
    let connect = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n");
    socket.write_all(connect.as_bytes()).await.unwrap();
    let head = within(read_head(&mut socket)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    say_and_hear(&mut socket).await;
    socket
}

async fn say_and_hear(socket: &mut TcpStream) {
    socket.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    within(socket.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"ping");
}

async fn is_cut(socket: &mut TcpStream) -> bool {
    let mut rest = [0; 1];
    matches!(within(socket.read(&mut rest)).await, Ok(0) | Err(_))
}

/// A tunnel across clusters ends when the callee learns `change`.
async fn is_cut_after(change: impl FnOnce(&mut Facts)) {
    let mut scene = Scene::stretched_speaking(Tcp, echoing().await);
    let mut socket = tunnel(&scene).await;
    let mut facts = scene.facts.clone();
    change(&mut facts);
    scene.callee.learn(&facts);
    assert!(is_cut(&mut socket).await);
}

#[test]
fn a_connection_ends_when_its_service_is_no_longer_exported() {
    run(async {
        is_cut_after(|facts| facts.service.exported = false).await;
    });
}

#[test]
fn a_session_ends_when_its_cluster_loses_the_namespace() {
    run(async {
        is_cut_after(|facts| {
            let other = Namespace::new("other").unwrap();
            facts.clusters[0].cluster.namespaces = Some(vec![other]);
        })
        .await;
    });
}

#[test]
fn a_session_ends_when_its_other_end_is_revoked() {
    run(async {
        is_cut_after(|facts| facts.clusters[0].revoked = [ADMISSION].into()).await;
    });
    run(async {
        let mut scene = Scene::stretched_speaking(Tcp, echoing().await);
        let mut socket = tunnel(&scene).await;
        let mut facts = scene.facts.clone();
        // Somebody else who was admitted there concerns nobody here.
        let other = Admission([0; 8]);
        for cluster in &mut facts.clusters {
            cluster.revoked = [other].into();
        }
        scene.caller.learn(&facts);
        say_and_hear(&mut socket).await;
        for cluster in &mut facts.clusters {
            cluster.revoked.insert(ADMISSION);
        }
        scene.caller.learn(&facts);
        assert!(is_cut(&mut socket).await);
        let refused = scene.caller.metrics.encode();
        assert!(
            refused.contains("isthmus_tls_refused_total{reason=\"revoked\"} 2"),
            "{refused}"
        );
    });
}

/// Also when whoever has dialled knows nothing of the service for now.
#[test]
fn a_session_ends_when_its_cluster_is_of_the_mesh_no_more() {
    for forgets_service in [false, true] {
        run(async move {
            let mut scene = Scene::stretched_speaking(Tcp, echoing().await);
            let mut socket = tunnel(&scene).await;
            let mut facts = scene.facts.clone();
            let own = scene.caller.worker.common.me.cluster.clone();
            facts.clusters.retain(|view| view.cluster.name == own);
            if forgets_service {
                facts.service.name.name = "another".parse().unwrap();
            }
            scene.caller.learn(&facts);
            assert!(is_cut(&mut socket).await);
        });
    }
}

#[test]
fn a_session_ends_when_the_callee_is_not_trusted_any_more() {
    run(async {
        let scene = Scene::stretched_speaking(Tcp, echoing().await);
        let mut socket = tunnel(&scene).await;
        let other = Issuer::new().workload(&scene.caller.worker.common.me.cluster, "frontend");
        let bundle = other.trust.load();
        let trust = &scene.caller.worker.common.me.trust;
        trust.replace((*bundle).clone());
        assert!(is_cut(&mut socket).await);
        let refused = scene.caller.metrics.encode();
        assert!(
            refused.contains("isthmus_tls_refused_total{reason="),
            "{refused}"
        );
    });
}

/// Has the node judge its sessions as it would at `now`.
fn judge(node: &Node, now: SystemTime) {
    let worker = &node.worker;
    let (view, trust) = (
        worker.common.view.load_full(),
        worker.common.me.trust.load(),
    );
    worker.sessions.judge(&view, &trust, &node.metrics, now);
}

/// Whichever side notices: what runs goes on, and what is new goes elsewhere, before the certificate
/// ends and takes everything on the session with it.
#[test]
fn a_session_is_left_before_its_certificate_ends() {
    for callee_notices in [false, true] {
        run(async move {
            let scene = Scene::local_speaking(Tcp, echoing().await);
            let mut old = tunnel(&scene).await;
            let node = if callee_notices {
                &scene.callee
            } else {
                &scene.caller
            };
            let sessions = || scene.caller.worker.sessions.leaving();
            let now = SystemTime::now();
            for before in [LEAF_LIFETIME, Duration::from_mins(11)] {
                judge(node, now + LEAF_LIFETIME - before);
                say_and_hear(&mut old).await;
                assert_eq!(sessions(), (1, 0));
            }
            judge(node, now + LEAF_LIFETIME - Duration::from_mins(9));
            say_and_hear(&mut old).await;
            assert_eq!(sessions(), (1, 1));
            let mut new = tunnel(&scene).await;
            assert_eq!(sessions(), (2, 1));
            say_and_hear(&mut old).await;
            say_and_hear(&mut new).await;
        });
    }
}

/// While one root takes the place of another: nothing is cut, and by the end nothing rests on the old one.
#[test]
fn a_session_is_left_when_its_root_is_to_go() {
    run(async {
        let scene = Scene::local_speaking(Tcp, echoing().await);
        let me = &scene.caller.worker.common.me;
        let other = Issuer::new().workload(&me.cluster, "frontend");
        let (old, new) = (me.trust.load().to_pem(), other.trust.load().to_pem());
        let trust = |roots: String| {
            me.trust.replace(TrustBundle::from_pem(&roots).unwrap());
            judge(&scene.caller, SystemTime::now());
            scene.caller.worker.sessions.leaving()
        };
        let mut before = tunnel(&scene).await;
        assert_eq!(trust(format!("{old}{new}")), (1, 0), "both count");
        say_and_hear(&mut before).await;
        assert_eq!(trust(format!("{new}{old}")), (1, 1), "the new one stays");
        say_and_hear(&mut before).await;
        let mut after = tunnel(&scene).await;
        judge(&scene.caller, SystemTime::now());
        assert_eq!(
            scene.caller.worker.sessions.leaving(),
            (2, 1),
            "the callee has no other certificate yet"
        );
        say_and_hear(&mut after).await;
        assert_eq!(trust(new), (0, 0));
        assert!(is_cut(&mut before).await && is_cut(&mut after).await);
    });
}

#[test]
fn a_change_that_concerns_nobody_ends_nothing() {
    run(async {
        let mut scene = Scene::stretched_speaking(Tcp, echoing().await);
        let mut socket = tunnel(&scene).await;
        let facts = scene.facts.clone();
        for _ in 0..3 {
            scene.callee.learn(&facts);
            say_and_hear(&mut socket).await;
        }
    });
}

#[test]
fn who_judges_rests_where_nothing_will_be_published_any_more() {
    run(async {
        let scene = Scene::local(answering(HELLO).await);
        let Node { worker, view, .. } = scene.caller;
        drop(view);
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let mut judging = Box::pin(worker.keep_judging());
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            judging.as_mut().poll(cx)
        }));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!((1..10).contains(&polls.get()), "{} times", polls.get());
    });
}
