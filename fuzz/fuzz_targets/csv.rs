//! CSV under every dialect that two bytes can name.
#![no_main]

use freshet_connectors::formats::Csv;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|input: &[u8]| {
    let [dialect, cut, bytes @ ..] = input else { return };
    let bit = |n: u8| dialect >> n & 1 == 1;
    let options = json!({
        "delimiter": if bit(0) { ";" } else { "," },
        "header": bit(1),
        "quoted_newlines": bit(2),
        "trim": bit(3),
    });
    freshet_fuzz::hold(&Csv, &options, bytes, usize::from(*cut) * bytes.len() / 256);
});
