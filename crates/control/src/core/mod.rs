//! One cluster's control plane as one machine: everything that can happen to it is an [`Event`],
//! everything that it does about it an [`Action`].
//!
//! It has a single owner and runs over any [`Store`]; time comes with each event. `on` takes an
//! event in, `flush` makes durable what events since then asked for and gives out what follows:
//! many writes share one commit, and nobody is told of a write before it is safe. It never opens a
//! socket, reads a clock or waits.

mod answer;
mod authority;
mod charter;
mod conditions;
mod config;
mod dial;
mod entries;
mod history;
mod lagging;
mod members;
mod objects;
mod origin;
mod peers;
mod proxies;
mod publishing;
mod questions;
mod read;
mod removals;
mod renewals;
mod restore;
mod restored;
mod revoked;
mod telling;
mod tokens;
mod views;
mod watch;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use isthmus_api::{Failure, ReleaseRequest, ResetRequest, RevokeRequest};
use isthmus_identity::{KeyHash, TokenId, TokenRecord, TokenSecret, TrustBundle, gateway_identity};
use isthmus_model::{
    Admission, ClusterName, Identity, Kind, MeshName, Origin, Position, ResourceKey, ServiceName,
    TrustDomain,
};
use isthmus_replica::{Epoch, LedgerName, Replica};
use isthmus_wire::proto;
use isthmus_world::{Batch, SeededChance, Store};

pub use answer::{Answer, Backup};
pub(crate) use config::kinds;
pub use dial::Target;
pub use history::HistoryQuery;
pub use isthmus_replica::SessionId as PeerSessionId;
pub use lagging::OwnCertificate;
pub(crate) use read::selection;
pub use restored::mark_backup;
pub use watch::{Selection, WatchEvent};
pub use write::{Verb, Write};

use crate::index::{Index, Touched};
use answer::{Held, ReplyTo};
use authority::Authority;
use charter::Charter;
use dial::Dialling;
use members::{Group, Members};
use objects::Stored;
use peers::Peers;
use publishing::Publishing;
use questions::Questions;
use read::Gathers;
use revoked::Revoked;
use tokens::Tokens;
use watch::Watches;

/// A stream to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A connection that a proxy opened; its streams share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A request of the API that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Certificates of one generation were issued by one authority of the cluster, since something took place that made
/// all earlier ones worth renewing. Counted anew by each process of the control plane; 0: another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Generation(u64);

impl Generation {
    /// With which a control plane starts.
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a control plane is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    pub mesh: MeshName,
    pub trust_domain: TrustDomain,
    /// What the mesh key signs is checked with it.
    pub trust: TrustBundle,
    /// The number of the word by which it does: one with a lower number is an older one.
    pub trust_serial: u64,
    pub cluster: ClusterName,
    /// The cluster that founded the mesh: its control plane accepts config until config says whose do.
    pub authority: ClusterName,
    /// Control planes to dial while config does not say where they are.
    pub bootstrap: Vec<SocketAddr>,
    /// How long the certificates of processes are valid.
    pub leaf_lifetime: Duration,
    /// 64 random bits.
    pub seed: u64,
}

