//! How fast CSV is decoded by one core, in time on that core: retail sales of about 65 bytes a row, 0.5% of them bad,
//! a contract over all eight columns, for several projections.
//!
//! `cargo run --release -p freshet-connectors --example csv_bench [MB] [ROUNDS]`

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use freshet_connectors::csv::{CsvFormat, CsvOptions};
use freshet_core::contract::{Constraint, Contract, ContractColumn};
use freshet_core::format::{Chunk, FileHead, ReadSpec, TextFormat};
use freshet_core::record::Decoded;

const CHUNK: usize = 4 << 20;

fn contract() -> Arc<Contract> {
    let column = |name: &str, data_type: &str| {
        ContractColumn::new(name, data_type.parse().expect("a type")).not_null()
    };
    let mut amount = column("amount", "decimal(12,2)");
    amount.constraints.push(Constraint::Min("0".into()));
    Arc::new(Contract {
        columns: vec![
            column("store_id", "int"),
            column("transaction_id", "bigint"),
            column("sale_date", "date"),
            column("sale_ts", "timestamp"),
            column("product", "text"),
            column("quantity", "int"),
            amount,
            column("payment", "text"),
        ],
        ..Contract::default()
    })
}

/// Sales of one day, every two hundredth of them bad.
fn sales(bytes: usize) -> String {
    let mut text =
        "store_id,transaction_id,sale_date,sale_ts,product,quantity,amount,payment\n".to_owned();
    let products =
        ["Milk 1L", "Bread, rye", "Coffee beans 500g", "Tea", "Olive oil, 750ml", "Salt"];
    let payments = ["card", "cash", "voucher", "mobile"];
    let mut state = 7u64;
    let mut random = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut row = 0u64;
    while text.len() < bytes {
        row += 1;
        let amount = match row % 400 {
            0 => "abc".to_owned(),
            200 => "-5.00".to_owned(),
            _ => format!("{}.{:02}", random(300), random(100)),
        };
        let day = if random(100) == 0 { 14 } else { 15 };
        writeln!(
            text,
            "{},{},2024-03-{day},2024-03-{day} {:02}:{:02}:{:02},\"{}\",{},{amount},{}",
            random(500) + 1,
            10_000_000 + row,
            random(24),
            random(60),
            random(60),
            products[random(6) as usize],
            random(9) + 1,
            payments[random(4) as usize],
        )
        .expect("a string takes all");
    }
    text
}

/// Seconds that this thread has been on a core, so that a busy machine does not count; by the
/// wall clock where the system does not say.
fn seconds(start: Instant) -> f64 {
    let on_core = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    on_core.map_or_else(|| start.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

fn main() {
    let clock = Instant::now();
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let megabytes: usize = arguments.next().unwrap_or(256);
    let rounds = arguments.next().unwrap_or(7);
    let file = sales(megabytes * 1_000_000);
    let format = CsvFormat::new(CsvOptions::default()).expect("the options are sound");
    let contract = contract();
    let head = FileHead { bytes: &file.as_bytes()[..64 << 10], whole: false };
    let layout = format.layout(head, &contract).expect("the header is sound");
    let schema = layout.schema();
    let offset = layout.data_offset() as usize;
    let chunks: Vec<Chunk> = {
        let all = Bytes::from(file.into_bytes());
        let mut chunks = Vec::new();
        let mut at = offset;
        while at < all.len() {
            let wanted = all.len().min(at + CHUNK);
            let end = all[wanted..].iter().position(|byte| *byte == b'\n');
            let end = end.map_or(all.len(), |distance| wanted + distance + 1);
            let last = end == all.len();
            chunks.push(Chunk { bytes: all.slice(at..end), offset: at as u64, last });
            at = end;
        }
        chunks
    };
    let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    for (name, projection) in [
        ("none", vec![]),
        ("store_id, sale_date, amount", vec![0, 2, 6]),
        ("all", (0..8).collect()),
    ] {
        let spec = ReadSpec { projection, ..ReadSpec::default() };
        let mut decoder = layout.decoder(&schema, &spec).expect("the projection is sound");
        let mut decoded = Decoded::default();
        let (mut records, mut rejects) = (0, 0);
        let mut times: Vec<f64> = (0..rounds)
            .map(|_| {
                (records, rejects) = (0, 0);
                let start = seconds(clock);
                for chunk in &chunks {
                    decoded.clear();
                    let consumed = decoder.decode(chunk, &mut decoded).expect("no chunk fails");
                    assert_eq!(consumed, chunk.bytes.len(), "chunks end with a line");
                    assert!(decoded.balances(), "every record is accounted for");
                    records += decoded.records;
                    rejects += decoded.rejects.len();
                }
                seconds(clock) - start
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        println!(
            "columns {name}: median {:.0} MB/s, best {:.0} MB/s, {:.1} ns a record ({records} records of {:.1} bytes, {rejects} rejected)",
            bytes as f64 / 1e6 / median,
            bytes as f64 / 1e6 / times[0],
            median * 1e9 / records as f64,
            bytes as f64 / records as f64,
        );
    }
}
