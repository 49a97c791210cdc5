//! What must hold for any bytes at all: no panic, every record accounted for, and for text the same
//! result however the input is cut.

mod blocks;

pub use blocks::hold_blocks;

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
    hold_units(&*layout, &bytes[start..], start, cut, &whole);
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

/// Holds a reading in two units, where the format's files can be cut by guessing: the first one
/// gives up at the first record behind `cut`, wherever the walker too ends, and the second begins.
fn hold_units(layout: &dyn TextLayout, data: &[u8], start: usize, cut: usize, whole: &Outcome) {
    let stop = Some((start + cut) as u64);
    let spec = ReadSpec { stop, max_record_bytes: 4096, ..ReadSpec::default() };
    let Some(mut walker) = layout.walker(&spec).expect("a layout walks its own data") else { return };
    let mut decoder =
        layout.decoder(&layout.schema(), &spec).expect("a layout decodes its own schema");
    let chunk = Chunk { bytes: Bytes::copy_from_slice(data), offset: start as u64, last: true };
    let mut first = Decoded::default();
    let exit = decoder.decode(&chunk, &mut first).expect("bad records are no errors");
    let mut nothing = Decoded::default();
    let walked = walker.decode(&chunk, &mut nothing).expect("walking has no errors");
    assert_eq!(exit, walked, "the walker ends where the decoder does");
    assert!(nothing.batches.is_empty() && nothing.rejects.is_empty(), "the walker gives nothing");
    assert_eq!(first.lines, nothing.lines);
    assert!(exit >= cut || exit == data.len(), "all records in front of the stop are decoded");
    let (records, good, rejects) = read(layout, &[], &data[exit..], start + exit, None);
    assert_eq!(whole.0, first.records + records);
    assert_eq!(whole.1, first.good + good);
    assert_eq!(whole.2.len(), first.rejects.len() + rejects.len());
}
