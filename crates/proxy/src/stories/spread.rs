//! How requests are spread over several workloads, as a policy says.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use isthmus_model::AppProtocol::Http2;
use isthmus_model::{
    Algorithm, Backend, HashOn, ObjectName, PathMatch, Route, RouteMatch, RouteRule, ServiceName,
    Subset, Target,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::get;
use super::http2::{call, h2_client, h2_program};
use crate::testing::crowd::{named, version, who};
use crate::testing::{HOST, Scene, read_head, run, within};

const OK: &str = "200 OK";

/// Programs 0 to `count - 1` that answer at once, each behind a workload of its own.
async fn crowd(make: fn(std::net::SocketAddr) -> Scene, count: usize) -> Scene {
    let at_once = |_| async { OK };
    let mut scene = make(named(0, at_once).await);
    for number in 1..count {
        scene.join(named(number, at_once).await);
    }
    scene.publish();
    scene
}

fn balance(scene: &mut Scene, algorithm: Algorithm, hash_on: Option<HashOn>) {
    let set = |policy: &mut isthmus_model::TrafficPolicy| {
        policy.algorithm = Some(algorithm);
        policy.hash_on = hash_on;
    };
    scene.decree(set, |_| ());
}

/// One more request on a connection that stays: which program answers it.
async fn next(client: &mut TcpStream, field: &str) -> usize {
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{field}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    who(&within(read_head(client)).await)
}

/// How many of `requests` on one connection each program gets.
async fn spread(scene: &Scene, requests: usize) -> BTreeMap<usize, usize> {
    let mut client = scene.client().await;
    let mut seen = BTreeMap::new();
    for _ in 0..requests {
        *seen.entry(next(&mut client, "").await).or_default() += 1;
    }
    seen
}

#[test]
fn turns_are_taken_by_requests_not_by_connections() {
    run(async {
        let mut scene = crowd(Scene::local, 3).await;
        balance(&mut scene, Algorithm::RoundRobin, None);
        assert_eq!(spread(&scene, 30).await, [(0, 10), (1, 10), (2, 10)].into());
    });
}

#[test]
fn each_call_of_one_connection_goes_its_own_way() {
    run(async {
        let answering = |who: usize| {
            h2_program(move |_, mut respond| async move {
                let reply = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "0")
                    .header("x-who", who);
                respond
                    .send_response(reply.body(()).unwrap(), true)
                    .unwrap();
            })
        };
        for (make, calls) in [
            (Scene::local_speaking as fn(_, _) -> _, 30),
            // Tunnels are opened while calls pass.
            (Scene::stretched_speaking, 500),
        ] {
            let mut scene: Scene = make(Http2, answering(0).await);
            for number in 1..3 {
                scene.join(answering(number).await);
            }
            balance(&mut scene, Algorithm::RoundRobin, None);
            let mut client = h2_client(&scene).await;
            let mut seen = BTreeMap::<_, u32>::new();
            for _ in 0..calls {
                client = client.ready().await.unwrap();
                let (reply, _) = client.send_request(call(None), true).unwrap();
                let reply = within(reply).await.unwrap();
                *seen.entry(reply.headers()["x-who"].clone()).or_default() += 1;
            }
            assert_eq!(seen.len(), 3, "{seen:?}");
            if calls == 30 {
                assert!(seen.values().all(|count| *count == 10), "{seen:?}");
            }
        }
    });
}

#[test]
fn who_has_requests_under_way_gets_fewer() {
    run(async {
        for algorithm in [Algorithm::LeastRequest, Algorithm::PeakEwma] {
            let go_on = Rc::new(Notify::new());
            let began = Rc::new(Notify::new());
            let program = |number| {
                let (go_on, began) = (Rc::clone(&go_on), Rc::clone(&began));
                named(number, move |head| {
                    let (go_on, began) = (Rc::clone(&go_on), Rc::clone(&began));
                    async move {
                        if head.starts_with("GET /held ") {
                            began.notify_one();
                            go_on.notified().await;
                        }
                        OK
                    }
                })
            };
            let mut scene = Scene::local(program(0).await);
            scene.join(program(1).await);
            balance(&mut scene, algorithm, None);
            let held = get("/held");
            let holding = scene.ask(&held);
            let asking = async {
                within(began.notified()).await;
                let seen = spread(&scene, 40).await;
                go_on.notify_one();
                seen
            };
            let (held, seen) = tokio::join!(holding, asking);
            let other = 1 - who(&held);
            assert_eq!(seen, [(other, 40)].into(), "{algorithm:?}");
        }
    });
}

/// How long a slow program takes: so much longer than the others that a machine which holds one of
/// those up for a moment does not make the slow one the faster of the two.
const SLOW: Duration = Duration::from_millis(400);

