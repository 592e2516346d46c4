//! What `make counts` counts of each phase of the request path, as it is carried out here.

use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_balance::{Outcome, Told, Verdict};
use isthmus_codec::Fields;
use isthmus_codec::message::Context;
use isthmus_model::{
    Backend, Handle, HeaderMatch, HeaderName, Namespace, ObjectName, PathMatch, Route, RouteMatch,
    RouteRule, ServiceName, Subset, Workload,
};
use isthmus_route::{RequestView, Rule};

use super::call::Call;
use super::connect::connect;
use super::decided::{Decided, decide_backend, find_port, find_rule, find_service, pick_backend};
use super::request::HeaderView;
use super::settle::{Avoided, Settle, consider};
use crate::destination::Destination;
use crate::gate::Gates;
use crate::memory::REQUEST;
use crate::names::{Named, Names};
use crate::testing::counts::{Thread, count};
use crate::testing::{Facts, Scene, answering, cluster};
use crate::view::Seen;
use crate::worker::Worker;

/// A number that would be drawn.
const DRAW: u64 = 0x9e37_79b9_7f4a_7c15;

fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

/// As a short request has them.
fn fields() -> Fields {
    let mut fields = Fields::new();
    for (name, value) in [
        ("user-agent", "curl/8.14.1"),
        ("accept", "*/*"),
        ("x-version", "7"),
        ("x-request-id", "0f4a1c3e-9b1d-4c53-8a57-2f7d6be01c11"),
    ] {
        fields.push(name, value).unwrap();
    }
    fields
}

/// A proxy before which requests stand that call cart.
struct Caller {
    thread: Thread,
    scene: Scene,
    view: Rc<Seen>,
}

impl Caller {
    /// With what `change` makes of the facts.
    fn seeing(change: impl FnOnce(&mut Facts)) -> Self {
        let thread = Thread::new();
        let scene = thread.scene(async {
            let program = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let mut scene = Scene::local(program);
            change(&mut scene.facts);
            scene
        });
        let view = Seen::hold(scene.caller.worker.common.view.load_full());
        Self {
            thread,
            scene,
            view,
        }
    }

    fn worker(&self) -> &Rc<Worker> {
        &self.scene.caller.worker
    }

    /// The rule that a request matches, and the backend that is drawn.
    fn route(&self, fields: &Fields) -> (&Rule, &Backend) {
        let called = find_service(&self.view, &cart()).unwrap();
        let port = find_port(called, None).unwrap();
        let request = RequestView {
            method: "GET",
            path: "/cart/7",
            headers: &HeaderView(fields),
        };
        let rule = find_rule(called, port, &request).unwrap();
        (rule, pick_backend(rule, DRAW).unwrap())
    }

    fn authorize(&self, rule: &Rule, backend: &Backend) -> Decided {
        let settings = find_service(&self.view, &cart()).unwrap().settings(rule);
        let view = Rc::clone(&self.view);
        decide_backend(self.worker(), view, &cart(), backend, 80, settings, DRAW).unwrap()
    }

    fn decided(&self) -> (Decided, Rc<Destination>) {
        let (rule, backend) = self.route(&fields());
        let decided = self.authorize(rule, backend);
        let destination = self.worker().destinations.find(&decided.key);
        (decided, destination)
    }
}

#[test]
fn detect() {
    let names = Names::default();
    let found = count(|| names.detect(b"cart.shop.mesh:80").unwrap());
    assert!(matches!(found, Named::Service(service, Some(80)) if service == cart()));
}

/// Rules for `/page/0` to `/page/8`, and one for `/cart` with `x-version: 7`.
fn ten_rules(facts: &mut Facts) {
    let rule = |path: String, header: Option<(&str, &str)>| RouteRule {
        name: None,
        matches: vec![RouteMatch {
            path: PathMatch::Prefix(path),
            method: None,
            headers: header
                .map(|(name, value)| HeaderMatch {
                    name: HeaderName::new(name).unwrap(),
                    value: value.to_owned(),
                })
                .into_iter()
                .collect(),
        }],
        backends: vec![
            Backend {
                service: cart(),
                port: None,
                subset: Subset::default(),
                weight: 1,
            };
            2
        ],
        request_timeout: None,
        backend_timeout: None,
    };
    let mut rules: Vec<_> = (0..9)
        .map(|page| rule(format!("/page/{page}"), None))
        .collect();
    rules.push(rule("/cart".to_owned(), Some(("x-version", "7"))));
    facts.routes.push(Route {
        origin: isthmus_model::Origin::Mesh,
        namespace: Namespace::new("shop").unwrap(),
        name: ObjectName::new("pages").unwrap(),
        parents: vec![(cart(), None)],
        rules,
    });
}

