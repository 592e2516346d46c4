//! The mesh's port, 15012: certificates, streams of proxies, streams of other control planes.
//!
//! A connection without a client certificate may enrol, and nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{
    CertificateRequest, Certificates, TokenId, TokenSecret, VerifiedPeer, accept_control,
};
use isthmus_model::{Admission, ClusterName, Identity, MeshName, SpiffeId, TrustDomain};
use isthmus_wire::proto;
use isthmus_wire::proto::control_server::Control;
use isthmus_wire::proto::peers_server::Peers;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::core::{Answer, Event, Generation, PeerSessionId, SessionId};
use crate::hub::{Closed, Hub, Stopped};
use crate::issuer::Issuer;
use crate::tls::Caller;

/// Serves both services of the port.
#[derive(Debug, Clone)]
pub(crate) struct MeshPort {
    pub(crate) hub: Arc<Hub>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) cluster: ClusterName,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) mesh: MeshName,
    pub(crate) leaf_lifetime: Duration,
    pub(crate) renew_after: Duration,
}

type Reply<T> = Result<Response<T>, Status>;
type Stream<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        Self::unavailable(stopped.to_string())
    }
}

#[tonic::async_trait]
impl Control for MeshPort {
    async fn enroll(&self, request: Request<proto::EnrollRequest>) -> Reply<proto::Certificates> {
        let request = request.into_inner();
        let asked = certificate_request(&request.certificate_request)?;
        let (token, secret) = token(&request)?;
        let redeem = crate::core::Request::Enroll {
            token,
            secret,
            key: asked.key_hash(),
        };
        let grant = match self.hub.ask(redeem).await? {
            Answer::Granted(grant) => grant,
            Answer::TokenRefused(reason) => return Err(Status::permission_denied(reason)),
            _ => return Err(Status::internal("the token could not be used: try again")),
        };
        let identity = Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: grant.namespace,
            account: grant.account,
        };
        let (mut certificates, _) = self.issue(&asked, &identity, Admission(token.0))?;
        certificates.node_key = random::<32>()?.to_vec().into();
        tracing::info!(%identity, token = %token, "a process has joined");
        Ok(Response::new(certificates))
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Reply<proto::Certificates> {
        let (caller, peer) = caller(&request)?;
        let identity = self.own_workload(&peer).await?;
        let asked = certificate_request(&request.get_ref().certificate_request)?;
        let admission = peer.admission();
        let admission = admission.ok_or_else(|| Status::internal("nobody was admitted so"))?;
        let (certificates, generation) = self.issue(&asked, &identity, admission)?;
        let connection = caller.connection;
        let event = Event::Renewed {
            connection,
            generation,
        };
        self.hub.tell(event).await?;
        Ok(Response::new(certificates))
    }

    type SyncStream = Stream<proto::ToProxy>;

    async fn sync(&self, request: Request<Streaming<proto::FromProxy>>) -> Reply<Self::SyncStream> {
        let (caller, peer) = caller(&request)?;
        let identity = self.own_workload(&peer).await?;
        let session = SessionId(self.hub.next_id());
        let opened = self.hub.open_proxy(session);
        let mut closed = opened.closed;
        let event = Event::ProxyOpened {
            session,
            connection: caller.connection,
            identity,
            admission: peer.admission(),
            generation: caller.generation,
        };
        self.hub.tell(event).await?;
        let hub = self.hub.clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = incoming.message() => message,
                    () = closed.wait() => break,
                };
                let Ok(Some(message)) = message else { break };
                let message = Event::ProxyMessage { session, message };
                if hub.tell(message).await.is_err() {
                    break;
                }
            }
            hub.close_proxy(session);
            // An error means that the core is gone, and with it the session.
            let _ = hub.tell(Event::ProxyClosed { session }).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(
            opened.outgoing,
        ))))
    }

    type AskStream = Stream<proto::Question>;

    async fn ask(&self, request: Request<Streaming<proto::Answer>>) -> Reply<Self::AskStream> {
        let (caller, peer) = caller(&request)?;
        self.own_workload(&peer).await?;
        let connection = caller.connection;
        let questions = self.hub.open_ask(connection);
        let hub = self.hub.clone();
        let mut answers = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                hub.on_answer(answer);
            }
            hub.close_ask(connection);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(questions))))
    }
}

#[tonic::async_trait]
impl Peers for MeshPort {
    type ReplicateStream = Stream<proto::PeerFrame>;

