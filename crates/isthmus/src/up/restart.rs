//! Restarts one process of the mesh without losing a connection, and learns how it went: the process
//! keeps its id, but another one answers at its address.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::event::{Event, Events, tell};
use super::fleet::{ProcessId, Stage};
use super::plan::Plan;
use super::planned::PlannedProcess;
use super::socket::Reply;
use super::watch::page;

/// Somewhat more than a new process may take until it is given up.
const LIMIT: Duration = Duration::from_secs(65);
const AGAIN: Duration = Duration::from_millis(50);

/// Has the process restarted, and answers `reply` when another one serves.
pub(super) async fn watch(
    id: ProcessId,
    name: String,
    address: Ipv4Addr,
    events: Events,
    reply: oneshot::Sender<Reply>,
) {
    let begun = Instant::now();
    let before = serving(address).await;
    tell(&events, Event::Restart(id)).await;
    let answer = loop {
        sleep(AGAIN).await;
        let now = serving(address).await;
        let took = begun.elapsed();
        if now.is_some() && now != before {
            let message = format!(
                "{name}: a new process has taken over after {} ms",
                took.as_millis()
            );
            break Reply::Done { message };
        }
        if took >= LIMIT {
            break Reply::Refused {
                what: format!("{name}: no new process has taken over; the one before goes on"),
                next: format!("`isthmus logs {name}` says why"),
            };
        }
    };
    // Who asked may have gone.
    let _ = reply.send(answer);
}

/// What is said when there is no such process that could have a successor.
pub(super) fn unknown(process: &str, plan: &Plan) -> Reply {
    let all = plan.processes.iter();
    let serving = all.filter(|other| other.stage != Stage::Control);
    let names: Vec<String> = serving.map(PlannedProcess::full_name).collect();
    Reply::Refused {
        what: format!("{process} is no proxy or gateway that runs"),
        next: format!("there are: {}", names.join(", ")),
    }
}

/// The id of the process that answers at `address`. One that is about to take over answers as well, and
/// does not count yet.
async fn serving(address: Ipv4Addr) -> Option<u64> {
    let page: Value = serde_json::from_str(&page(address, "/ready").await?).ok()?;
    if page["takingOver"] == true {
        return None;
    }
    page["pid"].as_u64()
}
