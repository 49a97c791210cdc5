//! What samples suggest, and that a source made of it reads the files whole.

use std::path::Path;
use std::sync::Arc;

use freshet_connectors::infer::{Inferred, infer};
use freshet_core::clock::ManualClock;
use freshet_core::contract::ContractModes;
use freshet_core::registry::ConnectorContext;
use freshet_core::{Contract, Error};
use serde_json::{Map, Value};

use super::support::{NOW, Reading, gzip, runtime, utf16};

fn inferred(dir: &Path, path: &str) -> Result<Inferred, Error> {
    let context = ConnectorContext {
        project_dir: dir.to_owned(),
        connection: Map::new(),
        clock: Arc::new(ManualClock::new(NOW)),
    };
    runtime().block_on(infer(path, &context))
}

/// The guess for one file as text, after reading the file with it: every record must be good.
fn check(name: &str, bytes: &[u8], expect: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let guess = inferred(dir.path(), name).unwrap();
    let columns: Vec<String> = guess
        .columns
        .iter()
        .map(|column| {
            let format =
                column.format.as_ref().map(|format| format!(" {format}")).unwrap_or_default();
            let required = if column.nullable { "" } else { " not null" };
            format!("{} {}{format}{required}", column.name, column.data_type)
        })
        .collect();
    let options = Value::Object(guess.format_options.clone());
    let text = format!("{} {options} {:?}: {}", guess.format, guess.encoding, columns.join(", "));
    assert_eq!(text, expect, "{name}");
    let mut reading = Reading::new(dir.path(), name).with("format", guess.format.as_str());
    reading.options["format_options"] = options;
    reading.options["encoding"] = serde_json::to_value(guess.encoding).unwrap();
    reading.contract = Contract {
        columns: guess.columns.clone(),
        modes: ContractModes::default(),
        ..Contract::default()
    };
    let outcome = reading.run();
    assert!(outcome.file().good > 0, "{name}: {}", outcome.summary());
    assert!(outcome.file().rejects.is_empty(), "{name}: {}", outcome.summary());
}

#[test]
fn dialects_types_and_encodings_are_seen() {
    let rows = |row: fn(usize) -> String| (1..30).map(row).collect::<String>();
    check(
        "a.csv",
        format!(
            "id,day,amount,note\n{}",
            rows(|i| format!("{i},2024-05-{i:02},{i}.50,\"a, b\"\n"))
        )
        .as_bytes(),
        "csv {} Utf8: id bigint not null, day date not null, amount decimal(12,2) not null, note text not null",
    );
    check(
        "b.csv",
        &encoding_of_the_west(&format!(
            "Datum;Betrag;Straße\n{}",
            rows(|i| format!("{i:02}.12.2023;1.{i:03},50;Weg\n"))
        )),
        "csv {\"delimiter\":\";\",\"decimal_separator\":\",\",\"thousands_separator\":\".\"} Windows1252: \
         Datum date %d.%m.%Y not null, Betrag decimal(12,2) not null, Straße text not null",
    );
    check(
        "c.tsv",
        format!("k\tat\n{}", rows(|i| format!("00{i}\t2024-05-01 10:00:{i:02}\n"))).as_bytes(),
        "csv {} Utf8: k text not null, at timestamp not null",
    );
    check(
        "d.csv",
        format!("id,note\n{}", rows(|i| format!("{i},\"line one\nline {i}\"\n"))).as_bytes(),
        "csv {\"quoted_newlines\":true} Utf8: id bigint not null, note text not null",
    );
    check(
        "e.csv.gz",
        &gzip(
            format!(
                "a|b\n{}",
                rows(|i| format!("{}|x\n", if i % 3 == 0 { "NULL".into() } else { i.to_string() }))
            )
            .as_bytes(),
        ),
        "csv {\"delimiter\":\"|\",\"null_values\":[\"\",\"NULL\"]} Utf8: a bigint, b text not null",
    );
    check(
        "f.ndjson",
        rows(|i| format!("{{\"id\":{i},\"x\":{{}},\"ok\":true,\"v\":{i}.5}}\n")).as_bytes(),
        "ndjson {} Utf8: id bigint not null, x text, ok boolean not null, v decimal(12,1) not null",
    );
    check(
        "g.json",
        b"[\n {\"id\": 1},\n {\"id\": 2, \"t\": \"2024-01-01\"}\n]",
        "json {} Utf8: id bigint, t date",
    );
    check(
        "h.csv",
        &utf16(format!("id,name\n{}", rows(|i| format!("{i},é\n"))).as_bytes()),
        "csv {} Utf16Le: id bigint not null, name text not null",
    );
}

/// Text in Windows-1252, as far as it is Latin-1.
fn encoding_of_the_west(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

#[test]
fn yaml_has_the_shape_of_a_source() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s_20240501.csv"), "id;day\n1;05/06/2024\n").unwrap();
    let yaml = inferred(dir.path(), "s_{date:%Y%m%d}.csv").unwrap().to_yaml("pos", "sales");
    let expect = r#"# look at this: column "day" is read as %d/%m/%Y and could be %m/%d/%Y
# from 1 sampled file
sources:
  - name: "pos"
    tables:
      - name: "sales"
        connector: files
        with:
          path: "s_{date:%Y%m%d}.csv"
          format: csv
          format_options:
            delimiter: ";"
        columns:
          - name: "id"
            data_type: bigint
          - name: "day"
            data_type: date
            format: "%d/%m/%Y"
"#;
    assert_eq!(yaml, expect);
}

#[test]
fn nothing_to_sample_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), "").unwrap();
    let error = inferred(dir.path(), "*.csv").expect_err("it is empty");
    assert!(error.message().contains("no file with content matches"), "{}", error.message());
}
