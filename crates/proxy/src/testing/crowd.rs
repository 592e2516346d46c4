//! Several workloads behind one service.

use std::net::SocketAddr;
use std::rc::Rc;

use isthmus_model::{Handle, Health, LabelKey, Labels, Share, Subset, Workload};
use tokio::io::AsyncWriteExt;

use super::{Facts, HOST, Scene, Unbound, program, read_head, sidecar};

impl Scene {
    /// One more workload of the service, in front of `program`. Callers see it from
    /// [`Scene::publish`] on.
    pub(crate) fn join(&mut self, program: SocketAddr) {
        let unbound = Unbound::new();
        let number = self.others.len() + 2;
        let workload = Workload {
            handle: Handle::new(&format!("cart-{number}")),
            address: unbound.mesh_address(),
            ..self.facts.workloads[0].clone()
        };
        let cluster = workload.cluster.clone();
        self.facts.workloads.push(workload);
        let role = sidecar("cart", Some(HOST), program.ip());
        let facts = self.facts.with_program_at(program.port());
        let node = unbound.start(&self.issuer, &cluster, role, &facts);
        self.others.push((node, program.port()));
    }

    /// Everybody sees what stands in `facts` from now on; a caller of another cluster sees numbers.
    pub(crate) fn publish(&mut self) {
        let seen = &mut self.seen_by_caller;
        if self.gateway.is_some() {
            seen.shares = self.facts.counted();
        } else {
            seen.workloads = self.facts.workloads.clone();
        }
        seen.policy = self.facts.policy.clone();
        seen.routes = self.facts.routes.clone();
        self.caller.learn(&self.seen_by_caller);
        self.callee.learn(&self.facts);
        if let Some(gateway) = &mut self.gateway {
            gateway.learn(&self.facts);
        }
        for (node, port) in &mut self.others {
            node.learn(&self.facts.with_program_at(*port));
        }
    }
}

impl Facts {
    /// The shares of the callee's cluster: of all workloads, and of each subset that a route names.
    fn counted(&self) -> Vec<Share> {
        let rules = self.routes.iter().flat_map(|route| &route.rules);
        let named = rules.flat_map(|rule| &rule.backends);
        let mut subsets: Vec<Subset> = named.map(|backend| backend.subset.clone()).collect();
        subsets.push(Subset::default());
        subsets.sort();
        subsets.dedup();
        let share = |subset: Subset| {
            let belongs = |workload: &&Workload| subset.contains(&workload.labels);
            let all = self.workloads.iter().filter(belongs);
            let (healthy, other): (Vec<_>, Vec<_>) =
                all.partition(|workload| workload.health == Health::Healthy);
            Share {
                cluster: self.workloads[0].cluster.clone(),
                service: self.service.name.clone(),
                healthy: u32::try_from(healthy.len()).unwrap(),
                total: u32::try_from(healthy.len() + other.len()).unwrap(),
                subset,
            }
        };
        subsets.into_iter().map(share).collect()
    }

    /// As the proxy beside a program with this port sees it: each has its own here.
    fn with_program_at(&self, port: u16) -> Self {
        let mut facts = self.clone();
        facts.service.ports[0].target_port = port;
        facts
    }
}

/// Labels with one key, `version`.
pub(crate) fn version(value: &str) -> Labels {
    [(LabelKey::new("version").unwrap(), value.into())].into()
}

/// A program that says in `x-who` which one it is. `serve` is given the head of each request and makes
/// the status line of the answer.
pub(crate) async fn named<S: Future<Output = &'static str> + 'static>(
    who: usize,
    serve: impl Fn(String) -> S + 'static,
) -> SocketAddr {
    let serve = Rc::new(serve);
    program(move |mut socket| {
        let serve = Rc::clone(&serve);
        async move {
            loop {
                let head = read_head(&mut socket).await;
                if head.is_empty() {
                    return;
                }
                let status = serve(head).await;
                let reply =
                    format!("HTTP/1.1 {status}\r\nx-who: {who}\r\ncontent-length: 0\r\n\r\n");
                if socket.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Which program has answered.
pub(crate) fn who(reply: &str) -> usize {
    let (_, rest) = reply
        .split_once("x-who: ")
        .unwrap_or_else(|| panic!("no program has answered: {reply}"));
    rest.lines().next().unwrap().parse().unwrap()
}
