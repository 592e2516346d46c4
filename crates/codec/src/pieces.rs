//! Pieces of what was read, and a queue of them.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Small ones are put together until they are so large, which is also what is read from a socket at once.
const MOST: usize = 16 * 1024;
/// What is smaller is not worth the block that it lies in.
const SMALL: usize = MOST / 2;

/// What is at most so large is copied off what was read, where it may be kept for long.
const COPIED: usize = 2 * 1024;

/// Takes `length` bytes off the front of what was read, to be kept for as long as a stream or a request
/// lasts. A few are copied: they do not keep all that was read with them, and the buffer stays its
/// reader's own, so that the next read needs no other.
pub(crate) fn take_off(input: &mut BytesMut, length: usize) -> Bytes {
    if length > COPIED {
        return input.split_to(length).freeze();
    }
    let bytes = &input[..length];
    let copy = match length {
        0 => Bytes::new(),
        1..=112 => Block::<112>::holding(bytes),
        113..=240 => Block::<240>::holding(bytes),
        241..=496 => Block::<496>::holding(bytes),
        497..=1008 => Block::<1008>::holding(bytes),
        _ => Bytes::copy_from_slice(bytes),
    };
    input.advance(length);
    copy
}

/// Bytes in one allocation with the count of those who share them, which `Bytes` by itself allocates
/// when the first of them comes. With the two numbers it fills a size that allocators have at hand.
struct Block<const SIZE: usize> {
    length: usize,
    bytes: [u8; SIZE],
}

impl<const SIZE: usize> Block<SIZE> {
    fn holding(bytes: &[u8]) -> Bytes {
        let mut block = Self {
            length: bytes.len(),
            bytes: [0; SIZE],
        };
        block.bytes[..bytes.len()].copy_from_slice(bytes);
        Bytes::from_owner(block)
    }
}

impl<const SIZE: usize> AsRef<[u8]> for Block<SIZE> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Pieces of a body that wait. A small one behind others is copied: it may be all that is left of a
/// large block that was read from a socket, and who sends byte by byte would have one held for each.
/// So they take at most twice what they hold, and one block.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Empty only if nothing waits. Mostly there is no other, and so no queue to allocate.
    first: Bytes,
    more: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    /// In bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts `bytes` behind all others.
    pub fn push(&mut self, bytes: Bytes) {
        if !self.join(&bytes) {
            self.put(bytes);
        }
    }

    /// As [`Pieces::push`], of what is to hold no memory but its own.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        if !self.join(bytes) {
            self.put(Bytes::copy_from_slice(bytes));
        }
    }

    fn put(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            self.more.push_back(bytes);
        }
    }

    /// Appends what is small to the last piece. False: it has to be one of its own.
    fn join(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let last = self.more.back_mut().unwrap_or(&mut self.first);
        let waits = !last.is_empty();
        let fits = waits && bytes.len() < SMALL && last.len() + bytes.len() <= MOST;
        if fits {
            let own = std::mem::take(last).try_into_mut();
            let mut own = own.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            own.extend_from_slice(bytes);
            *last = own.freeze();
            self.length += bytes.len();
        }
        fits
    }

    /// Takes the first piece, at most `most` bytes of it; `None` when nothing waits.
    pub fn pop(&mut self, most: usize) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let part = self.first.split_to(most.min(self.first.len()));
        if self.first.is_empty() {
            self.first = self.more.pop_front().unwrap_or_default();
        }
        self.length -= part.len();
        Some(part)
    }

    /// All of them, in their order.
    pub fn all(&self) -> impl Iterator<Item = &Bytes> {
        let first = Some(&self.first).filter(|first| !first.is_empty());
        first.into_iter().chain(&self.more)
    }

    /// Drops all of them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_hold_no_large_blocks_and_come_out_as_they_went_in() {
        let mut pieces = Pieces::default();
        let (mut blocks, mut all) = (Vec::new(), Vec::new());
        for number in 0..3_000_usize {
            // What a socket gave, and what of it is a piece.
            let block = Bytes::from(vec![number.to_le_bytes()[0]; 100]);
            let length = number % 20;
            pieces.push(block.slice(..length));
            all.extend_from_slice(&block[..length]);
            blocks.push(block);
        }
        let large = Bytes::from(vec![7; SMALL]);
        pieces.push(large.clone());
        pieces.push_copy(&large);
        all.extend_from_slice(&large);
        all.extend_from_slice(&large);
        assert_eq!(pieces.len(), all.len());
        assert!(!large.is_unique(), "what is large is not copied");
        let held = blocks.iter().filter(|block| !block.is_unique()).count();
        assert!(held <= 1, "{held} blocks are held");
        assert!(pieces.all().count() <= 2 + all.len() / SMALL);
        let mut out = Vec::new();
        while let Some(piece) = pieces.pop(1_000) {
            assert!(!piece.is_empty() && piece.len() <= 1_000);
            out.extend_from_slice(&piece);
        }
        assert!(out == all && pieces.is_empty());
    }
}
