//! What the connection holds, as the process's budget knows it.

use super::Connection;
use crate::mux::MAX_DATA;

/// The account is shared by all threads of a process: it is told in steps, not of every frame.
const STEP: u64 = MAX_DATA as u64;

/// What comes and goes at once need not be told each time.
const SLACK: u64 = STEP;

impl Connection {
    /// Bytes that a stream may queue: where the budget is short, what fills a frame. Data that is
    /// queued leaves by itself, so there is room again when it has.
    pub(super) fn queue_limit(&self) -> usize {
        if self.budget.is_short() {
            MAX_DATA
        } else {
            self.settings.queue
        }
    }

    /// Counts what came in by the credit that every connection begins with, and what waits to be sent.
    /// The peer was promised the one, and somebody has read the other already: it is held whether there
    /// is memory for it or not.
    pub(super) fn count_held(&mut self) {
        let came = self.receive_window.held();
        let holds = came.saturating_sub(self.drawn.bytes()) + self.queued;
        let counted = self.held.bytes();
        if holds > counted {
            self.held.hold((holds - counted).next_multiple_of(STEP));
        } else if counted - holds > SLACK {
            self.held.less(counted - holds.next_multiple_of(STEP));
        }
    }
}
