//! The frame: records of one partition that were made durable together, as they lie on disk.
//!
//! A frame is a header, then the name of its idempotency key, the places of its values, its keys and
//! its values. Numbers are little-endian. It knows nothing of files.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `FLF1` |
//! | 4 | 4 | bytes of the frame |
//! | 8 | 8 | XXH3 of all that follows |
//! | 16 | 8 | offset of the first record |
//! | 24 | 8 | time of arrival, microseconds since 1970 |
//! | 32 | 4 | records |
//! | 36 | 2 | whether records have keys (1) |
//! | 38 | 2 | bytes of the idempotency key's name; 0 where there is none |
//! | 40 | 4 | frames of the request, over all partitions |
//! | 44 | 4 | the partition's number |
//! | 48 | 16 | digest of the request's body |
//! | 64 | 8 | the offset up to which the partition was durable when the frame was written |
//! | 72 | | the key's name; for each record where its value ends among the values; with keys, where each record's key ends among the keys (the highest bit says that it has none), then the keys; then the values, each with a line feed behind it |
//!
//! The line feeds make the values a run of lines where no value holds one.

use std::ops::Range;

use bytes::Bytes;
use freshet_core::ingest::{IdempotencyKey, Record};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 72;
const MAGIC: [u8; 4] = *b"FLF1";
const KEYS: u16 = 1;
const NO_KEY: u32 = 1 << 31;

/// The idempotency key of the request that a frame belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub key: IdempotencyKey,
    /// Frames of the request.
    pub parts: u32,
}

/// What a frame's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the whole frame.
    pub len: usize,
    checksum: u64,
    pub base: u64,
    pub time: i64,
    pub count: u32,
    flags: u16,
    name_len: u16,
    parts: u32,
    pub partition: u32,
    digest: u128,
    /// What lies before this offset was durable when the frame was written.
    pub settled: u64,
}

