//! Golden files: what a test expects, as a file that a person reads and `UPDATE_GOLDEN=1` rewrites.

use std::path::Path;

/// The environment variable that makes [`check`] rewrite the files.
pub const UPDATE: &str = "UPDATE_GOLDEN";

/// Compares `actual` with the file `path`, line by line; with `UPDATE_GOLDEN` set, writes it.
///
/// # Panics
/// Where they differ, naming the first line that does, and where there is no file.
#[track_caller]
pub fn check(path: impl AsRef<Path>, actual: &str) {
    let path = path.as_ref();
    if std::env::var_os(UPDATE).is_some() {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).expect("the folder of a golden file can be made");
        }
        std::fs::write(path, actual).expect("a golden file can be written");
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_else(|error| {
        panic!(
            "could not read golden file \"{}\": {error}; run with {UPDATE}=1 to make it",
            path.display()
        )
    });
    if let Some(difference) = difference(&expected, actual) {
        panic!(
            "the result differs from golden file \"{}\"\n{difference}\nrun with {UPDATE}=1 to accept it; the whole result:\n{actual}",
            path.display()
        );
    }
}

/// The first line that differs, as it is and as it should be.
fn difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (mut left, mut right) = (expected.split('\n'), actual.split('\n'));
    let mut line = 0;
    loop {
        line += 1;
        match (left.next(), right.next()) {
            (None, None) => return None,
            (expected, actual) if expected != actual => {
                let shown = |text: Option<&str>| {
                    text.map_or("the end of the file".to_owned(), |text| format!("{text:?}"))
                };
                return Some(format!(
                    "line {line}\n  expected {}\n  actual   {}",
                    shown(expected),
                    shown(actual)
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_named() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let text = difference("a\nb\nc\n", "a\nx\nc\n").expect("line 2 differs");
        assert_eq!(text, "line 2\n  expected \"b\"\n  actual   \"x\"");
        let text = difference("a\n", "a\nb").expect("there is more");
        assert!(text.starts_with("line 2"), "{text}");
        let text = difference("a\nb", "a").expect("there is less");
        assert!(text.ends_with("actual   the end of the file"), "{text}");
    }
}
