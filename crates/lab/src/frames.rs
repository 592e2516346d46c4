//! Frames of HTTP/2 (RFC 9113 section 4.1), right or wrong, as a client writes them by hand.
//!
//! Fields are written as literals that no table keeps (RFC 7541 section 6.2.2), so that any bytes can be
//! a name or a value. Of what comes back only the status is decoded; for the rest see DATA.

use std::io::{self, Read};

/// What a client says first, ahead of its settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113 section 7).
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number that the payload has from there on, such as an error code.
    pub fn number(&self, at: usize) -> Option<u32> {
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// A frame as bytes; of a payload that no frame can carry only the front.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(0xff_ffff)];
    let length = u32::try_from(payload.len()).unwrap_or_default();
    let (length, stream) = (length.to_be_bytes(), stream.to_be_bytes());
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// The preface and settings, each an identifier and a value.
pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// A field section.
pub fn section<'f>(fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>) -> Vec<u8> {
    let mut section = Vec::new();
    for (name, value) in fields {
        section.push(0);
        string(name, &mut section);
        string(value, &mut section);
    }
    section
}

/// RFC 7541 section 5.2, without Huffman's code.
fn string(bytes: &[u8], into: &mut Vec<u8>) {
    const MOST: usize = 127;
    if bytes.len() < MOST {
        into.push(u8::try_from(bytes.len()).unwrap_or_default());
    } else {
        into.push(127);
        let mut rest = bytes.len() - MOST;
        while rest >= 128 {
            into.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
            rest /= 128;
        }
        into.push(u8::try_from(rest).unwrap_or_default());
    }
    into.extend_from_slice(bytes);
}

/// The next frame. `None`: the connection has ended, if need be in the middle of one.
///
/// Errors: nothing came in time.
pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; 9];
    let mut read = |into: &mut [u8]| match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if is_timeout(&error) => Err(error),
        Err(_) => Ok(false),
    };
    if !read(&mut head)? {
        return Ok(None);
    }
    let [a, b, c, kind, flags, stream @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
    if !read(&mut payload)? {
        return Ok(None);
    }
    Ok(Some(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        payload,
    }))
}

pub fn is_timeout(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The status of a reply's field section, which comes first (RFC 9113 section 8.3): of the static table
/// (RFC 7541 appendix A), or three digits with its name from there. `None`: it begins otherwise.
pub fn status(section: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // Ahead of the first section, the encoder says how large its table is.
    let sized = section.first().is_some_and(|byte| byte >> 5 == 1);
    let section = if sized { &section[1..] } else { section };
    match *section {
        [index @ 0x88..=0x8e, ..] => Some(STATIC[usize::from(index - 0x88)]),
        [0x08 | 0x18 | 0x48, length, ref rest @ ..] if length & 128 == 0 => {
            let digits = rest.get(..usize::from(length))?;
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        [0x08 | 0x18 | 0x48, length, ref rest @ ..] => {
            digits(rest.get(..usize::from(length & 127))?)?.parse().ok()
        }
        _ => None,
    }
}

/// Digits in Huffman's code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> Option<String> {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .peekable();
    let mut text = String::new();
    while text.len() < 3 {
        let mut take = |count, start: u8| -> Option<u8> {
            (0..count).try_fold(start, |code, _| Some(code << 1 | bits.next()?))
        };
        let code = match take(5, 0)? {
            code @ 0..=2 => code,
            code => take(1, code)?.checked_sub(0b01_1001)? + 3,
        };
        text.push(char::from_digit(code.into(), 10)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let long = vec![b'x'; 300];
        let written = [
            frame(PING, ACK, 0, &[7; 8]),
            frame(
                HEADERS,
                END_HEADERS,
                5,
                &section([(b"a".as_slice(), &long[..])]),
            ),
        ]
        .concat();
        let mut rest = written.as_slice();
        let ping = read(&mut rest).unwrap().unwrap();
        assert_eq!((ping.kind, ping.flags, ping.stream), (PING, ACK, 0));
        assert_eq!(ping.number(4), Some(0x0707_0707));
        let head = read(&mut rest).unwrap().unwrap();
        assert_eq!((head.kind, head.stream), (HEADERS, 5));
        // 300 is 127 and 173, of which 45 is written first.
        assert_eq!(head.payload[..6], [0, 1, b'a', 127, 173, 1]);
        assert_eq!(head.payload.len(), 6 + 300);
        assert_eq!(read(&mut rest).unwrap(), None);
        assert_eq!(
            read(&mut &written[..20]).unwrap().map(|f| f.kind),
            Some(PING)
        );
    }

    #[test]
    fn statuses() {
        for (section, expect) in [
            (&[0x88, 0][..], Some(200)),
            (&[0x20, 0x8c], Some(400)),
            (&[0x48, 3, b'4', b'3', b'1'], Some(431)),
            // RFC 7541 appendix C.6: 302 and 307.
            (&[0x48, 0x82, 0x64, 0x02, 0x58], Some(302)),
            (&[0x48, 0x83, 0x64, 0x0e, 0xff], Some(307)),
            (&[0x48, 0x82, 0x64], None),
            (&[0x00, 1, b'a', 1, b'b'], None),
            (&[], None),
        ] {
            assert_eq!(status(section), expect, "{section:02x?}");
        }
    }
}
