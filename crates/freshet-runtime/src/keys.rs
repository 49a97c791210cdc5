//! Keys of rows: encoded, hashed, and numbered.
//!
//! A key is one column of up to 64 bits as it is, or the bytes of several columns in Arrow's row
//! format. Hashes decide where state lives ([`crate::state::KeyGroups`]), so that they are part of
//! what a checkpoint means: neither they nor the encoding may change between versions.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, RecordBatch, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, RowParser, SortField};
use freshet_core::{Error, Result, error::code};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64;

use freshet_core::rows::arrow_error;

/// Makes keys of batches of one schema, and columns of keys.
#[derive(Debug)]
pub struct KeyEncoder {
    columns: Vec<usize>,
    types: Vec<DataType>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// No column: there is one key.
    Empty,
    /// One column of up to 64 bits.
    Narrow,
    /// Arrow rows.
    Wide(RowConverter),
}

/// The keys of a batch's rows.
#[derive(Debug)]
pub struct Keys {
    form: KeyForm,
    hashes: Vec<u64>,
}

#[derive(Debug)]
enum KeyForm {
    Empty,
    Narrow { values: Vec<u64>, nulls: Option<NullBuffer> },
    Wide(arrow::row::Rows),
}

/// A narrow key as it is stored: what is null has a number that no value has.
pub(crate) const NULL: u128 = 1 << 64;

impl KeyEncoder {
    /// An encoder of these columns of `schema`.
    pub fn new(schema: &Schema, columns: &[usize]) -> Result<Self> {
        let types: Vec<_> =
            columns.iter().map(|column| schema.field(*column).data_type().clone()).collect();
        let form = match types.as_slice() {
            [] => Form::Empty,
            [only] if is_narrow(only) => Form::Narrow,
            types => {
                let fields = types.iter().cloned().map(SortField::new).collect();
                Form::Wide(RowConverter::new(fields).map_err(|error| {
                    Error::new(code::SQL, "a column of this type cannot be a key").caused_by(error)
                })?)
            }
        };
        Ok(Self { columns: columns.to_vec(), types, form })
    }

    /// The types of the key's columns.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The keys of a batch's rows.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Keys> {
        let columns: Vec<_> =
            self.columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
        self.encode_columns(&columns, batch.num_rows())
    }

    /// The keys of `rows` rows of these columns, which have the types of the key.
    pub fn encode_columns(&self, columns: &[ArrayRef], rows: usize) -> Result<Keys> {
        Ok(match &self.form {
            Form::Empty => Keys { form: KeyForm::Empty, hashes: vec![mix(0); rows] },
            Form::Narrow => {
                let values = narrow(&columns[0]);
                let nulls = columns[0].logical_nulls().filter(|nulls| nulls.null_count() > 0);
                let hashes = match &nulls {
                    None => values.iter().map(|value| mix(*value)).collect(),
                    Some(nulls) => {
                        let hash = |(value, valid): (&u64, bool)| {
                            if valid { mix(*value) } else { NULL_HASH }
                        };
                        values.iter().zip(nulls.iter()).map(hash).collect()
                    }
                };
                Keys { form: KeyForm::Narrow { values, nulls }, hashes }
            }
            Form::Wide(converter) => {
                let rows = converter.convert_columns(columns).map_err(arrow_error)?;
                let hashes = rows.iter().map(|row| xxh3_64(row.as_ref())).collect();
                Keys { form: KeyForm::Wide(rows), hashes }
            }
        })
    }

    /// An empty table of keys of this kind.
    pub fn map(&self) -> KeyMap {
        let store = match &self.form {
            Form::Empty | Form::Narrow => {
                Store::Narrow { index: HashTable::new(), keys: Vec::new() }
            }
            Form::Wide(converter) => Store::Wide {
                index: HashTable::new(),
                places: Vec::new(),
                bytes: Vec::new(),
                garbage: 0,
                parser: converter.parser(),
            },
        };
        KeyMap { store, free: Vec::new(), live: 0 }
    }

    /// The columns of the keys of `slots`.
    pub fn columns(&self, map: &KeyMap, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        match (&self.form, &map.store) {
            (Form::Empty, _) => Ok(Vec::new()),
            (Form::Narrow, Store::Narrow { keys, .. }) => {
                let chosen = slots.iter().map(|slot| keys[*slot as usize]);
                Ok(vec![column(&self.types[0], chosen)?])
            }
            (Form::Wide(converter), Store::Wide { places, bytes, parser, .. }) => {
                let rows = slots.iter().map(|slot| parser.parse(places[*slot as usize].of(bytes)));
                converter.convert_rows(rows).map_err(arrow_error)
            }
            _ => Err(Error::internal("a table holds keys of another encoder")),
        }
    }
}

