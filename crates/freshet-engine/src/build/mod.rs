//! Building one node: plan, execute, stage, check, publish, load.
//!
//! A build is one attempt as the orchestrator sees it. Within it, execution starts again without a
//! file as often as a file turns out to be broken after some of its rows were read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use freshet_core::contract::{Evolution, SchemaDiff};
use freshet_core::error::code;
use freshet_core::source::{SplitReport, SplitStatus};
use freshet_core::{EdgeCounts, Error, Location, Result, SourceId, crash};
use freshet_project::{EmptyFiles, IncrementalStrategy, Materialized, Node};
use futures::future::BoxFuture;

use crate::dead_letters::Letters;
use crate::engine::Engine;
use crate::intent::{self, Intent};
use crate::lake::{Snapshot, StagedChange, TableName};
use crate::publish;
use crate::relations::{self, Inputs, table_of};
use crate::report::{
    BuildObserver, BuildReport, BuildTask, CheckReport, CheckStatus, DeadLetter, ErrorReport,
    FileReport, ModelProgress,
};
use crate::{splits, store};

mod audit;
mod execute;
mod load;
mod microbatch;
mod quarantine;
mod seed;
mod shape;
mod within;

pub(crate) use audit::{Subject, run_checks};
pub(crate) use shape::shape as shaped;

/// A temporary file that nobody has written to for so long was left by a process that was killed.
const LEFT_BEHIND: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// Why a build failed, and what it had done by then.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// What is known of the build: files, edges, checks, the staged version.
    pub report: Option<Box<BuildReport>>,
}

/// One build under way.
struct Build<'a> {
    engine: &'a Engine,
    task: &'a BuildTask,
    node: &'a Node,
    table: TableName,
    observer: Arc<dyn BuildObserver>,
    report: BuildReport,
    /// What checks found that take rows out, before they did.
    taken_out: Vec<CheckReport>,
    began: Instant,
    phase: &'static str,
}

/// A result that is written, with the account of what it was made from.
struct Executed {
    change: StagedChange,
    /// Reports of each source's splits, those that were set aside included.
    sources: BTreeMap<SourceId, Vec<SplitReport>>,
    progress: ModelProgress,
    quarantined: Vec<DeadLetter>,
    schema_diffs: Vec<SchemaDiff>,
    /// What the data needs beyond its contracts.
    evolved: BTreeMap<SourceId, Evolution>,
}

