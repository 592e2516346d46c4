//! Stopping without breaking what runs: a signal that says "finish", and a count of what has not.
//!
//! Hold one `Live` per connection or task, not per request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// The side that decides to stop.
#[derive(Debug)]
pub struct Drain(Arc<Shared>);

/// The side that is told; clones are told alike.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
}

/// Something that still runs. Drop it when done.
#[derive(Debug)]
pub struct Live(Arc<Shared>);

/// The time to finish has passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{live} did not finish in time")]
pub struct StillLive {
    pub live: usize,
}

#[derive(Debug)]
struct Shared {
    draining: watch::Sender<bool>,
    live: watch::Sender<usize>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            draining: watch::Sender::new(false),
            live: watch::Sender::new(0),
        }))
    }

    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            shared: Arc::clone(&self.0),
            draining: self.0.draining.subscribe(),
        }
    }

    /// Tells all watchers to finish. Saying it twice changes nothing.
    pub fn begin(&self) {
        self.0.draining.send_replace(true);
    }

    /// How many have not finished.
    pub fn live(&self) -> usize {
        *self.0.live.borrow()
    }

    /// Waits until nothing is live, at most for `limit`. Does not begin the drain.
    ///
    /// Errors: something is still live after `limit`.
    pub async fn finished(&self, limit: Duration) -> Result<(), StillLive> {
        let mut live = self.0.live.subscribe();
        let none = live.wait_for(|live| *live == 0);
        match tokio::time::timeout(limit, none).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StillLive { live: self.live() }),
        }
    }
}

impl DrainWatch {
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until the drain begins; returns at once when it has begun.
    pub async fn draining(&mut self) {
        // An error would mean that the sender is gone, and we hold it ourselves.
        let _ = self.draining.wait_for(|draining| *draining).await;
    }

    /// Counts as live until it is dropped.
    pub fn live(&self) -> Live {
        self.shared
            .live
            .send_modify(|live| *live = live.saturating_add(1));
        Live(Arc::clone(&self.shared))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0
            .live
            .send_modify(|live| *live = live.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_what_is_live() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let (first, second) = (watch.live(), watch.clone().live());
        assert!(!watch.is_draining());
        drain.begin();
        watch.draining().await;
        assert!(watch.is_draining());

        drop(first);
        assert_eq!(
            drain.finished(Duration::ZERO).await,
            Err(StillLive { live: 1 })
        );
        let finishing = async move { drop(second) };
        let (finished, ()) = tokio::join!(drain.finished(Duration::from_mins(1)), finishing);
        assert_eq!((finished, drain.live()), (Ok(()), 0));
    }
}
