//! The sockets that a proxy listens on: bound by itself, or taken over from the process before it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::{Config, Listener};
use crate::deal::Hand;
use crate::handover::Sockets;
use crate::intake::{Door, Place};
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

/// What one worker accepts from.
pub(crate) struct WorkerListeners {
    pub(crate) mesh: Queue,
    pub(crate) outbound: Option<Queue>,
    pub(crate) services: Vec<(Queue, Listener)>,
}

/// One worker's part of one address.
pub(crate) struct Queue {
    sockets: Vec<TcpListener>,
    hand: Hand<Place>,
}

impl Queue {
    /// Errors: see [`Door::open`].
    pub(crate) fn open(self) -> io::Result<Door> {
        Door::open(self.sockets, self.hand)
    }
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
        let mesh = opening.queues(config.at(config.ports.mesh), count)?;
        let mut workers: Vec<_> = mesh
            .map(|mesh| WorkerListeners {
                mesh,
                outbound: None,
                services: Vec::new(),
            })
            .collect();
        if let Some(sidecar) = config.sidecar() {
            let outbound = opening.queues(config.at(config.ports.outbound), count)?;
            for (worker, queue) in workers.iter_mut().zip(outbound) {
                worker.outbound = Some(queue);
            }
            for listener in &sidecar.listeners {
                let queues = opening.queues(listener.address, count)?;
                for (worker, queue) in workers.iter_mut().zip(queues) {
                    worker.services.push((queue, listener.clone()));
                }
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
    /// What each of `count` workers has of `address`.
    fn queues(
        &mut self,
        address: SocketAddr,
        count: usize,
    ) -> Result<impl Iterator<Item = Queue>, CannotListen> {
        let mut dealt: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for (number, socket) in self.at(address, count)?.into_iter().enumerate() {
            dealt[number % count].push(socket);
        }
        let hands = Hand::of_each(count);
        Ok(dealt
            .into_iter()
            .zip(hands)
            .map(|(sockets, hand)| Queue { sockets, hand }))
    }

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
