//! What answers the beginning of a stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isthmus_model::Handle;

use super::open::handle;
use super::{MAX_TEXT, MAX_TRACE};
use crate::codes::codes;
use crate::typed::{
    DecodeError, Entries, Entry, Need, fields_length, put, put_fields, put_integer, put_number,
    take_integer,
};
use crate::{Fields, syntax};

/// What answers an [`super::Open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a request.
    Response(Response),
    /// To a TCP connection: the program has accepted it.
    Accepted,
    /// To a tunnel.
    Tunnel(TunnelReply),
}

/// The head of an HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 999, or 101 to a request that asked for it; see [`Interim`] for what comes before.
    pub status: u16,
    /// Without hop-by-hop fields.
    pub fields: Fields,
    /// How busy the workload is.
    pub utilisation: Option<Utilisation>,
    /// How long the request waited until its program could take it; travels in microseconds.
    pub waited: Option<Duration>,
    /// Another try would do harm or no good, whatever the status says.
    pub do_not_retry: bool,
    /// Why the callee's proxy, not its program, answered so; a reason in the words of refusals.
    pub refusal: Option<Bytes>,
    /// The protocol that is changed to, of a reply with status 101.
    pub upgrade: Option<Bytes>,
}

/// A response that is none yet: a hint, such as 103 (Early Hints, RFC 8297). Any number up to
/// [`crate::mux::MAX_INTERIMS`] of them come before the [`Response`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interim {
    /// 102 to 199. Those that are about the connection, 100 and 101, do not travel so.
    pub status: u16,
    /// Without hop-by-hop fields.
    pub fields: Fields,
}

/// What a gateway says to a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelReply {
    /// The bytes that follow are those of the workload's mesh port.
    Open {
        handle: Handle,
        zone: Option<String>,
        /// Relative to the other workloads of the service in that cluster.
        weight: u32,
    },
    Refused {
        code: RefusalCode,
        /// A sentence for people, at most 1024 bytes.
        detail: String,
    },
}

codes! {
    /// Why a gateway opens no tunnel.
    pub enum RefusalCode {
        NoSuchService = 1 => "no-such-service",
        NotExported = 2 => "not-exported",
        NoHealthyWorkload = 3 => "no-healthy-workload",
        WrongCluster = 4 => "wrong-cluster",
        HopLimit = 5 => "hop-limit",
        Draining = 6 => "draining",
        Overloaded = 7 => "overloaded",
        NotAuthorized = 8 => "not-authorized",
    }
}

/// A share of a workload's capacity in use, in thousandths: 0 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Utilisation(u16);

impl Utilisation {
    /// What is above 1000 counts as 1000: full is full.
    pub fn of_permille(permille: u16) -> Self {
        Self(permille.min(1000))
    }

    /// 0.0 to 1.0; what is beyond counts as the nearer of the two, what is no number as idle.
    pub fn of_fraction(fraction: f64) -> Self {
        // Saturates, and makes 0 of what is no number.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "see above"
        )]
        Self::of_permille((fraction * 1000.0).round() as u16)
    }

    pub fn permille(self) -> u16 {
        self.0
    }

    /// 0.0 to 1.0.
    pub fn fraction(self) -> f32 {
        f32::from(self.0) / 1000.0
    }
}

/// Kinds of `Reply`.
mod kind {
    pub(super) const RESPONSE: u64 = 1;
    pub(super) const ACCEPTED: u64 = 2;
    pub(super) const TUNNEL_OPEN: u64 = 3;
    pub(super) const TUNNEL_REFUSED: u64 = 4;
    pub(super) const INTERIM: u64 = 5;
}

/// Bytes of all that is usually in a `Reply` besides header fields.
const USUAL: usize = 64;

/// Numbers of the fields of every `Reply`. A number is never used again for anything else.
mod number {
    pub(super) const STATUS: u64 = 1;
    pub(super) const FIELDS: u64 = 2;
    pub(super) const UTILISATION: u64 = 3;
    pub(super) const DO_NOT_RETRY: u64 = 4;
    pub(super) const REFUSAL: u64 = 5;
    pub(super) const UPGRADE: u64 = 6;
    pub(super) const WAITED: u64 = 7;
    pub(super) const HANDLE: u64 = 16;
    pub(super) const ZONE: u64 = 17;
    pub(super) const WEIGHT: u64 = 18;
    pub(super) const CODE: u64 = 19;
    pub(super) const DETAIL: u64 = 20;
}

