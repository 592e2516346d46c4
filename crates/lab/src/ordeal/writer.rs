//! Writers: each adds one to tallies that others add to as well, and keeps what it was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::api::{Api, Broken};
use crate::traffic::Chance;

use super::{COUNT, ID, NAMESPACE, WAIT};

/// What a write was to do, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// The object's name.
    pub(super) name: String,
    /// Nobody else writes this id. Of a deletion: the id of the state that it was to delete.
    pub(super) id: String,
    pub(super) deletes: bool,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At this position, as far as the answer says.
    Accepted(Option<u64>),
    /// The API has said no, with this status.
    Refused(u16),
    /// Perhaps.
    Unknown,
}

/// What all writers share.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub(super) over: AtomicBool,
    pub(super) tried: AtomicUsize,
    pub(super) accepted: AtomicUsize,
    /// Writers that write no more.
    pub(super) ended: AtomicUsize,
}

pub(super) struct Writer {
    pub(super) number: usize,
    pub(super) api: Api,
    pub(super) chance: Chance,
    pub(super) objects: u64,
    pub(super) common: Arc<Common>,
}

/// What a writer has seen.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) writes: Vec<Write>,
    /// Of those that were read back, such as did not show yet.
    pub(super) late: usize,
}

/// Of so many writes one deletes, and after one of so many it is read back.
const DELETES: u64 = 25;
const READS_BACK: u64 = 8;

impl Writer {
    pub(super) async fn go_on(mut self) -> Written {
        let mut written = Written::default();
        let mut sequence = 0_u64;
        while !self.common.over.load(Ordering::Relaxed) {
            let name = format!("tally-{}", self.chance.between(0, self.objects));
            sequence += 1;
            let id = format!("w{}-{sequence}", self.number);
            let Ok((code, found)) = self.api.ask("GET", &path(&name), None).await else {
                tokio::time::sleep(WAIT).await;
                continue;
            };
            let Some(write) = self.write(&name, id, (code, &found)).await else {
                tokio::time::sleep(WAIT).await;
                continue;
            };
            self.common.tried.fetch_add(1, Ordering::Relaxed);
            match write.outcome {
                Outcome::Accepted(at) => {
                    self.common.accepted.fetch_add(1, Ordering::Relaxed);
                    if self.chance.between(0, READS_BACK) == 0 {
                        written.late += usize::from(self.is_late(&write, at).await);
                    }
                }
                Outcome::Refused(409) => {}
                // Nobody leads for the moment, perhaps.
                Outcome::Refused(_) | Outcome::Unknown => tokio::time::sleep(WAIT).await,
            }
            written.writes.push(write);
        }
        self.common.ended.fetch_add(1, Ordering::Relaxed);
        written
    }

    /// `None`: nothing was sent.
    async fn write(
        &mut self,
        name: &str,
        id: String,
        (code, found): (u16, &Value),
    ) -> Option<Write> {
        let version = &found["metadata"]["resourceVersion"];
        let count = count(found);
        let deletes = code == 200 && self.chance.between(0, DELETES) == 0;
        let (id, sent) = match code {
            200 if deletes => {
                let options = json!({"preconditions": {"resourceVersion": version}});
                let gone = id_of(found)?.to_owned();
                (
                    gone,
                    self.api.ask("DELETE", &path(name), Some(&options)).await,
                )
            }
            200 => {
                let object = tally(name, &id, count + 1, Some(version));
                (id, self.api.ask("PUT", &path(name), Some(&object)).await)
            }
            404 => {
                let object = tally(name, &id, 1, None);
                (id, self.api.ask("POST", &collection(), Some(&object)).await)
            }
            _ => return None,
        };
        let outcome = match sent {
            Ok((200..=299, _)) if deletes => Outcome::Accepted(None),
            Ok((200..=299, made)) => Outcome::Accepted(position(&made)),
            // Perhaps it was, says the API itself.
            Ok((504, _)) | Err(Broken::Unknown(_)) => Outcome::Unknown,
            Ok((code, _)) => Outcome::Refused(code),
            Err(Broken::NotSent(_)) => return None,
        };
        Some(Write {
            name: name.to_owned(),
            id,
            deletes,
            outcome,
        })
    }

    /// Does the control plane show less than it has answered? It does when it lost whoever leads after that had
    /// accepted the write, and before it heard of it as everybody does.
    async fn is_late(&mut self, write: &Write, at: Option<u64>) -> bool {
        let Ok((200, found)) = self.api.ask("GET", &path(&write.name), None).await else {
            return false;
        };
        if write.deletes {
            id_of(&found) == Some(&write.id)
        } else {
            position(&found) < at
        }
    }
}

fn tally(name: &str, id: &str, count: u64, version: Option<&Value>) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {ID: id, COUNT: count.to_string()},
        },
        "spec": {"ports": [{"port": 80}]},
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version.clone();
    }
    object
}

pub(super) fn collection() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

fn path(name: &str) -> String {
    format!("{}/{name}", collection())
}

pub(super) fn id_of(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ID].as_str()
}

pub(super) fn count(object: &Value) -> u64 {
    let count = object["metadata"]["annotations"][COUNT].as_str();
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

pub(super) fn position(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}
