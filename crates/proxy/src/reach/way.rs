//! One peer: links that stand, one that is being dialled, or none for now.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Unreachable;
use crate::links::Links;
use crate::mux::Link;

/// Who has just failed is not dialled again for this long: the next request goes elsewhere at once
/// instead of waiting for the same timeout.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A peer that may be connected, being dialled, or just failed.
#[derive(Default)]
pub(super) struct Way {
    links: RefCell<Links>,
    failed: RefCell<Option<(Instant, Unreachable)>>,
    dialling: Arc<Mutex<()>>,
}

impl Way {
    /// A link that stands and has room, or what `dial` makes; one dials, the others wait. Whoever is
    /// dialled is dialled to the end, even when nobody waits any more: a try whose time is over must not
    /// undo what the next one needs.
    pub(super) async fn link<D>(
        self: &Rc<Self>,
        dial: impl FnOnce() -> D,
    ) -> Result<Link, Unreachable>
    where
        D: Future<Output = Result<Link, Unreachable>> + 'static,
    {
        if let Some(known) = self.known() {
            return known;
        }
        let turn = Arc::clone(&self.dialling).lock_owned().await;
        if let Some(known) = self.known() {
            return known;
        }
        let (way, dial) = (Rc::clone(self), dial());
        let dialling = tokio::task::spawn_local(async move {
            let _turn = turn;
            let dialled = dial.await;
            match &dialled {
                Ok(link) => way.links.borrow_mut().add(link.clone(), Instant::now()),
                Err(error) => *way.failed.borrow_mut() = Some((Instant::now(), error.clone())),
            }
            dialled
        });
        let stopping = || Unreachable::Ended("this proxy is stopping".to_owned());
        dialling.await.unwrap_or_else(|_| Err(stopping()))
    }

    pub(super) fn known(&self) -> Option<Result<Link, Unreachable>> {
        let links = self.links.borrow();
        if !links.wants_more() {
            return links.pick().cloned().map(Ok);
        }
        match &*self.failed.borrow() {
            Some((at, error)) if at.elapsed() < AFTER_FAILURE => {
                // One that is full is better than none.
                Some(links.pick().cloned().ok_or_else(|| error.clone()))
            }
            _ => None,
        }
    }

    /// The round trip of the quickest link that stands, if any is known: see [`Link::round_trip`].
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.links.borrow().round_trip()
    }

    /// No new streams on any link; those that run may finish.
    pub(super) fn drain(&self) {
        self.links.borrow().drain();
    }

    /// False when there is nothing to keep.
    pub(super) fn tidy(&self, idle: Duration, now: Instant) -> bool {
        let mut links = self.links.borrow_mut();
        links.tidy(idle, Duration::MAX, now);
        !links.is_empty() || self.dialling.try_lock().is_err()
    }
}

#[cfg(test)]
mod tests {
    use isthmus_codec::message::{Context, Open, TcpOpen};
    use isthmus_codec::mux::{LEAST_STREAMS, Settings, Side};

    use super::*;
    use crate::mux::Stream;
    use crate::testing::{Plain, plenty, run};

    /// A link whose peer has not said yet how many streams it takes, and `count` streams.
    fn link_with(count: u32) -> (Link, Vec<Stream>, tokio::io::DuplexStream) {
        let (io, peer) = tokio::io::duplex(1_000);
        let io = Plain::new(io);
        let link = Link::start(io, Side::Dialler, Settings::default(), &plenty());
        let open = Open::Tcp(TcpOpen {
            service: isthmus_model::ServiceName::new("shop", "cart").unwrap(),
            port: 80,
            context: Context::default(),
        });
        let open = || link.open(&open, false).unwrap();
        let streams = (0..count).map(|_| open()).collect();
        (link, streams, peer)
    }

    #[test]
    fn a_full_link_is_kept_and_one_that_leaves_is_replaced() {
        run(async {
            let (first, _streams, _peer) = link_with(LEAST_STREAMS);
            let (second, _more_streams, _other_peer) = link_with(1);
            let way = Rc::new(Way::default());
            let dial = async |link: &Link| {
                let link = link.clone();
                way.link(|| async { Ok(link) }).await.unwrap()
            };
            dial(&first).await;
            // Full: whoever comes next waits for a place on it, and dials no second connection.
            assert!(dial(&second).await.is_same(&first));
            way.tidy(Duration::from_secs(90), Instant::now());
            assert!(!first.is_leaving());

            first.drain();
            assert!(dial(&second).await.is_same(&second));
            way.tidy(Duration::from_secs(90), Instant::now());
            assert!(!second.is_leaving());
        });
    }

    #[test]
    fn a_dial_goes_on_when_who_asked_for_it_gives_up() {
        run(async {
            let (link, _streams, _peer) = link_with(0);
            let refused = Unreachable::Ended("refused".to_owned());
            for outcome in [Ok(link.clone()), Err(refused)] {
                let way = Rc::new(Way::default());
                let (finish, finished) = tokio::sync::oneshot::channel();
                let mut hasty = Box::pin(way.link(|| async { finished.await.unwrap() }));
                tokio::select! {
                    biased;
                    _ = &mut hasty => panic!("nobody has answered"),
                    () = tokio::task::yield_now() => {}
                }
                drop(hasty);
                finish.send(outcome.clone()).ok().unwrap();
                let patient = way
                    .link(|| async { panic!("it is dialled once more") })
                    .await;
                assert_eq!(patient.is_ok(), outcome.is_ok());
            }
        });
    }
}