/// What time it is.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub monotonic: Instant,
    pub wall: SystemTime,
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    Request {
        id: RequestId,
        request: Request,
    },
    /// Nobody reads this watch any more.
    WatchEnded {
        id: RequestId,
    },
    /// A proxy of this cluster has opened its stream.
    ProxyOpened {
        session: SessionId,
        connection: ConnectionId,
        identity: Identity,
        /// As its certificate says.
        admission: Option<Admission>,
        /// Of its certificate.
        generation: Generation,
    },
    /// On this connection a certificate was renewed.
    Renewed {
        connection: ConnectionId,
        generation: Generation,
    },
    /// What this cluster issues from now on is of another generation.
    Issuing(Generation),
    /// Other roots are trusted, by the word with this number.
    Trust {
        serial: u64,
        trust: TrustBundle,
    },
    ProxyMessage {
        session: SessionId,
        message: proto::FromProxy,
    },
    ProxyClosed {
        session: SessionId,
    },
    /// A stream with another control plane is open. `target`: what was dialled, if we did.
    PeerOpened {
        session: PeerSessionId,
        cluster: ClusterName,
        target: Option<Target>,
    },
    PeerMessage {
        session: PeerSessionId,
        frame: proto::PeerFrame,
    },
    PeerClosed {
        session: PeerSessionId,
    },
    DialFailed {
        target: Target,
    },
    /// Nobody listens at an address that `Action::FindListener` named.
    NoListener(SocketAddr),
    /// This cluster lives by these from now on.
    Certificates(Vec<OwnCertificate>),
    /// Time has passed.
    Tick,
}

/// What the API asks.
#[derive(Debug)]
pub enum Request {
    /// One object or a list.
    Read(Selection),
    /// Changes from now on, after `since`; `None`: after all that there is, which comes first.
    Watch {
        selection: Selection,
        since: Option<Position>,
    },
    Write(Write),
    /// Changes of config that were accepted, newest first.
    History(HistoryQuery),
    Status,
    /// All that is saved, to start from later.
    Backup,
    /// Who accepts config.
    Authority,
    /// This voter is to lead the authority.
    Transfer(ClusterName),
    /// This cluster is to accept config alone from now on, says the holder of the mesh key.
    Reset(ResetRequest),
    /// Remember a join token before it is given out.
    AddToken(TokenRecord),
    /// Use a join token for a key.
    Enroll {
        token: TokenId,
        secret: TokenSecret,
        key: KeyHash,
    },
    /// May a process of this cluster that was admitted so go on?
    Admits(Admission),
    /// A process of this cluster is to be one no more.
    Revoke {
        author: String,
        request: RevokeRequest,
    },
    Revocations,
    /// Members that are held are to be taken for gone.
    Release(ReleaseRequest),
    /// Who has a certificate of the generation that is issued.
    Renewals,
    /// Connections of proxies whose workload runs the service.
    FindProxies(ServiceName),
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    Answer {
        id: RequestId,
        answer: Answer,
    },
    /// The next line of a watch.
    Watch {
        id: RequestId,
        event: WatchEvent,
    },
    /// There is no next line.
    EndWatch {
        id: RequestId,
    },
    ToProxy {
        session: SessionId,
        message: proto::ToProxy,
    },
    CloseProxy {
        session: SessionId,
        reason: String,
    },
    ToPeer {
        session: PeerSessionId,
        frame: proto::PeerFrame,
    },
    ClosePeer {
        session: PeerSessionId,
        reason: String,
    },
    Dial {
        target: Target,
        address: SocketAddr,
    },
    /// Does anybody listen at this address? Only that nobody does is told.
    FindListener(SocketAddr),
    /// Something that a person should know.
    Notice(Notice),
}

/// What goes to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    StoreFailed {
        error: String,
    },
    StoreRecovered,
    /// An entry of a ledger is not understood; the last good one stays.
    BadEntry {
        ledger: String,
        key: String,
        reason: String,
    },
    /// A proxy reported something that is not shown.
    BadReport {
        process: String,
        reason: String,
    },
    Contact {
        cluster: ClusterName,
        contact: isthmus_replica::Contact,
    },
    /// This control plane has no vote on config any more, though it is meant to have one.
    VoteLost {
        reason: String,
    },
    /// The authority began anew in a cluster; so many changes that this one has are void.
    Reset {
        cluster: ClusterName,
        rejected: usize,
    },
    /// A peer said that the authority began anew, and that is not so.
    BadReset {
        cluster: ClusterName,
        reason: String,
    },
    /// Another cluster is heard and saves nothing of what it is told, or does so again.
    Behind {
        cluster: ClusterName,
        is_stuck: bool,
    },
    /// This control plane has started from a backup.
    Restored {
        taken: String,
    },
    /// So many of a service's workloads, or of the gateways, were missed together that they are shown as they were;
    /// none held: not any more.
    HeldBack {
        group: String,
        held: usize,
        total: usize,
    },
    /// The other cluster knows more of our ledger than we do.
    Outlived {
        ledger: String,
        cluster: ClusterName,
    },
}

