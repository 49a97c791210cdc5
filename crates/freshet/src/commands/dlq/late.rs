//! Late rows of streams: they counted in nothing, and lie in a table beside the dead letters.

use std::io::{self, Write};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use chrono::{DateTime, Utc};
use freshet_core::{Error, Result};
use futures::TryStreamExt;

use crate::app::App;
use crate::commands::sql::query;
use crate::exit::{CommandResult, Outcome};
use crate::format::{count, seconds};
use crate::table::{Align, Cell, Frame, Table};
use crate::ui::{Ui, printable};

/// Rows that came too late for one operator.
#[derive(Debug, PartialEq, serde::Serialize)]
pub(super) struct Group {
    model: String,
    operator: String,
    rows: i64,
    /// How far the watermark was ahead of the latest of them, in seconds.
    most_behind: f64,
    /// When the last one was seen.
    last: DateTime<Utc>,
}

/// A row that came too late.
#[derive(Debug, PartialEq, serde::Serialize)]
pub(super) struct LateRow {
    model: String,
    operator: String,
    event_time: DateTime<Utc>,
    watermark: DateTime<Utc>,
    row: serde_json::Value,
    at: DateTime<Utc>,
}

/// Counts them by model and operator.
pub(super) async fn ls(app: &App, model: Option<&str>, ui: &Ui) -> CommandResult {
    let sql = format!(
        "select model, operator, min(event_time), max(watermark), \
             max(cast(watermark as bigint) - cast(event_time as bigint)), count(*), max(at) \
         from freshet.late_rows where {} group by model, operator order by model, operator",
        condition(model)
    );
    let mut batches = query(app, &sql, None).await?.batches;
    let mut groups = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let columns = Columns::new(&batch);
        for row in 0..batch.num_rows() {
            groups.push(Group {
                model: columns.text(0, row)?,
                operator: columns.text(1, row)?,
                most_behind: columns.number(4, row)? as f64 / 1e6,
                rows: columns.number(5, row)?,
                last: columns.time(6, row)?,
            });
        }
    }
    list(&mut io::stdout().lock(), &groups, ui)?;
    Ok(Outcome::Done)
}

/// Shows them, the newest first.
pub(super) async fn show(app: &App, model: Option<&str>, limit: usize, ui: &Ui) -> CommandResult {
    let sql = format!(
        "select model, operator, event_time, watermark, \"row\", at from freshet.late_rows \
         where {} order by at desc, event_time limit {limit}",
        condition(model)
    );
    let mut batches = query(app, &sql, None).await?.batches;
    let mut rows = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let columns = Columns::new(&batch);
        for row in 0..batch.num_rows() {
            let text = columns.text(4, row)?;
            rows.push(LateRow {
                model: columns.text(0, row)?,
                operator: columns.text(1, row)?,
                event_time: columns.time(2, row)?,
                watermark: columns.time(3, row)?,
                row: serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)),
                at: columns.time(5, row)?,
            });
        }
    }
    print(&mut io::stdout().lock(), &rows, ui)?;
    Ok(Outcome::Done)
}

fn condition(model: Option<&str>) -> String {
    match model {
        Some(model) => format!("model = '{}'", model.replace('\'', "''")),
        None => "true".to_owned(),
    }
}

fn list(out: &mut dyn Write, groups: &[Group], ui: &Ui) -> io::Result<()> {
    if ui.json {
        return writeln!(out, "{}", serde_json::to_string(groups).map_err(io::Error::other)?);
    }
    if groups.is_empty() {
        return writeln!(out, "no late rows");
    }
    let columns = [
        ("model", Align::Left),
        ("late for", Align::Left),
        ("rows", Align::Right),
        ("at most behind", Align::Right),
        ("last seen", Align::Left),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for group in groups {
        table.row([
            Cell::from(printable(&group.model, false)),
            printable(&group.operator, false).into(),
            count(group.rows.unsigned_abs()).into(),
            seconds(group.most_behind).into(),
            group.last.format("%Y-%m-%d %H:%M:%S").to_string().into(),
        ]);
    }
    table.write(out, ui.width, ui.out)?;
    let next = ui.out.dim("next:");
    writeln!(out, "{next} `freshet dlq show --late --source MODEL` for the rows")
}

fn print(out: &mut dyn Write, rows: &[LateRow], ui: &Ui) -> io::Result<()> {
    for (number, row) in rows.iter().enumerate() {
        if ui.json {
            writeln!(out, "{}", serde_json::to_string(row).map_err(io::Error::other)?)?;
            continue;
        }
        if number > 0 {
            writeln!(out)?;
        }
        let behind = (row.watermark - row.event_time).num_microseconds().unwrap_or(i64::MAX);
        let (model, operator) = (printable(&row.model, false), printable(&row.operator, false));
        writeln!(out, "{}  {operator}", ui.out.cyan(&model))?;
        writeln!(
            out,
            "  {}, {} behind the watermark",
            row.event_time.format("%Y-%m-%d %H:%M:%S%.f"),
            seconds(behind as f64 / 1e6)
        )?;
        writeln!(out, "  {} {}", ui.out.dim("|"), printable(&row.row.to_string(), false))?;
    }
    if rows.is_empty() && !ui.json {
        writeln!(out, "no late rows")?;
    }
    Ok(())
}

/// The columns of a result.
struct Columns<'a>(&'a RecordBatch);

impl<'a> Columns<'a> {
    fn new(batch: &'a RecordBatch) -> Self {
        Self(batch)
    }

    fn cast(&self, column: usize, to: &DataType) -> Result<ArrayRef> {
        cast(self.0.column(column), to)
            .map_err(|error| Error::internal("the table of late rows is damaged").caused_by(error))
    }

    fn text(&self, column: usize, row: usize) -> Result<String> {
        let texts = self.cast(column, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        Ok(if texts.is_null(row) { String::new() } else { texts.value(row).to_owned() })
    }

    fn number(&self, column: usize, row: usize) -> Result<i64> {
        let numbers = self.cast(column, &DataType::Int64)?;
        Ok(numbers.as_primitive::<arrow::datatypes::Int64Type>().value(row))
    }

    fn time(&self, column: usize, row: usize) -> Result<DateTime<Utc>> {
        let micros = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
        let times = self.cast(column, &micros)?;
        let time = times.as_primitive::<TimestampMicrosecondType>().value(row);
        Ok(DateTime::from_timestamp_micros(time).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::plain_ui;

    fn time(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + second, 0).expect("a time")
    }

    fn text(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("memory takes everything");
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn late_rows_show_how_late_they_were() {
        let row = LateRow {
            model: "per_minute".into(),
            operator: "tumble window by city".into(),
            event_time: time(0),
            watermark: time(75),
            row: serde_json::json!({ "city": "Lyon" }),
            at: time(80),
        };
        assert_eq!(
            text(|out| print(out, &[row], &plain_ui())),
            "per_minute  tumble window by city\n  \
               2026-09-21 14:13:20, 1m 15s behind the watermark\n  \
               | {\"city\":\"Lyon\"}\n"
        );
        assert_eq!(text(|out| print(out, &[], &plain_ui())), "no late rows\n");
    }
}
