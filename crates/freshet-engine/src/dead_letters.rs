//! The dead-letter table: `_freshet/dead_letters` in the lake, a Delta table like any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Int64Builder, RecordBatch, StringViewBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, Utc};
use freshet_core::source::{ContentDigest, SplitReport, SplitStatus};
use freshet_core::{Error, ModelId, Reject, Result, RunId, SourceId};

use crate::lake::TableName;
use crate::report::DeadLetter;
use crate::session::BATCH_ROWS;

/// Characters of a content's digest in an id.
const DIGEST_IN_ID: usize = 12;

/// The table's place.
pub fn table() -> TableName {
    TableName::new("_freshet", "dead_letters")
}

/// The table's columns.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    Arc::new(Schema::new(vec![
        text("id"),
        text("run"),
        text("model"),
        text("source"),
        text("file"),
        text("digest"),
        Field::new("size", DataType::Int64, true),
        Field::new("line", DataType::Int64, true),
        Field::new("offset", DataType::Int64, true),
        text("column"),
        text("rule"),
        text("message"),
        Field::new("raw", DataType::Binary, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]))
}

/// Dead letters of a build that are not written yet. Bad records stay as the scan gave them until
/// they are written, batch by batch: as rows they would take several times the memory.
#[derive(Debug, Default)]
pub struct Letters {
    /// What was read of each source; splits that were set aside give no letters, as they are read
    /// again whole once they are mended.
    pub read: Vec<(SourceId, Vec<SplitReport>)>,
    /// Rows that checks took out.
    pub quarantined: Vec<DeadLetter>,
}

