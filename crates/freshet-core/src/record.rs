//! What decoding gives: Arrow batches of the good records, and every bad one with its place and reason.

use std::borrow::Cow;
use std::fmt;

use crate::contract::Evolution;
use crate::rows::RowKind;
use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use serde::{Deserialize, Serialize};

/// Why a record became a dead letter: a stable name that users filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Fewer or more columns than the header has.
    ColumnCount,
    /// Bytes that are not text in the declared encoding.
    Encoding,
    /// A quote that is not closed, or closed in mid-field.
    Quote,
    /// Text that is not of the format at all (malformed JSON).
    Syntax,
    /// A value that is not of the declared type.
    Type,
    /// A number that does not fit its type.
    Range,
    /// A required value that is missing or null.
    NotNull,
    /// A value that breaks a declared constraint.
    Constraint,
    /// A record larger than `max_record_bytes`.
    TooLarge,
    /// A column that the contract does not declare, where it says `discard_row`.
    NewColumn,
    /// A declared column that the file lacks, where it says `discard_row` or the column is required.
    MissingColumn,
    /// A check of a model whose `on_fail` is `quarantine`.
    Check,
}

impl Rule {
    /// The name as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ColumnCount => "column_count",
            Self::Encoding => "encoding",
            Self::Quote => "quote",
            Self::Syntax => "syntax",
            Self::Type => "type",
            Self::Range => "range",
            Self::NotNull => "not_null",
            Self::Constraint => "constraint",
            Self::TooLarge => "too_large",
            Self::NewColumn => "new_column",
            Self::MissingColumn => "missing_column",
            Self::Check => "check",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Byte offset of the record's first byte in the file as it is stored, or after
    /// decompression and transcoding to UTF-8 where there is either.
    pub offset: u64,
    /// One-based physical line of the record's first byte. Within a [`Decoded`] it counts from
    /// the chunk's first line; a finished scan has made it absolute.
    pub line: u64,
    /// The rule that it broke: the first one in the order structure, encoding, then columns from
    /// left to right.
    pub rule: Rule,
    /// The column, where the fault is in one.
    pub column: Option<String>,
    /// What is wrong, for a person.
    pub message: Cow<'static, str>,
    /// The record's bytes as they were read, without its line terminator. Of a record that is too
    /// large, the first `max_record_bytes`.
    pub raw: Box<[u8]>,
}

impl Reject {
    /// The reject of a record that is larger than `limit`: one spelling for whoever finds it.
    /// `bytes` is the record or its beginning, at least `limit` bytes of it.
    pub fn too_large(offset: u64, line: u64, limit: usize, bytes: &[u8]) -> Self {
        Self {
            offset,
            line,
            rule: Rule::TooLarge,
            column: None,
            message: Cow::Owned(format!("the record is larger than {limit} bytes")),
            raw: bytes[..limit.min(bytes.len())].into(),
        }
    }
}

/// What one chunk decoded to.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The good records in their order, in batches of at most the asked number of rows.
    pub batches: Vec<RecordBatch>,
    /// For each of `batches`, the offset of each row's record as [`Reject::offset`] counts it.
    /// Empty unless `ReadSpec::offsets` asks for it.
    pub offsets: Vec<ScalarBuffer<i64>>,
    /// For each of `batches`, the kind of each row. Empty where all rows are inserts.
    pub kinds: Vec<Vec<RowKind>>,
    /// The bad records in their order.
    pub rejects: Vec<Reject>,
    /// Records that were left out on purpose, without being bad.
    pub filtered: u64,
    /// Records that the chunk held: good, bad and filtered. Blank lines, comments and headers are none.
    pub records: u64,
    /// Records in `batches`.
    pub good: u64,
    /// Values that were replaced by null because the contract says `discard_value`.
    pub discarded_values: u64,
    /// Physical lines that the chunk held.
    pub lines: u64,
    /// What the records need of a contract that evolves; until it has it, a record with a value of
    /// another type is among `rejects`, and a field that is not known is left out.
    pub evolution: Evolution,
}

impl Decoded {
    /// Forgets all content and keeps the allocations.
    pub fn clear(&mut self) {
        self.batches.clear();
        self.offsets.clear();
        self.kinds.clear();
        self.rejects.clear();
        self.filtered = 0;
        self.records = 0;
        self.good = 0;
        self.discarded_values = 0;
        self.lines = 0;
        self.evolution = Evolution::default();
    }

    /// Whether every record is accounted for.
    pub fn balances(&self) -> bool {
        let rows: usize = self.batches.iter().map(RecordBatch::num_rows).sum();
        let left = self.rejects.len() as u64 + self.filtered;
        self.good == rows as u64 && self.records == self.good + left
    }
}
