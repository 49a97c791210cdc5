//! Unit tests and SQL macros.

use std::collections::HashMap;

use freshet_core::error::code;
use freshet_core::{Error, Location, SourceId};
use serde_json::Value as Json;

use super::files::Files;
use super::properties::{Entry, Properties};
use super::{Findings, duplicate, stem};
use crate::config::render;
use crate::model::{SqlMacro, UnitTest, UnitTestInput, UnitTestRef};
use crate::props::{GivenProps, RowsProps, UnitTestProps};
use crate::render::{Index, Templates};
use crate::yaml::{Item, Located, Reader, Value};

type Row = serde_json::Map<String, Json>;

/// What loading unit tests needs.
pub struct Loader<'a> {
    pub files: &'a Files,
    pub properties: &'a Properties,
    pub templates: &'a Templates,
    pub index: &'a Index,
    pub findings: &'a Findings,
}

impl Loader<'_> {
    /// The unit tests, in the order of the files.
    pub fn unit_tests(&self) -> Vec<UnitTest> {
        let mut seen: HashMap<String, Location> = HashMap::new();
        let mut tests = Vec::new();
        for entry in &self.properties.unit_tests {
            if let Some(test) = self.unit_test(entry) {
                let key = format!("{} of {}", test.name, test.model);
                if let Some(first) = seen.get(&key) {
                    self.findings
                        .error(duplicate("unit test", &test.name, first).at(test.location.clone()));
                    continue;
                }
                seen.insert(key, test.location.clone());
                tests.push(test);
            }
        }
        tests
    }

    fn unit_test(&self, entry: &Entry<UnitTestProps>) -> Option<UnitTest> {
        let reader = Reader::new(&entry.doc, &self.findings.errors);
        let doc = &entry.doc;
        let props = &entry.props;
        let name = props.name.value.clone();
        let location = doc.location(props.name.item);
        let project = &self.templates.shared.project;
        let model = self.findings.keep(
            self.index
                .model(None, &props.model.value, project)
                .cloned()
                .map_err(|error| error.at(doc.location(props.model.item))),
        )?;
        let mut given = Vec::new();
        for item in props
            .given
            .map_or(&[][..], |list| reader.list(list, &format!("unit_tests.{name}.given")))
        {
            let path = format!("unit_tests.{name}.given");
            let Some(input) = reader.read::<GivenProps>(*item, &path) else { continue };
            let Some(target) = self.input(&reader, &input.input) else { continue };
            let rows = self.rows(&reader, &path, *item, input.rows, input.format, input.fixture);
            given.push(UnitTestInput { input: target, rows });
        }
        let path = format!("unit_tests.{name}.expect");
        let expect: RowsProps = reader.read(props.expect, &path)?;
        let expect =
            self.rows(&reader, &path, props.expect, expect.rows, expect.format, expect.fixture);
        let mut overrides = Row::new();
        if let Some(given) = &props.overrides {
            for (part, item) in
                [("macros", given.macros), ("vars", given.vars), ("env_vars", given.env_vars)]
            {
                if let Some(json) = item.and_then(|item| render(&reader, item, self.templates)) {
                    overrides.insert(part.to_owned(), json);
                }
            }
        }
        Some(UnitTest { name, model, given, expect, overrides, location })
    }

    fn input(&self, reader: &Reader<'_>, input: &Located<String>) -> Option<UnitTestRef> {
        let text = input.value.trim();
        if text == "this" {
            return Some(UnitTestRef::This);
        }
        let project = &self.templates.shared.project;
        let found = match parse_reference(text) {
            Some((None, name)) => {
                self.index.model(None, &name, project).map(|id| UnitTestRef::Node(id.clone()))
            }
            Some((Some(source), table)) => self
                .index
                .source(&source, &table)
                .map(|_| UnitTestRef::Source(SourceId::of(&source, &table))),
            None => Err(Error::new(code::CONFIG, format!("\"{text}\" is no input of a model"))
                .hint("write `ref('model')`, `source('source', 'table')` or `this`")),
        };
        found.map_err(|error| reader.error_at(input.item, error)).ok()
    }

    fn rows(
        &self,
        reader: &Reader<'_>,
        path: &str,
        owner: Item,
        rows: Option<Item>,
        format: Option<Located<String>>,
        fixture: Option<Located<String>>,
    ) -> Vec<Row> {
        let doc = reader.doc;
        let format = match &format {
            None => None,
            Some(format) => match format.value.as_str() {
                "dict" => Some("dict"),
                "csv" => Some("csv"),
                other => {
                    reader.error_at(
                        format.item,
                        Error::new(
                            code::CONFIG,
                            format!("rows in format \"{other}\" are not there"),
                        )
                        .hint("use `dict` or `csv`"),
                    );
                    return Vec::new();
                }
            },
        };
        if let Some(fixture) = fixture {
            let found = self.files.fixtures.iter().find(|text| stem(text) == fixture.value);
            return match found {
                Some(text) => self.csv(reader, fixture.item, &text.text),
                None => {
                    reader.error_at(
                        fixture.item,
                        Error::new(
                            code::REFERENCE,
                            format!("there is no fixture \"{}\"", fixture.value),
                        )
                        .hint("fixtures are `.csv` files in `tests/fixtures`"),
                    );
                    Vec::new()
                }
            };
        }
        let Some(rows) = rows else {
            reader.error_at(
                owner,
                Error::new(code::YAML, format!("field \"rows\" is missing in {path}"))
                    .hint("`rows: []` says that there are none"),
            );
            return Vec::new();
        };
        match doc.value(rows) {
            Value::Text(text) if format != Some("dict") => self.csv(reader, rows, text),
            _ => reader
                .list(rows, &format!("{path}.rows"))
                .iter()
                .filter_map(|row| match render(reader, *row, self.templates) {
                    Some(Json::Object(row)) => Some(row),
                    Some(_) => {
                        reader.error_at(
                            *row,
                            Error::new(
                                code::YAML,
                                format!(
                                    "{} where a row is expected in {path}",
                                    doc.value(*row).kind()
                                ),
                            )
                            .hint("write `- {column: value}`"),
                        );
                        None
                    }
                    None => None,
                })
                .collect(),
        }
    }

    fn csv(&self, reader: &Reader<'_>, item: Item, text: &str) -> Vec<Row> {
        parse_csv(text)
            .map_err(|message| reader.error_at(item, Error::new(code::CONFIG, message)))
            .unwrap_or_default()
    }

    /// SQL functions, in the order of the files.
    pub fn sql_macros(&self) -> Vec<SqlMacro> {
        let mut seen: HashMap<String, Location> = HashMap::new();
        let mut macros = Vec::new();
        for entry in &self.properties.sql_macros {
            let props = &entry.props;
            let location = entry.doc.location(props.name.item);
            let is_word = |text: &str| {
                text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            let words = std::iter::once(&props.name).chain(&props.parameters);
            let mut parameters: Vec<String> = Vec::new();
            let mut wrong = false;
            for word in words {
                if !is_word(&word.value) {
                    wrong = true;
                    self.findings.error(
                        Error::new(
                            code::CONFIG,
                            format!("\"{}\" is no name of a SQL macro or parameter", word.value),
                        )
                        .at(entry.doc.location(word.item))
                        .hint("use letters, digits and `_`, with a letter first"),
                    );
                }
            }
            for parameter in &props.parameters {
                if parameters.contains(&parameter.value) {
                    wrong = true;
                    self.findings.error(
                        Error::new(
                            code::DUPLICATE,
                            format!(
                                "SQL macro \"{}\" has two parameters \"{}\"",
                                props.name.value, parameter.value
                            ),
                        )
                        .at(entry.doc.location(parameter.item)),
                    );
                }
                parameters.push(parameter.value.clone());
            }
            let key = props.name.value.to_ascii_lowercase();
            if let Some(first) = seen.get(&key) {
                self.findings.error(duplicate("SQL macro", &props.name.value, first).at(location));
                continue;
            }
            seen.insert(key, location.clone());
            let at = entry.doc.location(props.body.item);
            let Some(body) = self.findings.keep(self.templates.yaml(&at, &props.body.value)) else {
                continue;
            };
            if wrong {
                continue;
            }
            let body = match body {
                Json::String(body) => body,
                other => other.to_string(),
            };
            macros.push(SqlMacro { name: props.name.value.clone(), parameters, body, location });
        }
        macros
    }
}

