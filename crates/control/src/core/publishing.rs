//! Streams to proxies: who subscribes to what, what was sent, what they took.
//!
//! Topics are built once for all subscribers, when the first one wants them, and again only when
//! they were touched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use isthmus_delta::{Hello, Limits, Publisher, Resource, ResourceName, Source, Violation};
use isthmus_model::{Admission, Identity, Position};
use isthmus_wire::{Topic, WorkloadReport, proto};

use super::{ConnectionId, Generation, SessionId};
use crate::index::Index;

/// How long a proxy that is gone is still listed.
const REMEMBER: Duration = Duration::from_mins(1);

/// All streams to proxies of this cluster.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    sessions: BTreeMap<SessionId, ProxySession>,
    topics: Topics,
    gone: BTreeMap<String, (Instant, ProxySession)>,
}

/// One proxy's stream.
#[derive(Debug)]
pub(super) struct ProxySession {
    pub identity: Identity,
    pub admission: Option<Admission>,
    pub connection: ConnectionId,
    /// Of the certificate that it holds.
    pub generation: Generation,
    /// As it calls itself; empty until its hello.
    pub process: String,
    /// What it last said about its workload, and why that is not shown, if it is not.
    pub report: Option<(WorkloadReport, Option<String>)>,
    publisher: Option<Publisher>,
    /// Nonces and positions of pushes without a reply.
    pushed: VecDeque<(u64, Position)>,
    acknowledged: Position,
}

/// Who uses a resource, of those who want it.
#[derive(Debug, Default)]
pub(super) struct Programmed {
    pub wanting: usize,
    pub using: usize,
    /// Process and reason.
    pub rejecting: Vec<(String, String)>,
}

/// What is published, by topic.
#[derive(Debug, Default)]
struct Topics(BTreeMap<isthmus_delta::Topic, Vec<Resource>>);

/// Why a proxy's stream is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("the first message of a proxy is its hello, and there is only one")]
    Hello,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("the message is empty, or of a kind that this version does not know")]
    Unknown,
    #[error(transparent)]
    Report(#[from] isthmus_wire::BodyError),
    #[error("{0} may not speak for a gateway")]
    NotGateway(Identity),
}

impl Source for Topics {
    fn resources<'a>(
        &'a self,
        topic: &isthmus_delta::Topic,
    ) -> Option<impl Iterator<Item = &'a Resource>> {
        self.0.get(topic).map(|resources| resources.iter())
    }
}

impl Topics {
    fn build(&mut self, topic: &isthmus_delta::Topic, index: &Index) {
        // What is not the name of a topic is known to be empty.
        let known = topic.as_str().parse::<Topic>();
        let resources = known.map(|topic| index.resources(&topic));
        self.0.insert(topic.clone(), resources.unwrap_or_default());
    }
}

impl Publishing {
    pub(super) fn open(
        &mut self,
        session: SessionId,
        connection: ConnectionId,
        identity: Identity,
        admission: Option<Admission>,
        generation: Generation,
    ) {
        let proxy = ProxySession {
            identity,
            admission,
            connection,
            generation,
            process: String::new(),
            report: None,
            publisher: None,
            pushed: VecDeque::new(),
            acknowledged: Position::default(),
        };
        self.sessions.insert(session, proxy);
    }

    pub(super) fn close(&mut self, session: SessionId, now: Instant) {
        if let Some(proxy) = self.sessions.remove(&session) {
            if !self
                .sessions
                .values()
                .any(|other| other.process == proxy.process)
            {
                self.gone.insert(proxy.process.clone(), (now, proxy));
            }
            self.drop_unwanted();
        }
    }

    pub(super) fn sessions_mut(&mut self) -> impl Iterator<Item = &mut ProxySession> {
        self.sessions.values_mut()
    }

