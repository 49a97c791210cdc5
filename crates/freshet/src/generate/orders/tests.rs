//! The truth is held against a slow and obvious reading of what was sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::sync::OnceLock;

use chrono::DateTime;
use freshet_core::Rule;
use freshet_core::clock::ManualClock;
use serde_json::Value;

use super::*;

const BOUND: i64 = 5_000;

/// Orders enough for everything to occur, over more than an hour.
fn options(out: Option<PathBuf>) -> OrdersOptions {
    OrdersOptions {
        rate: 20,
        span: HumanDuration(Duration::from_secs(70 * 60)),
        out_of_order: HumanDuration(Duration::from_millis(BOUND as u64)),
        late: Share(0.01),
        bad: Share(0.02),
        duplicates: Share(0.01),
        missing_customers: Share(0.05),
        customers: 500,
        restaurants: 40,
        seed: 7,
        start: "2026-01-01T18:00:00".parse().expect("it is a time"),
        live: false,
        stream: Stream::Orders,
        truth: None,
        out,
    }
}

/// What one call wrote, and its orders as they are read.
struct Made {
    summary: OrdersSummary,
    files: BTreeMap<String, Vec<u8>>,
    orders: Vec<Result<Good, Rule>>,
}

/// An order event without a fault.
#[derive(Debug, Clone, PartialEq)]
struct Good {
    order: u64,
    customer: u64,
    city: String,
    status: String,
    cents: u64,
    time: i64,
}

/// What the options above make.
fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| make(options(None)))
}

fn make(options: OrdersOptions) -> Made {
    let folder = tempfile::tempdir().expect("there is room");
    let options = OrdersOptions { out: Some(folder.path().join("out")), ..options };
    let summary = run(&options, &ManualClock::default()).expect("it can be written");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder.path().join("out")).expect("the folder was made") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        files.insert(name, fs::read(path).expect("the file can be read"));
    }
    let orders = lines(&files["orders.ndjson"]).map(read).collect();
    Made { summary, files, orders }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_suffix(b"\n").expect("the last line ends").split(|byte| *byte == b'\n')
}

fn objects(bytes: &[u8]) -> impl Iterator<Item = Value> {
    lines(bytes).map(|line| serde_json::from_slice(line).expect("each line is JSON"))
}

fn rows(bytes: &[u8]) -> impl Iterator<Item = Vec<String>> {
    let fields = |line| -> Vec<String> {
        let text = std::str::from_utf8(line).expect("the file is UTF-8");
        text.split(',').map(str::to_owned).collect()
    };
    lines(bytes).skip(1).map(fields)
}

fn millis(value: &Value) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.timestamp_millis())
}

/// What a contract would say of a line.
fn read(line: &[u8]) -> Result<Good, Rule> {
    let text = std::str::from_utf8(line).map_err(|_| Rule::Encoding)?;
    let value: Value = serde_json::from_str(text).map_err(|_| Rule::Syntax)?;
    for required in ["order_id", "customer_id", "restaurant_id", "city", "status"] {
        if value[required].is_null() {
            return Err(Rule::NotNull);
        }
    }
    let time = millis(&value["event_time"]).ok_or(Rule::Type)?;
    let amount = value["amount"].as_f64().ok_or(Rule::Type)?;
    let status = value["status"].as_str().expect("it is text").to_owned();
    if amount < 0.0 || !life::Status::ALL.iter().any(|known| known.as_str() == status) {
        return Err(Rule::Constraint);
    }
    Ok(Good {
        order: value["order_id"].as_u64().expect("it is a number"),
        customer: value["customer_id"].as_u64().expect("it is a number"),
        city: value["city"].as_str().expect("it is text").to_owned(),
        status,
        cents: (amount * 100.0).round() as u64,
        time,
    })
}

/// Lines of `orders` by what they are, by a watermark after each row.
#[derive(Debug, Default, PartialEq)]
struct Kinds {
    bad: BTreeMap<u64, &'static str>,
    late: BTreeSet<u64>,
    repeated: BTreeSet<u64>,
}

