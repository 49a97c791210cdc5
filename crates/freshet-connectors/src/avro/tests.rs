//! Messages of Avro against records that the library wrote, and against a real registry:
//! `FRESHET_TEST_SCHEMA_REGISTRY` names it (`cargo xtask test` starts one).

use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::contract::{Constraint, ContractColumn, ContractMode};
use freshet_core::format::{Decoding, Message};
use freshet_core::record::Decoded;
use freshet_core::types::ColumnType;
use proptest::prelude::*;
use serde_json::json;

use super::encoder::WrittenSchema;
use super::*;

mod registry;

fn context() -> ConnectorContext {
    ConnectorContext {
        project_dir: std::env::temp_dir(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    }
}

fn contract(columns: &[(&str, ColumnType)]) -> Contract {
    let columns =
        columns.iter().map(|(name, data_type)| ContractColumn::new(*name, data_type.clone()));
    Contract { columns: columns.collect(), ..Contract::default() }
}

fn format(options: Value, contract: Contract) -> Result<Arc<dyn MessageFormat>> {
    let opened = Avro.messages(&options, &Arc::new(contract), &context())?;
    Ok(opened.expect("it is a format of messages"))
}

/// Zones with names cannot be shown without a table of them.
fn without_zone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            let plain = DataType::Timestamp(*unit, Some("+00:00".into()));
            let values = column.as_primitive::<TimestampMicrosecondType>().clone();
            Arc::new(values.with_data_type(plain))
        }
        _ => Arc::clone(column),
    }
}

/// Rows and dead letters as text, by position.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    rows: Vec<String>,
    rejects: Vec<String>,
    raw: Vec<Vec<u8>>,
}

fn spec(columns: usize) -> ReadSpec {
    ReadSpec {
        projection: (0..columns).collect(),
        offsets: true,
        batch_rows: 4,
        max_record_bytes: 200,
        ..ReadSpec::default()
    }
}

fn pack(parts: &[Vec<u8>]) -> (Bytes, Vec<Message>) {
    let mut bytes = Vec::new();
    let mut messages = Vec::new();
    for (position, part) in parts.iter().enumerate() {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(part);
        messages.push(Message { start, end: bytes.len() as u32, position: 10 + position as u64 });
    }
    (bytes.into(), messages)
}

fn got(out: &Decoded) -> Got {
    assert!(out.balances(), "{out:?}");
    let options = FormatOptions::default().with_null("-");
    let mut got = Got::default();
    assert_eq!(out.batches.len(), out.offsets.len());
    for (batch, offsets) in out.batches.iter().zip(&out.offsets) {
        assert!(batch.num_rows() <= 4 && batch.num_rows() == offsets.len());
        let shown: Vec<ArrayRef> = batch.columns().iter().map(without_zone).collect();
        let columns: Vec<_> = shown
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("a known type"))
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<_> = columns.iter().map(|c| c.value(row).to_string()).collect();
            got.rows.push(format!("{}: {}", offsets[row], values.join(",")));
        }
    }
    for reject in &out.rejects {
        let column = reject.column.as_deref().unwrap_or("-");
        got.rejects.push(format!("{} {} {column}", reject.offset, reject.rule));
        got.raw.push(reject.raw.to_vec());
    }
    got
}

fn decode(format: &dyn MessageFormat, parts: &[Vec<u8>]) -> Got {
    let mut decoder = format.decoder(&spec(format.schema().fields().len())).expect("a decoder");
    let (bytes, messages) = pack(parts);
    let mut out = Decoded::default();
    let decoding = decoder.decode(&bytes, &messages, &mut out).expect("bad records are no errors");
    assert_eq!(decoding, Decoding::Done);
    assert_eq!(out.records, parts.len() as u64);
    got(&out)
}

/// Messages of rows with these columns, framed in some way.
fn encode(columns: &[(&str, ArrayRef)], framing: Framing, id: u32) -> (Arc<str>, Vec<Vec<u8>>) {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.iter().map(|(_, array)| Arc::clone(array)).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).expect("columns of one length");
    let written =
        WrittenSchema::of(&schema, &AvroOptions::default(), &context()).expect("a schema");
    let mut encoder = AvroEncoder::new(&written, framing, id).expect("an encoder");
    let rows = encoder.encode(&batch).expect("rows that can be written");
    (written.json, rows.iter().map(|row| row.to_vec()).collect())
}

fn ids(ids: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(ids.to_vec()))
}

fn names(names: &[Option<&str>]) -> ArrayRef {
    Arc::new(names.iter().copied().collect::<StringViewArray>())
}

