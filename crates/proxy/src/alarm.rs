//! Timers for what nearly always ends before its time. Setting one anew for each request costs more than
//! it is worth: these stay set from one request to the next, and are looked at when they go off, which
//! is seldom, and may be too early.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that are kept for later. Each holds the memory of the task that had it last until it goes off.
const MOST: usize = 64;

/// The timers of one worker that nobody uses.
#[derive(Clone, Default)]
pub(crate) struct Alarms(Rc<RefCell<Vec<Timer>>>);

/// A timer, for one wait after another.
pub(crate) struct Alarm {
    timer: Option<Timer>,
    home: Alarms,
}

/// Goes off once for many times that it is put off. One that goes off too early costs less than one that
/// is set anew each time.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    waker: Option<Waker>,
}

impl Timer {
    pub(crate) fn new(due: std::time::Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(due.into())),
            waker: None,
        }
    }

    /// Ready at `due`, which may be another each time.
    pub(crate) fn poll(&mut self, due: std::time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = Instant::from(due);
        if self.sleep.deadline() > due {
            self.sleep.as_mut().reset(due);
        }
        let wakes = |waker: &Waker| waker.will_wake(cx.waker());
        // It is set, and knows whom to wake.
        if self.waker.as_ref().is_some_and(wakes) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // Also of a task that has had its share of this turn, what is late is late.
        while pin!(unconstrained(self.sleep.as_mut())).poll(cx).is_ready() {
            self.waker = None;
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Alarms {
    pub(crate) fn take(&self) -> Alarm {
        Alarm {
            timer: self.0.borrow_mut().pop(),
            home: self.clone(),
        }
    }
}

impl Alarm {
    /// Waits until `due`; `None`: for ever.
    pub(crate) async fn at(&mut self, due: Option<std::time::Instant>) {
        poll_fn(|cx| self.poll(due, cx)).await;
    }

    /// What `act` gives; `None`: it has not by then.
    pub(crate) async fn within<T>(
        &mut self,
        due: std::time::Instant,
        act: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            done = act => Some(done),
            () = self.at(Some(due)) => None,
        }
    }

    /// As [`Alarm::at`]; `due` may be another each time.
    pub(crate) fn poll(
        &mut self,
        due: Option<std::time::Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(due) = due else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Timer::new(due));
        timer.poll(due, cx)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut spare = self.home.0.borrow_mut();
        if let Some(timer) = self.timer.take()
            && spare.len() < MOST
        {
            spare.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Where the clock of the test stands.
    fn now() -> std::time::Instant {
        Instant::now().into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_goes_off_at_its_time_whatever_it_was_set_to_before() {
        let alarms = Alarms::default();
        for (before, due) in [(1, 3), (3, 1), (2, 2)] {
            let begun = now();
            let mut alarm = alarms.take();
            let early = alarm.within(begun + before * SECOND, async {
                tokio::task::yield_now().await;
            });
            assert!(early.await.is_some());
            drop(alarm);
            let mut alarm = alarms.take();
            assert!(alarm.timer.is_some(), "it is the same");
            alarm.at(Some(begun + due * SECOND)).await;
            let took = now().duration_since(begun);
            assert!(
                took >= due * SECOND && took < (due + 1) * SECOND,
                "{took:?}"
            );
            // Who comes late does not wait.
            advance(SECOND).await;
            alarm.at(Some(begun + due * SECOND)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_time_is_not_woken() {
        let mut alarm = Alarms::default().take();
        tokio::select! {
            biased;
            () = alarm.at(None) => panic!("it has no time"),
            () = advance(SECOND) => {}
        }
        let never = std::future::pending::<()>();
        assert_eq!(alarm.within(now() + SECOND, never).await, None);
    }
}