fn kinds(made: &Made) -> Kinds {
    let mut kinds = Kinds::default();
    let (mut watermark, mut seen) = (i64::MIN, HashSet::new());
    for (line, order) in (1..).zip(&made.orders) {
        match order {
            Err(rule) => {
                kinds.bad.insert(line, rule.as_str());
            }
            Ok(order) => {
                let again = !seen.insert((order.order, order.status.clone()));
                let minute_ends = order.time - order.time.rem_euclid(60_000) + 60_000;
                if minute_ends - 1 <= watermark {
                    kinds.late.insert(line);
                } else {
                    assert!(order.time > watermark, "line {line} is behind the watermark");
                    if again {
                        kinds.repeated.insert(line);
                    }
                }
                watermark = watermark.max(order.time - BOUND);
            }
        }
    }
    kinds
}

#[test]
fn truth_names_each_bad_late_and_repeated_line() {
    let made = made();
    let mut told = Kinds::default();
    let mut offsets = vec![0];
    for line in lines(&made.files["orders.ndjson"]) {
        offsets.push(offsets[offsets.len() - 1] + line.len() + 1);
    }
    for object in objects(&made.files["truth.jsonl"]) {
        let kind = object["kind"].as_str().expect("it is text");
        let Some(line) = object["line"].as_u64() else {
            assert!(["missing_customer", "summary"].contains(&kind), "{kind}");
            continue;
        };
        assert_eq!(object["offset"].as_u64(), Some(offsets[line as usize - 1] as u64));
        match kind {
            "late" => assert!(told.late.insert(line)),
            "repeated" => assert!(told.repeated.insert(line)),
            _ => {
                let rules =
                    [Rule::Syntax, Rule::Encoding, Rule::Type, Rule::NotNull, Rule::Constraint];
                let rule = rules.iter().find(|rule| object["rule"] == rule.as_str());
                told.bad.insert(line, rule.expect("it is one of those").as_str());
                let file = &made.files["orders.ndjson"];
                let raw = &file[offsets[line as usize - 1]..offsets[line as usize] - 1];
                match object["raw"].as_str() {
                    Some(text) => assert_eq!(text.as_bytes(), raw),
                    None => assert!(std::str::from_utf8(raw).is_err()),
                }
            }
        }
    }
    assert_eq!(told, kinds(made));
    let summary = &made.summary;
    let faults: BTreeSet<_> = summary.bad.keys().copied().collect();
    assert_eq!(faults, BTreeSet::from(record::OrderFault::ALL));
    assert_eq!(told.bad.len() as u64, summary.dead());
    assert_eq!(told.late.len() as u64, summary.late);
    assert_eq!(told.repeated.len() as u64, summary.repeated);
    let records = made.orders.len() as u64;
    assert_eq!(summary.records[&Stream::Orders], records);
    assert_eq!(summary.in_time + summary.repeated + summary.late + summary.dead(), records);
    for (share, of) in [(summary.late, 0.01), (summary.repeated, 0.01), (summary.dead(), 0.02)] {
        let found = share as f64 / records as f64;
        assert!((of * 0.8..of * 1.2).contains(&found), "{found} instead of {of}");
    }
    let rate = records as f64 / 4_200.0;
    assert!((18.0..23.0).contains(&rate), "{rate} a second");
}

/// Different good events in time: by minute, city and status.
fn counts(made: &Made) -> BTreeMap<(i64, String, String), (u64, u64, u64)> {
    let kinds = kinds(made);
    let mut counts = BTreeMap::<_, (u64, u64, u64)>::new();
    for (line, order) in (1..).zip(&made.orders) {
        let Ok(order) = order else { continue };
        if !kinds.late.contains(&line) {
            let minute = order.time - order.time.rem_euclid(60_000);
            let key = (minute, order.city.clone(), order.status.clone());
            let (events, sent, cents) = counts.entry(key).or_default();
            *sent += 1;
            if !kinds.repeated.contains(&line) {
                *events += 1;
                *cents += order.cents;
            }
        }
    }
    counts
}

#[test]
fn counts_are_those_of_good_events_in_time() {
    let made = made();
    let mut told = BTreeMap::new();
    for row in rows(&made.files["truth_counts.csv"]) {
        let minute = millis(&Value::from(row[0].as_str())).expect("it is a time");
        let number = |text: &str| text.parse::<u64>().expect("it is a number");
        let values = (number(&row[3]), number(&row[4]), number(&row[5].replace('.', "")));
        told.insert((minute, row[1].clone(), row[2].clone()), values);
    }
    assert_eq!(told, counts(made));
}

