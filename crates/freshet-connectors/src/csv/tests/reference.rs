//! CSV read the slow and obvious way: the judge of the decoder. Knows the contract `id int not
//! null, note text, amount decimal(6,2) >= 0` and nothing else.

use freshet_core::record::{Reject, Rule};

use super::{CsvOptions, Result3};

/// A field's content and whether it was quoted.
type Field = (Vec<u8>, bool);

/// Why bytes are no record.
enum No {
    Open,
    MidField,
    TooLong,
}

/// The fields of the record at the start of `bytes`, and where its line ends (the place of the line
/// feed, or the end). `bytes` reaches to the end of the line, or of the file where quoted fields
/// may hold line ends.
fn fields(bytes: &[u8], options: &CsvOptions, limit: usize) -> Result<(Vec<Field>, usize), No> {
    let ends = |at: usize| -> bool {
        at >= bytes.len()
            || bytes[at] == b'\n'
            // A line alone has lost its own `\r` already; one more is content.
            || (options.quoted_newlines && bytes[at..] == *b"\r")
            || bytes[at..].starts_with(b"\r\n")
    };
    let is = |at: usize, c: Option<char>| c.is_some_and(|c| bytes.get(at) == Some(&(c as u8)));
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let mut content = Vec::new();
        let quoted = is(at, options.quote);
        if quoted {
            at += 1;
            loop {
                if at >= bytes.len() || (!options.quoted_newlines && ends(at)) {
                    return Err(if bytes.len() > limit + 2 { No::TooLong } else { No::Open });
                }
                if is(at, options.escape) && !is(at, options.quote) {
                    // An escape at the very end escapes nothing, and the quote stays open.
                    if let Some(byte) = bytes.get(at + 1)
                        && (options.quoted_newlines || !ends(at + 1))
                    {
                        content.push(*byte);
                    }
                    at += 2;
                    if !options.quoted_newlines && at > bytes.len() {
                        return Err(No::Open);
                    }
                } else if is(at, options.quote) && is(at + 1, options.quote) {
                    content.push(bytes[at]);
                    at += 2;
                } else if is(at, options.quote) {
                    break;
                } else {
                    content.push(bytes[at]);
                    at += 1;
                }
            }
            if options.quoted_newlines && at > limit {
                return Err(No::TooLong);
            }
            at += 1;
            // A line that goes on beyond the limit is no record in the first place, whatever else
            // stands in it: who reads it in pieces does not see its end.
            let line = (at..).find(|at| ends(*at)).unwrap_or(bytes.len());
            if options.quoted_newlines && line > limit && bytes[..at].contains(&b'\n') {
                return Err(No::TooLong);
            }
            if !ends(at) && !is(at, Some(options.delimiter)) {
                return Err(No::MidField);
            }
        } else {
            while !ends(at) && !is(at, Some(options.delimiter)) {
                content.push(bytes[at]);
                at += 1;
            }
        }
        out.push((content, quoted));
        if ends(at) {
            break;
        }
        at += 1;
    }
    if at > limit {
        return Err(No::TooLong);
    }
    let feed = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |d| at + d);
    Ok((out, feed))
}

/// A value of the sample contract: `Ok(None)` is null.
type Value = Result<Option<String>, (Rule, String)>;

fn is_null(text: &str, quoted: bool, options: &CsvOptions) -> bool {
    !quoted && options.null_values.iter().any(|null| null == text)
}

fn id(whole: &str, options: &CsvOptions) -> Value {
    let text = whole.trim_ascii();
    if is_null(text, false, options) {
        return Err((Rule::NotNull, "required value is missing".into()));
    }
    let digits = text.trim_start_matches(['-', '+']);
    let signs = text.len() - digits.len();
    if signs > 1 || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err((Rule::Type, format!("{} is not an int", shown(whole))));
    }
    match text.parse::<i32>() {
        Ok(value) => Ok(Some(value.to_string())),
        Err(_) => Err((Rule::Range, format!("{} does not fit an int", shown(whole)))),
    }
}

fn note(text: &str, quoted: bool, options: &CsvOptions) -> Value {
    let text = if options.trim && !quoted { text.trim_ascii() } else { text };
    Ok((!is_null(text, quoted, options)).then(|| text.to_owned()))
}

