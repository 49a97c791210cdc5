use std::collections::HashMap;

use ::arrow::array::{Int16Array, Int64Array, StringArray, TimestampMicrosecondArray};
use ::arrow::datatypes::Field;
use proptest::prelude::*;

use super::*;

fn encoder(columns: &[ArrayRef]) -> KeyEncoder {
    let fields = columns
        .iter()
        .enumerate()
        .map(|(index, column)| Field::new(index.to_string(), column.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    KeyEncoder::new(&schema, &(0..columns.len()).collect::<Vec<_>>()).expect("types of keys")
}

fn encode(columns: &[ArrayRef]) -> (KeyEncoder, Keys) {
    let encoder = encoder(columns);
    let keys = encoder.encode_columns(columns, columns[0].len()).expect("it encodes");
    (encoder, keys)
}

/// Hashes and stored keys are part of what checkpoints mean: these must never change.
#[test]
fn hashes_and_stored_keys_are_what_they_always_were() {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(-1), None]));
    let texts: ArrayRef =
        Arc::new(StringArray::from(vec!["", "Berlin", "a longer name than before"]));
    let (encoder, keys) = encode(&[Arc::clone(&numbers)]);
    assert_eq!(
        keys.hashes(),
        [16_294_208_416_658_607_535, 16_490_336_266_968_443_936, 11_400_714_819_323_198_485]
    );
    let mut map = encoder.map();
    let stored: Vec<_> = (0..3)
        .map(|row| {
            let (slot, _) = map.intern_row(&keys, row);
            let mut bytes = Vec::new();
            map.write(slot, &mut bytes);
            bytes
        })
        .collect();
    assert_eq!(stored, [vec![1, 0, 0, 0, 0, 0, 0, 0, 0], [&[1][..], &[255; 8]].concat(), vec![0]]);
    let (_, keys) = encode(&[texts, numbers]);
    assert_eq!(
        keys.hashes(),
        [304_130_102_497_011_765, 5_002_854_320_401_303_774, 2_445_524_559_462_008_356]
    );
}

#[test]
fn every_narrow_type_comes_back() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int16Array::from(vec![Some(-7), None, Some(i16::MAX)])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-7), None, Some(i64::MAX)])),
        Arc::new(::arrow::array::UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])),
        Arc::new(::arrow::array::Date32Array::from(vec![Some(0), None, Some(-400)])),
    ];
    for column in columns {
        // A slice: what stands before it in memory must not be seen.
        let column = ::arrow::compute::concat(&[&column, &column]).expect("one type").slice(3, 3);
        let (encoder, keys) = encode(&[Arc::clone(&column)]);
        let mut map = encoder.map();
        let (mut slots, mut new) = (Vec::new(), Vec::new());
        map.intern(&keys, &mut slots, &mut new);
        assert_eq!(
            (slots.as_slice(), new.as_slice()),
            ([0, 1, 2].as_slice(), [0, 1, 2].as_slice())
        );
        assert_eq!(&encoder.columns(&map, &slots).expect("they decode")[0], &column);
    }
}

proptest! {
    /// Against a table of the standard library: interning, finding, removing, writing and reading.
    #[test]
    fn a_map_numbers_keys_as_a_plain_table_does(
        steps in prop::collection::vec((0_u8..4, 0_i64..12, prop::option::of("[a-c]{0,9}")), 1..200),
        wide in any::<bool>(),
    ) {
        let numbers: ArrayRef =
            Arc::new(steps.iter().map(|(_, n, _)| (*n != 0).then_some(*n)).collect::<Int64Array>());
        let texts: ArrayRef =
            Arc::new(steps.iter().map(|(_, _, text)| text.clone()).collect::<StringArray>());
        let columns = if wide { vec![numbers, texts] } else { vec![numbers] };
        let (encoder, keys) = encode(&columns);
        let key = |row: usize| {
            let (_, n, text) = &steps[row];
            (*n, wide.then_some(text.clone()))
        };
        let mut map = encoder.map();
        let mut plain = HashMap::new();
        for (row, (step, ..)) in steps.iter().enumerate() {
            prop_assert_eq!(map.find(&keys, row), plain.get(&key(row)).copied());
            match (*step, plain.get(&key(row)).copied()) {
                (0, Some(slot)) => {
                    map.remove(slot);
                    plain.remove(&key(row));
                }
                (1, Some(slot)) => {
                    let mut bytes = Vec::new();
                    map.write(slot, &mut bytes);
                    prop_assert_eq!(map.read(&bytes).expect("it was written"), slot);
                    let mut other = encoder.map();
                    let copy = other.read(&bytes).expect("it was written");
                    prop_assert_eq!(other.hash(copy), keys.hashes()[row]);
                    prop_assert_eq!(map.hash(slot), keys.hashes()[row]);
                    prop_assert_eq!(
                        encoder.columns(&other, &[copy]).expect("it decodes"),
                        encoder.columns(&map, &[slot]).expect("it decodes")
                    );
                }
                (_, known) => {
                    let (slot, is_new) = map.intern_row(&keys, row);
                    prop_assert_eq!(is_new, known.is_none());
                    prop_assert!(known.is_none_or(|known| known == slot));
                    plain.insert(key(row), slot);
                }
            }
            prop_assert_eq!(map.len(), plain.len());
        }
        let mut slots: Vec<_> = plain.values().copied().collect();
        slots.sort_unstable();
        prop_assert_eq!(map.slots(), slots, "each key has a number of its own");
    }
}
