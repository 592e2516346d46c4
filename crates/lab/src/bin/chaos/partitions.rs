//! Clusters that do not hear each other, or only one way, or now and then: what is near goes on, nobody decides alone,
//! and all is as one again soon after.

use std::thread::sleep;
use std::time::{Duration, Instant};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::point::Point;
use isthmus_lab::trouble::{Result, ensure, wait_for};

use super::callers::{beside, first_answers};
use super::{Arguments, CLUSTERS, on_mesh, vote, whole};

/// How long each lasts.
const HOLD: Duration = Duration::from_secs(10);
const FLAP: Duration = Duration::from_millis(400);
const CONVERGED: Duration = Duration::from_secs(5);
/// Each pair once, and in a circle.
const LINKS: [(&str, &str); 3] = [
    (CLUSTERS[0], CLUSTERS[1]),
    (CLUSTERS[1], CLUSTERS[2]),
    (CLUSTERS[2], CLUSTERS[0]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partition {
    /// Nobody hears anybody.
    Full,
    /// Each is heard by one of the others and not by the other.
    OneWay,
    Flapping,
}

const PARTITIONS: [(Partition, &str); 3] = [
    (Partition::Full, "nobody hears anybody"),
    (Partition::OneWay, "each link passes one way only"),
    (Partition::Flapping, "links come and go"),
];

pub(crate) fn partitions(_: &Arguments) -> Result<Vec<Point>> {
    on_mesh(|mesh| {
        vote(mesh)?;
        first_answers(mesh)?;
        let mut points = Vec::new();
        for (number, (partition, name)) in PARTITIONS.into_iter().enumerate() {
            eprintln!("{name}");
            let (converged, called) = beside(mesh, || one(mesh, partition, number))?;
            let failures: Vec<_> = called
                .iter()
                .flat_map(|(_, called)| &called.failures)
                .collect();
            for failure in failures.iter().take(10) {
                eprintln!("{failure:?}");
            }
            let calls = called.iter().map(|(_, called)| called.calls).sum();
            points.push(Point::none(
                format!("GETs to what runs in the caller's own cluster that failed while {name}"),
                failures.len(),
                calls,
            ));
            points.push(Point::at_most(
                format!("until all clusters had accepted and had the same after {name}"),
                converged,
                CONVERGED,
            ));
        }
        Ok(points)
    })
}

/// From its end until every cluster has what was accepted since.
fn one(mesh: &Mesh, partition: Partition, number: usize) -> Result<Duration> {
    let each = |words: &[&str]| {
        LINKS.iter().try_for_each(|(one, other)| {
            mesh.isthmus(&[words, &[one, other]].concat())?
                .expect(0)
                .map(drop)
        })
    };
    match partition {
        Partition::Full => {
            each(&["link", "blackhole"])?;
            sleep(HOLD);
            nobody_accepts(mesh, number)?;
        }
        Partition::OneWay => {
            each(&["link", "blackhole", "--one-way"])?;
            sleep(HOLD);
            nobody_accepts(mesh, number)?;
        }
        Partition::Flapping => {
            let begun = Instant::now();
            while begun.elapsed() < HOLD {
                each(&["link", "cut"])?;
                sleep(FLAP);
                each(&["link", "restore"])?;
                sleep(FLAP);
            }
        }
    }
    each(&["link", "restore"])?;
    let begun = Instant::now();
    let after = format!("after-{number}");
    let file = namespace(mesh, &after)?;
    wait_for("a change to be accepted", PATIENCE, || {
        mesh.isthmus(&["apply", "-f", &file])?.expect(0)
    })?;
    for cluster in CLUSTERS {
        wait_for("a cluster to have it", PATIENCE, || {
            let has = mesh.json(&["--cluster", cluster, "get", "namespaces"])?;
            ensure(has.to_string().contains(&after), || {
                format!("{cluster} has not")
            })
        })?;
    }
    let converged = begun.elapsed();
    whole(mesh)?;
    Ok(converged)
}

/// No cluster is a majority.
fn nobody_accepts(mesh: &Mesh, number: usize) -> Result<()> {
    for cluster in CLUSTERS {
        let file = namespace(mesh, &format!("alone-{number}-{cluster}"))?;
        let said = mesh.isthmus(&["--cluster", cluster, "apply", "-f", &file])?;
        said.expect_failure(1, &["no majority"])?;
    }
    Ok(())
}

fn namespace(mesh: &Mesh, name: &str) -> Result<String> {
    let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    Ok(mesh.write("chaos.yaml", &text)?.display().to_string())
}