impl Header {
    /// The offset behind the last record.
    pub fn next(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Bytes up to the end of the idempotency key's name.
    pub fn stamp_end(&self) -> usize {
        HEADER + usize::from(self.name_len)
    }

    /// The stamp; `bytes` hold the frame up to [`Self::stamp_end`].
    pub fn stamp(&self, bytes: &[u8]) -> Option<Stamp> {
        let name = bytes.get(HEADER..self.stamp_end()).filter(|name| !name.is_empty())?;
        let name = String::from_utf8_lossy(name).into_owned();
        let key = IdempotencyKey { name, digest: self.digest };
        Some(Stamp { key, parts: self.parts })
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// They end before the frame does: it has so many bytes, or a header that is not there whole.
    Short(usize),
    /// They are not what was written.
    Damaged(&'static str),
}

/// Appends the frame of these records, of which there is at least one.
pub(super) fn encode(
    partition: u32,
    base: u64,
    settled: u64,
    time: i64,
    records: &[Record],
    stamp: Option<&Stamp>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let keyed = records.iter().any(|record| record.key.is_some());
    out.reserve(encoded_len(records, stamp));
    let name = stamp.map_or("", |stamp| stamp.key.name.as_str());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&time.to_le_bytes());
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    out.extend_from_slice(&(if keyed { KEYS } else { 0 }).to_le_bytes());
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&stamp.map_or(1, |stamp| stamp.parts).to_le_bytes());
    out.extend_from_slice(&partition.to_le_bytes());
    out.extend_from_slice(&stamp.map_or(0, |stamp| stamp.key.digest).to_le_bytes());
    out.extend_from_slice(&settled.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    let mut end = 0u32;
    for record in records {
        end += record.value.len() as u32;
        out.extend_from_slice(&end.to_le_bytes());
        end += 1;
    }
    if keyed {
        let mut end = 0u32;
        for record in records {
            let none = if record.key.is_none() { NO_KEY } else { 0 };
            end += record.key.as_ref().map_or(0, |key| key.len() as u32);
            out.extend_from_slice(&(end | none).to_le_bytes());
        }
        for key in records.iter().filter_map(|record| record.key.as_ref()) {
            out.extend_from_slice(key);
        }
    }
    for record in records {
        out.extend_from_slice(&record.value);
        out.push(b'\n');
    }
    let len = (out.len() - start) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    let checksum = xxh3_64(&out[start + 16..]);
    out[start + 8..start + 16].copy_from_slice(&checksum.to_le_bytes());
}

/// Bytes that a frame of these records takes at most.
pub(super) fn encoded_len(records: &[Record], stamp: Option<&Stamp>) -> usize {
    let name = stamp.map_or(0, |stamp| stamp.key.name.len());
    HEADER + name + records.iter().map(record_len).sum::<usize>()
}

/// Bytes that one record takes in a frame at most.
pub(super) fn record_len(record: &Record) -> usize {
    record.value.len() + record.key.as_ref().map_or(0, Bytes::len) + 9
}

/// What the header of the frame at the start of `bytes` says, without looking at the rest.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Bad> {
    let Some(head) = bytes.get(..HEADER) else {
        let there = bytes.len().min(4);
        if bytes[..there] != MAGIC[..there] {
            return Err(Bad::Damaged("a frame was expected"));
        }
        return Err(Bad::Short(HEADER));
    };
    if head[..4] != MAGIC {
        return Err(Bad::Damaged("a frame was expected"));
    }
    let header = Header {
        len: word(head, 4) as usize,
        checksum: long(head, 8),
        base: long(head, 16),
        time: long(head, 24) as i64,
        count: word(head, 32),
        flags: u16::from_le_bytes([head[36], head[37]]),
        name_len: u16::from_le_bytes([head[38], head[39]]),
        parts: word(head, 40),
        partition: word(head, 44),
        digest: u128::from(long(head, 48)) | u128::from(long(head, 56)) << 64,
        settled: long(head, 64),
    };
    let least = header.stamp_end() + 5 * header.count as usize;
    if header.count == 0
        || header.len < least
        || header.base.checked_add(u64::from(header.count)).is_none()
    {
        return Err(Bad::Damaged("the header of a frame makes no sense"));
    }
    Ok(header)
}

/// Checks the frame at the start of `bytes` and all of its content.
pub(super) fn check(bytes: &[u8]) -> Result<Header, Bad> {
    let header = header(bytes)?;
    let Some(content) = bytes.get(16..header.len) else { return Err(Bad::Short(header.len)) };
    if xxh3_64(content) != header.checksum {
        return Err(Bad::Damaged("a frame's checksum is wrong"));
    }
    Ok(header)
}

/// The records of a frame, by their places.
#[derive(Debug)]
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    count: usize,
    /// Where the tables of ends and the areas behind them begin.
    ends: usize,
    key_ends: Option<usize>,
    keys: usize,
    values: usize,
}

impl<'a> Records<'a> {
    /// The records of the frame at the start of `bytes`, of which [`check`] gave `header`.
    pub fn new(bytes: &'a [u8], header: &Header) -> Result<Self, Bad> {
        const WRONG: Bad = Bad::Damaged("the tables of a frame make no sense");
        let bytes = bytes.get(..header.len).ok_or(Bad::Short(header.len))?;
        let count = header.count as usize;
        let ends = header.stamp_end();
        let behind = ends + 4 * count;
        let keyed = header.flags & KEYS != 0;
        let (key_ends, keys, values) = if keyed {
            let keys = behind + 4 * count;
            let last = bytes.get(keys - 4..keys).ok_or(WRONG)?;
            (Some(behind), keys, keys + (word(last, 0) & !NO_KEY) as usize)
        } else {
            (None, behind, behind)
        };
        let records = Self { bytes, count, ends, key_ends, keys, values };
        // What the checksum holds was written so; it is looked at all the same, once for each frame.
        let mut last = 0;
        for index in 0..count {
            let end = word(bytes, ends + 4 * index) as usize;
            if end < last || values + end >= bytes.len() {
                return Err(WRONG);
            }
            last = end + 1;
        }
        if values + last != bytes.len() {
            return Err(WRONG);
        }
        if let Some(key_ends) = key_ends {
            let mut last = 0;
            for index in 0..count {
                let end = word(bytes, key_ends + 4 * index) & !NO_KEY;
                if end < last {
                    return Err(WRONG);
                }
                last = end;
            }
        }
        Ok(records)
    }

