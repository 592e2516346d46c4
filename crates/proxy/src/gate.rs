//! Before the program: who may go to it now, who waits, and who is turned away. The engine decides
//! ([`Admission`]); here requests wait for their turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use isthmus_balance::constants::RETRY_AFTER;
use isthmus_balance::{
    Admission, Admitted, Arrival, Importance, Served, Shed, ShedReason, Ticket, Turn,
};
use isthmus_codec::message::{Context, Priority, Utilisation};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;
use tokio::time::sleep_until;

/// What one is told whom the gate has forgotten.
const FORGOTTEN: Shed = Shed {
    reason: ShedReason::WaitedLong,
    retry_after: RETRY_AFTER,
};

/// The gates of one workload, one for each port of its program.
#[derive(Default)]
pub(crate) struct Gates(RefCell<HashMap<u16, Rc<Gate>>>);

/// Before one port.
#[derive(Default)]
pub(crate) struct Gate {
    admission: RefCell<Admission>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Result<Admitted, Shed>>>>,
    /// When the watch looks next, while there is one: a single task for all that wait, however many.
    watch: Cell<Option<Instant>>,
    /// It is to look sooner.
    sooner: Notify,
}

/// A request that may go to the program. Given back by [`Pass::replied`], or, when it ends in any other
/// way, by being dropped.
pub(crate) struct Pass {
    gate: Rc<Gate>,
    admitted: Option<Admitted>,
    waited: Option<Duration>,
}

/// What a reply says of its workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Busy {
    pub(crate) utilisation: Utilisation,
    /// Before the program took the request; `None`: it passed by those that wait.
    pub(crate) waited: Option<Duration>,
}

/// A place in the queue. Whoever leaves it is forgotten, or gives back the turn that it has not heard of.
struct Place<'g> {
    gate: &'g Gate,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<Admitted, Shed>>,
}

impl Gates {
    /// Requests that the program works on.
    #[cfg(test)]
    pub(crate) fn in_service(&self) -> u32 {
        let gates = self.0.borrow();
        gates
            .values()
            .map(|gate| gate.admission.borrow().in_service())
            .sum()
    }

    /// Requests that wait for their turn.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        let gates = self.0.borrow();
        let queued = |gate: &Rc<Gate>| gate.admission.borrow().queued();
        gates.values().map(queued).sum()
    }

    pub(crate) fn of(&self, port: u16) -> Rc<Gate> {
        Rc::clone(self.0.borrow_mut().entry(port).or_default())
    }
}

impl Gate {
    /// Waits for the request's turn. Errors: it will not have one; the program has not seen it.
    pub(crate) async fn enter(self: &Rc<Self>, context: &Context) -> Result<Pass, Shed> {
        let importance = match context.priority {
            Priority::High => Importance::High,
            Priority::Normal => Importance::Normal,
            Priority::Low => Importance::Low,
        };
        let now = Instant::now();
        let attempt = context.attempt.into();
        let arrive = |admission: &mut Admission| {
            admission.arrive(importance, attempt, context.remaining, now)
        };
        let arrival = arrive(&mut self.admission.borrow_mut());
        let (admitted, waited) = match arrival {
            Arrival::Admitted(admitted) => (admitted, Duration::ZERO),
            Arrival::Shed(shed) => return Err(shed),
            Arrival::Queued(ticket) => (self.wait(ticket).await?, now.elapsed()),
        };
        Ok(Pass {
            gate: Rc::clone(self),
            admitted: Some(admitted),
            waited: Some(waited),
        })
    }

    /// A request that neither waits nor counts.
    pub(crate) fn pass_by(self: &Rc<Self>) -> Pass {
        Pass {
            gate: Rc::clone(self),
            admitted: None,
            waited: None,
        }
    }

    async fn wait(self: &Rc<Self>, ticket: Ticket) -> Result<Admitted, Shed> {
        let (turn, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket.number(), turn);
        let mut place = Place {
            gate: self,
            ticket,
            answer,
        };
        if self.watch.get().is_some() {
            self.look_sooner();
        } else {
            self.watch.set(self.next_look());
            spawn_local(Rc::clone(self).keep_watch());
        }
        // Nobody forgets who waits; should it be so, it does not wait for ever.
        (&mut place.answer).await.unwrap_or(Err(FORGOTTEN))
    }

    /// Tells those who wait what comes by time alone, for as long as any wait.
    async fn keep_watch(self: Rc<Self>) {
        while let Some(at) = self.watch.get() {
            tokio::select! {
                () = sleep_until(at.into()) => {
                    let turns = self.admission.borrow_mut().on_timeout(Instant::now());
                    self.tell(turns);
                    self.watch.set(self.next_look());
                }
                () = self.sooner.notified() => {}
            }
        }
    }

    fn next_look(&self) -> Option<Instant> {
        self.admission.borrow().next_timeout(Instant::now())
    }

