//! A control plane's part in replication: its own ledgers, its copies, its peers.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_model::{ClusterName, Position};
use isthmus_world::{Batch as StoreBatch, Chance, SeededChance, Store};

use crate::contact::{Behind, Contact, HEARTBEAT, Peer, Rtt};
use crate::follower::{Follower, Skipped};
use crate::ledger::{Change, Ledger, SavedTo, WriteError};
use crate::message::{Content, NO_FOLLOW, PeerMessage};
use crate::name::{Epoch, LedgerName, Mark};
use crate::output::{CloseReason, Output, Unsaved, Written};
use crate::record::{self, LoadError};
use crate::session::{Following, Serving, Session, SessionId};

/// The machine. Its driver feeds it connections, messages, ticks and writes, performs what it puts
/// out, and after any of these saves what `unsaved` gives.
#[derive(Debug)]
pub struct Replica {
    cluster: ClusterName,
    /// From whom shared ledgers are taken.
    authority: BTreeSet<ClusterName>,
    /// This cluster's word on shared ledgers is the authority's: what others have beyond it is foreign.
    leads: bool,
    /// What this cluster knows of who writes shared ledgers may be old: whoever writes them is believed.
    unsure: bool,
    ledgers: BTreeMap<LedgerName, Ledger>,
    copies: BTreeMap<LedgerName, Follower>,
    sessions: BTreeMap<SessionId, Session>,
    peers: BTreeMap<ClusterName, Peer>,
    /// What each peer has safe on disk of our ledgers.
    saved_by: BTreeMap<(ClusterName, LedgerName), Mark>,
    follows: u64,
    chance: SeededChance,
    born: Instant,
}