fn amount(raw: &str, options: &CsvOptions) -> Value {
    let text = raw.trim_ascii();
    if is_null(text, false, options) {
        return Ok(None);
    }
    let wrong = || Err((Rule::Type, format!("{} is not a decimal(6,2)", shown(raw))));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return wrong();
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 2 {
        return wrong();
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > 4 {
        return Err((Rule::Range, format!("{} does not fit a decimal(6,2)", shown(raw))));
    }
    let value = format!("{whole:0>1}.{fraction:0<2}");
    if text.starts_with('-') && value != "0.00" {
        return Err((Rule::Constraint, format!("{} is less than 0", shown(raw))));
    }
    Ok(Some(value))
}

/// A value in a message, cut after 40 characters.
fn shown(text: &str) -> String {
    let beginning: String = text.chars().take(40).collect();
    if beginning == text { format!("\"{text}\"") } else { format!("\"{beginning}…\"") }
}

/// Decodes a file without a header.
pub(super) fn decode(file: &[u8], options: &CsvOptions, limit: usize) -> Result3 {
    let mut out = Result3 { rows: vec![], rejects: vec![], records: 0, lines: 0, discarded: 0 };
    let mut at = if file.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    while at < file.len() {
        let feed = file[at..].iter().position(|byte| *byte == b'\n').map_or(file.len(), |d| at + d);
        let line = file[at..feed].strip_suffix(b"\r").unwrap_or(&file[at..feed]);
        let comment = options.comment.is_some_and(|c| line.first() == Some(&(c as u8)));
        if line.is_empty() || comment {
            out.lines += 1;
            at = feed + 1;
            continue;
        }
        out.records += 1;
        let mut next = feed;
        let mut raw = line;
        let verdict = if line.len() > limit {
            Err((Rule::TooLarge, None, format!("the record is larger than {limit} bytes")))
        } else {
            let rest = if options.quoted_newlines { &file[at..] } else { line };
            match fields(rest, options, limit) {
                Err(No::Open) => Err((Rule::Quote, None, "a quote is not closed".to_owned())),
                Err(No::MidField) => {
                    Err((Rule::Quote, None, "a quote closes in mid-field".to_owned()))
                }
                Err(No::TooLong) => {
                    Err((Rule::Quote, None, format!("a quote is not closed within {limit} bytes")))
                }
                Ok((fields, _)) if fields.len() != 3 => {
                    let message = format!("expected 3 columns, found {}", fields.len());
                    Err((Rule::ColumnCount, None, message))
                }
                Ok((fields, end)) => {
                    if options.quoted_newlines {
                        next = at + end;
                        raw = file[at..next].strip_suffix(b"\r").unwrap_or(&file[at..next]);
                    }
                    values(raw, &fields, options)
                }
            }
        };
        match verdict {
            Ok(row) => out.rows.push((at as u64, row)),
            Err((rule, column, message)) => out.rejects.push(Reject {
                offset: at as u64,
                line: out.lines + 1,
                rule,
                column,
                message: message.into(),
                raw: raw[..if rule == Rule::TooLarge { limit } else { raw.len() }].into(),
            }),
        }
        let stop = file.len().min(next + 1);
        out.lines += file[at..stop].iter().filter(|byte| **byte == b'\n').count() as u64;
        out.lines += u64::from(next == file.len());
        at = next + 1;
    }
    out
}

fn values(
    raw: &[u8],
    fields: &[Field],
    options: &CsvOptions,
) -> Result<Vec<Option<String>>, (Rule, Option<String>, String)> {
    if let Err(error) = std::str::from_utf8(raw) {
        let message = format!("byte {} of the record is not UTF-8", error.valid_up_to() + 1);
        return Err((Rule::Encoding, None, message));
    }
    let text =
        |field: usize| String::from_utf8(fields[field].0.clone()).expect("the record is UTF-8");
    let values = [
        ("id", id(&text(0), options)),
        ("note", note(&text(1), fields[1].1, options)),
        ("amount", amount(&text(2), options)),
    ];
    values
        .into_iter()
        .map(|(name, value)| {
            value.map_err(|(rule, message)| (rule, Some(name.to_owned()), message))
        })
        .collect()
}
