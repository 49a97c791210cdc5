//! The trait of what is pushed to: records come in, and an answer goes out once they are durable.
//!
//! How records arrive (HTTP, a test) is the business of whoever calls; where they lie is the
//! business of whoever implements.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::record::Reject;
use crate::source::Position;
use crate::stream::Partition;

/// A record that somebody pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its bytes, as the source's format has them; line feeds within are part of it.
    pub value: Bytes,
    /// Decides its partition: records of one key stay in order. Without one it goes to any.
    pub key: Option<Bytes>,
}

impl Record {
    /// A record without a key.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: value.into(), key: None }
    }

    /// A record with a key.
    pub fn keyed(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { value: value.into(), key: Some(key.into()) }
    }
}

/// By what a request is known again when it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The name that its sender gave it.
    pub name: String,
    /// A digest of its body, of 128 bits: another body under the same name is an error.
    pub digest: u128,
}

/// Records that are pushed together.
#[derive(Debug, Clone, Default)]
pub struct AppendRequest {
    /// The records, in the order that those of one key keep.
    pub records: Vec<Record>,
    /// By what the request is known again; a repetition appends nothing.
    pub idempotency: Option<IdempotencyKey>,
    /// Keep nothing unless the contract accepts every record.
    pub strict: bool,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Whether its records are kept, and durable. Not so where it was strict and had a bad record.
    pub kept: bool,
    /// Records that the contract accepts.
    pub accepted: u64,
    /// Those that it does not: where the request is kept, so are they, and whoever reads them makes
    /// them dead letters. [`Reject::offset`] is the record's number in the request, from 0.
    pub rejects: Vec<Reject>,
    /// Whether an earlier request with the same idempotency key had appended them.
    pub repeated: bool,
    /// For each partition that got records, the position behind the last one.
    pub positions: BTreeMap<Partition, Position>,
}

/// Something that records are pushed to.
#[async_trait]
pub trait Ingest: Debug + Send + Sync {
    /// The format of its records, as sources name it: `ndjson`, `csv`, `raw`.
    fn format(&self) -> &str;

    /// Appends records; answers once they are durable. What was not answered may be there, for each
    /// partition all of it or nothing; the same request with the same idempotency key makes it whole.
    ///
    /// Errors that a caller tells apart: [`crate::error::code::LIMIT`] (too large, nothing is kept),
    /// [`crate::error::code::BUSY`] (too much waits, try again), and
    /// [`crate::error::code::IDEMPOTENCY`] (the key was used for another body).
    async fn append(&self, request: AppendRequest) -> Result<Appended>;
}