    /// Its process is gone for good and not missed.
    pub(super) fn forget(&mut self, session: SessionId) {
        if let Some(proxy) = self.sessions.get_mut(&session) {
            proxy.process.clear();
            proxy.report = None;
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        self.gone.retain(|process, (since, _)| {
            !process.is_empty() && now.saturating_duration_since(*since) < REMEMBER
        });
    }

    /// `known`: is there anything to publish yet? Until then nothing is said about any topic.
    pub(super) fn on_hello(
        &mut self,
        session: SessionId,
        hello: &proto::Hello,
        index: &Index,
        known: bool,
    ) -> Result<(), ProtocolError> {
        let Some(proxy) = self.sessions.get_mut(&session) else {
            return Ok(());
        };
        if proxy.publisher.is_some() {
            return Err(ProtocolError::Hello);
        }
        proxy.process.clone_from(&hello.process);
        self.gone.remove(&hello.process);
        let hello = Hello::from(hello);
        let topics: Vec<_> = hello
            .topics
            .iter()
            .map(|topic| topic.topic.clone())
            .collect();
        proxy.publisher = Some(Publisher::new(hello, Limits::default())?);
        self.want(&topics, index, known);
        Ok(())
    }

    pub(super) fn on_subscribe(
        &mut self,
        session: SessionId,
        subscribe: proto::Subscribe,
        index: &Index,
        known: bool,
    ) -> Result<(), ProtocolError> {
        let request = isthmus_delta::Request::from(subscribe);
        let topics = request.subscribe.clone();
        let shrinks = !request.unsubscribe.is_empty();
        self.publisher(session)?.on_request(request)?;
        self.want(&topics, index, known);
        if shrinks {
            self.drop_unwanted();
        }
        Ok(())
    }

    pub(super) fn on_ack(
        &mut self,
        session: SessionId,
        ack: proto::Ack,
    ) -> Result<(), ProtocolError> {
        let nonce = ack.nonce;
        self.publisher(session)?.on_reply(ack.into())?;
        if let Some(proxy) = self.sessions.get_mut(&session)
            && let Some((sent, position)) = proxy.pushed.front().copied()
            && sent == nonce
        {
            proxy.pushed.pop_front();
            proxy.acknowledged = position;
        }
        Ok(())
    }

    fn publisher(&mut self, session: SessionId) -> Result<&mut Publisher, ProtocolError> {
        let proxy = self.sessions.get_mut(&session);
        proxy
            .and_then(|proxy| proxy.publisher.as_mut())
            .ok_or(ProtocolError::Hello)
    }

    fn want(&mut self, topics: &[isthmus_delta::Topic], index: &Index, known: bool) {
        for topic in topics {
            if known && !self.topics.0.contains_key(topic) {
                self.topics.build(topic, index);
            }
        }
    }

    fn drop_unwanted(&mut self) {
        let sessions = &self.sessions;
        let publishers = || {
            sessions
                .values()
                .filter_map(|proxy| proxy.publisher.as_ref())
        };
        self.topics
            .0
            .retain(|topic, _| publishers().any(|publisher| publisher.wants(topic)));
    }

    /// These topics are different now.
    pub(super) fn on_touched(&mut self, topics: &BTreeSet<Topic>, index: &Index) {
        let topics = topics
            .iter()
            .map(|topic| isthmus_delta::Topic::new(&topic.to_string()));
        let wanted: Vec<_> = topics
            .filter(|topic| self.topics.0.contains_key(topic))
            .collect();
        for topic in &wanted {
            self.topics.build(topic, index);
        }
        for publisher in self
            .sessions
            .values_mut()
            .filter_map(|proxy| proxy.publisher.as_mut())
        {
            publisher.on_touched(&wanted);
        }
    }

    /// From now on there is something to say: everything that anybody wants is built and sent.
    pub(super) fn on_known(&mut self, index: &Index) {
        let publishers = self
            .sessions
            .values_mut()
            .filter_map(|proxy| proxy.publisher.as_mut());
        for publisher in publishers {
            let wanted: Vec<_> = publisher.topics().cloned().collect();
            for topic in &wanted {
                self.topics.build(topic, index);
            }
            publisher.on_touched(&wanted);
        }
    }

    /// What there is to send, and room for.
    pub(super) fn pushes(&mut self, position: Position) -> Vec<(SessionId, proto::Push)> {
        let mut pushes = Vec::new();
        for (session, proxy) in &mut self.sessions {
            let Some(publisher) = &mut proxy.publisher else {
                continue;
            };
            while let Some(push) = publisher.next_push(&self.topics) {
                proxy.pushed.push_back((push.nonce, position));
                pushes.push((*session, proto::Push::of(push, position.0)));
            }
        }
        pushes
    }

    /// On how many of the proxies that want them these resources are in use.
    pub(super) fn programmed(&self, appearances: &[(Topic, ResourceName)]) -> Programmed {
        let resources: Vec<_> = appearances
            .iter()
            .filter_map(|(topic, name)| {
                let topic = isthmus_delta::Topic::new(&topic.to_string());
                let built = self.topics.0.get(&topic)?;
                let resource = built.iter().find(|resource| resource.name == *name)?;
                Some((topic, resource))
            })
            .collect();
        let mut programmed = Programmed::default();
        for proxy in self.sessions.values() {
            let fates = resources
                .iter()
                .filter_map(|(topic, resource)| proxy.fate(topic, resource));
            let fates: Vec<_> = fates.collect();
            let rejection = fates.iter().find_map(|fate| fate.err().flatten());
            programmed.wanting += usize::from(!fates.is_empty());
            programmed.using += usize::from(!fates.is_empty() && fates.iter().all(Result::is_ok));
            if let Some(reason) = rejection {
                programmed
                    .rejecting
                    .push((proxy.process.clone(), reason.to_owned()));
            }
        }
        programmed
    }

    pub(super) fn session(&self, session: SessionId) -> Option<&ProxySession> {
        self.sessions.get(&session)
    }

    pub(super) fn session_mut(&mut self, session: SessionId) -> Option<&mut ProxySession> {
        self.sessions.get_mut(&session)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = (SessionId, &ProxySession)> {
        self.sessions.iter().map(|(id, proxy)| (*id, proxy))
    }

    pub(super) fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Proxies that were here until lately.
    pub(super) fn gone(&self) -> impl Iterator<Item = &ProxySession> {
        self.gone.values().map(|(_, proxy)| proxy)
    }
}

impl ProxySession {
    /// The config position that the proxy works with; `current` is this control plane's.
    pub(super) fn position(&self, current: Position) -> Position {
        match &self.publisher {
            Some(_) if self.pushed.is_empty() => current,
            _ => self.acknowledged,
        }
    }

    pub(super) fn rejections(&self) -> Vec<String> {
        let publisher = self.publisher.iter();
        let rejected = publisher.flat_map(Publisher::rejections).map(|rejection| {
            format!(
                "{} {}: {}",
                rejection.topic, rejection.name, rejection.reason
            )
        });
        let report = self.report.iter().filter_map(|(report, refused)| {
            let reason = refused.as_ref()?;
            Some(format!("workload {}: {reason}", report.service))
        });
        rejected.chain(report).collect()
    }

    /// What the proxy does with a resource that it wants: uses it, or why not. `None`: it does not
    /// want it.
    fn fate(
        &self,
        topic: &isthmus_delta::Topic,
        resource: &Resource,
    ) -> Option<Result<(), Option<&str>>> {
        let publisher = self
            .publisher
            .as_ref()
            .filter(|publisher| publisher.wants(topic))?;
        if publisher.is_in_use(topic, &resource.name, resource.version) {
            return Some(Ok(()));
        }
        let mut rejections = publisher.rejections();
        let rejection = rejections.find(|found| {
            found.topic == topic
                && *found.name == resource.name
                && found.version == resource.version
        });
        Some(Err(rejection.map(|found| found.reason)))
    }
}
