//! What authorities name: a service of the mesh, or a host outside it.

use std::cell::RefCell;

use foldhash::HashMap;
use isthmus_model::{Host, ServiceName};
use isthmus_telemetry::RefusalReason;

use crate::refusal::Refusal;

/// Authorities that a worker remembers.
const MOST: usize = 256;

/// What an authority names.
pub(crate) enum Named<'a> {
    /// The port that a URL does not show is the service's own default.
    Service(ServiceName, Option<u16>),
    Outside(&'a str, Option<u16>),
}

/// Services by the authorities that named them last, as one worker's callers write them. A caller
/// names few, again and again.
#[derive(Default)]
pub(crate) struct Names(RefCell<HashMap<Box<[u8]>, Service>>);

/// A service, and the port that stands behind it.
type Service = (ServiceName, Option<u16>);

impl Names {
    /// Errors: it names nothing.
    pub(crate) fn detect<'a>(&self, authority: &'a [u8]) -> Result<Named<'a>, Refusal> {
        if let Some((service, port)) = self.0.borrow().get(authority) {
            return Ok(Named::Service(service.clone(), *port));
        }
        let text = std::str::from_utf8(authority).unwrap_or_default();
        match Host::parse(text) {
            Host::Service { service, port } => {
                let mut known = self.0.borrow_mut();
                if known.len() >= MOST {
                    known.clear();
                }
                known.insert(authority.into(), (service.clone(), port));
                Ok(Named::Service(service, port))
            }
            Host::Outside { host, port } => Ok(Named::Outside(host, port)),
            Host::Nowhere => {
                let detail = format!("{text:?} is not a name of this mesh");
                Err(Refusal::new(RefusalReason::ForeignDestination, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_once_is_known_and_no_more_than_so_many_are() {
        let names = Names::default();
        let service = ServiceName::new("shop", "cart").unwrap();
        for _ in 0..2 {
            for (authority, expect) in [
                ("cart.shop.mesh", Some(None)),
                ("CART.shop.mesh:80", Some(Some(80))),
                ("cart.shop.mesh:x", None),
                ("example.com", None),
            ] {
                let found = match names.detect(authority.as_bytes()) {
                    Ok(Named::Service(found, port)) if found == service => Some(port),
                    _ => None,
                };
                assert_eq!(found, expect, "{authority}");
            }
        }
        assert_eq!(names.0.borrow().len(), 2, "only services are remembered");
        for port in 0..u16::MAX {
            let _ = names.detect(format!("cart.shop.mesh:{port}").as_bytes());
            assert!(names.0.borrow().len() <= MOST);
        }
    }
}
