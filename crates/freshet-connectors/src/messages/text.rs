//! Messages of text: each is one record, as a file could hold it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use freshet_core::contract::Contract;
use freshet_core::error::{Result, ResultExt, code};
use freshet_core::format::{
    Chunk, Decoder, Decoding, FileHead, Message, MessageDecoder, ReadSpec, TextFormat, TextLayout,
};
use freshet_core::record::{Decoded, Reject, Rule};

use super::MessageFormat;

/// Messages that are records of text.
#[derive(Debug)]
pub(super) struct TextMessages {
    layout: Arc<dyn TextLayout>,
}

impl TextMessages {
    /// Messages of `format`, which is called `name`.
    pub fn new(format: &Arc<dyn TextFormat>, name: &str, contract: &Arc<Contract>) -> Result<Self> {
        // Messages have no head to learn from. CSV wants to see a line all the same, and takes
        // nothing from it.
        let bytes: &[u8] = if name == "csv" { b"x\n" } else { b"" };
        let head = FileHead { bytes, whole: false };
        Ok(Self { layout: format.layout(head, contract)? })
    }
}

impl MessageFormat for TextMessages {
    fn schema(&self) -> SchemaRef {
        self.layout.schema()
    }

    fn decoder(&self, spec: &ReadSpec) -> Result<Box<dyn MessageDecoder>> {
        let schema = self.layout.schema();
        if let Some(decoder) = self.layout.messages(&schema, spec)? {
            return Ok(decoder);
        }
        let spec = ReadSpec { offsets: true, ..spec.clone() };
        let output = schema
            .project(&spec.projection)
            .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
        let make = {
            let layout = Arc::clone(&self.layout);
            let spec = spec.clone();
            Box::new(move || layout.decoder(&schema, &spec))
        };
        Ok(Box::new(AsFiles { decoder: make()?, make, spec, output: Arc::new(output) }))
    }
}

/// Messages as files of one record, or, where that comes to the same, as lines of one file.
struct AsFiles {
    decoder: Box<dyn Decoder>,
    make: Box<dyn Fn() -> Result<Box<dyn Decoder>> + Send>,
    spec: ReadSpec,
    output: SchemaRef,
}

impl MessageDecoder for AsFiles {
    fn decode(
        &mut self,
        bytes: &Bytes,
        messages: &[Message],
        out: &mut Decoded,
    ) -> Result<Decoding> {
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let lines = rest.windows(2).take_while(|pair| {
                let (end, next) = (pair[0].end as usize, pair[1].start as usize);
                end + 1 == next && bytes.get(end) == Some(&b'\n')
            });
            let (run, behind) = rest.split_at(1 + lines.count());
            let end = run.last().map_or(first.end, |last| last.end);
            let chunk = Chunk {
                bytes: bytes.slice(first.start as usize..end as usize),
                offset: u64::from(first.start),
                last: true,
            };
            let mut lines = Decoded::default();
            match self.decoder.decode(&chunk, &mut lines) {
                Ok(_) if run.len() > 1 && places_agree(&lines, run) => {
                    place(&mut lines, |at| {
                        let found = run.binary_search_by_key(&at, |m| u64::from(m.start));
                        run[found.unwrap_or(0)].position
                    });
                    give(lines, out);
                }
                _ => {
                    // Whatever it was, the decoder may be within a record now.
                    self.decoder = (self.make)()?;
                    self.one_by_one(bytes, run, out)?;
                }
            }
            rest = behind;
        }
        Ok(Decoding::Done)
    }
}

impl AsFiles {
    fn one_by_one(&mut self, bytes: &Bytes, run: &[Message], out: &mut Decoded) -> Result<()> {
        let mut all = Decoded::default();
        for message in run {
            let text = bytes.slice(message.start as usize..message.end as usize);
            let mut one = Decoded::default();
            let chunk = Chunk { bytes: text.clone(), offset: 0, last: true };
            self.decoder.decode(&chunk, &mut one)?;
            if one.records != 1 {
                self.decoder = (self.make)()?;
                let message = match one.records {
                    0 => "the message holds no record",
                    _ => "the message holds more than one record",
                };
                one = Decoded { records: 1, lines: 1, ..Decoded::default() };
                one.rejects.push(Reject {
                    offset: 0,
                    line: 1,
                    rule: Rule::Syntax,
                    column: None,
                    message: Cow::Borrowed(message),
                    raw: text[..text.len().min(self.spec.max_record_bytes)].into(),
                });
            }
            place(&mut one, |_| message.position);
            give(one, &mut all);
        }
        // Batches of one row each are put together.
        let batches = std::mem::take(&mut all.batches);
        let offsets = std::mem::take(&mut all.offsets);
        for (batches, offsets) in
            batches.chunks(self.spec.batch_rows).zip(offsets.chunks(self.spec.batch_rows))
        {
            let batch = concat_batches(&self.output, batches)
                .or_code(code::INTERNAL, || "batches of a decoder differ".to_owned())?;
            all.batches.push(batch);
            all.offsets.push(offsets.iter().flat_map(|offsets| offsets.iter().copied()).collect());
        }
        give(all, out);
        Ok(())
    }
}

/// Whether each message of `run` became one record, so that none ran into another.
fn places_agree(lines: &Decoded, run: &[Message]) -> bool {
    if lines.records != run.len() as u64 || !lines.balances() {
        return false;
    }
    let mut places: Vec<u64> = lines.rejects.iter().map(|reject| reject.offset).collect();
    places.extend(lines.offsets.iter().flat_map(|offsets| offsets.iter().map(|at| *at as u64)));
    places.sort_unstable();
    places.iter().zip(run).all(|(place, message)| *place == u64::from(message.start))
}

/// Replaces places of bytes by positions.
fn place(decoded: &mut Decoded, position: impl Fn(u64) -> u64) {
    for reject in &mut decoded.rejects {
        reject.offset = position(reject.offset);
        reject.line = 1;
    }
    for offsets in &mut decoded.offsets {
        let signed = |at: &i64| i64::try_from(position(*at as u64)).unwrap_or(i64::MAX);
        *offsets = offsets.iter().map(signed).collect();
    }
}

fn give(mut from: Decoded, out: &mut Decoded) {
    out.batches.append(&mut from.batches);
    out.offsets.append(&mut from.offsets);
    out.rejects.append(&mut from.rejects);
    out.records += from.records;
    out.good += from.good;
    out.discarded_values += from.discarded_values;
    out.lines += from.lines;
    out.evolution.merge(from.evolution);
}
