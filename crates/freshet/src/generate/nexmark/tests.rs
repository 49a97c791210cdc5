//! The events are held against the suite's description, and against a file that never changes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;

fn options(events: u64) -> NexmarkEvents {
    NexmarkEvents {
        events,
        seed: 7,
        first_event_rate: 10_000,
        partitions: 1,
        start: "2026-01-01T00:00:00".parse().expect("it is a time"),
        out_of_order_group: 1,
    }
}

fn lines(options: &NexmarkEvents) -> (Vec<Vec<u8>>, NexmarkCounts) {
    let mut lines = Vec::new();
    let nexmark = Nexmark::new(options).expect("the options are good");
    let counts = nexmark
        .in_order(&mut |batch| {
            lines.extend(batch.events().map(<[u8]>::to_vec));
            Ok(())
        })
        .expect("nothing can fail");
    (lines, counts)
}

fn events(options: &NexmarkEvents) -> Vec<Value> {
    let parse = |line: &Vec<u8>| serde_json::from_slice(line).expect("each event is JSON");
    lines(options).0.iter().map(parse).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("it is a number")
}

fn body(event: &Value) -> &Value {
    &event[["person", "auction", "bid"][number(&event["event_type"]) as usize]]
}

#[test]
fn mixture_and_identifiers_are_the_suites() {
    let events = events(&options(5_000));
    let (mut persons, mut auctions) = (1_000, 1_000);
    for (at, event) in events.iter().enumerate() {
        let kind = number(&event["event_type"]);
        let expect = match at % 50 {
            0 => 0,
            1..4 => 1,
            _ => 2,
        };
        assert_eq!(kind, expect, "event {at}");
        let others = ["person", "auction", "bid"].iter().filter(|name| event[**name].is_null());
        assert_eq!(others.count(), 2);
        match kind {
            0 => {
                assert_eq!(number(&event["person"]["id"]), persons);
                persons += 1;
            }
            1 => {
                assert_eq!(number(&event["auction"]["id"]), auctions);
                auctions += 1;
                let category = number(&event["auction"]["category"]);
                assert!((10..15).contains(&category));
                let auction = &event["auction"];
                assert!(number(&auction["reserve"]) > number(&auction["initialBid"]));
                let time = auction["dateTime"].as_str().expect("it is text");
                assert!(auction["expires"].as_str().expect("it is text") > time);
                assert!((1_000..persons + 10).contains(&number(&auction["seller"])));
            }
            _ => {
                let bid = &event["bid"];
                assert!((1_000..auctions + 10).contains(&number(&bid["auction"])));
                assert!((2_000..persons + 1_010).contains(&number(&bid["bidder"])));
                assert!((100..=100_000_000).contains(&number(&bid["price"])));
            }
        }
    }
}

#[test]
fn hot_auctions_bidders_sellers_and_channels_have_their_share() {
    let events = events(&options(200_000));
    let (mut hot, mut seen) = (BTreeMap::<&str, f64>::new(), BTreeMap::<&str, f64>::new());
    let mut note = |what, is_hot: bool| {
        *seen.entry(what).or_default() += 1.0;
        *hot.entry(what).or_default() += f64::from(u8::from(is_hot));
    };
    for event in &events {
        match number(&event["event_type"]) {
            1 => note("seller", number(&event["auction"]["seller"]).is_multiple_of(100)),
            2 => {
                let bid = &event["bid"];
                note("auction", number(&bid["auction"]).is_multiple_of(100));
                note("bidder", number(&bid["bidder"]) % 100 == 1);
                let channel = bid["channel"].as_str().expect("it is text");
                note("channel", !channel.starts_with("channel-"));
            }
            _ => {}
        }
    }
    for (what, share) in [("seller", 0.75), ("auction", 0.5), ("bidder", 0.75), ("channel", 0.5)] {
        let found = hot[what] / seen[what];
        // Those drawn at random hit a hot one now and then.
        assert!((share - 0.01..share + 0.02).contains(&found), "{what}: {found}");
    }
}

#[test]
fn event_time_goes_in_equal_steps() {
    let events = events(&NexmarkEvents { first_event_rate: 3, ..options(7) });
    let times: Vec<_> = events.iter().map(|event| body(event)["dateTime"].as_str()).collect();
    let expect = [
        "2026-01-01 00:00:00.000",
        "2026-01-01 00:00:00.333",
        "2026-01-01 00:00:00.666",
        "2026-01-01 00:00:01.000",
        "2026-01-01 00:00:01.333",
        "2026-01-01 00:00:01.666",
        "2026-01-01 00:00:02.000",
    ];
    assert_eq!(times, expect.map(Some));
}

