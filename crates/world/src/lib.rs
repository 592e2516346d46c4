//! What logic may ask of the world, so that the same logic runs on the real one and on a virtual
//! one: what time it is, a draw of chance, a durable store, the newest snapshot, and whether to
//! stop.
//!
//! Each has a real version for processes and a virtual one for simulation and tests. This crate
//! knows nothing of the mesh: no names, no formats of values, no protocol.

mod chance;
mod clock;
mod drain;
mod redb_store;
mod snapshot;
mod store;
mod virtual_store;

pub use chance::{Chance, ChanceError, RealChance, SeededChance};
pub use clock::{Clock, RealClock, VirtualClock};
pub use drain::{Drain, DrainStage, DrainWatch, Live, StillLive};
pub use redb_store::{Filling, RedbImage, RedbStore};
pub use snapshot::{Published, Snapshot, SnapshotWriter};
pub use store::{Batch, Pair, Store, StoreError, StoreImage, Table, TakePair, Write};
pub use virtual_store::{Fault, VirtualStore};
