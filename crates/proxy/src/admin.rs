//! Metrics and health of this process, on a port of its own, plain HTTP.

use std::sync::Arc;

use bytes::BytesMut;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, Limits, RequestHead, ResponseHead, Target, Version};
use isthmus_codec::memory::MemoryBudget;
use isthmus_model::Health;
use isthmus_telemetry::{CONTENT_TYPE, Metrics};
use isthmus_world::DrainWatch;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::{Report, Status};
use crate::http::HttpError;
use crate::http::http1::{self, Reply, ResponseWriter};
use crate::intake::{Comers, Door, Intake, Place, accept};

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) name: String,
    pub(crate) has_program: bool,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) memory: MemoryBudget,
}

/// Takes connections until the drain begins: a successor may answer from then on.
pub(crate) async fn serve(admin: Admin, door: Door, intake: Arc<Intake>, drain: DrainWatch) {
    let until = drain.clone();
    accept(
        &intake,
        until,
        door,
        Comers::Watchers,
        move |socket, place| {
            tokio::spawn(connection(admin.clone(), socket, drain.clone(), place));
        },
    )
    .await;
}

/// A scraper that has sent no whole request for this long is let go.
const IDLE: std::time::Duration = std::time::Duration::from_mins(2);

async fn connection(admin: Admin, socket: TcpStream, mut drain: DrainWatch, _place: Place) {
    let memory = admin.memory.share();
    let limits = Limits::default();
    let (mut reader, mut writer) = http1::serve(socket, BytesMut::new(), IDLE, limits, memory);
    loop {
        let head = tokio::select! {
            biased;
            head = timeout(IDLE, reader.head()) => head,
            () = drain.closing() => return,
        };
        let Ok(Ok(Some((head, _)))) = head else {
            return;
        };
        let is_last = drain.is_leaving() || !head.keep_alive() || !reader.is_between();
        if admin.answer(&head, is_last, &mut writer).await.is_err() || is_last {
            return reader.leave(writer).await;
        }
    }
}

impl Admin {
    async fn answer(
        &self,
        head: &RequestHead,
        last: bool,
        writer: &mut ResponseWriter,
    ) -> Result<(), HttpError> {
        let path = match Target::parse(&head.method, &head.target)? {
            Target::Origin { path } | Target::Absolute { path, .. } => path,
            Target::Authority(_) | Target::Asterisk => bytes::Bytes::new(),
        };
        let (status, kind, body) = match &*path {
            b"/metrics" => {
                self.metrics
                    .set_memory(self.memory.taken(), self.memory.limit());
                (200, CONTENT_TYPE, self.metrics.encode())
            }
            // Alive: the process answers.
            b"/health" | b"/healthz" => (200, "text/plain", "ok\n".to_owned()),
            b"/ready" | b"/readyz" => self.ready(),
            _ => (
                404,
                "text/plain",
                "there are /metrics, /health and /ready\n".to_owned(),
            ),
        };
        let mut fields = Fields::new();
        // All are literals without control characters.
        let _ = fields.push("content-type", kind);
        if last {
            let _ = fields.push("connection", "close");
        }
        let head = ResponseHead {
            status,
            version: Version::Http11,
            fields,
        };
        let mut reply = Reply::new(writer, Version::Http11);
        reply.head(&head, Body::Length(body.len() as u64))?;
        reply.data(body.into())?;
        reply.end(None)?;
        reply.flush().await
    }

    /// Ready: it knows what it needs, its program is healthy, and it is not leaving.
    fn ready(&self) -> (u16, &'static str, String) {
        let status = *self.status.borrow();
        let report = self.report.borrow().clone();
        let healthy = !self.has_program || report.found.health == Health::Healthy;
        let ready = status.informed && healthy && !report.draining;
        let body = json!({
            "process": self.name,
            "pid": std::process::id(),
            "ready": ready,
            "controlPlane": if status.connected { "connected" } else { "not connected" },
            "informed": status.informed,
            "draining": report.draining,
            // Another process still serves, and may go on doing so.
            "takingOver": report.silent,
            "program": self.has_program.then(|| report.found.detail.clone()),
        });
        (
            if ready { 200 } else { 503 },
            "application/json",
            format!("{body}\n"),
        )
    }
}