/// `ref('model')` as `(None, model)`, `source('a', 'b')` as `(Some(a), b)`; `None` for anything else.
pub fn parse_reference(text: &str) -> Option<(Option<String>, String)> {
    let text = text.trim();
    let text =
        text.strip_prefix("{{").and_then(|text| text.strip_suffix("}}")).map_or(text, str::trim);
    let (function, rest) = text.split_once('(')?;
    let inner = rest.trim_end().strip_suffix(')')?;
    let mut names = inner.split(',').map(|name| {
        let name = name.trim();
        let quote = name.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        name.strip_prefix(quote)?.strip_suffix(quote).map(str::to_owned)
    });
    match function.trim() {
        "ref" => {
            let first = names.next()??;
            match names.next() {
                None => Some((None, first)),
                Some(second) => Some((None, second?)),
            }
        }
        "source" => {
            let source = names.next()??;
            let table = names.next()??;
            names.next().is_none().then_some((Some(source), table))
        }
        _ => None,
    }
}

/// Rows of CSV text with a header. An empty field is null; what looks like a number or a boolean
/// and is not quoted is one.
fn parse_csv(text: &str) -> Result<Vec<Row>, String> {
    let mut records = split_csv(text.trim_matches('\n'))?.into_iter();
    let Some(header) = records.next() else { return Ok(Vec::new()) };
    let names: Vec<String> = header.into_iter().map(|(name, _)| name.trim().to_owned()).collect();
    records
        .enumerate()
        .map(|(index, record)| {
            if record.len() != names.len() {
                return Err(format!(
                    "row {} of the CSV has {} fields, its header {}",
                    index + 1,
                    record.len(),
                    names.len()
                ));
            }
            Ok(names
                .iter()
                .cloned()
                .zip(record.into_iter().map(|(text, quoted)| cell(&text, quoted)))
                .collect())
        })
        .collect()
}

