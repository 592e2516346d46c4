//! `isthmus history`, `isthmus undo`, `isthmus diff --at` and `isthmus audit`: what was decided, by whom
//! and when, and the way back.

mod audit;
mod look;
mod past;
mod undo;

use std::fmt::{Display, Write as _};
use std::time::Duration;

use isthmus_api::{ChangeView, HistoryRequest, HistoryView};
use tokio::time::{Instant, sleep};

pub(crate) use audit::{export, verify};
pub(crate) use look::history;
pub(crate) use past::diff_at;
pub(crate) use undo::undo;

use crate::api_client::{ApiClient, ApiError, HISTORY_PATH};

/// Changes that are asked for at a time when all are wanted.
const AT_ONCE: usize = 500;

/// How long the history of a cluster may be behind its config: they come one after the other.
const BEHIND: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(100);

/// Waits, not for long, until a cluster has the record of change `wanted` and of all that its config has.
/// Gives the position that its history and config have come to.
async fn caught_up(client: &mut ApiClient, wanted: u64) -> Result<u64, ApiError> {
    let newest = HistoryRequest {
        limit: Some(1),
        ..HistoryRequest::default()
    };
    let patience = Instant::now() + BEHIND;
    loop {
        let view: HistoryView = client.get(&path(&newest)).await?;
        let recorded = view.changes.first().map_or(0, |change| change.position);
        if recorded >= wanted.max(view.position) || Instant::now() >= patience {
            return Ok(recorded.max(view.position));
        }
        sleep(AGAIN).await;
    }
}

/// The changes of one cluster's copy, newest first, asked for as they are needed.
struct Changes<'a> {
    client: &'a mut ApiClient,
    request: HistoryRequest,
    page: std::vec::IntoIter<ChangeView>,
    /// What this version cannot read of what was looked at so far.
    unreadable: Vec<String>,
    /// Where the copy of config stood at the first answer.
    position: Option<u64>,
    is_last: bool,
}

impl<'a> Changes<'a> {
    fn new(client: &'a mut ApiClient, request: HistoryRequest) -> Self {
        Self {
            client,
            request,
            page: Vec::new().into_iter(),
            unreadable: Vec::new(),
            position: None,
            is_last: false,
        }
    }

    async fn next(&mut self) -> Result<Option<ChangeView>, ApiError> {
        loop {
            if let Some(change) = self.page.next() {
                return Ok(Some(change));
            }
            if self.is_last {
                return Ok(None);
            }
            let view: HistoryView = self.client.get(&path(&self.request)).await?;
            self.position.get_or_insert(view.position);
            self.unreadable.extend(view.unreadable);
            self.is_last = view.next.is_none();
            self.request.before = view.next;
            self.page = view.changes.into_iter();
        }
    }
}

/// Names of kinds, namespaces and objects need no escaping.
fn path(request: &HistoryRequest) -> String {
    let mut path = HISTORY_PATH.to_owned();
    let mut sign = '?';
    let mut add = |name: &str, value: Option<&dyn Display>| {
        if let Some(value) = value {
            // Writing into a string cannot fail.
            let _ = write!(path, "{sign}{name}={value}");
            sign = '&';
        }
    };
    add("kind", shown(request.kind.as_ref()));
    add("namespace", shown(request.namespace.as_ref()));
    add("name", shown(request.name.as_ref()));
    add("before", shown(request.before.as_ref()));
    add("limit", shown(request.limit.as_ref()));
    add("rejected", shown(request.rejected.as_ref()));
    add("records", shown(request.records.as_ref()));
    path
}

fn shown<T: Display>(value: Option<&T>) -> Option<&dyn Display> {
    value.map(|value| value as &dyn Display)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_in_the_path() {
        assert_eq!(path(&HistoryRequest::default()), "/mesh/v1/history");
        let request = HistoryRequest {
            kind: Some("Service".to_owned()),
            before: Some(7),
            limit: Some(1),
            ..HistoryRequest::default()
        };
        assert_eq!(
            path(&request),
            "/mesh/v1/history?kind=Service&before=7&limit=1"
        );
    }
}