impl Reply {
    /// Appends the message. Whoever sends it checks its size against [`super::MAX_HEAD`].
    pub fn encode(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.encoded());
    }

    /// The message by itself.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let fields = match self {
            Self::Response(response) => fields_length(&response.fields),
            _ => 0,
        };
        let mut out = Vec::with_capacity(USUAL + fields);
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Response(response) => response.encode(out),
            Self::Accepted => put_integer(out, kind::ACCEPTED),
            Self::Tunnel(TunnelReply::Open {
                handle,
                zone,
                weight,
            }) => {
                put_integer(out, kind::TUNNEL_OPEN);
                put(
                    out,
                    number::HANDLE,
                    Need::Critical,
                    handle.as_str().as_bytes(),
                );
                if let Some(zone) = zone {
                    put(out, number::ZONE, Need::Optional, zone.as_bytes());
                }
                put_number(out, number::WEIGHT, Need::Optional, (*weight).into());
            }
            Self::Tunnel(TunnelReply::Refused { code, detail }) => {
                put_integer(out, kind::TUNNEL_REFUSED);
                put_number(out, number::CODE, Need::Critical, u16::from(*code).into());
                put(
                    out,
                    number::DETAIL,
                    Need::Optional,
                    shortened(detail).as_bytes(),
                );
            }
        }
    }

    /// Reads a message that is all of `message`; byte strings share its memory.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "parts of it are what comes out"
    )]
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let mut rest = &message[..];
        let kind = take_integer(&mut rest, "the kind")?;
        let mut parts = Parts::default();
        let mut entries = Entries::new(&message, rest);
        while let Some(entry) = entries.take()? {
            parts.take(&entry)?;
        }
        match kind {
            kind::RESPONSE => parts.response(),
            kind::ACCEPTED => Ok(Self::Accepted),
            kind::TUNNEL_OPEN => parts.tunnel_open(),
            kind::TUNNEL_REFUSED => parts.tunnel_refused(),
            kind => Err(DecodeError::UnknownKind {
                message: "reply",
                kind,
            }),
        }
    }
}

impl Interim {
    /// Is this the status of a response that is none yet, and is not about the connection either?
    pub fn is_interim(status: u16) -> bool {
        matches!(status, 102..=199)
    }

    /// Appends the message. Whoever sends it checks its size against [`crate::mux::MAX_INTERIM`].
    pub fn encode(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.encoded());
    }

    /// The message by itself.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL + fields_length(&self.fields));
        put_integer(&mut out, kind::INTERIM);
        put_number(&mut out, number::STATUS, Need::Critical, self.status.into());
        put_fields(&mut out, number::FIELDS, &self.fields);
        out
    }

    /// Reads a message that is all of `message`; byte strings share its memory.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "parts of it are what comes out"
    )]
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let mut rest = &message[..];
        let kind = take_integer(&mut rest, "the kind")?;
        if kind != kind::INTERIM {
            let message = "interim";
            return Err(DecodeError::UnknownKind { message, kind });
        }
        let (mut status, mut fields) = (None, Fields::new());
        let mut entries = Entries::new(&message, rest);
        while let Some(entry) = entries.take()? {
            match entry.number {
                number::STATUS => status = Some(entry.number("status")?),
                number::FIELDS => fields = entry.fields()?,
                _ => entry.unknown()?,
            }
        }
        let status = status.ok_or(DecodeError::Missing { field: "status" })?;
        if !Self::is_interim(status) {
            return Err(DecodeError::invalid("status", "it is not 102 to 199"));
        }
        Ok(Self { status, fields })
    }
}

