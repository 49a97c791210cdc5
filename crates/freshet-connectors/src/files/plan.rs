//! Planning: the heads of files, their layouts, and one schema for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::contract::SchemaDiff;
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{FileHead, TextFormat, TextLayout};
use freshet_core::source::{
    ContentDigest, Correction, Extent, Overlay, Split, SplitRequest, SplitStatus,
};
use futures::StreamExt;

use super::FilesSource;
use super::codec::{Buffer, Encoding};
use super::digest;
use super::feed::{Codec, Feed, StreamFeed, hash_file};
use super::place::Blob;
use crate::formats::{BlockLayout, FormatReader};

/// Heads that are read at once.
const CONCURRENT: usize = 16;
/// Text of a head, unless its first line is longer.
const HEAD: usize = 64 << 10;
/// A first line longer than this is none.
const MAX_HEAD: usize = 16 << 20;

/// A file and what its head said.
#[derive(Debug)]
pub struct PlannedFile {
    /// The file.
    pub split: Split,
    /// Bytes, as listed.
    pub size: u64,
    /// How it can be read, or why not.
    pub fate: Fate,
}

/// Whether a file can be read.
#[derive(Debug)]
pub enum Fate {
    /// It can.
    Ready(Box<ReadyFile>),
    /// It cannot, or there is nothing to read.
    Out(SplitStatus, Option<Arc<Error>>),
}

/// How a file is read.
#[derive(Debug)]
pub struct ReadyFile {
    /// Its columns.
    pub layout: Layout,
    /// How bytes become text; of no meaning for blocks.
    pub codec: Codec,
    /// Known where an overlay made it be computed.
    pub digest: Option<ContentDigest>,
    /// By offset.
    pub corrections: Arc<BTreeMap<u64, Correction>>,
    /// Whether only the corrections are read.
    pub corrections_only: bool,
}

/// A file's columns.
#[derive(Debug, Clone)]
pub enum Layout {
    /// Of text.
    Text(Arc<dyn TextLayout>),
    /// Of blocks.
    Blocks(Arc<dyn BlockLayout>),
}

impl Layout {
    fn schema(&self) -> SchemaRef {
        match self {
            Self::Text(layout) => layout.schema(),
            Self::Blocks(layout) => layout.schema(),
        }
    }

    fn diff(&self) -> Option<SchemaDiff> {
        match self {
            Self::Text(layout) => layout.diff(),
            Self::Blocks(layout) => layout.diff(),
        }
    }

    /// Bytes of text before the first record.
    pub fn data_offset(&self) -> u64 {
        match self {
            Self::Text(layout) => layout.data_offset(),
            Self::Blocks(_) => 0,
        }
    }

    /// The text in which corrections of its records are written.
    pub fn correcting(&self) -> Result<Arc<dyn TextLayout>> {
        match self {
            Self::Text(layout) => Ok(Arc::clone(layout)),
            Self::Blocks(layout) => layout.corrections(),
        }
    }
}

/// Reads all heads. The error is one that another try may mend; files at fault are in the result.
pub async fn read_heads(
    source: &FilesSource,
    requests: Vec<SplitRequest>,
    overlay: &Overlay,
) -> Result<Vec<PlannedFile>> {
    let heads = requests.into_iter().map(|request| read_head(source, request, overlay));
    let results: Vec<_> = futures::stream::iter(heads).buffered(CONCURRENT).collect().await;
    results.into_iter().collect()
}

async fn read_head(
    source: &FilesSource,
    request: SplitRequest,
    overlay: &Overlay,
) -> Result<PlannedFile> {
    let size = request.split.size.unwrap_or(0);
    let fate = match ready(source, &request, size, overlay).await {
        Ok(ready) => Fate::Ready(Box::new(ready)),
        Err(error) if error.is_retryable() => return Err(error),
        Err(error) if error.code() == code::FILE_EMPTY => {
            Fate::Out(SplitStatus::Empty, Some(Arc::new(error)))
        }
        Err(error) => Fate::Out(SplitStatus::SetAside, Some(Arc::new(error))),
    };
    Ok(PlannedFile { split: request.split, size, fate })
}

async fn ready(
    source: &FilesSource,
    request: &SplitRequest,
    size: u64,
    overlay: &Overlay,
) -> Result<ReadyFile> {
    let split = &request.split;
    if size == 0 {
        return Err(empty(&split.id));
    }
    let blob = source.place.open(&split.id, size, &split.version).await?;
    let (layout, codec) = match &source.reader {
        FormatReader::Text(format) => {
            let (head, codec) = text_head(source, &blob, &split.id).await?;
            (Layout::Text(text_layout(source, format, &split.id, head).await?), codec)
        }
        FormatReader::Blocks(format) => {
            let codec =
                Codec { compression: super::Compression::None, encoding: Encoding::Utf8, mark: 0 };
            (Layout::Blocks(format.layout(&blob, &split.id, &source.spec.contract).await?), codec)
        }
        FormatReader::Messages => return Err(Error::internal("files of a format of messages")),
    };
    let mut digest = None;
    let mut corrections = BTreeMap::new();
    let corrections_only = matches!(request.extent, Extent::CorrectionsAfter(_));
    // Only a content of the same size can be the same.
    if corrections_only || overlay.contents.values().any(|(bytes, _)| *bytes == size) {
        let found = digest::combine(&hash_file(&blob).await?, size);
        if let Some((_, by_offset)) = overlay.contents.get(&found) {
            let after = match request.extent {
                Extent::Whole => 0,
                Extent::CorrectionsAfter(sequence) => sequence,
            };
            corrections = by_offset
                .iter()
                .filter(|(_, correction)| correction.sequence > after)
                .map(|(offset, correction)| (*offset, correction.clone()))
                .collect();
        }
        digest = Some(found);
    }
    Ok(ReadyFile { layout, codec, digest, corrections: Arc::new(corrections), corrections_only })
}

