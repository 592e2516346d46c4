//! Typed fields: how messages and settings are written. Compact, bounded, and open to additions.
//!
//! A message is a list of `key length value`, where key and length are variable-length integers
//! (RFC 9000 section 16) and the key is twice the field's number, plus one if the field is
//! critical. Numbers ascend, so no field comes twice and every message has one form. A reader
//! skips an optional field that it does not know and refuses a critical one.

use std::str::FromStr;

use bytes::Bytes;

use crate::{Fields, http1::MAX_FIELDS};

/// The largest value of a variable-length integer.
const MAX_INTEGER: u64 = (1 << 62) - 1;

/// Bytes of a field, to guess how many there are.
const USUAL_FIELD: usize = 32;

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

/// Bytes that `value` takes.
fn integer_length(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Appends `value`, at most 2^62 - 1; what is above is written as that.
pub(crate) fn put_integer(out: &mut Vec<u8>, value: u64) {
    let length = integer_length(value);
    if length == 1 {
        // Nearly all are so short.
        let [byte, ..] = value.to_le_bytes();
        return out.push(byte);
    }
    let prefix = u64::from(length.ilog2()) << (8 * length - 2);
    let bytes = (value.min(MAX_INTEGER) | prefix).to_be_bytes();
    out.extend_from_slice(&bytes[bytes.len() - length..]);
}

/// Takes an integer off the front.
pub(crate) fn take_integer(input: &mut &[u8], field: &'static str) -> Result<u64, DecodeError> {
    if let [first @ ..0x40, rest @ ..] = *input {
        *input = rest;
        return Ok(u64::from(*first));
    }
    let taken = input.first().and_then(|first| {
        let (bytes, rest) = input.split_at_checked(1 << (first >> 6))?;
        *input = rest;
        let first = u64::from(first & 0x3f);
        let rest = bytes[1..].iter();
        Some(rest.fold(first, |value, &byte| value << 8 | u64::from(byte)))
    });
    taken.ok_or(DecodeError::Truncated { field })
}

/// Bytes that a byte string takes with its length before it.
fn item_length(item: &[u8]) -> usize {
    integer_length(item.len() as u64) + item.len()
}

/// Appends a byte string with its length before it.
pub(crate) fn put_item(out: &mut Vec<u8>, item: &[u8]) {
    put_integer(out, item.len() as u64);
    out.extend_from_slice(item);
}

/// Takes a byte string off the front.
fn take_item<'a>(input: &mut &'a [u8], field: &'static str) -> Result<&'a [u8], DecodeError> {
    let length = take_integer(input, field)?;
    let length = usize::try_from(length).ok();
    let taken = length.and_then(|length| input.split_at_checked(length));
    let (item, rest) = taken.ok_or(DecodeError::Truncated { field })?;
    *input = rest;
    Ok(item)
}

/// Appends what comes before a field's value of `length` bytes.
pub(crate) fn put_key(out: &mut Vec<u8>, number: u64, need: Need, length: usize) {
    put_integer(out, number << 1 | u64::from(need == Need::Critical));
    put_integer(out, length as u64);
}

/// Appends one field.
pub(crate) fn put(out: &mut Vec<u8>, number: u64, need: Need, value: &[u8]) {
    put_key(out, number, need, value.len());
    out.extend_from_slice(value);
}

/// Appends one field that holds an integer.
pub(crate) fn put_number(out: &mut Vec<u8>, number: u64, need: Need, value: u64) {
    put_key(out, number, need, integer_length(value));
    put_integer(out, value);
}

/// Bytes that `fields` take, without a length of their own.
pub(crate) fn fields_length(fields: &Fields) -> usize {
    let lengths = fields
        .iter()
        .map(|(name, value)| item_length(name) + item_length(value));
    lengths.sum()
}

/// Header or trailer fields as a list of names and values, without a length of their own.
pub(crate) fn encode_fields(fields: &Fields) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields_length(fields));
    put_all(&mut out, fields);
    out
}

fn put_all(out: &mut Vec<u8>, fields: &Fields) {
    for (name, value) in fields.iter() {
        put_item(out, name);
        put_item(out, value);
    }
}

/// Appends `fields` under `number`, unless there are none.
pub(crate) fn put_fields(out: &mut Vec<u8>, number: u64, fields: &Fields) {
    if !fields.is_empty() {
        put_key(out, number, Need::Critical, fields_length(fields));
        put_all(out, fields);
    }
}

