//! The sockets that a proxy listens on: bound by itself, or taken over from the process before it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::{Config, Listener};
use crate::handover::Sockets;
use crate::outbound::bind;

/// An address is taken, or is none of this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct CannotListen {
    pub address: SocketAddr,
    source: io::Error,
}

/// Every socket that a proxy listens on.
pub(crate) struct Listeners {
    pub(crate) metrics: Vec<TcpListener>,
    pub(crate) workers: Vec<WorkerListeners>,
    /// All of them once more, for the next process.
    pub(crate) shared: Sockets,
}

/// What one worker accepts from. It may have several sockets of one address, when an earlier process
/// had more workers: what waits in the queue of any must be taken.
#[derive(Default)]
pub(crate) struct WorkerListeners {
    pub(crate) mesh: Vec<TcpListener>,
    pub(crate) outbound: Vec<TcpListener>,
    pub(crate) services: Vec<(TcpListener, Listener)>,
}

impl Listeners {
    /// Takes from `inherited` what the configuration still names, and binds the rest.
    pub(crate) fn open(config: &Config, mut inherited: Sockets) -> Result<Self, CannotListen> {
        let count = config.workers.max(1);
        let mut opening = Opening {
            inherited: &mut inherited,
            shared: Sockets::default(),
        };
        let metrics = opening.at(config.at(config.ports.metrics), 1)?;
        let mut workers: Vec<_> = (0..count).map(|_| WorkerListeners::default()).collect();
        let mesh = opening.at(config.at(config.ports.mesh), count)?;
        deal(mesh, &mut workers, |worker, socket| {
            worker.mesh.push(socket);
        });
        if let Some(sidecar) = config.sidecar() {
            let outbound = opening.at(config.at(config.ports.outbound), count)?;
            deal(outbound, &mut workers, |worker, socket| {
                worker.outbound.push(socket);
            });
            for listener in &sidecar.listeners {
                let sockets = opening.at(listener.address, count)?;
                deal(sockets, &mut workers, |worker, socket| {
                    worker.services.push((socket, listener.clone()));
                });
            }
        }
        let shared = opening.shared;
        Ok(Self {
            metrics,
            workers,
            shared,
        })
    }
}

struct Opening<'s> {
    inherited: &'s mut Sockets,
    shared: Sockets,
}

impl Opening<'_> {
    /// At least `count` sockets that listen on `address`.
    fn at(&mut self, address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, CannotListen> {
        self.open(address, count)
            .map_err(|source| CannotListen { address, source })
    }

    fn open(&mut self, address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
        let mut sockets = self.inherited.take(address);
        if sockets.is_empty() {
            for _ in 0..count {
                sockets.push(bind(address, count > 1)?.into_std()?);
            }
        }
        for socket in &sockets {
            self.shared.add(socket.try_clone()?)?;
        }
        // More workers than before: several accept from the same queue.
        for number in 0..count.saturating_sub(sockets.len()) {
            sockets.push(sockets[number].try_clone()?);
        }
        Ok(sockets)
    }
}

/// Gives every worker its part.
fn deal(
    sockets: Vec<TcpListener>,
    workers: &mut [WorkerListeners],
    give: impl Fn(&mut WorkerListeners, TcpListener),
) {
    let count = workers.len();
    for (number, socket) in sockets.into_iter().enumerate() {
        give(&mut workers[number % count], socket);
    }
}