impl Keys {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// A hash of each key: equal over processes, machines and versions.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Whether any column of the key is null: such a key joins nothing. Only of narrow keys; of
    /// others, the columns say.
    fn narrow(&self, row: usize) -> u128 {
        match &self.form {
            KeyForm::Empty | KeyForm::Wide(_) => 0,
            KeyForm::Narrow { nulls: Some(nulls), .. } if nulls.is_null(row) => NULL,
            KeyForm::Narrow { values, .. } => u128::from(values[row]),
        }
    }
}

/// Keys, each with a number: the numbers are small, and used again once a key is removed.
#[derive(Debug)]
pub struct KeyMap {
    store: Store,
    free: Vec<u32>,
    live: usize,
}

#[derive(Debug)]
enum Store {
    Narrow {
        index: HashTable<(u128, u32)>,
        keys: Vec<u128>,
    },
    Wide {
        /// Hash and slot.
        index: HashTable<(u64, u32)>,
        places: Vec<Place>,
        bytes: Vec<u8>,
        /// Bytes of keys that were removed.
        garbage: usize,
        parser: RowParser,
    },
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    len: u32,
}

impl Place {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..][..self.len as usize]
    }
}

impl KeyMap {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many keys it has room for before it takes more memory, that of their bytes apart.
    pub(crate) fn room(&self) -> usize {
        match &self.store {
            Store::Narrow { index, keys } => index.capacity().min(keys.capacity()),
            Store::Wide { index, places, .. } => index.capacity().min(places.capacity()),
        }
    }

    /// One more than the highest number that was ever given.
    pub fn bound(&self) -> usize {
        match &self.store {
            Store::Narrow { keys, .. } => keys.len(),
            Store::Wide { places, .. } => places.len(),
        }
    }

    /// The numbers of all keys of a batch into `slots`; keys that are new get one, and the places
    /// of the first rows that hold them are appended to `new`.
    pub fn intern(&mut self, keys: &Keys, slots: &mut Vec<u32>, new: &mut Vec<u32>) {
        slots.clear();
        slots.reserve(keys.len());
        for row in 0..keys.len() {
            let (slot, is_new) = self.intern_row(keys, row);
            slots.push(slot);
            if is_new {
                new.push(row as u32);
            }
        }
    }

    /// The number of the key of one row, and whether it is new.
    pub fn intern_row(&mut self, keys: &Keys, row: usize) -> (u32, bool) {
        let hash = keys.hashes[row];
        match &keys.form {
            KeyForm::Wide(rows) => self.intern_wide(hash, rows.row(row).as_ref()),
            KeyForm::Empty | KeyForm::Narrow { .. } => self.intern_narrow(hash, keys.narrow(row)),
        }
    }

    /// The number of the key of one row, where it is known.
    pub fn find(&self, keys: &Keys, row: usize) -> Option<u32> {
        let hash = keys.hashes[row];
        match (&self.store, &keys.form) {
            (Store::Narrow { index, .. }, _) => {
                let key = keys.narrow(row);
                index.find(hash, |(stored, _)| *stored == key).map(|(_, slot)| *slot)
            }
            (Store::Wide { index, places, bytes, .. }, KeyForm::Wide(rows)) => {
                let key = rows.row(row);
                let equal = |(of, slot): &(u64, u32)| {
                    *of == hash && places[*slot as usize].of(bytes) == key.as_ref()
                };
                index.find(hash, equal).map(|(_, slot)| *slot)
            }
            (Store::Wide { .. }, _) => unreachable!("keys and table are of one encoder"),
        }
    }

