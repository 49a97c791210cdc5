//! The project folder: YAML and SQL templates become a validated graph.
//!
//! Reading the folder is the only I/O here. This crate knows no connector and no engine; it hands
//! options of connectors on as JSON and lets a callback validate them.

mod checks;
mod config;
mod dbt;
mod graph;
mod load;
pub mod model;
mod props;
mod render;
mod schema;
mod select;
mod sinks;
mod state;
mod yaml;

pub use load::{LoadOptions, ValidateConnector};
pub use model::*;
pub use render::Templates;
pub use schema::schemas;
pub use select::Selection;
pub use state::{NodeState, ProjectDiff, ProjectState};
