//! How fast JSON is decoded by one core, in time on that core: events of an auction of about 340 bytes,
//! one message each, a contract over some of their fields, for several projections; and the same as
//! lines of a file.
//!
//! `cargo run --release -p freshet-connectors --example json_bench [MB] [ROUNDS]`

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use freshet_connectors::json::{JsonFormat, JsonOptions, Shape};
use freshet_core::contract::{Contract, ContractColumn, ContractMode, ContractModes};
use freshet_core::format::{Chunk, FileHead, Message, ReadSpec, TextFormat};
use freshet_core::record::Decoded;

/// Bytes that are decoded at a time, as a log gives them.
const BLOCK: usize = 1 << 20;

fn contract(columns: &[(&str, &str)]) -> Arc<Contract> {
    let column = |(name, data_type): &(&str, &str)| ContractColumn {
        source_name: Some((*name).to_owned()),
        ..ContractColumn::new(name.replace('.', "_"), data_type.parse().expect("a type"))
    };
    Arc::new(Contract {
        columns: columns.iter().map(column).collect(),
        modes: ContractModes {
            new_columns: ContractMode::DiscardValue,
            ..ContractModes::default()
        },
        ..Contract::default()
    })
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn word(&mut self, len: u64) -> String {
        (0..len).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }
}

/// Bids without nesting, as many sources have their events.
fn flat(bytes: usize) -> String {
    let mut chance = Chance(7);
    let channels = ["Google", "Facebook", "Baidu", "Apple", "channel-4711"];
    let mut text = String::new();
    while text.len() < bytes {
        let second = chance.below(60);
        let (channel, url) = (channels[chance.below(5) as usize], chance.word(16));
        writeln!(
            text,
            "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"{channel}\",\"url\":\"https://www.nexmark.com/{url}/item.htm?query=1&channel_id={}\",\"dateTime\":\"2026-11-23 01:02:{second:02}.{:03}\",\"extra\":\"{}\"}}",
            1000 + chance.below(100_000),
            1000 + chance.below(100_000),
            chance.below(100_000_000),
            chance.below(1 << 30),
            chance.below(1000),
            chance.word(110),
        )
        .expect("a string takes all");
    }
    text
}

