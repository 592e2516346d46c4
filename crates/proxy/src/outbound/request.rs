//! One request of a caller, phase by phase: detect, find, authorize, admit, then the tries.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use isthmus_authz::{Caller, Denied, Permit};
use isthmus_balance::Attempts;
use isthmus_balance::constants::HELD_BYTES;
use isthmus_codec::Fields;
use isthmus_codec::http1::{Body, RequestHead, Unsendable, strip_hop_by_hop};
use isthmus_codec::message::{Context, Request};
use isthmus_model::{Backend, Host, ServiceName, TrafficSettings};
use isthmus_route::{Headers, RequestView, Rule};
use isthmus_telemetry::RefusalReason;

use super::{KeepAlive, authority_of, tries};
use crate::destination::DestinationKey;
use crate::http::{HttpError, Piece, RequestReader, ResponseWriter};
use crate::journey::Journey;
use crate::refusal::Refusal;
use crate::view::{Known, ServiceView, View};
use crate::worker::Worker;

/// How a request ends that is not answered by its destination.
#[derive(Debug)]
pub(crate) enum Ended {
    /// To be rendered.
    Refused(Refusal),
    /// The client's connection is no longer usable.
    Broken(HttpError),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RefusalReason> for Ended {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason.into())
    }
}

impl From<HttpError> for Ended {
    fn from(error: HttpError) -> Self {
        Self::Broken(error)
    }
}

impl From<Unsendable> for Ended {
    fn from(error: Unsendable) -> Self {
        Self::Broken(error.into())
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// What has been decided before the first try; holds one view for the whole request.
pub(crate) struct Decided {
    pub(crate) view: Arc<View>,
    /// The service that the backend names.
    pub(crate) known: Arc<Known>,
    pub(crate) key: DestinationKey,
    pub(crate) permit: Permit,
    pub(crate) settings: TrafficSettings,
    /// The service that was called: whose retry budget is drawn on.
    pub(crate) called: ServiceName,
    pub(crate) draw: u64,
}

impl Decided {
    /// For work that outlives the request.
    pub(crate) fn for_background(&self) -> Self {
        Self {
            view: Arc::clone(&self.view),
            known: Arc::clone(&self.known),
            key: self.key.clone(),
            permit: self.permit.clone(),
            settings: self.settings.clone(),
            called: self.called.clone(),
            draw: self.draw,
        }
    }

    pub(crate) fn service(&self) -> Result<&ServiceView, Refusal> {
        usable(&self.known, &self.key.service)
    }
}

/// The body as far as it has been read.
pub(crate) enum Upload {
    /// All of it; it can be sent again.
    Held(Bytes),
    /// Comes as it is sent, once.
    Streamed,
}

pub(super) async fn serve(
    worker: &Rc<Worker>,
    journey: &mut Journey,
    reader: &mut RequestReader,
    writer: &mut ResponseWriter,
    mut head: RequestHead,
    body: Body,
) -> Result<KeepAlive, Ended> {
    let me = &worker.common.me;
    journey.source(
        &me.identity,
        worker.common.config.own_service(),
        &me.cluster,
    );
    note(journey, &head);
    if head.asks_upgrade() {
        return Err(RefusalReason::UpgradeNotSupported.into());
    }
    let (authority, path) = authority_of(&head)?;
    journey.record.authority = Some(lossy(&authority));
    journey.record.path = Some(lossy(without_query(&path)));

    let expects_continue = head.expects_continue();
    strip_hop_by_hop(&mut head.fields);
    let decided = decide(worker, journey, &head, &authority, &path).await?;

    if expects_continue {
        writer
            .head(&interim(100), Body::None)?
            .end(None, writer.output())?;
        writer.flush().await?;
    }
    let upload = read_short(reader, body).await?;
    head.fields.remove("host");
    head.fields.remove("expect");
    let now = Instant::now();
    let method = std::str::from_utf8(&head.method).unwrap_or_default();
    let mut attempts = Attempts::new(&decided.settings, method, None, now);
    worker
        .destinations
        .budget(&decided.called, now)
        .borrow_mut()
        .on_request(now);
    let request = Request {
        service: decided.key.service.clone(),
        port: decided.key.port,
        method: head.method.clone(),
        path,
        authority,
        fields: head.fields,
        context: Context {
            source_cluster: Some(me.cluster.clone()),
            ..Context::default()
        },
    };
    let client = tries::Client {
        reader,
        writer,
        request_version: head.version,
    };
    tries::run(
        worker,
        journey,
        &decided,
        &mut attempts,
        request,
        upload,
        client,
    )
    .await
}

/// Everything that is decided once per request, on one view.
async fn decide(
    worker: &Worker,
    journey: &mut Journey,
    head: &RequestHead,
    authority: &[u8],
    path: &[u8],
) -> Result<Decided, Refusal> {
    let (service, port) = detect(authority)?;
    journey.record.destination_service = Some(service.clone());
    let view = worker.view_with(&service).await?;
    let called = find_service(&view, &service)?;
    let port = find_port(called, port)?;
    let draw = worker.draw();

    let request = RequestView {
        method: std::str::from_utf8(&head.method).unwrap_or_default(),
        path: std::str::from_utf8(without_query(path)).unwrap_or_default(),
        headers: &HeaderView(&head.fields),
    };
    let matched = called.routes.find(port, &request).ok_or_else(|| {
        let detail = format!(
            "{service}: no rule matches {} {}",
            request.method, request.path
        );
        Refusal::new(RefusalReason::NoRoute, detail)
    })?;
    let rule = matched.rule();
    journey.record.route = rule.route().map(ToString::to_string);
    let settings = called.settings(rule);
    let backend = pick_backend(rule, draw)?;
    decide_backend(
        worker,
        view.clone(),
        &service,
        backend,
        port,
        settings,
        draw,
    )
}

/// The last steps, the same for requests and for plain TCP.
pub(super) fn decide_backend(
    worker: &Worker,
    view: Arc<View>,
    called: &ServiceName,
    backend: &Backend,
    port: u16,
    settings: TrafficSettings,
    draw: u64,
) -> Result<Decided, Refusal> {
    let known = view
        .find(&backend.service)
        .ok_or_else(|| Refusal::new(RefusalReason::NotKnownYet, backend.service.to_string()))?;
    let known = Arc::clone(known);
    let service = usable(&known, &backend.service)?;
    let same = backend.service == *called;
    let port = find_port(service, backend.port.or(same.then_some(port)))?;
    let permit = authorize(worker, &view, service)?;
    let key = DestinationKey {
        service: backend.service.clone(),
        port,
        subset: backend.subset.clone(),
    };
    Ok(Decided {
        view,
        known,
        key,
        permit,
        settings,
        called: called.clone(),
        draw,
    })
}

/// The service that an authority names.
pub(super) fn detect(authority: &[u8]) -> Result<(ServiceName, Option<u16>), Refusal> {
    let authority = std::str::from_utf8(authority).unwrap_or_default();
    match Host::parse(authority) {
        // The port that a URL does not show is the service's own default.
        Host::Service { service, port } => Ok((service, port)),
        Host::Foreign => {
            let detail = format!("{authority:?} is not a name of this mesh");
            Err(Refusal::new(RefusalReason::ForeignDestination, detail))
        }
    }
}

pub(super) fn find_service<'v>(
    view: &'v View,
    service: &ServiceName,
) -> Result<&'v ServiceView, Refusal> {
    match view.find(service) {
        Some(known) => usable(known, service),
        None => Err(Refusal::new(
            RefusalReason::NotKnownYet,
            service.to_string(),
        )),
    }
}

