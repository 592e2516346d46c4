//! Where encoded bytes go.

use bytes::BytesMut;

/// Takes bytes, one behind the other.
pub trait Sink {
    fn append(&mut self, bytes: &[u8]);

    /// Bytes that were appended.
    fn length(&self) -> usize;

    /// So many follow.
    fn reserve(&mut self, additional: usize);
}

impl Sink for BytesMut {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn length(&self) -> usize {
        self.len()
    }

    fn reserve(&mut self, additional: usize) {
        BytesMut::reserve(self, additional);
    }
}
