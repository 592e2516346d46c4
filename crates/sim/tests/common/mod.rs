//! A mesh of three clusters with a few services.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_api::{VoterPart, VoterView};
use isthmus_control::Verb;
use isthmus_sim::Sim;
use isthmus_sim::shop::{self, vote};

pub(crate) const CLUSTERS: [&str; 3] = ["us-west", "eu-central", "ap-south"];

/// The clusters know each other and the services; the first one accepts config.
pub(crate) fn founded(seed: u64) -> Sim {
    shop::found(seed, CLUSTERS.len()).unwrap()
}

/// As `founded`; all three accept config together.
pub(crate) fn founded_with_voters(seed: u64) -> Sim {
    let mut sim = founded(seed);
    let id = sim.write(0, vote(Verb::Create, &CLUSTERS));
    sim.run_for(Duration::from_secs(10));
    assert_eq!(sim.answer(0, id).unwrap().0, 201);
    assert_eq!(
        voters(&mut sim),
        BTreeSet::from(CLUSTERS.map(str::to_owned))
    );
    sim
}

/// Who votes, as whoever leads says.
pub(crate) fn voters(sim: &mut Sim) -> BTreeSet<String> {
    let views = (0..CLUSTERS.len()).filter_map(|site| sim.authority(site));
    let views: Vec<_> = views
        .filter(|view| view.leader.as_ref() == Some(&view.cluster))
        .collect();
    let [view] = &views[..] else {
        panic!("not one leads: {views:?}");
    };
    let votes = |voter: &&VoterView| voter.part == VoterPart::Votes;
    view.voters
        .iter()
        .filter(votes)
        .map(|voter| voter.cluster.clone())
        .collect()
}
