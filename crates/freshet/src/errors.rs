//! Errors as people and programs read them: code, message, the place with its source line, the
//! chain of causes, the way out.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use freshet_core::{Error, Location};
use freshet_engine::ErrorReport;

use crate::format::counted;
use crate::ui::{Paint, printable};

/// Files larger than this are not opened for their source line.
const MAX_SOURCE_BYTES: u64 = 4 << 20;
/// A longer source line is cut around its caret.
const MAX_LINE_CHARS: usize = 160;

/// Prints `error` and those found with it, and their number where there are several.
///
/// `base` is the project folder: locations are relative to it.
pub fn write(out: &mut dyn Write, error: &Error, base: &Path, paint: Paint) -> io::Result<()> {
    let errors: Vec<&Error> = error.all().collect();
    for (i, error) in errors.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        write_one(out, error, base, paint)?;
    }
    if errors.len() > 1 {
        writeln!(out, "\n{}", paint.bold(&counted(errors.len() as u64, "error")))?;
    }
    Ok(())
}

fn write_one(out: &mut dyn Write, error: &Error, base: &Path, paint: Paint) -> io::Result<()> {
    let head = format!("error[{}]", error.code());
    writeln!(out, "{}: {}", paint.red(&head), printable(error.message(), true))?;
    if let Some(location) = error.location() {
        write_location(out, location, base, paint)?;
    }
    let mut said = error.message().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let message = error.to_string();
        if !said.ends_with(&message) {
            write_indented(out, "caused by", &message, paint)?;
            said = message;
        }
        cause = error.source();
    }
    if let Some(hint) = error.hint_text() {
        write_indented(out, "hint", hint, paint)?;
    }
    Ok(())
}

/// An error of a stored report, which has lost its cause chain to the message.
pub fn write_report(
    out: &mut dyn Write,
    error: &ErrorReport,
    indent: &str,
    paint: Paint,
) -> io::Result<()> {
    let head = format!("error[{}]", error.code);
    let message = printable(&error.message, true).replace('\n', &format!("\n{indent}  "));
    writeln!(out, "{indent}{}: {message}", paint.red(&head))?;
    if let Some(location) = &error.location {
        writeln!(out, "{indent}  {} {}", paint.dim("-->"), printable(location, false))?;
    }
    if let Some(hint) = &error.hint {
        writeln!(out, "{indent}  {} {}", paint.cyan("hint:"), printable(hint, false))?;
    }
    Ok(())
}

fn write_indented(out: &mut dyn Write, label: &str, text: &str, paint: Paint) -> io::Result<()> {
    let text = printable(text, true).replace('\n', "\n    ");
    let label = format!("{label}:");
    let label = if label == "hint:" { paint.cyan(&label) } else { paint.dim(&label) };
    writeln!(out, "  {label} {text}")
}

fn write_location(
    out: &mut dyn Write,
    location: &Location,
    base: &Path,
    paint: Paint,
) -> io::Result<()> {
    let path = place(base, &location.file);
    let shown =
        Location { file: printable(&path.display().to_string(), false), ..location.clone() };
    writeln!(out, " {} {shown}", paint.dim("-->"))?;
    let Some(line) = source_line(&path, location.line) else { return Ok(()) };
    let (text, caret) = window(&line, location.column);
    let number = location.line.to_string();
    let margin = " ".repeat(number.len());
    writeln!(out, "{margin} {}", paint.dim("|"))?;
    writeln!(out, "{} {} {text}", paint.dim(&number), paint.dim("|"))?;
    if let Some(caret) = caret {
        let mark = format!("{}^", " ".repeat(caret));
        writeln!(out, "{margin} {} {}", paint.dim("|"), paint.red(&mark))?;
    }
    Ok(())
}

/// The file as it is opened and shown: inside the project folder unless its path is absolute.
fn place(base: &Path, file: &str) -> PathBuf {
    if base == Path::new(".") { PathBuf::from(file) } else { base.join(file) }
}

/// Line `number` (from 1) of a file, where it can be had.
fn source_line(path: &Path, number: u32) -> Option<String> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_SOURCE_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_SOURCE_BYTES).read_to_end(&mut bytes).ok()?;
    let line = bytes.split(|byte| *byte == b'\n').nth(index)?;
    let line = String::from_utf8_lossy(line);
    Some(line.strip_suffix('\r').unwrap_or(&line).to_owned())
}

/// The part of a line that is shown, and how far to the right its caret stands.
fn window(line: &str, column: u32) -> (String, Option<usize>) {
    let column = usize::try_from(column).unwrap_or(0);
    let skip = column.saturating_sub(MAX_LINE_CHARS * 3 / 4);
    let mut text = String::new();
    let mut caret = None;
    if skip > 0 {
        text.push('…');
    }
    let width = |text: &str| unicode_width::UnicodeWidthStr::width(text);
    let mut cut = false;
    for (shown, (i, c)) in line.chars().enumerate().skip(skip).enumerate() {
        if shown == MAX_LINE_CHARS {
            cut = true;
            break;
        }
        if i + 1 == column {
            caret = Some(width(&text));
        }
        match c {
            '\t' => text.push_str("    "),
            c => text.push_str(&printable(c.encode_utf8(&mut [0; 4]), false)),
        }
    }
    if cut {
        text.push('…');
    } else if column > 0 && caret.is_none() {
        // Just behind the end of the line: an unexpected end.
        caret = Some(width(&text));
    }
    (text, caret)
}

/// An error as programs read it.
pub fn to_json(error: &Error) -> serde_json::Value {
    let errors: Vec<_> = error.all().map(one_to_json).collect();
    serde_json::json!({ "errors": errors })
}

fn one_to_json(error: &Error) -> serde_json::Value {
    let report = ErrorReport::from(error);
    let location = error.location().map(|location| {
        serde_json::json!({
            "file": location.file,
            "line": (location.line > 0).then_some(location.line),
            "column": (location.column > 0).then_some(location.column),
        })
    });
    serde_json::json!({
        "code": report.code,
        "kind": report.kind,
        "message": report.message,
        "location": location,
        "hint": report.hint,
        "retryable": report.retryable,
    })
}

#[cfg(test)]
mod tests;
