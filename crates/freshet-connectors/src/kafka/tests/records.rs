//! The walk over batches against `kafka-protocol`'s decoder, and over damaged bytes.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression as Theirs, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
};
use kafka_protocol::records::{Record, TimestampType};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::kafka::batch::{BatchBuilder, partition_of};
use crate::kafka::compression::{compress, decompress};
use crate::kafka::records::{BatchHeader, Compression, HEADER, walk, walk_headers};

const ALL: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

type Message = (Option<Vec<u8>>, Option<Vec<u8>>, i64, Vec<(String, Option<Vec<u8>>)>);

fn message() -> impl Strategy<Value = Message> {
    let bytes = || option::of(vec(any::<u8>(), 0..200));
    (bytes(), bytes(), 1_i64..1 << 41, vec(("[a-z]{0,9}", bytes()), 0..3))
}

/// Offset, time, key, value, headers of all records, as this crate reads them.
#[allow(clippy::type_complexity, reason = "it is the message, and its offset")]
fn ours(batch: &[u8]) -> Vec<(i64, Message)> {
    let header = BatchHeader::parse(batch).unwrap().unwrap();
    assert!(header.is_sound(batch));
    let mut bytes = Vec::new();
    decompress(header.compression().unwrap(), header.payload(batch), 1 << 20, &mut bytes).unwrap();
    let mut records = Vec::new();
    walk(&bytes, header.count, |record| {
        let mut headers = Vec::new();
        walk_headers(&bytes, record.headers, |name, value| {
            headers.push((String::from_utf8(name.to_vec()).unwrap(), value.map(<[u8]>::to_vec)));
        })
        .unwrap();
        let part =
            |span: Option<crate::kafka::records::Span>| span.map(|span| span.of(&bytes).to_vec());
        records.push((
            header.base_offset + i64::from(record.offset_delta),
            (
                part(record.key),
                part(record.value),
                header.base_timestamp + record.timestamp_delta,
                headers,
            ),
        ));
    })
    .unwrap();
    records
}

fn theirs(batch: &[u8]) -> Vec<(i64, Message)> {
    let mut bytes = Bytes::copy_from_slice(batch);
    let unpack = |bytes: &mut Bytes, compression: Theirs| {
        let ours = ALL[compression as usize];
        let mut out = Vec::new();
        decompress(ours, bytes, 1 << 20, &mut out)?;
        Ok(Bytes::from(out))
    };
    let set = RecordBatchDecoder::decode_with_custom_compression(&mut bytes, Some(unpack)).unwrap();
    let records = set.records.into_iter().map(|record| {
        let headers = record.headers.into_iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.map(|v| v.to_vec())));
        let (key, value) = (record.key.map(|b| b.to_vec()), record.value.map(|b| b.to_vec()));
        (record.offset, (key, value, record.timestamp, headers.collect()))
    });
    records.collect()
}

