//! Any course of appends, failures of the disk, deaths of the process and power cuts: what was
//! answered is there exactly once, at the place that the answer told; the rest whole or not at all.

use std::panic::{AssertUnwindSafe, catch_unwind};

use freshet_core::source::Position;
use freshet_core::stream::Partition;
use freshet_testkit::fault::Fault;
use freshet_testkit::{Mutant, seeds};
use rand::Rng;
use rand::rngs::SmallRng;

use super::super::reader;
use super::*;

/// A request and what is known of it.
#[derive(Debug)]
struct Sent {
    records: Vec<Record>,
    key: Option<String>,
    /// What belongs into each partition.
    parts: BTreeMap<u32, Vec<Record>>,
    answer: Option<Appended>,
}

/// Runs one course on `files`, checking after each start.
fn course(seed: u64, files: FaultFs) {
    let mut rng = seeds::rng(seed);
    let partitions = rng.random_range(1..4);
    // Where old records go, so do their keys.
    let retention_bytes = rng.random_bool(0.3).then_some(ByteSize(1500));
    let mut bench = Bench::over(files, LogOptions { retention_bytes, ..options(partitions) });
    let mut sent: Vec<Sent> = Vec::new();
    // Another process reads: with it, no sync fails, whose loss only the one who asked would hear of.
    let reads = retention_bytes.is_none() && rng.random_bool(0.5);
    let mut seen = BTreeMap::new();
    for _ in 0..rng.random_range(2..6) {
        for _ in 0..rng.random_range(1..12) {
            match rng.random_range(0..12) {
                0 | 1 if reads => look(&bench, &mut seen),
                0 => bench.files.fail_at(rng.random_range(1..6), Fault::Io),
                1 => bench.files.fail_at(rng.random_range(1..6), Fault::NoSpace),
                2 => bench.files.kill_at(rng.random_range(1..12)),
                3 => {
                    if let Some(writer) = &mut bench.writer {
                        let _ = writer.retain();
                    }
                }
                _ => group(&mut bench, &mut sent, &mut rng),
            }
        }
        if reads && rng.random_bool(0.7) {
            // The writer is dead, and what it left is read before anybody settles it.
            bench.writer = None;
            bench.files.restart();
            look(&bench, &mut seen);
        }
        if rng.random_bool(0.6) {
            bench.files.crash();
        } else {
            bench.files.restart();
        }
        if rng.random_bool(0.2) {
            // It dies again while it starts.
            bench.files.kill_at(rng.random_range(1..8));
            let _ = bench.open();
            bench.files.crash();
        }
        bench.open().unwrap();
        check(&bench, &sent);
        let contents = bench.contents().unwrap();
        for ((partition, offset), record) in &seen {
            let found = contents[partition].iter().find(|(at, _)| at == offset);
            assert_eq!(found.map(|(_, record)| record), Some(record), "what was read is there");
        }
        // Whoever had no answer asks again, where they can.
        for request in sent.iter_mut().filter(|sent| sent.answer.is_none()) {
            if let Some(key) = request.key.clone() {
                request.answer = Some(bench.append(&request.records, Some(&key)).unwrap());
            }
        }
        check(&bench, &sent);
    }
}

/// Reads all that there is, as another process would.
fn look(bench: &Bench, seen: &mut BTreeMap<(u32, u64), Record>) {
    let files: Arc<dyn FileSystem> = bench.files.clone();
    let Ok(place) = Place::open(files, PathBuf::from(ROOT), bench.options.partitions) else {
        return;
    };
    for partition in 0..bench.options.partitions {
        // Where the process was killed, it has read nothing.
        for (_, bytes) in reader::drain(&place, partition).unwrap_or_default() {
            let mut at = 0;
            while at < bytes.len() {
                let header = frame::check(&bytes[at..]).unwrap();
                let records = frame::Records::new(&bytes[at..], &header).unwrap();
                for (index, range) in records.values().enumerate() {
                    let value = Bytes::copy_from_slice(&bytes[at..][range]);
                    let key = records.key(index).map(Bytes::copy_from_slice);
                    let record = Record { value, key };
                    let offset = header.base + index as u64;
                    let before = seen.insert((partition, offset), record.clone());
                    assert!(before.is_none_or(|before| before == record), "an offset means one");
                }
                at += header.len;
            }
        }
    }
}

