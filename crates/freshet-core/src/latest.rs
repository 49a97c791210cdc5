//! What is left of a changelog for who knows rows by their key: the last change of each.

use std::collections::HashMap;

use arrow::array::{RecordBatch, UInt8Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{OwnedRow, RowConverter, SortField};

use crate::error::{Error, Result, ResultExt, code};
use crate::rows::{RowKind, Rows, arrow_error};

/// The last change of each key, in the order of those changes: [`RowKind::Insert`] where the key has
/// this row now, [`RowKind::Delete`] where it has none. `parts` are in their order and have `schema`;
/// `key` names the columns of the key. Nulls are values like any other.
pub fn latest(schema: &SchemaRef, parts: &[Rows], key: &[String]) -> Result<Rows> {
    let columns = key
        .iter()
        .map(|name| {
            schema.index_of(name).map_err(|_| {
                Error::new(code::CONFIG, format!("the result has no column \"{name}\", a key"))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let fields =
        columns.iter().map(|place| SortField::new(schema.field(*place).data_type().clone()));
    let converter = RowConverter::new(fields.collect())
        .or_code(code::CONFIG, || "a key has a column that cannot be compared".to_owned())?;
    let mut last: HashMap<OwnedRow, (usize, usize)> = HashMap::new();
    for (part, rows) in parts.iter().enumerate() {
        let keys: Vec<_> =
            columns.iter().map(|place| rows.batch().column(*place).clone()).collect();
        let keys = converter.convert_columns(&keys).map_err(arrow_error)?;
        for (row, key) in keys.iter().enumerate() {
            last.insert(key.owned(), (part, row));
        }
    }
    let mut places: Vec<(usize, usize)> = last.into_values().collect();
    places.sort_unstable();
    let kinds = places.iter().map(|(part, row)| match parts[*part].kind(*row).adds() {
        true => RowKind::Insert,
        false => RowKind::Delete,
    });
    let kinds = kinds.collect();
    if places.is_empty() {
        return Ok(Rows::inserts(RecordBatch::new_empty(schema.clone())));
    }
    let batches: Vec<&RecordBatch> = parts.iter().map(Rows::batch).collect();
    let batch = interleave_record_batch(&batches, &places).map_err(arrow_error)?;
    Ok(Rows::changes(batch, kinds))
}

/// The kinds of rows as numbers, for a column; `None` where all are inserts.
pub fn kind_column(rows: &Rows) -> Option<UInt8Array> {
    rows.kinds().map(|kinds| kinds.iter().map(|kind| *kind as u8).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    use super::*;

    fn rows(changes: &[(Option<i64>, i64, u8)]) -> Rows {
        let keys: Int64Array = changes.iter().map(|(key, ..)| *key).collect();
        let values: Int64Array = changes.iter().map(|(_, value, _)| Some(*value)).collect();
        // Nullable, whatever the first rows hold.
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("k", Arc::new(keys) as ArrayRef, true),
            ("v", Arc::new(values), true),
        ]);
        let kinds = changes.iter().map(|(.., kind)| RowKind::from_u8(*kind).expect("a kind"));
        Rows::changes(batch.expect("two columns"), kinds.collect())
    }

    proptest! {
        #[test]
        fn a_map_that_takes_the_changes_one_by_one_holds_the_same(
            parts in prop::collection::vec(
                prop::collection::vec((prop::option::of(0..5_i64), 0..100_i64, 0..4_u8), 1..10), 0..6
            )
        ) {
            let mut map = BTreeMap::new();
            for (key, value, kind) in parts.iter().flatten() {
                let adds = RowKind::from_u8(*kind).expect("a kind").adds();
                map.insert(*key, adds.then_some(*value));
            }
            let batches: Vec<Rows> = parts.iter().map(|part| rows(part)).collect();
            let schema = rows(&[(None, 0, 0)]).schema();
            let left = latest(&schema, &batches, &["k".into()]).expect("a key that is there");
            let keys = left.batch().column(0).as_primitive::<Int64Type>().iter();
            let values = left.batch().column(1).as_primitive::<Int64Type>().iter();
            let found: Vec<_> = keys.zip(values).enumerate().map(|(row, (key, value))| {
                (key, left.kind(row).adds().then(|| value.expect("no nulls")))
            }).collect();
            prop_assert_eq!(found.len(), map.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), map);
        }
    }
}
