//! What users write, YAML or JSON, to `model` values, with every error and its place.
//!
//! A file becomes documents ([`read_files`]: syntax and the head of each object), and each document
//! a resource ([`Document::resolve`]: what it means). Both return all that is wrong at once;
//! [`parse_files`] does both. [`parse_object`] does the same for one object that came without a
//! file. [`check_references`] looks at a whole set, [`check_parsed`] at files that are part of one.
//! The steps: YAML text → tree with places (`yaml`) → JSON object with a checked head (`object`) →
//! typed spec (`decode`, with the types of `kinds` and of crates) → model (`resolve`).
//! [`parse_config`] reads a file that is no resource, such as the configuration of a process, by the
//! first of these steps and `decode`.
//!
//! This crate never does I/O, and never accepts a field that it does not carry out.

mod config;
mod decode;
mod document;
mod kinds;
mod object;
mod output;
mod path;
mod problem;
mod reference;
mod references;
mod resolve;
mod standard;
mod yaml;

pub use config::parse_config;
pub use document::{Document, Parsed, check_parsed, parse_files, parse_object, read_files};
pub use object::{Metadata, Object};
pub use output::{ServerMetadata, cluster_object, workload_object};
pub use path::{FieldPath, Step};
pub use problem::{Place, Problem};
pub use reference::reference;
pub use references::{Finding, Severity, check_references};
pub use resolve::{SIGNATURE_ANNOTATION, resolve};
