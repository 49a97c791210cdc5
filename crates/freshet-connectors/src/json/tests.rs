#![allow(clippy::unwrap_used)]

use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use freshet_core::contract::Constraint;
use freshet_core::format::{Chunk, Decoding, ReadSpec};
use freshet_core::record::Decoded;
use freshet_core::{ColumnType, ContractColumn, ContractMode};
use proptest::prelude::*;

use serde_json::Value as Json;

use super::*;

fn contract() -> Contract {
    let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
    Contract {
        columns: vec![
            ContractColumn::new("id", ColumnType::Int64).not_null(),
            ContractColumn::new("name", ColumnType::Text),
            ContractColumn::new("amount", decimal),
            ContractColumn::new("day", ColumnType::Date),
        ],
        ..Contract::default()
    }
}

/// Everything that decoding `text` gives, fed in pieces of `piece` bytes, as text.
fn decode(shape: Shape, contract: &Contract, text: &[u8], piece: usize, all: bool) -> String {
    decode_by(JsonOptions::default(), shape, contract, text, piece, all)
}

fn decode_by(
    options: JsonOptions,
    shape: Shape,
    contract: &Contract,
    text: &[u8],
    piece: usize,
    all: bool,
) -> String {
    let format = JsonFormat::new(options, shape).unwrap();
    let contract = Arc::new(contract.clone());
    let layout = format.layout(FileHead { bytes: text, whole: true }, &contract).unwrap();
    let schema = layout.schema();
    let projection = if all { (0..schema.fields().len()).collect() } else { Vec::new() };
    let spec = ReadSpec { projection, offsets: true, max_record_bytes: 100, ..ReadSpec::default() };
    let mut decoder = layout.decoder(&schema, &spec).unwrap();
    let (mut batches, mut rejects, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    let (mut records, mut good, mut lines) = (0, 0, 0);
    let mut start = 0;
    let mut end = 0;
    loop {
        end = (end + piece).min(text.len());
        let last = end == text.len();
        let mut out = Decoded::default();
        let chunk =
            Chunk { bytes: Bytes::copy_from_slice(&text[start..end]), offset: start as u64, last };
        let consumed = decoder.decode(&chunk, &mut out).unwrap();
        assert!(out.balances());
        assert!(!last || consumed == end - start, "all is consumed at the end");
        for mut reject in std::mem::take(&mut out.rejects) {
            reject.line += lines;
            rejects.push(reject);
        }
        offsets.extend(out.offsets.iter().flat_map(|o| o.to_vec()));
        batches.append(&mut out.batches);
        records += out.records;
        good += out.good;
        lines += out.lines;
        start += consumed;
        if last {
            break;
        }
    }
    let rejects: Vec<String> = rejects
        .iter()
        .map(|r| {
            let column = r.column.as_deref().unwrap_or("-");
            let raw = String::from_utf8_lossy(&r.raw);
            format!("{}:{} {} {column}: {} | {raw}", r.offset, r.line, r.rule, r.message)
        })
        .collect();
    let table = if all {
        let batch = arrow::compute::concat_batches(
            &Arc::new(schema.project(&spec.projection).unwrap()),
            &batches,
        )
        .unwrap();
        pretty_format_batches(&[batch]).unwrap().to_string()
    } else {
        String::new()
    };
    format!("{records}={good} {offsets:?}\n{}\n{table}", rejects.join("\n"))
}

const LINES: &str = r#"{"id":1,"name":"a","amount":1.5,"day":"2024-02-29"}
{"name":"\u00e9\"x","id":"2","amount":"12.34","day":null,"more":{"x":[1, 2]}}

{"id":3
not json
{"id":null,"name":"n"}
{"id":4,"name":"open}
{"id":5,"amount":12.345}
{"id":6,"day":"2024-02-30"} 
{"id":7,"name":{"k":"v"},"amount":[1]}
{"id":8,"name":true,"id":9} x
{"id":10,"id":11,"name":12.50}
{"id":12,"name":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
{"id":13}"#;

#[test]
fn lines_become_rows_or_dead_letters_with_their_reason() {
    let result = decode(Shape::Lines, &contract(), LINES.as_bytes(), LINES.len(), true);
    let lines: Vec<&str> = result.lines().collect();
    assert_eq!(lines[0], "13=4 [0, 52, 316, 461]", "{result}");
    for (rule, what) in [
        ("131:4 syntax", "the object is not closed"),
        ("139:5 syntax", "an object was expected"),
        ("not_null id", "required value is missing"),
        ("quote", "a string is not closed"),
        ("type amount", "\"12.345\" is not a decimal(10,2)"),
        ("type day", "\"2024-02-30\" is not a date"),
        ("type amount", "\"[1]\" is not a decimal(10,2)"),
        ("syntax", "something follows the object on its line"),
        ("too_large", "the record is larger than 100 bytes"),
    ] {
        assert!(
            lines.iter().any(|line| line.contains(rule) && line.contains(what)),
            "{rule} {what} is not in\n{result}"
        );
    }
    assert!(result.contains("é\"x"), "{result}");
    assert!(result.contains("| {\"x\":[1, 2]} |"), "{result}");
    assert!(result.contains("| 11 | 12.50 |"), "{result}");
}

#[test]
fn where_chunks_are_cut_does_not_matter() {
    let pretty = format!("\u{feff}[\n  {}\n]\n", LINES.lines().collect::<Vec<_>>().join(",\n  "));
    let odd =
        "[{\"id\":1},{\"id\":tru},{\"id\":2,\"name\":\"x},{\"id\":3},\n{\"id\":4}] {\"id\":5}";
    for (shape, text) in [(Shape::Lines, LINES), (Shape::Elements, &pretty), (Shape::Elements, odd)]
    {
        // The mark is no part of the data.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).as_bytes();
        let whole = decode(shape, &contract(), text, text.len(), true);
        for piece in 1..130 {
            assert_eq!(decode(shape, &contract(), text, piece, true), whole, "pieces of {piece}");
        }
    }
}

#[test]
fn a_broken_element_costs_no_other() {
    let text = "[\n  {\"id\": 1},\n  {\"id\": 2, \"name\": \"x},\n  {\n    \"id\": 3,\n    \"name\": {\"id\": 99}\n  },\n  {\"id\": ,\n  {\"id\": 4}\n]\n";
    let result = decode(Shape::Elements, &contract(), text.as_bytes(), text.len(), true);
    assert!(result.starts_with("5=3 "), "{result}");
    let minified = "[{\"id\":1},{\"id\":x},7,{\"id\":2}]";
    let result = decode(Shape::Elements, &contract(), minified.as_bytes(), 5, true);
    assert!(result.starts_with("4=2 [1, 21]"), "{result}");
}

#[test]
fn modes_of_the_contract_are_kept() {
    let mut strict = contract();
    strict.modes.new_columns = ContractMode::DiscardRow;
    strict.columns[1].constraints.push(Constraint::MaxLength(2));
    let text = "{\"id\":1,\"b\":2}\n{\"id\":2,\"name\":\"abc\"}\n{\"id\":3,\"name\":\"ab\"}\n";
    let result = decode(Shape::Lines, &strict, text.as_bytes(), 1000, true);
    assert!(result.starts_with("3=1 "), "{result}");
    assert!(result.contains("new_column b"), "{result}");
    assert!(result.contains("constraint name"), "{result}");
    let mut lenient = contract();
    lenient.modes.bad_values = ContractMode::DiscardValue;
    let text = "{\"id\":1,\"day\":\"x\"}\n{\"id\":\"x\"}\n";
    let result = decode(Shape::Lines, &lenient, text.as_bytes(), 1000, true);
    assert!(result.starts_with("2=1 "), "{result}");
}

#[test]
fn new_fields_of_the_head_become_text() {
    let format = JsonFormat::new(JsonOptions::default(), Shape::Lines).unwrap();
    let head = FileHead { bytes: b"{\"id\":1,\"x\":1}\n{\"y\":2,\"x\":3}\n{\"z", whole: false };
    let layout = format.layout(head, &Arc::new(contract())).unwrap();
    let names: Vec<_> = layout.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "name", "amount", "day", "x", "y"]);
    let diff = layout.diff().unwrap();
    assert_eq!(diff.changes.len(), 5, "three are missing, two are new: {diff:?}");
}

proptest! {
    #[test]
    fn nothing_panics_and_every_record_is_accounted_for(
        text in r#"(\{"id":[0-9x]{1,3}(,"name":"[ab\\"é]{0,4}")?(,"day":"2024-0[0-3]-0[0-2]")?\}?[,\n]?){0,8}"#,
        piece in 1..40_usize,
        elements: bool,
    ) {
        let shape = if elements { Shape::Elements } else { Shape::Lines };
        if !text.trim().is_empty() {
            let whole = decode(shape, &contract(), text.as_bytes(), text.len(), true);
            prop_assert_eq!(&decode(shape, &contract(), text.as_bytes(), piece, true), &whole);
            let none = decode(shape, &contract(), text.as_bytes(), text.len(), false);
            let fates = |result: &str| {
                result.lines().take_while(|line| !line.starts_with('+')).collect::<Vec<_>>().join("\n")
            };
            prop_assert_eq!(fates(&none), fates(&whole));
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes: Vec<u8>, piece in 1..40_usize, elements: bool) {
        let shape = if elements { Shape::Elements } else { Shape::Lines };
        if !bytes.trim_ascii().is_empty() {
            decode(shape, &contract(), &bytes, piece, true);
        }
    }
}

/// What `serde_json` says of a message: the texts of `a`, `b` and `c`; `None` where it is no object.
fn reference(message: &[u8]) -> Option<[Option<String>; 3]> {
    let value: serde_json::Value = serde_json::from_slice(message).ok()?;
    let object = value.as_object()?;
    Some(["a", "b", "c"].map(|name| match object.get(name)? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }))
}

fn messages_of(parts: &[Vec<u8>], gap: &[u8]) -> (Bytes, Vec<freshet_core::format::Message>) {
    let mut bytes = b"head".to_vec();
    let mut messages = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(part);
        let (end, position) = (bytes.len() as u32, 100 + 2 * index as u64);
        messages.push(freshet_core::format::Message { start, end, position });
        bytes.extend_from_slice(gap);
    }
    (bytes.into(), messages)
}

proptest! {
    #[test]
    fn a_message_is_what_it_is_whatever_came_before(
        parts in prop::collection::vec(
            prop::collection::vec(
                (
                    prop::sample::select(vec!["a", "b", "c", "d", "e", "\\u0061", "long long long long"]),
                    prop::sample::select(vec![
                        "1", "\"x\"", "null", "true", "[1,\"}\"]", "\"a text that is longer than 16 bytes\"",
                        "\"\\u00e9\\n\"", "-12345678.5", "\"é\"", " 7 ", "\"\n\"", "{}", "12345678901234567",
                    ]),
                ),
                0..6,
            ),
            1..12,
        ),
        broken in prop::option::of((0..12_usize, prop::sample::select(vec!["", "{", "\u{ff}", "{}{}", "[]", " {\n} "]))),
        colon in prop::sample::select(vec![":", " : ", ":"]),
        newline: bool,
        evolves: bool,
    ) {
        let mut parts: Vec<Vec<u8>> = parts
            .iter()
            .map(|fields| {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("\"{name}\"{colon}{value}")).collect();
                format!("{{{}}}", fields.join(",")).into_bytes()
            })
            .collect();
        if let Some((index, text)) = broken && index < parts.len() {
            parts[index] = if text == "\u{ff}" { vec![b'{', b'"', 0xff, b'"', b':', b'1', b'}'] } else { text.into() };
        }
        let mut contract = Contract {
            columns: ["a", "b", "c"].map(|name| ContractColumn::new(name, ColumnType::Text)).to_vec(),
            ..Contract::default()
        };
        if !evolves {
            contract.modes.new_columns = ContractMode::DiscardValue;
        }
        let format = JsonFormat::new(JsonOptions::default(), Shape::Lines).unwrap();
        let layout = format.layout(FileHead { bytes: b"", whole: false }, &Arc::new(contract)).unwrap();
        let spec = ReadSpec { projection: vec![0, 1, 2], offsets: true, batch_rows: 5, ..ReadSpec::default() };
        let mut decoder = layout.messages(&layout.schema(), &spec).unwrap().unwrap();
        // What was learnt of the first round serves the second one.
        for _ in 0..2 {
            let (bytes, messages) = messages_of(&parts, if newline { b"\n" } else { b"\xff\xff" });
            let mut out = Decoded::default();
            assert_eq!(decoder.decode(&bytes, &messages, &mut out).unwrap(), Decoding::Done);
            prop_assert!(out.balances());
            let mut rows = std::collections::BTreeMap::new();
            for (batch, offsets) in out.batches.iter().zip(&out.offsets) {
                for row in 0..batch.num_rows() {
                    let values: Vec<Option<String>> = (0..3)
                        .map(|column| {
                            use arrow::array::{Array, AsArray};
                            let column = batch.column(column).as_string_view();
                            column.is_valid(row).then(|| column.value(row).to_owned())
                        })
                        .collect();
                    rows.insert(offsets[row] as u64, values);
                }
            }
            for (part, message) in parts.iter().zip(&messages) {
                let found = rows.remove(&message.position);
                let expect = reference(part).map(|values| values.to_vec());
                // Numbers and nested values keep their spelling here.
                let plain = |values: &Vec<Option<String>>| -> Vec<Option<String>> {
                    values.iter().map(|v| v.as_ref().map(|v| v.replace(' ', ""))).collect()
                };
                prop_assert_eq!(
                    found.as_ref().map(plain), expect.as_ref().map(plain),
                    "{}", String::from_utf8_lossy(part)
                );
                if expect.is_none() {
                    let reject = out.rejects.iter().find(|r| r.offset == message.position);
                    prop_assert_eq!(reject.map(|r| r.raw.to_vec()), Some(part.clone()));
                }
            }
        }
    }
}