/// Reads what [`encode_fields`] wrote, to the end of `input`; names and values share the memory of
/// `message`, which it is a part of.
pub(crate) fn decode_fields(message: &Bytes, mut input: &[u8]) -> Result<Fields, DecodeError> {
    let mut fields = Fields::with_capacity((input.len() / USUAL_FIELD).min(2 * MAX_FIELDS));
    while !input.is_empty() {
        if fields.len() == 2 * MAX_FIELDS {
            return Err(DecodeError::invalid("fields", "there are too many"));
        }
        let name = take_item(&mut input, "a field name")?;
        let value = take_item(&mut input, "a field value")?;
        fields
            .push(message.slice_ref(name), message.slice_ref(value))
            .map_err(|bad| DecodeError::invalid("fields", &bad))?;
    }
    Ok(fields)
}

/// The fields of a message, one after the other.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    message: &'a Bytes,
    rest: &'a [u8],
    last: Option<u64>,
}

/// One field of a message, not yet understood.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) number: u64,
    critical: bool,
    value: &'a [u8],
    message: &'a Bytes,
}

impl<'a> Entries<'a> {
    /// Of what is left of `message`.
    pub(crate) fn new(message: &'a Bytes, rest: &'a [u8]) -> Self {
        Self {
            message,
            rest,
            last: None,
        }
    }

    pub(crate) fn take(&mut self) -> Result<Option<Entry<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = take_integer(&mut self.rest, "a key")?;
        let number = key >> 1;
        if self.last.is_some_and(|last| number <= last) {
            return Err(DecodeError::Order { number });
        }
        self.last = Some(number);
        Ok(Some(Entry {
            number,
            critical: key & 1 == 1,
            value: take_item(&mut self.rest, "a value")?,
            message: self.message,
        }))
    }
}

impl<'a> Entry<'a> {
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
    pub(crate) fn slice(&self, field: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        if self.value.len() > limit {
            let reason = format!("it has {} bytes, {limit} are allowed", self.value.len());
            return Err(DecodeError::invalid(field, &reason));
        }
        Ok(self.value)
    }

    /// As [`Entry::slice`], to keep; it shares the memory of the message.
    pub(crate) fn bytes(&self, field: &'static str, limit: usize) -> Result<Bytes, DecodeError> {
        Ok(self.message.slice_ref(self.slice(field, limit)?))
    }

    pub(crate) fn text(&self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        text(self.slice(field, limit)?, field).map(str::to_owned)
    }

    /// Text that a type of the model reads.
    pub(crate) fn parse<T>(&self, field: &'static str) -> Result<T, DecodeError>
    where
        T: FromStr,
        T::Err: ToString,
    {
        text(self.value, field)?
            .parse()
            .map_err(|reason: T::Err| DecodeError::invalid(field, &reason))
    }

    /// An integer that fits into `T`.
    pub(crate) fn number<T: TryFrom<u64>>(&self, field: &'static str) -> Result<T, DecodeError> {
        let mut rest = self.value;
        let value = take_integer(&mut rest, field)?;
        if !rest.is_empty() {
            return Err(DecodeError::invalid(field, "bytes follow the number"));
        }
        T::try_from(value).map_err(|_| DecodeError::invalid(field, "the number is too large"))
    }

    /// A list of byte strings, at most `limit`.
    pub(crate) fn list(
        &self,
        field: &'static str,
        limit: usize,
    ) -> Result<Vec<&'a [u8]>, DecodeError> {
        let mut rest = self.value;
        let mut items = Vec::new();
        while !rest.is_empty() {
            if items.len() == limit {
                return Err(DecodeError::invalid(
                    field,
                    &format!("more than {limit} entries"),
                ));
            }
            items.push(take_item(&mut rest, field)?);
        }
        Ok(items)
    }

    pub(crate) fn fields(&self) -> Result<Fields, DecodeError> {
        decode_fields(self.message, self.value)
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
            let mut out = Vec::new();
            put_integer(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(take_integer(&mut &out[..], "x"), Ok(value));
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
            let mut out = Vec::new();
            put_integer(&mut out, value);
            let mut short = &out[..out.len() - 1];
            assert_eq!(take_integer(&mut &out[..], "x"), Ok(value));
            assert_eq!(
                take_integer(&mut short, "x"),
                Err(DecodeError::Truncated { field: "x" })
            );
        }
    }

    #[test]
    fn unknown_fields() {
        let read = |need| {
            let mut out = Vec::new();
            put(&mut out, 900, need, b"new");
            let message = Bytes::from(out);
            let entry = Entries::new(&message, &message).take();
            entry.unwrap().unwrap().unknown()
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
            let mut out = Vec::new();
            put(&mut out, first, Need::Optional, b"");
            put(&mut out, second, Need::Optional, b"");
            let message = Bytes::from(out);
            let mut entries = Entries::new(&message, &message);
            assert!(entries.take().is_ok());
            assert_eq!(entries.take().is_ok(), good);
        }
    }
}
