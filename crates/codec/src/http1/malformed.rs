//! Everything that can be wrong with a message, each with its sentence and its status.

/// Why bytes are not an HTTP/1.1 message that we are willing to understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the request line is not `method target HTTP/1.1`")]
    RequestLine,
    #[error("the status line is not `HTTP/1.1 status reason`")]
    StatusLine,
    #[error("the version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    #[error("the request target has no form that this method allows (RFC 9112 section 3.2)")]
    Target,
    #[error("the target's scheme is not http; for other schemes use CONNECT")]
    Scheme,
    #[error("the request has no Host field")]
    HostMissing,
    #[error("the request has more than one Host field, or one that is not `host[:port]`")]
    Host,
    #[error("a field name is missing or holds a character that is no token character")]
    FieldName,
    #[error("there is white space between a field name and its colon")]
    SpaceBeforeColon,
    #[error("a field value holds a control character")]
    FieldValue,
    #[error("a line of the head begins with white space (obsolete line folding)")]
    Folded,
    #[error("a carriage return is not followed by a line feed")]
    BareCr,
    #[error("a line feed does not follow a carriage return")]
    BareLf,
    #[error("this is TLS, and only plain HTTP is understood here")]
    Tls,
    #[error("the head holds a NUL byte")]
    Nul,
    #[error("the request line has more than the {limit} bytes that are allowed")]
    RequestLineTooLong { limit: usize },
    #[error("the head has more than the {limit} bytes that are allowed")]
    HeadTooLarge { limit: usize },
    #[error("the head has more than the {limit} fields that are allowed")]
    TooManyFields { limit: usize },
    #[error("Content-Length is not a number")]
    ContentLength,
    #[error("Content-Length fields differ")]
    ContentLengthsDiffer,
    #[error("both Content-Length and Transfer-Encoding are given")]
    LengthAndTransferCoding,
    #[error("the transfer coding is not exactly `chunked`")]
    TransferCoding,
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    TransferCodingIn10,
    #[error("a CONNECT request has a body")]
    BodyOnConnect,
    #[error("a chunk size is not a hexadecimal number")]
    ChunkSize,
    #[error("a chunk size is above 2^64 - 1")]
    ChunkSizeOverflow,
    #[error("a chunk extension holds a control character")]
    ChunkExtension,
    #[error("the line of a chunk size is longer than allowed")]
    ChunkLineTooLong,
    #[error("a chunk is not followed by CR LF")]
    ChunkEnd,
    #[error("the connection ended inside a message")]
    Truncated,
    #[error("bytes came from the server that answer no request")]
    Unasked,
    #[error("the server switched protocols, which was not asked for")]
    SwitchedProtocols,
}

impl Malformed {
    /// A short stable word for counters: what is refused is counted by its reason.
    pub fn code(self) -> &'static str {
        match self {
            Self::RequestLine => "request-line",
            Self::StatusLine => "status-line",
            Self::Version => "version",
            Self::Target => "target",
            Self::Scheme => "scheme",
            Self::HostMissing => "host-missing",
            Self::Host => "host",
            Self::FieldName => "field-name",
            Self::SpaceBeforeColon => "space-before-colon",
            Self::FieldValue => "field-value",
            Self::Folded => "folded",
            Self::BareCr => "bare-cr",
            Self::BareLf => "bare-lf",
            Self::Tls => "tls",
            Self::Nul => "nul",
            Self::RequestLineTooLong { .. } => "request-line-too-long",
            Self::HeadTooLarge { .. } => "head-too-large",
            Self::TooManyFields { .. } => "too-many-fields",
            Self::ContentLength => "content-length",
            Self::ContentLengthsDiffer => "content-lengths-differ",
            Self::LengthAndTransferCoding => "length-and-transfer-coding",
            Self::TransferCoding => "transfer-coding",
            Self::TransferCodingIn10 => "transfer-coding-in-1-0",
            Self::BodyOnConnect => "body-on-connect",
            Self::ChunkSize => "chunk-size",
            Self::ChunkSizeOverflow => "chunk-size-overflow",
            Self::ChunkExtension => "chunk-extension",
            Self::ChunkLineTooLong => "chunk-line-too-long",
            Self::ChunkEnd => "chunk-end",
            Self::Truncated => "truncated",
            Self::Unasked => "unasked",
            Self::SwitchedProtocols => "switched-protocols",
        }
    }

    /// The status that answers a malformed request. A malformed response is always 502 to the one
    /// who waits for it.
    pub fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong { .. } => 414,
            Self::HeadTooLarge { .. } | Self::TooManyFields { .. } => 431,
            Self::TransferCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }
}
