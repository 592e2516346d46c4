//! What begins a stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isthmus_model::{ClusterName, Handle, LabelKey, ServiceName, Subset};

use super::{MAX_AVOID, MAX_HEAD, MAX_LABELS, MAX_TEXT, MAX_TRACE};
use crate::typed::{
    DecodeError, Entries, Entry, Need, fields_length, put, put_fields, put_integer, put_item,
    put_key, put_number, take_integer, text,
};
use crate::{Fields, syntax};

/// What begins a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    Request(Request),
    Tcp(TcpOpen),
    Tunnel(TunnelOpen),
}

/// An HTTP request for a workload of `service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub service: ServiceName,
    /// The service's port, as callers name it.
    pub port: u16,
    pub method: Bytes,
    /// In origin-form, or `*`.
    pub path: Bytes,
    /// What the caller called: `host[:port]`.
    pub authority: Bytes,
    /// Without hop-by-hop fields.
    pub fields: Fields,
    /// The protocols that the caller wants to change to (RFC 9110 section 7.8), as it names them. A
    /// reply of 101 then makes the stream one of opaque bytes.
    pub upgrade: Option<Bytes>,
    /// The body follows only when it is asked for: see [`crate::mux::features::EXPECT`].
    pub expects: bool,
    pub context: Context,
}

/// A connection of opaque bytes to a workload of `service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOpen {
    pub service: ServiceName,
    pub port: u16,
    pub context: Context,
}

/// What a proxy asks a gateway for: a way to one workload, unread by the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelOpen {
    /// The cluster that the workload is to be in.
    pub cluster: ClusterName,
    pub service: ServiceName,
    pub port: u16,
    pub subset: Subset,
    /// Workloads that the caller has already or has ejected; at most [`MAX_AVOID`]. A wish, which
    /// a gateway without another choice does not heed.
    pub avoid: Vec<Handle>,
    /// This workload and no other.
    pub want: Option<Handle>,
    /// Further proxies that may pass the tunnel on; 0: the receiver must be of `cluster`.
    pub hop_limit: u8,
    pub priority: Priority,
    pub data_class: Option<String>,
}

/// What a stream carries along for the sake of everyone on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// Time that is left until the caller stops waiting; to the microsecond.
    pub remaining: Option<Duration>,
    /// 0 for the first try, 1 for the first retry.
    pub attempt: u8,
    pub priority: Priority,
    /// The caller's cluster as it says itself; never trusted for decisions, an identity is.
    pub source_cluster: Option<ClusterName>,
    /// W3C trace context, as the value of `traceparent`.
    pub trace: Option<Bytes>,
}

/// What goes first when not everything can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    fn code(self) -> u64 {
        match self {
            Self::High => 1,
            Self::Normal => 2,
            Self::Low => 3,
        }
    }

    /// A code of a newer peer is treated as normal.
    fn of_code(code: u64) -> Self {
        match code {
            1 => Self::High,
            3 => Self::Low,
            _ => Self::Normal,
        }
    }
}

/// Kinds of `Open`.
mod kind {
    pub(super) const REQUEST: u64 = 1;
    pub(super) const TCP: u64 = 2;
    pub(super) const TUNNEL: u64 = 3;
}

/// Bytes of all that is usually in an `Open` besides path, authority and header fields.
const USUAL: usize = 128;

/// Numbers of the fields of every `Open`. A number is never used again for anything else.
mod number {
    pub(super) const SERVICE: u64 = 1;
    pub(super) const PORT: u64 = 2;
    pub(super) const METHOD: u64 = 3;
    pub(super) const PATH: u64 = 4;
    pub(super) const AUTHORITY: u64 = 5;
    pub(super) const FIELDS: u64 = 6;
    pub(super) const UPGRADE: u64 = 7;
    pub(super) const EXPECTS: u64 = 8;
    pub(super) const REMAINING: u64 = 16;
    pub(super) const ATTEMPT: u64 = 17;
    pub(super) const PRIORITY: u64 = 18;
    pub(super) const SOURCE_CLUSTER: u64 = 19;
    pub(super) const TRACE: u64 = 20;
    pub(super) const CLUSTER: u64 = 32;
    pub(super) const SUBSET: u64 = 33;
    pub(super) const AVOID: u64 = 34;
    pub(super) const WANT: u64 = 35;
    pub(super) const HOP_LIMIT: u64 = 36;
    pub(super) const DATA_CLASS: u64 = 37;
}

impl Open {
    /// Appends the message. Whoever sends it checks its size against [`super::MAX_HEAD`].
    pub fn encode(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.encoded());
    }

    /// The message by itself.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        match self {
            Self::Request(request) => request.encoded(),
            Self::Tcp(tcp) => {
                let mut out = Vec::with_capacity(USUAL);
                put_integer(&mut out, kind::TCP);
                put_destination(&mut out, &tcp.service, tcp.port);
                tcp.context.encode(&mut out);
                out
            }
            Self::Tunnel(tunnel) => {
                let mut out = Vec::with_capacity(USUAL);
                tunnel.encode(&mut out);
                out
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
        let parts = match kind {
            kind::REQUEST | kind::TCP | kind::TUNNEL => {
                Parts::decode(Entries::new(&message, rest))?
            }
            kind => {
                return Err(DecodeError::UnknownKind {
                    message: "open",
                    kind,
                });
            }
        };
        match kind {
            kind::REQUEST => parts.request(),
            kind::TCP => parts.tcp(),
            _ => parts.tunnel(),
        }
    }
}

