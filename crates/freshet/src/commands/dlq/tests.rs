use freshet_core::source::ContentDigest;
use freshet_core::{ModelId, RunId};

use super::*;
use crate::report::tests::plain_ui;

pub(super) fn letter() -> DeadLetter {
    DeadLetter {
        id: "0123456789ab:77".into(),
        run: RunId::from("20261003T010203-ab12"),
        model: ModelId::from("stg_orders"),
        source: "shop.orders".into(),
        file: Some("data/orders_20261002.csv".into()),
        digest: Some(ContentDigest("0123456789abcdef".into())),
        size: Some(400),
        line: Some(6),
        offset: Some(77),
        column: Some("amount".into()),
        rule: "type".into(),
        message: "\"12.5O\" is not a decimal(12,2)".into(),
        raw: b"1009,\x1b[31m\xff,12.5O".to_vec(),
        at: chrono::DateTime::from_timestamp(1_790_000_000, 0).expect("a time of this century"),
    }
}

fn text(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory takes everything");
    String::from_utf8(out).expect("it is text")
}

#[test]
fn letters_show_place_reason_and_raw_record() {
    assert_eq!(
        text(|out| show(out, &[letter()], &plain_ui())),
        "0123456789ab:77  shop.orders  type  20261003T010203-ab12\n  \
           data/orders_20261002.csv:6, column \"amount\"\n  \
           \"12.5O\" is not a decimal(12,2)\n  \
           | 1009,\\u{1b}[31m\\xff,12.5O\n"
    );
    let mut long = letter();
    long.raw = vec![b'x'; 2_000];
    assert!(text(|out| show(out, &[long], &plain_ui())).ends_with("xxx … 2,000 bytes\n"));
}

#[test]
fn letters_for_programs_keep_every_byte() {
    let ui = Ui { json: true, ..plain_ui() };
    let text = text(|out| show(out, &[letter()], &ui));
    let json: serde_json::Value = serde_json::from_str(&text).expect("a line is JSON");
    assert_eq!(json["id"], "0123456789ab:77");
    assert_eq!(json["bytes"][10], 0xff);
}

#[test]
fn filters_are_quoted() {
    let filter = Filter {
        source: Some("it's".into()),
        path: Some("' or true --".into()),
        ..Filter::default()
    };
    assert_eq!(filter.condition(), "source = 'it''s' and strpos(file, ''' or true --') > 0");
    assert_eq!(Filter::default().condition(), "true");
}

#[test]
fn groups_list_newest_run_first_with_what_was_replayed() {
    let group = |run: &str, records, replayed| Group {
        source: "shop.orders".into(),
        rule: "type".into(),
        run: run.into(),
        records,
        replayed,
    };
    assert_eq!(
        text(|out| list(out, &[group("r2", 1_200, 0), group("r1", 3, 2)], &plain_ui())),
        "run  source       rule  records  replayed\n\
         r2   shop.orders  type    1,200         -\n\
         r1   shop.orders  type        3         2\n\
         next: `freshet dlq show --source NAME --rule RULE` for the records\n"
    );
}
