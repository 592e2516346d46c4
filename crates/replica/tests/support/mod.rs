//! An authority of one cluster: what it proposes is agreed at once.

use std::collections::BTreeSet;
use std::time::Instant;

use isthmus_model::{ClusterName, Position};
use isthmus_replica::{DecidedWrite, Decision, LedgerName, Replica};
use isthmus_world::Store;

pub(crate) fn load(
    cluster: ClusterName,
    authority: ClusterName,
    store: &dyn Store,
    seed: u64,
    now: Instant,
) -> Replica {
    let member = cluster == authority;
    let authority = BTreeSet::from([authority]);
    let mut replica = Replica::load(cluster, authority, member, store, seed, now).unwrap();
    if member {
        let epoch = replica.next_epoch();
        let begins = Decision {
            epoch,
            writes: Vec::new(),
        };
        replica.decide(begins).unwrap();
        replica.set_leads(true);
    }
    replica
}

/// What was proposed since the last time.
pub(crate) fn agree(replica: &mut Replica) {
    for name in LedgerName::SHARED {
        let Some(ledger) = replica.ledger(&name) else {
            continue;
        };
        let proposed = DecidedWrite {
            position: Position(ledger.next_position().0 - 1),
            ledger: name,
            entries: Vec::new(),
        };
        replica.agree(&[proposed]);
    }
}
