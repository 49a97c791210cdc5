//! `freshet run`: builds what is selected, shows how it goes and what became of every row.

use std::io::Write;
use std::sync::Arc;

use freshet_core::Result;
use freshet_core::source::Interval;
use freshet_orchestrator::{RunContext, RunOptions, RunReport};
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, Place};
use crate::cli::{RunArgs, SelectArgs};
use crate::demo;
use crate::exit::CommandResult;
use crate::progress;
use crate::report::{run_outcome, write_summary};
use crate::ui::Ui;

/// What a run is asked for, whoever asks.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// Which nodes.
    pub nodes: SelectArgs,
    /// Build incremental models anew.
    pub full_refresh: bool,
    /// Compute this span again.
    pub interval: Option<Interval>,
    /// Start nothing more after the first failure.
    pub fail_fast: bool,
    /// Models at once.
    pub threads: Option<usize>,
}

/// Runs what the command line asks for.
pub fn run(args: &RunArgs, place: &Place, ui: &Ui) -> CommandResult {
    let place = Place { threads: args.threads, ..place.clone() };
    let request = RunRequest {
        nodes: args.nodes.clone(),
        full_refresh: args.full_refresh,
        interval: args.interval,
        fail_fast: args.fail_fast,
        threads: args.threads,
    };
    let app = place.open()?;
    app.warn(ui);
    demo::make_missing(&app.project, ui)?;
    app::runtime(args.threads)?.block_on(run_and_report(&app, &request, ui))
}

/// Runs `request` and prints the summary.
pub async fn run_and_report(app: &App, request: &RunRequest, ui: &Ui) -> CommandResult {
    let report = execute(app, request, ui).await?;
    if !ui.json && !ui.quiet {
        let mut out = std::io::stdout().lock();
        let written = write_summary(&mut out, &report, ui).and_then(|()| out.flush());
        // A reader that went away (`| head`) changes nothing about how the run ended.
        match written {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(error.into());
            }
            _ => {}
        }
    } else if ui.quiet && !ui.json {
        for error in report.tasks.iter().filter_map(|task| task.error.as_ref()) {
            crate::errors::write_report(&mut std::io::stderr().lock(), error, "", ui.err)?;
        }
    }
    run_outcome(&report)
}

async fn execute(app: &App, request: &RunRequest, ui: &Ui) -> Result<RunReport> {
    let store = app.meta().await?;
    let options = RunOptions {
        select: request.nodes.select.clone(),
        exclude: request.nodes.exclude.clone(),
        full_refresh: request.full_refresh,
        interval: request.interval,
        fail_fast: request.fail_fast,
        threads: request.threads,
        command: command_line(std::env::args()),
    };
    let cancel = CancellationToken::new();
    let stopper = tokio::spawn(cancel_on_signal(cancel.clone()));
    let report = freshet_orchestrator::run(
        Arc::clone(&app.project),
        Arc::clone(&app.engine) as Arc<dyn freshet_orchestrator::Builder>,
        &store,
        &options,
        progress::observer(ui),
        RunContext::system(cancel),
    )
    .await;
    stopper.abort();
    let report = report?;
    store.close().await;
    Ok(report)
}

/// The first signal ends the run in order, the second at once.
async fn cancel_on_signal(cancel: CancellationToken) {
    wait_for_signal().await;
    cancel.cancel();
    progress::suspend(|| {
        // Who cannot read this can still send the second signal.
        let _ = writeln!(
            std::io::stderr(),
            "stopping: what is being published is finished first; once more ends at once"
        );
    });
    wait_for_signal().await;
    std::process::exit(130);
}

pub(super) async fn wait_for_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Signals cannot be had: the default of the system ends the process.
        std::future::pending::<()>().await;
    }
}

/// The command line for the record. Values of variables and corrected records are left out: they
/// may be nobody's business.
fn command_line(args: impl IntoIterator<Item = String>) -> String {
    let mut words = vec!["freshet".to_owned()];
    let mut hide_next = false;
    for word in args.into_iter().skip(1) {
        let hidden = |word: &str| match word.split_once('=') {
            Some((name, _)) => format!("{name}=***"),
            None => "***".to_owned(),
        };
        if std::mem::take(&mut hide_next) {
            words.push(hidden(&word));
        } else if word == "--vars" || word == "--record" {
            hide_next = true;
            words.push(word);
        } else if let Some(value) = word.strip_prefix("--vars=") {
            words.push(format!("--vars={}", hidden(value)));
        } else if word.starts_with("--record=") {
            words.push("--record=***".to_owned());
        } else if word.is_empty() || word.contains([' ', '\'', '"', '$', '*', '|']) {
            words.push(format!("'{}'", word.replace('\'', "'\\''")));
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_command_lines_hold_no_values_of_variables() {
        let line = |words: &[&str]| command_line(words.iter().map(ToString::to_string));
        assert_eq!(
            line(&["/usr/bin/freshet", "run", "my project", "--vars", "key=s3cret", "--vars=a=b"]),
            "freshet run 'my project' --vars key=*** --vars=a=***"
        );
        assert_eq!(
            line(&["freshet", "dlq", "replay", "--id", "1:2", "--record", "1,Ann,secret"]),
            "freshet dlq replay --id 1:2 --record ***"
        );
    }
}