#[test]
fn rows_come_back_as_they_were_written_in_every_framing() {
    let columns = [
        ("id", ids(&[1, 2, 3, 4, 5])),
        ("name", names(&[Some("a"), None, Some("é"), Some(""), None])),
    ];
    for framing in [Framing::Plain, Framing::SingleObject] {
        let (schema, messages) = encode(&columns, framing, 0);
        let options = json!({"framing": framing, "schema": &*schema});
        let contract = contract(&[("id", ColumnType::Int64), ("name", ColumnType::Text)]);
        let found = decode(&*format(options, contract).expect("sound options"), &messages);
        assert_eq!(
            found.rows,
            ["10: 1,a", "11: 2,-", "12: 3,é", "13: 4,", "14: 5,-"],
            "{framing:?}"
        );
        assert!(found.rejects.is_empty());
    }
}

#[test]
fn the_contract_decides_what_becomes_of_the_columns() {
    let columns = [
        ("id", ids(&[1, 2, 3_000_000_000])),
        ("amount", names(&[Some("1.50"), Some("much"), Some("2")])),
        ("extra", names(&[None, None, None])),
    ];
    let (schema, messages) = encode(&columns, Framing::Plain, 0);
    let mut declared = contract(&[
        ("number", ColumnType::Int32),
        ("amount", ColumnType::Decimal { precision: 6, scale: 2 }),
        ("missing", ColumnType::Text),
    ]);
    declared.columns[0].source_name = Some("id".into());
    declared.columns[0].constraints = vec![Constraint::Min("1".into())];
    let options = json!({"schema": serde_json::from_str::<Value>(&schema).unwrap()});
    let found = decode(&*format(options.clone(), declared.clone()).unwrap(), &messages);
    assert_eq!(found.rows, ["10: 1,1.50,-"]);
    assert_eq!(found.rejects, ["11 type amount", "12 range number"]);
    assert_eq!(found.raw, messages[1..]);

    declared.modes.bad_values = ContractMode::DiscardValue;
    let found = decode(&*format(options.clone(), declared.clone()).unwrap(), &messages);
    assert_eq!(found.rows, ["10: 1,1.50,-", "11: 2,-,-", "12: -,2.00,-"]);

    declared.modes.missing_columns = ContractMode::DiscardRow;
    let found = decode(&*format(options.clone(), declared.clone()).unwrap(), &messages);
    assert_eq!(found.rejects[0], "10 missing_column missing");
    declared.modes.missing_columns = ContractMode::Freeze;
    let frozen = format(options, declared).unwrap();
    let mut decoder = frozen.decoder(&spec(3)).unwrap();
    let (bytes, messages) = pack(&messages);
    let error = decoder.decode(&bytes, &messages, &mut Decoded::default());
    assert_eq!(error.expect_err("the contract freezes").code(), code::HEADER);
}

/// A schema with about every type that there is.
fn wide() -> Value {
    json!({"type": "record", "name": "R", "fields": [
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["new", "old"]}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        {"name": "who", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "inner", "type": ["null", {"type": "record", "name": "I", "fields": [
            {"name": "a", "type": "int"}, {"name": "b", "type": {"type": "array", "items": "string"}}]}]},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "ratio", "type": "float"},
        {"name": "counts", "type": {"type": "map", "values": ["null", "long"]}},
        {"name": "mixed", "type": ["null", "long", "string"]},
        {"name": "code", "type": {"type": "fixed", "name": "F", "size": 2}},
        {"name": "nothing", "type": "null"},
        {"name": "span", "type": {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}},
    ]})
}

fn wide_contract() -> Contract {
    contract(&[
        ("kind", ColumnType::Text),
        ("at", ColumnType::TimestampTz),
        ("price", ColumnType::Decimal { precision: 10, scale: 2 }),
        ("who", ColumnType::Text),
        ("inner", ColumnType::Text),
        ("day", ColumnType::Date),
        ("ratio", ColumnType::Float64),
        ("counts", ColumnType::Text),
        ("code", ColumnType::Binary),
        ("mixed", ColumnType::Text),
    ])
}

#[test]
fn types_that_a_contract_does_not_have_are_text() {
    let schema = wide();
    let mut message = vec![2, 0xd0, 0x0f];
    message.extend([4, 0x00, 0x96]);
    message.push(72);
    message.extend(b"123e4567-e89b-12d3-a456-426614174000");
    message.extend([2, 14, 4, 2, b'x', 2, b'y', 0]);
    message.extend([2]);
    message.extend(0.5_f32.to_le_bytes());
    message.extend([2, 2, b'n', 2, 10, 0]);
    message.extend([2, 14, 1, 2]);
    message.extend([0; 12]);
    let found = decode(&*format(json!({"schema": schema}), wide_contract()).unwrap(), &[message]);
    assert!(found.rejects.is_empty(), "{found:?}");
    assert_eq!(
        found.rows,
        ["10: old,1970-01-01T00:00:01Z,1.50,123e4567-e89b-12d3-a456-426614174000,\
          {\"a\":7,\"b\":[\"x\",\"y\"]},1970-01-02,0.5,{\"n\":5},0102,7"]
    );
}

