//! Who of several workers serves a connection.
//!
//! The kernel deals connections by a hash of their addresses: where there are few, as between proxies and of
//! clients that keep theirs, one worker may get twice what another gets, and keeps it for hours. So who
//! has taken one passes it on while another clearly has less.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Who has this part more than the one with the fewest passes none on: that costs both something.
const EVEN: usize = 8;

/// One worker's part in the connections of one address; with each goes its `P`.
pub(crate) struct Hand<P> {
    own: usize,
    served: Arc<[AtomicUsize]>,
    /// To each worker. No more is on its way than the intake lets in.
    pass: Vec<UnboundedSender<(StdStream, P)>>,
    passed: UnboundedReceiver<(StdStream, P)>,
}

/// A connection counts for its worker until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    served: Arc<[AtomicUsize]>,
    worker: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.served[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

impl<P> Hand<P> {
    /// One for each of `workers`.
    pub(crate) fn of_each(workers: usize) -> Vec<Self> {
        let served: Arc<[_]> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        let (pass, passed): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let hand = |(own, passed)| Self {
            own,
            served: Arc::clone(&served),
            pass: pass.clone(),
            passed,
        };
        passed.into_iter().enumerate().map(hand).collect()
    }

    /// Of a worker without others.
    pub(crate) fn alone() -> Self {
        let mut hands = Self::of_each(1);
        hands.swap_remove(0)
    }

    /// What this worker is to serve of what it has accepted: nothing when it was passed on.
    pub(crate) fn keep(
        &self,
        socket: TcpStream,
        with: impl FnOnce(Seat) -> P,
    ) -> Option<(TcpStream, P)> {
        let worker = self.whose();
        self.served[worker].fetch_add(1, Ordering::Relaxed);
        let with = with(Seat {
            served: Arc::clone(&self.served),
            worker,
        });
        if worker == self.own {
            return Some((socket, with));
        }
        let socket = socket.into_std().inspect_err(tell).ok()?;
        match self.pass[worker].send((socket, with)) {
            Ok(()) => None,
            // That one is about to end. Its count does not matter any more.
            Err(SendError((socket, with))) => here(socket, with),
        }
    }

    /// The next connection that another worker has passed on.
    pub(crate) async fn passed(&mut self) -> (TcpStream, P) {
        loop {
            match self.passed.recv().await {
                Some((socket, with)) => {
                    if let Some(passed) = here(socket, with) {
                        return passed;
                    }
                }
                // Not before this is dropped: it holds a sender of its own.
                None => std::future::pending().await,
            }
        }
    }

    /// What was passed on and not taken yet; nothing is from now on.
    pub(crate) async fn rest(&mut self) -> Vec<(TcpStream, P)> {
        self.passed.close();
        let mut rest = Vec::new();
        // Whoever is just passing something on is waited for.
        while let Some((socket, with)) = self.passed.recv().await {
            rest.extend(here(socket, with));
        }
        rest
    }

    /// Itself, unless another serves clearly fewer.
    fn whose(&self) -> usize {
        let served = |worker: usize| self.served[worker].load(Ordering::Relaxed);
        let least = (0..self.served.len()).min_by_key(|worker| served(*worker));
        match least {
            Some(least) if !is_even(served(self.own), served(least)) => least,
            _ => self.own,
        }
    }
}

fn is_even(own: usize, least: usize) -> bool {
    own <= least + least.div_ceil(EVEN)
}

/// As a socket of this thread's runtime.
fn here<P>(socket: StdStream, with: P) -> Option<(TcpStream, P)> {
    let socket = TcpStream::from_std(socket).inspect_err(tell).ok()?;
    Some((socket, with))
}

fn tell(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be given to the worker that was to serve it");
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::{run, within};

    async fn connection(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[test]
    fn whoever_the_kernel_chooses_all_workers_get_their_part_and_the_rest_is_nobodys_loss() {
        run(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let [chosen, mut second, mut third] =
                <[_; 3]>::try_from(Hand::of_each(3)).ok().unwrap();
            let (mut clients, mut kept) = (Vec::new(), Vec::new());
            for _ in 0..60 {
                let (client, accepted) = connection(&listener).await;
                clients.push(client);
                kept.extend(chosen.keep(accepted, |seat| seat));
            }
            let mut passed = Vec::new();
            while passed.len() < 18 {
                passed.push(within(second.passed()).await);
            }
            let (second_more, third_all) = (second.rest().await.len(), third.rest().await.len());
            let served = [kept.len(), 18 + second_more, third_all];
            assert_eq!(served.iter().sum::<usize>(), 60);
            assert!(served.iter().all(|served| *served >= 18), "{served:?}");
            assert!(kept.len() <= 18 + 18 / EVEN + 2, "{served:?}");

            // They take nothing more. One that passes on in vain serves it itself.
            drop(passed);
            let (_client, accepted) = connection(&listener).await;
            let (served, _) = chosen.keep(accepted, |seat| seat).unwrap();
            served.writable().await.unwrap();
        });
    }

    #[test]
    fn who_ends_makes_room_and_little_difference_makes_none() {
        run(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let [near, far] = <[_; 2]>::try_from(Hand::of_each(2)).ok().unwrap();
            let mut seats = Vec::new();
            for expect in [true, false, true, true, false] {
                let (_client, accepted) = connection(&listener).await;
                let kept = near.keep(accepted, |seat| seat);
                assert_eq!(kept.is_some(), expect);
                seats.extend(kept);
            }
            drop(seats);
            let (_client, accepted) = connection(&listener).await;
            assert!(near.keep(accepted, |seat| seat).is_some());
            drop(far);
        });
    }
}
