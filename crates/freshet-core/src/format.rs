//! The traits of formats: bytes become Arrow batches plus rejected records.
//!
//! A format knows nothing of where bytes come from. Files are cut into chunks by whoever reads
//! them; a message of a topic is a chunk of its own.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::contract::{Contract, SchemaDiff};
use crate::error::Result;
use crate::record::Decoded;

/// What a reader wants of the records.
#[derive(Debug, Clone)]
pub struct ReadSpec {
    /// Indices into the layout's schema of the columns to convert, in output order. Columns that
    /// are not listed are still validated where the contract declares them.
    pub projection: Vec<usize>,
    /// Rows a batch at most.
    pub batch_rows: usize,
    /// A record larger than this is a dead letter.
    pub max_record_bytes: usize,
    /// Whether [`Decoded::offsets`] is wanted: where each row's record begins.
    pub offsets: bool,
    /// Records that begin at this offset or behind it belong to another decoder: they are left.
    /// Formats that cut at line feeds or not at all need not know it.
    pub stop: Option<u64>,
}

impl Default for ReadSpec {
    fn default() -> Self {
        Self {
            projection: Vec::new(),
            batch_rows: 8192,
            max_record_bytes: 1 << 20,
            offsets: false,
            stop: None,
        }
    }
}

/// The start of a file, after decompression and transcoding to UTF-8.
#[derive(Debug, Clone, Copy)]
pub struct FileHead<'a> {
    /// The first bytes, at most 64 KiB unless a longer header needs more.
    pub bytes: &'a [u8],
    /// Whether these are all the bytes that there are.
    pub whole: bool,
}

/// A format whose files are text that can be cut into chunks between records (CSV, NDJSON, JSON).
pub trait TextFormat: Debug + Send + Sync {
    /// The columns of one file, from its head: maps its header onto the contract.
    ///
    /// Errors are of the whole file: [`crate::error::code::HEADER`] where the contract freezes,
    /// [`crate::error::code::FILE_EMPTY`] where it holds nothing at all. One that is retryable says
    /// that the head is too short: the caller tries again with more of the file, if it can.
    fn layout(&self, head: FileHead<'_>, contract: &Arc<Contract>) -> Result<Arc<dyn TextLayout>>;

    /// Whether any line feed ends a record, so that chunks may be cut at any of them and decoded
    /// in any order. Where it is `false`, a file is cut by guessing ([`TextLayout::walker`]), or
    /// decoded in order by one decoder.
    fn splittable(&self) -> bool;
}

/// What is known of one file of a [`TextFormat`] once its head was read.
pub trait TextLayout: Debug + Send + Sync {
    /// The columns that the file can give: the contract's, in its order and with its types, then
    /// new ones (as text) in the file's order where the contract evolves.
    fn schema(&self) -> SchemaRef;

    /// What differs from the contract; empty where nothing does.
    fn diff(&self) -> Option<SchemaDiff>;

    /// Bytes before the first record: byte order mark, skipped lines, header.
    fn data_offset(&self) -> u64;

    /// Physical lines before the first record.
    fn data_line(&self) -> u64;

    /// A decoder that gives the columns `spec.projection` of `schema`, which is this layout's
    /// schema or a superset of it: columns that the file lacks are null.
    fn decoder(&self, schema: &SchemaRef, spec: &ReadSpec) -> Result<Box<dyn Decoder>>;

    /// A decoder that finds where records begin and gives none of them: much faster than one that
    /// reads them, and it consumes exactly what that one would.
    ///
    /// Only for formats whose files can be cut at the start of any line by guessing: where a record
    /// begins, what follows depends on nothing that stands before it. Their decoders heed
    /// [`ReadSpec::stop`]. `None` for all others.
    fn walker(&self, _spec: &ReadSpec) -> Result<Option<Box<dyn Decoder>>> {
        Ok(None)
    }

    /// A decoder of messages, each of which is one record. `None` where the format has none of its
    /// own: each message is then decoded as a file by itself.
    fn messages(
        &self,
        _schema: &SchemaRef,
        _spec: &ReadSpec,
    ) -> Result<Option<Box<dyn MessageDecoder>>> {
        Ok(None)
    }
}

/// A run of bytes of one file or message.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The bytes. Text columns may keep a reference to them instead of a copy.
    pub bytes: Bytes,
    /// Offset of the first byte; rejects are placed relative to the file.
    pub offset: u64,
    /// Whether the file or message ends with this chunk: a record without a terminator is whole.
    pub last: bool,
}

/// Bytes to records, one chunk after another.
///
/// The result never depends on how the input was cut: feeding the unconsumed tail in front of the
/// next chunk gives what one large chunk would have given.
pub trait Decoder: Send {
    /// Decodes the records that `chunk` holds whole, appending to `out`, and returns how many bytes
    /// they took. With `chunk.last` that is all of them. A bad record is a reject, not an error.
    ///
    /// Where the spec asks for offsets, one array is pushed to `out.offsets` for each batch that is
    /// pushed to `out.batches`. A record beyond `max_record_bytes` becomes [`crate::Reject::too_large`],
    /// which keeps only its first bytes: whoever reads may then skip the rest of an endless line
    /// without holding it.
    fn decode(&mut self, chunk: &Chunk, out: &mut Decoded) -> Result<usize>;

    /// Whether a line that begins like this is a record: a comment is none, however long it is.
    fn is_record(&self, _beginning: &[u8]) -> bool {
        true
    }
}

/// A record that comes by itself, by its place among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its first byte.
    pub start: u32,
    /// Behind its last byte.
    pub end: u32,
    /// What [`crate::Reject::offset`] says of it, and [`Decoded::offsets`]: its position, not the
    /// place of its bytes.
    pub position: u64,
}

impl Message {
    /// Its bytes, which lie in `bytes`.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// How far a decoder came with what it was given.
#[must_use = "what waits is to be given again"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoding {
    /// To its end.
    Done,
    /// Not at all: something that the records need, e.g. their schema, is still being fetched. What
    /// was appended is of no use; the same is to be given again a little later.
    Waits,
}

/// Messages to records: each is one record, good or bad, whatever bytes it holds.
pub trait MessageDecoder: Send {
    /// Decodes the messages that lie in `bytes`, in their order, appending to `out`. Nothing is held
    /// back: once done, all rows are in `out.batches`. Never waits for anything.
    fn decode(
        &mut self,
        bytes: &Bytes,
        messages: &[Message],
        out: &mut Decoded,
    ) -> Result<Decoding>;
}
