use super::*;

const KEYS: u64 = 20_000;
const BOTH: [Algorithm; 2] = [Algorithm::RingHash, Algorithm::Maglev];

fn table(algorithm: Algorithm, workloads: &[(u32, u32)]) -> Table {
    let named: Vec<(&u32, u32)> = workloads
        .iter()
        .map(|(name, weight)| (name, *weight))
        .collect();
    Table::new(algorithm, &named)
}

/// Whom each key prefers.
fn owners(table: &Table, workloads: &[(u32, u32)]) -> Vec<u32> {
    let owner = |key| workloads[table.preferred(draw::mix(key, 7)).next().unwrap()].0;
    (0..KEYS).map(owner).collect()
}

fn alike(count: u32) -> Vec<(u32, u32)> {
    (0..count).map(|name| (name, 1)).collect()
}

#[test]
fn keys_are_spread_evenly_and_by_weight() {
    for algorithm in BOTH {
        for count in [2u32, 5, 20] {
            let workloads = alike(count);
            let owners = owners(&table(algorithm, &workloads), &workloads);
            for name in 0..count {
                let share = owners.iter().filter(|owner| **owner == name).count();
                let even = 20_000 / count as usize;
                let off = share.abs_diff(even) * 100 / even;
                assert!(
                    off <= 25,
                    "{algorithm:?}, {count}: {name} is off by {off} %"
                );
            }
        }
        let weighted = [(1, 100), (2, 300)];
        let owners = owners(&table(algorithm, &weighted), &weighted);
        let heavy = owners.iter().filter(|owner| **owner == 2).count();
        assert!((13_000..17_000).contains(&heavy), "{algorithm:?}: {heavy}");
    }
}

#[test]
fn who_leaves_moves_its_own_keys_and_few_others() {
    for (algorithm, others) in [(Algorithm::RingHash, 0), (Algorithm::Maglev, 4)] {
        let all = alike(10);
        let fewer: Vec<(u32, u32)> = all.iter().copied().filter(|(name, _)| *name != 4).collect();
        let before = owners(&table(algorithm, &all), &all);
        let after = owners(&table(algorithm, &fewer), &fewer);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| **b != 4 && b != a);
        let percent = moved.count() * 100 / 20_000;
        assert!(
            percent <= others,
            "{algorithm:?}: {percent} % moved without need"
        );
        let heirs: Vec<u32> = before
            .iter()
            .zip(&after)
            .filter(|(b, _)| **b == 4)
            .map(|(_, a)| *a)
            .collect();
        for name in (0..10).filter(|name| *name != 4) {
            let share = heirs.iter().filter(|heir| **heir == name).count();
            assert!(
                share < heirs.len() / 3,
                "{algorithm:?}: {name} inherits {share} of {}",
                heirs.len()
            );
        }
    }
}

#[test]
fn the_keys_of_one_that_is_out_go_to_all_others() {
    for algorithm in BOTH {
        let workloads = alike(5);
        let table = table(algorithm, &workloads);
        let mut heirs = [0u32; 5];
        for key in 0..KEYS {
            let mut preferred = table.preferred(draw::mix(key, 7));
            if preferred.next() == Some(2) {
                let heir = preferred.find(|number| *number != 2);
                heirs[heir.unwrap()] += 1;
            }
        }
        let total: u32 = heirs.iter().sum();
        for heir in [0, 1, 3, 4] {
            assert!(heirs[heir] * 8 > total, "{algorithm:?}: {heirs:?}");
        }
    }
}

#[test]
fn tables_are_bounded_whatever_the_weights() {
    let absurd: Vec<(u32, u32)> = (0..50)
        .map(|name| (name, if name == 0 { 1 } else { u32::MAX }))
        .collect();
    match table(Algorithm::RingHash, &absurd) {
        Table::Ring(points) => assert!(points.len() as u64 <= RING_MOST + 50, "{}", points.len()),
        other => panic!("{other:?}"),
    }
    match table(Algorithm::Maglev, &alike(300)) {
        Table::Maglev(entries) => assert_eq!(entries.len(), MAGLEV_SIZE),
        other => panic!("{other:?}"),
    }
    assert_eq!(table(Algorithm::Maglev, &[]), Table::None);
    assert_eq!(table(Algorithm::PeakEwma, &alike(3)), Table::None);
}

#[test]
fn only_keys_move_between_clusters_that_the_weights_force() {
    let names = ["us", "eu", "ap"].map(|name| ClusterName::new(name).unwrap());
    let owners = |weights: [f64; 3]| -> Vec<Option<&ClusterName>> {
        let clusters: Vec<(&ClusterName, f64)> = names.iter().zip(weights).collect();
        (0..KEYS)
            .map(|key| rendezvous(hash_key(&key.to_string()), &clusters))
            .collect()
    };
    let before = owners([2.0, 1.0, 1.0]);
    let count =
        |owners: &[Option<&ClusterName>], name| owners.iter().filter(|o| **o == Some(name)).count();
    assert!((9_600..10_400).contains(&count(&before, &names[0])));
    // `eu` grows: keys move to it, and nowhere else.
    let after = owners([2.0, 2.0, 1.0]);
    let elsewhere = before
        .iter()
        .zip(&after)
        .filter(|(b, a)| b != a && **a != Some(&names[1]));
    assert_eq!(elsewhere.count(), 0);
    assert!((7_600..8_400).contains(&count(&after, &names[1])));
    assert_eq!(owners([0.0; 3])[0], None);
}