fn usable<'k>(known: &'k Known, service: &ServiceName) -> Result<&'k ServiceView, Refusal> {
    match known {
        Known::Service(found) => Ok(found),
        Known::Absent => Err(Refusal::new(
            RefusalReason::NoSuchService,
            service.to_string(),
        )),
        Known::Unusable(reason) => {
            let detail = format!("the declaration of {service} cannot be used: {reason}");
            Err(Refusal::new(RefusalReason::NotKnownYet, detail))
        }
    }
}

pub(super) fn find_port(service: &ServiceView, wanted: Option<u16>) -> Result<u16, Refusal> {
    service
        .service
        .find_port(wanted)
        .map(|port| port.port)
        .ok_or_else(|| {
            let ports: Vec<String> = service
                .service
                .ports
                .iter()
                .map(|port| port.port.to_string())
                .collect();
            let wanted = wanted.unwrap_or_default();
            let name = &service.service.name;
            let detail = format!("{name} has no port {wanted}, only {}", ports.join(", "));
            Refusal::new(RefusalReason::UnknownPort, detail)
        })
}

pub(super) fn pick_backend(rule: &Rule, draw: u64) -> Result<&Backend, Refusal> {
    rule.pick_backend(draw).ok_or_else(|| {
        let route = rule
            .route()
            .map_or_else(|| "default".to_owned(), ToString::to_string);
        Refusal::new(
            RefusalReason::NoBackend,
            format!("route {route}, rule {}", rule.index()),
        )
    })
}

fn authorize(worker: &Worker, view: &View, service: &ServiceView) -> Result<Permit, Refusal> {
    let policies = view.policies().ok_or(RefusalReason::NotKnownYet)?;
    let caller = Arc::new(Caller::Local {
        identity: worker.common.me.identity.clone(),
    });
    policies
        .authorize(&caller, &service.service)
        .map_err(|denied| refuse_denied(&denied))
}

/// How a denial is told to who was denied.
pub(crate) fn refuse_denied(denied: &Denied) -> Refusal {
    let reason = match denied {
        Denied::NotExported { .. } => RefusalReason::NotExported,
        Denied::ForeignTrustDomain { .. } => RefusalReason::NotAuthorized,
    };
    Refusal::new(reason, denied.to_string())
}

/// Reads a body that is known to be short, so that it can be sent again.
async fn read_short(reader: &mut RequestReader, body: Body) -> Result<Upload, Ended> {
    match body {
        Body::None => {}
        Body::Length(length) if length <= HELD_BYTES => {}
        Body::Length(_) | Body::Chunked | Body::UntilClose => return Ok(Upload::Streamed),
    }
    let mut held = BytesMut::new();
    loop {
        match reader.piece().await? {
            Piece::Data(data) => held.extend_from_slice(&data),
            Piece::Trailers(_) => {}
            Piece::End => return Ok(Upload::Held(held.freeze())),
        }
    }
}

fn note(journey: &mut Journey, head: &RequestHead) {
    journey.record.method = Some(lossy(&head.method));
    journey.record.request_id = head.fields.find("x-request-id").map(|id| lossy(id));
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|&byte| byte == b'?').next().unwrap_or(path)
}

fn interim(status: u16) -> isthmus_codec::http1::ResponseHead {
    isthmus_codec::http1::ResponseHead {
        status,
        version: isthmus_codec::http1::Version::Http11,
        fields: Fields::new(),
    }
}

/// Fields as the router looks at them.
struct HeaderView<'f>(&'f Fields);

impl Headers for HeaderView<'_> {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.0.find_all(name).map(|value| &**value)
    }
}
