use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    StringViewArray, TimestampMicrosecondArray,
};

use super::*;
use crate::golden;

/// One column of each kind; the last row holds what is hard to print.
fn batch() -> RecordBatch {
    let amount = Decimal128Array::from(vec![Some(1_999), None, Some(-5)])
        .with_precision_and_scale(12, 2)
        .expect("the type holds these");
    let columns: [(&str, ArrayRef); 7] = [
        ("id", Arc::new(Int64Array::from(vec![Some(1), Some(20), None]))),
        (
            "name",
            Arc::new(StringViewArray::from(vec![Some("a"), Some(""), Some("x,\"y\"\n\x1b[0m")])),
        ),
        ("amount", Arc::new(amount)),
        ("share", Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None]))),
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("day", Arc::new(Date32Array::from(vec![Some(20_000), None, Some(-1)]))),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from(vec![
                Some(1_700_000_000_000_000),
                Some(1_700_000_000_250_000),
                None,
            ])),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))
        .expect("columns are of one length")
}

fn render(
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
    format: OutputFormat,
    max_rows: usize,
) -> String {
    let rows = Rows { schema, batches: futures::stream::iter(batches.into_iter().map(Ok)).boxed() };
    let options = PrintOptions { format, max_rows, width: None, paint: Paint(false), timer: false };
    let mut out = Vec::new();
    let printed = futures::executor::block_on(print(rows, &mut out, &options, Instant::now()));
    printed.expect("memory takes everything");
    String::from_utf8(out).expect("output is text")
}

#[test]
fn each_form_prints_every_kind_of_value() {
    let mut text = String::new();
    for format in [OutputFormat::Table, OutputFormat::Csv, OutputFormat::Json, OutputFormat::Ndjson]
    {
        text.push_str(&format!("-- {format:?}\n"));
        text.push_str(&render(vec![batch()], batch().schema(), format, 100));
    }
    golden::check("rows.txt", &text);
}

#[test]
fn form_does_not_depend_on_how_rows_are_batched() {
    let whole = batch();
    let empty = whole.slice(0, 0);
    let parts = vec![empty.clone(), whole.slice(0, 1), empty, whole.slice(1, 2)];
    for format in [OutputFormat::Table, OutputFormat::Csv, OutputFormat::Ndjson] {
        let one = render(vec![whole.clone()], whole.schema(), format, 100);
        assert_eq!(render(parts.clone(), whole.schema(), format, 100), one);
    }
    let json = |batches| -> serde_json::Value {
        serde_json::from_str(&render(batches, whole.schema(), OutputFormat::Json, 100))
            .expect("output is JSON")
    };
    assert_eq!(json(parts), json(vec![whole.clone()]));
}

#[test]
fn no_rows_are_still_a_whole_document() {
    let schema = batch().schema();
    assert_eq!(render(vec![], schema.clone(), OutputFormat::Json, 9), "[]\n");
    assert_eq!(render(vec![], schema.clone(), OutputFormat::Ndjson, 9), "");
    assert_eq!(
        render(vec![], schema.clone(), OutputFormat::Csv, 9),
        "id,name,amount,share,ok,day,at\n"
    );
    assert!(render(vec![], schema, OutputFormat::Table, 9).ends_with("(0 rows)\n"));
}

#[test]
fn tables_show_the_first_rows_and_count_all() {
    let text = render(vec![batch(), batch()], batch().schema(), OutputFormat::Table, 4);
    assert!(text.ends_with("(6 rows, 4 shown)\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with('│')).count(), 5, "{text}");
}

#[test]
fn nulls_of_every_type_are_null() {
    use arrow::array::{DictionaryArray, Int8Array, NullArray, StringArray};
    let words = Arc::new(StringArray::from(vec![Some("a"), None]));
    let dictionary = DictionaryArray::new(Int8Array::from(vec![0, 1]), words);
    let columns: [(&str, ArrayRef); 2] =
        [("d", Arc::new(dictionary)), ("n", Arc::new(NullArray::new(2)))];
    let batch = RecordBatch::try_from_iter(columns).expect("columns are as long as each other");
    let schema = batch.schema();
    assert_eq!(render(vec![batch], schema, OutputFormat::Csv, 9), "d,n\na,\n,\n");
}
