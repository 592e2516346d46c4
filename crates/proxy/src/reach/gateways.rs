//! The gateways of other clusters: in which order they are tried, and which is left for a better one.
//!
//! A gateway that is slow and not dead is nobody's breaker's business: it fails nothing, and the
//! workloads behind it are well. So each session with a gateway that carries tunnels is pinged, and who
//! takes much longer to answer than another gateway of the same cluster gets no new tunnels as long as
//! that is so, and those it has are left. Their requests finish; what is new takes another way.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_balance::constants::PING_EVERY;
use isthmus_balance::is_much_slower;
use isthmus_model::{ClusterName, Gateway};
use isthmus_wire::ClusterView;
use tokio::time::sleep;

use super::way::Way;
use crate::mux::Link;

/// How long one that has opened no tunnel is no measure for others.
const FAILED_KEPT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Gateways {
    clusters: RefCell<HashMap<ClusterName, HashMap<SocketAddr, Known>>>,
    /// Takes turns among them.
    turn: Cell<usize>,
}

/// One gateway.
struct Known {
    way: Rc<Way>,
    /// Its cluster says so.
    is_healthy: bool,
    /// When it last opened no tunnel that it was asked for, for a reason of its own.
    failed: Option<Instant>,
}

impl Gateways {
    pub(super) fn way(&self, cluster: &ClusterName, gateway: SocketAddr) -> Rc<Way> {
        self.known(cluster, gateway, |known| Rc::clone(&known.way))
    }

    /// Healthy gateways, a different one first each time, those that are slow after those that are not;
    /// then the others as a last resort.
    pub(super) fn in_turn<'c>(&self, cluster: &'c ClusterView) -> Vec<&'c Gateway> {
        self.learn(cluster);
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (mut gateways, others): (Vec<_>, Vec<_>) =
            cluster.gateways.iter().partition(|gateway| gateway.healthy);
        let first = turn.checked_rem(gateways.len()).unwrap_or(0);
        gateways.rotate_left(first);
        gateways.sort_by_key(|gateway| self.is_slow(&cluster.cluster.name, gateway.address));
        gateways.extend(others);
        gateways
    }

    /// It was asked for a tunnel. `serves`: the answer is not its own failure.
    pub(super) fn asked(&self, cluster: &ClusterName, gateway: SocketAddr, serves: bool) {
        let failed = (!serves).then(Instant::now);
        self.known(cluster, gateway, |known| known.failed = failed);
    }

    /// Pings the gateway while it carries tunnels, and has them leave when it becomes slow. Ends with the
    /// link.
    pub(super) async fn watch(
        self: Rc<Self>,
        cluster: ClusterName,
        gateway: SocketAddr,
        link: Link,
    ) {
        let mut was_slow = false;
        loop {
            tokio::select! {
                () = link.left() => return,
                () = sleep(PING_EVERY) => {}
            }
            if link.idle_since().is_none() {
                link.ping();
            }
            let is_slow = self.is_slow(&cluster, gateway);
            if is_slow != was_slow {
                let took = link.round_trip();
                tracing::info!(%cluster, %gateway, is_slow, ?took, "the round trip to a gateway");
            }
            // Once: who comes to it from now on has found no other.
            if is_slow && !was_slow {
                link.shun();
            }
            was_slow = is_slow;
        }
    }

    pub(super) fn tidy(&self, idle: Duration, now: Instant) {
        self.clusters.borrow_mut().retain(|_, gateways| {
            gateways.retain(|_, known| known.way.tidy(idle, now));
            !gateways.is_empty()
        });
    }

    pub(super) fn drain(&self) {
        let clusters = self.clusters.borrow();
        let gateways = clusters.values().flat_map(HashMap::values);
        gateways.for_each(|known| known.way.drain());
    }

    /// What its cluster says of them. Those that it says nothing of are gone.
    fn learn(&self, cluster: &ClusterView) {
        let mut clusters = self.clusters.borrow_mut();
        let Some(gateways) = clusters.get_mut(&cluster.cluster.name) else {
            return;
        };
        for (address, known) in gateways {
            let mut said = cluster.gateways.iter();
            let is_it = |gateway: &Gateway| gateway.address == *address && gateway.healthy;
            known.is_healthy = said.any(is_it);
        }
    }

    /// Does it take much longer to answer than another of the same cluster that would do instead?
    fn is_slow(&self, cluster: &ClusterName, gateway: SocketAddr) -> bool {
        let now = Instant::now();
        let clusters = self.clusters.borrow();
        let Some(gateways) = clusters.get(cluster) else {
            return false;
        };
        let would_do = gateways.values().filter(|known| known.would_do(now));
        let best = would_do.filter_map(|known| known.way.round_trip()).min();
        let known = gateways.get(&gateway);
        let own = known.and_then(|known| known.way.round_trip());
        own.zip(best)
            .is_some_and(|(own, best)| is_much_slower(own, best))
    }

    fn known<T>(
        &self,
        cluster: &ClusterName,
        gateway: SocketAddr,
        look: impl FnOnce(&mut Known) -> T,
    ) -> T {
        let mut clusters = self.clusters.borrow_mut();
        let gateways = clusters.entry(cluster.clone()).or_default();
        look(gateways.entry(gateway).or_insert_with(|| Known {
            way: Rc::default(),
            is_healthy: true,
            failed: None,
        }))
    }
}

