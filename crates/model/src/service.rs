//! Services: what callers call.

use std::fmt;
use std::net::Ipv6Addr;
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
pub enum Host<'a> {
    /// A service of the mesh, by `<service>.<namespace>.mesh` or
    /// `<service>.<namespace>.svc.clusterset.local` (KEP-1645).
    Service {
        service: ServiceName,
        port: Option<u16>,
    },
    /// A name or an address outside the mesh; that of IPv6 in brackets.
    Outside { host: &'a str, port: Option<u16> },
    /// Ends like the names of services and is none, or is no host at all. Leads nowhere.
    Nowhere,
}

impl<'a> Host<'a> {
    /// Reads `host[:port]` as it stands in an HTTP authority. Letter case and one trailing dot do
    /// not matter.
    pub fn parse(authority: &'a str) -> Self {
        let (host, port) = match authority.rsplit_once(':') {
            // The colons in brackets are the address's own.
            Some((_, digits)) if digits.ends_with(']') => (authority, None),
            Some((host, digits)) => match digits.parse::<u16>() {
                Ok(port) => (host, Some(port)),
                Err(_) => return Self::Nowhere,
            },
            None => (authority, None),
        };
        let Some(name) = in_mesh(host.strip_suffix('.').unwrap_or(host)) else {
            return if is_host(host) {
                Self::Outside { host, port }
            } else {
                Self::Nowhere
            };
        };
        let name = name.to_ascii_lowercase();
        let named = name.split_once('.');
        match named.map(|(service, namespace)| ServiceName::new(namespace, service)) {
            Some(Ok(service)) => Self::Service { service, port },
            Some(Err(_)) | None => Self::Nowhere,
        }
    }
}

/// What stands before the end that names of services have in common.
fn in_mesh(host: &str) -> Option<&str> {
    [".mesh", ".svc.clusterset.local"].iter().find_map(|end| {
        let (name, rest) = host.split_at_checked(host.len().checked_sub(end.len())?)?;
        rest.eq_ignore_ascii_case(end).then_some(name)
    })
}

/// Is this what somebody could know the address of?
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_part);
    // RFC 1035 section 2.3.4.
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= 253 && name.split('.').all(is_label)
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
        let outside = |host, port| Host::Outside { host, port };
        for (text, expect) in [
            ("cart.shop.mesh", mesh(None)),
            ("Cart.Shop.Mesh.", mesh(None)),
            ("cart.shop.mesh:8080", mesh(Some(8080))),
            ("cart.shop.svc.clusterset.local", mesh(None)),
            ("cart.shop.mesh:http", Host::Nowhere),
            ("cart.mesh", Host::Nowhere),
            (".mesh", Host::Nowhere),
            ("a.cart.shop.mesh", Host::Nowhere),
            ("A.Cart.Shop.Mesh.", Host::Nowhere),
            ("shop.SVC.clusterset.local:80", Host::Nowhere),
            ("mesh", outside("mesh", None)),
            ("example.com:80", outside("example.com", Some(80))),
            ("Example.com.", outside("Example.com.", None)),
            ("a_b.example", outside("a_b.example", None)),
            ("192.0.2.1:8080", outside("192.0.2.1", Some(8080))),
            ("[::1]:80", outside("[::1]", Some(80))),
            ("[2001:db8::1]", outside("[2001:db8::1]", None)),
            ("example.com..", Host::Nowhere),
            ("example..com", Host::Nowhere),
            ("example.com:", Host::Nowhere),
            ("example.com:65536", Host::Nowhere),
            ("::1", Host::Nowhere),
            ("[::1", Host::Nowhere),
            ("[cart.shop.mesh]", Host::Nowhere),
            ("a%2eb", Host::Nowhere),
            ("\u{e9}.example", Host::Nowhere),
            ("\u{e9}mesh", Host::Nowhere),
            ("", Host::Nowhere),
        ] {
            assert_eq!(Host::parse(text), expect, "{text}");
        }
        assert_eq!(cart.host(), "cart.shop.mesh");
    }
}