#[test]
fn a_message_that_is_not_utf8_costs_no_second_look_at_those_behind_it() {
    let contract = Contract {
        columns: vec![ContractColumn::new("a", ColumnType::Int64)],
        ..Contract::default()
    };
    let format = JsonFormat::new(JsonOptions::default(), Shape::Lines).unwrap();
    let head = FileHead { bytes: b"", whole: false };
    let layout = format.layout(head, &Arc::new(contract)).unwrap();
    let spec = ReadSpec { projection: vec![0], ..ReadSpec::default() };
    let mut decoder = layout.messages(&layout.schema(), &spec).unwrap().unwrap();
    let mut parts = vec![format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(100)).into_bytes(); 40_000];
    for bad in [0, 1, 20_000, 39_999] {
        parts[bad][12] = 0xff;
    }
    let (bytes, messages) = messages_of(&parts, b"\n");
    let mut out = Decoded::default();
    let begun = std::time::Instant::now();
    assert_eq!(decoder.decode(&bytes, &messages, &mut out).unwrap(), Decoding::Done);
    // Text that is checked anew behind each message takes minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    let rejected: Vec<_> = out.rejects.iter().map(|reject| reject.offset).collect();
    assert_eq!(rejected, [0, 1, 20_000, 39_999].map(|index: u64| 100 + 2 * index));
    assert_eq!(out.batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 39_996);
}