#[test]
fn options_that_cannot_be_meant_are_errors() {
    let message = |options: Value, contract: Contract| {
        let error = format(options, contract).expect_err("the options are wrong");
        assert_eq!(error.code(), code::CONFIG);
        error.message().to_owned()
    };
    let declared = || contract(&[("id", ColumnType::Int64)]);
    for (options, expect) in [
        (json!({}), "needs a schema"),
        (json!({"framing": "confluent"}), "needs option \"registry\""),
        (json!({"registry": "ftp://x"}), "not of http"),
        (json!({"registry": "nowhere"}), "format_options.registry"),
        (json!({"schema": "{"}), "no schema of Avro"),
        (json!({"schema": {}, "schema_file": "x"}), "exclude each other"),
        (json!({"schema_file": "/nowhere/x.avsc"}), "could not read schema"),
        (json!({"shema": {}}), "no option \"format_options.shema\""),
    ] {
        let message = message(options, declared());
        assert!(message.contains(expect), "{message}");
    }
    let schema = json!({"schema": {"type": "record", "name": "R", "fields": []}});
    assert!(message(schema, Contract::default()).contains("declared"));
}

#[test]
fn a_schema_that_is_no_record_makes_dead_letters() {
    let declared = contract(&[("id", ColumnType::Int64)]);
    let found =
        decode(&*format(json!({"schema": "\"string\""}), declared).unwrap(), &[vec![2, b'x']]);
    assert_eq!(found.rejects, ["10 encoding -"]);
}

#[test]
fn bad_records_in_a_row_are_read_in_reasonable_time() {
    let columns = [("id", ids(&[7])), ("name", names(&[Some("abc")]))];
    let (schema, messages) = encode(&columns, Framing::Plain, 0);
    let declared = contract(&[("id", ColumnType::Int64), ("name", ColumnType::Text)]);
    let avro = format(json!({"schema": &*schema}), declared).unwrap();
    let mut parts = vec![messages[0][..3].to_vec(); 20_000];
    parts.push(messages[0].clone());
    let found = decode(&*avro, &parts);
    assert_eq!((found.rows.len(), found.rejects.len()), (1, 20_000));
}

/// A message, good or with some damage.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let good = (any::<i64>(), proptest::option::of("[a-zé]{0,5}")).prop_map(|(id, name)| {
        let columns = [("id", ids(&[id])), ("name", names(&[name.as_deref()]))];
        encode(&columns, Framing::Plain, 0).1.remove(0)
    });
    let damaged = (good.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut message, at, byte)| {
            let at = at.index(message.len());
            message[at] = byte;
            message
        },
    );
    let cut = (good.clone(), any::<prop::sample::Index>()).prop_map(|(mut message, at)| {
        message.truncate(at.index(message.len() + 1));
        message
    });
    prop_oneof![
        4 => good,
        1 => damaged,
        1 => cut,
        1 => proptest::collection::vec(any::<u8>(), 0..220),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_kind_are_records_or_dead_letters(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..120),
                proptest::collection::vec(0..4_u8, 0..120),
            ],
            1..12,
        ),
    ) {
        let avro = format(json!({"schema": wide()}), wide_contract()).expect("sound options");
        let found = decode(&*avro, &parts);
        prop_assert_eq!(found.rows.len() + found.rejects.len(), parts.len());
    }

    #[test]
    fn each_message_is_what_it_is_alone(parts in proptest::collection::vec(message(), 1..24)) {
        let (schema, _) = encode(&[("id", ids(&[])), ("name", names(&[]))], Framing::Plain, 0);
        let declared = contract(&[("id", ColumnType::Int64), ("name", ColumnType::Text)]);
        let avro = format(json!({"schema": &*schema}), declared).expect("sound options");
        let together = decode(&*avro, &parts);
        let mut alone = Got::default();
        for (place, part) in parts.iter().enumerate() {
            let one = decode(&*avro, std::slice::from_ref(part));
            let here = |line: String| line.replacen("10", &(10 + place).to_string(), 1);
            alone.rows.extend(one.rows.into_iter().map(here));
            alone.rejects.extend(one.rejects.into_iter().map(here));
            alone.raw.extend(one.raw);
        }
        prop_assert_eq!(together, alone);
    }
}