#[test]
fn silent_minutes_surges_and_drops_are_as_defined() {
    // The second begins and ends within a minute, which is compared with nothing.
    let odd = OrdersOptions {
        start: "2026-01-01T18:00:17".parse().expect("it is a time"),
        seed: 8,
        ..options(None)
    };
    let odd = make(odd);
    for (made, minutes) in [(made(), 70), (&odd, 69)] {
        let counts = counts(made);
        let first = made.summary.first.and_utc().timestamp_millis();
        let first =
            first.div_euclid(60_000) * 60_000 + if first % 60_000 == 0 { 0 } else { 60_000 };
        let mut placed = HashMap::<String, Vec<u64>>::new();
        let (mut silent, mut surges, mut drops) = (0, 0, 0);
        for row in rows(&made.files["truth_city_minutes.csv"]) {
            let minute = millis(&Value::from(row[0].as_str())).expect("it is a time");
            let of = |status: &str| {
                let key = (minute, row[1].clone(), status.to_owned());
                counts.get(&key).map_or(0, |counts| counts.0)
            };
            let events: u64 = life::Status::ALL.iter().map(|status| of(status.as_str())).sum();
            let before = placed.entry(row[1].clone()).or_default();
            assert_eq!(minute, first + before.len() as i64 * 60_000);
            let base = &before[before.len().saturating_sub(60)..];
            let mean = base.iter().sum::<u64>() as f64 / base.len() as f64;
            let now = of("placed");
            let change = match now as f64 {
                _ if base.len() < 5 => "",
                now if now > 2.0 * mean => "surge",
                now if now < 0.5 * mean => "drop",
                _ => "",
            };
            assert_eq!(row[2..4], [events.to_string(), now.to_string()]);
            assert_eq!(row[6..], [(events == 0).to_string(), change.to_owned()], "{row:?}");
            silent += u64::from(events == 0);
            surges += u64::from(change == "surge");
            drops += u64::from(change == "drop");
            before.push(now);
        }
        let summary = &made.summary;
        assert_eq!(
            (silent, surges, drops),
            (summary.silent_minutes, summary.surges, summary.drops)
        );
        assert!(silent >= 5 && surges >= 3 && drops >= 5, "{silent} {surges} {drops}");
        assert_eq!(placed.len(), 10);
        assert!(placed.values().all(|placed| placed.len() == minutes));
    }
}

#[test]
fn undelivered_orders_are_those_without_a_courier_in_time() {
    let made = made();
    let mut delivered = HashMap::new();
    let mut cancelled = HashSet::new();
    for event in objects(&made.files["couriers.ndjson"]) {
        if event["event"] == "delivered" {
            let time = millis(&event["event_time"]).expect("it is a time");
            delivered.insert(event["order_id"].as_u64().expect("it is a number"), time);
        }
    }
    let mut placed = BTreeMap::new();
    for order in made.orders.iter().flatten() {
        match order.status.as_str() {
            "placed" => {
                placed.insert(order.order, order.time);
            }
            "cancelled" => {
                cancelled.insert(order.order);
            }
            _ => {}
        }
    }
    let end = made.summary.end.and_utc().timestamp_millis();
    let in_time = 45 * 60_000;
    let decided = placed.iter().filter(|(_, time)| *time + in_time <= end);
    let undelivered: BTreeSet<u64> = decided
        .filter(|(order, time)| {
            !delivered.get(order).is_some_and(|at| (**time..=**time + in_time).contains(at))
        })
        .map(|(order, _)| *order)
        .collect();
    let mut told = BTreeMap::new();
    for row in rows(&made.files["truth_undelivered.csv"]) {
        told.insert(row[0].parse::<u64>().expect("it is a number"), row[4].clone());
    }
    assert_eq!(told.keys().copied().collect::<BTreeSet<_>>(), undelivered);
    for why in ["cancelled", "never", "too_late", "silent"] {
        assert!(told.values().any(|told| told == why), "none is {why}");
    }
    for (order, why) in &told {
        assert!(!cancelled.contains(order) || why == "cancelled", "{order} is {why}");
    }
}