    /// The hash of a key.
    pub fn hash(&self, slot: u32) -> u64 {
        match &self.store {
            Store::Narrow { keys, .. } => hash_narrow(keys[slot as usize]),
            Store::Wide { places, bytes, .. } => xxh3_64(places[slot as usize].of(bytes)),
        }
    }

    /// Appends a key as it is stored in checkpoints.
    pub fn write(&self, slot: u32, into: &mut Vec<u8>) {
        match &self.store {
            Store::Narrow { keys, .. } => match keys[slot as usize] {
                NULL => into.push(0),
                key => {
                    into.push(1);
                    into.extend_from_slice(&(key as u64).to_be_bytes());
                }
            },
            Store::Wide { places, bytes, .. } => {
                into.extend_from_slice(places[slot as usize].of(bytes));
            }
        }
    }

    /// The number of a key that [`Self::write`] wrote; a new one where it is not known.
    pub fn read(&mut self, key: &[u8]) -> Result<u32> {
        Ok(match &self.store {
            Store::Narrow { .. } => {
                let key = match key {
                    [0] => NULL,
                    [1, value @ ..] if value.len() == 8 => {
                        u128::from(u64::from_be_bytes(value.try_into().expect("8 bytes")))
                    }
                    _ => return Err(damaged()),
                };
                self.intern_narrow(hash_narrow(key), key).0
            }
            Store::Wide { .. } => self.intern_wide(xxh3_64(key), key).0,
        })
    }

    /// The number of a key of another table of the same encoder; a new one where it is not known.
    pub fn intern_from(&mut self, other: &Self, slot: u32) -> u32 {
        match &other.store {
            Store::Narrow { keys, .. } => {
                let key = keys[slot as usize];
                self.intern_narrow(hash_narrow(key), key).0
            }
            Store::Wide { places, bytes, .. } => {
                let key = places[slot as usize].of(bytes);
                self.intern_wide(xxh3_64(key), key).0
            }
        }
    }

    fn intern_narrow(&mut self, hash: u64, key: u128) -> (u32, bool) {
        let Store::Narrow { index, keys } = &mut self.store else {
            unreachable!("keys and table are of one encoder")
        };
        let entry = index.entry(hash, |(other, _)| *other == key, |(key, _)| hash_narrow(*key));
        match entry {
            Entry::Occupied(entry) => (entry.get().1, false),
            Entry::Vacant(entry) => {
                let slot = claim(&mut self.free, keys, key);
                entry.insert((key, slot));
                self.live += 1;
                (slot, true)
            }
        }
    }

    fn intern_wide(&mut self, hash: u64, key: &[u8]) -> (u32, bool) {
        let Store::Wide { index, places, bytes, .. } = &mut self.store else {
            unreachable!("keys and table are of one encoder")
        };
        let equal =
            |(of, slot): &(u64, u32)| *of == hash && places[*slot as usize].of(bytes) == key;
        if let Some((_, slot)) = index.find(hash, equal) {
            return (*slot, false);
        }
        let len = u32::try_from(key.len()).expect("a batch's keys are smaller than 4 GiB");
        let place = Place { start: bytes.len(), len };
        bytes.extend_from_slice(key);
        let slot = claim(&mut self.free, places, place);
        index.insert_unique(hash, (hash, slot), |(hash, _)| *hash);
        self.live += 1;
        (slot, true)
    }

    /// Forgets a key; its number may be given to another.
    pub fn remove(&mut self, slot: u32) {
        match &mut self.store {
            Store::Narrow { index, keys } => {
                let hash = hash_narrow(keys[slot as usize]);
                if let Ok(entry) = index.find_entry(hash, |(_, other)| *other == slot) {
                    entry.remove();
                }
            }
            Store::Wide { index, places, bytes, garbage, .. } => {
                let place = places[slot as usize];
                let hash = xxh3_64(place.of(bytes));
                if let Ok(entry) = index.find_entry(hash, |(_, other)| *other == slot) {
                    entry.remove();
                }
                *garbage += place.len as usize;
                places[slot as usize] = Place { start: 0, len: 0 };
                if *garbage > bytes.len() / 2 && *garbage > 1 << 16 {
                    compact(places, bytes);
                    *garbage = 0;
                }
            }
        }
        self.free.push(slot);
        self.live -= 1;
    }