#[test]
fn a_group_is_shuffled_and_nothing_else() {
    let straight = lines(&options(1_000)).0;
    let shuffled = lines(&NexmarkEvents { out_of_order_group: 100, ..options(1_000) }).0;
    assert_ne!(straight, shuffled);
    for (a, b) in straight.chunks(100).zip(shuffled.chunks(100)) {
        assert_eq!(BTreeSet::from_iter(a), BTreeSet::from_iter(b));
    }
    let refused = Nexmark::new(&NexmarkEvents { out_of_order_group: 953, ..options(1_000) });
    assert!(refused.is_err());
}

#[test]
fn partitions_hold_what_one_stream_holds_each_in_order() {
    let options = NexmarkEvents { partitions: 3, ..options(10_020) };
    let (all, counts) = lines(&options);
    let nexmark = Nexmark::new(&options).expect("the options are good");
    let (mut union, mut sum) = (Vec::new(), NexmarkCounts::default());
    for partition in 0..3 {
        let mut own: Vec<Vec<u8>> = Vec::new();
        sum += &nexmark
            .batches(partition, &mut |batch| {
                assert_eq!(batch.partition, partition);
                own.extend(batch.events().map(<[u8]>::to_vec));
                Ok(())
            })
            .expect("nothing can fail");
        let place = |line| all.iter().position(|other| other == line).expect("it is one of all");
        assert!(own.iter().step_by(97).map(place).is_sorted());
        union.append(&mut own);
    }
    union.sort();
    let mut all = all;
    all.sort();
    assert_eq!(union, all);
    assert_eq!(sum, counts);
}

#[test]
fn truth_counts_what_the_files_hold() {
    let folder = tempfile::tempdir().expect("there is room");
    let options = NexmarkOptions {
        events: NexmarkEvents { partitions: 4, ..options(4_999) },
        threads: None,
        out: Some(folder.path().join("events")),
    };
    let summary = run(&options).expect("it can be written");
    let mut found = NexmarkCounts::default();
    let mut times = BTreeSet::new();
    for partition in 0..4 {
        let file = folder.path().join(format!("events/nexmark-{partition:05}.ndjson"));
        let text = std::fs::read_to_string(file).expect("the file is text");
        let mut counts = NexmarkCounts { bytes: text.len() as u64, ..NexmarkCounts::default() };
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect("each line is JSON");
            times.insert(body(&event)["dateTime"].as_str().expect("it is text").to_owned());
            counts.add(match number(&event["event_type"]) {
                0 => Kind::Person,
                1 => Kind::Auction { category: number(&event["auction"]["category"]) },
                _ => Kind::Bid { price: number(&event["bid"]["price"]) },
            });
        }
        assert_eq!(counts, summary.partitions[partition]);
        found += &counts;
    }
    assert_eq!(found, summary.total);
    let text = |time: NaiveDateTime| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    assert_eq!(times.first(), Some(&text(summary.first)));
    assert_eq!(times.last(), Some(&text(summary.last)));

    let fewer = NexmarkOptions {
        events: NexmarkEvents { partitions: 2, ..options.events.clone() },
        ..options
    };
    let refused = run(&fewer).expect_err("files of the first call are left");
    assert!(format!("{refused:#}").contains("which these options do not make"), "{refused:#}");
}

#[test]
fn sizes_come_to_the_suites_averages() {
    let mut sums = BTreeMap::<u64, (usize, usize)>::new();
    for event in events(&options(100_000)) {
        let texts = body(&event).as_object().expect("it is an object");
        let length = |(name, value): (&String, &Value)| match value {
            // Times count as a number of eight bytes; the suite leaves channel and address out.
            Value::String(_) if name == "expires" || name == "dateTime" => 8,
            Value::String(_) if name == "channel" || name == "url" => 0,
            Value::String(text) => text.len(),
            _ => 8,
        };
        let (sum, count) = sums.entry(number(&event["event_type"])).or_default();
        *sum += texts.iter().map(length).sum::<usize>();
        *count += 1;
    }
    for (kind, average) in [(0, 200.0), (1, 500.0), (2, 100.0)] {
        let (sum, count) = sums[&kind];
        let found = sum as f64 / count as f64;
        assert!((found - average).abs() < average / 20.0, "kind {kind}: {found}");
    }
}

#[test]
fn times_beyond_the_calendar_are_refused() {
    let late = "9999-12-31T23:59:59".parse().expect("it is a time");
    assert!(Nexmark::new(&NexmarkEvents { start: late, ..options(100_000) }).is_err());
    let slow = NexmarkEvents { first_event_rate: 1, ..options(1_000_000_000_000) };
    assert!(Nexmark::new(&slow).is_err());
}

#[test]
fn the_same_options_give_the_same_bytes_for_ever() {
    let events = include_str!("../../../../../tests/streaming/nexmark/input/events.ndjson");
    let options = NexmarkEvents { first_event_rate: 40, out_of_order_group: 20, ..options(1_000) };
    let made: Vec<u8> = lines(&options).0.join(&b'\n');
    assert!(made == events.trim_end().as_bytes(), "golden files would have to be made anew");
}
