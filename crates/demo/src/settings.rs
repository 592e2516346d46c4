//! What was typed (`Arguments`), and what it means (`Settings`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

/// A program of the isthmus demo shop.
#[derive(Debug, Parser)]
#[command(name = "isthmus-demo", disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Which program to be.
    #[arg(value_enum)]
    program: Program,

    /// Where to listen; port 0 takes a free one. Default: ISTHMUS_ADDRESS and PORT.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    #[arg(long, env = "ISTHMUS_ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), hide = true)]
    address: IpAddr,

    #[arg(long, env = "PORT", default_value_t = 8080, hide = true)]
    port: u16,

    /// Version to report, as a rollout would change it.
    #[arg(long, default_value = "v1")]
    version: String,

    /// Cluster to report.
    #[arg(long, env = "ISTHMUS_CLUSTER", default_value = "local")]
    cluster: String,

    /// Service to report, `name` or `namespace/name`. Default: the program's own name.
    #[arg(long, env = "ISTHMUS_SERVICE")]
    service: Option<String>,

    /// Visits per second of a shopper.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,

    #[arg(long, env = "http_proxy", hide = true)]
    proxy_lower: Option<String>,

    /// HTTP proxy to call other services through.
    #[arg(long = "proxy", env = "HTTP_PROXY", value_name = "URL")]
    proxy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    Frontend,
    Cart,
    Catalog,
    Payment,
    /// Visits the frontend.
    Shopper,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Cart => "cart",
            Self::Catalog => "catalog",
            Self::Payment => "payment",
            Self::Shopper => "shopper",
        }
    }

    /// Services that its first page is made of.
    pub(crate) fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Frontend => &["cart", "catalog", "payment"],
            Self::Cart | Self::Catalog | Self::Payment | Self::Shopper => &[],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) program: Program,
    pub(crate) listen: SocketAddr,
    /// Without its namespace.
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) cluster: String,
    /// `host:port` of the proxy for outgoing calls.
    pub(crate) proxy: Option<String>,
    /// Visits per second; never 0.
    pub(crate) rate: u32,
}

impl Settings {
    pub(crate) fn resolve(arguments: Arguments) -> anyhow::Result<Self> {
        let named = arguments.service.as_deref().unwrap_or_default();
        let service = match named.rsplit('/').next() {
            None | Some("") => arguments.program.name(),
            Some(name) => name,
        };
        let proxy = arguments.proxy_lower.or(arguments.proxy);
        let proxy = proxy.filter(|url| !url.is_empty());
        Ok(Self {
            program: arguments.program,
            listen: arguments
                .listen
                .unwrap_or(SocketAddr::new(arguments.address, arguments.port)),
            service: service.to_owned(),
            version: arguments.version,
            cluster: arguments.cluster,
            rate: arguments.rate,
            proxy: proxy.as_deref().map(proxy_address).transpose()?,
        })
    }

    /// The value of `x-served-by`.
    pub(crate) fn served_by(&self) -> String {
        format!("{}/{}/{}", self.service, self.version, self.cluster)
    }
}

/// `host:port` of a proxy URL, whose scheme may be left out.
fn proxy_address(url: &str) -> anyhow::Result<String> {
    let host = url.strip_prefix("http://").unwrap_or(url);
    let authority: http::uri::Authority = host
        .trim_end_matches('/')
        .parse()
        .with_context(|| format!("HTTP_PROXY={url:?} is not http://<host>:<port>"))?;
    let port = authority.port_u16().unwrap_or(80);
    Ok(format!("{}:{port}", authority.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(extra: &[&str]) -> anyhow::Result<Settings> {
        let typed = ["isthmus-demo", "cart"].iter().chain(extra);
        Settings::resolve(Arguments::try_parse_from(typed)?)
    }

    #[test]
    fn proxies() {
        for (url, expect) in [
            ("http://127.0.0.1:15001", Some("127.0.0.1:15001")),
            ("http://127.0.0.1:15001/", Some("127.0.0.1:15001")),
            ("localhost:15001", Some("localhost:15001")),
            ("http://proxy", Some("proxy:80")),
            ("https://proxy:1/x", None),
            ("http://", None),
        ] {
            let proxy = resolve(&["--proxy", url]).map(|settings| settings.proxy);
            assert_eq!(proxy.ok().flatten().as_deref(), expect, "{url}");
        }
    }

    #[test]
    fn names() {
        for (typed, expect) in [
            (&["--cluster", "west"][..], "cart/v1/west"),
            (&["--cluster", "west", "--version", "v2"], "cart/v2/west"),
            (
                &["--cluster", "west", "--service", "shop/basket"],
                "basket/v1/west",
            ),
        ] {
            assert_eq!(resolve(typed).unwrap().served_by(), expect);
        }
    }
}
