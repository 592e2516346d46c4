//! The long-lived task that talks with the control plane. One `match` lists what can wake it.

mod backoff;
mod called;
mod kept;
mod strangers;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use isthmus_delta::{self as delta, Subscription, TopicState};
use isthmus_model::{Health, ServiceName};
use isthmus_telemetry::Metrics;
use isthmus_wire::proto::control_client::ControlClient;
use isthmus_wire::proto::{
    self, Answer, FromProxy, Question, ToProxy, from_proxy, question, to_proxy,
};
use isthmus_wire::{Body, FEATURES, Topic};
use isthmus_world::{RealChance, SnapshotWriter};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use self::backoff::Backoff;
use self::strangers::Strangers;
use super::channel::{self, chain};
use super::join::Joined;
use super::store::Vault;
use crate::config::{Config, Role};
use crate::health::Found;
use crate::view::{View, ViewBuilder};
use crate::worker::Asked;

/// A view that has changed is written to disk after this time.
const KEEP_AFTER: Duration = Duration::from_secs(1);
/// How often names are looked for that may be forgotten.
const FORGET_EVERY: Duration = Duration::from_mins(1);
/// Messages on their way to the control plane.
const OUTGOING: usize = 64;

/// How the conversation goes, for health pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Status {
    /// There is a stream.
    pub(crate) connected: bool,
    /// What this proxy needs to start is known, from the control plane or from the snapshot.
    pub(crate) informed: bool,
    /// Another process speaks for the workload, and this one has nothing more to say of it.
    pub(crate) silent: bool,
}

/// What the proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) found: Found,
    /// The program has been looked at.
    pub(crate) looked: bool,
    /// It is leaving.
    pub(crate) draining: bool,
    /// Nothing of this is said: another process speaks for the same workload or gateway.
    pub(crate) silent: bool,
}

/// The task's state.
pub(crate) struct Agent {
    config: Arc<Config>,
    joined: Joined,
    vault: Vault,
    metrics: Arc<Metrics>,
    subscription: Subscription,
    strangers: Strangers,
    builder: ViewBuilder,
    view: SnapshotWriter<View>,
    status: watch::Sender<Status>,
    report: watch::Receiver<Report>,
    wanted: mpsc::Receiver<ServiceName>,
    asker: mpsc::Sender<Asked>,
    position: u64,
    again: Backoff<RealChance>,
    /// The control plane has heard of the workload or gateway on this stream.
    introduced: bool,
    renew_at: SystemTime,
    /// When the view is to be written to disk.
    keep_at: Option<Instant>,
}

/// What can wake the task.
enum Event {
    Told(Result<Option<ToProxy>, tonic::Status>),
    Asked(Result<Option<Question>, tonic::Status>),
    Wanted(ServiceName),
    Reported,
    RenewalDue,
    KeepDue,
    ForgetDue,
    Left,
}

/// How a stream ended.
enum SessionEnd {
    Lost(String),
    /// The process is leaving and has said so.
    Left,
    /// Another process speaks from now on. What this stream has said must not come after what that
    /// one says, nor the stream's end look like the workload's: the next stream says nothing.
    Silenced,
}

