//! The project folder: YAML and SQL templates become a validated graph.
//!
//! Reading the folder is the only I/O here. This crate knows no connector and no engine; it hands
//! options of connectors on as JSON and lets a callback validate them.

pub mod model;

pub use model::*;
