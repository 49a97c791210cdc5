//! The commands, one room each. They parse nothing and wire nothing: arguments come from
//! [`crate::cli`], what they work on from [`crate::app`].

pub mod check;
pub mod clean;
pub mod connectors;
pub mod dlq;
pub mod docs;
pub mod generate;
pub mod ingest;
pub mod init;
pub mod jobs;
pub mod lake;
pub mod ls;
pub mod plan;
pub mod run;
pub mod runs;
pub mod show;
pub mod sources;
pub mod sql;
pub mod test;
pub mod up;
