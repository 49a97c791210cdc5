//! Reading of one file in order, for the streaming side.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{ReadSpec, TextLayout};
use freshet_core::record::Decoded;
use freshet_core::source::{Extent, Overlay, Position, Split, SplitReader, SplitRequest};

use super::FilesSource;
use super::codec::Buffer;
use super::columns::{Constant, Output};
use super::feed::{Feed, StreamFeed};
use super::plan::{Fate, Layout, read_heads, unify};
use super::scan::FilesScan;
use super::worker::{CHUNK, First, Pool, Start, TextUnit};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// One file, read in order.
struct FileReader {
    unit: TextUnit,
    pool: Pool,
    output: Output,
    constants: Vec<Constant>,
    done: bool,
    first_line: u64,
}

/// Opens `split` behind `from`.
pub async fn open(
    source: FilesSource,
    split: &Split,
    from: Position,
) -> Result<Box<dyn SplitReader>> {
    let request = SplitRequest { split: split.clone(), extent: Extent::Whole };
    let files = read_heads(&source, vec![request], &Overlay::default()).await?;
    let file = files.first().ok_or_else(|| Error::internal("a head was not read"))?;
    let ready = match &file.fate {
        Fate::Ready(ready) => ready,
        Fate::Out(_, error) => {
            let why = error.as_ref().map(|error| error.chain()).unwrap_or_default();
            return Err(Error::new(code::FILE_BROKEN, why));
        }
    };
    let Layout::Text(layout) = &ready.layout else {
        return Err(Error::new(
            code::CONFIG,
            format!("file \"{}\" cannot be read in order: its format has blocks", split.id),
        )
        .hint("read it as a batch"));
    };
    let layout: Arc<dyn TextLayout> = Arc::clone(layout);
    let data = unify(&source, &files, &FilesScan::taken(&source)).data;
    let schema = FilesScan::schema_of(&source, &data);
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let output = Output::new(&schema, data.fields().len(), &all)?;
    let spec = ReadSpec {
        projection: output.data_columns().to_vec(),
        batch_rows: BATCH_ROWS,
        max_record_bytes: source.options.max_record_bytes.as_usize(),
        offsets: true,
        stop: None,
    };
    let begin = from.0.max(layout.data_offset());
    let mut first_line = layout.data_line();
    if from.0 > layout.data_offset() {
        let blob = source.place.open(&split.id, file.size, &split.version).await?;
        let mut lines = BTreeMap::from([(begin, 0)]);
        let feed = StreamFeed::new(blob, &split.id, ready.codec, false)?;
        count_lines(Feed::Stream(feed), &mut lines).await?;
        first_line = lines.values().next().copied().unwrap_or(1).saturating_sub(1);
    }
    let blob = source.place.open(&split.id, file.size, &split.version).await?;
    let feed = Feed::Stream(StreamFeed::new(blob, &split.id, ready.codec, false)?);
    let start = Start {
        offset: 0,
        data_offset: begin,
        first: First::NextLine,
        stop: None,
        chunk: source.options.split_size.as_usize().min(CHUNK),
        max_record_bytes: spec.max_record_bytes,
    };
    let decoder = layout.decoder(&data, &spec)?;
    let constants = output.constants(split, source.pattern.captures())?;
    let unit = TextUnit::new(feed, decoder, start, &Arc::default());
    Ok(Box::new(FileReader {
        unit,
        pool: Pool::default(),
        output,
        constants,
        done: false,
        first_line,
    }))
}

#[async_trait]
impl SplitReader for FileReader {
    async fn next(&mut self) -> Result<Option<Decoded>> {
        while !self.done {
            let mut out = Decoded::default();
            self.done = !self.unit.step(&mut self.pool, &mut out).await?;
            if out.records == 0 && out.batches.is_empty() {
                continue;
            }
            for reject in &mut out.rejects {
                reject.line += self.first_line;
            }
            let batches = std::mem::take(&mut out.batches);
            for (batch, offsets) in batches.into_iter().zip(&out.offsets) {
                let offsets = Some(offsets.clone());
                out.batches.push(self.output.assemble(batch, offsets, &self.constants)?);
            }
            return Ok(Some(out));
        }
        Ok(None)
    }

    fn position(&self) -> Position {
        Position(self.unit.offset())
    }
}

/// Enters for each offset in `lines` the one-based line that it lies in.
pub async fn count_lines(mut feed: Feed, lines: &mut BTreeMap<u64, u64>) -> Result<()> {
    let mut buffer = Buffer::with_capacity(CHUNK);
    let (mut offset, mut line) = (0_u64, 1_u64);
    let mut wanted = lines.iter_mut().peekable();
    while wanted.peek().is_some() {
        buffer.truncate(0);
        let last = feed.fill(&mut buffer, CHUNK).await?;
        let text = buffer.filled();
        let mut begin = 0;
        while let Some((at, _)) = wanted.peek() {
            let end = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            if end > text.len() && !last {
                break;
            }
            let end = end.min(text.len());
            line += memchr::memchr_iter(b'\n', &text[begin..end]).count() as u64;
            begin = end;
            if let Some((_, found)) = wanted.next() {
                *found = line;
            }
        }
        line += memchr::memchr_iter(b'\n', &text[begin..]).count() as u64;
        offset += text.len() as u64;
    }
    Ok(())
}