#[test]
fn missing_customers_become_known_as_of_an_earlier_time() {
    let made = made();
    let mut missing = HashMap::new();
    for object in objects(&made.files["truth.jsonl"]) {
        if object["kind"] == "missing_customer" {
            let from = millis(&object["known_from"]);
            missing.insert(object["customer_id"].as_u64().expect("it is a number"), from);
        }
    }
    assert_eq!(missing.len() as u64, made.summary.missing_customers);
    assert!((5..60).contains(&missing.len()), "{}", missing.len());
    let first = made.summary.first.and_utc().timestamp_millis();
    let (mut known, mut last) = (HashSet::new(), i64::MIN);
    for object in objects(&made.files["customers.ndjson"]) {
        let id = object["customer_id"].as_u64().expect("it is a number");
        let recorded = millis(&object["recorded_at"]).expect("it is a time");
        assert!(recorded >= last, "changes come in order");
        last = recorded;
        if known.insert(id) {
            let valid = millis(&object["valid_from"]).expect("it is a time");
            assert!(valid < first);
            assert_eq!(Some(recorded), missing.get(&id).copied().unwrap_or(Some(first)));
        }
    }
    assert_eq!(known.len(), 500, "all become known");
    assert!(made.summary.unknown_customer > 100);
    let of_missing = made.orders.iter().flatten();
    let of_missing = of_missing.filter(|order| missing.contains_key(&order.customer)).count();
    assert!((made.summary.unknown_customer as usize) < of_missing);
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let short = || OrdersOptions {
        span: HumanDuration(Duration::from_secs(60)),
        rate: 200,
        ..options(None)
    };
    assert_eq!(make(short()).files, make(short()).files);
    // FNV-1a of all files: what is made today is made on every machine, and by later versions.
    let made = make(short());
    let bytes = made.files.values().flatten();
    let sum = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    });
    assert_eq!(sum, 17_576_730_833_413_254_674, "golden files would have to be made anew");
    let other = make(OrdersOptions { seed: 8, ..short() });
    assert_ne!(make(short()).files["orders.ndjson"], other.files["orders.ndjson"]);
}

#[test]
fn without_bound_and_faults_everything_is_in_order() {
    let made = make(OrdersOptions {
        span: HumanDuration(Duration::from_secs(120)),
        out_of_order: HumanDuration(Duration::ZERO),
        late: Share(0.0),
        bad: Share(0.0),
        rate: 500,
        ..options(None)
    });
    let orders = made.orders.iter().map(|order| order.as_ref().expect("none is bad"));
    assert!(orders.map(|order| order.time).is_sorted());
    assert!(made.summary.repeated > 0, "a repeated line comes at the same time");
}

#[test]
fn in_real_time_nothing_is_sent_before_it_happens() {
    struct Watch<'a>(&'a ManualClock, BTreeMap<Stream, u64>);
    impl Sink for Watch<'_> {
        fn send(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
            let now = self.0.now_micros() / 1_000;
            for line in lines(bytes) {
                *self.1.entry(stream).or_default() += 1;
                let times = serde_json::from_slice::<Value>(line).unwrap_or_default();
                for name in ["event_time", "recorded_at"] {
                    if let Some(time) = millis(&times[name]) {
                        assert!(time < now + TICK, "{time} is sent at {now}");
                    }
                }
            }
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let clock = ManualClock::new(1_790_000_000_123_456);
    let options = OrdersOptions {
        live: true,
        span: HumanDuration(Duration::from_secs(3)),
        out_of_order: HumanDuration(Duration::from_millis(100)),
        late: Share(0.0),
        ..options(None)
    };
    let mut watch = Watch(&clock, BTreeMap::new());
    let sleep = |span: Duration| clock.advance_micros(span.as_micros() as i64);
    let sent = send_awaiting(&options, &mut watch, None, &clock, &sleep);
    let summary = sent.expect("it can be sent");
    assert_eq!(watch.1, summary.records);
    assert_eq!(summary.first.and_utc().timestamp(), 1_790_000_000);
    assert!(clock.now_micros() >= 1_790_000_002_900_000, "it takes as long as it says");
}

#[test]
fn hostile_options_are_refused() {
    let refused = |options: OrdersOptions| {
        let mut sink = sink::Stdout(Stream::Customers);
        send(&options, &mut sink, None, &ManualClock::default()).is_err()
    };
    let seconds = |seconds| HumanDuration(Duration::from_secs(seconds));
    assert!(refused(OrdersOptions { span: seconds(0), ..options(None) }));
    assert!(refused(OrdersOptions { span: seconds(u64::MAX), ..options(None) }));
    assert!(refused(OrdersOptions { out_of_order: seconds(u64::MAX), ..options(None) }));
    let start = "9999-12-31T23:59:00".parse().expect("it is a time");
    assert!(refused(OrdersOptions { start, ..options(None) }));
}
