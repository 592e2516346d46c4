//! The caller's side: takes requests and connections from the program beside this proxy and brings
//! them to a workload of the service they name, wherever it runs.
//!
//! The outbound listener is an explicit HTTP proxy (absolute-form, Host, CONNECT); further listeners
//! lead plain TCP to one port of one service. Never forwards to anything outside the mesh, and lends
//! its identity to no other machine.

mod connect;
mod decided;
mod deliver;
mod exchange;
mod explain;
mod request;
mod settle;
mod tcp;

pub(crate) use decided::refuse_denied;
pub(crate) use explain::explain;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use isthmus_codec::http1::{Body, Malformed, RequestHead, ResponseHead, Version};
use isthmus_telemetry::Reporter;
use isthmus_world::Live;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use self::deliver::{Ended, KeepAlive};
use crate::config::Listener;
use crate::http::{self, HttpError, RequestReader, ResponseWriter};
use crate::journey::Journey;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// A client that has sent nothing for this long is let go.
const IDLE: Duration = Duration::from_mins(5);
/// After an error that may pass, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Takes connections until the drain begins.
pub(crate) async fn listen_http(worker: Rc<Worker>, listener: TcpListener) {
    accept(&worker.clone(), listener, move |socket, live| {
        if is_beside(&socket) {
            tokio::task::spawn_local(serve(Rc::clone(&worker), socket, live));
        }
    })
    .await;
}

/// Takes connections for one port of one service until the drain begins.
pub(crate) async fn listen_tcp(worker: Rc<Worker>, listener: TcpListener, target: Listener) {
    accept(&worker.clone(), listener, move |socket, live| {
        if is_beside(&socket) {
            let target = target.clone();
            tokio::task::spawn_local(tcp::listener(Rc::clone(&worker), socket, target, live));
        }
    })
    .await;
}

/// The loop of every listener of a proxy.
pub(crate) async fn accept(
    worker: &Worker,
    listener: TcpListener,
    serve: impl Fn(TcpStream, Live),
) {
    let mut drain = worker.common.drain.clone();
    loop {
        let accepted = tokio::select! {
            () = drain.draining() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                // Without it small writes wait for acknowledgements; failing to set it hurts nobody.
                let _ = socket.set_nodelay(true);
                serve(socket, worker.common.drain.live());
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Does the caller run on this machine? Whoever may call here calls in the name of the program beside
/// this proxy.
fn is_beside(socket: &TcpStream) -> bool {
    let look = || -> io::Result<_> {
        let peer = socket.peer_addr()?.ip();
        Ok((peer, comes_from_here(peer, socket.local_addr()?.ip())?))
    };
    match look() {
        Ok((_, true)) => true,
        Ok((peer, false)) => {
            tracing::warn!(%peer, "a caller on another machine was turned away");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "a caller whose machine is not known was turned away");
            false
        }
    }
}

/// The kernel takes no packet from a network that claims to come from an address of this machine.
fn comes_from_here(peer: IpAddr, own: IpAddr) -> io::Result<bool> {
    Ok(peer.to_canonical().is_loopback() || peer == own || peer == called_from(own)?)
}

/// The address that programs of this machine call its address `own` from: it need not be the same.
fn called_from(own: IpAddr) -> io::Result<IpAddr> {
    let any = match own {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting UDP asks the kernel for a route and sends nothing; any port will do.
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect((own, 1))?;
    Ok(socket.local_addr()?.ip())
}

/// One client connection: request after request.
async fn serve(worker: Rc<Worker>, socket: TcpStream, _live: Live) {
    let (mut reader, mut writer) = http::serve(socket);
    let mut drain = worker.common.drain.clone();
    loop {
        let head = tokio::select! {
            biased;
            head = timeout(IDLE, reader.head()) => head,
            () = drain.draining() => return,
        };
        let Ok(head) = head else { return };
        let (head, body) = match head {
            Ok(Some(request)) => request,
            Ok(None) | Err(HttpError::Io(_) | HttpError::Truncated) => return,
            Err(HttpError::Malformed(malformed)) => {
                return refuse_malformed(&worker, &mut writer, malformed).await;
            }
            Err(HttpError::Unsendable(_)) => return,
        };
        if head.method == "CONNECT" {
            return tcp::connect(worker, reader, writer, head).await;
        }
        match serve_request(&worker, &mut reader, &mut writer, head, body).await {
            Ok(KeepAlive::Yes) if !worker.common.drain.is_draining() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

async fn serve_request(
    worker: &Rc<Worker>,
    reader: &mut RequestReader,
    writer: &mut ResponseWriter,
    head: RequestHead,
    body: Body,
) -> Result<KeepAlive, HttpError> {
    let mut journey = Journey::start(Reporter::Source, "http/1.1");
    let wants_more = head.keep_alive();
    let without_body = body == Body::None;
    let is_head = head.method == "HEAD";
    let served = request::serve(worker, &mut journey, reader, writer, head, body).await;
    let ended = match served {
        Ok(keep) => Ok(keep),
        Err(Ended::Refused(refusal)) => {
            let sent = refuse(worker, &mut journey, writer, &refusal, is_head).await;
            // What is left of a body would be read as the next request.
            sent.map(|()| {
                if without_body {
                    KeepAlive::Yes
                } else {
                    KeepAlive::No
                }
            })
        }
        Err(Ended::Broken(error)) => Err(error),
    };
    journey.finish(&worker.recorder);
    Ok(if wants_more { ended? } else { KeepAlive::No })
}

/// Renders a refusal to a client.
async fn refuse(
    worker: &Worker,
    journey: &mut Journey,
    writer: &mut ResponseWriter,
    refusal: &Refusal,
    is_head: bool,
) -> Result<(), HttpError> {
    journey.refused(refusal, worker.name());
    let mut rendered = refusal.render(worker.name());
    for (name, value) in journey.told() {
        // Names of ours are plain text.
        let _ = rendered.fields.push(name, value);
    }
    let head = ResponseHead {
        status: rendered.status,
        version: Version::Http11,
        fields: rendered.fields,
    };
    if is_head {
        writer.head(&head, Body::None)?.end(None, writer.output())?;
    } else {
        let mut encoder = writer.head(&head, Body::Length(rendered.body.len() as u64))?;
        encoder.data(&rendered.body, writer.output())?;
        encoder.end(None, writer.output())?;
    }
    Ok(writer.flush().await?)
}

async fn refuse_malformed(worker: &Worker, writer: &mut ResponseWriter, malformed: Malformed) {
    worker.common.metrics.count_malformed(malformed.code());
    let mut journey = Journey::start(Reporter::Source, "http/1.1");
    journey.source(
        &worker.common.me.identity,
        worker.common.config.own_service(),
        &worker.common.me.cluster,
    );
    let refusal = Refusal::malformed(malformed);
    // The client may be gone; it is counted all the same.
    let _ = refuse(worker, &mut journey, writer, &refusal, false).await;
    journey.finish(&worker.recorder);
}

/// Listens on an address of this process.
pub(crate) fn bind(address: std::net::SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = match address {
        std::net::SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        std::net::SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if shared {
        // Several workers of this process take turns.
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_this_machine_are_beside_the_proxy() {
        for (peer, own, expect) in [
            ("127.0.0.1", "127.83.1.10", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
            ("10.0.0.8", "127.83.1.10", false),
            ("192.0.2.1", "127.0.0.1", false),
        ] {
            let here = comes_from_here(peer.parse().unwrap(), own.parse().unwrap());
            assert_eq!(here.unwrap(), expect, "{peer} calls {own}");
        }
    }
}
