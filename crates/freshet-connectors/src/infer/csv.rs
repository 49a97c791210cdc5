//! The dialect of CSV samples and the types of their columns.

use freshet_core::contract::ContractColumn;
use freshet_core::error::Result;
use serde_json::json;

use super::Inferred;
use super::types::{ENOUGH, Guess, Spelling, guess};

/// Lines of each sample by which dialects are compared.
const LINES: usize = 500;
/// Spellings of null that are not empty.
const NULLS: [&str; 8] = ["NULL", "null", "NA", "N/A", "n/a", "\\N", "None", "-"];

/// How records are divided.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Dialect {
    delimiter: char,
    quote: Option<char>,
    quoted_newlines: bool,
}

/// A field and whether it was quoted.
type Record = Vec<(String, bool)>;

impl Dialect {
    /// Divides `text` into records; an unclosed quote costs its line.
    fn records(self, text: &str, most: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let mut rest = text;
        while !rest.is_empty() && records.len() < most {
            let (record, length) = self.record(rest);
            if !(record.len() == 1 && record[0].0.is_empty()) {
                records.push(record);
            }
            rest = &rest[length..];
        }
        records
    }

    fn record(self, text: &str) -> (Record, usize) {
        let line = text.find('\n').map_or(text.len(), |at| at + 1);
        let limit = if self.quoted_newlines { text.len().min(64 << 10) } else { line };
        let mut record = Vec::new();
        let mut field = String::new();
        let (mut quoted, mut inside) = (false, false);
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if at >= limit {
                break;
            }
            if inside {
                if Some(c) != self.quote {
                    field.push(c);
                } else if chars.peek().is_some_and(|(_, next)| *next == c) {
                    chars.next();
                    field.push(c);
                } else {
                    inside = false;
                }
            } else if c == '\n' {
                let ended = field.strip_suffix('\r').map(str::to_owned).unwrap_or(field);
                record.push((ended, quoted));
                return (record, at + 1);
            } else if c == self.delimiter {
                record.push((std::mem::take(&mut field), quoted));
                quoted = false;
            } else if Some(c) == self.quote && field.is_empty() && !quoted {
                quoted = true;
                inside = true;
            } else {
                field.push(c);
            }
        }
        if inside && limit > line {
            // Not closed in sight: the line alone.
            return Self { quoted_newlines: false, ..self }.record(text);
        }
        record.push((field.trim_end_matches(['\r', '\n']).to_owned(), quoted));
        (record, if self.quoted_newlines { text.len() } else { line })
    }

    /// How well it divides samples: the share of records with the commonest width, wider is better.
    fn score(self, texts: &[String]) -> (f64, usize) {
        let mut widths = std::collections::BTreeMap::new();
        let mut total = 0_usize;
        for text in texts {
            for record in self.records(text, LINES) {
                *widths.entry(record.len()).or_insert(0_usize) += 1;
                total += 1;
            }
        }
        let (width, count) = widths.into_iter().max_by_key(|(_, count)| *count).unwrap_or((1, 0));
        let share = count as f64 / total.max(1) as f64;
        (if width == 1 { share * 0.1 } else { share }, width)
    }
}

