//! Bodies as they come in: counted, chunked, or until the connection ends.

use bytes::{Buf, Bytes, BytesMut};

use super::head::{HeadScan, parse_trailers};
use super::{Body, Item, Malformed};
use crate::pieces::take_off;

/// The longest line of a chunk size with its extensions, which are read and dropped.
const MAX_CHUNK_LINE: usize = 256;

/// Reads one body.
#[derive(Debug)]
pub(super) enum BodyDecoder {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body (RFC 9112 section 7.1) the next byte stands.
#[derive(Debug)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers(HeadScan),
    Done,
}

impl BodyDecoder {
    pub(super) fn new(body: Body) -> Self {
        match body {
            Body::None => Self::Length(0),
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunked(Chunk::Size),
            Body::UntilClose => Self::UntilClose,
        }
    }

    /// The next piece of the body; `trailer_limit` in bytes.
    pub(super) fn decode<H>(
        &mut self,
        input: &mut BytesMut,
        trailer_limit: usize,
    ) -> Result<Option<Item<H>>, Malformed> {
        match self {
            Self::Length(0) => Ok(Some(Item::End)),
            Self::Length(left) => Ok(take(input, left).map(Item::Data)),
            Self::UntilClose => Ok(take(input, &mut { u64::MAX }).map(Item::Data)),
            Self::Chunked(chunk) => chunk.decode(input, trailer_limit),
        }
    }
}

impl Chunk {
    fn decode<H>(
        &mut self,
        input: &mut BytesMut,
        trailer_limit: usize,
    ) -> Result<Option<Item<H>>, Malformed> {
        loop {
            match self {
                Self::Size => match size_line(input)? {
                    None => return Ok(None),
                    Some((size, line)) => {
                        input.advance(line);
                        *self = match size {
                            0 => Self::Trailers(HeadScan::default()),
                            size => Self::Data(size),
                        };
                    }
                },
                Self::Data(left) => {
                    let data = take(input, left);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(data.map(Item::Data));
                }
                Self::DataEnd => match input.as_ref() {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(Malformed::ChunkEnd),
                },
                Self::Trailers(scan) => match scan.find_end(input, trailer_limit, None)? {
                    None => return Ok(None),
                    Some(end) => {
                        let trailers = parse_trailers(&take_off(input, end))?;
                        *self = Self::Done;
                        if !trailers.is_empty() {
                            return Ok(Some(Item::Trailers(trailers)));
                        }
                    }
                },
                Self::Done => return Ok(Some(Item::End)),
            }
        }
    }
}

/// Splits off what is there, at most `left`, without copying.
fn take(input: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    if count == 0 {
        return None;
    }
    *left -= count as u64;
    Some(input.split_to(count).freeze())
}

/// Reads `size[;extension]CRLF` at the front of `input`: the size and the length of the line.
/// No white space is allowed anywhere before the extension.
fn size_line(input: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut size = 0_u64;
    let mut in_extension = false;
    for (at, &byte) in input.iter().enumerate().take(MAX_CHUNK_LINE) {
        if at > 0 && input[at - 1] == b'\r' {
            let complete = byte == b'\n';
            return if complete {
                Ok(Some((size, at + 1)))
            } else {
                Err(Malformed::BareCr)
            };
        }
        match (byte, char::from(byte).to_digit(16)) {
            (b'\r' | b';', _) if at == 0 => return Err(Malformed::ChunkSize),
            (b'\r', _) => {}
            (b'\n', _) => return Err(Malformed::BareLf),
            (b'\t' | b' '..=b'~' | 0x80.., _) if in_extension => {}
            (_, _) if in_extension => return Err(Malformed::ChunkExtension),
            (b';', _) => in_extension = true,
            (_, Some(digit)) => {
                size = size
                    .checked_mul(16)
                    .and_then(|size| size.checked_add(u64::from(digit)))
                    .ok_or(Malformed::ChunkSizeOverflow)?;
            }
            (_, None) => return Err(Malformed::ChunkSize),
        }
    }
    if input.len() >= MAX_CHUNK_LINE {
        return Err(Malformed::ChunkLineTooLong);
    }
    Ok(None)
}
