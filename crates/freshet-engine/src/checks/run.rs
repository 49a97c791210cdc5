//! Evaluation of rules and what their figures mean.

use arrow::array::{Array, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_project::{Check, OnFail, Threshold};
use futures::TryStreamExt;

use super::compile::{Answer, Query, Shape, bind, compile_some, sample_query};
use super::rule::{Figure, Kind};
use super::{CheckEnv, Rule, When, sql, unevaluated};
use crate::report::{CheckReport, CheckStatus};

/// Characters of a value that a sample shows.
const SAMPLE_CHARACTERS: usize = 200;

/// One row of a sample: column names and values.
type SampleRow = Vec<(String, Option<String>)>;

/// What a rule came to, before its thresholds are applied.
#[derive(Debug, Default)]
struct Found {
    rows: u64,
    failures: u64,
    /// A figure as text and, where it is one, as a number.
    text: Option<String>,
    value: Option<f64>,
    /// What a person is told in place of the rule's own words.
    note: Option<String>,
    sample: Vec<SampleRow>,
}

pub(super) async fn run(
    ctx: &SessionContext,
    table: &TableReference,
    rules: &[Rule],
    env: &CheckEnv,
) -> Result<Vec<CheckReport>> {
    // A test that is a query of its own has no table.
    let schema = if rules.iter().all(|rule| rule.check.raw_sql.is_some()) {
        Schema::empty()
    } else {
        let frame = ctx
            .table(table.clone())
            .await
            .or_code(code::EXECUTION, || format!("could not find table \"{table}\" to check it"))?;
        frame.schema().as_arrow().clone()
    };
    let mut results: Vec<Option<Result<Found>>> = rules.iter().map(|_| None).collect();
    let (plan, errors) = compile_some(rules.iter().enumerate(), table, &schema, env);
    for (index, error) in errors {
        results[index] = Some(Err(error));
    }
    for query in &plan.queries {
        match evaluate(ctx, query, rules, env).await {
            Ok(found) => {
                for (answer, found) in query.answers.iter().zip(found) {
                    results[answer.rule] = Some(Ok(found));
                }
            }
            Err(error) if query.answers.len() == 1 => {
                results[query.answers[0].rule] = Some(Err(error));
            }
            // One of several rules cannot be evaluated: each for itself, then.
            Err(_) => {
                for answer in &query.answers {
                    let one = std::iter::once((answer.rule, &rules[answer.rule]));
                    let (alone, _) = compile_some(one, table, &schema, env);
                    for query in &alone.queries {
                        let found = evaluate(ctx, query, rules, env).await;
                        results[answer.rule] = Some(found.and_then(|mut found| {
                            found.pop().ok_or_else(|| Error::internal("a rule has no answer"))
                        }));
                    }
                }
            }
        }
    }
    let mut reports = Vec::with_capacity(rules.len());
    for (rule, result) in rules.iter().zip(results) {
        let result = result.unwrap_or_else(|| Err(Error::internal("a rule was not evaluated")));
        reports.push(match result {
            Ok(mut found) => {
                if found.failures > 0 && rule.check.limit > 0 && found.sample.is_empty() {
                    // A sample is a help and its failure no reason to lose the finding.
                    let sample = sample(ctx, rule, table, &schema, env).await;
                    found.sample = sample.unwrap_or_default();
                }
                report(rule, found, env.when)
            }
            Err(error) => unevaluated(&rule.check, &error),
        });
    }
    Ok(reports)
}

/// Runs a query and reads the answer to each of its rules.
async fn evaluate(
    ctx: &SessionContext,
    query: &Query,
    rules: &[Rule],
    env: &CheckEnv,
) -> Result<Vec<Found>> {
    if let [Answer { rule, shape: Shape::Failures, .. }] = query.answers.as_slice() {
        return Ok(vec![failing_rows(ctx, &query.sql, rules[*rule].check.limit).await?]);
    }
    let batches = collect(ctx, &query.sql).await?;
    let batch = batches
        .iter()
        .find(|batch| batch.num_rows() == 1)
        .ok_or_else(|| Error::internal("a query of checks did not give one row"))?;
    query.answers.iter().map(|answer| read(batch, answer, &rules[answer.rule], env)).collect()
}

async fn collect(ctx: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    let frame = ctx.sql(sql).await.map_err(planning)?;
    frame.collect().await.map_err(executing)
}

fn planning(error: datafusion::error::DataFusionError) -> Error {
    Error::new(code::SQL, "the check could not be planned").caused_by(error.strip_backtrace())
}

fn executing(error: datafusion::error::DataFusionError) -> Error {
    Error::new(code::EXECUTION, "the check could not be evaluated")
        .caused_by(error.strip_backtrace())
}

/// Runs a query whose rows are failures; keeps some.
async fn failing_rows(ctx: &SessionContext, sql: &str, limit: usize) -> Result<Found> {
    let frame = ctx.sql(sql).await.map_err(planning)?;
    let mut stream = frame.execute_stream().await.map_err(executing)?;
    let mut found = Found::default();
    while let Some(batch) = stream.try_next().await.map_err(executing)? {
        found.failures += batch.num_rows() as u64;
        let room = limit.saturating_sub(found.sample.len());
        found.sample.extend(as_text(&batch, room)?);
    }
    found.rows = found.failures;
    Ok(found)
}

fn read(batch: &RecordBatch, answer: &Answer, rule: &Rule, env: &CheckEnv) -> Result<Found> {
    let mut found = Found { rows: whole(batch, answer.first)?, ..Found::default() };
    match answer.shape {
        Shape::Counted => found.failures = whole(batch, answer.first + 1)?,
        Shape::Figure => {
            found.text = text(batch, answer.first + 1)?;
            found.value = double(batch, answer.first + 2)?;
            let within = boolean(batch, answer.first + 3)?;
            if let Kind::Figure { figure: Figure::Freshness(age), .. } = &rule.kind {
                let now = env.clock.now_micros() as f64 / 1e6;
                found.value = found.value.map(|latest| now - latest);
                found.failures = u64::from(within != Some(true));
                found.note = Some(freshness_note(found.text.as_deref(), *age));
            } else {
                found.failures = u64::from(within == Some(false));
            }
        }
        Shape::Rows => volume(&mut found, rule, env),
        Shape::Failures => {
            return Err(Error::internal("a query of failures has no answer in a row"));
        }
    }
    Ok(found)
}

fn freshness_note(latest: Option<&str>, age: std::time::Duration) -> String {
    match latest {
        Some(latest) => format!(
            "latest value is {latest}, allowed age is {}",
            freshet_core::config::HumanDuration(age)
        ),
        None => "there is no value".to_owned(),
    }
}

/// Compares the number of rows with the median of earlier runs.
fn volume(found: &mut Found, rule: &Rule, env: &CheckEnv) {
    let Kind::Volume { min_ratio, max_ratio, runs } = &rule.kind else { return };
    let mut earlier: Vec<u64> = env.history.iter().take(*runs).copied().collect();
    earlier.sort_unstable();
    found.value = Some(found.rows as f64);
    if earlier.is_empty() {
        found.note = Some(format!("{} rows, no earlier run to compare with", found.rows));
        return;
    }
    let middle = earlier.len() / 2;
    let median = if earlier.len().is_multiple_of(2) {
        (earlier[middle - 1] as f64 + earlier[middle] as f64) / 2.0
    } else {
        earlier[middle] as f64
    };
    let rows = found.rows as f64;
    let within = rows >= median * min_ratio && rows <= median * max_ratio;
    found.failures = u64::from(!within);
    found.note = Some(format!(
        "{} rows, median of {} earlier runs is {median}, accepted are {min_ratio} to {max_ratio} times it",
        found.rows,
        earlier.len()
    ));
}

fn column(
    batch: &RecordBatch,
    index: usize,
    data_type: &DataType,
) -> Result<arrow::array::ArrayRef> {
    let column = batch
        .columns()
        .get(index)
        .ok_or_else(|| Error::internal("an answer lies outside of its query"))?;
    cast(column, data_type)
        .or_code(code::INTERNAL, || "an answer of a check is of another type".to_owned())
}

fn whole(batch: &RecordBatch, index: usize) -> Result<u64> {
    let column = column(batch, index, &DataType::Int64)?;
    let values = column.as_any().downcast_ref::<Int64Array>();
    let value = values.filter(|values| values.is_valid(0)).map_or(0, |values| values.value(0));
    Ok(u64::try_from(value).unwrap_or(0))
}

fn double(batch: &RecordBatch, index: usize) -> Result<Option<f64>> {
    let column = column(batch, index, &DataType::Float64)?;
    let values = column.as_any().downcast_ref::<Float64Array>();
    Ok(values.filter(|values| values.is_valid(0)).map(|values| values.value(0)))
}

fn boolean(batch: &RecordBatch, index: usize) -> Result<Option<bool>> {
    let column = column(batch, index, &DataType::Boolean)?;
    let values = column.as_any().downcast_ref::<BooleanArray>();
    Ok(values.filter(|values| values.is_valid(0)).map(|values| values.value(0)))
}

fn text(batch: &RecordBatch, index: usize) -> Result<Option<String>> {
    let column = column(batch, index, &DataType::Utf8)?;
    let values = column.as_any().downcast_ref::<StringArray>();
    Ok(values.filter(|values| values.is_valid(0)).map(|values| values.value(0).to_owned()))
}

async fn sample(
    ctx: &SessionContext,
    rule: &Rule,
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> Result<Vec<SampleRow>> {
    let rule = bind(rule, schema)?;
    let Some(query) = sample_query(&rule, table, schema, env)? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for batch in collect(ctx, &query).await? {
        let room = rule.check.limit.saturating_sub(rows.len());
        rows.extend(as_text(&batch, room)?);
    }
    Ok(rows)
}

/// The first rows of a batch as text.
fn as_text(batch: &RecordBatch, limit: usize) -> Result<Vec<SampleRow>> {
    let options = FormatOptions::default().with_display_error(true);
    let schema = batch.schema();
    let columns = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<std::result::Result<Vec<_>, _>>()
        .or_code(code::INTERNAL, || "a row that fails could not be shown".to_owned())?;
    Ok((0..batch.num_rows().min(limit))
        .map(|row| {
            let names = schema.fields().iter().map(|field| field.name().clone());
            let values = batch.columns().iter().zip(&columns).map(|(column, formatter)| {
                column.is_valid(row).then(|| shortened(formatter.value(row).to_string()))
            });
            names.zip(values).collect()
        })
        .collect())
}

fn shortened(value: String) -> String {
    match value.char_indices().nth(SAMPLE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value,
    }
}

fn report(rule: &Rule, found: Found, when: When) -> CheckReport {
    let status = status(rule, found.rows, found.failures, when);
    CheckReport {
        name: rule.check.name.clone(),
        rule: rule.check.rule.clone(),
        status,
        failures: found.failures,
        rows: found.rows,
        value: found.value,
        message: format!("{}{}", message(rule, &found), remark(rule, status, when)),
        sample: found.sample,
    }
}

/// What failures mean: `mostly` first, then the thresholds in dbt's order.
///
/// With `on_fail: quarantine`, `mostly` and `error_if` bound what may be taken out: beyond them the
/// check fails, so that a wrong join never publishes an all but empty table. Where nothing can be
/// taken out (any more), a rule about rows finds rows that an earlier version published already,
/// which is a warning; two rows of one key are an error, because one of them is new.
fn status(rule: &Rule, rows: u64, failures: u64, when: When) -> CheckStatus {
    let check = &rule.check;
    let enough = check.mostly.map(|share| {
        // The share of rows that pass, in whole rows so that 95% of 100 is 95 and not 94.99…
        let needed = (share.0 * rows as f64 - 1e-9).ceil();
        rows.saturating_sub(failures) as f64 >= needed
    });
    let met = |threshold: &Option<Threshold>, default: bool| match threshold {
        Some(threshold) => holds(threshold, failures),
        None => default && failures != 0,
    };
    if check.on_fail == OnFail::Quarantine && takes_rows_out(rule) {
        return match when {
            _ if failures == 0 => CheckStatus::Pass,
            When::BeforeQuarantine if enough == Some(false) || met(&check.error_if, false) => {
                CheckStatus::Fail
            }
            When::BeforeQuarantine => CheckStatus::Quarantine,
            _ if enough == Some(true) => CheckStatus::Warn,
            When::AfterQuarantine if !matches!(rule.kind, Kind::Unique { .. }) => CheckStatus::Warn,
            _ if met(&check.error_if, true) => CheckStatus::Fail,
            _ => CheckStatus::Warn,
        };
    }
    match check.on_fail {
        _ if enough == Some(true) => CheckStatus::Pass,
        // Nothing can be taken out for a figure: the result is not published.
        OnFail::Fail | OnFail::Quarantine if met(&check.error_if, true) => CheckStatus::Fail,
        _ if met(&check.warn_if, true) => CheckStatus::Warn,
        _ => CheckStatus::Pass,
    }
}

/// What a person must know of a quarantine beside the figures.
fn remark(rule: &Rule, status: CheckStatus, when: When) -> &'static str {
    if rule.check.on_fail != OnFail::Quarantine || !takes_rows_out(rule) {
        return "";
    }
    match (when, status) {
        (When::BeforeQuarantine, CheckStatus::Fail) => {
            "; more than `mostly` or `error_if` lets a quarantine take out"
        }
        (When::AfterQuarantine, CheckStatus::Warn | CheckStatus::Fail) => {
            "; a quarantine takes out new rows only, `--full-refresh` all"
        }
        _ => "",
    }
}

/// Whether a check that takes rows out took out so many that it is to be said.
pub(super) fn warns(check: &Check, report: &CheckReport) -> bool {
    report.status == CheckStatus::Quarantine
        && check.warn_if.as_ref().is_some_and(|threshold| holds(threshold, report.failures))
}

/// Whether a rule can say which rows fail.
pub(super) fn takes_rows_out(rule: &Rule) -> bool {
    matches!(rule.kind, Kind::Row { .. } | Kind::Unique { .. } | Kind::Relationships { .. })
}

fn holds(threshold: &Threshold, failures: u64) -> bool {
    let failures = failures as f64;
    match threshold.operator.as_str() {
        ">" => failures > threshold.value,
        ">=" => failures >= threshold.value,
        "<" => failures < threshold.value,
        "<=" => failures <= threshold.value,
        "=" | "==" => failures == threshold.value,
        // `!=`, and `<>`, which some write for it.
        _ => failures != threshold.value,
    }
}

fn message(rule: &Rule, found: &Found) -> String {
    if let Some(note) = &found.note {
        return note.clone();
    }
    match &rule.kind {
        Kind::Figure { figure, column, bounds } => {
            let name = match (figure, column) {
                (Figure::Quantile(quantile), Some(column)) => {
                    format!("quantile {quantile} of column \"{column}\"")
                }
                (_, Some(column)) => format!("{} of column \"{column}\"", rule.info.name),
                (_, None) => rule.info.name.to_owned(),
            };
            match &found.text {
                None => format!("{name}: there is no value"),
                Some(value) if found.failures == 0 => format!("{name} is {value}"),
                Some(value) => format!("{name} is {value}, not {}", bounds.describe()),
            }
        }
        Kind::Query { .. } => match found.failures {
            0 => "the query gives no rows".to_owned(),
            1 => "the query gives 1 row".to_owned(),
            rows => format!("the query gives {rows} rows"),
        },
        _ if found.failures == 0 => format!("{} rows pass", found.rows),
        _ => format!("{} of {} rows: {}", found.failures, found.rows, sql::fault(rule)),
    }
}
