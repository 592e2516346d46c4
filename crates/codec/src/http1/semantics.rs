//! What a head means to a proxy: its target, the life of its connection, its hop-by-hop fields.

use bytes::Bytes;

use super::{Malformed, RequestHead, ResponseHead, Version};
use crate::fields::marks;
use crate::{Fields, syntax};

/// What a request is aimed at (RFC 9112 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Path with query; the authority is the Host field's.
    Origin { path: Bytes },
    /// `http://authority/path`, as clients write to a proxy; the path is in origin-form.
    Absolute { authority: Bytes, path: Bytes },
    /// `host:port`, for CONNECT only.
    Authority(Bytes),
    /// `*`, for OPTIONS only.
    Asterisk,
}

impl Target {
    /// Errors: [`Malformed::Target`] or [`Malformed::Scheme`].
    pub fn parse(method: &[u8], target: &Bytes) -> Result<Self, Malformed> {
        if method == b"CONNECT" {
            return connect(target);
        }
        if target == "*" {
            let allowed = method == b"OPTIONS";
            return if allowed {
                Ok(Self::Asterisk)
            } else {
                Err(Malformed::Target)
            };
        }
        if target.starts_with(b"/") {
            let path = target.clone();
            let valid = syntax::is_path(&path);
            return if valid {
                Ok(Self::Origin { path })
            } else {
                Err(Malformed::Target)
            };
        }
        absolute(method, target)
    }
}

fn connect(target: &Bytes) -> Result<Target, Malformed> {
    let colon = target
        .iter()
        .rposition(|&byte| byte == b':')
        .ok_or(Malformed::Target)?;
    let port = std::str::from_utf8(&target[colon + 1..])
        .ok()
        .and_then(|digits| digits.parse::<u16>().ok());
    if colon == 0 || port.is_none() || !syntax::is_authority(target) {
        return Err(Malformed::Target);
    }
    Ok(Target::Authority(target.clone()))
}

fn absolute(method: &[u8], target: &Bytes) -> Result<Target, Malformed> {
    const SCHEME: &[u8] = b"http://";
    let scheme_end = target
        .windows(3)
        .position(|window| window == b"://")
        .ok_or(Malformed::Target)?;
    if !target[..scheme_end + 3].eq_ignore_ascii_case(SCHEME) {
        return Err(Malformed::Scheme);
    }
    let rest = target.slice(SCHEME.len()..);
    let split = rest
        .iter()
        .position(|byte| b"/?#".contains(byte))
        .unwrap_or(rest.len());
    let (authority, path) = (rest.slice(..split), rest.slice(split..));
    let path = match path.first() {
        None if method == b"OPTIONS" => Bytes::from_static(b"*"),
        None => Bytes::from_static(b"/"),
        Some(b'?') => [b"/", path.as_ref()].concat().into(),
        Some(_) => path,
    };
    if !syntax::is_authority(&authority) || !syntax::is_path(&path) {
        return Err(Malformed::Target);
    }
    Ok(Target::Absolute { authority, path })
}

impl RequestHead {
    /// May another request follow on this connection (RFC 9112 section 9.3)?
    pub fn keep_alive(&self) -> bool {
        keep_alive(self.version, &self.fields)
    }

    /// Does the client wait for `100 Continue` before it sends the body (RFC 9110 section 10.1.1)?
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11
            && self
                .fields
                .members("expect")
                .any(|word| word.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Does the client ask for another protocol on this connection (RFC 9110 section 7.8)?
    pub fn asks_upgrade(&self) -> bool {
        self.fields.contains("upgrade") && names(&self.fields, b"upgrade")
    }
}

impl ResponseHead {
    /// May another request be sent on this connection? A body that lasts until the connection
    /// ends says no as well.
    pub fn keep_alive(&self) -> bool {
        keep_alive(self.version, &self.fields)
    }
}

fn keep_alive(version: Version, fields: &Fields) -> bool {
    !names(fields, b"close") && (version == Version::Http11 || names(fields, b"keep-alive"))
}

fn names(fields: &Fields, option: &[u8]) -> bool {
    fields
        .members("connection")
        .any(|word| word.eq_ignore_ascii_case(option))
}

/// Removes what concerns only one connection (RFC 9110 section 7.6.1): the fields that Connection
/// names, and the known ones whether named or not. `TE: trailers` stays, since it is true end to
/// end in the mesh; Host and Content-Length stay even if named, since taking them away would
/// change what the message is.
pub fn strip_hop_by_hop(fields: &mut Fields) {
    if !fields.may_have(marks(&OF_CONNECTION)) {
        return;
    }
    let trailers = fields
        .members("te")
        .any(|word| word.eq_ignore_ascii_case(b"trailers"));
    let present = |option: &[u8]| {
        let mut names = fields.iter().map(|(name, _)| name);
        names.any(|name| name.eq_ignore_ascii_case(option))
    };
    let named: Vec<Vec<u8>> = fields
        .members("connection")
        .filter(|option| !is_of_connection(option) && !is_of_message(option) && present(option))
        .map(<[u8]>::to_vec)
        .collect();
    fields.retain(|name, _| {
        let option = || named.iter().any(|option| name.eq_ignore_ascii_case(option));
        !is_of_connection(name) && !option()
    });
    if trailers {
        fields
            .push("te", "trailers")
            .expect("both are literals without control characters");
    }
}

/// Whatever Connection names, this stays.
fn is_of_message(name: &[u8]) -> bool {
    is_one_of(name, &["host", "content-length"])
}

/// Whether Connection names it or not, this goes.
const OF_CONNECTION: [&str; 9] = [
    "te",
    "upgrade",
    "connection",
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "transfer-encoding",
    "proxy-authenticate",
    "proxy-authorization",
];

fn is_of_connection(name: &[u8]) -> bool {
    is_one_of(name, &OF_CONNECTION)
}

fn is_one_of(name: &[u8], list: &[&str]) -> bool {
    list.iter()
        .any(|entry| name.eq_ignore_ascii_case(entry.as_bytes()))
}
