//! Runs the `.slt` files of `tests/slt`: statements and queries with the rows that they give.
//!
//! ```text
//! statement ok                 the SQL up to the next blank line runs
//! statement error TEXT         it fails, and the message has TEXT in it
//! query [rowsort]              it gives the rows below `----`, values with tabs or two spaces between
//! ```
//!
//! Each file has a session of its own. `NULL` is null, `(empty)` an empty text. With
//! `UPDATE_SLT=1` the rows of queries are written instead of compared.

use std::fmt::Write;
use std::path::Path;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use freshet_engine::functions;

fn session() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2);
    let ctx = SessionContext::new_with_config(config);
    functions::register(&ctx).expect("functions can be registered");
    ctx
}

async fn rows(ctx: &SessionContext, sql: &str) -> Result<Vec<String>, String> {
    let sql = functions::expand_macros(sql, &[]).map_err(|error| format!("{error:?}"))?;
    let frame = ctx.sql(&sql).await.map_err(|error| error.strip_backtrace())?;
    let batches = frame.collect().await.map_err(|error| error.strip_backtrace())?;
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|column| match column.value(row).to_string() {
                value if value.is_empty() => "(empty)".to_owned(),
                value => value,
            });
            rows.push(values.collect::<Vec<_>>().join("  "));
        }
    }
    Ok(rows)
}

/// Runs one file; gives its text with the rows that its queries gave.
async fn run(text: &str) -> Result<String, String> {
    let ctx = session();
    let mut out = String::new();
    for block in text.split("\n\n") {
        let block = block.trim_matches('\n');
        let mut lines = block.lines().skip_while(|line| line.starts_with('#'));
        let head = lines.next().unwrap_or_default();
        let body: Vec<_> = lines.collect();
        let (sql, expected) = match body.iter().position(|line| *line == "----") {
            Some(at) => (body[..at].join("\n"), &body[at + 1..]),
            None => (body.join("\n"), &[][..]),
        };
        let given = rows(&ctx, &sql).await;
        let mut kept = block.to_owned();
        match (head.split_once(' ').unwrap_or((head, "")), given) {
            (("", _), _) => {}
            (("statement", "ok"), given) => {
                given.map_err(|error| format!("{error}\nin: {sql}"))?;
            }
            (("statement", wanted), given) => {
                let wanted = wanted.strip_prefix("error").unwrap_or(wanted).trim();
                match given {
                    Err(error) if error.contains(wanted) => {}
                    Err(error) => return Err(format!("wanted {wanted:?}, got {error}\nin: {sql}")),
                    Ok(rows) => return Err(format!("wanted an error, got {rows:?}\nin: {sql}")),
                }
            }
            (("query", order), given) => {
                let mut given = given.map_err(|error| format!("{error}\nin: {sql}"))?;
                let mut expected: Vec<_> =
                    expected.iter().map(|line| line.replace('\t', "  ")).collect();
                if order == "rowsort" {
                    given.sort();
                    expected.sort();
                }
                if std::env::var_os("UPDATE_SLT").is_some() {
                    let head = block.find("\n----").map_or(block, |end| &block[..end]);
                    kept = format!("{head}\n----\n{}", given.join("\n"));
                } else if given != expected {
                    return Err(format!("wanted {expected:#?}, got {given:#?}\nin: {sql}"));
                }
            }
            ((other, _), _) => return Err(format!("\"{other}\" is no kind of block")),
        }
        writeln!(out, "{}\n", kept.trim_end()).map_err(|error| error.to_string())?;
    }
    Ok(format!("{}\n", out.trim_end()))
}

#[tokio::test]
async fn every_file_gives_the_rows_that_it_says() {
    let dir =
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/slt");
    let mut failures = String::new();
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).expect("the folder is there") {
        let path = entry.expect("the folder can be listed").path();
        if path.extension().is_none_or(|extension| extension != "slt") {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        match run(&text).await {
            Ok(updated) if std::env::var_os("UPDATE_SLT").is_some() => {
                std::fs::write(&path, updated).expect("the file can be written");
            }
            Ok(_) => {}
            Err(error) => {
                writeln!(failures, "{}: {error}\n", path.display()).expect("memory can be written");
            }
        }
    }
    assert!(files > 0, "no .slt file in {}", dir.display());
    assert!(failures.is_empty(), "{failures}");
}
