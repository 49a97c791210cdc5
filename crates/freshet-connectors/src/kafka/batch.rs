//! Batches of records on their way out: built without an object each, stamped with their producer last.
//!
//! The counterpart of [`super::records`]; the tests read what is written here by `kafka-protocol`.

use std::io;

use super::compression::compress;
use super::records::{Compression, HEADER};

/// A batch that grows.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    payload: Vec<u8>,
    record: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// Bytes of the records so far.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Adds a record; `timestamp` is in milliseconds since 1970.
    pub fn push(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
        timestamp: i64,
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let record = &mut self.record;
        record.clear();
        // Attributes, of which there are none yet.
        record.push(0);
        varint(record, timestamp - self.base_timestamp);
        varint(record, self.count.into());
        field(record, key);
        field(record, value);
        varint(record, headers.len() as i64);
        for (name, value) in headers {
            field(record, Some(name));
            field(record, *value);
        }
        varint(&mut self.payload, self.record.len() as i64);
        self.payload.extend_from_slice(&self.record);
        self.count += 1;
    }

    /// The batch, which has no producer yet; the builder is empty again.
    pub fn finish(&mut self, compression: Compression) -> io::Result<Vec<u8>> {
        let payload = compress(compression, &self.payload)?;
        let length = i32::try_from(HEADER - 12 + payload.len())
            .map_err(|_| io::Error::other("a batch is larger than 2 GiB"))?;
        let mut batch = Vec::with_capacity(HEADER + payload.len());
        batch.extend_from_slice(&0_i64.to_be_bytes());
        batch.extend_from_slice(&length.to_be_bytes());
        // The leader's epoch, which is the broker's to fill in.
        batch.extend_from_slice(&(-1_i32).to_be_bytes());
        batch.push(2);
        // The checksum: see `stamp`.
        batch.extend_from_slice(&[0; 4]);
        let attributes: i16 = match compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        };
        batch.extend_from_slice(&attributes.to_be_bytes());
        batch.extend_from_slice(&(self.count - 1).to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp.to_be_bytes());
        batch.extend_from_slice(&self.max_timestamp.to_be_bytes());
        batch.extend_from_slice(&(-1_i64).to_be_bytes());
        batch.extend_from_slice(&(-1_i16).to_be_bytes());
        batch.extend_from_slice(&(-1_i32).to_be_bytes());
        batch.extend_from_slice(&self.count.to_be_bytes());
        batch.extend_from_slice(&payload);
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
        self.payload.clear();
        self.count = 0;
        Ok(batch)
    }
}

/// Who sends a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The producer's id.
    pub producer_id: i64,
    /// Of several with one id only that with the highest epoch is heard.
    pub producer_epoch: i16,
    /// The number of the batch's first record among those of this producer and epoch in its partition.
    pub sequence: i32,
    /// Whether it is part of a transaction.
    pub transactional: bool,
}

/// Enters who sends a batch that [`BatchBuilder::finish`] gave.
///
/// # Panics
/// Where it is shorter than a header.
pub fn stamp(batch: &mut [u8], stamp: &Stamp) {
    let transactional = i16::from(stamp.transactional) << 4;
    let attributes = i16::from_be_bytes([batch[21], batch[22]]) & !(1 << 4) | transactional;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[43..51].copy_from_slice(&stamp.producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&stamp.producer_epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&stamp.sequence.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
}

/// The partition of a key, as Java's producer chooses it: all records of a key stay in one place,
/// whoever writes them.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    ((murmur2(key) & 0x7fff_ffff) % partitions.max(1) as u32) as i32
}

/// Austin Appleby's MurmurHash2, with the seed that Kafka uses.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k = (k ^ k >> 24).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

fn field(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint(out, -1),
        Some(bytes) => {
            varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// A number of one to ten bytes, seven bits in each, its sign in the lowest.
fn varint(out: &mut Vec<u8>, number: i64) {
    let mut raw = (number << 1 ^ number >> 63) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}