/// The machine.
#[derive(Debug)]
pub struct Core<S> {
    settings: Settings,
    store: S,
    chance: SeededChance,
    index: Index,
    /// Config as it is shown: saved, and where each object last changed.
    objects: BTreeMap<ResourceKey, (Position, Stored)>,
    /// Objects that this version cannot read, and why. They stay in the ledger.
    unreadable: BTreeMap<ResourceKey, String>,
    charter: Charter,
    /// Since when there is config to speak of.
    known_since: Option<Instant>,
    findings: conditions::Findings,
    replica: Replica,
    peers: Peers,
    questions: Questions,
    gathers: Gathers,
    dialling: Dialling,
    authority: Authority,
    /// Where in the archive changes lie that are void.
    rejected: BTreeSet<Vec<u8>>,
    members: Members,
    /// Groups of which members are held, and how many at most since the first was.
    held_back: BTreeMap<Group, usize>,
    tokens: Tokens,
    revoked: Revoked,
    publishing: Publishing,
    watches: Watches,
    certificates: Vec<OwnCertificate>,
    generation: Generation,
    /// Clusters that are heard and do not get on, as was told of last.
    stuck: BTreeSet<ClusterName>,
    /// Writes of our own tables that are not saved.
    pending: Batch,
    /// Changes of config that are safe in their ledger, on their way to where they stay for good.
    unarchived: Batch,
    touched: Touched,
    /// An epoch of our facts that others know more of than this store, and are not told yet that it is void.
    outlived: Option<Epoch>,
    /// Own facts must be compared with their ledger: a save failed.
    facts_unsure: bool,
    /// Answers that go out when what they speak of is saved.
    held: Vec<(ReplyTo, Held)>,
    actions: Vec<Action>,
    store_failing: bool,
    next_bookmark: Instant,
    started: Instant,
    /// When the last event came.
    now: Now,
}

/// How often watches are told that nothing changed.
const BOOKMARKS: Duration = Duration::from_secs(30);

impl<S: Store> Core<S> {
    /// Takes one event in. What follows from it is given out by the next `flush`.
    pub fn on(&mut self, event: Event, now: Now) {
        self.now = now;
        match event {
            Event::Request { id, request } => self.on_request(id, request, now),
            Event::WatchEnded { id } => self.watches.end(id),
            Event::ProxyOpened {
                session,
                connection,
                identity,
                admission,
                generation,
            } => match admission {
                Some(admission) if self.revoked.contains(admission) => self.close_revoked(session),
                _ => {
                    (self.publishing).open(session, connection, identity, admission, generation);
                    self.ask_to_renew(session);
                }
            },
            Event::Renewed {
                connection,
                generation,
            } => self.on_renewed(connection, generation),
            Event::Trust { serial, trust } => {
                if serial > self.settings.trust_serial {
                    self.settings.trust = trust;
                    self.settings.trust_serial = serial;
                }
            }
            Event::Issuing(generation) => self.on_issuing(generation),
            Event::ProxyMessage { session, message } => self.on_proxy_message(session, message),
            Event::ProxyClosed { session } => {
                self.members.on_closed(session, now.monotonic);
                self.publishing.close(session, now.monotonic);
            }
            Event::PeerOpened {
                session,
                cluster,
                target,
            } => self.on_peer_opened(session, cluster, target, now.monotonic),
            Event::PeerMessage { session, frame } => self.on_peer_frame(session, frame, now),
            Event::PeerClosed { session } => self.on_peer_closed(session, now.monotonic),
            Event::DialFailed { target } => {
                let chance = &mut self.chance;
                self.dialling
                    .on_ended(&target, false, now.monotonic, chance);
            }
            Event::NoListener(address) => {
                let changes = self.members.on_refused(address, now.monotonic);
                self.apply_members(changes);
            }
            Event::Certificates(certificates) => self.certificates = certificates,
            Event::Tick => self.on_tick(now),
        }
    }

