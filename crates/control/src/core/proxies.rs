//! What proxies say: who they stand for, what they want, what they measured.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use isthmus_identity::gateway_identity;
use isthmus_model::{ClusterName, Gateway, Handle, Identity, ServiceName, Workload};
use isthmus_wire::proto::from_proxy::Message as FromProxy;
use isthmus_wire::proto::to_proxy::Message as ToProxy;
use isthmus_wire::{FEATURES, LinkReport, Topic, WorkloadReport, proto};
use isthmus_world::Store;

use super::members::Member;
use super::publishing::ProtocolError;
use super::{Action, ConnectionId, Core, Notice, SessionId};
use crate::hex::hex;
use crate::index::Change;

impl<S: Store> Core<S> {
    pub(super) fn on_proxy_message(&mut self, session: SessionId, message: proto::FromProxy) {
        let Some(message) = message.message else {
            return self.refuse_proxy(session, &ProtocolError::Unknown);
        };
        let handled = match message {
            FromProxy::Hello(hello) => self.on_hello(session, &hello),
            FromProxy::Subscribe(subscribe) => {
                let known = self.is_config_known();
                (self.publishing).on_subscribe(session, subscribe, &self.index, known)
            }
            FromProxy::Ack(ack) => self.publishing.on_ack(session, ack),
            FromProxy::Workload(report) => self.on_workload(session, report),
            FromProxy::Gateway(report) => self.on_gateway(session, report),
            FromProxy::Link(report) => self.on_link(report),
            FromProxy::Leaving(proto::Leaving {}) => {
                self.publishing.forget(session);
                let changes = self.members.on_left(session);
                self.apply_members(changes);
                Ok(())
            }
        };
        if let Err(error) = handled {
            self.refuse_proxy(session, &error);
        }
    }

    fn on_hello(&mut self, session: SessionId, hello: &proto::Hello) -> Result<(), ProtocolError> {
        let known = self.is_config_known();
        self.publishing
            .on_hello(session, hello, &self.index, known)?;
        let welcome = proto::Welcome {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().map(ToString::to_string).collect(),
            cluster: self.settings.cluster.to_string(),
        };
        self.send_to_proxy(session, ToProxy::Welcome(welcome));
        Ok(())
    }

    fn on_workload(
        &mut self,
        session: SessionId,
        report: proto::WorkloadReport,
    ) -> Result<(), ProtocolError> {
        let report = WorkloadReport::try_from(report)?;
        if let Some(proxy) = self.publishing.session_mut(session) {
            let verdict = proxy.report.take().and_then(|(_, verdict)| verdict);
            proxy.report = Some((report, verdict));
        }
        self.judge_report(session);
        Ok(())
    }

    /// Services were declared anew: do their workloads' proxies still speak for them?
    pub(super) fn judge_reports(&mut self, topics: &BTreeSet<Topic>) {
        let concerned = |service: &ServiceName| topics.contains(&Topic::Service(service.clone()));
        let sessions: Vec<_> = (self.publishing.sessions())
            .filter(|(_, proxy)| {
                let report = proxy.report.as_ref();
                report.is_some_and(|(report, _)| concerned(&report.service))
            })
            .map(|(session, _)| session)
            .collect();
        for session in sessions {
            self.judge_report(session);
        }
    }

    /// Shows what the proxy last said about its workload, if it may say so.
    fn judge_report(&mut self, session: SessionId) {
        let Some(proxy) = self.publishing.session(session) else {
            return;
        };
        let Some((report, refused_before)) = proxy.report.clone() else {
            return;
        };
        let identity = proxy.identity.clone();
        let (process, admission) = (proxy.process.clone(), proxy.admission);
        let refused = self.find_fault(&report.service, &identity);
        let changes = match &refused {
            None => {
                let workload = self.workload(report, identity);
                (self.members).report(session, admission, Member::Workload(workload))
            }
            Some(_) => self.members.on_left(session),
        };
        if refused != refused_before {
            let verdict = proto::Verdict {
                refused: refused.clone().unwrap_or_default(),
            };
            self.send_to_proxy(session, ToProxy::Verdict(verdict));
            let notice = |reason| Action::Notice(Notice::BadReport { process, reason });
            self.actions.extend(refused.clone().map(notice));
        }
        if let Some(proxy) = self.publishing.session_mut(session)
            && let Some((_, shown)) = &mut proxy.report
        {
            *shown = refused;
        }
        self.apply_members(changes);
    }

