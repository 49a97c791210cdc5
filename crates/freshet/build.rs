//! Links functions with the same machine code once. DataFusion's generic kernels come in hundreds of
//! copies, and this takes a tenth off the binary.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("TARGET").unwrap_or_default();
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // Rust's own linker on this target is lld, which can.
    if release && target == "x86_64-unknown-linux-gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        // The profile's `strip` does not reach a package whose optimisation is set by name.
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
}