    fn on_request(&mut self, id: RequestId, request: Request, now: Now) {
        match request {
            Request::Read(selection) => self.on_read(id, selection, now.monotonic),
            Request::Watch { selection, since } => self.on_watch(id, selection, since),
            Request::Write(write) => self.on_write(id, write, now),
            Request::Authority => self.on_show_authority(ReplyTo::Request(id), now),
            Request::Transfer(to) => self.on_transfer(ReplyTo::Request(id), &to, now),
            Request::Reset(request) => self.on_reset(ReplyTo::Request(id), &request, now),
            Request::History(query) => self.on_history(id, &query),
            Request::Status => {
                let view = self.status(now);
                self.answer(id, Answer::view(&view));
            }
            Request::Backup => self.on_backup(id, now),
            Request::AddToken(record) => self.on_add_token(id, record),
            Request::Admits(admission) => {
                let answer = if self.revoked.contains(admission) {
                    Failure::forbidden(self.revoked_text()).into()
                } else {
                    Answer::Done
                };
                self.answer(id, answer);
            }
            Request::Revoke { author, request } => self.on_revoke(id, &request, author, now),
            Request::Renewals => {
                let answer = self.renewals();
                self.answer(id, answer);
            }
            Request::Revocations => self.answer(id, Answer::view(&self.revocations())),
            Request::Release(request) => self.on_release(id, &request, now.monotonic),
            Request::Enroll { token, secret, key } => {
                let pending = &mut self.pending;
                let answer = match self.tokens.redeem(token, &secret, key, now.wall, pending) {
                    Ok(grant) => Answer::Granted(grant),
                    Err(refused) => Answer::TokenRefused(refused.to_string()),
                };
                self.hold(ReplyTo::Request(id), Held::Ready(answer));
            }
            Request::FindProxies(service) => {
                let connections = self.proxies_of(&service);
                self.answer(id, Answer::Proxies(connections));
            }
        }
    }

    /// This cluster speaks for nobody in a namespace that it is not granted: not even a token.
    fn on_add_token(&mut self, id: RequestId, record: TokenRecord) {
        let namespace = &record.grant.namespace;
        let gateways = gateway_identity(&self.settings.trust_domain).namespace;
        let own = self.index.declared().cluster(&self.settings.cluster);
        if *namespace != gateways && own.is_some_and(|own| !own.grants(namespace)) {
            let cluster = &self.settings.cluster;
            let message = format!("cluster {cluster} is not granted namespace {namespace}");
            return self.answer(id, Failure::invalid(message).into());
        }
        self.tokens.add(record, &mut self.pending);
        self.hold(ReplyTo::Request(id), Held::Ready(Answer::Done));
    }

    fn on_tick(&mut self, now: Now) {
        self.archive();
        self.pass_time_of_members(now.monotonic);
        self.overrule_facts(now.monotonic);
        self.publishing.on_timeout(now.monotonic);
        self.tokens.on_timeout(now.wall, &mut self.pending);
        self.forget_ended(now);
        let outputs = self.replica.on_tick(now.monotonic);
        self.perform(outputs);
        self.on_authority_tick(now.monotonic);
        self.refresh_contacts(now.monotonic);
        self.watch_followers(now.monotonic);
        self.on_question_timeouts(now.monotonic);
        self.give_up_records(now.monotonic);
        self.dial(now.monotonic);
        if self.next_bookmark <= now.monotonic {
            self.next_bookmark = now.monotonic + BOOKMARKS;
            for (id, event) in self.watches.bookmarks() {
                self.actions.push(Action::Watch { id, event });
            }
        }
    }