/// Enters format, options and columns into `inferred`.
pub fn infer(texts: &[String], extension: Option<&str>, inferred: &mut Inferred) -> Result<()> {
    let texts: Vec<String> =
        texts.iter().map(|text| text.trim_start_matches('\u{feff}').to_owned()).collect();
    let mut best: Option<(Dialect, f64, usize)> = None;
    for delimiter in [',', ';', '\t', '|', ':'] {
        for quote in ['"', '\''] {
            for quoted_newlines in [false, true] {
                let dialect = Dialect { delimiter, quote: Some(quote), quoted_newlines };
                let (score, width) = dialect.score(&texts);
                let better = best.is_none_or(|(_, known, wide)| {
                    score > known + 0.005 || (score > known - 0.005 && width > wide)
                });
                if better {
                    best = Some((dialect, score, width));
                }
            }
        }
    }
    let Some((dialect, _, width)) = best else { return Ok(()) };
    let options = &mut inferred.format_options;
    let by_name = match extension {
        Some("tsv" | "tab") => '\t',
        Some("psv") => '|',
        _ => ',',
    };
    if width > 1 && dialect.delimiter != by_name {
        options.insert("delimiter".into(), json!(dialect.delimiter));
    }
    if width > 1 && dialect.quote != Some('"') {
        options.insert("quote".into(), json!(dialect.quote));
    }
    if dialect.quoted_newlines {
        options.insert("quoted_newlines".into(), json!(true));
    }
    // Lines of another width in front of the first record are a title.
    let first = &texts[0];
    let leading = first
        .split_inclusive('\n')
        .take_while(|line| dialect.record(line).0.len() != width && !dialect.quoted_newlines)
        .count();
    let skipped = if leading < 20 { leading } else { 0 };
    let begin: usize = first.split_inclusive('\n').take(skipped).map(str::len).sum();
    if skipped > 0 {
        options.insert("skip_lines".into(), json!(skipped));
    }
    let mut records = dialect.records(&first[begin..], usize::MAX);
    let names: Vec<String> = records
        .first()
        .map(|r| r.iter().map(|(name, _)| name.clone()).collect())
        .unwrap_or_default();
    let header = is_header(&names, &records);
    if header {
        records.remove(0);
    } else {
        options.insert("header".into(), json!(false));
    }
    for text in &texts[1..] {
        let others = dialect.records(text, usize::MAX);
        let same = |r: &Record| r.iter().map(|(name, _)| name).eq(names.iter());
        records.extend(others.into_iter().filter(|record| !(header && same(record))));
    }
    records.retain(|record| record.len() == width);
    let comma = dialect.delimiter != ',' && decimal_commas(&records);
    if comma {
        options.insert("decimal_separator".into(), json!(","));
        options.insert("thousands_separator".into(), json!("."));
    }
    let spelling = Spelling { decimal_comma: comma };
    let mut nulls: Vec<&str> = Vec::new();
    for column in 0..width {
        let name = match names.get(column) {
            Some(name) if header => name.trim().to_owned(),
            _ => format!("column_{}", column + 1),
        };
        let values: Vec<&str> = records
            .iter()
            .map(|record| record[column].0.trim())
            .filter(|value| !value.is_empty())
            .collect();
        let real = || values.iter().copied().filter(|value| !NULLS.contains(value));
        let found: Guess = guess(real(), &spelling);
        let mut missing = records.len() - values.len();
        if found != Guess::default() {
            for value in values.iter().filter(|value| NULLS.contains(value)) {
                missing += 1;
                if !nulls.contains(value) {
                    nulls.push(value);
                }
            }
        }
        let mut column: ContractColumn = found.column(&name, &mut inferred.notes);
        column.nullable = missing * 100 > records.len() || records.len() < ENOUGH;
        inferred.columns.push(column);
    }
    if !nulls.is_empty() {
        let mut all = vec![""];
        all.extend(nulls);
        inferred.format_options.insert("null_values".into(), json!(all));
    }
    Ok(())
}

/// Whether the first record names the columns: all are named, apart, and none is a value.
fn is_header(names: &[String], records: &[Record]) -> bool {
    let apart: std::collections::BTreeSet<&str> = names.iter().map(|name| name.trim()).collect();
    if apart.len() != names.len() || apart.contains("") {
        return false;
    }
    let is_value = |name: &String| {
        guess(std::iter::once(name.trim()), &Spelling::default()) != Guess::default()
    };
    if names.iter().any(is_value) {
        return false;
    }
    // Where everything is text, a name does not come again as a value.
    !records.iter().skip(1).any(|record| record.iter().map(|(value, _)| value).eq(names.iter()))
}

/// Whether numbers have a comma before their fraction.
fn decimal_commas(records: &[Record]) -> bool {
    let (mut commas, mut points) = (0, 0);
    for (value, _) in records.iter().flatten() {
        let value = value.trim().trim_start_matches('-');
        if !value.starts_with(|c: char| c.is_ascii_digit())
            || !value.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.')
        {
            continue;
        }
        match (value.rfind(','), value.rfind('.')) {
            (Some(comma), point) if point.is_none_or(|point| point < comma) => commas += 1,
            (_, Some(_)) if value.matches('.').count() == 1 => points += 1,
            _ => {}
        }
    }
    commas > points
}
