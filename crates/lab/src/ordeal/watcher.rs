//! Watchers: each follows all tallies through one cluster, resumes where it was, and begins anew where it must.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::api::Api;

use super::WAIT;
use super::writer::{collection, id_of, position};

/// What one watcher was told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// It began with what there was at this position: names and ids.
    Listed(u64, Vec<(String, String)>),
    Event(Event),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) position: u64,
    pub(super) name: String,
    /// Of what it is now, or was when it was deleted.
    pub(super) id: String,
    pub(super) kind: String,
}

pub(super) struct Watcher {
    pub(super) api: Api,
    pub(super) over: Arc<AtomicBool>,
}

/// Bookmarks come more rarely; a control plane that hangs is left.
const SILENCE: Duration = Duration::from_secs(2);

impl Watcher {
    pub(super) async fn go_on(mut self) -> Vec<Told> {
        let mut told = Vec::new();
        let mut since = None;
        while !self.over.load(Ordering::Relaxed) {
            let Some(from) = since else {
                since = self.list(&mut told).await;
                continue;
            };
            let path = format!("{}?watch=true&resourceVersion={from}", collection());
            match self.api.watch(&path).await {
                Ok(Ok(mut lines)) => {
                    while let Some(line) = lines.next(SILENCE).await {
                        let object = &line["object"];
                        let Some(at) = position(object) else {
                            break;
                        };
                        since = since.max(Some(at));
                        if line["type"] != "BOOKMARK" {
                            told.push(Told::Event(event(at, &line)));
                        }
                    }
                }
                // What was missed is forgotten.
                Ok(Err(410)) => since = None,
                Ok(Err(_)) | Err(_) => tokio::time::sleep(WAIT).await,
            }
        }
        told
    }

    async fn list(&mut self, told: &mut Vec<Told>) -> Option<u64> {
        let Ok((200, list)) = self.api.ask("GET", &collection(), None).await else {
            tokio::time::sleep(WAIT).await;
            return None;
        };
        let at = position(&list)?;
        let items = list["items"].as_array().into_iter().flatten();
        let item = |item: &Value| {
            let name = item["metadata"]["name"].as_str()?;
            Some((name.to_owned(), id_of(item)?.to_owned()))
        };
        told.push(Told::Listed(at, items.filter_map(item).collect()));
        Some(at)
    }
}

fn event(position: u64, line: &Value) -> Event {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Event {
        position,
        name: text(&line["object"]["metadata"]["name"]),
        id: id_of(&line["object"]).unwrap_or_default().to_owned(),
        kind: text(&line["type"]),
    }
}