    /// Why the identity may not stand for the service, if it may not.
    fn find_fault(&self, name: &ServiceName, identity: &Identity) -> Option<String> {
        let Some(service) = self.index.declared().service(name) else {
            return Some(format!("service {name} is not declared"));
        };
        if identity.namespace != name.namespace {
            return Some(format!("{identity} is of another namespace"));
        }
        let accounts = &service.accounts;
        (!accounts.contains(&identity.account)).then(|| {
            let names: Vec<_> = accounts.iter().map(ToString::to_string).collect();
            let names = names.join(", ");
            format!(
                "{} is none of the service's accounts ({names})",
                identity.account
            )
        })
    }

    fn workload(&self, report: WorkloadReport, identity: Identity) -> Workload {
        let cluster = self.settings.cluster.clone();
        Workload {
            handle: workload_handle(&cluster, &identity, &report),
            service: report.service,
            cluster,
            identity,
            address: report.address,
            zone: report.zone,
            labels: report.labels,
            health: report.health,
        }
    }

    fn on_gateway(
        &mut self,
        session: SessionId,
        report: proto::GatewayReport,
    ) -> Result<(), ProtocolError> {
        let Some(proxy) = self.publishing.session(session) else {
            return Ok(());
        };
        if proxy.identity != gateway_identity(&self.settings.trust_domain) {
            return Err(ProtocolError::NotGateway(proxy.identity.clone()));
        }
        let admission = proxy.admission;
        let gateway = Gateway::try_from(report)?;
        let changes = (self.members).report(session, admission, Member::Gateway(gateway));
        self.apply_members(changes);
        Ok(())
    }

    fn on_link(&mut self, report: proto::LinkReport) -> Result<(), ProtocolError> {
        let LinkReport { cluster, rtt } = report.try_into()?;
        self.peers.on_measured(cluster, rtt);
        Ok(())
    }

    pub(super) fn apply_members(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.save_member(&change);
            let touched = self.index.apply(change);
            self.touched.merge(touched);
        }
    }

    pub(super) fn proxies_of(&self, service: &ServiceName) -> Vec<ConnectionId> {
        let runs = |report: &(WorkloadReport, Option<String>)| {
            report.1.is_none() && report.0.service == *service
        };
        let sessions = self.publishing.sessions();
        let proxies = sessions.filter(|(_, proxy)| proxy.report.as_ref().is_some_and(runs));
        proxies.map(|(_, proxy)| proxy.connection).collect()
    }

    pub(super) fn send_to_proxy(&mut self, session: SessionId, message: ToProxy) {
        let message = proto::ToProxy {
            message: Some(message),
        };
        self.actions.push(Action::ToProxy { session, message });
    }

    fn refuse_proxy(&mut self, session: SessionId, error: &ProtocolError) {
        let reason = error.to_string();
        self.actions.push(Action::CloseProxy { session, reason });
    }
}

/// Names one workload for as long as it lives: the same after a restart of any process, another one
/// for every other workload.
fn workload_handle(cluster: &ClusterName, identity: &Identity, report: &WorkloadReport) -> Handle {
    let whole = format!("{cluster} {identity} {}", report.address);
    let hash = digest(&SHA256, whole.as_bytes());
    let hex = hex(&hash.as_ref()[..6]);
    Handle::new(&format!("{}-{hex}", report.service.name))
}
