//! Sinks of streams, each against its real target: what [`freshet_testkit::stream_sinks`] asks of all
//! that claim exactly once, and what is theirs alone.

mod files;
mod kafka;
mod postgres;
mod webhook;

use std::sync::Arc;

use freshet_connectors::registry;
use freshet_core::Result;
use freshet_core::clock::SystemClock;
use freshet_core::registry::{ConnectorContext, StreamSinkSpec};
use freshet_core::stream::StreamSink;
use freshet_testkit::stream_sinks::schema;
use serde_json::Value;

/// The value of a variable that `cargo xtask test` sets.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: `cargo xtask test` starts the server and sets it")
    })
}

fn context() -> ConnectorContext {
    ConnectorContext {
        project_dir: std::env::temp_dir(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    }
}

fn spec(key: &[&str]) -> StreamSinkSpec {
    StreamSinkSpec {
        writer: "dev/model".into(),
        table: "model".into(),
        schema: schema(),
        unique_key: key.iter().map(|column| (*column).to_owned()).collect(),
    }
}

fn try_sink(connector: &str, options: &Value, key: &[&str]) -> Result<Arc<dyn StreamSink>> {
    registry().get(connector)?.stream_sink(options, &spec(key), &context())
}

fn sink(connector: &str, options: &Value, key: &[&str]) -> Arc<dyn StreamSink> {
    try_sink(connector, options, key).expect("valid options")
}
