//! Runs in memory, read as one.

use std::collections::HashMap;

use freshet_core::error::code;

use super::*;
use crate::checkpoint::write_run;
use crate::state::{Delta, KeyGroup};

const ALL: KeyGroupRange = KeyGroupRange { start: 0, end: u16::MAX };

/// Files in memory.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Files(pub(in crate::checkpoint) HashMap<String, Bytes>);

impl Fetch for Files {
    fn fetch<'a>(&'a self, file: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        let bytes = &self.0[file];
        let end = (range.end as usize).min(bytes.len());
        let piece = bytes.slice((range.start as usize).min(end)..end);
        Box::pin(async move { Ok(piece) })
    }
}

/// Runs as files in memory.
pub(super) fn in_memory(runs: &[(&str, &[u8])]) -> (Vec<RunRef>, Files) {
    let mut files = Files::default();
    let refs = runs.iter().enumerate().map(|(number, (name, bytes))| {
        let file = format!("{name} {number}");
        files.0.insert(file.clone(), Bytes::copy_from_slice(bytes));
        let len = bytes.len() as u64;
        RunRef { file, offset: 0, len, entries: 0, groups: ALL, expires: BTreeMap::new() }
    });
    (refs.collect(), files)
}

fn run(entries: &[(u16, &str, Option<&str>)]) -> Bytes {
    let mut delta = Delta::default();
    for (group, key, value) in entries {
        match value {
            Some(value) => delta.set(Entry {
                group: KeyGroup(*group),
                table: 0,
                key: key.as_bytes(),
                expires: EventTime(i64::from(*group)),
                value: value.as_bytes(),
            }),
            None => delta.remove(KeyGroup(*group), 0, key.as_bytes()),
        }
        .expect("it fits");
    }
    let (bytes, count) = write_run(&mut delta);
    assert_eq!(count, entries.len() as u64);
    bytes
}

fn merged(runs: &[Bytes], floor: i64, groups: KeyGroupRange) -> Result<Vec<String>> {
    let runs: Vec<_> = runs.iter().map(|bytes| ("a run", bytes.as_ref())).collect();
    let mut seen = Vec::new();
    merge_runs(
        &runs,
        |_| EventTime(floor),
        groups,
        |entries| {
            seen.extend(entries.iter().map(|entry| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                format!("{} {}={}", entry.group.0, text(entry.key), text(entry.value))
            }));
            Ok(())
        },
    )?;
    Ok(seen)
}

#[test]
fn the_newest_run_decides() {
    let old = run(&[(1, "a", Some("old")), (1, "b", Some("old")), (2, "a", Some("old"))]);
    let new = run(&[(1, "a", Some("new")), (1, "b", None), (3, "c", Some("new"))]);
    let both = [old, new];
    assert_eq!(merged(&both, 0, ALL).expect("sound"), ["1 a=new", "2 a=old", "3 c=new"]);
    assert_eq!(merged(&both, 1, ALL).expect("sound"), ["2 a=old", "3 c=new"]);
    let some = KeyGroupRange { start: 2, end: 3 };
    assert_eq!(merged(&both, 0, some).expect("sound"), ["2 a=old"]);
    assert!(merged(&[], 0, ALL).expect("sound").is_empty());
}

#[test]
fn long_keys_that_begin_alike_are_told_apart() {
    let keys = ["", "a", "a\0", "aaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaab"];
    let runs = keys.map(|key| run(&[(7, key, Some("x"))]));
    let seen = merged(&runs, 0, ALL).expect("sound");
    assert_eq!(seen, keys.map(|key| format!("7 {key}=x")));
}

#[test]
fn damage_anywhere_is_found() {
    let long = "x".repeat(3000);
    let keys: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    let entries: Vec<_> = keys.iter().map(|key| (1, key.as_str(), Some(long.as_str()))).collect();
    let sound = run(&entries);
    assert_eq!(merged(std::slice::from_ref(&sound), 0, ALL).expect("sound").len(), 100);
    assert!(sound.len() > 3 * (64 << 10), "several blocks");
    for at in (0..sound.len()).step_by(1009) {
        let mut bytes = sound.to_vec();
        bytes[at] ^= 0x10;
        let error = merged(&[bytes.into()], 0, ALL).expect_err("a bit was turned");
        assert_eq!(error.code(), code::STATE);
        if at > 0 && at < sound.len() {
            let cut = merged(&[sound.slice(..at)], 0, ALL);
            // A cut between two blocks is found by the manifest, which knows the length.
            assert!(cut.is_err() || cut.is_ok_and(|seen| seen.len() < 100));
        }
    }
}