    /// The numbers of all keys, ascending.
    pub fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = match &self.store {
            Store::Narrow { index, .. } => index.iter().map(|(_, slot)| *slot).collect(),
            Store::Wide { index, .. } => index.iter().map(|(_, slot)| *slot).collect(),
        };
        slots.sort_unstable();
        slots
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let stored = match &self.store {
            Store::Narrow { index, keys } => index.capacity() * 33 + keys.capacity() * 16,
            Store::Wide { index, places, bytes, .. } => {
                index.capacity() * 17 + places.capacity() * 16 + bytes.capacity()
            }
        };
        stored + self.free.capacity() * 4
    }
}

fn damaged() -> Error {
    Error::new(code::STATE, "a key of a checkpoint is damaged")
}

/// Puts `value` where a number is free, else behind all others.
fn claim<T>(free: &mut Vec<u32>, values: &mut Vec<T>, value: T) -> u32 {
    match free.pop() {
        Some(slot) => {
            values[slot as usize] = value;
            slot
        }
        None => {
            values.push(value);
            u32::try_from(values.len() - 1).expect("fewer than four billion keys fit into memory")
        }
    }
}

/// Moves the keys that there are to the front.
fn compact(places: &mut [Place], bytes: &mut Vec<u8>) {
    let mut kept = Vec::with_capacity(bytes.len() / 2);
    for place in places {
        let start = kept.len();
        kept.extend_from_slice(place.of(bytes));
        place.start = start;
    }
    *bytes = kept;
}

const NULL_HASH: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash_narrow(key: u128) -> u64 {
    if key == NULL { NULL_HASH } else { mix(key as u64) }
}

/// Stafford's variant 13 of the finalizer of MurmurHash3, as in SplitMix64.
fn mix(key: u64) -> u64 {
    let key = key.wrapping_add(NULL_HASH);
    let key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

pub(crate) fn is_narrow(data_type: &DataType) -> bool {
    // Floats are left to Arrow's rows, which know that there are several zeros and not-a-numbers.
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
        )
}

/// The values of a narrow column as 64 bits, sign-extended.
pub(crate) fn narrow(column: &ArrayRef) -> Vec<u64> {
    let data = column.to_data();
    let bytes = &data.buffers()[0];
    let (start, end) = (data.offset(), data.offset() + data.len());
    match column.data_type().primitive_width() {
        Some(1) => widened(&bytes.typed_data::<i8>()[start..end], |value| i64::from(*value)),
        Some(2) => widened(&bytes.typed_data::<i16>()[start..end], |value| i64::from(*value)),
        Some(4) => widened(&bytes.typed_data::<i32>()[start..end], |value| i64::from(*value)),
        _ => widened(&bytes.typed_data::<i64>()[start..end], |value| *value),
    }
}

fn widened<T>(values: &[T], widen: impl Fn(&T) -> i64) -> Vec<u64> {
    values.iter().map(|value| widen(value) as u64).collect()
}

/// A column of `data_type` of keys that [`narrow`] made.
pub(crate) fn column(
    data_type: &DataType,
    keys: impl Iterator<Item = u128> + Clone,
) -> Result<ArrayRef> {
    let nulls: NullBuffer = keys.clone().map(|key| key != NULL).collect();
    let values = keys.map(|key| key as u64);
    let buffer: Buffer = match data_type.primitive_width() {
        Some(1) => values.map(|value| value as u8).collect::<Vec<_>>().into(),
        Some(2) => values.map(|value| value as u16).collect::<Vec<_>>().into(),
        Some(4) => values.map(|value| value as u32).collect::<Vec<_>>().into(),
        _ => values.collect::<Vec<_>>().into(),
    };
    let data = ArrayData::builder(data_type.clone())
        .len(nulls.len())
        .add_buffer(buffer)
        .nulls(Some(nulls).filter(|nulls| nulls.null_count() > 0))
        .build()
        .map_err(arrow_error)?;
    Ok(make_array(data))
}

#[cfg(test)]
mod tests;
