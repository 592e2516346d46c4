//! The program that all ways end at: it answers with the same bytes and does nothing else, so that
//! what is measured is the way to it.
//!
//! HTTP/1.1 at the port it is given, HTTP/2 and gRPC at the next, bytes at the one after that.

mod http1;
mod http2;
mod tcp;

use std::future::Future;
use std::net::SocketAddr;

use isthmus_lab::trouble::{During, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// What it answers to `/`: 1 KiB.
pub(crate) const BODY: [u8; 1024] = [b'.'; 1024];
/// What it answers to `/64k`.
pub(crate) static LARGE: [u8; 65_536] = [b'.'; 65_536];

/// Serves until it is killed. Errors: it cannot listen.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let at = |offset| SocketAddr::new(listen.ip(), listen.port() + offset);
    LocalSet::new().block_on(&super::runtime()?, async {
        let served = tokio::try_join!(
            accept(at(0), http1::converse),
            accept(at(1), http2::converse),
            accept(at(2), tcp::converse),
        );
        served.map(|_| ())
    })
}

async fn accept<Conversed: Future + 'static>(
    listen: SocketAddr,
    converse: fn(TcpStream) -> Conversed,
) -> Result<()> {
    let during = || format!("listening on {listen}");
    let listener = TcpListener::bind(listen).await.during(during)?;
    loop {
        let (socket, _) = listener.accept().await.during(during)?;
        socket.set_nodelay(true).during(during)?;
        // What goes wrong on a connection ends it, which its client notices.
        spawn_local(async move {
            let _ = converse(socket).await;
        });
    }
}
