use std::path::PathBuf;

use super::*;

#[test]
fn pages_in_docs_are_those_of_the_code() {
    let docs = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../docs");
    check(&docs).expect("the pages are those that `cargo xtask docs` writes");
}

#[test]
fn stale_and_missing_pages_are_found_and_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let docs = folder.path();
    assert!(check(docs).is_err(), "nothing is there");
    write(docs).expect("the folder is writable");
    check(docs).expect("all was written");
    fs::write(docs.join("errors/F9999.md"), "gone").expect("the folder is writable");
    fs::write(docs.join("errors/F0001.md"), "changed").expect("the folder is writable");
    assert_eq!(stale(docs).expect("readable"), ["errors/F0001.md", "errors/F9999.md"]);
    write(docs).expect("the folder is writable");
    check(docs).expect("all was mended");
}

#[test]
fn every_option_has_a_meaning() {
    for (name, page) in pages() {
        if name == "reference/connectors.md" {
            for line in page.lines().filter(|line| line.starts_with("| `")) {
                assert!(!line.ends_with("|  |"), "{name}: {line}");
            }
        }
    }
}
