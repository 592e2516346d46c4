//! Records that are sealed where their content was written.

use bytes::BytesMut;

use super::{Broken, HEADER, MAX_DATA, Session, kind};
use crate::Sink;

/// What is appended here becomes records: of `piece` bytes each, and what is left at the end.
pub(super) struct Records<'s> {
    session: &'s mut Session,
    out: &'s mut BytesMut,
    piece: usize,
    /// Where in `out` the record begins that is not sealed yet, if there is one.
    open: Option<usize>,
    taken: usize,
    broken: Option<Broken>,
}

impl<'s> Records<'s> {
    pub(super) fn new(session: &'s mut Session, piece: usize, out: &'s mut BytesMut) -> Self {
        let broken = session.closed.then_some(Broken::Over);
        Self {
            session,
            out,
            piece: piece.clamp(1, MAX_DATA),
            open: None,
            taken: 0,
            broken,
        }
    }

    /// Seals what is left. Errors: as of [`Session::seal`].
    pub(super) fn end(mut self) -> Result<(), Broken> {
        self.seal();
        self.broken.take().map_or(Ok(()), Err)
    }

    /// Where the record begins that is being written.
    fn begin(&mut self) -> Result<usize, Broken> {
        if let Some(start) = self.open {
            return Ok(start);
        }
        self.session.ready(self.out)?;
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEADER]);
        self.open = Some(start);
        Ok(start)
    }

    fn seal(&mut self) {
        if let Some(start) = self.open.take() {
            self.session.sealing.seal_from(kind::DATA, start, self.out);
        }
    }
}

/// What is not sealed never stays.
impl Drop for Records<'_> {
    fn drop(&mut self) {
        if let Some(start) = self.open {
            self.out.truncate(start);
        }
    }
}

impl Sink for Records<'_> {
    fn append(&mut self, mut bytes: &[u8]) {
        self.taken += bytes.len();
        while !bytes.is_empty() && self.broken.is_none() {
            let start = match self.begin() {
                Ok(start) => start,
                Err(broken) => return self.broken = Some(broken),
            };
            let room = start + HEADER + self.piece - self.out.len();
            let (part, rest) = bytes.split_at(bytes.len().min(room));
            self.out.extend_from_slice(part);
            if part.len() == room {
                self.seal();
            }
            bytes = rest;
        }
    }

    fn length(&self) -> usize {
        self.taken
    }
}
