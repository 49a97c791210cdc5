//! Sinks of streams, held against the connections and connectors that there are.

use freshet_core::Error;
use freshet_core::error::code;
use serde_json::Value as Json;

use super::nodes::Loader;
use crate::model::SinkConfig;

impl Loader<'_> {
    /// Completes a sink from its connection; records what is wrong with that or with its options.
    pub(super) fn check_sink(&self, model: &str, sink: &mut SinkConfig) {
        let location = sink.location.clone();
        let at = || location.clone();
        if let Some(name) = &sink.connection {
            let Some(connection) = self.settings.connections.find(name, at(), self.findings) else {
                return;
            };
            // Where a bucket is, is no connector.
            let connector = match connection.connector.as_str() {
                "s3" => "files",
                other => other,
            };
            if sink.connector.is_empty() {
                sink.connector = connector.to_owned();
            } else if sink.connector != connector {
                let message = format!(
                    "connection \"{name}\" is one of connector \"{connector}\", and the sink is \"{}\"",
                    sink.connector
                );
                self.findings.error(Error::new(code::CONFIG, message).at(at()));
                return;
            }
        }
        if let (Some(validate), false) = (self.validate_sink, sink.is_table())
            && let Err(error) = validate(&sink.connector, &Json::Object(sink.options.clone()))
        {
            let message =
                format!("sink \"{}\" of model \"{model}\": {}", sink.connector, error.message());
            let mut named = Error::new(error.code(), message).at(at());
            if let Some(hint) = error.hint_text() {
                named = named.hint(hint.to_owned());
            }
            self.findings.error(named);
        }
    }
}