impl Response {
    fn encode(&self, out: &mut Vec<u8>) {
        put_integer(out, kind::RESPONSE);
        put_number(out, number::STATUS, Need::Critical, self.status.into());
        put_fields(out, number::FIELDS, &self.fields);
        if let Some(utilisation) = self.utilisation {
            put_number(
                out,
                number::UTILISATION,
                Need::Optional,
                utilisation.0.into(),
            );
        }
        if self.do_not_retry {
            put(out, number::DO_NOT_RETRY, Need::Optional, b"");
        }
        if let Some(refusal) = &self.refusal {
            put(out, number::REFUSAL, Need::Optional, refusal);
        }
        if let Some(upgrade) = &self.upgrade {
            put(out, number::UPGRADE, Need::Critical, upgrade);
        }
        if let Some(waited) = self.waited {
            let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
            put_number(out, number::WAITED, Need::Optional, micros);
        }
    }
}

/// As much of `detail` as may be sent.
fn shortened(detail: &str) -> &str {
    let end = (0..=detail.len().min(MAX_TEXT))
        .rev()
        .find(|&end| detail.is_char_boundary(end));
    &detail[..end.unwrap_or(0)]
}

/// All fields that a `Reply` of any kind can have, as they are found.
#[derive(Default)]
struct Parts {
    status: Option<u16>,
    fields: Fields,
    utilisation: Option<Utilisation>,
    do_not_retry: bool,
    refusal: Option<Bytes>,
    upgrade: Option<Bytes>,
    waited: Option<Duration>,
    handle: Option<Handle>,
    zone: Option<String>,
    weight: Option<u32>,
    code: Option<RefusalCode>,
    detail: String,
}

impl Parts {
    fn take(&mut self, entry: &Entry<'_>) -> Result<(), DecodeError> {
        match entry.number {
            number::STATUS => self.status = Some(status(entry.number("status")?)?),
            number::FIELDS => self.fields = entry.fields()?,
            number::UTILISATION => {
                let permille = entry.number("utilisation")?;
                self.utilisation = Some(Utilisation::of_permille(permille));
            }
            number::DO_NOT_RETRY => self.do_not_retry = true,
            number::REFUSAL => self.refusal = Some(line(entry, "refusal")?),
            number::UPGRADE => self.upgrade = Some(line(entry, "upgrade")?),
            number::WAITED => self.waited = Some(Duration::from_micros(entry.number("waited")?)),
            number::HANDLE => {
                self.handle = Some(handle(entry.slice("handle", MAX_TEXT)?, "handle")?);
            }
            number::ZONE => self.zone = Some(entry.text("zone", MAX_TEXT)?),
            number::WEIGHT => self.weight = Some(entry.number("weight")?),
            number::CODE => self.code = Some(RefusalCode::from(entry.number::<u16>("code")?)),
            number::DETAIL => self.detail = entry.text("detail", MAX_TEXT)?,
            _ => entry.unknown()?,
        }
        Ok(())
    }

    fn response(self) -> Result<Reply, DecodeError> {
        Ok(Reply::Response(Response {
            status: self
                .status
                .ok_or(DecodeError::Missing { field: "status" })?,
            fields: self.fields,
            utilisation: self.utilisation,
            waited: self.waited,
            do_not_retry: self.do_not_retry,
            refusal: self.refusal,
            upgrade: self.upgrade,
        }))
    }

    fn tunnel_open(self) -> Result<Reply, DecodeError> {
        Ok(Reply::Tunnel(TunnelReply::Open {
            handle: self
                .handle
                .ok_or(DecodeError::Missing { field: "handle" })?,
            zone: self.zone,
            weight: self.weight.unwrap_or(1),
        }))
    }

    fn tunnel_refused(self) -> Result<Reply, DecodeError> {
        Ok(Reply::Tunnel(TunnelReply::Refused {
            code: self.code.ok_or(DecodeError::Missing { field: "code" })?,
            detail: self.detail,
        }))
    }
}

/// What may stand as the value of a field.
fn line(entry: &Entry<'_>, field: &'static str) -> Result<Bytes, DecodeError> {
    if syntax::is_field_value(entry.slice(field, MAX_TRACE)?) {
        entry.bytes(field, MAX_TRACE)
    } else {
        Err(DecodeError::invalid(field, "it holds control characters"))
    }
}

fn status(status: u16) -> Result<u16, DecodeError> {
    if matches!(status, 101 | 200..=999) {
        Ok(status)
    } else {
        Err(DecodeError::invalid(
            "status",
            "it is not 101 or 200 to 999",
        ))
    }
}
