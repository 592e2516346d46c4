//! What of a request decides that it goes where others have gone: a header, a cookie, who asks.

use std::net::IpAddr;
use std::time::Duration;

use isthmus_balance::hash_key;
use isthmus_codec::Fields;
use isthmus_model::{Algorithm, CookieName, HashOn, TrafficSettings};

use crate::journey::lossy;

/// The key of a request, for the algorithms that hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Affinity {
    key: u64,
    /// The cookie by which the client says it from now on, as `Set-Cookie` has it.
    issued: Option<String>,
}

impl Affinity {
    /// `None`: the policy hashes nothing, or the request has not got what it hashes. `source`: who asks;
    /// whoever calls here runs beside this proxy. `draw`: what a client is given that has no cookie yet.
    pub(super) fn of(
        fields: &Fields,
        settings: &TrafficSettings,
        source: IpAddr,
        draw: u64,
    ) -> Option<Self> {
        if !matches!(settings.algorithm, Algorithm::RingHash | Algorithm::Maglev) {
            return None;
        }
        let known = |text: &str| Self {
            key: hash_key(text),
            issued: None,
        };
        match &settings.hash_on {
            HashOn::Header(name) => Some(known(&lossy(fields.find(name.as_str())?))),
            HashOn::Cookie { name, ttl } => match (cookie(fields, name), ttl) {
                (Some(value), _) => Some(known(&lossy(value))),
                (None, Some(ttl)) => Some(Self::issued(name, *ttl, draw)),
                (None, None) => None,
            },
            HashOn::Source => Some(known(&source.to_string())),
        }
    }

    fn issued(name: &CookieName, ttl: Duration, draw: u64) -> Self {
        let value = format!("{draw:016x}");
        let age = match ttl.as_millis().div_ceil(1000) {
            0 => String::new(),
            seconds => format!("; Max-Age={seconds}"),
        };
        Self {
            key: hash_key(&value),
            issued: Some(format!("{name}={value}{age}; Path=/; HttpOnly")),
        }
    }

    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Gives the client its cookie with this reply.
    pub(super) fn answer(&self, reply: &mut Fields) {
        if let Some(issued) = &self.issued {
            // Tokens, digits and separators are a value.
            let _ = reply.push("set-cookie", issued.clone());
        }
    }
}

/// The value of one cookie (RFC 6265 section 5.4).
fn cookie<'f>(fields: &'f Fields, name: &CookieName) -> Option<&'f [u8]> {
    let pairs = fields
        .find_all("cookie")
        .flat_map(|value| value.split(|&byte| byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_str().as_bytes())?;
        value.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn of(cookies: &str, ttl: Option<Duration>) -> Option<Affinity> {
        let mut fields = Fields::new();
        fields.push("cookie", cookies.to_owned()).unwrap();
        let name = "session".parse().unwrap();
        let settings = TrafficSettings {
            algorithm: Algorithm::Maglev,
            hash_on: HashOn::Cookie { name, ttl },
            ..TrafficSettings::default()
        };
        Affinity::of(&fields, &settings, Ipv4Addr::LOCALHOST.into(), 0xabc)
    }

    #[test]
    fn who_has_no_cookie_is_given_one_that_leads_to_the_same_place() {
        assert_eq!(of("a=1", None), None);
        assert_eq!(of("session2=1; xsession=2", None), None);
        for (ttl, expect) in [
            (0, "session=0000000000000abc; Path=/; HttpOnly"),
            (1, "session=0000000000000abc; Max-Age=1; Path=/; HttpOnly"),
            (
                90_000,
                "session=0000000000000abc; Max-Age=90; Path=/; HttpOnly",
            ),
        ] {
            let ttl = Some(Duration::from_millis(ttl));
            let issued = of("a=1", ttl).unwrap();
            let mut reply = Fields::new();
            issued.answer(&mut reply);
            assert_eq!(reply.find("set-cookie").unwrap(), expect);
            let again = of("a=1; session=0000000000000abc", ttl).unwrap();
            assert_eq!(again.key(), issued.key());
            assert_eq!(again.issued, None);
        }
    }
}
