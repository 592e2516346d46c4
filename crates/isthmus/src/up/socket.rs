//! What is said over `up.sock`: one JSON request a line, one JSON reply.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// What a running `up` can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Link {
        between: (String, String),
        mode: LinkMode,
    },
    KillCluster {
        cluster: String,
    },
    StartCluster {
        cluster: String,
    },
    /// `None`: every control plane.
    KillControl {
        cluster: Option<String>,
    },
    StartControl {
        cluster: Option<String>,
    },
    /// `cluster/name` of a proxy or gateway.
    Restart {
        process: String,
    },
    Down,
    Links,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LinkMode {
    Open,
    Cut,
    BlackHole,
    /// What the first end sends is lost.
    Silent,
    /// What the second does.
    SilentBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    Done { message: String },
    Refused { what: String, next: String },
    Links { links: Vec<LinkStatus> },
    Status(UpStatus),
}

/// How far `up` is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UpStatus {
    pub(crate) pid: u32,
    pub(crate) ready: bool,
    /// What readiness waits for.
    pub(crate) waiting: Vec<String>,
    /// What a person should know, such as files that differ from the mesh.
    #[serde(default)]
    pub(crate) remarks: Vec<String>,
    pub(crate) processes: Vec<ProcessStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessStatus {
    pub(crate) cluster: String,
    pub(crate) name: String,
    pub(crate) state: String,
}

/// A link between two clusters and what its relay has carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkStatus {
    pub(crate) name: String,
    pub(crate) mode: LinkMode,
    /// Connections since the mesh was started.
    pub(crate) connections: u64,
    /// Of these: open now.
    pub(crate) open: u64,
    /// Delivered towards those who were connected to.
    pub(crate) bytes_out: u64,
    /// Delivered back to those who connected.
    pub(crate) bytes_back: u64,
}

/// Longest request.
const LONGEST_LINE: u64 = 64 * 1024;

/// Asks the `up` behind `socket`.
pub(crate) async fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket).await?;
    send(&mut stream, request).await?;
    receive(&mut stream).await
}

pub(crate) async fn send<T: Serialize>(stream: &mut UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

pub(crate) async fn receive<T: for<'de> Deserialize<'de>>(
    stream: &mut UnixStream,
) -> io::Result<T> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream).take(LONGEST_LINE);
    reader.read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_stable_json() {
        for (request, text) in [
            (Request::Down, r#"{"do":"down"}"#),
            (
                Request::Link {
                    between: ("a".to_owned(), "b".to_owned()),
                    mode: LinkMode::BlackHole,
                },
                r#"{"do":"link","between":["a","b"],"mode":"black-hole"}"#,
            ),
            (
                Request::KillControl { cluster: None },
                r#"{"do":"kill-control","cluster":null}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
    }
}
