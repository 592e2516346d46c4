//! Everything that can wake the supervisor of `up`, besides signals and timers.

use std::io;
use std::process::ExitStatus;

use isthmus_api::StatusView;
use isthmus_model::ClusterName;
use tokio::sync::{mpsc, oneshot};

use super::fleet::ProcessId;
use super::metrics::Flows;
use super::socket::{Reply, Request};
use crate::failure::Failure;

#[derive(Debug)]
pub(crate) enum Event {
    Ended(ProcessId, io::Result<ExitStatus>),
    /// What it needs is there.
    Admitted(ProcessId),
    /// Something that people want to know.
    Note(String),
    /// The mesh cannot be brought up.
    Failed(Failure),
    /// `None`: the control plane does not answer.
    Viewed(ClusterName, Option<Box<StatusView>>),
    Counted(Flows),
    Asked(Request, oneshot::Sender<Reply>),
}

pub(crate) type Events = mpsc::Sender<Event>;

/// Sends, and does not mind that the supervisor has gone: then nobody needs to know.
pub(crate) async fn tell(events: &Events, event: Event) {
    let _ = events.send(event).await;
}
