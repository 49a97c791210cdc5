//! Log lines on standard error.

use std::io::{self, Write};

use freshet_core::error::code;
use freshet_core::{Error, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::LogFormat;
use crate::progress;
use crate::ui::Ui;

/// Starts logging. `level` is a level or directives.
pub fn start(format: LogFormat, level: Option<&str>, ui: &Ui) -> Result<()> {
    let from_env = std::env::var("FRESHET_LOG").ok().filter(|level| !level.is_empty());
    let level = level.or(from_env.as_deref()).unwrap_or(match format {
        // Attempts that fail are in the progress and in the report; programs read them here.
        LogFormat::Text => "warn,freshet_orchestrator::executor=error",
        LogFormat::Json => "warn",
    });
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Error::new(code::ARGUMENTS, format!("\"{level}\" is no log level"))
            .caused_by(error)
            .hint("levels are error, warn, info, debug and trace; directives look like warn,freshet_engine=debug")
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AroundBars)
        .with_ansi(ui.err.0);
    // A second subscriber can only come from a test in the same process; the first one stays.
    let _ = match format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(true).try_init(),
    };
    Ok(())
}

/// Writes each line while no progress bar is drawn.
#[derive(Debug, Clone, Copy)]
struct AroundBars;

impl Write for AroundBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::suspend(|| io::stderr().lock().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for AroundBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
