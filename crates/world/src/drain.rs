//! Stopping without breaking what runs: a signal that says "finish", in stages, and a count of what
//! has not.
//!
//! Hold one `Live` per connection or task, not per request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How far the end has come. There is no way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum DrainStage {
    #[default]
    Serving,
    /// Everything is taken and served as before, but peers are told, where a protocol has words for
    /// it, that they should use something else next time.
    Leaving,
    /// Nothing new is taken. Peers that stay connected may still ask once, since a request may be on
    /// its way to us already.
    Draining,
    /// What waits for a peer to ask is closed; what has begun is finished.
    Closing,
}

/// The side that decides to stop.
#[derive(Debug)]
pub struct Drain(Arc<Shared>);

/// The side that is told; clones are told alike.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    shared: Arc<Shared>,
    stage: watch::Receiver<DrainStage>,
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
    stage: watch::Sender<DrainStage>,
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
            stage: watch::Sender::new(DrainStage::Serving),
            live: watch::Sender::new(0),
        }))
    }

    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            shared: Arc::clone(&self.0),
            stage: self.0.stage.subscribe(),
        }
    }

    /// Tells all watchers that `stage` is reached. An earlier one than that of now changes nothing.
    pub fn advance(&self, stage: DrainStage) {
        self.0.stage.send_if_modified(|now| {
            let later = stage > *now;
            *now = stage.max(*now);
            later
        });
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
    /// Should peers go elsewhere next time?
    pub fn is_leaving(&self) -> bool {
        *self.stage.borrow() >= DrainStage::Leaving
    }

    /// Is nothing new taken any more?
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() >= DrainStage::Draining
    }

    /// Waits until nothing new is to be taken; returns at once when it is so far.
    pub async fn draining(&mut self) {
        self.reached(DrainStage::Draining).await;
    }

    /// Waits until what is idle is to be closed; returns at once when it is so far.
    pub async fn closing(&mut self) {
        self.reached(DrainStage::Closing).await;
    }

    async fn reached(&mut self, stage: DrainStage) {
        // An error would mean that the sender is gone, and we hold it ourselves.
        let _ = self.stage.wait_for(|now| *now >= stage).await;
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
        drain.advance(DrainStage::Draining);
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

    #[tokio::test]
    async fn stages_come_in_order_and_never_go_back() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let mut seen = Vec::new();
        for stage in [
            DrainStage::Leaving,
            DrainStage::Serving,
            DrainStage::Closing,
            DrainStage::Draining,
        ] {
            drain.advance(stage);
            seen.push((watch.is_leaving(), watch.is_draining()));
        }
        assert_eq!(
            seen,
            [(true, false), (true, false), (true, true), (true, true)]
        );
        watch.closing().await;
    }
}
