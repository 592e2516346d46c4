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

#[derive(Default)]
pub(super) struct Gateways {
    clusters: RefCell<HashMap<ClusterName, HashMap<SocketAddr, Rc<Way>>>>,
    /// Takes turns among them.
    turn: Cell<usize>,
}

impl Gateways {
    pub(super) fn way(&self, cluster: &ClusterName, gateway: SocketAddr) -> Rc<Way> {
        let mut clusters = self.clusters.borrow_mut();
        let ways = clusters.entry(cluster.clone()).or_default();
        Rc::clone(ways.entry(gateway).or_default())
    }

    /// Healthy gateways, a different one first each time, those that are slow after those that are not;
    /// then the others as a last resort.
    pub(super) fn in_turn<'c>(&self, cluster: &'c ClusterView) -> Vec<&'c Gateway> {
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

    /// Pings the gateway while it carries tunnels, and has them leave while it is slow. Ends with the
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
            if is_slow {
                link.shun();
            }
            if is_slow != was_slow {
                let took = link.round_trip();
                tracing::info!(%cluster, %gateway, is_slow, ?took, "the round trip to a gateway");
            }
            was_slow = is_slow;
        }
    }

    pub(super) fn tidy(&self, idle: Duration, now: Instant) {
        self.clusters.borrow_mut().retain(|_, ways| {
            ways.retain(|_, way| way.tidy(idle, now));
            !ways.is_empty()
        });
    }

    pub(super) fn drain(&self) {
        let clusters = self.clusters.borrow();
        clusters
            .values()
            .flat_map(HashMap::values)
            .for_each(|way| way.drain());
    }

    /// Does it take much longer to answer than another of the same cluster?
    fn is_slow(&self, cluster: &ClusterName, gateway: SocketAddr) -> bool {
        let clusters = self.clusters.borrow();
        let Some(ways) = clusters.get(cluster) else {
            return false;
        };
        let best = ways.values().filter_map(|way| way.round_trip()).min();
        let own = ways.get(&gateway).and_then(|way| way.round_trip());
        own.zip(best)
            .is_some_and(|(own, best)| is_much_slower(own, best))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use isthmus_codec::mux::{Settings, Side};

    use super::*;
    use crate::testing::{plenty, run, view_of};

    const MS: Duration = Duration::from_millis(1);

    /// A session with `gateway`, and its peer, which must live as long.
    async fn connect(
        gateways: &Gateways,
        cluster: &ClusterName,
        gateway: SocketAddr,
    ) -> (Link, tokio::io::DuplexStream) {
        let (io, peer) = tokio::io::duplex(1_000);
        let link = Link::start(io, Side::Dialler, Settings::default(), &plenty());
        let way = gateways.way(cluster, gateway);
        let dialled = way.link(async { Ok(link) }).await;
        (dialled.expect("it was dialled"), peer)
    }

    #[test]
    fn a_slow_gateway_is_the_last_of_the_healthy_ones_and_its_tunnels_leave() {
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

            // Who waits for a better way hears of it, the connection stays, and who comes later does not.
            let mut waits = pin!(first.shunned());
            tokio::select! {
                biased;
                () = &mut waits => panic!("nobody has said so"),
                () = std::future::ready(()) => {}
            }
            first.shun();
            waits.await;
            assert!(!first.is_leaving());
            tokio::select! {
                biased;
                () = first.shunned() => panic!("that was before"),
                () = std::future::ready(()) => {}
            }
        });
    }
}
