//! Whose handshake it is. What a handshake computes takes as long as tens of requests: of all that wait, one
//! goes on, and then everybody else on the thread has a go before the next one does.
//!
//! So a storm of handshakes makes what is under way wait for one of them at a time, however many there are.

use std::cell::Cell;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// More than so many do not wait: they are turned away while it is cheap, and who waits is served before it
/// gives up.
const MOST_WAITING: usize = 1024;

/// The handshakes of one thread.
#[derive(Debug)]
pub(crate) struct Turns {
    turn: Semaphore,
    waiting: Cell<usize>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            waiting: Cell::new(0),
        }
    }
}

impl Turns {
    /// Do so many wait that nobody else should?
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.get() >= MOST_WAITING
    }

    /// Does `act` when it is its turn, in the order in which it was asked. Safe to give up on.
    pub(super) async fn take<T>(&self, act: impl FnOnce() -> T) -> T {
        let waits = Waits::new(&self.waiting);
        let turn = self.turn.acquire().await;
        drop(waits);
        let done = act();
        yield_now().await;
        // Never closed; were it, all would go at once.
        drop(turn);
        done
    }
}

/// One that waits.
struct Waits<'a>(&'a Cell<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::spawn_local;

    use super::*;
    use crate::testing::run;

    #[test]
    fn others_have_a_go_between_any_two() {
        run(async {
            let (turns, done) = (Rc::new(Turns::default()), Rc::new(RefCell::new(Vec::new())));
            for number in 0..200 {
                let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
                spawn_local(async move {
                    for _ in 0..2 {
                        turns.take(|| done.borrow_mut().push(number)).await;
                    }
                });
            }
            let mut before = 0;
            while before < 400 {
                yield_now().await;
                let now = done.borrow().len();
                assert!(now <= before + 1, "{before}, {now}");
                before = now;
            }
            let expect: Vec<i32> = (0..200).chain(0..200).collect();
            assert_eq!(*done.borrow(), expect);
        });
    }

    #[test]
    fn no_more_wait_than_are_served_in_time() {
        run(async {
            let turns = Rc::new(Turns::default());
            // Some are served before the last ones come.
            let tasks: Vec<_> = (0..2 * MOST_WAITING)
                .map(|_| {
                    let turns = Rc::clone(&turns);
                    spawn_local(async move { turns.take(|| ()).await })
                })
                .collect();
            assert!(!turns.is_crowded());
            while !turns.is_crowded() {
                yield_now().await;
            }
            // Those who give up make room.
            for task in &tasks {
                task.abort();
            }
            while turns.waiting.get() > 0 {
                yield_now().await;
            }
            turns.take(|| ()).await;
        });
    }
}
