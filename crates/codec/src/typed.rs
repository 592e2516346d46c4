//! Typed fields: how messages and settings are written. Compact, bounded, and open to additions.
//!
//! A message is a list of `key length value`, where key and length are variable-length integers
//! (RFC 9000 section 16) and the key is twice the field's number, plus one if the field is
//! critical. Numbers ascend, so no field comes twice and every message has one form. A reader
//! skips an optional field that it does not know and refuses a critical one.

use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Fields, http1::MAX_FIELDS};

/// The largest value of a variable-length integer.
const MAX_INTEGER: u64 = (1 << 62) - 1;

/// Why bytes are not the message that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message ends inside {field}")]
    Truncated { field: &'static str },
    #[error("kind {kind} of {message} is unknown")]
    UnknownKind { message: &'static str, kind: u64 },
    #[error("critical field {number} is unknown; the sender is newer")]
    UnknownCritical { number: u64 },
    #[error("field {number} comes again or too late")]
    Order { number: u64 },
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is not valid: {reason}")]
    Invalid { field: &'static str, reason: String },
}

impl DecodeError {
    pub(crate) fn invalid(field: &'static str, reason: &(impl ToString + ?Sized)) -> Self {
        Self::Invalid {
            field,
            reason: reason.to_string(),
        }
    }
}

/// May a reader that does not know a field skip it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Optional,
    Critical,
}

/// Appends `value`, at most 2^62 - 1; what is above is written as that.
pub(crate) fn put_integer(out: &mut BytesMut, value: u64) {
    match value {
        0..0x40 => out.put_uint(value, 1),
        0x40..0x4000 => out.put_uint(value | 0x4000, 2),
        0x4000..0x4000_0000 => out.put_uint(value | 0x8000_0000, 4),
        _ => out.put_u64(value.min(MAX_INTEGER) | 0xc000_0000_0000_0000),
    }
}

/// Takes an integer off the front.
pub(crate) fn take_integer(input: &mut Bytes, field: &'static str) -> Result<u64, DecodeError> {
    let truncated = DecodeError::Truncated { field };
    let first = *input.first().ok_or(truncated.clone())?;
    let length = 1_usize << (first >> 6);
    if input.len() < length {
        return Err(truncated);
    }
    let value = input.get_uint(length);
    Ok(value & (u64::MAX >> (66 - 8 * length)))
}

/// Appends a byte string with its length before it.
pub(crate) fn put_item(out: &mut BytesMut, item: &[u8]) {
    put_integer(out, item.len() as u64);
    out.put_slice(item);
}

/// Takes a byte string off the front, sharing its memory.
pub(crate) fn take_item(input: &mut Bytes, field: &'static str) -> Result<Bytes, DecodeError> {
    let length = take_integer(input, field)?;
    match usize::try_from(length) {
        Ok(length) if length <= input.len() => Ok(input.split_to(length)),
        _ => Err(DecodeError::Truncated { field }),
    }
}

/// Appends one field.
pub(crate) fn put(out: &mut BytesMut, number: u64, need: Need, value: &[u8]) {
    put_integer(out, number << 1 | u64::from(need == Need::Critical));
    put_item(out, value);
}

/// Appends one field that holds an integer.
pub(crate) fn put_number(out: &mut BytesMut, number: u64, need: Need, value: u64) {
    let mut bytes = BytesMut::with_capacity(8);
    put_integer(&mut bytes, value);
    put(out, number, need, &bytes);
}

/// Header or trailer fields as a list of names and values, without a length of their own.
pub(crate) fn encode_fields(fields: &Fields) -> BytesMut {
    let size = fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum();
    let mut out = BytesMut::with_capacity(size);
    for (name, value) in fields.iter() {
        put_item(&mut out, name);
        put_item(&mut out, value);
    }
    out
}

/// Appends `fields` under `number`, unless there are none.
pub(crate) fn put_fields(out: &mut BytesMut, number: u64, fields: &Fields) {
    if !fields.is_empty() {
        put(out, number, Need::Critical, &encode_fields(fields));
    }
}

/// Reads what [`encode_fields`] wrote, to the end of `input`.
pub(crate) fn decode_fields(mut input: Bytes) -> Result<Fields, DecodeError> {
    let mut fields = Fields::new();
    while !input.is_empty() {
        if fields.len() == 2 * MAX_FIELDS {
            return Err(DecodeError::invalid("fields", "there are too many"));
        }
        let name = take_item(&mut input, "a field name")?;
        let value = take_item(&mut input, "a field value")?;
        fields
            .push(name, value)
            .map_err(|bad| DecodeError::invalid("fields", &bad))?;
    }
    Ok(fields)
}

/// The fields of a message, one after the other.
#[derive(Debug)]
pub(crate) struct Entries {
    rest: Bytes,
    last: Option<u64>,
}

/// One field of a message, not yet understood.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    critical: bool,
    value: Bytes,
}