impl Letters {
    /// How many there are.
    pub fn len(&self) -> usize {
        let read = self.read.iter().flat_map(|(_, reports)| reports).filter(|r| is_kept(r));
        read.map(|report| report.rejects.len()).sum::<usize>() + self.quarantined.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are by source and rule.
    pub fn counts(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (source, reports) in &self.read {
            for reject in reports.iter().filter(|r| is_kept(r)).flat_map(|r| &r.rejects) {
                let rules = counts.entry(source.to_string()).or_default();
                *rules.entry(reject.rule.as_str().to_owned()).or_default() += 1;
            }
        }
        for letter in &self.quarantined {
            let rules = counts.entry(letter.source.clone()).or_default();
            *rules.entry(letter.rule.clone()).or_default() += 1;
        }
        counts
    }

    /// The letters as batches of [`schema`], made one after another.
    pub fn into_batches(
        self,
        run: RunId,
        model: ModelId,
        at: DateTime<Utc>,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let read = self.read.into_iter().flat_map(move |(source, reports)| {
            let (run, model) = (run.clone(), model.clone());
            reports.into_iter().filter(is_kept).flat_map(move |mut report| {
                let rejects = std::mem::take(&mut report.rejects);
                let (run, model, source) = (run.clone(), model.clone(), source.clone());
                chunks(rejects).map(move |rejects| {
                    let letters: Vec<DeadLetter> = rejects
                        .into_iter()
                        .map(|reject| letter(&run, &model, &source, &report, reject, at))
                        .collect();
                    to_batch(&letters)
                })
            })
        });
        read.chain(chunks(self.quarantined).map(|letters| to_batch(&letters)))
    }
}

fn is_kept(report: &SplitReport) -> bool {
    report.status == SplitStatus::Read
}

/// Cuts a vector into vectors of a batch's size, giving memory back as it goes.
fn chunks<T: Send>(mut items: Vec<T>) -> impl Iterator<Item = Vec<T>> + Send {
    items.reverse();
    std::iter::from_fn(move || {
        let rest = items.len().saturating_sub(BATCH_ROWS);
        let mut chunk = items.split_off(rest);
        items.shrink_to_fit();
        chunk.reverse();
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn letter(
    run: &RunId,
    model: &ModelId,
    source: &SourceId,
    report: &SplitReport,
    reject: Reject,
    at: DateTime<Utc>,
) -> DeadLetter {
    DeadLetter {
        id: id(report.digest.as_ref(), &report.split.id, reject.offset),
        run: run.clone(),
        model: model.clone(),
        source: source.to_string(),
        file: Some(report.split.id.clone()),
        digest: report.digest.clone(),
        size: report.split.size,
        line: Some(reject.line),
        offset: Some(reject.offset),
        column: reject.column,
        rule: reject.rule.as_str().to_owned(),
        message: reject.message.into_owned(),
        raw: reject.raw.into_vec(),
        at,
    }
}

/// The id of a record: the same however often and from wherever its content is read.
pub fn id(digest: Option<&ContentDigest>, file: &str, offset: u64) -> String {
    match digest {
        Some(digest) => {
            let short: String = digest.0.chars().take(DIGEST_IN_ID).collect();
            format!("{short}:{offset}")
        }
        None => format!("{file}:{offset}"),
    }
}

/// The id of a stream's record: the same whichever job reads it, and however often.
pub fn stream_id(source: &SourceId, partition: &str, position: u64) -> String {
    let place = format!("{source}:{partition}:{position}");
    blake3::hash(place.as_bytes()).to_hex()[..16].to_owned()
}

/// The letters as one batch of [`schema`].
pub fn to_batch(letters: &[DeadLetter]) -> Result<RecordBatch> {
    let text = |get: &dyn Fn(&DeadLetter) -> Option<&str>| -> ArrayRef {
        let mut builder = StringViewBuilder::with_capacity(letters.len());
        for letter in letters {
            builder.append_option(get(letter));
        }
        Arc::new(builder.finish())
    };
    let number = |get: &dyn Fn(&DeadLetter) -> Option<u64>| -> ArrayRef {
        let mut builder = Int64Builder::with_capacity(letters.len());
        for letter in letters {
            builder.append_option(get(letter).and_then(|number| i64::try_from(number).ok()));
        }
        Arc::new(builder.finish())
    };
    let mut raw = BinaryBuilder::new();
    for letter in letters {
        raw.append_value(&letter.raw);
    }
    let at: TimestampMicrosecondArray =
        letters.iter().map(|letter| Some(letter.at.timestamp_micros())).collect();
    let columns: Vec<ArrayRef> = vec![
        text(&|letter| Some(&letter.id)),
        text(&|letter| Some(letter.run.as_str())),
        text(&|letter| Some(letter.model.as_str())),
        text(&|letter| Some(&letter.source)),
        text(&|letter| letter.file.as_deref()),
        text(&|letter| letter.digest.as_ref().map(|digest| digest.0.as_str())),
        number(&|letter| letter.size),
        number(&|letter| letter.line),
        number(&|letter| letter.offset),
        text(&|letter| letter.column.as_deref()),
        text(&|letter| Some(&letter.rule)),
        text(&|letter| Some(&letter.message)),
        Arc::new(raw.finish()),
        Arc::new(at.with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema(), columns)
        .map_err(|error| Error::internal("could not make a batch of dead letters").caused_by(error))
}

/// The letters in a batch of [`schema`].
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<DeadLetter>> {
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| {
            Error::internal(format!("the table of dead letters has no column \"{name}\""))
        })
    };
    let text = |name: &str| -> Result<Vec<Option<String>>> {
        let array = arrow::compute::cast(column(name)?, &DataType::Utf8)
            .map_err(|error| Error::internal("a dead letter is not text").caused_by(error))?;
        Ok(array.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect())
    };
    let number = |name: &str| -> Result<Vec<Option<u64>>> {
        let array = arrow::compute::cast(column(name)?, &DataType::Int64).map_err(|error| {
            Error::internal("a dead letter's place is no number").caused_by(error)
        })?;
        let array = array.as_primitive::<Int64Type>();
        Ok(array.iter().map(|value| value.and_then(|value| u64::try_from(value).ok())).collect())
    };
    let raw = arrow::compute::cast(column("raw")?, &DataType::Binary)
        .map_err(|error| Error::internal("a dead letter's bytes are none").caused_by(error))?;
    let raw = raw.as_binary::<i32>();
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let at = arrow::compute::cast(column("at")?, &micros)
        .map_err(|error| Error::internal("a dead letter's time is none").caused_by(error))?;
    let at = at.as_primitive::<TimestampMicrosecondType>();
    let (ids, runs, models) = (text("id")?, text("run")?, text("model")?);
    let (sources, files, digests) = (text("source")?, text("file")?, text("digest")?);
    let (columns, rules, messages) = (text("column")?, text("rule")?, text("message")?);
    let (sizes, lines, offsets) = (number("size")?, number("line")?, number("offset")?);
    Ok((0..batch.num_rows())
        .map(|row| DeadLetter {
            id: ids[row].clone().unwrap_or_default(),
            run: RunId::new(runs[row].clone().unwrap_or_default()),
            model: ModelId::new(models[row].clone().unwrap_or_default()),
            source: sources[row].clone().unwrap_or_default(),
            file: files[row].clone(),
            digest: digests[row].clone().map(ContentDigest),
            size: sizes[row],
            line: lines[row],
            offset: offsets[row],
            column: columns[row].clone(),
            rule: rules[row].clone().unwrap_or_default(),
            message: messages[row].clone().unwrap_or_default(),
            raw: if raw.is_null(row) { Vec::new() } else { raw.value(row).to_vec() },
            at: DateTime::<Utc>::from_timestamp_micros(at.value(row)).unwrap_or_default(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_survive_the_way_through_arrow() {
        let letter = DeadLetter {
            id: "abc:7".into(),
            run: "r1".into(),
            model: "m".into(),
            source: "pos.sales".into(),
            file: Some("a.csv".into()),
            digest: Some(ContentDigest("abcdef".into())),
            size: Some(100),
            line: Some(3),
            offset: Some(7),
            column: None,
            rule: "type".into(),
            message: "\"x\" is not a date".into(),
            raw: b"\xff,x".to_vec(),
            at: DateTime::from_timestamp_micros(1_700_000_000_000_000).expect("a time"),
        };
        let batch = to_batch(std::slice::from_ref(&letter)).expect("a batch");
        let back = from_batch(&batch).expect("letters");
        assert_eq!(format!("{back:?}"), format!("{:?}", [letter]));
    }
}