/// A program that answers at once, and one that takes its time.
async fn fast_and_slow(algorithm: Algorithm) -> Scene {
    let mut scene = Scene::local(named(0, |_| async { OK }).await);
    let slow = named(1, |_| async {
        tokio::time::sleep(SLOW).await;
        OK
    });
    scene.join(slow.await);
    balance(&mut scene, algorithm, None);
    scene
}

#[test]
fn who_takes_longer_gets_fewer_where_latency_counts() {
    run(async {
        let scene = fast_and_slow(Algorithm::PeakEwma).await;
        let seen = spread(&scene, 40).await;
        // It is one or two, and six or seven where the machine has held the other up for longer than this one
        // takes: until that is forgotten. Where latency does not count it is half.
        assert!(seen.get(&1).is_none_or(|slow| *slow <= 10), "{seen:?}");
    });
}

#[test]
fn who_takes_longer_gets_as_many_where_latency_does_not_count() {
    run(async {
        let scene = fast_and_slow(Algorithm::LeastRequest).await;
        let mut client = scene.client().await;
        // Each of two with nothing under way is as likely as the other.
        let mut fast_in_a_row = 0;
        let mut slow = 0;
        while slow < 5 {
            fast_in_a_row = match next(&mut client, "").await {
                0 => fast_in_a_row + 1,
                _ => 0,
            };
            slow += usize::from(fast_in_a_row == 0);
            assert!(fast_in_a_row < 20, "{slow} have gone to the slow one");
        }
    });
}

/// Whom requests with each of 60 keys go to, in the order of the keys.
async fn owners(scene: &Scene, field: impl Fn(usize) -> String) -> Vec<usize> {
    let mut client = scene.client().await;
    let mut owners = Vec::new();
    for key in 0..60 {
        owners.push(next(&mut client, &field(key)).await);
    }
    owners
}

#[test]
fn the_same_key_stays_with_its_workload_when_others_go() {
    run(async {
        let user = |key: usize| format!("x-user: {key}\r\n");
        let session = |key: usize| format!("cookie: a=b; session={key}; c=d\r\n");
        let on_header = || HashOn::Header("x-user".parse().unwrap());
        let on_cookie = || HashOn::Cookie {
            name: "session".parse().unwrap(),
            ttl: None,
        };
        for (algorithm, hash_on, field, may_move) in [
            (
                Algorithm::RingHash,
                on_header(),
                &user as &dyn Fn(usize) -> String,
                0,
            ),
            (Algorithm::Maglev, on_header(), &user, 3),
            (Algorithm::RingHash, on_cookie(), &session, 0),
            (Algorithm::Maglev, on_cookie(), &session, 3),
        ] {
            let mut scene = crowd(Scene::local, 4).await;
            balance(&mut scene, algorithm, Some(hash_on));
            let before = owners(&scene, field).await;
            for number in 0..4 {
                let share = before.iter().filter(|owner| **owner == number).count();
                assert!(share >= 5, "{algorithm:?}: {number} has {share} of 60");
            }
            // One of them for a while.
            let mut client = scene.client().await;
            for _ in 0..200 {
                assert_eq!(next(&mut client, &field(7)).await, before[7]);
            }
            let gone = (before[7] + 1) % 4;
            scene.facts.workloads.remove(gone);
            scene.publish();
            let after = owners(&scene, field).await;
            assert!(!after.contains(&gone), "{algorithm:?}: {after:?}");
            let moved = |(before, after): &(&usize, &usize)| **before != gone && before != after;
            let moved = before.iter().zip(&after).filter(moved).count();
            assert!(moved <= may_move, "{algorithm:?}: {moved} of 60 have moved");
        }
    });
}

#[test]
fn a_client_without_a_cookie_is_given_one_and_stays_where_it_was() {
    run(async {
        for make in [Scene::local as fn(_) -> _, Scene::stretched] {
            let mut scene = crowd(make, 4).await;
            let on_cookie = |ttl| HashOn::Cookie {
                name: "session".parse().unwrap(),
                ttl,
            };
            let hour = Some(Duration::from_hours(1));
            balance(&mut scene, Algorithm::RingHash, Some(on_cookie(hour)));
            let mut clients = BTreeMap::<_, u32>::new();
            for _ in 0..40 {
                let reply = scene.ask(&get("/")).await;
                let (_, cookie) = reply.split_once("set-cookie: session=").unwrap();
                let (value, rest) = cookie.split_once(';').unwrap();
                assert!(
                    rest.starts_with(" Max-Age=3600; Path=/; HttpOnly\r\n"),
                    "{reply}"
                );
                let field = format!("\r\ncookie: session={value}\r\n\r\n");
                let again = scene.ask(&get("/").replace("\r\n\r\n", &field)).await;
                assert!(!again.contains("set-cookie"), "{again}");
                if scene.gateway.is_none() {
                    assert_eq!(who(&again), who(&reply));
                }
                *clients.entry(who(&reply)).or_default() += 1;
            }
            assert!(scene.gateway.is_some() || clients.len() == 4, "{clients:?}");
            balance(&mut scene, Algorithm::RingHash, Some(on_cookie(None)));
            assert!(!scene.ask(&get("/")).await.contains("set-cookie"));
        }
    });
}

