//! Whose handshake it is. What a handshake computes takes as long as tens of requests: of all that are to go
//! on, one does, and then everybody else who is ready on the thread, before the next one does.
//!
//! So a storm of handshakes makes what is under way wait for one step at a time, however many there are; and
//! those that have begun, and those of our own, wait for no more than one that begins.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Who has said hello and has to wait behind so many who did before is turned away: on a thread with much else to
/// do they take about a second.
const MOST_NEWCOMERS: usize = 512;

/// The handshakes of one thread.
#[derive(Debug)]
pub(crate) struct Turns {
    turn: Arc<Semaphore>,
    /// Where those wait that begin. One is let in, and waits for its turn with the others.
    door: Semaphore,
    newcomers: Cell<usize>,
}

/// So many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many handshakes wait already")]
pub(crate) struct Crowded;

impl Default for Turns {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            door: Semaphore::new(1),
            newcomers: Cell::new(0),
        }
    }
}

impl Turns {
    /// Where as many wait as may.
    #[cfg(test)]
    pub(super) fn crowded() -> Self {
        let turns = Self::default();
        turns.newcomers.set(MOST_NEWCOMERS);
        turns
    }

    /// Does `act`, the first step for somebody who has come, when it is its turn. Safe to give up on.
    pub(super) async fn begin<T>(&self, act: impl FnOnce() -> T) -> Result<T, Crowded> {
        if self.newcomers.get() >= MOST_NEWCOMERS {
            return Err(Crowded);
        }
        let newcomer = Counted::new(&self.newcomers);
        let _door = self.door.acquire().await;
        drop(newcomer);
        Ok(self.go_on(act).await)
    }

    /// Does `act`, any other step, when it is its turn. Safe to give up on.
    pub(super) async fn go_on<T>(&self, act: impl FnOnce() -> T) -> T {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let done = act();
        // What has been computed goes out now; whoever is next waits until sockets were looked at, and runs
        // behind those who are ready then.
        tokio::task::spawn_local(async move {
            yield_now().await;
            drop(turn);
        });
        done
    }
}

/// One of those that are counted.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
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

    type Done = Rc<RefCell<Vec<usize>>>;

    fn stage() -> (Rc<Turns>, Done) {
        (Rc::new(Turns::default()), Done::default())
    }

    #[test]
    fn others_have_a_go_between_any_two() {
        run(async {
            let (turns, done) = stage();
            for number in 0..200 {
                let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
                spawn_local(async move {
                    let begun = turns.begin(|| done.borrow_mut().push(number)).await;
                    begun.unwrap();
                    turns.go_on(|| done.borrow_mut().push(number)).await;
                });
            }
            // It runs once in each round of all that are ready.
            let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
            let watching = spawn_local(async move {
                let mut before = 0;
                let mut rounds = 0;
                while before < 400 {
                    yield_now().await;
                    let now = done.borrow().len();
                    assert!(now <= before + 2, "{before}, {now}");
                    before = now;
                    rounds += 1;
                }
                assert!(rounds >= 200, "{rounds}");
                assert_eq!(turns.newcomers.get(), 0);
            });
            watching.await.unwrap();
        });
    }

    #[test]
    fn who_has_begun_waits_for_no_more_than_one_who_begins() {
        run(async {
            let (turns, done) = stage();
            for number in 0..100 {
                let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
                spawn_local(async move {
                    let begun = turns.begin(|| done.borrow_mut().push(number)).await;
                    begun.unwrap();
                });
            }
            while done.borrow().len() < 3 {
                yield_now().await;
            }
            let before = done.borrow().len();
            turns.go_on(|| done.borrow_mut().push(1_000)).await;
            let place = done.borrow().iter().position(|who| *who == 1_000).unwrap();
            assert!(place <= before + 2, "{before}, {place}");
        });
    }

    #[test]
    fn who_comes_when_many_wait_is_turned_away_until_some_have_left() {
        run(async {
            let (turns, done) = stage();
            let tasks: Vec<_> = (0..2 * MOST_NEWCOMERS)
                .map(|number| {
                    let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
                    spawn_local(async move {
                        let begun = turns.begin(|| done.borrow_mut().push(number)).await;
                        begun.is_err()
                    })
                })
                .collect();
            while turns.newcomers.get() < MOST_NEWCOMERS {
                yield_now().await;
            }
            assert_eq!(turns.begin(|| ()).await, Err(Crowded));
            turns.go_on(|| ()).await;
            let mut turned_away = 0;
            for (number, task) in tasks.into_iter().enumerate() {
                if number % 2 == 0 {
                    task.abort();
                } else {
                    turned_away += usize::from(task.await.unwrap());
                }
            }
            assert!(turned_away > 0);
            assert_eq!(turns.newcomers.get(), 0);
            assert_eq!(turns.begin(|| ()).await, Ok(()));
        });
    }
}
