//! What one hop tells the next, and what follows from it there.

use std::time::Instant;

use isthmus_model::{Gateway, Percent, TrafficSettings};
use tokio::net::TcpListener;

use super::{HELLO, get};
use crate::testing::{Scene, answering, run};

#[test]
fn who_is_asked_again_and_again_asks_others_again_the_less() {
    run(async {
        let failing = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let percent = TrafficSettings::default().retry.budget;
        let left = |scene: &Scene, percent: Percent| {
            let service = &scene.facts.service.name;
            let now = Instant::now();
            let budget = scene.callee.worker.destinations.budget(service, now);
            budget.borrow().share(percent)
        };
        for (reply, spares) in [(HELLO, false), (failing, true)] {
            let scene = Scene::stretched(answering(reply).await);
            let before = left(&scene, percent);
            for _ in 0..200 {
                scene.ask(&get("/")).await;
            }
            assert_eq!(left(&scene, percent) < before, spares, "{reply}");
        }
    });
}

#[test]
fn a_gateway_that_is_gone_is_no_fault_of_the_service() {
    run(async {
        for dead_first in [true, false] {
            let mut scene = Scene::stretched(answering(HELLO).await);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let dead = Gateway {
                name: "gateway-0".to_owned(),
                address: listener.local_addr().unwrap(),
                healthy: true,
            };
            drop(listener);
            let gateways = &mut scene.seen_by_caller.clusters[1].gateways;
            let at = if dead_first { 0 } else { gateways.len() };
            gateways.insert(at, dead);
            scene.publish();
            let asking = get("/").replace("\r\n\r\n", "\r\nx-isthmus-tell: 1\r\n\r\n");
            let reply = scene.ask(&asking).await;
            assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
            assert!(reply.contains("x-isthmus-attempts: 1\r\n"), "{reply}");
            assert!(
                reply.contains("x-isthmus-candidates: east 1/1\r\n"),
                "{reply}"
            );
        }
    });
}
