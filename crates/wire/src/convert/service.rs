//! Services and their ports.

use isthmus_model::{AppProtocol, Service, ServicePort};

use crate::body::BodyError;
use crate::field::{Parsed, all, optional, parse_all, port_number, service_name, strings};
use crate::proto;

impl From<&Service> for proto::Service {
    fn from(service: &Service) -> Self {
        Self {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            ports: service.ports.iter().map(Into::into).collect(),
            accounts: strings(&service.accounts),
            exported: service.exported,
        }
    }
}

impl TryFrom<proto::Service> for Service {
    type Error = BodyError;

    fn try_from(service: proto::Service) -> Parsed<Self> {
        if service.ports.is_empty() {
            return Err(BodyError::field(
                "service.ports",
                "a service has at least one port",
            ));
        }
        if service.accounts.is_empty() {
            return Err(BodyError::field(
                "service.accounts",
                "a service has at least one account",
            ));
        }
        Ok(Self {
            name: service_name("service", &service.namespace, &service.name)?,
            ports: all(service.ports)?,
            accounts: parse_all("service.accounts", &service.accounts)?,
            exported: service.exported,
        })
    }
}

impl From<&ServicePort> for proto::Port {
    fn from(port: &ServicePort) -> Self {
        Self {
            name: port
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            port: port.port.into(),
            target_port: port.target_port.into(),
            protocol: match port.protocol {
                AppProtocol::Http1 => proto::Protocol::Http1,
                AppProtocol::Http2 => proto::Protocol::Http2,
                AppProtocol::Tcp | AppProtocol::Undeclared => proto::Protocol::Tcp,
            }
            .into(),
            undeclared: port.protocol == AppProtocol::Undeclared,
        }
    }
}

impl TryFrom<proto::Port> for ServicePort {
    type Error = BodyError;

    fn try_from(port: proto::Port) -> Parsed<Self> {
        Ok(Self {
            protocol: match port.protocol() {
                proto::Protocol::Http1 => AppProtocol::Http1,
                proto::Protocol::Http2 => AppProtocol::Http2,
                proto::Protocol::Tcp if port.undeclared => AppProtocol::Undeclared,
                proto::Protocol::Tcp => AppProtocol::Tcp,
                proto::Protocol::Unspecified => {
                    return Err(BodyError::field("port.protocol", "not a known protocol"));
                }
            },
            name: optional("port.name", &port.name)?,
            port: port_number("port.port", port.port)?,
            target_port: port_number("port.target_port", port.target_port)?,
        })
    }
}
