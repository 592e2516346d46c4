//! Whose turn it is to send: small before bulk, and bulk not never.

use std::collections::VecDeque;

use super::StreamId;
use super::stream::Stream;

/// So many turns of small streams one after the other; then one of a bulk stream.
const SMALL_IN_A_ROW: u8 = 4;

/// Streams with something to send; each stands in line once.
#[derive(Debug, Default)]
pub(super) struct Turns {
    small: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    in_a_row: u8,
}

impl Turns {
    pub(super) fn push(&mut self, stream: StreamId, state: &Stream) {
        if state.send.is_bulk() {
            self.bulk.push_back(stream);
        } else {
            self.small.push_back(stream);
        }
    }

    pub(super) fn pop(&mut self) -> Option<StreamId> {
        let bulk_waited = self.in_a_row >= SMALL_IN_A_ROW && !self.bulk.is_empty();
        if !bulk_waited && let Some(stream) = self.small.pop_front() {
            self.in_a_row = self.in_a_row.saturating_add(1);
            return Some(stream);
        }
        self.in_a_row = 0;
        self.bulk.pop_front()
    }

    pub(super) fn forget(&mut self, stream: StreamId) {
        self.small.retain(|listed| *listed != stream);
        self.bulk.retain(|listed| *listed != stream);
    }

    pub(super) fn len(&self) -> usize {
        self.small.len() + self.bulk.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.bulk.is_empty()
    }
}