impl Replica {
    /// Starts with what the store holds. `authority`: who writes the shared ledgers. `member`: this cluster is one of
    /// them now; otherwise it takes copies from them. `seed`: 64 random bits.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub fn load(
        cluster: ClusterName,
        authority: BTreeSet<ClusterName>,
        member: bool,
        store: &dyn Store,
        seed: u64,
        now: Instant,
    ) -> Result<Self, LoadError> {
        let mut replica = Self {
            cluster,
            authority,
            leads: false,
            unsure: false,
            ledgers: BTreeMap::new(),
            copies: BTreeMap::new(),
            sessions: BTreeMap::new(),
            peers: BTreeMap::new(),
            saved_by: BTreeMap::new(),
            follows: 0,
            chance: SeededChance::new(seed),
            born: now,
        };
        let mut names = record::ledgers(store)?;
        names.extend(LedgerName::SHARED);
        names.extend(LedgerName::owned_by(&replica.cluster));
        names.sort();
        names.dedup();
        for name in names {
            let ledger = match name.owner() {
                Some(owner) if *owner == replica.cluster => {
                    Ledger::load(name.clone(), store, replica.chance.draw())?
                }
                None if member => Ledger::load_shared(name.clone(), store)?,
                _ => {
                    let copy = Follower::load(name.clone(), store)?;
                    replica.copies.insert(name, copy);
                    continue;
                }
            };
            replica.ledgers.insert(name, ledger);
        }
        Ok(replica)
    }

    /// One of the ledgers that are written here.
    pub fn ledger(&self, name: &LedgerName) -> Option<&Ledger> {
        self.ledgers.get(name)
    }

    /// A copy of somebody else's ledger.
    pub fn copy(&self, name: &LedgerName) -> Option<&Follower> {
        self.copies.get(name)
    }

    /// Our own ledgers and all copies, by name, and where each stands.
    pub fn marks(&self) -> BTreeMap<&LedgerName, Mark> {
        let ledgers = (self.ledgers.iter()).map(|(name, ledger)| (name, ledger.mark()));
        let copies = (self.copies.iter()).map(|(name, copy)| (name, copy.mark()));
        ledgers.chain(copies).collect()
    }

    /// All entries of a ledger or copy, by key.
    pub fn entries(&self, name: &LedgerName) -> Vec<(&Bytes, Position, &Bytes)> {
        match (self.ledgers.get(name), self.copies.get(name)) {
            (Some(ledger), _) => ledger.entries().collect(),
            (None, Some(copy)) => copy.entries().collect(),
            (None, None) => Vec::new(),
        }
    }

    /// The value of `key` in a ledger or copy, and where it was last changed.
    pub fn find(&self, ledger: &LedgerName, key: &[u8]) -> Option<(Position, &Bytes)> {
        match self.ledgers.get(ledger) {
            Some(ledger) => ledger.find(key),
            None => self.copies.get(ledger)?.find(key),
        }
    }

    /// What `peer` has safe on disk of our ledger.
    pub fn saved_by(&self, peer: &ClusterName, ledger: &LedgerName) -> Mark {
        let place = (peer.clone(), ledger.clone());
        self.saved_by.get(&place).copied().unwrap_or_default()
    }

    /// Whether `peer` is heard, and how long it was silent.
    pub fn contact(&self, peer: &ClusterName, now: Instant) -> (Contact, Option<Duration>) {
        let peer = self.peers.get(peer);
        peer.map_or((Contact::Never, None), |peer| peer.contact(now))
    }

    pub fn rtt(&self, peer: &ClusterName) -> Option<Rtt> {
        self.peers.get(peer)?.rtt
    }

    /// As `write`, to several ledgers at once: all of them accept their changes and save them in one
    /// commit, or none does.
    ///
    /// Errors: one of the ledgers is not ours, or does not accept its changes.
    pub fn write_together(
        &mut self,
        writes: Vec<(LedgerName, Vec<Change>)>,
    ) -> Result<Vec<Written>, WriteError> {
        for (ledger, changes) in &writes {
            let found = self.ledgers.get(ledger).ok_or_else(|| not_ours(ledger))?;
            found.accepts(changes)?;
        }
        let mut written = Vec::new();
        for (ledger, changes) in writes {
            written.push(self.write(&ledger, changes)?);
        }
        Ok(written)
    }

    /// Accepts all changes to one of our ledgers, or none: see `Ledger::write`.
    ///
    /// Errors: the ledger is not ours, or does not accept the changes.
    pub fn write(
        &mut self,
        ledger: &LedgerName,
        changes: Vec<Change>,
    ) -> Result<Written, WriteError> {
        let Some(found) = self.ledgers.get_mut(ledger) else {
            return Err(not_ours(ledger));
        };
        let position = found.write(changes)?;
        let mut outputs = Vec::new();
        if !ledger.is_durable()
            && let Some(to) = found.unsaved(&mut StoreBatch::new())
        {
            self.show(ledger, to, &mut outputs);
        }
        Ok(Written { position, outputs })
    }

    /// What must be saved now. Tell `on_saved` or `on_not_saved` before asking again.
    pub fn unsaved(&mut self) -> Option<Unsaved> {
        let mut unsaved = Unsaved {
            batch: StoreBatch::new(),
            ledgers: Vec::new(),
            copies: Vec::new(),
        };
        for (name, ledger) in &self.ledgers {
            let to = ledger.unsaved(&mut unsaved.batch);
            unsaved.ledgers.extend(to.map(|to| (name.clone(), to)));
        }
        for (name, copy) in &mut self.copies {
            let to = copy.unsaved(&mut unsaved.batch);
            unsaved.copies.extend(to.map(|to| (name.clone(), to)));
        }
        let nothing = unsaved.ledgers.is_empty() && unsaved.copies.is_empty();
        (!nothing).then_some(unsaved)
    }

    /// The batch is safe: shows our own writes and tells owners how far our copies are.
    pub fn on_saved(&mut self, saved: Unsaved) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (name, to) in saved.ledgers {
            self.show(&name, to, &mut outputs);
        }
        for (name, to) in saved.copies {
            if let Some(copy) = self.copies.get_mut(&name) {
                copy.saved(to);
            }
            self.acknowledge(&name, &mut outputs);
        }
        outputs
    }

    /// The batch could not be saved. Our own writes since the last save did not happen, though they
    /// may come back after a restart; copies go on and are saved with the next batch. What was agreed
    /// with others stays agreed, and is saved with the next batch too; `alone`: it was with nobody.
    pub fn on_not_saved(&mut self, unsaved: Unsaved, alone: bool) {
        for (name, _) in unsaved.ledgers {
            if let Some(ledger) = self.ledgers.get_mut(&name)
                && (alone || !ledger.is_shared())
            {
                ledger.discard();
            }
        }
    }

    /// What others have of our ledger from an epoch up to `seen`, and we have not, is void: the
    /// decision that `Output::Outlived` asks for. It holds when it is saved. False when the ledger
    /// is not ours or has no epochs left.
    pub fn overrule(&mut self, ledger: &LedgerName, seen: Epoch) -> bool {
        let draw = self.chance.draw();
        (self.ledgers.get_mut(ledger)).is_some_and(|ledger| ledger.overrule(seen, draw))
    }

    /// A connection with `peer` is open, whoever opened it; its certificate said who the peer is.
    pub fn on_connected(
        &mut self,
        session: SessionId,
        peer: ClusterName,
        now: Instant,
    ) -> Vec<Output> {
        self.peers.entry(peer.clone()).or_default();
        self.sessions.insert(session, Session::new(peer, now));
        vec![send(session, self.hello())]
    }

    /// A connection is gone. What came over it stays.
    pub fn on_disconnected(&mut self, session: SessionId) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.forget(session, &mut outputs);
        outputs
    }

    pub fn on_message(&mut self, id: SessionId, message: PeerMessage, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Some(session) = self.sessions.get_mut(&id) else {
            return outputs; // It was closed while the message was on its way.
        };
        session.heard = now;
        let greeted = session.greeted;
        let peer = session.peer.clone();
        self.hear(&peer, now, &mut outputs);
        match message {
            PeerMessage::Hello {
                cluster,
                offers,
                authority,
                at,
            } => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.shares = !authority.is_empty();
                }
                let writes = offers.contains(&LedgerName::Config);
                self.on_hello(id, &peer, &cluster, offers, &mut outputs);
                self.on_authority(&peer, writes, authority, at, &mut outputs);
            }
            _ if !greeted => self.close(id, CloseReason::NoHello, &mut outputs),
            PeerMessage::Follow {
                ledger,
                follow,
                from,
            } => self.on_follow(id, &peer, &ledger, Serving::new(follow, from), &mut outputs),
            PeerMessage::Piece {
                ledger,
                follow,
                number,
                content,
            } => {
                let following = Following { follow, number };
                self.on_piece(id, &ledger, following, content, &mut outputs);
            }
            PeerMessage::Ack {
                ledger,
                follow,
                number,
                saved,
            } => {
                let following = Following { follow, number };
                self.on_ack(id, &peer, &ledger, following, saved, &mut outputs);
            }
            PeerMessage::Heartbeat { sent } => {
                outputs.push(send(id, PeerMessage::Echo { sent }));
            }
            PeerMessage::Echo { sent } => self.on_echo(&peer, sent, now),
        }
        outputs
    }

    /// Sends heartbeats that are due and notices who is silent.
    pub fn on_tick(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        let sent = self.microseconds(now);
        let mut silent = Vec::new();
        for (id, session) in &mut self.sessions {
            if session.is_lost(now) {
                silent.push(*id);
            } else if session.next_heartbeat <= now {
                session.next_heartbeat = now + HEARTBEAT;
                outputs.push(send(*id, PeerMessage::Heartbeat { sent }));
            }
        }
        for id in silent {
            self.close(id, CloseReason::Silent, &mut outputs);
        }
        for session in self.sessions.values_mut() {
            for (name, serving) in &mut session.serving {
                if let Some(ledger) = self.ledgers.get(name) {
                    serving.watch(ledger, now);
                }
            }
        }
        for (name, peer) in &mut self.peers {
            tell_contact(name, peer, now, &mut outputs);
        }
        outputs
    }

    /// What the peer, which is connected, has not got on with for longest; `None`: it has all that is
    /// written here, or gets on.
    pub fn behind(&self, peer: &ClusterName, now: Instant) -> Option<Behind> {
        let sessions = self.sessions.values();
        let serving = sessions.filter(|session| session.peer == *peer);
        serving
            .flat_map(|session| &session.serving)
            .filter_map(|(name, serving)| serving.behind(self.ledgers.get(name)?, now))
            .max_by_key(|behind| behind.stuck)
    }

    /// When `on_tick` is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.values().map(Session::next_timeout);
        let peers = self.peers.values().filter_map(Peer::next_change);
        sessions.chain(peers).min()
    }

    fn on_hello(
        &mut self,
        id: SessionId,
        peer: &ClusterName,
        cluster: &ClusterName,
        offers: Vec<LedgerName>,
        outputs: &mut Vec<Output>,
    ) {
        if cluster != peer {
            return self.close(id, CloseReason::WrongCluster, outputs);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.greeted = true;
            // What it writes itself from now on it does not follow any more.
            session.serving.retain(|name, _| !offers.contains(name));
            session.offered = offers;
        }
        // Both may have dialled at once. The one whose name sorts first decides, so that not both
        // connections are closed.
        if self.cluster < *peer {
            let other = |(other, session): (&SessionId, &Session)| {
                (session.peer == *peer && *other != id).then_some(*other)
            };
            let others: Vec<_> = self.sessions.iter().filter_map(other).collect();
            for other in others {
                self.close(other, CloseReason::Superseded, outputs);
            }
        }
        self.follow_offers(id, outputs);
    }

    /// Takes everything that the peer owns and offers from this connection, and from no other. A
    /// shared ledger goes on coming from where it comes from.
    fn follow_offers(&mut self, id: SessionId, outputs: &mut Vec<Output>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.offered.sort();
        session.offered.dedup();
        let offered = session.offered.clone();
        let peer = session.peer.clone();
        session.following.retain(|name, _| offered.contains(name));
        let followed: Vec<_> = session.following.keys().cloned().collect();
        for ledger in offered {
            let is_new = ledger.owner().is_some() && !followed.contains(&ledger);
            if is_new && self.is_told_by(&ledger, &peer) {
                self.follow(id, &ledger, outputs);
            }
        }
        self.follow_shared(outputs);
    }

    fn follow(&mut self, id: SessionId, ledger: &LedgerName, outputs: &mut Vec<Output>) {
        self.unfollow(|_, followed| followed == ledger, outputs);
        let empty = || Follower::empty(ledger.clone());
        let copy = self.copies.entry(ledger.clone()).or_insert_with(empty);
        self.follows = self.follows.saturating_add(1);
        let following = Following {
            follow: self.follows,
            number: 0,
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.following.insert(ledger.clone(), following);
        }
        let follow = PeerMessage::Follow {
            ledger: ledger.clone(),
            follow: following.follow,
            from: copy.mark(),
        };
        outputs.push(send(id, follow));
        self.acknowledge(ledger, outputs); // The owner may have forgotten what we have.
    }

    /// Takes these from nobody any more, and says so: who goes on sending would wait for an answer.
    fn unfollow(
        &mut self,
        which: impl Fn(&Session, &LedgerName) -> bool,
        outputs: &mut Vec<Output>,
    ) {
        for (id, session) in &mut self.sessions {
            let followed = session.following.keys();
            let ended: Vec<_> = followed
                .filter(|name| which(session, name))
                .cloned()
                .collect();
            for ledger in ended {
                session.following.remove(&ledger);
                let from = Mark::default();
                let follow = NO_FOLLOW;
                outputs.push(send(
                    *id,
                    PeerMessage::Follow {
                        ledger,
                        follow,
                        from,
                    },
                ));
            }
        }
    }

    fn on_follow(
        &mut self,
        id: SessionId,
        peer: &ClusterName,
        ledger: &LedgerName,
        serving: Serving,
        outputs: &mut Vec<Output>,
    ) {
        let session = self.sessions.get_mut(&id);
        if let Some(session) = session.filter(|_| serving.follow == NO_FOLLOW) {
            session.serving.remove(ledger);
            return;
        }
        let Some(found) = self.ledgers.get_mut(ledger) else {
            return; // Not ours, and we never offered it.
        };
        if let Some(seen) = serving.foreign_to(found) {
            if ledger.is_durable() && (self.leads || !found.is_shared()) {
                outputs.push(Output::Outlived {
                    ledger: ledger.clone(),
                    peer: peer.clone(),
                    seen,
                    ours: found.mark(),
                });
            }
            // What people decided, and that they did, is not made void without their word; facts not before their
            // owner has heard again of what it had.
            if !found.is_shared() && !matches!(ledger, LedgerName::Facts(_)) {
                found.overrule(seen.epoch, self.chance.draw());
            }
        }
        // On another connection of this peer it may be served too: which of two follows is the later
        // one only the peer knows, and it ignores the other.
        if let Some(session) = self.sessions.get_mut(&id) {
            session.serving.insert(ledger.clone(), serving);
        }
        self.pump(ledger, outputs);
    }

    fn on_piece(
        &mut self,
        id: SessionId,
        ledger: &LedgerName,
        piece: Following,
        content: Content,
        outputs: &mut Vec<Output>,
    ) {
        let session = self.sessions.get_mut(&id);
        let following = session.and_then(|session| session.following.get_mut(ledger));
        let Some(following) = following.filter(|following| following.follow == piece.follow) else {
            return; // Of an earlier follow.
        };
        following.number = piece.number;
        let Some(copy) = self.copies.get_mut(ledger) else {
            return;
        };
        let applied = match content {
            Content::Batch(batch) => copy.on_batch(batch),
            Content::Part(part) => copy.on_part(part),
        };
        match applied {
            Ok(keys) => {
                if !keys.is_empty() {
                    let ledger = ledger.clone();
                    outputs.push(Output::Touched { ledger, keys });
                }
                self.acknowledge(ledger, outputs);
            }
            Err(Skipped::Older { .. }) => self.acknowledge(ledger, outputs),
            Err(Skipped::Gap { .. }) => self.follow(id, ledger, outputs),
            Err(Skipped::Malformed) => self.close(id, CloseReason::Malformed, outputs),
        }
    }

    fn on_ack(
        &mut self,
        id: SessionId,
        peer: &ClusterName,
        ledger: &LedgerName,
        acked: Following,
        saved: Mark,
        outputs: &mut Vec<Output>,
    ) {
        let session = self.sessions.get_mut(&id);
        let serving = session.and_then(|session| session.serving.get_mut(ledger));
        let serving = serving.filter(|serving| serving.follow == acked.follow);
        let (Some(serving), Some(found)) = (serving, self.ledgers.get(ledger)) else {
            return;
        };
        if let Some(mark) = serving.on_ack(acked.number, saved, found) {
            let place = (peer.clone(), ledger.clone());
            let before = self.saved_by.entry(place).or_default();
            if mark > *before {
                *before = mark;
                outputs.push(Output::SavedBy {
                    peer: peer.clone(),
                    ledger: ledger.clone(),
                    mark,
                });
            }
        }
        self.pump(ledger, outputs);
    }

    fn on_echo(&mut self, peer: &ClusterName, sent: u64, now: Instant) {
        let elapsed = self.microseconds(now).checked_sub(sent);
        if let (Some(elapsed), Some(peer)) = (elapsed, self.peers.get_mut(peer)) {
            let sample = Duration::from_micros(elapsed);
            peer.rtt = Some(Rtt::measured(peer.rtt, sample));
        }
    }

    /// Makes saved writes visible here and to all followers.
    fn show(&mut self, name: &LedgerName, to: SavedTo, outputs: &mut Vec<Output>) {
        let Some(ledger) = self.ledgers.get_mut(name) else {
            return;
        };
        let keys = ledger.saved(to);
        if !keys.is_empty() {
            let ledger = name.clone();
            outputs.push(Output::Touched { ledger, keys });
        }
        self.pump(name, outputs);
    }

    /// Sends to every follower of our ledger what it may be sent.
    fn pump(&mut self, name: &LedgerName, outputs: &mut Vec<Output>) {
        let Some(ledger) = self.ledgers.get(name) else {
            return;
        };
        for (id, session) in &mut self.sessions {
            if let Some(serving) = session.serving.get_mut(name) {
                while let Some(piece) = serving.next(ledger) {
                    outputs.push(send(*id, piece));
                }
            }
        }
    }

    /// Tells the owner how far our copy is.
    fn acknowledge(&self, name: &LedgerName, outputs: &mut Vec<Output>) {
        let Some(copy) = self.copies.get(name) else {
            return;
        };
        for (id, session) in &self.sessions {
            if let Some(following) = session.following.get(name) {
                let ack = PeerMessage::Ack {
                    ledger: name.clone(),
                    follow: following.follow,
                    number: following.number,
                    saved: copy.saved_mark(),
                };
                outputs.push(send(*id, ack));
            }
        }
    }

    fn hear(&mut self, name: &ClusterName, now: Instant, outputs: &mut Vec<Output>) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.heard = Some(now);
            tell_contact(name, peer, now, outputs);
        }
    }

    fn close(&mut self, session: SessionId, reason: CloseReason, outputs: &mut Vec<Output>) {
        outputs.push(Output::Close { session, reason });
        self.forget(session, outputs);
    }

    /// Follows on another connection, if there is one, what came in on this.
    fn forget(&mut self, id: SessionId, outputs: &mut Vec<Output>) {
        let Some(gone) = self.sessions.remove(&id) else {
            return;
        };
        let other = |(id, session): (&SessionId, &Session)| {
            (session.peer == gone.peer && session.greeted).then_some(*id)
        };
        let other = self.sessions.iter().rev().find_map(other);
        for ledger in gone.following.keys() {
            if let Some(copy) = self.copies.get_mut(ledger) {
                copy.interrupt();
            }
            if let Some(other) = other.filter(|_| ledger.owner().is_some()) {
                self.follow(other, ledger, outputs);
            }
        }
        self.follow_shared(outputs);
    }

    /// Since this machine was made.
    fn microseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.born);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

fn not_ours(ledger: &LedgerName) -> WriteError {
    WriteError::NotOurs {
        ledger: ledger.clone(),
    }
}

fn send(session: SessionId, message: PeerMessage) -> Output {
    Output::Send { session, message }
}

fn tell_contact(name: &ClusterName, peer: &mut Peer, now: Instant, outputs: &mut Vec<Output>) {
    let (contact, _) = peer.contact(now);
    if contact != Contact::Never && peer.told != Some(contact) {
        peer.told = Some(contact);
        outputs.push(Output::Contact {
            peer: name.clone(),
            contact,
        });
    }
}