/// The same with all kinds of events side by side, as Flink's generator has them.
fn nested(bytes: usize) -> String {
    let mut text = String::new();
    for line in flat(bytes - bytes / 5).lines() {
        writeln!(text, "{{\"event_type\":2,\"person\":null,\"auction\":null,\"bid\":{line},\"dateTime\":\"2026-11-23 01:02:03.004\"}}")
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

/// Blocks of whole lines, and the places of their messages.
fn blocks(text: &str) -> Vec<(Bytes, Vec<Message>)> {
    let all = Bytes::copy_from_slice(text.as_bytes());
    let mut blocks = Vec::new();
    let mut at = 0;
    let mut position = 0;
    while at < all.len() {
        let wanted = all.len().min(at + BLOCK);
        let end = all[wanted..].iter().position(|byte| *byte == b'\n');
        let end = end.map_or(all.len(), |distance| wanted + distance + 1);
        let block = all.slice(at..end);
        let mut messages = Vec::new();
        let mut start = 0;
        for (place, byte) in block.iter().enumerate() {
            if *byte == b'\n' {
                messages.push(Message { start, end: place as u32, position });
                start = place as u32 + 1;
                position += 1;
            }
        }
        blocks.push((block, messages));
        at = end;
    }
    blocks
}

fn main() {
    let clock = Instant::now();
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let megabytes: usize = arguments.next().unwrap_or(64);
    let rounds = arguments.next().unwrap_or(7);
    let bid = [
        ("auction", "bigint"),
        ("bidder", "bigint"),
        ("price", "bigint"),
        ("channel", "text"),
        ("url", "text"),
        ("dateTime", "timestamp"),
        ("extra", "text"),
    ];
    let whole = [("event_type", "int"), ("bid", "text"), ("dateTime", "timestamp")];
    let paths = [
        ("event_type", "int"),
        ("person.dateTime | auction.dateTime | bid.dateTime", "timestamp"),
        ("person.id", "bigint"),
        ("person.name", "text"),
        ("person.emailAddress", "text"),
        ("person.city", "text"),
        ("person.extra", "text"),
        ("auction.id", "bigint"),
        ("auction.itemName", "text"),
        ("auction.description", "text"),
        ("auction.initialBid", "bigint"),
        ("auction.expires", "timestamp"),
        ("auction.seller", "bigint"),
        ("auction.category", "bigint"),
        ("auction.extra", "text"),
        ("bid.auction", "bigint"),
        ("bid.bidder", "bigint"),
        ("bid.price", "bigint"),
        ("bid.channel", "text"),
        ("bid.url", "text"),
        ("bid.extra", "text"),
    ];
    for (name, text, columns, projection) in [
        ("paths: as Nexmark q0", nested(megabytes << 20), &paths[..], vec![0, 1, 15, 16, 17, 20]),
        ("paths: as Nexmark q5", nested(megabytes << 20), &paths, vec![0, 1, 15]),
        ("paths: all", nested(megabytes << 20), &paths, (0..paths.len()).collect()),
        ("flat: no column, contract of 3", flat(megabytes << 20), &bid[..3], vec![]),
        ("flat: auction, bidder, price", flat(megabytes << 20), &bid[..3], vec![0, 1, 2]),
        ("flat: 4 and dateTime, declared", flat(megabytes << 20), &bid[..6], vec![0, 1, 2, 5]),
        ("flat: all 7", flat(megabytes << 20), &bid, (0..7).collect()),
        ("nested: event_type, bid, dateTime", nested(megabytes << 20), &whole, vec![0, 1, 2]),
    ] {
        let blocks = blocks(&text);
        let options = JsonOptions { paths: name.starts_with("paths"), ..JsonOptions::default() };
        let format = JsonFormat::new(options, Shape::Lines).expect("it is sound");
        let head = FileHead { bytes: b"", whole: false };
        let layout = format.layout(head, &contract(columns)).expect("there is no head");
        let schema = layout.schema();
        let spec = ReadSpec { projection, offsets: true, ..ReadSpec::default() };
        let bytes: usize = blocks.iter().map(|(block, _)| block.len()).sum();
        let messages: usize = blocks.iter().map(|(_, messages)| messages.len()).sum();
        for way in ["messages", "lines"] {
            let mut decoder = layout.decoder(&schema, &spec).expect("the projection is sound");
            let of_messages = layout.messages(&schema, &spec).expect("the projection is sound");
            let mut of_messages = of_messages.expect("JSON knows messages");
            let mut out = Decoded::default();
            let mut times: Vec<f64> = (0..rounds)
                .map(|_| {
                    let start = seconds(clock);
                    let mut records = 0;
                    for (block, messages) in &blocks {
                        out.clear();
                        if way == "messages" {
                            let _ =
                                of_messages.decode(block, messages, &mut out).expect("none fails");
                        } else {
                            let chunk = Chunk { bytes: block.clone(), offset: 0, last: false };
                            decoder.decode(&chunk, &mut out).expect("none fails");
                        }
                        assert!(out.balances() && out.rejects.is_empty(), "all are good");
                        records += out.records;
                    }
                    assert_eq!(records, messages as u64, "all are there");
                    seconds(clock) - start
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            println!(
                "{name}, {way}: median {:.0} MB/s, best {:.0} MB/s, {:.0} ns a record of {:.0} bytes",
                bytes as f64 / 1e6 / median,
                bytes as f64 / 1e6 / times[0],
                median * 1e9 / messages as f64,
                bytes as f64 / messages as f64,
            );
        }
    }
}
