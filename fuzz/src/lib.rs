//! What must hold for any bytes at all, for every text format: no panic, every record accounted for,
//! and the same result however the input is cut.

use std::sync::Arc;

use bytes::Bytes;
use freshet_connectors::formats::{Format, FormatReader};
use freshet_core::format::{Chunk, FileHead, ReadSpec, TextLayout};
use freshet_core::record::{Decoded, Rule};
use freshet_core::{ColumnType, Constraint, Contract, ContractColumn};
use serde_json::Value;

/// A contract with a column of each kind of parser.
pub fn contract() -> Arc<Contract> {
    let types = [
        ("a", ColumnType::Int64),
        ("b", ColumnType::Decimal { precision: 12, scale: 2 }),
        ("c", ColumnType::Date),
        ("d", ColumnType::Timestamp),
        ("e", ColumnType::Text),
        ("f", ColumnType::Float64),
        ("g", ColumnType::Boolean),
        ("h", ColumnType::Binary),
    ];
    let mut columns: Vec<_> =
        types.into_iter().map(|(name, data_type)| ContractColumn::new(name, data_type)).collect();
    columns[0] = columns[0].clone().not_null();
    columns[1].constraints.push(Constraint::Min("0".into()));
    Arc::new(Contract { columns, ..Contract::default() })
}

/// What is compared between two ways of reading the same bytes.
type Outcome = (u64, u64, Vec<(u64, Rule, Vec<u8>)>);

/// Reads `bytes` whole and cut at `cut`, and holds the results against each other.
pub fn hold(format: &dyn Format, options: &Value, bytes: &[u8], cut: usize) {
    let Ok(FormatReader::Text(format)) = format.open(options, None) else { return };
    let Ok(layout) = format.layout(FileHead { bytes, whole: true }, &contract()) else { return };
    let start = usize::try_from(layout.data_offset()).expect("it lies in the input");
    assert!(start <= bytes.len(), "data starts inside the file");
    let all: Vec<usize> = (0..layout.schema().fields().len()).collect();
    let whole = read(&*layout, &all, &bytes[start..], start, None);
    let cut = cut % (bytes.len() - start + 1);
    assert_eq!(whole, read(&*layout, &all, &bytes[start..], start, Some(cut)), "cut");
    // A record's fate does not depend on what is selected.
    assert_eq!(whole, read(&*layout, &[], &bytes[start..], start, None), "projection");
}

fn read(
    layout: &dyn TextLayout,
    projection: &[usize],
    data: &[u8],
    start: usize,
    cut: Option<usize>,
) -> Outcome {
    let spec = ReadSpec { projection: projection.to_vec(), max_record_bytes: 4096, ..ReadSpec::default() };
    let mut decoder =
        layout.decoder(&layout.schema(), &spec).expect("a layout decodes its own schema");
    let mut outcome: Outcome = (0, 0, Vec::new());
    let mut from = 0;
    let mut feed = |from: usize, to: usize| {
        let chunk = Chunk {
            bytes: Bytes::copy_from_slice(&data[from..to]),
            offset: (start + from) as u64,
            last: to == data.len(),
        };
        let mut decoded = Decoded::default();
        let consumed = decoder.decode(&chunk, &mut decoded).expect("bad records are no errors");
        assert!(consumed <= to - from, "no more is consumed than there is");
        assert!(!chunk.last || consumed == to - from, "the last chunk is consumed");
        if !projection.is_empty() {
            assert!(decoded.balances(), "every record is accounted for");
        }
        outcome.0 += decoded.records;
        outcome.1 += decoded.good;
        for reject in decoded.rejects {
            outcome.2.push((reject.offset, reject.rule, reject.raw.into_vec()));
        }
        consumed
    };
    if let Some(cut) = cut.filter(|cut| *cut < data.len()) {
        from = feed(0, cut);
    }
    feed(from, data.len());
    outcome
}
