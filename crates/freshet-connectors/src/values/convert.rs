//! Columns that come as Arrow arrays, as those of Parquet and Avro do, to the types of the contract,
//! with the rows at fault.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions, array_value_to_string};
use freshet_core::contract::{Contract, ContractMode, Evolution};
use freshet_core::error::{Result, ResultExt, code};
use freshet_core::record::Rule;

use super::{Fault, Rules};

/// Why a row is rejected.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What it breaks.
    pub rule: Rule,
    /// Where.
    pub column: String,
    /// How, for a person.
    pub message: Cow<'static, str>,
}

/// Some rows, held against a contract.
#[derive(Debug, Default)]
pub struct Fitted {
    /// The contract's columns; `None` where there was none to read.
    pub arrays: Vec<Option<ArrayRef>>,
    /// The rows that are rejected.
    pub refusals: BTreeMap<usize, Refusal>,
    /// Values that became null, by row.
    pub discarded: BTreeMap<usize, u64>,
}

/// Brings `columns`, one for each of the contract's with its rules, to their declared types. What is
/// wrong with a row is said of its first column that is at fault.
pub fn fit(
    contract: &Contract,
    columns: &[Option<(&ArrayRef, &Rules)>],
    evolution: &mut Evolution,
) -> Result<Fitted> {
    let mut fitted = Fitted::default();
    for column in columns {
        let Some((array, rules)) = column else {
            fitted.arrays.push(None);
            continue;
        };
        let converted = convert(array, rules)?;
        for (row, fault) in converted.faults {
            let discards = contract.modes.bad_values == ContractMode::DiscardValue
                && rules.declared().nullable
                && fault != Fault::Missing;
            if discards {
                *fitted.discarded.entry(row).or_default() += 1;
                continue;
            }
            let text = array_value_to_string(array, row).unwrap_or_default();
            if contract.modes.bad_values == ContractMode::Evolve
                && matches!(fault, Fault::Type | Fault::Range)
                && let Some(wider) = rules.widened(text.as_bytes())
            {
                evolution.widen(rules.name(), wider);
            }
            fitted.refusals.entry(row).or_insert_with(|| Refusal {
                rule: fault.rule(),
                column: rules.name().to_owned(),
                message: rules.message(fault, text.as_bytes()),
            });
        }
        fitted.arrays.push(Some(converted.array));
    }
    Ok(fitted)
}

/// A column and the rows of it that are at fault.
struct Converted {
    /// Null where the value is at fault.
    array: ArrayRef,
    /// Rows and what is wrong with them, ascending.
    faults: Vec<(usize, Fault)>,
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
fn convert(array: &ArrayRef, rules: &Rules) -> Result<Converted> {
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
