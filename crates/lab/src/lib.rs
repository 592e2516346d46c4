//! The network of one machine: what stands between clusters that run side by side.
//!
//! [`relay`] carries every byte between two clusters over an emulated link. Nothing here knows the
//! mesh: a relay sees addresses and bytes, never names or messages.

mod delay;
pub mod relay;
