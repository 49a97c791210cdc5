use std::sync::Arc;

use arrow::array::{Array, AsArray, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use proptest::prelude::*;

use super::*;

fn specs(data_type: &DataType) -> Vec<Arc<dyn AggregateSpec>> {
    let float = DataType::Float64;
    vec![
        Arc::new(Count::column(0)),
        Arc::new(Sum::new(0, data_type.clone(), data_type.clone()).expect("it has a sum")),
        Arc::new(Average::new(0, data_type.clone(), float).expect("it has an average")),
        Arc::new(Extreme::new(Side::Least, 0, data_type.clone()).expect("it has an order")),
        Arc::new(Extreme::new(Side::Greatest, 0, data_type.clone()).expect("it has an order")),
    ]
}

proptest! {
    /// Rows in two halves, each with a state of its own, merged, are what a plain loop gives.
    #[test]
    fn states_that_are_merged_are_those_of_all_rows(
        rows in prop::collection::vec((0_u32..4, prop::option::of(-50_i64..50), any::<bool>()), 0..60),
        cut in 0_usize..60,
    ) {
        let cut = cut.min(rows.len());
        for spec in specs(&DataType::Int64) {
            let half = |rows: &[(u32, Option<i64>, bool)]| {
                let mut state = spec.create();
                state.resize(4);
                let slots: Vec<u32> = rows.iter().map(|row| row.0).collect();
                let values: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
                let filter: BooleanArray = rows.iter().map(|row| Some(row.2)).collect();
                let arguments = Arguments { columns: &[values], filter: Some(&filter), kinds: None };
                state.update(&slots, arguments).expect("it computes");
                state
            };
            let (mut whole, other) = (half(&rows[..cut]), half(&rows[cut..]));
            whole.merge(&[0, 1, 2, 3], &other.state(&[0, 1, 2, 3]).expect("a state")).expect("it merges");
            let found = whole.value(&[0, 1, 2, 3]).expect("a value");
            for slot in 0..4 {
                let values: Vec<i64> =
                    rows.iter().filter(|row| row.0 == slot && row.2).filter_map(|row| row.1).collect();
                let row = slot as usize;
                if *found.data_type() == DataType::Float64 {
                    let found = found.as_primitive::<Float64Type>();
                    let expected = values.iter().sum::<i64>() as f64 / values.len() as f64;
                    prop_assert_eq!(found.is_valid(row), !values.is_empty());
                    prop_assert!(values.is_empty() || found.value(row) == expected);
                    continue;
                }
                let found = found.as_primitive::<Int64Type>();
                let found = found.is_valid(row).then(|| found.value(row));
                let text = format!("{spec:?}");
                let expected = match text.as_str() {
                    text if text.starts_with("Count") => Some(values.len() as i64),
                    text if text.starts_with("Sum") => (!values.is_empty()).then(|| values.iter().sum()),
                    text if text.contains("Least") => values.iter().min().copied(),
                    _ => values.iter().max().copied(),
                };
                prop_assert_eq!(found, expected, "{}", text);
            }
        }
    }

    /// What is taken away again leaves no trace.
    #[test]
    fn retracted_rows_leave_no_trace(
        values in prop::collection::vec(prop::option::of(-50_i64..50), 1..40),
        keep in 0_usize..40,
    ) {
        let keep = keep.min(values.len());
        for spec in &specs(&DataType::Int64)[..3] {
            let state = |columns: &[Option<i64>], kinds: Vec<RowKind>| {
                let mut state = spec.create();
                state.resize(1);
                let column: ArrayRef = Arc::new(columns.iter().copied().collect::<Int64Array>());
                let arguments = Arguments { columns: &[column], filter: None, kinds: Some(&kinds) };
                state.update(&vec![0; kinds.len()], arguments).expect("it computes");
                state.value(&[0]).expect("a value")
            };
            let there_and_back: Vec<_> = values.iter().chain(&values[keep..]).copied().collect();
            let mut kinds = vec![RowKind::Insert; values.len()];
            kinds.extend(vec![RowKind::Delete; values.len() - keep]);
            let found = state(&there_and_back, kinds);
            let expected = state(&values[..keep], vec![RowKind::Insert; keep]);
            prop_assert_eq!(found.as_ref(), expected.as_ref(), "{:?}", spec);
        }
    }
}

#[test]
fn decimals_keep_their_scale_and_say_when_they_overflow() {
    let decimal = DataType::Decimal128(12, 2);
    let sum = Sum::new(0, decimal.clone(), DataType::Decimal128(22, 2)).expect("a sum");
    let average = Average::new(0, decimal.clone(), DataType::Decimal128(16, 6)).expect("one");
    let column: ArrayRef = Arc::new(
        Decimal128Array::from(vec![100, 201, 300])
            .with_precision_and_scale(12, 2)
            .expect("they fit"),
    );
    let value = |spec: &dyn AggregateSpec, column: &ArrayRef| {
        let mut state = spec.create();
        state.resize(1);
        let columns = [Arc::clone(column)];
        let arguments = Arguments { columns: &columns, filter: None, kinds: None };
        state.update(&vec![0; column.len()], arguments).expect("it computes");
        state.value(&[0])
    };
    let text = |array: ArrayRef| {
        arrow::util::display::array_value_to_string(&array, 0).expect("a decimal is shown")
    };
    assert_eq!(text(value(&sum, &column).expect("it fits")), "6.01");
    assert_eq!(text(value(&average, &column).expect("it fits")), "2.003333");
    let narrow = Sum::new(0, decimal.clone(), DataType::Decimal128(3, 2)).expect("a sum");
    let large = Decimal128Array::from(vec![900, 200]).with_precision_and_scale(12, 2);
    let large: ArrayRef = Arc::new(large.expect("they fit"));
    let error = value(&narrow, &large).expect_err("11.00 has four digits");
    assert_eq!(error.code(), freshet_core::error::code::EXECUTION);
}

#[test]
fn extremes_have_the_order_of_their_type() {
    let columns: [ArrayRef; 3] = [
        Arc::new(StringArray::from(vec![Some("b"), None, Some("aa"), Some("ab")])),
        Arc::new(arrow::array::UInt32Array::from(vec![7, 3, u32::MAX, 5])),
        Arc::new(Float64Array::from(vec![-0.5, f64::INFINITY, -7.0, 3.0])),
    ];
    let expected = [("aa", "b"), ("3", "4294967295"), ("-7.0", "inf")];
    for (column, (least, greatest)) in columns.iter().zip(expected) {
        for (side, expected) in [(Side::Least, least), (Side::Greatest, greatest)] {
            let spec = Extreme::new(side, 0, column.data_type().clone()).expect("an order");
            let mut state = spec.create();
            state.resize(2);
            let columns = [Arc::clone(column)];
            let arguments = Arguments { columns: &columns, filter: None, kinds: None };
            state.update(&[0, 0, 0, 0], arguments).expect("it computes");
            let value = state.value(&[0, 1]).expect("a value");
            let shown = arrow::util::display::array_value_to_string(&value, 0).expect("shown");
            assert_eq!(shown, expected);
            assert!(value.is_null(1), "no row counted");
            assert_eq!(value.data_type(), column.data_type());
            state.reset(0);
            assert!(state.value(&[0]).expect("a value").is_null(0));
        }
    }
}
