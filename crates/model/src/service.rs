//! Services: what callers call.

use std::fmt;
use std::str::FromStr;

use crate::{AccountName, NameError, Namespace, PortName, ServiceLabel};

/// `namespace/name`. Written so on the command line; as a host it is `<name>.<namespace>.mesh`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: Namespace,
    pub name: ServiceLabel,
}

impl ServiceName {
    /// Errors: `namespace` or `name` is not an RFC 1123 label.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            namespace: Namespace::new(namespace)?,
            name: ServiceLabel::new(name)?,
        })
    }

    /// The name under which every cluster's callers reach the service.
    pub fn host(&self) -> String {
        format!("{}.{}.mesh", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.namespace, self.name))
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    /// `namespace/name`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or(NameError::NoNamespace)?;
        Self::new(namespace, name)
    }
}

/// What the authority of a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A service of the mesh, by `<service>.<namespace>.mesh` or
    /// `<service>.<namespace>.svc.clusterset.local` (KEP-1645).
    Service {
        service: ServiceName,
        port: Option<u16>,
    },
    /// Any other host: outside the mesh.
    Foreign,
}

impl Host {
    /// Reads `host[:port]` as it stands in an HTTP authority. Letter case and one trailing dot do
    /// not matter. A name that ends like one of the mesh but is none is `Foreign`.
    pub fn parse(authority: &str) -> Self {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, digits)) => match digits.parse::<u16>() {
                Ok(port) => (host, Some(port)),
                Err(_) => return Self::Foreign,
            },
            None => (authority, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let name = host
            .strip_suffix(".mesh")
            .or_else(|| host.strip_suffix(".svc.clusterset.local"));
        match name.and_then(|name| name.split_once('.')) {
            Some((service, namespace)) => match ServiceName::new(namespace, service) {
                Ok(service) => Self::Service { service, port },
                Err(_) => Self::Foreign,
            },
            None => Self::Foreign,
        }
    }
}

/// What a program speaks on a port, and so how its callers' bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1. Callers may speak HTTP/2 all the same: proxies translate.
    Http1,
    /// HTTP/2 without TLS and with prior knowledge (RFC 9113 section 3.3), as gRPC uses it. Callers
    /// may speak HTTP/1.1 all the same.
    Http2,
    /// Opaque bytes.
    Tcp,
    /// Nobody has said. Proxies may look at what a client says first; to everything else these are opaque
    /// bytes.
    Undeclared,
}

impl AppProtocol {
    /// Does the port carry HTTP messages, of whichever version?
    pub fn is_http(self) -> bool {
        match self {
            Self::Http1 | Self::Http2 => true,
            Self::Tcp | Self::Undeclared => false,
        }
    }
}

/// One port of a service: callers use `port`, programs listen on `target_port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Option<PortName>,
    pub port: u16,
    pub target_port: u16,
    pub protocol: AppProtocol,
}

/// A service as declared. Which clusters run it is a fact, not part of the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: ServiceName,
    /// Never empty; port numbers are distinct.
    pub ports: Vec<ServicePort>,
    /// Accounts that its workloads may run as; `manifest` fills in the account of the service's
    /// own name when none is declared. Never empty.
    pub accounts: Vec<AccountName>,
    /// True when a ServiceExport stretches it over clusters.
    pub exported: bool,
}

impl Service {
    /// The port that a caller means: the number given, else the one called `http`, else the first.
    pub fn find_port(&self, wanted: Option<u16>) -> Option<&ServicePort> {
        match wanted {
            Some(number) => self.ports.iter().find(|port| port.port == number),
            None => {
                let named = |port: &&ServicePort| {
                    port.name
                        .as_ref()
                        .is_some_and(|name| name.as_str() == "http")
                };
                self.ports.iter().find(named).or(self.ports.first())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let cart = ServiceName::new("shop", "cart").unwrap();
        let mesh = |port| Host::Service {
            service: cart.clone(),
            port,
        };
        for (text, expect) in [
            ("cart.shop.mesh", mesh(None)),
            ("Cart.Shop.Mesh.", mesh(None)),
            ("cart.shop.mesh:8080", mesh(Some(8080))),
            ("cart.shop.svc.clusterset.local", mesh(None)),
            ("cart.shop.mesh:http", Host::Foreign),
            ("cart.mesh", Host::Foreign),
            ("a.cart.shop.mesh", Host::Foreign),
            ("example.com:80", Host::Foreign),
            ("[::1]:80", Host::Foreign),
            ("", Host::Foreign),
        ] {
            assert_eq!(Host::parse(text), expect, "{text}");
        }
        assert_eq!(cart.host(), "cart.shop.mesh");
    }
}
