//! Ledgers that the authority's clusters write together: what is proposed, what is agreed, and who may
//! tell of it.

use std::collections::BTreeSet;

use isthmus_model::{ClusterName, Position};
use isthmus_world::Chance;

use super::{Replica, send};
use crate::decision::{DecidedWrite, Decision, LedgerHead, OutOfOrder};
use crate::follower::Follower;
use crate::ledger::{Change, Ledger, WriteError};
use crate::message::PeerMessage;
use crate::name::{Epoch, LedgerName, Mark};
use crate::output::Output;
use crate::session::{Session, SessionId};

impl Replica {
    /// Who writes them from now on, as far as this cluster follows them.
    pub fn set_authority(&mut self, authority: BTreeSet<ClusterName>) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.authority == authority {
            return outputs;
        }
        self.unfollow(
            |session, ledger| ledger.owner().is_none() && !authority.contains(&session.peer),
            &mut outputs,
        );
        self.authority = authority;
        self.follow_shared(&mut outputs);
        outputs.extend(self.announce());
        outputs
    }

    /// Can the peer be one of those who write shared ledgers? Not if it is older than that, or not heard.
    pub fn can_share(&self, peer: &ClusterName) -> bool {
        let sessions = self.sessions.values();
        let mut with = sessions.filter(|session| session.peer == *peer);
        with.any(|session| session.shares)
    }

    /// Does what this cluster says of shared ledgers count, wherever others were told more?
    pub fn set_leads(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// As `write_together`, to shared ledgers: a proposal. Gives what is to be agreed.
    ///
    /// Errors: as for `write_together`.
    pub fn propose(
        &mut self,
        writes: Vec<(LedgerName, Vec<Change>)>,
    ) -> Result<Vec<DecidedWrite>, WriteError> {
        let wanted = writes.clone();
        let written = self.write_together(writes)?;
        let proposed = wanted.into_iter().zip(written);
        Ok(proposed
            .map(|((ledger, changes), written)| DecidedWrite {
                ledger,
                position: written.position,
                entries: (changes.into_iter())
                    .map(|change| (change.key, change.value))
                    .collect(),
            })
            .collect())
    }

    /// What was proposed here is agreed.
    pub fn agree(&mut self, writes: &[DecidedWrite]) {
        for write in writes {
            if let Some(ledger) = self.ledgers.get_mut(&write.ledger) {
                ledger.agree(write.position);
            }
        }
    }

    /// This is agreed, whoever proposed it. False when it was known already.
    ///
    /// Errors: a ledger of it lacks something that was agreed before.
    pub fn decide(&mut self, decision: Decision) -> Result<bool, OutOfOrder> {
        let mut is_news = true;
        if let Some(epoch) = decision.epoch {
            for name in LedgerName::SHARED {
                if let Some(ledger) = self.ledgers.get_mut(&name) {
                    ledger.begin(epoch);
                }
            }
        }
        for write in decision.writes {
            if let Some(ledger) = self.ledgers.get_mut(&write.ledger) {
                is_news &= ledger.decide(write)?;
            }
        }
        Ok(is_news)
    }

    /// What was proposed here and is not agreed did not happen; it may be agreed later all the same.
    pub fn discard_proposals(&mut self) {
        for name in LedgerName::SHARED {
            if let Some(ledger) = self.ledgers.get_mut(&name) {
                ledger.discard_unagreed();
            }
        }
    }

    /// Above every epoch that shared ledgers were in. `None` when there is none left.
    pub fn next_epoch(&mut self) -> Option<Epoch> {
        let draw = self.chance.draw();
        let heads = self.heads();
        let last = heads
            .iter()
            .map(|(_, head)| head.mark.epoch.max(head.overrules));
        let last = last.max();
        Epoch::above(last.unwrap_or_default(), draw)
    }

    /// Where the shared ledgers stand with all that is agreed; none when this cluster does not write them.
    pub fn heads(&self) -> Vec<(LedgerName, LedgerHead)> {
        let ledgers = (self.ledgers.iter()).filter(|(_, ledger)| ledger.is_shared());
        ledgers
            .map(|(name, ledger)| (name.clone(), ledger.head()))
            .collect()
    }

    /// Where the copies of the shared ledgers stand. Of their past nothing is known.
    pub fn copied_heads(&self) -> Vec<(LedgerName, LedgerHead)> {
        let names = LedgerName::SHARED.into_iter();
        let head = |name: LedgerName| {
            let mark = self.copies.get(&name)?.mark();
            let head = LedgerHead {
                mark,
                overrules: mark.epoch,
                lineage: Vec::new(),
            };
            Some((name, head))
        };
        names.filter_map(head).collect()
    }

    /// Do the copies of the shared ledgers have everything before this decision?
    pub fn precedes(&self, decision: &Decision) -> bool {
        decision.writes.iter().all(|write| {
            let copy = self.copies.get(&write.ledger).map(Follower::mark);
            copy.is_some_and(|copy| write.position.0 <= copy.position.0.saturating_add(1))
        })
    }

    /// Are the copies of the shared ledgers as far as this, so that `take_over` can be called?
    pub fn reaches(&self, heads: &[(LedgerName, LedgerHead)]) -> bool {
        LedgerName::SHARED.iter().all(|name| {
            let head = heads.iter().find(|(found, _)| found == name);
            let mark = self.copies.get(name).map(Follower::mark);
            mark.zip(head).is_some_and(|(mark, (_, head))| {
                mark.epoch == head.mark.epoch && mark.position >= head.mark.position
            })
        })
    }

    /// This cluster writes the shared ledgers too from now on, and others may follow them here.
    pub fn take_over(&mut self, heads: Vec<(LedgerName, LedgerHead)>) -> Vec<Output> {
        for (name, head) in heads {
            if let Some(copy) = self.copies.remove(&name) {
                let ledger = Ledger::take_over(copy, head);
                self.ledgers.insert(name.clone(), ledger);
            }
            for session in self.sessions.values_mut() {
                session.following.remove(&name);
            }
        }
        self.announce()
    }

    /// This cluster writes the shared ledgers alone from now on, with what its copies have. What others have
    /// from epochs before `first` that this cluster does not know is void.
    pub fn begin_anew(&mut self, first: Epoch) -> Vec<Output> {
        let mut heads = self.copied_heads();
        for (_, head) in &mut heads {
            head.overrules = first.max(head.mark.epoch);
        }
        self.take_over(heads)
    }

    /// This cluster writes the shared ledgers no more: it follows them.
    pub fn hand_back(&mut self) -> Vec<Output> {
        self.leads = false;
        for name in LedgerName::SHARED {
            // Whoever took it from here is told that it is not offered any more, and takes it from others.
            for session in self.sessions.values_mut() {
                session.serving.remove(&name);
            }
            if let Some(ledger) = self.ledgers.remove(&name) {
                self.copies.insert(name, ledger.hand_back());
            }
        }
        let mut outputs = self.announce();
        self.follow_shared(&mut outputs);
        outputs
    }

    /// What the copies of the shared ledgers hold never was: nothing was written there but who founded them.
    pub fn forget_shared(&mut self) {
        for name in LedgerName::SHARED {
            if let Some(copy) = self.copies.get_mut(&name) {
                *copy = Follower::empty(name);
            }
        }
    }

    /// What this cluster knows of the authority may be older than what it knew before: it believes any peer that writes
    /// shared ledgers and knows more.
    pub fn set_unsure(&mut self, unsure: bool) {
        self.unsure = unsure;
    }

    /// Tells all peers anew what is written here.
    pub fn announce(&self) -> Vec<Output> {
        let sessions = self.sessions.keys();
        sessions
            .map(|session| send(*session, self.hello()))
            .collect()
    }

    pub(super) fn hello(&self) -> PeerMessage {
        PeerMessage::Hello {
            cluster: self.cluster.clone(),
            offers: self.ledgers.keys().cloned().collect(),
            authority: self.authority.clone(),
            at: self.authority_mark(),
        }
    }

    /// Where what is known of the authority stands.
    pub fn authority_mark(&self) -> Mark {
        let ledger = self.ledgers.get(&LedgerName::Authority).map(Ledger::mark);
        let copy = || self.copies.get(&LedgerName::Authority).map(Follower::mark);
        ledger.or_else(copy).unwrap_or_default()
    }

    /// Who was away while everybody that it would believe left the authority learns from them who came
    /// after them.
    pub(super) fn on_authority(
        &mut self,
        peer: &ClusterName,
        writes: bool,
        authority: BTreeSet<ClusterName>,
        at: Mark,
        outputs: &mut Vec<Output>,
    ) {
        let is_news = !authority.is_empty() && at > self.authority_mark();
        // Whoever decides alone and has decided nothing yet may have lost its store.
        let config = self.ledgers.get(&LedgerName::Config);
        let is_blank = config.is_some_and(|config| config.mark().position == Position(0));
        let is_believed = self.authority.contains(peer) || is_blank || (self.unsure && writes);
        // That it is again as this cluster knows it is news too, for who has heard otherwise meanwhile.
        if is_news && is_believed && (self.authority != authority || !is_blank) {
            let clusters = authority;
            outputs.push(Output::Authority { clusters, at });
        }
    }

    /// May this peer tell of the ledger?
    pub(super) fn is_told_by(&self, ledger: &LedgerName, peer: &ClusterName) -> bool {
        match ledger.owner() {
            Some(owner) => owner == peer,
            None => self.authority.contains(peer) && !self.ledgers.contains_key(ledger),
        }
    }

    /// Follows each shared ledger that is not followed, where somebody offers it.
    pub(super) fn follow_shared(&mut self, outputs: &mut Vec<Output>) {
        for name in LedgerName::SHARED {
            let followed = |session: &Session| session.following.contains_key(&name);
            if self.sessions.values().any(followed) {
                continue;
            }
            let offers = |(id, session): (&SessionId, &Session)| {
                let offered = session.greeted && session.offered.contains(&name);
                (offered && self.is_told_by(&name, &session.peer)).then_some(*id)
            };
            let found = self.sessions.iter().rev().find_map(offers);
            if let Some(id) = found {
                self.follow(id, &name, outputs);
            }
        }
    }
}
