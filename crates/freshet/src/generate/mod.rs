//! Made-up input, as large and as dirty as one likes, with a sidecar that says exactly what is in it.
//!
//! Knows nothing of projects or engines: it writes files. What it writes is a pure function of its
//! options, so that tests and benchmarks on different machines speak of the same bytes.

mod files;
pub mod nexmark;
pub mod orders;
pub mod pos;
mod rng;
mod text;
