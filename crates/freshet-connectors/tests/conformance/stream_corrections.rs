//! A record that stands for a bad one is decoded as if it had been read there, whatever the source.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use freshet_core::clock::SystemClock;
use freshet_core::config::{HumanDuration, Share};
use freshet_core::contract::{Contract, ContractColumn};
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::source::Position;
use freshet_core::stream::{Block, BlockDecoder, Partition, StreamSource};
use freshet_core::types::ColumnType;
use serde_json::{Value, json};

fn source(connector: &str, options: &Value, folder: &tempfile::TempDir) -> Arc<dyn StreamSource> {
    let columns = vec![
        ContractColumn::new("id", ColumnType::Int64).not_null(),
        ContractColumn::new("name", ColumnType::Text),
    ];
    let spec = SourceSpec {
        name: "shop.orders".into(),
        contract: Arc::new(Contract { columns, ..Contract::default() }),
        max_bad: Share(0.0),
        settle: HumanDuration(Duration::ZERO),
    };
    let context = ConnectorContext {
        project_dir: folder.path().to_owned(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    };
    let registry = freshet_connectors::registry();
    let connector = registry.get(connector).expect("it is listed");
    connector.stream(options, spec, &context).expect("options that make sense")
}

fn decode(
    source: &dyn StreamSource,
    decoder: &mut dyn BlockDecoder,
    position: u64,
    record: &str,
) -> Decoded {
    let partition = Partition("0".into());
    let position = Position(position);
    let bytes = source.block_of(&partition, position, record.as_bytes(), 7_000_000);
    let bytes = bytes.expect("a record").expect("sources can be corrected");
    let next = Position(position.0 + 1);
    let block = Block { partition: 0, bytes, position, next, written: None };
    let mut out = Decoded::default();
    assert_eq!(decoder.decode(&block, &mut out).expect("it decodes"), Decoding::Done);
    assert!(out.balances());
    assert_eq!(out.records, 1);
    out
}

#[test]
fn a_corrected_record_has_the_place_of_the_bad_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let sources = [
        ("log", json!({ "partitions": 1 })),
        ("kafka", json!({ "topic": "orders", "brokers": "127.0.0.1:1" })),
        ("tail", json!({ "path": "orders.log", "format": "ndjson" })),
    ];
    for (name, options) in sources {
        let source = source(name, &options, &folder);
        let offset = source.schema().index_of("_offset").expect("each source has one");
        let mut decoder = source.decoder(&[0, offset]).expect("a decoder");
        decoder.add(&Partition("0".into()));
        for position in [0, 5_000_000_000] {
            let good = decode(&*source, &mut *decoder, position, "{\"id\": 7}");
            let rows = &good.batches[0];
            let number = |column: usize| rows.column(column).as_primitive::<Int64Type>().value(0);
            assert_eq!((number(0), number(1)), (7, position as i64), "{name}");
            // One that is bad itself is a dead letter at the same place.
            let bad = decode(&*source, &mut *decoder, position, "{\"id\": \"seven\"}");
            assert_eq!(bad.rejects[0].offset, position, "{name}");
            assert_eq!(&bad.rejects[0].raw[..], b"{\"id\": \"seven\"}", "{name}");
        }
    }
    let tail = source("tail", &json!({ "path": "orders.log", "format": "ndjson" }), &folder);
    tail.block_of(&Partition("0".into()), Position(0), b"two\nlines", 0)
        .expect_err("a line is one");
}
