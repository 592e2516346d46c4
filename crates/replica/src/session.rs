//! One connection with a peer: which ledgers go out on it, which come in, and when it spoke last.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use isthmus_model::{ClusterName, Position};

use crate::contact::{Behind, HEARTBEAT, LOST_AFTER};
use crate::ledger::{Changes, Ledger, Relation};
use crate::message::{Content, Entry, Part, PeerMessage};
use crate::name::{LedgerName, Mark};

/// Pieces of one ledger on their way to one follower, without an ack. A slow follower costs this
/// much memory and holds up nobody else.
pub const WINDOW: u64 = 4;
/// Bytes of one piece, about; exceeded by a single write that is larger.
pub const MESSAGE_BYTES: usize = 256 * 1024;

/// A connection, as its driver numbers it: the later one has the higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) peer: ClusterName,
    /// The peer has said hello.
    pub(crate) greeted: bool,
    /// The peer's version knows that several clusters write shared ledgers.
    pub(crate) shares: bool,
    pub(crate) heard: Instant,
    pub(crate) next_heartbeat: Instant,
    /// What the peer says that it writes.
    pub(crate) offered: Vec<LedgerName>,
    /// Ledgers that come in, by the number of our follow.
    pub(crate) following: BTreeMap<LedgerName, Following>,
    /// Ledgers that go out.
    pub(crate) serving: BTreeMap<LedgerName, Serving>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Following {
    pub(crate) follow: u64,
    /// The last piece that was handled.
    pub(crate) number: u64,
}

/// A follower's progress through one of our ledgers.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) follow: u64,
    /// Where the follower is when it has handled everything that was sent.
    mark: Mark,
    /// What it has on disk, as it says.
    saved: Mark,
    /// Since when it has not saved more, though there is more.
    stuck: Option<Instant>,
    sent: u64,
    acked: u64,
    checkpoint: Option<Checkpoint>,
}

/// A checkpoint of which some parts are not sent.
#[derive(Debug)]
struct Checkpoint {
    at: Mark,
    next: u64,
    rest: VecDeque<Entry>,
}

impl Session {
    pub(crate) fn new(peer: ClusterName, now: Instant) -> Self {
        Self {
            peer,
            greeted: false,
            shares: false,
            heard: now,
            next_heartbeat: now + HEARTBEAT,
            offered: Vec::new(),
            following: BTreeMap::new(),
            serving: BTreeMap::new(),
        }
    }

    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= LOST_AFTER
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        self.next_heartbeat.min(self.heard + LOST_AFTER)
    }
}

impl Serving {
    pub(crate) fn new(follow: u64, from: Mark) -> Self {
        Self {
            follow,
            mark: from,
            saved: from,
            stuck: None,
            sent: 0,
            acked: 0,
            checkpoint: None,
        }
    }

    /// Where the follower is, if the ledger does not know how it came there.
    pub(crate) fn foreign_to(&self, ledger: &Ledger) -> Option<Mark> {
        (ledger.relation(self.mark) == Relation::Foreign).then_some(self.mark)
    }

    /// Takes the follower's word for what it handled and saved, as far as it was sent. Gives what
    /// it saved.
    pub(crate) fn on_ack(&mut self, number: u64, saved: Mark, ledger: &Ledger) -> Option<Mark> {
        let acked = self.acked.max(number.min(self.sent));
        // A checkpoint is saved with its last part: until then, taking it is getting on.
        if acked > self.acked && self.checkpoint.is_some() {
            self.stuck = None;
        }
        self.acked = acked;
        let ours = saved <= self.mark && ledger.relation(saved) == Relation::Ours;
        if ours && saved != self.saved {
            self.saved = saved;
            self.stuck = None;
        }
        ours.then_some(saved)
    }

    /// Notices when the follower begins not to get on.
    pub(crate) fn watch(&mut self, ledger: &Ledger, now: Instant) {
        if self.lacks(ledger) {
            self.stuck.get_or_insert(now);
        } else {
            self.stuck = None;
        }
    }

    /// `None`: it gets on.
    pub(crate) fn behind(&self, ledger: &Ledger, now: Instant) -> Option<Behind> {
        let changes = ledger
            .mark()
            .position
            .0
            .saturating_sub(self.saved.position.0);
        let stuck = now.saturating_duration_since(self.stuck?);
        self.lacks(ledger).then(|| Behind {
            ledger: ledger.name().clone(),
            changes: changes.max(1), // Of another epoch it lacks all.
            stuck,
        })
    }

    /// Of a ledger in which nothing was ever written there is nothing to save; and who knows more than this one is
    /// told nothing by it.
    fn lacks(&self, ledger: &Ledger) -> bool {
        let ours = ledger.mark();
        self.saved != ours && ours.position > Position(0) && ledger.tells(self.saved)
    }

    /// The next piece, when there is something to say and room to say it.
    pub(crate) fn next(&mut self, ledger: &Ledger) -> Option<PeerMessage> {
        if self.sent.saturating_sub(self.acked) >= WINDOW {
            return None;
        }
        let content = match &mut self.checkpoint {
            Some(_) => self.next_part()?,
            None => match ledger.since(self.mark, MESSAGE_BYTES) {
                Changes::UpToDate | Changes::Foreign => return None,
                Changes::Batch(batch) => {
                    self.mark = batch.to;
                    Content::Batch(batch)
                }
                Changes::Checkpoint { at, entries } => {
                    self.checkpoint = Some(Checkpoint {
                        at,
                        next: 0,
                        rest: entries.into(),
                    });
                    self.next_part()?
                }
            },
        };
        self.sent = self.sent.saturating_add(1);
        Some(PeerMessage::Piece {
            ledger: ledger.name().clone(),
            follow: self.follow,
            number: self.sent,
            content,
        })
    }

    fn next_part(&mut self) -> Option<Content> {
        let checkpoint = self.checkpoint.as_mut()?;
        let mut entries = Vec::new();
        let mut bytes = 0usize;
        while bytes < MESSAGE_BYTES
            && let Some(entry) = checkpoint.rest.pop_front()
        {
            bytes = bytes.saturating_add(entry.size());
            entries.push(entry);
        }
        let part = Part {
            at: checkpoint.at,
            number: checkpoint.next,
            last: checkpoint.rest.is_empty(),
            entries,
            signature: None,
        };
        checkpoint.next = checkpoint.next.saturating_add(1);
        if part.last {
            self.mark = part.at;
            self.checkpoint = None;
        }
        Some(Content::Part(part))
    }
}
