use freshet_core::error::code;

use super::*;
use crate::golden;

fn render(error: &Error, base: &Path) -> String {
    let mut out = Vec::new();
    write(&mut out, error, base, Paint(false)).expect("memory takes everything");
    String::from_utf8(out).expect("errors are text")
}

/// A folder with one model; paths in the output are cut to what is inside.
fn render_in_project(error: &Error, file: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("models")).expect("folder is made");
    std::fs::write(dir.path().join("models/daily.sql"), file).expect("file is written");
    render(error, dir.path()).replace(&dir.path().display().to_string(), "PROJECT")
}

fn at(line: u32, column: u32) -> Location {
    Location { file: "models/daily.sql".into(), line, column }
}

#[test]
fn errors_show_their_source_line_causes_and_way_out() {
    let reference =
        Error::new(code::REFERENCE, "model \"daily\" uses \"stg_sale\", which is no model")
            .at(at(2, 8))
            .hint("did you mean \"stg_sales\"?");
    let cause = std::io::Error::other("permission denied");
    let io = Error::new(code::IO, "could not read file \"data/a.csv\"").caused_by(cause);
    let line_only = Error::new(code::YAML, "field \"nme\" is unknown").at(at(1, 0));
    let gone = Error::new(code::YAML, "not there").at(Location::line("models/gone.yml", 3));
    let joined = Error::join(vec![reference, io, line_only, gone]).expect("four errors");
    let text = render_in_project(&joined, b"select *\n\tfrom {{ ref('stg_sale') }}\n");
    golden::check("errors.txt", &text);
}

#[test]
fn caret_stays_in_place_whatever_the_line_holds() {
    let error = |column| Error::new(code::SQL, "wrong").at(at(1, column));
    for (line, column, expect) in [
        ("select x".to_owned(), 8, "1 | select x\n  |        ^\n"),
        ("select x".to_owned(), 9, "1 | select x\n  |         ^\n"),
        ("東 x".to_owned(), 3, "1 | 東 x\n  |    ^\n"),
        ("a\x1b[2Jb".to_owned(), 6, "1 | a\\u{1b}[2Jb\n  |           ^\n"),
    ] {
        let text = render_in_project(&error(column), line.as_bytes());
        assert!(text.ends_with(expect), "{line:?}:\n{text}");
    }
    let long = "x".repeat(5_000);
    let text = render_in_project(&error(4_000), long.as_bytes());
    assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
    assert!(text.contains('^'), "{text}");
}

#[test]
fn broken_source_files_do_not_hide_the_error() {
    let error = Error::new(code::YAML, "not valid UTF-8").at(at(1, 2));
    let text = render_in_project(&error, b"\xff\xfe\x00");
    assert!(text.starts_with("error[F0102]: not valid UTF-8\n --> PROJECT/models/daily.sql:1:2\n"));
    let folder = Error::new(code::YAML, "a folder").at(Location::line("models", 1));
    assert!(render_in_project(&folder, b"").contains("--> PROJECT/models:1"));
}

#[test]
fn programs_get_every_error_with_code_and_place() {
    let errors = Error::join(vec![
        Error::new(code::YAML, "a").at(Location::line("freshet.yml", 3)),
        Error::new(code::SQL, "b").hint("c"),
    ])
    .expect("two errors");
    let json = to_json(&errors);
    assert_eq!(json["errors"][0]["code"], "F0102");
    assert_eq!(json["errors"][0]["kind"], "user");
    assert_eq!(json["errors"][0]["location"]["line"], 3);
    assert_eq!(json["errors"][0]["location"]["column"], serde_json::Value::Null);
    assert_eq!(json["errors"][1]["hint"], "c");
}
