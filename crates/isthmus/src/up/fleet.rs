//! The processes of a mesh as one machine: who should run, who does, what to do next.
//!
//! It never starts, signals or waits for anything: events and `now` go in, actions come out.

use std::time::{Duration, Instant};

/// Place of a process in the plan.
pub(crate) type ProcessId = usize;

/// Processes stop in this order, each stage after the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Workload,
    Gateway,
    Control,
}

/// What should become of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Not started yet: something else must come first.
    Later,
    Running,
    /// Killed on request; stays down until it is started on request.
    Down,
    /// Told to stop; never comes back.
    Stopped,
}

#[derive(Debug)]
struct Process {
    stage: Stage,
    wanted: Wanted,
    alive: bool,
    started: Option<Instant>,
    /// Unexpected ends in a row.
    failures: u32,
    retry_at: Option<Instant>,
    kill_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Have a new process take over.
    Restart,
    Terminate,
    Kill,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Spawn(ProcessId),
    Signal(ProcessId, Signal),
    /// It ended although it should run; it is started again after this time.
    Restarting(ProcessId, Duration),
}

/// Where a process stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Running,
    Restarting,
    Killed,
    Stopping,
    Stopped,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    processes: Vec<Process>,
    /// The stage that is being stopped.
    stopping: Option<Stage>,
}

/// How long a process may take to stop before it is killed.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Who has run this long has recovered.
const RECOVERED: Duration = Duration::from_secs(10);

impl Fleet {
    pub(crate) fn new(stages: impl IntoIterator<Item = Stage>) -> Self {
        let process = |stage| Process {
            stage,
            wanted: Wanted::Later,
            alive: false,
            started: None,
            failures: 0,
            retry_at: None,
            kill_at: None,
        };
        Self {
            processes: stages.into_iter().map(process).collect(),
            stopping: None,
        }
    }

    /// A process may start now. Nothing happens if it runs, or is kept down.
    pub(crate) fn admit(&mut self, id: ProcessId, now: Instant) -> Vec<Action> {
        match self.processes.get(id) {
            Some(process) if process.wanted == Wanted::Later && self.stopping.is_none() => {
                self.spawn(id, now)
            }
            _ => Vec::new(),
        }
    }

    /// A process has ended, or could not be started.
    pub(crate) fn ended(&mut self, id: ProcessId, now: Instant) -> Vec<Action> {
        let Some(process) = self.processes.get_mut(id) else {
            return Vec::new();
        };
        process.alive = false;
        process.kill_at = None;
        if process.wanted != Wanted::Running || self.stopping.is_some() {
            return self.stop_next_stage(now);
        }
        let ran = process.started.map_or(Duration::ZERO, |started| {
            now.saturating_duration_since(started)
        });
        process.failures = if ran >= RECOVERED {
            0
        } else {
            process.failures.saturating_add(1)
        };
        let doubled = FIRST_RETRY.saturating_mul(1 << process.failures.min(10));
        let pause = doubled.min(LONGEST_RETRY);
        process.retry_at = Some(now + pause);
        vec![Action::Restarting(id, pause)]
    }

    /// Kills processes at once and keeps them down.
    pub(crate) fn kill(&mut self, ids: &[ProcessId]) -> Vec<Action> {
        let mut actions = Vec::new();
        for &id in ids {
            let Some(process) = self.processes.get_mut(id) else {
                continue;
            };
            if process.wanted == Wanted::Stopped {
                continue;
            }
            process.wanted = Wanted::Down;
            process.retry_at = None;
            if process.alive {
                actions.push(Action::Signal(id, Signal::Kill));
            }
        }
        actions
    }

    /// Starts processes that were killed; one that is still ending comes back when it has.
    pub(crate) fn start(&mut self, ids: &[ProcessId], now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for &id in ids {
            match self.processes.get_mut(id) {
                Some(process) if process.wanted == Wanted::Down && process.alive => {
                    process.wanted = Wanted::Running;
                }
                Some(process) if process.wanted == Wanted::Down => {
                    actions.extend(self.spawn(id, now));
                }
                _ => {}
            }
        }
        actions
    }

