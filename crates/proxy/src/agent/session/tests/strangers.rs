use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use isthmus_world::Snapshot;

use super::super::called::MAX_TOPICS;
use super::super::*;
use crate::testing::{Scene, run};
use crate::view::Known;

const KEY: [u8; 32] = [7; 32];

/// The agent of the caller of `scene`, which keeps what it knows in `folder`.
fn agent(scene: &Scene, folder: &Path) -> Agent {
    let common = &scene.caller.worker.common;
    let joined = Joined {
        identity: common.me.identity.clone(),
        leaf: Arc::clone(&common.me.leaf),
        trust: Arc::clone(&common.me.trust),
        node_key: KEY,
        renew_after: Duration::from_secs(1),
    };
    let (view, _) = Snapshot::new(View::empty(common.config.cluster.clone()));
    let report = Report {
        found: Found {
            health: Health::Healthy,
            detail: String::new(),
        },
        looked: true,
        draining: false,
        silent: false,
    };
    let mut agent = Agent::new(
        Arc::clone(&common.config),
        joined,
        Vault::new(folder, "here".to_owned()).unwrap(),
        Arc::clone(&common.metrics),
        view,
        watch::channel(Status::default()).0,
        watch::channel(report).1,
        mpsc::channel(1).1,
        mpsc::channel(1).0,
        RealChance::new().unwrap(),
    );
    let _ = agent.subscription.hello();
    agent
}

fn name(service: &str) -> ServiceName {
    ServiceName::new("shop", service).unwrap()
}

fn topic(service: &ServiceName) -> delta::Topic {
    delta::Topic::new(&Topic::Service(service.clone()).to_string())
}

fn push(topic: &delta::Topic, bodies: impl IntoIterator<Item = Bytes>) -> delta::Push {
    let resource = |body| delta::Resource {
        name: delta::ResourceName::new("service"),
        version: delta::Version(1),
        body,
    };
    delta::Push {
        nonce: 1,
        heard: u64::MAX,
        topics: vec![delta::TopicPush {
            topic: topic.clone(),
            resources: bodies.into_iter().map(resource).collect(),
            removed: Vec::new(),
            complete: true,
        }],
    }
}

impl Agent {
    /// Somebody calls `service`, and the control plane says what is in it.
    fn learn(&mut self, service: &ServiceName, body: Option<Body>) {
        let _ = self.subscribe(service.clone());
        let body = body.map(|body| body.encode().into());
        let _ = self.apply(push(&topic(service), body));
    }

    fn exists(&self, service: &ServiceName) -> bool {
        let view = self.builder.build();
        let known = view.find(service);
        matches!(known, Some(Known::Service(_)))
    }
}

fn scene() -> Scene {
    Scene::local(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)))
}

#[test]
fn names_that_do_not_exist_are_not_kept() {
    run(async {
        let (scene, folder) = (scene(), tempfile::tempdir().unwrap());
        let mut agent = agent(&scene, folder.path());
        let cart = &scene.facts.service;
        agent.learn(&cart.name, Some(Body::Service(cart.clone())));
        agent.learn(&name("nobody"), None);
        agent.keep();
        let identity = agent.joined.identity.to_string();
        let kept = agent.vault.view(&KEY, &identity).unwrap().unwrap();
        let kept: Vec<_> = kept.topics.into_iter().map(|topic| topic.topic).collect();
        assert_eq!(kept, [topic(&cart.name).to_string()]);
    });
}

/// Such as a service of a newer release, after a return to this one.
#[test]
fn what_cannot_be_read_is_not_taken_for_what_does_not_exist() {
    run(async {
        let (scene, folder) = (scene(), tempfile::tempdir().unwrap());
        let cart = &scene.facts.service;
        let mut before = agent(&scene, folder.path());
        before.learn(&cart.name, Some(Body::Service(cart.clone())));
        let identity = before.joined.identity.to_string();
        before.keep();
        let mut kept = before.vault.view(&KEY, &identity).unwrap().unwrap();
        kept.topics[0].resources[0].body = b"newer".as_slice().into();
        before.vault.keep_view(&KEY, &identity, &kept).unwrap();
        drop(before);
        let mut after = agent(&scene, folder.path());
        assert_eq!(
            after.subscription.state(&topic(&cart.name)),
            TopicState::NotAsked
        );

        // It is refused when it comes again, and not kept as if there were nothing.
        let _ = after.subscribe(cart.name.clone());
        let _ = after.apply(push(&topic(&cart.name), [b"newer".as_slice().into()]));
        assert!(
            after
                .subscription
                .refused(&topic(&cart.name))
                .next()
                .is_some()
        );
        after.keep();
        let kept = after.vault.view(&KEY, &identity).unwrap().unwrap();
        assert!(kept.topics.is_empty());
    });
}

#[test]
fn names_that_do_not_exist_are_in_the_way_of_none_that_does() {
    run(async {
        let (scene, folder) = (scene(), tempfile::tempdir().unwrap());
        let mut agent = agent(&scene, folder.path());
        let cart = &scene.facts.service;
        agent.learn(&cart.name, Some(Body::Service(cart.clone())));
        for number in 0..=MAX_TOPICS {
            // Answered or not: a stranger says names faster than anybody answers.
            let _ = agent.subscribe(name(&format!("nobody-{number}")));
        }
        agent.learn(&name("nobody"), None);
        let mut late = cart.clone();
        late.name = name("late");
        agent.learn(&late.name, Some(Body::Service(late.clone())));
        assert!(agent.exists(&late.name));
        assert!(agent.exists(&cart.name));
        assert!(agent.subscription.topics().count() < MAX_TOPICS / 2);
    });
}
