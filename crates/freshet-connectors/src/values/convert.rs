//! Columns of a file to the types of the contract, with the rows at fault.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use freshet_core::error::{Result, ResultExt, code};

use crate::values::{Fault, Rules};

/// A column and the rows of it that are at fault.
pub struct Converted {
    /// Null where the value is at fault.
    pub array: ArrayRef,
    /// Rows and what is wrong with them, ascending.
    pub faults: Vec<(usize, Fault)>,
}

/// Whether values are text, whatever its encoding.
fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// Brings `array` to a column's declared type: text is read as any text is, and every other value
/// must come through exactly.
pub fn convert(array: &ArrayRef, rules: &Rules) -> Result<Converted> {
    let declared = rules.declared();
    let target = declared.data_type.arrow();
    let by_text =
        is_text(array.data_type()) && (target != DataType::Utf8View || !rules.accept_all());
    if by_text {
        return read_text(array, rules, true);
    }
    let (array, mut faults) = exact(array, &target)?;
    if !declared.constraints.is_empty() {
        let checked = read_text(&array, rules, false)?;
        faults.extend(checked.faults.into_iter().filter(|(_, fault)| *fault != Fault::Missing));
    }
    if !declared.nullable && array.null_count() > 0 {
        let at_fault: Vec<usize> = faults.iter().map(|(row, _)| *row).collect();
        let nulls = (0..array.len()).filter(|row| array.is_null(*row) && !at_fault.contains(row));
        faults.extend(nulls.map(|row| (row, Fault::Missing)));
    }
    faults.sort_by_key(|(row, _)| *row);
    faults.dedup_by_key(|(row, _)| *row);
    Ok(Converted { array, faults })
}

/// Casts, and tells the rows whose value would not come back as it was.
pub fn exact(array: &ArrayRef, target: &DataType) -> Result<(ArrayRef, Vec<(usize, Fault)>)> {
    if array.data_type() == target {
        return Ok((Arc::clone(array), Vec::new()));
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let Ok(cast) = cast_with_options(array, target, &options) else {
        // No value of this type can be of that one.
        let rows = (0..array.len()).filter(|row| array.is_valid(*row));
        let faults = rows.map(|row| (row, Fault::Type)).collect();
        return Ok((new_null_array(target, array.len()), faults));
    };
    let failure = || "a cast back failed".to_owned();
    let mut faults = Vec::new();
    if target == &DataType::Utf8View || is_text(array.data_type()) {
        let rows = (0..array.len()).filter(|row| array.is_valid(*row) && cast.is_null(*row));
        faults.extend(rows.map(|row| (row, Fault::Type)));
        return Ok((cast, faults));
    }
    let back =
        cast_with_options(&cast, array.data_type(), &options).or_code(code::INTERNAL, failure)?;
    let same = arrow::compute::kernels::cmp::not_distinct(&back, array)
        .or_code(code::INTERNAL, failure)?;
    for row in 0..array.len() {
        if !same.value(row) {
            let fault = if cast.is_null(row) { Fault::Range } else { Fault::Type };
            faults.push((row, fault));
        }
    }
    Ok((cast, faults))
}

/// Reads the text of each value as if it stood in a text file.
fn read_text(array: &ArrayRef, rules: &Rules, keep: bool) -> Result<Converted> {
    let failure = || "a value has no text".to_owned();
    let options = FormatOptions::default();
    let texts =
        ArrayFormatter::try_new(array.as_ref(), &options).or_code(code::INTERNAL, failure)?;
    let mut column = rules.column(keep);
    let mut faults = Vec::new();
    let mut text = String::new();
    for row in 0..array.len() {
        let result = if array.is_null(row) {
            column.append_null()
        } else {
            text.clear();
            texts.value(row).write(&mut text).or_code(code::INTERNAL, failure)?;
            column.append(text.as_bytes(), 0, text.len(), true)
        };
        if let Err(fault) = result {
            faults.push((row, fault));
        }
    }
    let array = if keep { column.finish() } else { Arc::clone(array) };
    Ok(Converted { array, faults })
}
