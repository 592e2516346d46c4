use super::*;

const KEYS: u64 = 20_000;
const BOTH: [Algorithm; 2] = [Algorithm::RingHash, Algorithm::Maglev];

fn table(algorithm: Algorithm, workloads: &[u32]) -> Table {
    Table::new(algorithm, &workloads.iter().collect::<Vec<_>>())
}

/// Whom each key prefers.
fn owners(table: &Table, workloads: &[u32]) -> Vec<u32> {
    let owner = |key| workloads[table.preferred(draw::mix(key, 7)).next().unwrap()];
    (0..KEYS).map(owner).collect()
}

fn alike(count: u32) -> Vec<u32> {
    (0..count).collect()
}

#[test]
fn keys_are_spread_evenly() {
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
    }
}

#[test]
fn who_leaves_moves_its_own_keys_and_few_others() {
    for (algorithm, others) in [(Algorithm::RingHash, 0), (Algorithm::Maglev, 4)] {
        let all = alike(10);
        let fewer: Vec<u32> = all.iter().copied().filter(|name| *name != 4).collect();
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
fn tables_are_bounded_however_many_there_are() {
    match table(Algorithm::RingHash, &alike(1_000)) {
        Table::Ring(points) => assert!(points.len() as u64 <= RING_MOST, "{}", points.len()),
        other => panic!("{other:?}"),
    }
    for count in [1, 300, 20_000] {
        match table(Algorithm::Maglev, &alike(count)) {
            Table::Maglev(entries) => assert_eq!(entries.len(), MAGLEV_SIZE),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(table(Algorithm::Maglev, &[]), Table::None);
    assert_eq!(table(Algorithm::PeakEwma, &alike(3)), Table::None);
}