impl Engine {
    /// Builds one node. On an error nothing is published, unless the intent was durable already:
    /// then [`Engine::recover`] finishes it.
    pub fn build<'a>(
        &'a self,
        task: &'a BuildTask,
        observer: Arc<dyn BuildObserver>,
    ) -> BoxFuture<'a, std::result::Result<BuildReport, Failure>> {
        Box::pin(async move {
            let before = |error| Failure { error, report: None };
            let node = self.node(&task.model).map_err(before)?;
            let table = table_of(self.project(), node);
            let settled = match self.settled_progress(node, &table, task).await.map_err(before)? {
                Some(progress) => &BuildTask { progress, ..task.clone() },
                None => task,
            };
            let mut build = Build {
                engine: self,
                task: settled,
                node,
                table,
                observer,
                report: empty_report(node, settled),
                taken_out: Vec::new(),
                began: Instant::now(),
                phase: "plan",
            };
            match build.run().await {
                Ok(()) => {
                    build.end_phase();
                    Ok(build.report)
                }
                Err(error) => {
                    build.end_phase();
                    // Of what its SQL came to, the model's file is the place.
                    let error = match error.code() {
                        code::SQL | code::EXECUTION => {
                            error.at(Location::file(node.path.display().to_string()))
                        }
                        _ => error,
                    };
                    Err(Failure { error, report: Some(Box::new(build.report)) })
                }
            }
        })
    }

    /// How far a table has come by its own log, where the task says otherwise. The caller's index
    /// may be older: a process can die between a commit and the index, and a power cut can take
    /// the index back. An intent that an earlier attempt left behind is finished first.
    async fn settled_progress(
        &self,
        node: &Node,
        table: &TableName,
        task: &BuildTask,
    ) -> Result<Option<ModelProgress>> {
        if matches!(node.config.materialized, Materialized::View | Materialized::Ephemeral) {
            return Ok(None);
        }
        publish::recover_table(self.lake(), &self.dead_letter_lock, table).await?;
        match publish::held(self.lake(), table).await? {
            number if number == task.progress.number => Ok(None),
            0 => Ok(Some(ModelProgress::default())),
            number => {
                let intent = intent::read(self.lake().store(), table, number).await?;
                Ok(Some(intent.report.progress))
            }
        }
    }

    /// Finishes what earlier processes began, one of which may have been `killed`.
    pub fn recover<'a>(&'a self, killed: bool) -> BoxFuture<'a, Result<Vec<publish::Recovered>>> {
        Box::pin(async move {
            let recovered = publish::recover(self.lake(), &self.dead_letter_lock, killed).await?;
            if killed {
                let before = self.clock().now() - LEFT_BEHIND;
                // They are in nobody's way: no reason not to run.
                if let Err(error) = store::sweep(self.lake().url(), before).await {
                    tracing::warn!(error = %error.chain(), "could not remove temporary files");
                }
            }
            Ok(recovered)
        })
    }

    /// Every intent that counts, ordered by time.
    pub fn intents<'a>(&'a self) -> BoxFuture<'a, Result<Vec<Intent>>> {
        Box::pin(async move {
            let lake = self.lake();
            let mut counted = Vec::new();
            for table in intent::tables(lake.store()).await? {
                let Some(snapshot) = lake.load(&table, None).await? else { continue };
                let held = lake.last_transaction(&snapshot, intent::APP).await?;
                let listed = intent::list(lake.store(), &table).await?;
                for number in listed.numbers.into_iter().filter(|number| *number <= held) {
                    counted.push(intent::read(lake.store(), &table, number).await?);
                }
            }
            counted.sort_by_key(|intent| (intent.at, intent.number));
            Ok(counted)
        })
    }
}

fn empty_report(node: &Node, task: &BuildTask) -> BuildReport {
    let materialized = match node.config.materialized {
        Materialized::View => "view",
        Materialized::Table => "table",
        Materialized::Incremental => "incremental",
        Materialized::Ephemeral => "ephemeral",
        Materialized::Seed => "seed",
        Materialized::Stream => "stream",
    };
    BuildReport {
        progress: task.progress.clone(),
        ..BuildReport::of(node.id.clone(), materialized)
    }
}

