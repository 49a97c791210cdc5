//! JSON as lines and as the elements of an array.
#![no_main]

use freshet_connectors::json::{Json, Shape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [shape, cut, bytes @ ..] = input else { return };
    let shape = if shape & 1 == 0 { Shape::Lines } else { Shape::Elements };
    let cut = usize::from(*cut) * bytes.len() / 256;
    freshet_fuzz::hold(&Json(shape), &serde_json::Value::Null, bytes, cut);
});