    /// Has a process leave its work to a successor of its own; for the fleet it stays the same process.
    pub(crate) fn restart(&self, id: ProcessId) -> Vec<Action> {
        let running = id < self.processes.len() && self.state(id) == State::Running;
        let signal = Action::Signal(id, Signal::Restart);
        running.then_some(signal).into_iter().collect()
    }

    /// Stops everything in order.
    pub(crate) fn stop(&mut self, now: Instant) -> Vec<Action> {
        if self.stopping.is_some() {
            return Vec::new();
        }
        self.stopping = Some(Stage::Workload);
        let mut actions = self.stop_stage(Stage::Workload, now);
        actions.extend(self.stop_next_stage(now));
        actions
    }

    /// Kills everything that lives; nothing comes back.
    pub(crate) fn stop_now(&mut self) -> Vec<Action> {
        self.stopping = Some(Stage::Control);
        let mut actions = Vec::new();
        for (id, process) in self.processes.iter_mut().enumerate() {
            process.wanted = Wanted::Stopped;
            process.retry_at = None;
            process.kill_at = None;
            if process.alive {
                actions.push(Action::Signal(id, Signal::Kill));
            }
        }
        actions
    }

    /// What is due at `now`.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for id in 0..self.processes.len() {
            let process = &mut self.processes[id];
            if process.kill_at.is_some_and(|at| at <= now) {
                process.kill_at = None;
                actions.push(Action::Signal(id, Signal::Kill));
            }
            if process.retry_at.is_some_and(|at| at <= now) {
                actions.extend(self.spawn(id, now));
            }
        }
        actions
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let times = self
            .processes
            .iter()
            .flat_map(|each| [each.retry_at, each.kill_at]);
        times.flatten().min()
    }

    /// Everything was told to stop and has.
    pub(crate) fn finished(&self) -> bool {
        self.stopping.is_some() && self.processes.iter().all(|process| !process.alive)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn state(&self, id: ProcessId) -> State {
        let process = &self.processes[id];
        match (process.wanted, process.alive) {
            (Wanted::Later, _) => State::Waiting,
            (Wanted::Running, true) => State::Running,
            (Wanted::Running, false) => State::Restarting,
            (Wanted::Down, _) => State::Killed,
            (Wanted::Stopped, true) => State::Stopping,
            (Wanted::Stopped, false) => State::Stopped,
        }
    }

    fn spawn(&mut self, id: ProcessId, now: Instant) -> Vec<Action> {
        let process = &mut self.processes[id];
        process.wanted = Wanted::Running;
        process.alive = true;
        process.started = Some(now);
        process.retry_at = None;
        vec![Action::Spawn(id)]
    }

    fn stop_stage(&mut self, stage: Stage, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for (id, process) in self.processes.iter_mut().enumerate() {
            // Nobody of a later stage comes back meanwhile either.
            process.retry_at = None;
            if process.stage != stage {
                continue;
            }
            process.wanted = Wanted::Stopped;
            if process.alive {
                process.kill_at = Some(now + STOP_LIMIT);
                actions.push(Action::Signal(id, Signal::Terminate));
            }
        }
        actions
    }

    /// Goes on to the next stage while the present one is empty.
    fn stop_next_stage(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(stage) = self.stopping {
            let lives = |process: &Process| process.stage == stage && process.alive;
            if self.processes.iter().any(lives) {
                break;
            }
            let next = match stage {
                Stage::Workload => Stage::Gateway,
                Stage::Gateway => Stage::Control,
                Stage::Control => break,
            };
            self.stopping = Some(next);
            actions.extend(self.stop_stage(next, now));
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: ProcessId = 0;
    const GATEWAY: ProcessId = 1;
    const CART: ProcessId = 2;
    const SHOP: ProcessId = 3;

    fn fleet(now: Instant) -> Fleet {
        let mut fleet = Fleet::new([
            Stage::Control,
            Stage::Gateway,
            Stage::Workload,
            Stage::Workload,
        ]);
        for id in [CONTROL, GATEWAY, CART, SHOP] {
            assert_eq!(fleet.admit(id, now), [Action::Spawn(id)]);
            assert_eq!(fleet.admit(id, now), [], "once");
        }
        fleet
    }

    #[test]
    fn what_dies_comes_back_later_and_later() {
        let mut now = Instant::now();
        let mut fleet = fleet(now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            match fleet.ended(CART, now).as_slice() {
                [Action::Restarting(CART, pause)] => pauses.push(pause.as_millis()),
                other => panic!("{other:?}"),
            }
            assert_eq!(fleet.tick(now), []);
            now = fleet.next_timeout().unwrap();
            assert_eq!(fleet.tick(now), [Action::Spawn(CART)]);
        }
        assert_eq!(
            pauses,
            [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
        );
        now += RECOVERED;
        assert_eq!(
            fleet.ended(CART, now),
            [Action::Restarting(CART, FIRST_RETRY)]
        );
    }

    #[test]
    fn what_is_killed_stays_down_until_it_is_started() {
        let now = Instant::now();
        let mut fleet = fleet(now);
        assert_eq!(fleet.kill(&[CART]), [Action::Signal(CART, Signal::Kill)]);
        assert_eq!(fleet.ended(CART, now), []);
        assert_eq!(
            (fleet.next_timeout(), fleet.state(CART)),
            (None, State::Killed)
        );
        assert_eq!(fleet.kill(&[CART]), []);
        assert_eq!(fleet.start(&[CART, SHOP], now), [Action::Spawn(CART)]);
        // Started again before its end was seen.
        assert_eq!(fleet.kill(&[CART]), [Action::Signal(CART, Signal::Kill)]);
        assert_eq!(fleet.start(&[CART], now), []);
        assert!(matches!(
            fleet.ended(CART, now).as_slice(),
            [Action::Restarting(CART, _)]
        ));
    }

    #[test]
    fn stopping_goes_by_stages_and_kills_who_will_not() {
        let now = Instant::now();
        let mut fleet = fleet(now);
        let terminate = |id| Action::Signal(id, Signal::Terminate);
        assert_eq!(fleet.stop(now), [terminate(CART), terminate(SHOP)]);
        assert_eq!(fleet.stop(now), []);
        assert_eq!(fleet.ended(CART, now), []);
        let late = fleet.next_timeout().unwrap();
        assert_eq!(late, now + STOP_LIMIT);
        assert_eq!(fleet.tick(late), [Action::Signal(SHOP, Signal::Kill)]);
        assert_eq!(fleet.ended(SHOP, late), [terminate(GATEWAY)]);
        // An early end of a control plane is no reason to start it again.
        assert!(!fleet.finished());
        assert_eq!(fleet.ended(GATEWAY, late), [terminate(CONTROL)]);
        assert_eq!(fleet.ended(CONTROL, late), []);
        assert!(fleet.finished());
        assert_eq!(fleet.admit(CART, late), []);
    }

    #[test]
    fn a_second_stop_kills_at_once() {
        let now = Instant::now();
        let mut fleet = fleet(now);
        fleet.stop(now);
        let killed = fleet.stop_now();
        assert_eq!(killed.len(), 4);
        for id in 0..4 {
            assert_eq!(fleet.ended(id, now), []);
        }
        assert!(fleet.finished());
    }

    #[test]
    fn a_control_plane_that_dies_while_workloads_stop_is_not_restarted() {
        let now = Instant::now();
        let mut fleet = fleet(now);
        fleet.stop(now);
        fleet.ended(CONTROL, now);
        for id in [CART, SHOP, GATEWAY] {
            fleet.ended(id, now);
        }
        assert!(fleet.finished(), "{fleet:?}");
        assert_eq!(fleet.next_timeout(), None);
    }
}
