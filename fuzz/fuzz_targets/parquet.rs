//! Parquet: files that are broken anywhere.
#![no_main]

use freshet_connectors::parquet::Parquet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // Panics of the library that reads Parquet are caught and set the file aside; only one that
    // comes through is a find, and that one stops the fuzzer without a hook too.
    init: std::panic::set_hook(Box::new(|_| {})),
    |input: &[u8]| freshet_fuzz::hold_blocks(&Parquet, input)
);
