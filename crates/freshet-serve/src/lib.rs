//! Every door of Freshet: the routes of HTTP, for pushed records, metrics and the steering of jobs.
//!
//! What is behind a door is a trait: this crate knows no connector, no SQL and no project. It binds
//! to addresses of this machine alone until there is access control, and answers only those who
//! call it by such a name.

mod answer;
mod arrow_rows;
mod body;
mod budget;
mod figures;
mod guard;
mod health;
mod ingest;
mod jobs;
mod metrics;
mod records;
mod server;
mod timed;

pub use ingest::Sources;
pub use jobs::{Jobs, Restored, Saved, is_called};
pub use server::{Server, Services};