#[test]
fn what_one_caller_asks_goes_to_one_workload() {
    run(async {
        for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
            let mut scene = crowd(Scene::local, 4).await;
            balance(&mut scene, algorithm, Some(HashOn::Source));
            let seen = spread(&scene, 200).await;
            assert_eq!(seen.len(), 1, "{algorithm:?}: {seen:?}");
        }
    });
}

#[test]
fn a_workload_that_joins_others_starts_slowly() {
    run(async {
        let mut scene = crowd(Scene::local, 2).await;
        balance(&mut scene, Algorithm::RoundRobin, None);
        assert_eq!(spread(&scene, 20).await, [(0, 10), (1, 10)].into());
        scene.join(named(2, |_| async { OK }).await);
        scene.publish();
        let seen = spread(&scene, 150).await;
        let new = seen.get(&2).copied().unwrap_or_default();
        assert!(new > 0 && 2 * new < seen[&0].min(seen[&1]), "{seen:?}");
    });
}

/// The algorithm of one route must not depend on what was asked by another before.
#[test]
fn two_routes_to_the_same_workloads_may_choose_differently() {
    run(async {
        let mut scene = crowd(Scene::local, 4).await;
        scene.facts.routes = vec![route("hashed", "/hashed", &[]), route("rest", "", &[])];
        let hash_on = HashOn::Header("x-user".parse().unwrap());
        scene.decree(
            |policy| {
                policy.algorithm = Some(Algorithm::RingHash);
                policy.hash_on = Some(hash_on);
                policy.targets = vec![Target::Route {
                    namespace: policy.namespace.clone(),
                    name: ObjectName::new("hashed").unwrap(),
                }];
            },
            |_| (),
        );
        for first in ["/", "/hashed"] {
            scene.publish();
            let _ = who(&scene.ask(&get(first)).await);
            for (path, expect) in [("/hashed", 1..=1), ("/", 2..=4)] {
                let request = get(path).replace("\r\n\r\n", "\r\nx-user: 7\r\n\r\n");
                let mut seen = BTreeSet::new();
                for _ in 0..60 {
                    seen.insert(who(&scene.ask(&request).await));
                }
                assert!(expect.contains(&seen.len()), "{first}, {path}: {seen:?}");
            }
        }
    });
}

fn weighted(parts: &[(&str, u32)]) -> Route {
    let backend = |(label, weight): &(&str, u32)| Backend {
        service: ServiceName::new("shop", "cart").unwrap(),
        port: None,
        subset: Subset(version(label)),
        weight: *weight,
    };
    let backends: Vec<Backend> = parts.iter().map(backend).collect();
    route("canary", "", &backends)
}

/// `backends`: none for the service itself, all of it.
fn route(name: &str, prefix: &str, backends: &[Backend]) -> Route {
    let below = RouteMatch {
        path: PathMatch::Prefix(prefix.to_owned()),
        method: None,
        headers: Vec::new(),
    };
    let service = ServiceName::new("shop", "cart").unwrap();
    let whole = Backend {
        service: service.clone(),
        port: None,
        subset: Subset::default(),
        weight: 1,
    };
    Route {
        origin: isthmus_model::Origin::Mesh,
        namespace: service.namespace.clone(),
        name: ObjectName::new(name).unwrap(),
        parents: vec![(service.clone(), None)],
        rules: vec![RouteRule {
            name: None,
            matches: vec![below],
            backends: if backends.is_empty() {
                vec![whole]
            } else {
                backends.to_vec()
            },
            request_timeout: None,
            backend_timeout: None,
        }],
    }
}

#[test]
fn a_route_divides_requests_among_subsets() {
    run(async {
        for make in [Scene::local as fn(_) -> _, Scene::stretched] {
            let mut scene = crowd(make, 3).await;
            for (workload, label) in scene.facts.workloads.iter_mut().zip(["v1", "v1", "v2"]) {
                workload.labels = version(label);
            }
            scene.facts.routes = vec![weighted(&[("v1", 80), ("v2", 20)])];
            scene.publish();
            let seen = spread(&scene, 400).await;
            // 80 are to be expected; six times what they deviate by is 48.
            let canary = seen.get(&2).copied().unwrap_or_default();
            assert!((32..=128).contains(&canary), "{seen:?}");
            scene.facts.routes = vec![weighted(&[("v1", 1), ("v2", 0)])];
            scene.publish();
            assert_eq!(spread(&scene, 40).await.get(&2), None);
        }
    });
}