impl Entries {
    pub(crate) fn new(message: Bytes) -> Self {
        Self {
            rest: message,
            last: None,
        }
    }

    pub(crate) fn take(&mut self) -> Result<Option<Entry>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = take_integer(&mut self.rest, "a key")?;
        let number = key >> 1;
        if self.last.is_some_and(|last| number <= last) {
            return Err(DecodeError::Order { number });
        }
        self.last = Some(number);
        let value = take_item(&mut self.rest, "a value")?;
        Ok(Some(Entry {
            number,
            critical: key & 1 == 1,
            value,
        }))
    }
}

impl Entry {
    /// What to do with a number that the reader does not know.
    pub(crate) fn unknown(&self) -> Result<(), DecodeError> {
        if self.critical {
            return Err(DecodeError::UnknownCritical {
                number: self.number,
            });
        }
        Ok(())
    }

    /// The value as it stands, at most `limit` bytes.
    pub(crate) fn bytes(self, field: &'static str, limit: usize) -> Result<Bytes, DecodeError> {
        if self.value.len() > limit {
            let reason = format!("it has {} bytes, {limit} are allowed", self.value.len());
            return Err(DecodeError::invalid(field, &reason));
        }
        Ok(self.value)
    }

    pub(crate) fn text(self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        text(&self.bytes(field, limit)?, field).map(str::to_owned)
    }

    /// Text that a type of the model reads.
    pub(crate) fn parse<T>(self, field: &'static str) -> Result<T, DecodeError>
    where
        T: FromStr,
        T::Err: ToString,
    {
        text(&self.value, field)?
            .parse()
            .map_err(|reason: T::Err| DecodeError::invalid(field, &reason))
    }

    /// An integer that fits into `T`.
    pub(crate) fn number<T: TryFrom<u64>>(mut self, field: &'static str) -> Result<T, DecodeError> {
        let value = take_integer(&mut self.value, field)?;
        if !self.value.is_empty() {
            return Err(DecodeError::invalid(field, "bytes follow the number"));
        }
        T::try_from(value).map_err(|_| DecodeError::invalid(field, "the number is too large"))
    }

    /// A list of byte strings, at most `limit`.
    pub(crate) fn list(
        mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<Vec<Bytes>, DecodeError> {
        let mut items = Vec::new();
        while !self.value.is_empty() {
            if items.len() == limit {
                return Err(DecodeError::invalid(
                    field,
                    &format!("more than {limit} entries"),
                ));
            }
            items.push(take_item(&mut self.value, field)?);
        }
        Ok(items)
    }

    pub(crate) fn fields(self) -> Result<Fields, DecodeError> {
        decode_fields(self.value)
    }
}

/// `bytes` as UTF-8.
pub(crate) fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::invalid(field, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        // The examples of RFC 9000 appendix A.1.
        for (value, bytes) in [
            (
                151_288_809_941_952_652,
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
            ),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (15_293, &[0x7b, 0xbd]),
            (37, &[0x25]),
        ] {
            let mut out = BytesMut::new();
            put_integer(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(take_integer(&mut out.freeze(), "x"), Ok(value));
        }
        for value in [
            0,
            63,
            64,
            16_383,
            16_384,
            (1 << 30) - 1,
            1 << 30,
            MAX_INTEGER,
        ] {
            let mut out = BytesMut::new();
            put_integer(&mut out, value);
            let mut short = out.clone().freeze().slice(..out.len() - 1);
            assert_eq!(take_integer(&mut out.freeze(), "x"), Ok(value));
            assert_eq!(
                take_integer(&mut short, "x"),
                Err(DecodeError::Truncated { field: "x" })
            );
        }
    }

    #[test]
    fn unknown_fields() {
        let read = |need| {
            let mut out = BytesMut::new();
            put(&mut out, 900, need, b"new");
            let entry = Entries::new(out.freeze()).take().unwrap().unwrap();
            entry.unknown()
        };
        assert_eq!(read(Need::Optional), Ok(()));
        assert_eq!(
            read(Need::Critical),
            Err(DecodeError::UnknownCritical { number: 900 })
        );
    }

    #[test]
    fn fields_ascend() {
        for (first, second, good) in [(1, 2, true), (2, 2, false), (3, 2, false)] {
            let mut out = BytesMut::new();
            put(&mut out, first, Need::Optional, b"");
            put(&mut out, second, Need::Optional, b"");
            let mut entries = Entries::new(out.freeze());
            assert!(entries.take().is_ok());
            assert_eq!(entries.take().is_ok(), good);
        }
    }
}
