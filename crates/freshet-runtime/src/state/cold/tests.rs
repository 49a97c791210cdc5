//! Entries on disk against a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::state::MemoryScratch;

#[derive(Debug, Clone)]
enum Step {
    /// A key, the length of its value, the time that goes by before, and whether no checkpoint has it.
    Add(u8, usize, i64, bool),
    Take(u8),
    Tend,
    Expire(i64),
    Freeze,
    /// Gives so many entries to the checkpoint.
    Drain(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8 => 0_usize..300, 1 => 5_000_usize..600_000];
    let step = prop_oneof![
        6 => (any::<u8>(), length, 0_i64..4, any::<bool>())
            .prop_map(|(key, len, time, changed)| Step::Add(key, len, time, changed)),
        6 => any::<u8>().prop_map(Step::Take),
        2 => Just(Step::Tend),
        1 => (0_i64..100).prop_map(Step::Expire),
        1 => Just(Step::Freeze),
        2 => (0_usize..30).prop_map(Step::Drain),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// All keys have few hashes, so that several are held against each other.
    #[test]
    fn entries_are_what_a_map_holds(steps in steps(), hashes in 1_u64..20) {
        let hash = |key: u8| (u64::from(key) % hashes) | (u64::from(key) << 40);
        let mut cold = Cold::new(Arc::new(MemoryScratch::default()), 10);
        cold.slack = 1000;
        let mut plain = BTreeMap::<u8, (Vec<u8>, i64)>::new();
        let mut now = 0;
        // What the next checkpoint is to be given, what the one that is being made, and what it was given.
        let (mut next, mut owed) = (BTreeMap::new(), BTreeMap::<u8, Vec<u8>>::new());
        let mut given = BTreeMap::new();
        let mut is_frozen = false;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Add(key, len, time, changed) => {
                    now += time;
                    let value = vec![number as u8; len];
                    if plain.contains_key(&key) {
                        continue;
                    }
                    cold.add(hash(key), &[key; 3], &value, now, changed).expect("there is room");
                    cold.write().expect("there is room");
                    if changed {
                        next.insert(key, value.clone());
                    }
                    plain.insert(key, (value, now));
                }
                Step::Take(key) => {
                    let taken = cold.take(hash(key), &[key; 3]).expect("it is sound");
                    let value = plain.remove(&key).map(|(value, _)| value);
                    prop_assert_eq!(taken.as_ref().map(|taken| taken.value.to_vec()), value);
                    let Some(taken) = taken else { continue };
                    prop_assert_eq!(taken.owed == Owed::Next, next.remove(&key).is_some());
                    if taken.owed == Owed::Now {
                        given.insert(key, taken.value.to_vec());
                    }
                }
                Step::Freeze if !is_frozen => {
                    cold.freeze();
                    (owed, given, is_frozen) = (std::mem::take(&mut next), BTreeMap::new(), true);
                }
                Step::Drain(count) if is_frozen => {
                    for _ in 0..count {
                        let more = cold.drain(|of, key, value| {
                            assert_eq!((of, key), (hash(key[0]), [key[0]; 3].as_slice()));
                            given.insert(key[0], value.to_vec());
                            Ok(())
                        });
                        if !more.expect("it is sound") {
                            prop_assert_eq!(&given, &owed);
                            is_frozen = false;
                            break;
                        }
                    }
                }
                Step::Freeze | Step::Drain(_) => {}
                Step::Tend => cold.tend().expect("there is room"),
                Step::Expire(age) => {
                    let mut expired = Vec::new();
                    let each = |of: u64, key: &[u8], owed: Option<&[u8]>| {
                        expired.push((of, key.to_vec()));
                        next.remove(&key[0]);
                        given.extend(owed.map(|value| (key[0], value.to_vec())));
                        Ok(())
                    };
                    cold.expire(now - age, each).expect("it is sound");
                    for (of, key) in expired {
                        let (_, seen) = plain.remove(&key[0]).expect("it is there, and once");
                        prop_assert!(seen <= now - age && of == hash(key[0]) && key == [key[0]; 3]);
                    }
                    // What is left of the old is as young as the span at least.
                    prop_assert!(plain.values().all(|(_, seen)| *seen > now - age - 11));
                    let deadline = cold.deadline(age);
                    prop_assert!(deadline.is_none_or(|deadline| deadline > now));
                }
            }
            prop_assert_eq!((cold.len(), cold.is_empty()), (plain.len(), plain.is_empty()));
        }
        for (key, (value, _)) in plain {
            let taken = cold.take(hash(key), &[key; 3]).expect("it is sound");
            prop_assert_eq!(taken.map(|taken| taken.value), Some(value.as_slice()));
        }
        cold.close().expect("there is room");
        prop_assert!(cold.files.iter().all(Option::is_none) && cold.dead + cold.live == 0);
    }
}

#[test]
fn holes_are_bounded_and_so_is_the_memory() {
    let mut cold = Cold::new(Arc::new(MemoryScratch::default()), i64::MAX);
    cold.slack = 0;
    let hash = |key: u64| xxh3_64(&key.to_le_bytes());
    let mut count = 0_u64;
    for round in 0..40_u64 {
        for key in 0..5_000_u64 {
            let key = key * 40 + round;
            cold.add(hash(key), &key.to_le_bytes(), &[round as u8; 50], 0, false)
                .expect("there is room");
            count += 1;
        }
        cold.write().expect("there is room");
        // Half of them come back at once.
        for key in 0..2_500_u64 {
            let key = key * 80 + round;
            assert!(cold.take(hash(key), &key.to_le_bytes()).expect("it is sound").is_some());
            count -= 1;
        }
        for _ in 0..20 {
            cold.tend().expect("there is room");
        }
        assert!(cold.dead <= cold.live + FILE_BYTES, "{} of {}", cold.dead, cold.live);
    }
    assert_eq!(cold.len() as u64, count);
    let each = cold.bytes() / cold.len();
    assert!(each < 26, "{each} bytes an entry");
}

#[test]
fn damage_is_found() {
    let scratch: Arc<dyn Scratch> = Arc::new(MemoryScratch::default());
    let mut cold = Cold::new(scratch, 0);
    cold.add(7, b"key", b"value", 0, false).expect("there is room");
    // It is read before it was written.
    assert!(cold.take(7, b"key").is_err());
    cold.write().expect("there is room");
    assert_eq!(cold.take(8, b"key").expect("another hash"), None);
    assert_eq!(cold.take(7, b"kex").expect("another key"), None);
    let file = Arc::clone(&cold.files[0].as_ref().expect("it is there").file);
    let mut bytes = [0; HEADER + 8];
    file.read(0, &mut bytes).expect("it was written");
    let found = parse(&bytes, 0, 0).expect("a header");
    assert!(found.check(&bytes).is_ok());
    for bit in 0..8 * (HEADER + 8) {
        let mut bytes = bytes;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = parse(&bytes, 0, 0).expect("a header");
        let whole = HEADER + found.key + found.value <= bytes.len();
        assert!(!whole || found.check(&bytes).is_err(), "bit {bit}");
    }
}
