//! Heads: finding where one ends, taking it apart, and what it says about the body.

use std::mem::MaybeUninit;

use bytes::Bytes;

use super::Malformed;
use crate::{Fields, syntax};

/// Fields that a head or trailers may have.
pub const MAX_FIELDS: usize = 128;

/// Bytes of a request line with its end. RFC 9112 section 3 asks for at least 8,000; nginx and Apache
/// httpd stop here too, so that what passes the mesh does not fail behind it.
pub const MAX_REQUEST_LINE: usize = 8 * 1024;

const TOO_MANY_FIELDS: Malformed = Malformed::TooManyFields { limit: MAX_FIELDS };

/// The version that a message declares. What we send is always HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// Request line and fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: Bytes,
    /// As sent: origin-, absolute-, authority- or asterisk-form; see [`super::Target`].
    pub target: Bytes,
    pub version: Version,
    pub fields: Fields,
}

/// Status line and fields; the reason phrase is not kept (RFC 9110 section 15: it means nothing).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    pub version: Version,
    pub fields: Fields,
}

/// How the end of a body is found (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none, whatever Content-Length says (as in the answer to HEAD).
    None,
    /// Exactly this many bytes.
    Length(u64),
    Chunked,
    /// Everything until the connection ends. Only responses.
    UntilClose,
}

/// What a response needs to know about its request (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Head,
    Connect,
    /// The client wants to change to another protocol.
    Upgrade,
    Other,
}

impl Asked {
    pub(super) fn by(method: &[u8]) -> Self {
        match method {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

impl Body {
    pub(super) fn of_request(head: &RequestHead) -> Result<Self, Malformed> {
        let body = declared(head.version, &head.fields)?;
        match body {
            Some(_) if head.method == "CONNECT" => Err(Malformed::BodyOnConnect),
            Some(body) => Ok(body),
            None => Ok(Self::None),
        }
    }

    pub(super) fn of_response(head: &ResponseHead, asked: Asked) -> Result<Self, Malformed> {
        let body = declared(head.version, &head.fields)?;
        let none = asked == Asked::Head
            || matches!(head.status, 100..=199 | 204 | 304)
            || (asked == Asked::Connect && matches!(head.status, 200..=299));
        Ok(if none {
            Self::None
        } else {
            body.unwrap_or(Self::UntilClose)
        })
    }
}

fn declared(version: Version, fields: &Fields) -> Result<Option<Body>, Malformed> {
    let mut lengths = fields.find_all("content-length");
    let mut codings = fields.find_all("transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Malformed::LengthAndTransferCoding),
        (Some(first), None) => {
            let length = length(first)?;
            for other in lengths {
                if self::length(other)? != length {
                    return Err(Malformed::ContentLengthsDiffer);
                }
            }
            Ok(Some(Body::Length(length)))
        }
        (None, Some(_)) if version == Version::Http10 => Err(Malformed::TransferCodingIn10),
        (None, Some(coding)) => {
            if codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked") {
                Ok(Some(Body::Chunked))
            } else {
                Err(Malformed::TransferCoding)
            }
        }
    }
}

/// Digits only: `+5`, `5, 5` and ` 5` mean different things to different readers.
fn length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::ContentLength);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Malformed::ContentLength)
}

/// Looks for the empty line that ends a head or trailers, and refuses on the way what httparse is
/// lenient about. Keeps its place, so that a head that comes byte by byte is read once.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    scanned: usize,
    line_start: usize,
    lines: usize,
}

impl HeadScan {
    /// The number of bytes up to and with the empty line, or `None` when it has not come yet.
    /// `input` must begin with the same bytes at each call. `first_line`: most bytes of the first line,
    /// if it is a request's.
    pub(super) fn find_end(
        &mut self,
        input: &[u8],
        limit: usize,
        first_line: Option<usize>,
    ) -> Result<Option<usize>, Malformed> {
        let window = &input[..input.len().min(limit)];
        while let Some(&byte) = window.get(self.scanned) {
            let at = self.scanned;
            let after_cr = at > self.line_start && window[at - 1] == b'\r';
            if self.lines == 0
                && let Some(limit) = first_line.filter(|&most| at >= most)
            {
                return Err(Malformed::RequestLineTooLong { limit });
            }
            match byte {
                // The first byte of a TLS record (RFC 8446 section 5.1), and of no HTTP.
                0x16 if at == 0 => return Err(Malformed::Tls),
                0 => return Err(Malformed::Nul),
                b'\n' if !after_cr => return Err(Malformed::BareLf),
                b'\n' if at - self.line_start == 1 => return Ok(Some(at + 1)),
                b'\n' => {
                    self.lines += 1;
                    self.line_start = at + 1;
                    if self.lines > MAX_FIELDS + 1 {
                        return Err(TOO_MANY_FIELDS);
                    }
                }
                _ if after_cr => return Err(Malformed::BareCr),
                b' ' | b'\t' if at == self.line_start => return Err(Malformed::Folded),
                b'\r' => {}
                _ => {
                    let bound = self.bound(first_line, window);
                    self.scanned += syntax::plain_words(&window[at + 1..bound]);
                }
            }
            self.scanned += 1;
        }
        if input.len() >= limit {
            return Err(Malformed::HeadTooLarge { limit });
        }
        Ok(None)
    }