    /// Something is due before the watch would see it.
    fn look_sooner(&self) {
        if self.watch.get().is_none() {
            // Nobody waits.
            return;
        }
        let next = self.next_look();
        if next.is_some() && next < self.watch.get() {
            self.watch.set(next);
            self.sooner.notify_one();
        }
    }

    fn finish(&self, admitted: Admitted, served: Served, now: Instant) {
        let turns = self.admission.borrow_mut().finish(admitted, served, now);
        self.tell(turns);
        self.look_sooner();
    }

    /// Tells those who wait what becomes of them: who is served first, first.
    fn tell(&self, turns: Vec<Turn>) {
        let mut turns = VecDeque::from(turns);
        while let Some(turn) = turns.pop_front() {
            let (ticket, answer) = match turn {
                Turn::Go(ticket, admitted) => (ticket, Ok(admitted)),
                Turn::Shed(ticket, shed) => (ticket, Err(shed)),
            };
            let waiting = self.waiting.borrow_mut().remove(&ticket.number());
            let untold = match waiting {
                Some(waiting) => waiting.send(answer).err(),
                None => Some(answer),
            };
            // Who has gone away meanwhile leaves its place to the next.
            if let Some(Ok(admitted)) = untold {
                let mut admission = self.admission.borrow_mut();
                turns.extend(admission.finish(admitted, Served::Otherwise, Instant::now()));
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let waited = self.gate.waiting.borrow_mut().remove(&self.ticket.number());
        if waited.is_some() {
            self.gate.admission.borrow_mut().abandon(self.ticket);
        } else if let Ok(Ok(admitted)) = self.answer.try_recv() {
            // Its turn came in the moment in which it went away.
            self.gate
                .finish(admitted, Served::Otherwise, Instant::now());
        }
    }
}

impl Pass {
    /// How long the request has had to wait for its turn.
    pub(crate) fn waited(&self) -> Duration {
        self.waited.unwrap_or_default()
    }

    /// The first byte of a reply with this status is here. What the reply is to say of how busy the
    /// workload is.
    pub(crate) fn replied(&mut self, status: u16) -> Busy {
        // A program that fails says nothing of how long its work takes.
        let served = if status < 500 {
            Served::Replied
        } else {
            Served::Otherwise
        };
        let now = Instant::now();
        if let Some(admitted) = self.admitted.take() {
            self.gate.finish(admitted, served, now);
        }
        let used = self.gate.admission.borrow().utilisation(now);
        Busy {
            utilisation: Utilisation::of_fraction(used),
            waited: self.waited,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            self.gate
                .finish(admitted, Served::Otherwise, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};

    use isthmus_balance::constants::QUEUE_HURRY;
    use tokio::task::LocalSet;

    use super::*;

    fn context(remaining: Option<Duration>) -> Context {
        Context {
            remaining,
            ..Context::default()
        }
    }

    /// What waits is watched by a task.
    async fn local(test: impl Future<Output = ()>) {
        LocalSet::new().run_until(test).await;
    }

    /// More than any gate admits at once that has learnt nothing yet.
    const CROWD: usize = 20_000;

    async fn crowd(gate: &Rc<Gate>) -> (Vec<Pass>, usize) {
        let mut passes = Vec::new();
        let context = context(None);
        for _ in 0..CROWD {
            let entering = gate.enter(&context);
            tokio::select! {
                biased;
                pass = entering => passes.extend(pass.ok()),
                () = std::future::ready(()) => {}
            }
        }
        let admitted = passes.len();
        (passes, admitted)
    }

    #[tokio::test]
    async fn whoever_goes_away_gives_back_what_it_had() {
        local(async {
            let gate = Rc::new(Gate::default());
            let (passes, admitted) = crowd(&gate).await;
            let in_service = gate.admission.borrow().in_service();
            assert_eq!(usize::try_from(in_service).unwrap(), admitted);
            assert_eq!(gate.admission.borrow().queued(), 0, "nobody waits any more");
            assert!(gate.waiting.borrow().is_empty());
            drop(passes);
            assert_eq!(gate.admission.borrow().in_service(), 0);
        })
        .await;
    }

    /// Enters until one has to wait; that one.
    async fn queue<'g>(
        gate: &'g Rc<Gate>,
        context: &'g Context,
        passes: &mut Vec<Pass>,
    ) -> Pin<Box<dyn Future<Output = Result<Pass, Shed>> + 'g>> {
        loop {
            let mut entering = Box::pin(gate.enter(context));
            tokio::select! {
                biased;
                pass = &mut entering => passes.extend(pass.ok()),
                () = std::future::ready(()) => return entering,
            }
        }
    }

    #[tokio::test]
    async fn a_turn_is_given_back_by_who_goes_away_before_it_has_heard_of_it() {
        local(async {
            let (gate, context, mut passes) = (Rc::new(Gate::default()), context(None), vec![]);
            let leaving = queue(&gate, &context, &mut passes).await;
            let staying = queue(&gate, &context, &mut passes).await;
            // It is the first one's turn, and its caller goes away in the same moment.
            passes.pop();
            drop(leaving);
            let in_service = gate.admission.borrow().in_service();
            assert_eq!(usize::try_from(in_service).unwrap(), passes.len() + 1);
            assert_eq!(
                gate.admission.borrow().queued(),
                0,
                "then it is the next one's"
            );
            drop(staying.await.ok().unwrap());
            drop(passes);
            assert_eq!(gate.admission.borrow().in_service(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn of_many_whose_turn_comes_at_once_who_is_served_first_hears_of_it_first() {
        const TURNS: [Importance; 4] = [
            Importance::High,
            Importance::Normal,
            Importance::Low,
            Importance::Low,
        ];
        let (now, mut admission) = (Instant::now(), Admission::default());
        let mut running = vec![];
        let first = loop {
            match admission.arrive(Importance::Low, 0, None, now) {
                Arrival::Admitted(admitted) => running.push(admitted),
                Arrival::Queued(ticket) => break (Importance::Low, ticket),
                Arrival::Shed(shed) => panic!("{shed:?}"),
            }
        };
        let mut tickets = vec![first];
        for importance in [Importance::Low, Importance::Normal, Importance::High] {
            let Arrival::Queued(ticket) = admission.arrive(importance, 0, None, now) else {
                panic!("there is no room");
            };
            tickets.push((importance, ticket));
        }
        let ended = running.into_iter();
        let turns = ended.flat_map(|one| admission.finish(one, Served::Otherwise, now));
        let turns = turns.collect();

        let local = LocalSet::new();
        let (gate, heard) = (Gate::default(), Rc::default());
        for (importance, ticket) in tickets {
            let (turn, answer) = oneshot::channel();
            gate.waiting.borrow_mut().insert(ticket.number(), turn);
            let heard: Rc<RefCell<Vec<Importance>>> = Rc::clone(&heard);
            local.spawn_local(async move {
                assert!(matches!(answer.await, Ok(Ok(_))));
                heard.borrow_mut().push(importance);
            });
        }
        local
            .run_until(async {
                // All of them wait when they are told.
                tokio::task::yield_now().await;
                gate.tell(turns);
            })
            .await;
        local.await;
        assert_eq!(*heard.borrow(), TURNS);
    }

    #[tokio::test]
    async fn of_many_that_wait_each_is_woken_once() {
        const MANY: usize = 30;
        const APART: Duration = Duration::from_millis(2);
        local(async {
            let (gate, hurry) = (Rc::new(Gate::default()), context(Some(QUEUE_HURRY)));
            let (mut passes, polls) = (vec![], Rc::new(Cell::new(0)));
            drop(queue(&gate, &hurry, &mut passes).await);
            let mut waiting = vec![];
            for _ in 0..MANY {
                let (gate, polls) = (Rc::clone(&gate), Rc::clone(&polls));
                let hurry = hurry.clone();
                waiting.push(spawn_local(async move {
                    let mut entering = pin!(gate.enter(&hurry));
                    let entering = poll_fn(|context| {
                        polls.set(polls.get() + 1);
                        entering.as_mut().poll(context)
                    });
                    entering.await.err().map(|shed| shed.reason)
                }));
                let came = Instant::now();
                while came.elapsed() < APART {
                    tokio::task::yield_now().await;
                }
            }
            let mut turned_away = 0;
            for one in waiting {
                turned_away += usize::from(one.await.unwrap() == Some(ShedReason::WaitedLong));
            }
            assert!(turned_away > 1, "{turned_away} have waited in vain");
            assert!(polls.get() <= 2 * MANY, "{} times", polls.get());
        })
        .await;
    }

    #[tokio::test]
    async fn a_reply_says_how_long_its_request_waited() {
        local(async {
            const LONG: Duration = Duration::from_millis(20);
            let (gate, context, mut passes) = (Rc::new(Gate::default()), context(None), vec![]);
            let waiting = queue(&gate, &context, &mut passes).await;
            let at_once = passes.pop().unwrap().replied(200).waited.unwrap();
            let began = Instant::now();
            while began.elapsed() < LONG {
                tokio::task::yield_now().await;
            }
            drop(passes);
            let waited = waiting.await.ok().unwrap().replied(200).waited.unwrap();
            assert!(waited >= LONG && at_once < waited, "{at_once:?} {waited:?}");
            assert_eq!(gate.pass_by().replied(200).waited, None);
        })
        .await;
    }

    #[tokio::test]
    async fn who_has_no_time_left_is_turned_away() {
        local(async {
            let gate = Rc::new(Gate::default());
            let shed = gate.enter(&context(Some(Duration::ZERO))).await;
            assert_eq!(shed.err().unwrap().reason.code(), "too-late");
            let mut pass = gate.enter(&context(None)).await.ok().unwrap();
            assert!(pass.replied(200).utilisation.fraction() < 1.0);
            assert_eq!(gate.admission.borrow().in_service(), 0);
        })
        .await;
    }
}
