//! Golden files of the tests in this crate: `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

/// Holds `actual` against `tests/golden/<name>`.
pub fn check(name: &str, actual: &str) {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("folder is made");
        std::fs::write(&path, actual).expect("golden file is written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{name} differs (UPDATE_GOLDEN=1 accepts the new text)\n--- expected\n{expected}\n--- actual\n{actual}"
    );
}