fn empty(id: &str) -> Error {
    Error::new(code::FILE_EMPTY, format!("file \"{id}\" is empty"))
        .hint("set `empty_files: allow` where that is usual")
}

struct Head {
    text: Buffer,
    whole: bool,
    feed: Feed,
}

/// The first text of a file, and how it was made of its bytes.
async fn text_head(source: &FilesSource, blob: &Arc<dyn Blob>, id: &str) -> Result<(Head, Codec)> {
    let first = blob.read(0, blob.size().min(HEAD as u64) as usize).await?;
    let compression = source.options.compression.resolve(&first, id)?;
    let plain = Codec { compression, encoding: Encoding::Utf8, mark: 0 };
    let mut feed = Feed::Stream(StreamFeed::new(Arc::clone(blob), id, plain, false)?);
    let mut text = Buffer::default();
    let mut whole = feed.fill(&mut text, HEAD).await?;
    let (encoding, mark) = source.options.encoding.resolve(text.filled());
    let codec = Codec { compression, encoding, mark };
    if encoding != Encoding::Utf8 {
        feed = Feed::Stream(StreamFeed::new(Arc::clone(blob), id, codec, false)?);
        text = Buffer::default();
        whole = feed.fill(&mut text, HEAD).await?;
    }
    Ok((Head { text, whole, feed }, codec))
}

async fn text_layout(
    source: &FilesSource,
    format: &Arc<dyn TextFormat>,
    id: &str,
    mut head: Head,
) -> Result<Arc<dyn TextLayout>> {
    loop {
        let bytes = head.text.filled();
        if bytes.is_empty() && head.whole {
            return Err(empty(id));
        }
        let first_line = head.whole || memchr::memchr(b'\n', bytes).is_some();
        let layout = format.layout(FileHead { bytes, whole: head.whole }, &source.spec.contract);
        // What does not fit into the head may fit into a longer one.
        let longer = match &layout {
            Ok(layout) => layout.data_offset() > bytes.len() as u64 || !first_line,
            Err(error) => !first_line || error.is_retryable(),
        };
        if head.whole || !longer || bytes.len() >= MAX_HEAD {
            return layout.map_err(|error| in_file(error, id));
        }
        let target = bytes.len() * 4;
        head.whole = head.feed.fill(&mut head.text, target).await?;
    }
}

/// Names the file in an error that only knows its content.
fn in_file(error: Error, id: &str) -> Error {
    let message = error.chain();
    let message = if message.contains(id) { message } else { format!("file \"{id}\": {message}") };
    // What another try with more of the file could have mended had all of it that it may have.
    let mut named = Error::new(error.code(), message);
    if let Some(hint) = error.hint_text() {
        named = named.hint(hint);
    }
    named
}

/// The columns of reading some files together, and how they differ from the contract.
#[derive(Debug)]
pub struct Unified {
    /// Contract columns, then new ones.
    pub data: SchemaRef,
    /// What the heads showed.
    pub diffs: Vec<SchemaDiff>,
}

/// One schema for all files that can be read. Names in `taken` are not given to new columns.
pub fn unify(source: &FilesSource, files: &[PlannedFile], taken: &BTreeSet<&str>) -> Unified {
    let mut fields: Vec<Arc<Field>> =
        source.spec.contract.schema().fields().iter().cloned().collect();
    let declared = fields.len();
    let mut diffs = Vec::new();
    for file in files {
        let Fate::Ready(ready) = &file.fate else { continue };
        for field in ready.layout.schema().fields() {
            let known = fields.iter().position(|known| known.name() == field.name());
            match known {
                Some(known) if known >= declared => {
                    if fields[known].data_type() != field.data_type() {
                        let wider = wider(fields[known].data_type(), field.data_type());
                        fields[known] = Arc::new(Field::new(field.name(), wider, true));
                    }
                }
                Some(_) => {}
                None if taken.contains(field.name().as_str()) => {}
                None => fields.push(Arc::clone(field)),
            }
        }
        if let Some(mut diff) = ready.layout.diff() {
            diff.file = Some(file.split.id.clone());
            diffs.push(diff);
        }
    }
    Unified { data: Arc::new(Schema::new(fields)), diffs }
}

/// A type that holds the values of both: the larger number, else text.
fn wider(a: &DataType, b: &DataType) -> DataType {
    let rank = |data_type: &DataType| {
        [DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64, DataType::Float64]
            .iter()
            .position(|known| known == data_type)
    };
    match (rank(a), rank(b)) {
        (Some(x), Some(y)) => {
            if x >= y {
                a.clone()
            } else {
                b.clone()
            }
        }
        _ => DataType::Utf8View,
    }
}
