//! The caller's side: takes requests and connections from the program beside this proxy and brings
//! them to a workload of the service they name, wherever it runs.
//!
//! The outbound listener is an explicit HTTP proxy (absolute-form, Host, CONNECT, HTTP/2 with prior
//! knowledge); further listeners lead to one port of one service. Forwards to hosts outside
//! the mesh only where the mesh says so, and lends its identity to no other machine.

mod affinity;
mod call;
mod connect;
mod connection;
#[cfg(test)]
mod counts;
mod decided;
mod deliver;
mod exchange;
mod explain;
mod hedge;
mod outside;
mod refuse;
mod request;
mod settle;
mod tcp;
mod tunnel;
mod undeclared;
mod upload;

pub(crate) use connection::Clients;
pub(crate) use decided::refuse_denied;
pub(crate) use explain::explain;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use bytes::BytesMut;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::{TcpListener, TcpStream};

use self::decided::Entry;
use crate::config::Listener;
use crate::intake::{Comers, Door, Place, accept};
use crate::worker::Worker;

/// What the kernel keeps of a reply that a client does not read; left to itself it keeps megabytes of
/// each, which clients on the same machine do not need to be quick.
const UNSENT: usize = 256 * 1024;

/// Takes connections until the drain begins.
pub(crate) async fn listen_http(clients: Rc<Clients>, door: Door) {
    listen_beside(&clients.worker, door, |socket, place| {
        let (clients, input) = (Rc::clone(&clients), BytesMut::new());
        let client = connection::serve(clients, socket, input, Entry::Explicit, place);
        tokio::task::spawn_local(client);
    })
    .await;
}

/// Takes connections for one port of one service until the drain begins.
pub(crate) async fn listen_tcp(clients: Rc<Clients>, door: Door, target: Listener) {
    listen_beside(&clients.worker, door, |socket, place| {
        let (clients, target) = (Rc::clone(&clients), target.clone());
        let client = connection::serve_listener(clients, socket, target, place);
        tokio::task::spawn_local(client);
    })
    .await;
}

/// Takes programs of this machine, and nobody else.
async fn listen_beside(worker: &Worker, door: Door, serve: impl Fn(TcpStream, Place)) {
    let (intake, drain) = worker.common.doors();
    let beside = |socket, place| {
        if is_beside(&socket) {
            // A socket that keeps what it cannot is slower, and no more.
            let _ = set_socket_send_buffer_size(&socket, UNSENT);
            serve(socket, place);
        }
    };
    accept(&intake, drain, door, Comers::Beside, beside).await;
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
