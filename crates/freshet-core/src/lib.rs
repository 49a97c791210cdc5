//! What every crate of Freshet shares: errors, contracts, records with positions, the traits of
//! connectors and sinks, config primitives, clock and randomness.
//!
//! This crate does no I/O of its own and knows no other crate of ours; Arrow is its only data model.

pub mod account;
pub mod clock;
pub mod config;
pub mod contract;
pub mod crash;
pub mod error;
pub mod files;
pub mod format;
pub mod http;
pub mod ids;
pub mod ingest;
pub mod latest;
pub mod metrics;
pub mod record;
pub mod registry;
pub mod rows;
pub mod scalar;
pub mod sink;
pub mod source;
pub mod staging;
pub mod store;
pub mod stream;
pub mod types;

pub use account::{EdgeCounts, OperatorCounts};
pub use contract::{Constraint, Contract, ContractColumn, ContractMode};
pub use error::{Code, Error, ErrorKind, Location, Result, ResultExt};
pub use ids::{ModelId, RunId, SourceId};
pub use record::{Decoded, Reject, Rule};
pub use registry::Registry;
pub use types::ColumnType;