proptest! {
    #[test]
    fn batches_that_we_write_are_read_the_same_by_both(
        mut messages in vec(message(), 1..20),
        compression in 0..5_usize,
    ) {
        for (_, _, _, headers) in &mut messages {
            // Theirs holds one header of a name.
            headers.sort();
            headers.dedup_by(|a, b| a.0 == b.0);
        }
        let mut builder = BatchBuilder::default();
        for (key, value, time, headers) in &messages {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v.as_deref())).collect();
            builder.push(key.as_deref(), value.as_deref(), &headers, *time);
        }
        let batch = builder.finish(ALL[compression]).unwrap();
        let ours = ours(&batch);
        prop_assert_eq!(&ours, &theirs(&batch));
        let read: Vec<_> = ours.into_iter().map(|(_, message)| message).collect();
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn batches_that_they_write_are_read_the_same_by_both(
        messages in vec(message(), 1..20),
        first in 0_i64..1 << 40,
        compression in 0..5_usize,
    ) {
        let records: Vec<Record> = messages.iter().enumerate().map(|(index, (key, value, time, headers))| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 3,
            producer_id: 7,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: first + 2 * index as i64,
            sequence: 2 * index as i32,
            timestamp: *time,
            key: key.clone().map(Bytes::from),
            value: value.clone().map(Bytes::from),
            headers: headers.iter().map(|(n, v)| (n.clone().into(), v.clone().map(Bytes::from))).collect(),
        }).collect();
        let options = RecordEncodeOptions {
            version: 2,
            compression: [Theirs::None, Theirs::Gzip, Theirs::Snappy, Theirs::Lz4, Theirs::Zstd][compression],
        };
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode_with_custom_compression(&mut batch, &records, &options, Some(
            |bytes: &mut BytesMut, out: &mut BytesMut, kind: Theirs| {
                out.extend_from_slice(&compress(ALL[kind as usize], bytes)?);
                Ok(())
            },
        )).unwrap();
        prop_assert_eq!(ours(&batch), theirs(&batch));
    }

    #[test]
    fn damaged_batches_are_noticed_and_never_panic(
        messages in vec(message(), 1..9),
        compression in 0..5_usize,
        at: prop::sample::Index,
        byte: u8,
        length: prop::sample::Index,
    ) {
        let mut builder = BatchBuilder::default();
        for (key, value, time, _) in &messages {
            builder.push(key.as_deref(), value.as_deref(), &[], *time);
        }
        let whole = builder.finish(ALL[compression]).unwrap();
        let mut batch = whole.clone();
        let at = at.index(batch.len());
        batch[at] = byte;
        if let Ok(Some(header)) = BatchHeader::parse(&batch) {
            // Behind the checksum every bit is covered.
            prop_assert!(at < 21 || batch == whole || !header.is_sound(&batch));
            // A walk over it ends all the same.
            let mut bytes = Vec::new();
            if let Ok(compression) = header.compression()
                && decompress(compression, header.payload(&batch), 1 << 16, &mut bytes).is_ok()
            {
                let _ = walk(&bytes, header.count, |record| {
                    let _ = walk_headers(&bytes, record.headers, |_, _| {});
                });
            }
        }
        let cut = length.index(whole.len());
        prop_assert_eq!(BatchHeader::parse(&whole[..cut]).unwrap(), None);
    }

    #[test]
    fn any_bytes_are_walked_over_without_a_panic(bytes: Vec<u8>, count in 0..100_i32, compression in 0..5_usize) {
        let _ = walk(&bytes, count, |record| {
            let _ = walk_headers(&bytes, record.headers, |_, _| {});
        });
        let _ = BatchHeader::parse(&bytes);
        let _ = decompress(ALL[compression], &bytes, 1 << 16, &mut Vec::new());
    }
}

#[test]
fn decompression_stops_at_its_limit() {
    let zeros = vec![0; 1 << 20];
    for compression in &ALL[1..] {
        let small = compress(*compression, &zeros).unwrap();
        let error = decompress(*compression, &small, 1000, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("max_batch_bytes"), "{compression:?}: {error}");
    }
}

#[test]
fn snappy_in_frames_is_read() {
    let text = b"one two three one two three".repeat(100);
    let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for part in text.chunks(1000) {
        let block = compress(Compression::Snappy, part).unwrap();
        framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        framed.extend_from_slice(&block);
    }
    let mut out = Vec::new();
    decompress(Compression::Snappy, &framed, text.len(), &mut out).unwrap();
    assert_eq!(out, text);
    framed.pop();
    assert!(decompress(Compression::Snappy, &framed, text.len(), &mut Vec::new()).is_err());
}

#[test]
fn keys_go_where_java_sends_them() {
    // From the tests of Kafka's own client: murmur2 of these, made positive.
    let hash = |key: &str| partition_of(key.as_bytes(), i32::MAX);
    let java = |hash: i32| (hash & 0x7fff_ffff) % i32::MAX;
    for (key, expected) in [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ] {
        assert_eq!(hash(key), java(expected), "{key}");
    }
}

#[test]
fn old_batches_are_told_from_damaged_ones() {
    let mut bytes = [0; HEADER];
    bytes[11] = 49;
    bytes[16] = 1;
    let damage = BatchHeader::parse(&bytes).unwrap_err();
    assert!(damage.to_string().contains("0.11"), "{damage}");
}
