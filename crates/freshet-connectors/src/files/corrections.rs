//! Corrected records, read instead of the bad ones at the same place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use freshet_core::error::Result;
use freshet_core::format::{Chunk, ReadSpec, TextLayout};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::source::Correction;

/// Decodes the corrections of one file.
#[derive(Debug)]
pub struct Corrector {
    layout: Arc<dyn TextLayout>,
    schema: SchemaRef,
    spec: ReadSpec,
    corrections: Arc<BTreeMap<u64, Correction>>,
}

impl Corrector {
    /// For a file of `layout`, read as `schema` and `spec` say.
    pub fn new(
        layout: Arc<dyn TextLayout>,
        schema: &SchemaRef,
        spec: &ReadSpec,
        corrections: Arc<BTreeMap<u64, Correction>>,
    ) -> Self {
        Self { layout, schema: Arc::clone(schema), spec: spec.clone(), corrections }
    }

    /// Replaces those rejects of `out` that have a correction; returns how many records were
    /// dropped by it.
    pub fn apply(&self, out: &mut Decoded) -> Result<u64> {
        if !out.rejects.iter().any(|reject| self.corrections.contains_key(&reject.offset)) {
            return Ok(0);
        }
        let mut dropped = 0;
        for reject in std::mem::take(&mut out.rejects) {
            match self.corrections.get(&reject.offset) {
                None => out.rejects.push(reject),
                Some(correction) => {
                    dropped += u64::from(self.decode(correction, reject.line, out)?);
                }
            }
        }
        Ok(dropped)
    }

    /// Decodes one correction into `out`, whose `records` count it already; `true` where it drops
    /// the record.
    pub fn decode(&self, correction: &Correction, line: u64, out: &mut Decoded) -> Result<bool> {
        if correction.bytes.is_empty() {
            return Ok(true);
        }
        let mut decoder = self.layout.decoder(&self.schema, &self.spec)?;
        let mut decoded = Decoded::default();
        let chunk = Chunk {
            bytes: Bytes::from(correction.bytes.clone()),
            offset: correction.offset,
            last: true,
        };
        decoder.decode(&chunk, &mut decoded)?;
        if decoded.records != 1 {
            out.rejects.push(Reject {
                offset: correction.offset,
                line,
                rule: Rule::Syntax,
                column: None,
                message: Cow::Owned(format!(
                    "its correction holds {} records instead of one",
                    decoded.records
                )),
                raw: correction.bytes.clone().into(),
            });
            return Ok(false);
        }
        out.good += decoded.good;
        out.discarded_values += decoded.discarded_values;
        for batch in decoded.batches {
            if self.spec.offsets {
                let offset = i64::try_from(correction.offset).unwrap_or(i64::MAX);
                out.offsets.push(ScalarBuffer::from(vec![offset; batch.num_rows()]));
            }
            out.batches.push(batch);
        }
        for mut reject in decoded.rejects {
            reject.offset = correction.offset;
            reject.line = line;
            out.rejects.push(reject);
        }
        Ok(false)
    }
}
