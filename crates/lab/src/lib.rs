//! The network of one machine: what stands between clusters that run side by side, and what it
//! takes to test and measure whole meshes on it.
//!
//! [`relay`] carries every byte between two clusters over an emulated link. Nothing there knows the
//! mesh: a relay sees addresses and bytes, never names or messages. [`mesh`] runs the binary as a
//! user would; [`by_hand`] puts one together over [`namespaces`], where the kernel keeps clusters
//! apart; [`http`] and [`processes`] look at it from outside; [`traffic`] goes through it in every
//! protocol, [`open_loop`] loads it, and [`series`] counts what came of that. No code of the mesh itself
//! is used: what is found is found by what anybody could see.

pub mod api;
pub mod by_hand;
pub mod chance;
mod delay;
pub mod frames;
pub mod http;
pub mod mesh;
pub mod namespaces;
pub mod open_loop;
pub mod ordeal;
pub mod point;
pub mod processes;
pub mod relay;
pub mod series;
pub mod smuggling;
pub mod traffic;
pub mod trouble;
