//! Tasks that last for many pieces of work, one after the other: one for each would be allocated, moved
//! and freed with every request, and is thousands of bytes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tasks that are kept while they have nothing to do.
const MOST_IDLE: usize = 64;

/// Tasks of one thread that do one kind of work.
pub(crate) struct Crew<W, A> {
    act: A,
    idle: RefCell<Vec<Rc<Seat<W>>>>,
}

/// Where an idle task waits for work.
struct Seat<W> {
    work: Cell<Option<W>>,
    waker: Cell<Option<Waker>>,
}

impl<W: 'static, A: AsyncFn(W) + 'static> Crew<W, A> {
    pub(crate) fn new(act: A) -> Rc<Self> {
        let idle = RefCell::default();
        Rc::new(Self { act, idle })
    }

    /// Has somebody do the work. Who was idle last goes first: its memory is at hand.
    pub(crate) fn give(self: &Rc<Self>, work: W) {
        let seat = self.idle.borrow_mut().pop();
        match seat {
            Some(seat) => seat.give(work),
            None => drop(tokio::task::spawn_local(Rc::clone(self).work(work))),
        }
    }

    async fn work(self: Rc<Self>, mut work: W) {
        let seat = Rc::new(Seat {
            work: Cell::new(None),
            waker: Cell::new(None),
        });
        loop {
            (self.act)(work).await;
            if self.idle.borrow().len() >= MOST_IDLE {
                return;
            }
            self.idle.borrow_mut().push(Rc::clone(&seat));
            work = poll_fn(|cx| seat.poll(cx)).await;
        }
    }
}

impl<W> Seat<W> {
    fn give(&self, work: W) {
        self.work.set(Some(work));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<W> {
        match self.work.take() {
            Some(work) => Poll::Ready(work),
            None => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::testing::run;

    #[test]
    fn work_is_done_by_who_has_done_some_before() {
        type Done = Rc<RefCell<Vec<u32>>>;
        run(async {
            let done = Done::default();
            let crew = Crew::new(async |(number, done): (u32, Done)| {
                yield_now().await;
                done.borrow_mut().push(number);
            });
            for number in 0..3 {
                crew.give((number, Rc::clone(&done)));
            }
            while crew.idle.borrow().len() < 3 {
                yield_now().await;
            }
            for number in 3..3 + 2 * u32::try_from(MOST_IDLE).unwrap() {
                crew.give((number, Rc::clone(&done)));
            }
            assert!(crew.idle.borrow().is_empty());
            while Rc::strong_count(&done) > 1 {
                yield_now().await;
            }
            assert_eq!(done.borrow().len(), 3 + 2 * MOST_IDLE);
            assert_eq!(crew.idle.borrow().len(), MOST_IDLE, "the others have left");
        });
    }
}
