//! Kafka's batches of records: their headers, and a walk over their records that copies nothing.
//!
//! The layout is that of record batches in format 2, which all brokers since 0.11 write. It is read
//! here and not by `kafka-protocol`, whose records are objects each; the tests compare the two.

use std::fmt;

use super::options::Codec;

/// Bytes in front of the records of a batch.
pub const HEADER: usize = 61;
/// Bytes of a batch that its length does not count.
const UNCOUNTED: usize = 12;
/// Where the part begins that the checksum covers.
const CHECKED: usize = 21;

/// How a batch's bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage(pub &'static str);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Damage {}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By Snappy, in Xerial's frames or in none.
    Snappy,
    /// By LZ4, in its frames.
    Lz4,
    /// By Zstandard.
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of the whole batch, this header included.
    pub length: usize,
    /// The offset of the first record that the batch was written with.
    pub base_offset: i64,
    /// The offset of the last one, be it there still or not, less the base.
    pub last_offset_delta: i32,
    /// In milliseconds since 1970; records give theirs as a difference to it.
    pub base_timestamp: i64,
    /// The newest record's, in milliseconds since 1970.
    pub max_timestamp: i64,
    /// Who wrote it; -1 where nobody says.
    pub producer_id: i64,
    /// How many records it holds.
    pub count: i32,
    crc: u32,
    attributes: i16,
}

impl BatchHeader {
    /// The header of the batch that `bytes` begin with; `None` where they end before it does.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Damage> {
        let Some(head) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let header = Self {
            length: usize::try_from(int32(head, 8))
                .map_err(|_| Damage("its length is negative"))?
                + UNCOUNTED,
            base_offset: int64(head, 0),
            last_offset_delta: int32(head, 23),
            base_timestamp: int64(head, 27),
            max_timestamp: int64(head, 35),
            producer_id: int64(head, 43),
            count: int32(head, 57),
            crc: int32(head, 17) as u32,
            attributes: i16::from_be_bytes([head[21], head[22]]),
        };
        if head[16] != 2 {
            return Err(Damage("it is of a format from before Kafka 0.11"));
        }
        if header.length < HEADER {
            return Err(Damage("it is shorter than its header"));
        }
        if header.base_offset < 0
            || header.last_offset_delta < 0
            || header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1).is_none()
        {
            return Err(Damage("its offsets are negative"));
        }
        if header.count < 0 {
            return Err(Damage("its number of records is negative"));
        }
        Ok((header.length <= bytes.len()).then_some(header))
    }

    /// Whether the bytes of the batch are those that were written.
    pub fn is_sound(&self, batch: &[u8]) -> bool {
        crc32c::crc32c(&batch[CHECKED..self.length]) == self.crc
    }

    /// The offset behind the last record.
    pub fn next_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 1 << 4 != 0
    }

    /// Whether it holds a mark of the cluster's rather than records of a producer.
    pub fn is_control(&self) -> bool {
        self.attributes & 1 << 5 != 0
    }

    /// Whether all of its records have the time at which the broker took them.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 1 << 3 != 0
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Result<Compression, Damage> {
        Ok(match self.attributes & 7 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => return Err(Damage("its compression is not known")),
        })
    }

    /// The bytes behind the header.
    pub fn payload<'a>(&self, batch: &'a [u8]) -> &'a [u8] {
        &batch[HEADER..self.length]
    }

    /// Whether this control batch says that a transaction was aborted. Such batches hold one record,
    /// whose key is a version and a kind.
    pub fn aborts(&self, batch: &[u8]) -> bool {
        let payload = self.payload(batch);
        let mut aborts = false;
        let walked = walk(payload, self.count, |record| {
            aborts |= record.key.is_some_and(|key| {
                payload[key.start as usize..key.end as usize].get(2..4) == Some(&[0, 0])
            });
        });
        walked.is_ok() && aborts
    }
}

/// A place in the bytes that were walked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes there.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A record, by the places of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpans {
    /// Its offset less that of the batch.
    pub offset_delta: i32,
    /// Its time less that of the batch, in milliseconds.
    pub timestamp_delta: i64,
    /// Its key, where it has one.
    pub key: Option<Span>,
    /// Its value, where it has one.
    pub value: Option<Span>,
    /// Its headers: a number of them, then each.
    pub headers: Span,
}

/// Calls `each` for the `count` records of a batch, whose payload is `bytes` after decompression.
///
/// Every place that is given lies within `bytes`. Of headers only the extent is looked at.
pub fn walk(bytes: &[u8], count: i32, mut each: impl FnMut(RecordSpans)) -> Result<(), Damage> {
    const SHORT: Damage = Damage("a record ends behind the batch");
    if u32::try_from(bytes.len()).is_err() {
        return Err(Damage("it is larger than 4 GiB"));
    }
    let mut at = 0;
    for _ in 0..count {
        let length = varint(bytes, &mut at).ok_or(SHORT)?;
        let length =
            usize::try_from(length).map_err(|_| Damage("a record's length is negative"))?;
        let end = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(SHORT)?;
        // Nothing behind the record's end is looked at.
        let record = &bytes[..end];
        // Attributes, of which there are none yet.
        at += 1;
        let timestamp_delta = varint(record, &mut at).ok_or(SHORT)?;
        let offset_delta = varint(record, &mut at).ok_or(SHORT)?;
        let offset_delta = i32::try_from(offset_delta)
            .ok()
            .filter(|delta| *delta >= 0)
            .ok_or(Damage("a record's offset is out of range"))?;
        let key = span(record, &mut at)?;
        let value = span(record, &mut at)?;
        let headers = Span { start: at as u32, end: end as u32 };
        each(RecordSpans { offset_delta, timestamp_delta, key, value, headers });
        at = end;
    }
    if at != bytes.len() {
        return Err(Damage("something follows its last record"));
    }
    Ok(())
}

/// Calls `each` for the headers at `span`: the name, and the value where there is one.
pub fn walk_headers(
    bytes: &[u8],
    headers: Span,
    mut each: impl FnMut(&[u8], Option<&[u8]>),
) -> Result<(), Damage> {
    let bytes = headers.of(bytes);
    let mut at = 0;
    let count = varint(bytes, &mut at).ok_or(Damage("a header ends behind its record"))?;
    for _ in 0..count {
        let name = span(bytes, &mut at)?.ok_or(Damage("a header has no name"))?;
        let value = span(bytes, &mut at)?;
        each(name.of(bytes), value.map(|value| value.of(bytes)));
    }
    Ok(())
}

/// A length and that many bytes; `None` where the length is -1.
#[inline]
fn span(bytes: &[u8], at: &mut usize) -> Result<Option<Span>, Damage> {
    const SHORT: Damage = Damage("a field ends behind its record");
    let length = varint(bytes, at).ok_or(SHORT)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Damage("a field's length is negative"))?;
    let end = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(SHORT)?;
    let span = Span { start: *at as u32, end: end as u32 };
    *at = end;
    Ok(Some(span))
}

/// A number of one to ten bytes, seven bits in each, its sign in the lowest.
#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let first = *bytes.get(*at)?;
    *at += 1;
    let mut raw = u64::from(first & 0x7f);
    if first & 0x80 != 0 {
        let mut shift = 7;
        loop {
            let byte = *bytes.get(*at)?;
            *at += 1;
            raw |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
    }
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn int32(bytes: &[u8; HEADER], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn int64(bytes: &[u8; HEADER], at: usize) -> i64 {
    i64::from(int32(bytes, at)) << 32 | i64::from(int32(bytes, at + 4) as u32)
}