impl Build<'_> {
    async fn run(&mut self) -> Result<()> {
        self.observer.phase(&self.node.id, self.phase);
        match self.node.config.materialized {
            Materialized::View | Materialized::Ephemeral => self.query().await,
            Materialized::Table | Materialized::Incremental | Materialized::Seed => {
                self.table().await
            }
            Materialized::Stream => {
                Err(Error::new(code::ARGUMENTS, format!("model \"{}\" is a stream", self.node.id))
                    .at(Location::file(self.node.path.display().to_string()))
                    .hint("`freshet up` runs streaming models"))
            }
        }
    }

    fn enter(&mut self, phase: &'static str) {
        self.end_phase();
        self.phase = phase;
        self.began = Instant::now();
        self.observer.phase(&self.node.id, phase);
    }

    fn end_phase(&mut self) {
        *self.report.seconds.entry(self.phase.to_owned()).or_default() +=
            self.began.elapsed().as_secs_f64();
    }

    /// A view or ephemeral model: nothing is kept, but it must plan, and its checks must hold.
    async fn query(&mut self) -> Result<()> {
        let context = self.engine.query_context()?;
        let inputs = relations::register_named(
            self.engine,
            &context,
            std::slice::from_ref(&self.node.id),
            &[],
            &Default::default(),
        )
        .await?;
        self.enter("check");
        self.audit_query(&context).await?;
        drop(inputs);
        Ok(())
    }

    /// A node that is kept as a table.
    async fn table(&mut self) -> Result<()> {
        let base = self.engine.lake().load(&self.table, None).await?;
        let incremental = self.is_incremental(base.as_ref());
        self.report.incremental = incremental;
        let Some(executed) = self.execute(base.as_ref(), incremental).await? else {
            self.report.rows_total = base.as_ref().and_then(Snapshot::rows);
            self.report.version = None;
            self.enter("load");
            // A process may have been killed right after its commit.
            self.export().await?;
            return self.load_pending().await;
        };
        crash::point("publish.executed");
        crash::point("publish.staged");
        let published = self.audit_and_publish(executed, incremental).await;
        if let Err(Unpublished { error, change }) = published {
            // A failed check keeps the staged files for inspection; anything else takes them away.
            if error.code() == code::CHECK_FAILED {
                self.report.staged = Some(format!(
                    "{}{}/{}",
                    self.engine.lake().url(),
                    change.table.schema,
                    change.table.name
                ));
            } else if self.report.number.is_none() {
                self.engine.lake().discard(&change).await?;
            }
            return Err(error);
        }
        self.enter("load");
        self.export().await?;
        self.load_pending().await
    }

    fn is_incremental(&self, base: Option<&Snapshot>) -> bool {
        let full_refresh = match self.node.config.full_refresh {
            Some(decided) => decided,
            None => self.task.full_refresh,
        };
        self.node.config.materialized == Materialized::Incremental
            && base.is_some()
            && self.task.progress.number > 0
            && !full_refresh
    }

    async fn audit_and_publish(
        &mut self,
        executed: Executed,
        incremental: bool,
    ) -> std::result::Result<(), Unpublished> {
        let change = executed.change.clone();
        self.decide(executed, incremental)
            .await
            .map_err(|error| Unpublished { error, change: Box::new(change) })
    }

    async fn decide(&mut self, executed: Executed, incremental: bool) -> Result<()> {
        self.account(&executed)?;
        let letters = self.letters(executed.sources, executed.quarantined, incremental);
        self.report.dead_letters = letters.counts();
        self.enter("check");
        self.audit(&executed.change).await?;
        crash::point("publish.checked");
        // Before the table can hold such values, and not for a result that its checks refuse.
        for (source, evolution) in &executed.evolved {
            self.engine.keep_evolution(source, evolution).await?;
        }
        self.enter("publish");
        let lake = self.engine.lake();
        let number = publish::next_number(lake, &self.table).await?;
        let now = self.engine.clock().now();
        let staged_letters =
            publish::stage_dead_letters(lake, letters, &self.task.run, &self.node.id, now).await?;
        let mut progress = executed.progress;
        progress.number = number;
        self.report.progress = progress;
        self.report.rows_written = executed.change.counts.rows_in;
        self.report.rows_total = executed.change.rows_total;
        self.report.number = Some(number);
        let intent = Intent::new(
            self.node.id.clone(),
            number,
            self.task.run.clone(),
            now,
            executed.change,
            staged_letters,
            !incremental,
            self.report.clone(),
        );
        let version = publish::publish(lake, &self.engine.dead_letter_lock, &intent).await?;
        self.report.version = Some(version);
        Ok(())
    }

    /// The bad records that are to be kept. A microbatch reads consumed files again; the letters
    /// of those are kept already.
    fn letters(
        &self,
        sources: BTreeMap<SourceId, Vec<SplitReport>>,
        quarantined: Vec<DeadLetter>,
        incremental: bool,
    ) -> Letters {
        let rereads = incremental && self.node.config.strategy() == IncrementalStrategy::Microbatch;
        let is_kept_already = |source: &SourceId, report: &SplitReport| {
            let before = self.task.progress.consumed.get(source);
            before.and_then(|consumed| consumed.get(&report.split.id)).is_some_and(|old| {
                old.split.version == report.split.version && old.corrections >= report.corrections
            })
        };
        let read = sources
            .into_iter()
            .map(|(source, mut reports)| {
                reports.retain(|report| !(rereads && is_kept_already(&source, report)));
                (source, reports)
            })
            .collect();
        Letters { read, quarantined }
    }

    /// Enters files and edges into the report.
    fn account(&mut self, executed: &Executed) -> Result<()> {
        for (source, reports) in &executed.sources {
            let mut edge = EdgeCounts::default();
            for report in reports {
                self.file(source, report)?;
                if report.status != SplitStatus::Read {
                    continue;
                }
                edge.rows_in += report.records;
                edge.rows_out += report.good;
                edge.filtered += report.dropped;
                edge.dead += report.rejects.len() as u64;
            }
            if !edge.balances() {
                return Err(Error::internal(format!(
                    "the rows of source \"{source}\" do not add up: {edge:?}"
                )));
            }
            self.report.edges.insert(format!("decode:{source}"), edge);
        }
        let counts = executed.change.counts;
        self.report.edges.insert(
            "store".into(),
            EdgeCounts { rows_in: counts.rows_in, rows_out: counts.rows_in, dead: 0, filtered: 0 },
        );
        let outside = self.report.edges.get("batch").map_or(0, |edge| edge.filtered);
        if outside > 0 {
            self.report.warnings.push(format!(
                "{outside} rows were left out because they lie outside of the batch whose query gave them: filter what the model reads by the batch's time, or set `event_time` on it"
            ));
        }
        self.report.schema_diffs.extend(executed.schema_diffs.iter().cloned());
        if !executed.change.schema_changes.is_empty() {
            let changes = executed.change.schema_changes.clone();
            self.report.schema_diffs.push(SchemaDiff { file: None, changes });
        }
        Ok(())
    }

    fn file(&mut self, source: &SourceId, report: &SplitReport) -> Result<()> {
        let table = self.engine.source_table(source)?;
        if report.status == SplitStatus::Empty && table.empty_files == EmptyFiles::Allow {
            return Ok(());
        }
        self.report.files.push(FileReport {
            source: source.clone(),
            file: report.split.id.clone(),
            status: report.status,
            records: report.records,
            good: report.good,
            dead: report.rejects.len() as u64,
            bytes: report.split.size.unwrap_or(0),
            error: report.error.as_deref().map(ErrorReport::from),
        });
        Ok(())
    }

    /// What the table holds after this build.
    fn progress_after(
        &self,
        inputs: &Inputs,
        reports: &BTreeMap<SourceId, Vec<SplitReport>>,
        incremental: bool,
    ) -> ModelProgress {
        let nothing = BTreeMap::new();
        let mut progress = ModelProgress {
            number: self.task.progress.number,
            inputs: inputs.versions.clone(),
            consumed: if incremental {
                self.task.progress.consumed.clone()
            } else {
                BTreeMap::new()
            },
        };
        for (source, splits) in reports {
            let before = self.task.progress.consumed.get(source).unwrap_or(&nothing);
            let after = splits::consume(before, splits, incremental);
            progress.consumed.insert(source.clone(), after);
        }
        progress
    }

    fn failed_checks(&self) -> Vec<&str> {
        self.report
            .checks
            .iter()
            .filter(|check| matches!(check.status, CheckStatus::Fail | CheckStatus::Error))
            .map(|check| check.name.as_str())
            .collect()
    }
}

/// A result that was staged and is not published.
struct Unpublished {
    error: Error,
    change: Box<StagedChange>,
}

/// What earlier attempts of a build found out about its sources.
#[derive(Debug, Clone, Default)]
struct Findings {
    /// Splits that were set aside after some of their rows were read.
    aside: BTreeSet<(SourceId, String)>,
    /// What the data needs beyond the contract.
    evolved: BTreeMap<SourceId, Evolution>,
}