    /// Saves what was asked for since the last flush, and gives what is to be done now. When the
    /// store fails, writes that wait are refused and everything else goes on from memory.
    pub fn flush(&mut self) -> Vec<Action> {
        // What is saved may touch facts, and those are saved too: two rounds, at most a few.
        while self.save() {}
        if !self.store_failing {
            self.retire();
        }
        self.publish();
        std::mem::take(&mut self.actions)
    }

    /// One commit. False when there is nothing left to save, or it failed.
    fn save(&mut self) -> bool {
        self.write_facts();
        self.take_decisions();
        let unsaved = self.replica.unsaved();
        let votes = self.unsaved_votes();
        self.pending.append(self.charter.take_unsaved());
        let mut batch = self.pending.clone();
        if let Some(unsaved) = &unsaved {
            batch.append(unsaved.batch.clone());
        }
        if let Some(votes) = votes {
            batch.append(votes);
        }
        if unsaved.is_none() && batch.is_empty() {
            self.on_votes_saved();
            self.release();
            return false;
        }
        let committed = if batch.is_empty() {
            Ok(())
        } else {
            self.store.commit(&batch)
        };
        match committed {
            Ok(()) => {
                self.pending = Batch::new();
                if std::mem::take(&mut self.store_failing) {
                    self.actions.push(Action::Notice(Notice::StoreRecovered));
                }
                if let Some(unsaved) = unsaved {
                    let outputs = self.replica.on_saved(unsaved);
                    self.perform(outputs);
                }
                self.on_votes_saved();
                self.release();
                true
            }
            Err(error) => {
                let alone = self.on_votes_not_saved(&error.to_string());
                if let Some(unsaved) = unsaved {
                    self.replica.on_not_saved(unsaved, alone);
                }
                self.facts_unsure = true;
                if !std::mem::replace(&mut self.store_failing, true) {
                    let error = error.to_string();
                    self.actions
                        .push(Action::Notice(Notice::StoreFailed { error }));
                }
                false
            }
        }
    }

    fn publish(&mut self) {
        let mut topics = std::mem::take(&mut self.touched.topics);
        if !topics.is_empty() {
            self.judge_reports(&topics);
            topics.append(&mut self.touched.topics);
        }
        let is_known = self.is_config_known();
        if is_known && self.known_since.is_none() {
            self.publishing.on_known(&self.index);
        } else if is_known && !topics.is_empty() {
            self.publishing.on_touched(&topics, &self.index);
        }
        self.known_since = match self.known_since {
            _ if !is_known => None,
            None => Some(self.now.monotonic),
            since => since,
        };
        for (session, push) in self.publishing.pushes(self.position()) {
            self.send_to_proxy(session, proto::to_proxy::Message::Push(push));
        }
    }

    /// Where this cluster's copy of config stands.
    pub fn position(&self) -> Position {
        self.position_of(&Origin::Mesh)
    }

    /// The store, for whoever simulates its failures.
    pub fn store(&self) -> &S {
        &self.store
    }

    fn copied_position(&self) -> Position {
        let copy = self.replica.copy(&LedgerName::Config);
        copy.map(|copy| copy.mark().position).unwrap_or_default()
    }

    /// Is there config to speak of? Until then nothing is said about any topic.
    fn is_config_known(&self) -> bool {
        // One whose terms nobody has signed, as far as this cluster knows, says nothing of whom to believe.
        let is_mesh =
            |key: &ResourceKey| key.kind == Kind::Mesh && !self.unreadable.contains_key(key);
        let is_unbound = self.index.declared().mesh().is_none() && self.objects.keys().any(is_mesh);
        (self.decides() || self.copied_position() > Position(0)) && !is_unbound
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        self.actions.push(Action::Answer { id, answer });
    }
}

#[cfg(test)]
mod tests;
