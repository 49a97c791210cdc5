//! The engine's tests: one binary, because each links DataFusion.

mod checks;
mod functions;
mod lake;
mod operators;
mod slt;
mod stream_sinks;
mod streaming;
mod streaming_cases;
mod unit_tests;