#[test]
fn route_without_rules() {
    let (caller, fields) = (Caller::seeing(|_| {}), fields());
    let (rule, backend) = count(|| caller.route(&fields));
    assert_eq!((rule.route(), &backend.service), (None, &cart()));
}

#[test]
fn route_by_the_last_of_ten_rules() {
    let (caller, fields) = (Caller::seeing(ten_rules), fields());
    let (rule, _) = count(|| caller.route(&fields));
    assert_eq!(rule.index(), 9);
}

#[test]
fn authorize() {
    let caller = Caller::seeing(|_| {});
    let (rule, backend) = caller.route(&fields());
    let decided = count(|| caller.authorize(rule, backend));
    assert_eq!(decided.permit.service(), &cart());
}

#[test]
fn admit() {
    let caller = Caller::seeing(|_| {});
    let memory = &caller.worker().memory;
    let context = Context::default();
    let gate = Gates::default().of(8080);
    let busy = count(|| {
        let _room = memory.admit(REQUEST).unwrap();
        let mut pass = caller.thread.run(gate.enter(&context)).ok().unwrap();
        pass.replied(200)
    });
    assert!(busy.utilisation.permille() <= 1000);
}

/// Picks among as many workloads.
fn count_picks(workloads: usize) {
    let caller = Caller::seeing(|facts| {
        let first = facts.workloads[0].clone();
        facts.workloads = (0..workloads)
            .map(|number| Workload {
                handle: Handle::new(&format!("cart-{number}")),
                ..first.clone()
            })
            .collect();
    });
    let (decided, destination) = caller.decided();
    let (avoided, now) = (Avoided::default(), Instant::now());
    let picked = count(|| {
        let decision = consider(&destination, &decided, &avoided, now).unwrap();
        let cluster = &decision.chosen().unwrap().share.cluster;
        let algorithm = decided.settings.algorithm;
        destination.pick_workload(cluster, algorithm, None, &[], now, DRAW)
    });
    assert!(picked.is_some());
}

#[test]
fn pick_one_of_two() {
    count_picks(2);
}

#[test]
fn pick_one_of_a_hundred() {
    count_picks(100);
}

#[test]
fn connect_where_a_link_stands() {
    let caller = Caller::seeing(|_| {});
    let (decided, destination) = caller.decided();
    let (avoided, fields) = (Avoided::default(), fields());
    let (attempt, link) = count(|| {
        let now = Instant::now();
        let decision = consider(&destination, &decided, &avoided, now).unwrap();
        let attempts = Call::Plain.attempts(&fields, &decided.settings, "GET", now);
        let ways = (&destination, &decision);
        let connecting = connect(caller.worker(), &decided, ways, &avoided, &attempts, now);
        caller.thread.run(connecting).ok().unwrap()
    });
    assert!(attempt.workload().is_some() && !link.is_leaving());
}

#[test]
fn judge() {
    let caller = Caller::seeing(|_| {});
    let (decided, destination) = caller.decided();
    let (own, workload) = (cluster("west"), Handle::new("cart-1"));
    let (fields, now) = (fields(), Instant::now());
    // No window of a budget has begun a moment ago, which would cost more or less by the moment.
    let later = now + Duration::from_mins(1);
    let replied = Outcome::Replied {
        status: 200,
        retry_unwanted: false,
    };
    let verdict = count(|| {
        let budget = caller.worker().destinations.budget(&decided.called, later);
        let settle = Settle::new(&destination, &decided, budget);
        let mut attempts = Call::Plain.attempts(&fields, &decided.settings, "GET", now);
        attempts.begin(now);
        let mut attempt = destination.begin(&own, now);
        attempt.start(&workload);
        let _committed = attempts.commit();
        attempt.replied(replied, Told::default(), now);
        let verdict = settle.judge(&mut attempts, &mut Avoided::default(), &attempt, replied);
        attempts.begin_reply();
        attempt.finish(replied);
        verdict
    });
    assert_eq!(verdict, Verdict::Deliver);
}

#[test]
fn finish() {
    let caller = Caller::seeing(|_| {});
    let worker = caller.worker();
    let me = &worker.common.me;
    let (rule, backend) = caller.route(&fields());
    count(|| {
        let mut journey = worker.begin("http/1.1");
        journey.matched(rule);
        journey.drawn(backend);
        journey.record.destination_service = Some(cart());
        journey.record.destination_cluster = Some(me.cluster.clone());
        journey.record.response_code = Some(200);
        journey.record.attempts = 1;
        journey.finish(&worker.recorder);
    });
    let counted = caller.scene.caller.metrics.encode();
    let is_counted =
        |line: &str| line.starts_with("isthmus_requests_total{") && line.ends_with(" 120");
    assert!(counted.lines().any(is_counted), "{counted}");
}