    /// Where each value lies in the frame.
    pub fn values(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut start = self.values;
        self.bytes[self.ends..self.ends + 4 * self.count].chunks_exact(4).map(move |end| {
            let range = start..self.values + word(end, 0) as usize;
            start = range.end + 1;
            range
        })
    }

    /// The key of a record.
    pub fn key(&self, index: usize) -> Option<&'a [u8]> {
        let ends = self.key_ends?;
        let end_of = |index: usize| word(self.bytes, ends + 4 * index);
        let end = end_of(index);
        let start = if index == 0 { 0 } else { end_of(index - 1) & !NO_KEY };
        (end & NO_KEY == 0)
            .then(|| &self.bytes[self.keys + start as usize..self.keys + end as usize])
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(name: &str) -> Stamp {
        let key = IdempotencyKey { name: name.to_owned(), digest: u128::MAX - 7 };
        Stamp { key, parts: 3 }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::option::of("[a-z\n]{0,4}")), 1..9),
            name in prop::option::of("[a-z]{1,9}"),
            base in 0..u64::MAX / 2,
            time: i64,
        ) {
            let records: Vec<Record> = records
                .into_iter()
                .map(|(value, key)| Record { value: value.into(), key: key.map(|key| key.into_bytes().into()) })
                .collect();
            let stamp = name.as_deref().map(stamp);
            let mut bytes = b"before".to_vec();
            encode(5, base, base / 2, time, &records, stamp.as_ref(), &mut bytes);
            prop_assert!(bytes.len() - 6 <= encoded_len(&records, stamp.as_ref()));
            bytes.extend_from_slice(b"behind");
            let bytes = &bytes[6..];
            let header = check(bytes).expect("it is whole");
            prop_assert_eq!((header.base, header.time, header.len), (base, time, bytes.len() - 6));
            prop_assert_eq!(header.partition, 5);
            prop_assert_eq!(header.next(), base + records.len() as u64);
            prop_assert_eq!(header.stamp(bytes), stamp);
            let read = Records::new(bytes, &header).expect("it is sound");
            let back: Vec<Record> = read
                .values()
                .enumerate()
                .map(|(index, range)| Record {
                    value: Bytes::copy_from_slice(&bytes[range]),
                    key: read.key(index).map(Bytes::copy_from_slice),
                })
                .collect();
            prop_assert_eq!(back, records);
        }

        #[test]
        fn no_byte_can_change_or_be_missing_unseen(at: prop::sample::Index, bit in 0..8, cut: bool) {
            let records = [Record::keyed("k", "one"), Record::new("two\n")];
            let mut bytes = Vec::new();
            encode(3, 7, 5, 9, &records, Some(&stamp("x")), &mut bytes);
            let at = at.index(bytes.len());
            if cut {
                let short = matches!(check(&bytes[..at]), Err(Bad::Short(_)));
                prop_assert!(short, "{} bytes", at);
            } else {
                bytes[at] ^= 1u8 << bit;
                prop_assert!(check(&bytes).is_err(), "bit {} of byte {}", bit, at);
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, marked: bool) {
            if marked && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            if let Ok(header) = header(&bytes) {
                let _ = (header.stamp(&bytes), Records::new(&bytes, &header).is_ok());
            }
        }
    }
}
