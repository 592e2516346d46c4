//! A worker's part in the memory that this process may hold for others.
//!
//! The budget of the process is one account for all threads; the request path takes from what its own
//! worker has put aside, so that it seldom touches what others touch. What is taken here is for things
//! that begin, and for growth; what flows is counted where it is kept, by the multiplex.
//!
//! # What is counted, and what a thing that has begun may hold besides
//!
//! A connection takes [`CONNECTION`] when it is accepted, a request or a tunnel [`REQUEST`] when it is
//! admitted: what it takes to read one piece and hand it on. With that it goes on, however little there
//! is, since nobody who has it waits for more: bodies are no longer kept, windows no longer grow, but
//! every piece that has been read can be handed on, and makes room for the next. So nothing that has
//! begun stands still for want of memory, and what has not begun is told at once that there is none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use isthmus_codec::memory::{MemoryBudget, Share};

const KIB: u64 = 1 << 10;

/// Of a connection that was accepted: its task, and the block that the next bytes are read into.
pub(crate) const CONNECTION: u64 = 32 * KIB;
/// Of a request or tunnel: its task, its head, and a piece that is handed on.
pub(crate) const REQUEST: u64 = 16 * KIB;

/// What a worker puts aside at once, where there is plenty.
const STEP: u64 = 256 * KIB;
/// The part of all that is put aside at once where there is little.
const PART: u64 = 64;

/// What one worker has of the process's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: MemoryBudget,
    /// Taken from the budget: what is lent, and what is put aside.
    own: RefCell<Share>,
    lent: Cell<u64>,
}

/// Memory that something which runs may hold; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Rc<Memory>,
    bytes: u64,
}

impl Memory {
    pub(crate) fn new(budget: MemoryBudget) -> Rc<Self> {
        Rc::new(Self {
            own: RefCell::new(budget.share()),
            lent: Cell::new(0),
            budget,
        })
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Room for something that begins; `None` when there is no memory for it.
    pub(crate) fn admit(self: &Rc<Self>, bytes: u64) -> Option<Room> {
        let missing = bytes.saturating_sub(self.aside());
        if missing > 0 {
            let more = missing + self.step();
            let taken = self.budget.admit(more);
            let taken = taken.or_else(|| self.budget.admit(missing))?;
            self.own.borrow_mut().join(taken);
        }
        Some(self.lend(bytes))
    }

    /// Room that makes something faster or safer, and that can be done without.
    pub(crate) fn grow(self: &Rc<Self>, bytes: u64) -> Option<Room> {
        let mut room = self.lend(0);
        room.grow(bytes).then_some(room)
    }

    fn lend(self: &Rc<Self>, bytes: u64) -> Room {
        self.lent.set(self.lent.get() + bytes);
        Room {
            memory: Rc::clone(self),
            bytes,
        }
    }

    fn aside(&self) -> u64 {
        self.own.borrow().bytes() - self.lent.get()
    }

    fn step(&self) -> u64 {
        STEP.min(self.budget.limit() / PART)
    }
}

impl Room {
    /// Grows by `bytes`, or says false and does not: there is little memory, and others need it more.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let memory = &self.memory;
        let missing = bytes.saturating_sub(memory.aside());
        let grown = if missing == 0 {
            !memory.budget.is_short()
        } else {
            memory.own.borrow_mut().all_of(missing)
        };
        if grown {
            memory.lent.set(memory.lent.get() + bytes);
            self.bytes += bytes;
        }
        grown
    }

    pub(crate) fn memory(&self) -> &Rc<Memory> {
        &self.memory
    }

    /// Gives `bytes` back, at most what there is.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let memory = &self.memory;
        memory.lent.set(memory.lent.get() - bytes);
        let (aside, step) = (memory.aside(), memory.step());
        if aside > 2 * step {
            memory.own.borrow_mut().less(aside - step);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_lent_as_long_as_there_is_some_and_comes_back() {
        let budget = MemoryBudget::new(1024 * KIB);
        let memory = Memory::new(budget.clone());
        let mut rooms = Vec::new();
        while let Some(room) = memory.admit(REQUEST) {
            rooms.push(room);
        }
        assert_eq!(rooms.len(), 64);
        assert_eq!(budget.taken(), budget.limit());
        assert!(!rooms[0].grow(1), "there is none");
        rooms.pop();
        assert!(memory.admit(REQUEST).is_some(), "one has ended");
        drop(rooms);
        assert!(budget.taken() <= 2 * memory.step(), "{}", budget.taken());
        assert_eq!(memory.lent.get(), 0);
    }

    #[test]
    fn growth_ends_while_there_is_room_for_what_begins() {
        let memory = Memory::new(MemoryBudget::new(1024 * KIB));
        let mut grown = Vec::new();
        while let Some(room) = memory.grow(REQUEST) {
            grown.push(room);
        }
        assert!((40..=48).contains(&grown.len()), "{}", grown.len());
        assert!(memory.admit(REQUEST).is_some());
        grown.truncate(1);
        assert!(grown[0].grow(REQUEST));
        grown[0].shrink(REQUEST);
        drop(grown);
        assert_eq!(memory.lent.get(), 0);
    }

    #[test]
    fn the_account_of_all_is_seldom_touched() {
        let budget = MemoryBudget::new(256 * 1024 * KIB);
        let memory = Memory::new(budget.clone());
        drop(memory.admit(REQUEST).unwrap());
        let aside = budget.taken();
        for _ in 0..8 {
            let _rooms: Vec<_> = (0..8).map(|_| memory.admit(REQUEST).unwrap()).collect();
            assert_eq!(budget.taken(), aside);
        }
    }
}
