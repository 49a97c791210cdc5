//! What of a build is kept as JSON because no column or table of its own holds it. Versioned apart
//! from the report: a field that is new is optional here.

use std::collections::BTreeMap;

use freshet_core::OperatorCounts;
use freshet_core::source::Interval;
use freshet_engine::{BuildReport, MissingFile};
use serde::{Deserialize, Serialize};

/// Version 1 of `tasks.detail`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Detail {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<Interval>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<OperatorCounts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seconds: BTreeMap<String, f64>,
}

impl Detail {
    pub(super) fn of(report: &BuildReport) -> Self {
        Self {
            batches: report.batches.clone(),
            operators: report.operators.clone(),
            missing: report.missing.clone(),
            warnings: report.warnings.clone(),
            staged: report.staged.clone(),
            seconds: report.seconds.clone(),
        }
    }
}

/// A row of `edges`.
#[derive(Debug, Serialize)]
pub(super) struct EdgeRow<'a> {
    pub name: &'a str,
    pub rows_in: i64,
    pub rows_out: i64,
    pub dead: i64,
    pub filtered: i64,
}

/// A row of `files`.
#[derive(Debug, Serialize)]
pub(super) struct FileRow<'a> {
    pub source: &'a str,
    pub file: &'a str,
    pub status: String,
    pub records: i64,
    pub good: i64,
    pub dead: i64,
    pub bytes: i64,
    pub error: Option<String>,
}

/// A row of `checks`.
#[derive(Debug, Serialize)]
pub(super) struct CheckRow<'a> {
    pub name: &'a str,
    pub rule: &'a str,
    pub status: String,
    pub failures: i64,
    pub rows: i64,
    pub value: Option<f64>,
    pub message: &'a str,
    pub sample: String,
}

/// A row of `schema_diffs`.
#[derive(Debug, Serialize)]
pub(super) struct SchemaDiffRow<'a> {
    pub file: Option<&'a str>,
    pub changes: String,
}

/// A row of `dead_letters`.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetterRow<'a> {
    pub source: &'a str,
    pub rule: &'a str,
    pub count: i64,
}

/// A row of `consumed`.
#[derive(Debug, Serialize)]
pub(super) struct ConsumedRow<'a> {
    pub source: &'a str,
    pub split: &'a str,
    pub version: &'a str,
    pub size: Option<i64>,
    pub modified: Option<i64>,
    pub captured: String,
    pub interval_start: Option<String>,
    pub interval_end: Option<String>,
    pub digest: Option<&'a str>,
    pub corrections: i64,
    pub empty: bool,
}
