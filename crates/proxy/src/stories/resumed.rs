//! Links that are dialled anew go on with the session that they had, and are judged like any other.

use std::time::{Duration, Instant};

use isthmus_model::Namespace;
use isthmus_telemetry::Metrics;
use tokio::task::yield_now;

use super::{HELLO, get};
use crate::testing::{ADMISSION, Facts, Scene, answering, run, within};

/// Sessions of the two kinds: full handshakes, and those that were resumed.
fn sessions(metrics: &Metrics) -> (u32, u32) {
    let text = metrics.encode();
    let count = |kind: &str| {
        let name = format!("isthmus_tls_handshakes_total{{kind=\"{kind}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().unwrap())
    };
    (count("full"), count("resumed"))
}

/// The caller closes its links, all of them.
async fn part(scene: &Scene) {
    let worker = &scene.caller.worker;
    let closed = async {
        while worker.sessions.leaving() != (0, 0) {
            worker.reach.tidy(Duration::ZERO, Instant::now());
            let none = Duration::ZERO;
            worker.destinations.tidy(none, none, Instant::now());
            yield_now().await;
        }
    };
    within(closed).await;
}

#[test]
fn a_link_that_is_dialled_anew_resumes_its_session() {
    for is_stretched in [false, true] {
        run(async move {
            let program = answering(HELLO).await;
            // The session with the gateway is one more.
            let (scene, each) = if is_stretched {
                (Scene::stretched(program), 2)
            } else {
                (Scene::local(program), 1)
            };
            for resumed in 0..4 {
                assert!(scene.ask(&get("/")).await.ends_with("hello"));
                let seen = sessions(&scene.caller.metrics);
                assert_eq!(seen, (each, resumed * each));
                part(&scene).await;
            }
            assert_eq!(sessions(&scene.callee.metrics), (1, 3));
        });
    }
}

#[test]
fn who_may_no_longer_call_gains_nothing_by_a_ticket() {
    let ungranted = |facts: &mut Facts| {
        let other = Namespace::new("other").unwrap();
        facts.clusters[0].cluster.namespaces = Some(vec![other]);
    };
    let revoked = |facts: &mut Facts| facts.clusters[0].revoked = [ADMISSION].into();
    let reasons = ["namespace-not-granted", "revoked"];
    for (reason, change) in reasons
        .into_iter()
        .zip([ungranted, revoked as fn(&mut Facts)])
    {
        run(async move {
            let mut scene = Scene::local(answering(HELLO).await);
            assert!(scene.ask(&get("/")).await.ends_with("hello"));
            part(&scene).await;
            let mut facts = scene.facts.clone();
            change(&mut facts);
            scene.callee.learn(&facts);
            let reply = scene.ask(&get("/")).await;
            assert!(reply.starts_with("HTTP/1.1 50"), "{reply}");
            let refused = scene.callee.metrics.encode();
            let counted = format!("isthmus_tls_refused_total{{reason=\"{reason}\"}}");
            assert!(refused.contains(&counted), "{refused}");
            assert_eq!(sessions(&scene.callee.metrics).1, 1);
        });
    }
}
