//! What was typed of commands about requests: `load` and `explain`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use isthmus_model::{ClusterName, ServiceName};

/// A request, as somebody would send it.
#[derive(Debug, ClapArgs)]
pub(crate) struct RequestArgs {
    /// Service that is called
    #[arg(value_name = "NAMESPACE/NAME")]
    pub(crate) service: ServiceName,
    /// Cluster of the caller [default: --cluster]
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) from: Option<ClusterName>,
    /// Port of the service [default: its first]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    pub(crate) method: http::Method,
    /// Path and query
    #[arg(long, default_value = "/", value_name = "PATH", value_parser = path)]
    pub(crate) path: String,
    /// Header of the request; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) header: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Requests started in each second, whatever becomes of those before
    #[arg(long, default_value = "10", value_name = "PER SECOND", value_parser = rate)]
    pub(crate) rate: NonZeroU32,
    /// How long requests are started, such as 30s or 5m
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub(crate) duration: String,
    /// A request without a whole reply after this long has failed
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) timeout: String,
    /// Length of each request's body
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) body_bytes: usize,
    /// Write one JSON line for each request
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Exit 0 even if requests failed
    #[arg(long)]
    pub(crate) allow_failures: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Service that calls: one of its proxies is asked
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) source: ServiceName,
}

/// More than one process can send: a larger number is a slip.
const MOST_PER_SECOND: u32 = 100_000;

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text.parse().ok();
    rate.filter(|rate: &NonZeroU32| rate.get() <= MOST_PER_SECOND)
        .ok_or_else(|| format!("write a whole number from 1 to {MOST_PER_SECOND}"))
}

fn path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("a path begins with /".to_owned());
    }
    http::uri::PathAndQuery::try_from(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