fn cell(text: &str, quoted: bool) -> Json {
    if quoted {
        return Json::from(text);
    }
    let text = text.trim();
    match text {
        "" => Json::Null,
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => {
            let unsigned = text.strip_prefix('-').unwrap_or(text);
            // `007` is a code, not a number.
            let is_code =
                unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.starts_with("0.");
            let is_plain = unsigned.starts_with(|c: char| c.is_ascii_digit());
            if is_code || !is_plain {
                return Json::from(text);
            }
            serde_json::from_str::<serde_json::Number>(text)
                .map_or_else(|_| Json::from(text), Json::Number)
        }
    }
}

/// Records of fields, each with whether it was quoted; blank lines are none.
fn split_csv(text: &str) -> Result<Vec<Vec<(String, bool)>>, String> {
    let mut records = Vec::new();
    let mut record: Vec<(String, bool)> = Vec::new();
    let mut field = String::new();
    let (mut quoted, mut open) = (false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if open && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if open => open = false,
            _ if open => field.push(c),
            '"' if field.trim().is_empty() => {
                field.clear();
                (quoted, open) = (true, true);
            }
            ',' => record.push((std::mem::take(&mut field), std::mem::take(&mut quoted))),
            '\n' => {
                if !(record.is_empty() && field.trim().is_empty() && !quoted) {
                    record.push((std::mem::take(&mut field), std::mem::take(&mut quoted)));
                    records.push(std::mem::take(&mut record));
                }
                field.clear();
            }
            _ => field.push(c),
        }
    }
    if open {
        return Err("a quote of the CSV is not closed".to_owned());
    }
    if !(record.is_empty() && field.trim().is_empty() && !quoted) {
        record.push((field, quoted));
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_cells_have_types_where_they_are_plain() {
        let rows =
            parse_csv("id, name,ok,code\n1,\"a, \"\"b\"\"\",true,007\n\n-2.5,,false,\"3\"\n");
        let expect = serde_json::json!([
            {"id": 1, "name": "a, \"b\"", "ok": true, "code": "007"},
            {"id": -2.5, "name": null, "ok": false, "code": "3"},
        ]);
        assert_eq!(serde_json::to_value(rows.expect("the CSV is right")).expect("JSON"), expect);
    }

    #[test]
    fn csv_with_a_field_too_many_is_refused() {
        assert!(parse_csv("a,b\n1,2,3").is_err());
        assert!(parse_csv("a\n\"1").is_err());
    }

    #[test]
    fn references_read_as_templates_write_them() {
        for (text, expect) in [
            ("ref('a')", Some((None, "a"))),
            ("ref(\"p\", \"a\")", Some((None, "a"))),
            ("{{ ref('a') }}", Some((None, "a"))),
            ("source('s', 't')", Some((Some("s"), "t"))),
            ("source('s')", None),
            ("ref(a)", None),
            ("orders", None),
        ] {
            let found = parse_reference(text);
            let found = found.as_ref().map(|(source, name)| (source.as_deref(), name.as_str()));
            assert_eq!(found, expect, "{text}");
        }
    }
}
