//! Where encoded bytes go.

use bytes::BytesMut;

/// Takes bytes, one behind the other.
pub trait Sink {
    fn append(&mut self, bytes: &[u8]);

    /// Bytes that are in it. Where it is made anew each time, they are those that were appended since.
    fn length(&self) -> usize;
}

impl Sink for BytesMut {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn length(&self) -> usize {
        self.len()
    }
}
