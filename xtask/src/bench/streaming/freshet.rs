//! Freshet: a project for each query, and `freshet up` on it until its sources have ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Run, cpu_seconds};
use crate::bench::measure::wait_for;
use crate::bench::{copy_folder, remove};
use crate::{paths, sh};

/// A project that can be run.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
}

impl Project {
    /// A copy of a project of `bench/streaming` in `folder`, with this broker, these topics by the
    /// variables that name them, and this sink; without one, rows go into the project's lake.
    pub fn copy(
        template: &str,
        folder: PathBuf,
        broker: &str,
        topics: &[(String, String)],
        sink: Option<&Value>,
    ) -> Result<Self> {
        remove(&folder)?;
        copy_folder(&paths::root().join("bench/streaming").join(template), &folder)?;
        let mut queries = json!({ "+materialized": "stream" });
        if let Some(sink) = sink {
            queries["+sinks"] = json!([sink]);
        }
        let vars: serde_json::Map<_, _> =
            topics.iter().map(|(name, topic)| (name.clone(), topic.as_str().into())).collect();
        let project = json!({
            "name": "bench",
            "vars": vars,
            "connections": { "broker": { "connector": "kafka", "brokers": broker } },
            "models": { "views": { "+materialized": "ephemeral" }, "queries": queries },
        });
        // JSON is YAML.
        fs::write(folder.join("freshet.yml"), serde_json::to_string_pretty(&project)?)?;
        Ok(Self { folder })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a query of it from an empty state to its end.
    pub fn run(&self, query: &str, binary: &Path, threads: usize, log: &Path) -> Result<Run> {
        remove(&self.folder.join(".freshet"))?;
        let mut command = Command::new(binary);
        command.arg("--json").arg("up").arg(&self.folder).args(["--select", query]);
        command.args(["--threads", &threads.to_string()]);
        command.args(["--checkpoint-interval", "1s", "--commit-interval", "1s"]);
        let text = sh::show(&command);
        let errors = fs::File::create(log)?;
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("could not start `{text}`"))?;
        let lines = BufReader::new(child.stdout.take().context("the output is piped")?);
        // Start-up, planning and all, is apart: what is measured is the job.
        let mut running: Option<(Instant, f64)> = None;
        let mut ended = None;
        let mut rows = None;
        for line in lines.lines() {
            let line: Value = serde_json::from_str(&line?).unwrap_or_default();
            match &line["state"] {
                Value::String(state) if state == "running" && running.is_none() => {
                    running = Some((Instant::now(), cpu_seconds(child.id())?));
                }
                Value::String(state) if state == "ended" => ended = Some(Instant::now()),
                Value::Object(figures) => {
                    rows = figures.get("rows").and_then(Value::as_u64).or(rows);
                }
                _ => {}
            }
        }
        let usage = wait_for(child.id(), &text, log)?;
        let (Some((running, cpu)), Some(ended)) = (running, ended) else {
            bail!("`{text}` did not say when it ran and when it ended");
        };
        Ok(Run {
            seconds: (ended - running).as_secs_f64(),
            startup: Some((running - begun).as_secs_f64()),
            cpu_seconds: usage.cpu_seconds - cpu,
            peak_mib: usage.peak_mib,
            rows,
            ..Run::default()
        })
    }
}