    async fn replicate(
        &self,
        request: Request<Streaming<proto::PeerFrame>>,
    ) -> Reply<Self::ReplicateStream> {
        let (_, peer) = caller(&request)?;
        let cluster = peer.cluster().clone();
        accept_control(&peer, &cluster)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        if cluster == self.cluster {
            return Err(Status::permission_denied(
                "this is the control plane of the same cluster",
            ));
        }
        let session = PeerSessionId(self.hub.next_id());
        let opened = self.hub.open_peer(session);
        let event = Event::PeerOpened {
            session,
            cluster,
            target: None,
        };
        self.hub.tell(event).await?;
        let hub = self.hub.clone();
        let incoming = request.into_inner();
        tokio::spawn(async move { receive(&hub, session, incoming, opened.closed).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(
            opened.outgoing,
        ))))
    }
}

/// Takes in everything of a stream with another control plane, until it ends or is closed here.
pub(crate) async fn receive(
    hub: &Hub,
    session: PeerSessionId,
    mut incoming: Streaming<proto::PeerFrame>,
    mut closed: Closed,
) {
    loop {
        let frame = tokio::select! {
            frame = incoming.message() => frame,
            () = closed.wait() => break,
        };
        let Ok(Some(frame)) = frame else { break };
        if hub
            .tell(Event::PeerMessage { session, frame })
            .await
            .is_err()
        {
            break;
        }
    }
    hub.close_peer(session);
    // An error means that the core is gone, and with it the session.
    let _ = hub.tell(Event::PeerClosed { session }).await;
}

impl MeshPort {
    /// Proxies of other clusters ask their own control plane; who was revoked asks nobody, and nobody asks on a
    /// connection that has outlived its certificate.
    async fn own_workload(&self, peer: &VerifiedPeer) -> Result<Identity, Status> {
        let own = &self.cluster;
        if peer.not_after() <= SystemTime::now() {
            return Err(Status::unauthenticated(
                "the certificate of this connection has ended: connect anew",
            ));
        }
        if let Some(admission) = peer.admission().filter(|_| peer.cluster() == own) {
            match self
                .hub
                .ask(crate::core::Request::Admits(admission))
                .await?
            {
                Answer::Done => {}
                Answer::Json { body, .. } => {
                    let message = body["message"].as_str().unwrap_or("it was revoked");
                    return Err(Status::permission_denied(message));
                }
                _ => return Err(Status::internal("whether it was revoked is not known")),
            }
        }
        match peer.id() {
            SpiffeId::Workload(identity) if peer.cluster() == own => Ok(identity.clone()),
            SpiffeId::Workload(_) => Err(Status::permission_denied(format!(
                "this is the control plane of {own}, your certificate is of {}",
                peer.cluster()
            ))),
            other @ SpiffeId::Cluster(_) => Err(Status::permission_denied(format!(
                "{other} is not a workload"
            ))),
        }
    }

    fn issue(
        &self,
        request: &CertificateRequest,
        identity: &Identity,
        admission: Admission,
    ) -> Result<(proto::Certificates, Generation), Status> {
        let now = SystemTime::now();
        let issuing = self.issuer.load();
        let authority = &issuing.authority;
        let chain: Certificates = authority
            .issue(request, identity, admission, now, self.leaf_lifetime)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let certificates = proto::Certificates {
            chain: chain.to_pem(),
            trust_bundle: self.issuer.trust().load().to_pem(),
            mesh: self.mesh.to_string(),
            trust_domain: identity.trust_domain.to_string(),
            cluster: self.cluster.to_string(),
            identity: identity.to_string(),
            node_key: Vec::new().into(),
            renew_after_ms: u64::try_from(self.renew_after.as_millis()).unwrap_or(u64::MAX),
        };
        Ok((certificates, issuing.generation))
    }
}

fn random<const N: usize>() -> Result<[u8; N], Status> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Status::internal("the system gives no random bytes"))?;
    Ok(bytes)
}

/// Who calls, proven.
fn caller<T>(request: &Request<T>) -> Result<(Arc<Caller>, VerifiedPeer), Status> {
    let caller = request.extensions().get::<Arc<Caller>>();
    let caller = caller.ok_or_else(|| Status::internal("the connection is not known"))?;
    let peer = caller.peer.clone().ok_or_else(|| {
        tracing::warn!(address = %caller.address, "a call without a certificate was refused");
        Status::unauthenticated("a certificate of this mesh is needed: enrol first")
    })?;
    Ok((caller.clone(), peer))
}

fn certificate_request(pem: &str) -> Result<CertificateRequest, Status> {
    CertificateRequest::from_pem(pem)
        .map_err(|error| Status::invalid_argument(format!("the certificate request: {error}")))
}

fn token(request: &proto::EnrollRequest) -> Result<(TokenId, TokenSecret), Status> {
    let bad = || Status::permission_denied("that is not a join token of this cluster");
    let id = u64::from_str_radix(&request.token_id, 16).map_err(|_| bad())?;
    let secret = <[u8; 32]>::try_from(&*request.token_secret).map_err(|_| bad())?;
    Ok((TokenId(id.to_be_bytes()), TokenSecret::new(secret)))
}
