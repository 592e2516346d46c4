//! What the API has answered with 2xx is there after a kill -9 at any moment.
//!
//! One command writes the same objects again and again, with a number that is new each time, and
//! prints a line for each as it is answered. The control plane that it writes to is killed after a
//! time that is drawn; what was printed by then has to be there when it is back, in every cluster.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, Trouble, ensure, wait_for};
use serde_json::Value;

use super::{AUTHORITY, Arguments, CLUSTERS, Point, on_quiet_mesh, scratch, whole};

/// Objects that one command writes.
const OBJECTS: usize = 30;
/// Every so many kills the writer's cluster is not the authority's.
const FORWARDED_EVERY: usize = 4;

/// What became of one kill.
struct Kill {
    /// Objects whose write was answered.
    answered: usize,
    /// Of these: not there when the control plane was back, or not everywhere.
    lost: usize,
    /// Some were answered and some were not: the kill came in the middle.
    in_the_middle: bool,
}

pub(crate) fn durability(arguments: &Arguments) -> Result<Vec<Point>> {
    on_quiet_mesh(|mesh| {
        let mut spans = BTreeMap::new();
        let mut kills = Vec::new();
        for number in 1..=arguments.kills {
            let writer = match number % FORWARDED_EVERY {
                0 => CLUSTERS[1],
                _ => AUTHORITY,
            };
            // How long all writes take, when nobody is killed.
            let span = match spans.get(writer) {
                Some(span) => *span,
                None => {
                    let span = time_all(mesh, writer)?;
                    *spans.entry(writer).or_insert(span)
                }
            };
            let kill = kill_while_writing(mesh, writer, number, span.mul_f64(1.2 * draw()?));
            kills.push(kill.during(|| format!("kill {number}, of {writer}"))?);
        }
        let answered = kills.iter().map(|kill| kill.answered).sum();
        let lost = kills.iter().map(|kill| kill.lost).sum();
        let middle = kills.iter().filter(|kill| kill.in_the_middle).count();
        let kills = kills.len();
        Ok(vec![
            Point::none(
                format!(
                    "writes answered 2xx and lost, over {kills} kills -9 of the writer's control plane"
                ),
                lost,
                answered,
            ),
            Point {
                held: middle * 10 >= kills,
                what: "kills that came between two answers".to_owned(),
                measured: format!("{middle} of {kills}"),
                bound: "at least a tenth, or little was shown".to_owned(),
            },
        ])
    })
}

/// A number in 0..1.
fn draw() -> Result<f64> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .during(|| "/dev/urandom".to_owned())?;
    Ok(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

fn name(object: usize) -> String {
    format!("kept-{object}")
}

/// All objects with `port`, in one file.
fn file(mesh: &Mesh, port: usize) -> Result<String> {
    let mut text = String::new();
    for object in 0..OBJECTS {
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, namespace: shop}}\n\
             spec: {{ports: [{{port: {port}}}]}}\n---",
            name(object)
        );
    }
    Ok(mesh.write("kept.yaml", &text)?.display().to_string())
}

fn time_all(mesh: &Mesh, writer: &str) -> Result<Duration> {
    let path = file(mesh, 1)?;
    mesh.isthmus(&["--cluster", writer, "apply", "-f", &path])?
        .expect(0)?;
    let path = file(mesh, 2)?;
    let begun = Instant::now();
    mesh.isthmus(&["--cluster", writer, "apply", "-f", &path])?
        .expect(0)?;
    Ok(begun.elapsed())
}

fn kill_while_writing(mesh: &Mesh, writer: &str, number: usize, after: Duration) -> Result<Kill> {
    let port = 100 + number;
    let path = file(mesh, port)?;
    let said = scratch(mesh, "apply.out");
    let during = || said.display().to_string();
    let output = File::create(&said).during(during)?;
    let mut command = mesh.command(&["--cluster", writer, "apply", "-f", &path]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .during(|| "isthmus apply".to_owned())?;
    sleep(after);
    mesh.isthmus(&["control", "kill", writer])?.expect(0)?;
    child.wait().during(|| "isthmus apply".to_owned())?;
    mesh.isthmus(&["control", "start", writer])?.expect(0)?;

    let said = std::fs::read_to_string(&said).during(during)?;
    let answered = (0..OBJECTS).filter(|object| {
        let name = format!("/{} ", name(*object));
        said.lines().any(|line| format!("{line} ").contains(&name))
    });
    let answered: Vec<usize> = answered.collect();
    // The authority has it at once, the others when they hear from it again.
    let mut lost = 0;
    wait_for("the killed control plane to answer", PATIENCE, || {
        ports(mesh, writer)
    })?;
    for cluster in CLUSTERS {
        let missing = |found: &BTreeMap<String, u64>| {
            let is = |object: &&usize| found.get(&name(**object)) != Some(&(port as u64));
            answered.iter().filter(is).count()
        };
        let settled = wait_for("all that was answered to be there", PATIENCE, || {
            let missing = missing(&ports(mesh, cluster)?);
            ensure(missing == 0 || cluster == AUTHORITY, || {
                format!("{missing} are missing")
            })?;
            Ok(missing)
        });
        lost = lost.max(match settled {
            Ok(missing) => missing,
            Err(_) => missing(&ports(mesh, cluster)?),
        });
    }
    whole(mesh)?;
    Ok(Kill {
        answered: answered.len(),
        lost,
        in_the_middle: !answered.is_empty() && answered.len() < OBJECTS,
    })
}

/// Name and port of each object, as a cluster shows it.
fn ports(mesh: &Mesh, cluster: &str) -> Result<BTreeMap<String, u64>> {
    let list = mesh.json(&["--cluster", cluster, "get", "services", "-n", "shop"])?;
    let items = list["items"].as_array();
    let items = items.ok_or_else(|| Trouble(format!("no list: {list}")))?;
    let entry = |item: &Value| {
        let name = item["metadata"]["name"].as_str()?;
        Some((name.to_owned(), item["spec"]["ports"][0]["port"].as_u64()?))
    };
    Ok(items.iter().filter_map(entry).collect())
}