impl Request {
    fn encoded(&self) -> Vec<u8> {
        let lengths = [
            self.path.len(),
            self.authority.len(),
            fields_length(&self.fields),
        ];
        let mut message = Vec::with_capacity(USUAL + lengths.iter().sum::<usize>());
        let out = &mut message;
        put_integer(out, kind::REQUEST);
        put_destination(out, &self.service, self.port);
        put(out, number::METHOD, Need::Critical, &self.method);
        put(out, number::PATH, Need::Critical, &self.path);
        put(out, number::AUTHORITY, Need::Critical, &self.authority);
        put_fields(out, number::FIELDS, &self.fields);
        if let Some(upgrade) = &self.upgrade {
            put(out, number::UPGRADE, Need::Critical, upgrade);
        }
        if self.expects {
            put(out, number::EXPECTS, Need::Critical, b"");
        }
        self.context.encode(out);
        message
    }
}

impl TunnelOpen {
    fn encode(&self, out: &mut Vec<u8>) {
        put_integer(out, kind::TUNNEL);
        put_destination(out, &self.service, self.port);
        put_priority(out, self.priority);
        put(
            out,
            number::CLUSTER,
            Need::Critical,
            self.cluster.as_str().as_bytes(),
        );
        if !self.subset.is_all() {
            let mut labels = Vec::new();
            for (key, value) in &self.subset.0 {
                put_item(&mut labels, key.as_str().as_bytes());
                put_item(&mut labels, value.as_bytes());
            }
            put(out, number::SUBSET, Need::Critical, &labels);
        }
        if !self.avoid.is_empty() {
            let mut handles = Vec::new();
            for handle in self.avoid.iter().take(MAX_AVOID) {
                put_item(&mut handles, handle.as_str().as_bytes());
            }
            put(out, number::AVOID, Need::Optional, &handles);
        }
        if let Some(handle) = &self.want {
            put(
                out,
                number::WANT,
                Need::Critical,
                handle.as_str().as_bytes(),
            );
        }
        put_number(
            out,
            number::HOP_LIMIT,
            Need::Critical,
            self.hop_limit.into(),
        );
        if let Some(class) = &self.data_class {
            put(out, number::DATA_CLASS, Need::Critical, class.as_bytes());
        }
    }
}

impl Context {
    fn encode(&self, out: &mut Vec<u8>) {
        if let Some(remaining) = self.remaining {
            let micros = u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX);
            put_number(out, number::REMAINING, Need::Optional, micros);
        }
        if self.attempt > 0 {
            put_number(out, number::ATTEMPT, Need::Optional, self.attempt.into());
        }
        put_priority(out, self.priority);
        if let Some(cluster) = &self.source_cluster {
            put(
                out,
                number::SOURCE_CLUSTER,
                Need::Optional,
                cluster.as_str().as_bytes(),
            );
        }
        if let Some(trace) = &self.trace {
            put(out, number::TRACE, Need::Optional, trace);
        }
    }
}

fn put_destination(out: &mut Vec<u8>, service: &ServiceName, port: u16) {
    let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
    let length = namespace.len() + 1 + name.len();
    put_key(out, number::SERVICE, Need::Critical, length);
    out.extend_from_slice(namespace.as_bytes());
    out.push(b'/');
    out.extend_from_slice(name.as_bytes());
    put_number(out, number::PORT, Need::Critical, port.into());
}

fn put_priority(out: &mut Vec<u8>, priority: Priority) {
    if priority != Priority::Normal {
        put_number(out, number::PRIORITY, Need::Optional, priority.code());
    }
}

/// All fields that an `Open` of any kind can have, as they are found.
#[derive(Default)]
struct Parts {
    service: Option<ServiceName>,
    port: Option<u16>,
    method: Option<Bytes>,
    path: Option<Bytes>,
    authority: Option<Bytes>,
    fields: Fields,
    upgrade: Option<Bytes>,
    expects: bool,
    context: Context,
    cluster: Option<ClusterName>,
    subset: Subset,
    avoid: Vec<Handle>,
    want: Option<Handle>,
    hop_limit: Option<u8>,
    data_class: Option<String>,
}

impl Parts {
    fn decode(mut entries: Entries<'_>) -> Result<Self, DecodeError> {
        let mut parts = Self::default();
        while let Some(entry) = entries.take()? {
            parts.take(&entry)?;
        }
        Ok(parts)
    }