impl Agent {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        config: Arc<Config>,
        joined: Joined,
        vault: Vault,
        metrics: Arc<Metrics>,
        view: SnapshotWriter<View>,
        status: watch::Sender<Status>,
        report: watch::Receiver<Report>,
        wanted: mpsc::Receiver<ServiceName>,
        asker: mpsc::Sender<Asked>,
        chance: RealChance,
    ) -> Self {
        metrics.set_leaf_expiry(joined.leaf.load().not_after());
        let mut agent = Self {
            builder: ViewBuilder::new(config.cluster.clone()),
            subscription: Subscription::new(),
            strangers: Strangers::default(),
            renew_at: joined.leaf.load().renew_at(joined.renew_after),
            position: 0,
            again: Backoff::new(chance),
            introduced: false,
            keep_at: None,
            config,
            joined,
            vault,
            metrics,
            view,
            status,
            report,
            wanted,
            asker,
        };
        let silent = agent.report.borrow().silent;
        agent.status.send_modify(|status| status.silent = silent);
        agent.restore();
        let mut first = vec![Topic::Mesh];
        first.extend(agent.config.own_service().cloned().map(Topic::Service));
        let first = first
            .iter()
            .map(|topic| delta::Topic::new(&topic.to_string()));
        // There is no stream yet: the hello will tell.
        let _ = agent.subscription.subscribe(first);
        agent.publish(&agent.subscription.topics().cloned().collect());
        agent
    }

    /// Runs until the process has left. `leaving`: it has drained and wants to go.
    pub(crate) async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        let mut turn = 0;
        while !*leaving.borrow() {
            let address = self
                .config
                .control
                .get(turn % self.config.control.len().max(1))
                .copied();
            turn += 1;
            let end = match self.connect(address).await {
                Ok((client, sender, stream)) => {
                    self.converse(client, sender, stream, &mut leaving).await
                }
                Err(reason) => SessionEnd::Lost(reason),
            };
            self.subscription.on_lost(Instant::now());
            self.introduced = false;
            let silent = self.report.borrow().silent;
            if silent {
                self.vault.release();
            }
            // Read before it is written: holding the one during the other would never end.
            let now = Status {
                connected: false,
                silent,
                ..*self.status.borrow()
            };
            let was = self.status.send_replace(now);
            match end {
                SessionEnd::Left => break,
                SessionEnd::Silenced => continue,
                SessionEnd::Lost(reason) if was.connected || self.again.is_fresh() => {
                    tracing::warn!(reason, "no control plane; serving on with what is known");
                }
                SessionEnd::Lost(reason) => tracing::debug!(reason, "no control plane"),
            }
            if self.keep_at.is_some() {
                self.keep_or_later();
            }
            self.pause(&mut leaving).await;
        }
        if self.keep_at.take().is_some() {
            self.keep();
        }
    }

    /// Waits until a control plane is to be tried again. What happens meanwhile is noted, and hastens
    /// nothing: much happens where there is traffic.
    async fn pause(&mut self, leaving: &mut watch::Receiver<bool>) {
        let over = tokio::time::sleep(self.again.pause());
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                Ok(_) = leaving.wait_for(|leaving| *leaving) => return,
                Ok(()) = self.report.changed() => drop(self.on_report()),
                Some(service) = self.wanted.recv() => self.want(service),
            }
        }
    }

    async fn connect(
        &mut self,
        address: Option<SocketAddr>,
    ) -> Result<
        (
            ControlClient<Channel>,
            mpsc::Sender<FromProxy>,
            Streaming<ToProxy>,
        ),
        String,
    > {
        let address = address.ok_or_else(|| channel::ChannelError::NoAddress.to_string())?;
        let (leaf, trust) = (
            Arc::clone(&self.joined.leaf),
            Arc::clone(&self.joined.trust),
        );
        let config = Arc::clone(&self.config);
        let opening = channel::open(address, &config.cluster, leaf, trust);
        let opened = self.listening(opening).await;
        let mut client = opened.map_err(|error| chain(&error))?;
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let mut hello = proto::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().map(ToString::to_string).collect(),
            process: self.config.name.clone(),
            ..proto::Hello::default()
        };
        hello.set_subscription(&self.subscription.hello());
        say(&sender, from_proxy::Message::Hello(hello)).await;
        if let Some(introduction) = self.introduction() {
            say(&sender, introduction).await;
        }
        let syncing = client.sync(ReceiverStream::new(receiver));
        let stream = self
            .listening(syncing)
            .await
            .map_err(|status| format!("{address}: {}", status.message()))?
            .into_inner();
        self.status.send_modify(|status| status.connected = true);
        tracing::info!(%address, "connected to the control plane");
        Ok((client, sender, stream))
    }

    /// Hears meanwhile what is reported: `act` may take longer than a process has time to fall silent. What
    /// was heard is still to be told.
    async fn listening<T>(&mut self, act: impl Future<Output = T>) -> T {
        let (mut act, mut heard) = (pin!(act), false);
        let done = loop {
            tokio::select! {
                done = &mut act => break done,
                Ok(()) = self.report.changed() => {
                    heard = true;
                    self.on_report();
                }
            }
        };
        if heard {
            self.report.mark_changed();
        }
        done
    }

    async fn converse(
        &mut self,
        mut client: ControlClient<Channel>,
        sender: mpsc::Sender<FromProxy>,
        mut stream: Streaming<ToProxy>,
        leaving: &mut watch::Receiver<bool>,
    ) -> SessionEnd {
        let (answers, outgoing) = mpsc::channel(OUTGOING);
        let asking = client.ask(ReceiverStream::new(outgoing));
        let mut questions = match self.listening(asking).await {
            Ok(questions) => questions.into_inner(),
            Err(status) => return SessionEnd::Lost(status.message().to_owned()),
        };
        // What is asked for again is not forgotten before it is answered.
        self.strangers.renew(Instant::now());
        let mut asking = true;
        let mut forgetting = tokio::time::interval(FORGET_EVERY);
        loop {
            let renewal = self
                .renew_at
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            let keep = self
                .keep_at
                .map_or(renewal, |at| at.saturating_duration_since(Instant::now()));
            let event = tokio::select! {
                told = stream.message() => Event::Told(told),
                asked = questions.message(), if asking => Event::Asked(asked),
                Some(service) = self.wanted.recv() => Event::Wanted(service),
                Ok(()) = self.report.changed() => Event::Reported,
                _ = leaving.wait_for(|leaving| *leaving) => Event::Left,
                () = tokio::time::sleep(keep), if self.keep_at.is_some() => Event::KeepDue,
                () = tokio::time::sleep(renewal) => Event::RenewalDue,
                _ = forgetting.tick() => Event::ForgetDue,
            };
            match event {
                Event::Told(Ok(Some(message))) => {
                    if let Some(answer) = self.on_message(message) {
                        say(&sender, answer).await;
                    }
                    if let Some(request) = self.want_backends() {
                        say(&sender, from_proxy::Message::Subscribe((&request).into())).await;
                    }
                }
                Event::Told(Ok(None)) => {
                    return SessionEnd::Lost("it closed the stream".to_owned());
                }
                Event::Told(Err(status)) => return SessionEnd::Lost(status.message().to_owned()),
                Event::Asked(Ok(Some(question))) => self.answer(question, &answers),
                // Without questions a proxy can live; the main stream tells when all is lost.
                Event::Asked(Ok(None) | Err(_)) => asking = false,
                Event::Wanted(service) => {
                    for request in self.subscribe(service).into_iter().flatten() {
                        say(&sender, from_proxy::Message::Subscribe((&request).into())).await;
                    }
                }
                Event::Reported => {
                    let introduction = self.introduction();
                    if self.introduced && self.report.borrow().silent {
                        return SessionEnd::Silenced;
                    }
                    if let Some(introduction) = introduction {
                        say(&sender, introduction).await;
                    }
                }
                Event::RenewalDue => self.renew(&mut client).await,
                Event::KeepDue => self.keep_or_later(),
                Event::ForgetDue => {
                    if let Some(request) = self.forget() {
                        say(&sender, from_proxy::Message::Subscribe((&request).into())).await;
                    }
                }
                Event::Left if self.report.borrow().silent => return SessionEnd::Left,
                Event::Left => {
                    say(&sender, from_proxy::Message::Leaving(proto::Leaving {})).await;
                    drop(sender);
                    // Until the control plane has read it and ended the stream.
                    while let Ok(Some(_)) = stream.message().await {}
                    return SessionEnd::Left;
                }
            }
        }
    }

    /// What this process says of itself has changed, or whether it says it.
    fn on_report(&mut self) -> Report {
        let report = self.report.borrow_and_update().clone();
        let silent = report.silent;
        if silent {
            self.vault.release();
        } else if self.status.borrow().silent {
            // What was learnt meanwhile is ours to keep from now on.
            self.keep_at.get_or_insert(Instant::now());
        }
        if !(silent && self.introduced) {
            self.status.send_modify(|status| status.silent = silent);
        }
        report
    }

    /// Writes what is known to disk, as soon as the process before this one has stopped to.
    fn keep_or_later(&mut self) {
        let waits = !self.report.borrow().silent && !self.vault.claim();
        self.keep_at = waits.then(|| Instant::now() + KEEP_AFTER);
        if !waits {
            self.keep();
        }
    }

    /// Has a worker answer, without waiting for it.
    fn answer(&self, question: Question, answers: &mpsc::Sender<Answer>) {
        let Some(question::Question::Explain(explain)) = question.question else {
            return;
        };
        let (asker, answers, id) = (self.asker.clone(), answers.clone(), question.id);
        tokio::spawn(async move {
            let (sender, receiver) = oneshot::channel();
            let busy = || "the proxy is stopping".to_owned();
            let reply = match asker
                .send(Asked {
                    question: explain,
                    answer: sender,
                })
                .await
            {
                Ok(()) => receiver.await.map_err(|_| busy()).flatten(),
                Err(_) => Err(busy()),
            };
            let answer = match reply
                .and_then(|reply| serde_json::to_vec(&reply).map_err(|error| error.to_string()))
            {
                Ok(body) => Answer {
                    id,
                    body: body.into(),
                    error: String::new(),
                },
                Err(error) => Answer {
                    id,
                    body: Bytes::new(),
                    error,
                },
            };
            // Who asked may have gone away.
            let _ = answers.send(answer).await;
        });
    }

    fn on_message(&mut self, message: ToProxy) -> Option<from_proxy::Message> {
        match message.message? {
            to_proxy::Message::Push(push) => {
                // Many can be connected to that are of no use: one that pushes is.
                self.again.reset();
                self.position = self.position.max(push.position);
                let reply = self.apply(push.into());
                Some(from_proxy::Message::Ack(reply.into()))
            }
            to_proxy::Message::Welcome(welcome) => {
                tracing::debug!(version = welcome.version, "welcomed");
                None
            }
            to_proxy::Message::Verdict(verdict) => {
                match verdict.refused {
                    why if why.is_empty() => tracing::info!("this workload is taken in after all"),
                    why => tracing::warn!(why, "this workload gets no requests"),
                }
                None
            }
            to_proxy::Message::Renew(renew) => {
                let after = Duration::from_millis(renew.after_ms.into());
                self.renew_at = self.renew_at.min(SystemTime::now() + after);
                None
            }
            to_proxy::Message::Closing(_) => None,
        }
    }

    /// Takes a push in and makes its outcome visible, then answers it.
    fn apply(&mut self, push: delta::Push) -> delta::Reply {
        let mut delivery = self.subscription.on_push(push);
        let mut rejected = Vec::new();
        let mut touched = BTreeSet::new();
        for change in delivery.topics() {
            touched.insert(change.topic.clone());
            for resource in &change.resources {
                if let Err(error) = Body::decode(&resource.body) {
                    rejected.push((
                        change.topic.clone(),
                        resource.name.clone(),
                        error.to_string(),
                    ));
                }
            }
        }
        for (topic, name, reason) in rejected {
            tracing::warn!(%topic, %name, reason, "a resource cannot be used; the last good one stays");
            delivery.reject(&topic, &name, reason);
        }
        let reply = self.subscription.settle(delivery);
        self.publish(&touched);
        self.keep_at.get_or_insert(Instant::now() + KEEP_AFTER);
        reply
    }

    /// Compiles topics that were touched and publishes the next view.
    fn publish(&mut self, touched: &BTreeSet<delta::Topic>) {
        for name in touched {
            let Ok(topic) = name.as_str().parse::<Topic>() else {
                continue;
            };
            if self.subscription.state(name) != TopicState::Known {
                continue;
            }
            if self.is_absent(name) {
                self.strangers.add(name, Instant::now());
            } else {
                self.strangers.remove(name);
            }
            let resources = self.subscription.resources(name);
            let bodies = resources.filter_map(|resource| Body::decode(&resource.body).ok());
            let unusable = self.subscription.refused(name).next();
            let unusable = unusable.map(|(name, refused)| format!("{name}: {}", refused.reason));
            self.builder.compile(&topic, bodies.collect(), unusable);
        }
        self.view.publish(Arc::new(self.builder.build()));
        let known = |topic: &Topic| {
            self.subscription
                .state(&delta::Topic::new(&topic.to_string()))
                == TopicState::Known
        };
        let own = self.config.own_service().cloned().map(Topic::Service);
        let informed = known(&Topic::Mesh) && own.as_ref().is_none_or(known);
        self.status.send_if_modified(|status| {
            let changed = status.informed != informed;
            status.informed = informed;
            changed
        });
    }

    /// What this process is, and how its program is; `None`: it only calls, and has nobody to
    /// speak for.
    fn introduction(&mut self) -> Option<from_proxy::Message> {
        let report = self.on_report();
        if report.silent {
            return None;
        }
        self.introduced = true;
        let address = self.config.at(self.config.ports.mesh).to_string();
        let sidecar = match &self.config.role {
            Role::Gateway => {
                return Some(from_proxy::Message::Gateway(proto::GatewayReport {
                    name: self.config.name.clone(),
                    address,
                    healthy: !report.draining,
                }));
            }
            Role::Sidecar(sidecar) => sidecar,
        };
        let service = sidecar.service.as_ref()?;
        let health = if report.draining {
            Health::Draining
        } else {
            report.found.health
        };
        let labels = sidecar.labels.iter();
        let labels = labels.map(|(key, value)| (key.to_string(), value.to_string()));
        Some(from_proxy::Message::Workload(proto::WorkloadReport {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            address,
            zone: sidecar.zone.clone().unwrap_or_default(),
            labels: labels.collect(),
            health: proto::Health::from(health).into(),
            detail: report.found.detail,
        }))
    }
}

/// A message to the control plane. When the stream is gone, reading it tells.
async fn say(sender: &mpsc::Sender<FromProxy>, message: from_proxy::Message) {
    let _ = sender
        .send(FromProxy {
            message: Some(message),
        })
        .await;
}