fn by_path(name: &str, path: &str, data_type: ColumnType) -> ContractColumn {
    ContractColumn { source_name: Some(path.into()), ..ContractColumn::new(name, data_type) }
}

fn paths(text: &str, new_columns: ContractMode) -> String {
    let modes = freshet_core::contract::ContractModes { new_columns, ..Contract::default().modes };
    let contract = Contract {
        columns: vec![
            by_path("kind", "kind", ColumnType::Int32),
            by_path("price", "bid.price", ColumnType::Int64),
            by_path("city", "person.home.city", ColumnType::Text),
            by_path("person", "person", ColumnType::Text),
            by_path("at", "person.at | bid.at", ColumnType::Int64),
        ],
        modes,
        ..Contract::default()
    };
    let options = JsonOptions { paths: true, ..JsonOptions::default() };
    decode_by(options, Shape::Lines, &contract, text.as_bytes(), text.len().max(1), true)
}

#[test]
fn paths_lead_into_objects() {
    let text = r#"{"kind":2,"person":null,"bid":{"price":7,"at":70}}
{"kind":0,"person":{"at":5,"home":{"zip":1,"city":"Rome"}},"bid":null}
{"bid":{"at":71,"price":8},"kind":2}
{"kind":3,"bid":{"at":null,"price":null},"person":{"home":null,"at":6}}
{"kind":4,"bid":5}
{"kind":5,"bid":{"price":1},"bid":{"at":2}}
{"kind":6,"person":{"home":{"city":["a"]}}}"#;
    let result = paths(text, ContractMode::DiscardValue);
    for row in [
        "| 2    | 7     |      |                                          | 70 |",
        "| 0    |       | Rome | {\"at\":5,\"home\":{\"zip\":1,\"city\":\"Rome\"}} | 5  |",
        "| 2    | 8     |      |                                          | 71 |",
        "| 3    |       |      | {\"home\":null,\"at\":6}                   | 6  |",
        "| 5    | 1     |      |                                          | 2  |",
        "| 6    |       | [\"a\"] ",
    ] {
        let row: String = row.split_whitespace().collect();
        let found = result
            .lines()
            .any(|line| line.split_whitespace().collect::<String>().starts_with(&row));
        assert!(found, "{row} is not in\n{result}");
    }
    assert!(result.contains("type price: \"5\" is not a bigint"), "{result}");
    assert!(result.starts_with("7=6 "), "{result}");
}