    /// Up to where nothing but a control character can be wrong.
    fn bound(&self, first_line: Option<usize>, window: &[u8]) -> usize {
        let most = first_line.filter(|_| self.lines == 0);
        most.map_or(window.len(), |most| most.min(window.len()))
    }

    /// Has a part of a head been seen?
    pub(super) fn has_begun(&self) -> bool {
        self.scanned > 0
    }
}

type Slots<'a> = [MaybeUninit<httparse::Header<'a>>; MAX_FIELDS];

fn slots<'a>() -> Slots<'a> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Takes a complete request head apart; names and values share its memory.
pub(super) fn parse_request(head: &Bytes) -> Result<RequestHead, Malformed> {
    let mut slots = slots();
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Malformed::RequestLine),
        Err(error) => return Err(translate(error, head, Malformed::RequestLine)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Malformed::RequestLine);
    };
    let request = RequestHead {
        method: head.slice_ref(method.as_bytes()),
        target: head.slice_ref(target.as_bytes()),
        version: version_of(version),
        fields: fields_of(head, parsed.headers),
    };
    request.check_host()?;
    Ok(request)
}

/// Takes a complete response head apart; names and values share its memory.
pub(super) fn parse_response(head: &Bytes) -> Result<ResponseHead, Malformed> {
    let mut slots = slots();
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut slots) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Malformed::StatusLine),
        Err(error) => return Err(translate(error, head, Malformed::StatusLine)),
    }
    match (parsed.code, parsed.version) {
        (Some(status @ 100..=999), Some(version)) => Ok(ResponseHead {
            status,
            version: version_of(version),
            fields: fields_of(head, parsed.headers),
        }),
        _ => Err(Malformed::StatusLine),
    }
}

/// Takes a complete trailer section apart.
pub(super) fn parse_trailers(section: &Bytes) -> Result<Fields, Malformed> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((_, fields))) => Ok(fields_of(section, fields)),
        Ok(httparse::Status::Partial) => Err(Malformed::FieldName),
        Err(error) => Err(translate(error, section, Malformed::FieldName)),
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    }
}

/// httparse allows in names and values what [`Fields::push`] does, and nothing else.
fn fields_of(head: &Bytes, parsed: &[httparse::Header<'_>]) -> Fields {
    let mut fields = Fields::with_capacity(parsed.len());
    for field in parsed {
        let name = head.slice_ref(field.name.as_bytes());
        let value = head.slice_ref(field.value);
        fields.push_checked(name, value);
    }
    fields
}

impl RequestHead {
    /// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, at most one in HTTP/1.0.
    ///
    /// Errors: [`Malformed::HostMissing`] or [`Malformed::Host`].
    pub fn check_host(&self) -> Result<(), Malformed> {
        let mut hosts = self.fields.find_all("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if self.version == Version::Http10 => Ok(()),
            (None, _) => Err(Malformed::HostMissing),
            (Some(host), None) if host.is_empty() || syntax::is_authority(host) => Ok(()),
            _ => Err(Malformed::Host),
        }
    }
}

fn translate(error: httparse::Error, head: &[u8], line: Malformed) -> Malformed {
    match error {
        httparse::Error::HeaderName | httparse::Error::NewLine => bad_name(head),
        httparse::Error::HeaderValue => Malformed::FieldValue,
        httparse::Error::TooManyHeaders => TOO_MANY_FIELDS,
        httparse::Error::Version if names_http(head) => Malformed::Version,
        _ => line,
    }
}

/// Does the first line name some version of HTTP where one belongs: behind method and target, or at
/// the front of a response?
fn names_http(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or(head);
    let third = line.splitn(3, |&byte| byte == b' ').nth(2);
    line.starts_with(b"HTTP/") || third.is_some_and(|word| word.starts_with(b"HTTP/"))
}

/// httparse says only that a name is bad; a space before the colon deserves its own sentence.
fn bad_name(head: &[u8]) -> Malformed {
    let spaced = head
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b':').next())
        .any(|name| name.ends_with(b" ") || name.ends_with(b"\t"));
    if spaced {
        Malformed::SpaceBeforeColon
    } else {
        Malformed::FieldName
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_that_are_taken_apart_are_fields() {
        let check = |name: &[u8], value: &[u8]| {
            let line = [name, b":", value].concat();
            let head = [b"GET / HTTP/1.1\r\nhost: a\r\n", &line[..], b"\r\n\r\n"].concat();
            let Ok(head) = parse_request(&head.into()) else {
                return;
            };
            for (name, value) in head.fields.iter() {
                assert!(syntax::is_token(name), "{line:?}");
                assert!(syntax::is_field_value(value), "{line:?}");
            }
        };
        for byte in 0..=u8::MAX {
            for (length, at) in (1..70).flat_map(|length| (0..length).map(move |at| (length, at))) {
                let mut text = vec![b'a'; length];
                text[at] = byte;
                check(&text, b"x");
                check(b"x", &text);
            }
        }
        check(b"", b"x");
    }
}