impl Known {
    fn would_do(&self, now: Instant) -> bool {
        let failed = |at| now.saturating_duration_since(at) < FAILED_KEPT;
        self.is_healthy && !self.failed.is_some_and(failed)
    }
}

#[cfg(test)]
mod tests {
    use isthmus_codec::mux::{Settings, Side};

    use super::*;
    use crate::testing::{Plain, plenty, run, view_of};

    const MS: Duration = Duration::from_millis(1);

    /// A session with `gateway`, and its peer, which must live as long.
    async fn connect(
        gateways: &Gateways,
        cluster: &ClusterName,
        gateway: SocketAddr,
    ) -> (Link, tokio::io::DuplexStream) {
        let (io, peer) = tokio::io::duplex(1_000);
        let io = Plain::new(io);
        let link = Link::start(io, Side::Dialler, Settings::default(), &plenty());
        let way = gateways.way(cluster, gateway);
        let dialled = way.link(|| async { Ok(link) }).await;
        (dialled.expect("it was dialled"), peer)
    }

    #[test]
    fn a_slow_gateway_is_the_last_of_the_healthy_ones() {
        run(async {
            let addresses: Vec<SocketAddr> = (1..=3)
                .map(|last| SocketAddr::from(([127, 0, 0, last], 15008)))
                .collect();
            let name = ClusterName::new("eu").expect("a name");
            let mut cluster = view_of(&name, None);
            cluster.gateways = addresses
                .iter()
                .map(|&address| Gateway {
                    name: address.to_string(),
                    address,
                    healthy: address != addresses[2],
                })
                .collect();
            let gateways = Gateways::default();
            let order = || -> Vec<usize> {
                let place = |gateway: &Gateway| {
                    addresses
                        .iter()
                        .position(|address| *address == gateway.address)
                        .expect("one of them")
                };
                gateways.in_turn(&cluster).into_iter().map(place).collect()
            };
            // Nothing is known.
            assert_eq!([order(), order()], [[0, 1, 2], [1, 0, 2]]);

            let (first, _peer) = connect(&gateways, &name, addresses[0]).await;
            let (second, _other) = connect(&gateways, &name, addresses[1]).await;
            let answer = |link: &Link, took: [u32; 3]| {
                for took in took {
                    link.learn_round_trip(took * MS);
                }
            };
            answer(&first, [200, 180, 190]);
            // Nothing to compare it with.
            assert_eq!([order(), order()], [[0, 1, 2], [1, 0, 2]]);
            assert!(!gateways.is_slow(&name, addresses[0]));
            answer(&second, [300, 20, 20]);
            assert_eq!([order(), order()], [[1, 0, 2], [1, 0, 2]]);
            assert!(gateways.is_slow(&name, addresses[0]));
            assert!(!gateways.is_slow(&name, addresses[1]));
            // No slower than the best of them is nobody's fault.
            answer(&second, [150, 150, 150]);
            assert_eq!([order(), order()], [[0, 1, 2], [1, 0, 2]]);

            // One that opens no tunnels, or that its cluster calls ill, is no better, however quick.
            answer(&second, [10, 10, 10]);
            assert!(gateways.is_slow(&name, addresses[0]));
            gateways.asked(&name, addresses[1], false);
            assert!(!gateways.is_slow(&name, addresses[0]));
            gateways.asked(&name, addresses[1], true);
            assert!(gateways.is_slow(&name, addresses[0]));
            let mut ill = cluster.clone();
            ill.gateways[1].healthy = false;
            gateways.in_turn(&ill);
            assert!(!gateways.is_slow(&name, addresses[0]));
        });
    }

    #[test]
    fn who_becomes_slow_is_shunned_and_the_session_stays() {
        run(async {
            let name = ClusterName::new("eu").expect("a name");
            let address = |last| SocketAddr::from(([127, 0, 0, last], 15008));
            let gateways = Rc::new(Gateways::default());
            let (slow, _peer) = connect(&gateways, &name, address(1)).await;
            let (quick, _other) = connect(&gateways, &name, address(2)).await;
            for _ in 0..3 {
                slow.learn_round_trip(200 * MS);
                quick.learn_round_trip(10 * MS);
            }
            let watch = |last, link: &Link| {
                let gateways = Rc::clone(&gateways);
                tokio::task::spawn_local(gateways.watch(name.clone(), address(last), link.clone()))
            };
            let _watches = (watch(1, &slow), watch(2, &quick));
            tokio::select! {
                () = slow.shunned() => {}
                () = quick.shunned() => panic!("it is quick"),
            }
            assert!(!slow.is_leaving());
        });
    }
}