#[test]
fn fields_within_objects_are_news_by_their_whole_name() {
    let text = "{\"kind\":1,\"bid\":{\"price\":7,\"channel\":\"x\",\"a.b\":1}}";
    let evolves = paths(text, ContractMode::Evolve);
    assert!(evolves.contains("bid.channel") && !evolves.contains("a.b"), "{evolves}");
    let strict = paths(text, ContractMode::DiscardRow);
    assert!(strict.contains("does not declare the field \"bid.channel\""), "{strict}");
}

proptest! {
    #[test]
    fn paths_find_what_a_tree_of_values_has(
        rows in prop::collection::vec(prop::collection::vec((0..3_usize, 0..4_usize, 0..100_i64), 0..8), 1..6),
    ) {
        // Fields of up to two objects and of the record itself, in any order, some twice.
        let mut text = String::new();
        let mut expected = Vec::new();
        for row in &rows {
            let mut record = serde_json::Map::new();
            for (object, field, value) in row {
                let value = if *field == 3 { Json::Null } else { Json::from(*value) };
                let name = format!("f{field}");
                match object {
                    0 => record.insert(name, value),
                    _ => match record.entry(format!("o{object}")).or_insert_with(|| serde_json::json!({})) {
                        Json::Object(inner) => inner.insert(name, value),
                        _ => None,
                    },
                };
            }
            let record = Json::Object(record);
            expected.push([
                record.pointer("/f0"), record.pointer("/o1/f1"), record.pointer("/o2/f1"), record.pointer("/o2/f2"),
            ].map(|value| value.and_then(Json::as_i64)));
            text.push_str(&record.to_string());
            text.push('\n');
        }
        let contract = Contract {
            columns: vec![
                by_path("a", "f0", ColumnType::Int64),
                by_path("b", "o1.f1", ColumnType::Int64),
                by_path("c", "o2.f1", ColumnType::Int64),
                by_path("d", "o2.f2", ColumnType::Int64),
            ],
            modes: freshet_core::contract::ContractModes {
                new_columns: ContractMode::DiscardValue,
                ..Contract::default().modes
            },
            ..Contract::default()
        };
        let options = JsonOptions { paths: true, ..JsonOptions::default() };
        let result = decode_by(options, Shape::Lines, &contract, text.as_bytes(), text.len(), true);
        let found: Vec<Vec<String>> = result
            .lines()
            .filter(|line| line.starts_with("| ") && !line.contains(" a "))
            .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect();
        let expected: Vec<Vec<String>> = expected
            .iter()
            .map(|row| {
                let cells = row.iter().map(|value| value.map_or(String::new(), |v| v.to_string()));
                std::iter::once(String::new()).chain(cells).chain([String::new()]).collect()
            })
            .collect();
        prop_assert_eq!(found, expected, "{}\n{}", text, result);
    }
}
