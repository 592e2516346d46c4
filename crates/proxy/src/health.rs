//! Asks the program beside this proxy how it is.
//!
//! One success makes it healthy, two failures in a row unhealthy. What is found is told to the
//! control plane; nothing is decided here.

mod grpc;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, RequestHead, Version};
use isthmus_model::{Health, HealthCheck, HealthProbe};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::HttpError;
use crate::http::http1::ProgramConnection;

/// Failures in a row that make a healthy program unhealthy: one may be a hiccup.
const UNHEALTHY_AFTER: u32 = 2;

/// What the checks have found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) health: Health,
    /// What the last check said, for people.
    pub(crate) detail: String,
}

/// Turns results of checks into a state.
#[derive(Debug)]
pub(crate) struct Judge {
    found: Found,
    failures: u32,
}

impl Judge {
    pub(crate) fn new() -> Self {
        let detail = "not checked yet".to_owned();
        Self {
            found: Found {
                health: Health::Starting,
                detail,
            },
            failures: 0,
        }
    }

    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Takes in one result. True: the health has changed.
    pub(crate) fn observe(&mut self, result: Result<(), String>) -> bool {
        let before = self.found.health;
        match result {
            Ok(()) => {
                self.failures = 0;
                self.found = Found {
                    health: Health::Healthy,
                    detail: "ok".to_owned(),
                };
            }
            Err(detail) => {
                self.failures = self.failures.saturating_add(1);
                self.found.detail = detail;
                if self.failures >= UNHEALTHY_AFTER && before == Health::Healthy {
                    self.found.health = Health::Unhealthy;
                }
            }
        }
        self.found.health != before
    }
}

/// Asks once.
///
/// Errors: what went wrong, for people.
pub(crate) async fn probe(check: &HealthCheck, program: IpAddr, port: u16) -> Result<(), String> {
    let address = SocketAddr::new(program, port);
    let asking = async {
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        match &check.probe {
            HealthProbe::Tcp => Ok(()),
            HealthProbe::Http { path } => ask(socket, address, path).await,
            HealthProbe::Grpc { service } => grpc::ask(socket, address, service).await,
        }
    };
    let limit = check.timeout.max(Duration::from_millis(1));
    timeout(limit, asking)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
        .map_err(|error| format!("{address}: {error}"))
}

async fn ask(socket: TcpStream, address: SocketAddr, path: &str) -> Result<(), String> {
    let answer = async {
        let program = ProgramConnection::new(socket);
        let mut fields = Fields::new();
        for (name, value) in [
            ("host", address.to_string()),
            ("user-agent", "isthmus".to_owned()),
        ] {
            // Both are plain text.
            let _ = fields.push(name, value);
        }
        let head = RequestHead {
            method: "GET".into(),
            target: path.to_owned().into(),
            version: Version::Http11,
            fields,
        };
        let mut exchange = program.begin(&head, Body::None)?;
        let (reply, request) = exchange.split();
        request.end(None).await?;
        loop {
            let (head, _) = reply.head().await?;
            if head.status != 100 {
                return Ok::<_, HttpError>(head.status);
            }
        }
    };
    match answer.await {
        Ok(200..=399) => Ok(()),
        Ok(status) => Err(format!("GET {path} answered {status}")),
        Err(error) => Err(format!("GET {path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_success_heals_and_two_failures_in_a_row_hurt() {
        let mut judge = Judge::new();
        let mut step = |result: Result<(), &str>| {
            judge.observe(result.map_err(str::to_owned));
            judge.found().health
        };
        assert_eq!(step(Err("refused")), Health::Starting);
        assert_eq!(
            step(Err("refused")),
            Health::Starting,
            "it has never been healthy"
        );
        assert_eq!(step(Ok(())), Health::Healthy);
        assert_eq!(step(Err("refused")), Health::Healthy);
        assert_eq!(step(Ok(())), Health::Healthy);
        assert_eq!(step(Err("refused")), Health::Healthy, "not in a row");
        assert_eq!(step(Err("refused")), Health::Unhealthy);
        assert_eq!(step(Ok(())), Health::Healthy);
    }
}
