//! The multiplex as its drivers meet it: two ends in virtual time, and one end against a peer
//! that does what no honest end would.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod hostile;
mod interim;
mod pair;
mod random;
mod stories;
mod windows;