fn group(bench: &mut Bench, sent: &mut Vec<Sent>, rng: &mut SmallRng) {
    let mut drafts = Vec::new();
    let mut numbers = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let known: Vec<usize> =
            (0..sent.len()).filter(|index| sent[*index].key.is_some()).collect();
        let number = if rng.random_bool(0.2) && !known.is_empty() {
            known[rng.random_range(0..known.len())]
        } else {
            let number = sent.len();
            let records = (0..rng.random_range(1..6)).map(|index| {
                let key = rng.random_bool(0.7).then(|| format!("k{}", rng.random_range(0..5)));
                let value = format!("{number}/{index}");
                Record { value: value.into(), key: key.map(Into::into) }
            });
            let records = records.collect();
            let keyed = bench.options.retention_bytes.is_none() && rng.random_bool(0.5);
            let key = keyed.then(|| format!("request {number}"));
            sent.push(Sent { records, key, parts: BTreeMap::new(), answer: None });
            number
        };
        let Sent { records, key, parts, .. } = &mut sent[number];
        let draft = bench.draft(records, key.as_deref());
        parts.clone_from(&draft.parts);
        drafts.push(draft);
        numbers.push(number);
    }
    if bench.writer.is_none() {
        return;
    }
    for (number, answer) in numbers.into_iter().zip(bench.writer().commit(drafts)) {
        if let Ok(answer) = answer {
            let sent = &mut sent[number];
            if let Some(before) = &sent.answer {
                assert_eq!(answer.positions, before.positions, "a repetition has the same answer");
            }
            sent.answer = Some(answer);
        }
    }
}

fn check(bench: &Bench, sent: &[Sent]) {
    let contents = bench.contents().unwrap();
    for (number, request) in sent.iter().enumerate() {
        let prefix = format!("{number}/");
        for (partition, records) in &contents {
            let there: Vec<&(u64, Record)> = records
                .iter()
                .filter(|(_, record)| record.value.starts_with(prefix.as_bytes()))
                .collect();
            let part = request.parts.get(partition).map_or(&[][..], Vec::as_slice);
            let position = request.answer.as_ref().and_then(|answer| {
                answer.positions.get(&Partition(partition.to_string())).copied()
            });
            let oldest = records.first().map_or(u64::MAX, |(offset, _)| *offset);
            if bench.options.retention_bytes.is_some()
                && there.is_empty()
                && position.is_some_and(|position| position.0 <= oldest)
            {
                continue;
            }
            let Some((last, _)) = there.last() else {
                assert_eq!(position, None, "request {number} was answered and is not there");
                continue;
            };
            let values: Vec<Record> = there.iter().map(|(_, record)| record.clone()).collect();
            assert_eq!(values, part, "request {number} in {partition} is whole, once, in order");
            if request.answer.is_some() {
                assert_eq!(position, Some(Position(last + 1)), "request {number} is where it was");
            }
        }
        if let Some(answer) = &request.answer {
            assert_eq!(answer.positions.len(), request.parts.len());
        }
    }
}

#[test]
fn what_was_answered_survives_everything() {
    seeds::for_each(0..600, |seed| course(seed, FaultFs::new(seed)));
}

#[test]
fn leaving_out_a_sync_is_noticed() {
    let noticed = |mutant: Mutant, at: fn(&Path) -> bool| {
        (0..100).any(|seed| {
            let files = FaultFs::new(seed).with_mutant_at(mutant, at);
            catch_unwind(AssertUnwindSafe(|| course(seed, files))).is_err()
        })
    };
    std::panic::set_hook(Box::new(|_| {}));
    let found = [
        (
            "a segment",
            noticed(Mutant::IgnoreSyncFile, |path| {
                path.ends_with("seg") || path.to_string_lossy().ends_with(".seg")
            }),
        ),
        (
            "log.json",
            noticed(Mutant::IgnoreSyncFile, |path| path.to_string_lossy().ends_with("log.json")),
        ),
        (
            "a partition's folder",
            noticed(Mutant::IgnoreSyncDir, |path| path.parent() == Some(Path::new(ROOT))),
        ),
        ("the log's folder", noticed(Mutant::IgnoreSyncDir, |path| path == Path::new(ROOT))),
        ("the folder above", noticed(Mutant::IgnoreSyncDir, |path| path == Path::new("/data"))),
    ];
    let _ = std::panic::take_hook();
    for (what, noticed) in found {
        assert!(noticed, "nobody noticed that {what} was not synchronised");
    }
}
