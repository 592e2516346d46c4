//! Looking at a running mesh: what its control planes say and what its proxies count.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use isthmus_api::StatusView;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::event::{Event, Events, tell};
use super::fleet::Stage;
use super::metrics::{self, Flows};
use super::plan::Plan;
use super::planned::METRICS_PORT;
use super::start::client;
use crate::api_client::Credentials;
use crate::status::STATUS_PATH;

/// Between two looks at a mesh that is ready, and at one that is not yet.
const CALM: Duration = Duration::from_secs(2);
const EAGER: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
const LARGEST_PAGE: usize = 16 << 20;

/// Asks cluster number `index` again and again what it sees.
pub(crate) async fn view(
    plan: Arc<Plan>,
    index: usize,
    credentials: Credentials,
    ready: watch::Receiver<bool>,
    events: Events,
) {
    let cluster = &plan.clusters[index];
    let mut client = client(cluster, &credentials);
    loop {
        let view = timeout(LOOK_LIMIT, client.get::<StatusView>(STATUS_PATH)).await;
        let view = view.ok().and_then(Result::ok).map(Box::new);
        tell(&events, Event::Viewed(cluster.name.clone(), view)).await;
        sleep(pause(&ready)).await;
    }
}

/// Reads again and again what all workloads' proxies have counted.
pub(crate) async fn count(plan: Arc<Plan>, events: Events) {
    loop {
        let mut flows = Flows::new();
        for process in plan
            .processes
            .iter()
            .filter(|each| each.stage == Stage::Workload)
        {
            // A proxy that does not answer counts nothing; its state is shown elsewhere.
            if let Ok(Some(text)) = timeout(LOOK_LIMIT, page(process.address, "/metrics")).await {
                metrics::add(&mut flows, &text);
            }
        }
        tell(&events, Event::Counted(flows)).await;
        sleep(CALM).await;
    }
}

fn pause(ready: &watch::Receiver<bool>) -> Duration {
    if *ready.borrow() { CALM } else { EAGER }
}

/// A page of a process's metrics port, whatever its status says; `None`: it cannot be had.
pub(super) async fn page(address: Ipv4Addr, path: &str) -> Option<String> {
    let address: SocketAddr = (address, METRICS_PORT).into();
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::new())
        .ok()?;
    let reply = sender.send_request(request).await.ok()?;
    let body = Limited::new(reply.into_body(), LARGEST_PAGE)
        .collect()
        .await
        .ok()?;
    connection.abort();
    Some(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