    fn take(&mut self, entry: &Entry<'_>) -> Result<(), DecodeError> {
        match entry.number {
            number::SERVICE => self.service = Some(entry.parse("service")?),
            number::PORT => self.port = Some(entry.number("port")?),
            number::METHOD => {
                self.method = Some(checked(entry, "method", MAX_HEAD, syntax::is_token)?);
            }
            number::PATH => self.path = Some(checked(entry, "path", MAX_HEAD, syntax::is_path)?),
            number::AUTHORITY => {
                let valid = |text: &[u8]| text.is_empty() || syntax::is_authority(text);
                self.authority = Some(checked(entry, "authority", MAX_HEAD, valid)?);
            }
            number::FIELDS => self.fields = entry.fields()?,
            number::UPGRADE => {
                let upgrade = checked(entry, "upgrade", MAX_TEXT, syntax::is_field_value)?;
                self.upgrade = Some(upgrade);
            }
            number::EXPECTS => self.expects = true,
            number::REMAINING => {
                self.context.remaining = Some(Duration::from_micros(entry.number("remaining")?));
            }
            number::ATTEMPT => self.context.attempt = entry.number("attempt")?,
            number::PRIORITY => {
                self.context.priority = Priority::of_code(entry.number("priority")?);
            }
            number::SOURCE_CLUSTER => {
                self.context.source_cluster = Some(entry.parse("source cluster")?);
            }
            number::TRACE => {
                let trace = checked(entry, "trace", MAX_TRACE, syntax::is_field_value)?;
                self.context.trace = Some(trace);
            }
            number::CLUSTER => self.cluster = Some(entry.parse("cluster")?),
            number::SUBSET => self.subset = subset(entry)?,
            number::AVOID => {
                let handles = entry.list("avoid", MAX_AVOID)?;
                let handles = handles.iter().map(|bytes| handle(bytes, "avoid"));
                self.avoid = handles.collect::<Result<_, _>>()?;
            }
            number::WANT => self.want = Some(handle(entry.slice("want", MAX_TEXT)?, "want")?),
            number::HOP_LIMIT => self.hop_limit = Some(entry.number("hop limit")?),
            number::DATA_CLASS => self.data_class = Some(entry.text("data class", MAX_TEXT)?),
            _ => entry.unknown()?,
        }
        Ok(())
    }

    fn request(self) -> Result<Open, DecodeError> {
        Ok(Open::Request(Request {
            service: required(self.service, "service")?,
            port: required(self.port, "port")?,
            method: required(self.method, "method")?,
            path: required(self.path, "path")?,
            authority: required(self.authority, "authority")?,
            fields: self.fields,
            upgrade: self.upgrade,
            expects: self.expects,
            context: self.context,
        }))
    }

    fn tcp(self) -> Result<Open, DecodeError> {
        Ok(Open::Tcp(TcpOpen {
            service: required(self.service, "service")?,
            port: required(self.port, "port")?,
            context: self.context,
        }))
    }

    fn tunnel(self) -> Result<Open, DecodeError> {
        Ok(Open::Tunnel(TunnelOpen {
            cluster: required(self.cluster, "cluster")?,
            service: required(self.service, "service")?,
            port: required(self.port, "port")?,
            subset: self.subset,
            avoid: self.avoid,
            want: self.want,
            hop_limit: required(self.hop_limit, "hop limit")?,
            priority: self.context.priority,
            data_class: self.data_class,
        }))
    }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing { field })
}

fn checked(
    entry: &Entry<'_>,
    field: &'static str,
    limit: usize,
    is_valid: impl Fn(&[u8]) -> bool,
) -> Result<Bytes, DecodeError> {
    if !is_valid(entry.slice(field, limit)?) {
        return Err(DecodeError::invalid(field, "it holds what it may not"));
    }
    entry.bytes(field, limit)
}

/// A handle: visible ASCII, so that it can stand in logs and metrics.
pub(super) fn handle(bytes: &[u8], field: &'static str) -> Result<Handle, DecodeError> {
    let visible = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
    if !visible || bytes.len() > MAX_TEXT {
        return Err(DecodeError::invalid(
            field,
            "a handle is 1 to 1024 visible characters",
        ));
    }
    Ok(Handle::new(text(bytes, field)?))
}

fn subset(entry: &Entry<'_>) -> Result<Subset, DecodeError> {
    let items = entry.list("subset", 2 * MAX_LABELS)?;
    let mut subset = Subset::default();
    for pair in items.chunks(2) {
        let [key, value] = pair else {
            return Err(DecodeError::Truncated { field: "subset" });
        };
        let key = LabelKey::new(text(key, "subset")?)
            .map_err(|reason| DecodeError::invalid("subset", &reason))?;
        if value.len() > MAX_TEXT {
            return Err(DecodeError::invalid("subset", "a label value is too long"));
        }
        if subset
            .0
            .insert(key, text(value, "subset")?.into())
            .is_some()
        {
            return Err(DecodeError::invalid("subset", "a label comes twice"));
        }
    }
    Ok(subset)
}
