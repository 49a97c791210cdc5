//! Guessing a source from samples of its files, for the user to read, correct and keep.

mod csv;
mod types;

use std::fmt::Write as _;
use std::sync::Arc;

use freshet_core::contract::{ContractColumn, type_name};
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::ConnectorContext;
use freshet_core::types::ColumnType;
use serde_json::{Map, Value};

use crate::files::{
    Blob, Buffer, Codec, Compression, Encoding, Feed, PathPattern, StreamFeed, place_of,
};
use crate::formats::extension;

/// Files that are looked into.
const FILES: usize = 4;
/// Text that is read of a file's head, and again of its middle.
const SAMPLE: usize = 256 << 10;

/// What samples of some files suggest.
#[derive(Debug, Clone)]
pub struct Inferred {
    /// The pattern as given.
    pub path: String,
    /// The format's name.
    pub format: String,
    /// Options of the format that differ from their default.
    pub format_options: Map<String, Value>,
    /// The encoding.
    pub encoding: Encoding,
    /// The columns.
    pub columns: Vec<ContractColumn>,
    /// Files that were looked into.
    pub sampled: Vec<String>,
    /// What a person should look at.
    pub notes: Vec<String>,
}

/// Samples the files that `path` matches: a path or pattern as the connector `files` takes it.
pub async fn infer(path: &str, context: &ConnectorContext) -> Result<Inferred> {
    let pattern = PathPattern::parse(path.trim_start_matches("./"))?;
    let place = place_of(path, context)?;
    let mut files = place.list(&pattern).await?;
    files.retain(|file| file.size > 0 && pattern.matches(&file.id).is_some());
    files.sort_by(|a, b| a.id.cmp(&b.id));
    if files.is_empty() {
        return Err(Error::new(code::SOURCE, format!("no file with content matches \"{path}\""))
            .hint("relative paths start at the project folder"));
    }
    // Spread over the listing, so that a format that changed in time is seen.
    let step = files.len().div_ceil(FILES);
    let mut inferred = Inferred {
        path: path.to_owned(),
        format: String::new(),
        format_options: Map::new(),
        encoding: Encoding::Utf8,
        columns: Vec::new(),
        sampled: Vec::new(),
        notes: Vec::new(),
    };
    let mut texts = Vec::new();
    for file in files.iter().step_by(step) {
        let blob = place.open(&file.id, file.size, &file.version).await?;
        let magic = blob.read(0, file.size.min(4) as usize).await?;
        inferred.sampled.push(file.id.clone());
        if magic.as_ref() == b"PAR1" {
            inferred.format = "parquet".into();
            inferred.columns = parquet_columns(&blob, &file.id).await?;
            return Ok(inferred);
        }
        let (text, encoding) = sample(&blob, &file.id).await?;
        if encoding != Encoding::Utf8 {
            inferred.encoding = encoding;
        }
        texts.push(text);
    }
    texts.retain(|text| !text.trim().is_empty());
    let first = texts.first().ok_or_else(|| {
        Error::new(code::SOURCE, format!("the files that match \"{path}\" hold no text"))
    })?;
    let beginning = first.trim_start_matches('\u{feff}').trim_start();
    let by_name = extension(path);
    let is_object =
        |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|value| value.is_object());
    inferred.format = if beginning.starts_with('[') && by_name.as_deref() != Some("csv") {
        "json".into()
    } else if beginning.starts_with('{') {
        let lines = beginning.lines().next().is_some_and(is_object);
        if lines { "ndjson".into() } else { "json".into() }
    } else {
        "csv".into()
    };
    if inferred.format == "csv" {
        csv::infer(&texts, by_name.as_deref(), &mut inferred)?;
    } else {
        json_columns(&texts, &mut inferred);
    }
    for capture in pattern.captures() {
        let name = &capture.name;
        if let Some(column) = inferred.columns.iter().position(|column| column.name == *name) {
            inferred.columns.remove(column);
            inferred.notes.push(format!(
                "column \"{name}\" is captured from the file's name and is in the file too: rename one"
            ));
        }
    }
    Ok(inferred)
}

/// Text of a file's head and, where the file is plain and large, of its middle.
async fn sample(blob: &Arc<dyn Blob>, id: &str) -> Result<(String, Encoding)> {
    let first = blob.read(0, blob.size().min(SAMPLE as u64) as usize).await?;
    let compression = Compression::Auto.resolve(&first, id)?;
    let read = async |encoding: Encoding, mark: usize| -> Result<Vec<u8>> {
        let codec = Codec { compression, encoding, mark };
        let mut feed = Feed::Stream(StreamFeed::new(Arc::clone(blob), id, codec, false)?);
        let mut text = Buffer::with_capacity(SAMPLE);
        let last = feed.fill(&mut text, SAMPLE).await?;
        let text = text.filled();
        // The last line is cut.
        let end = if last {
            text.len()
        } else {
            memchr::memrchr(b'\n', text).map_or(text.len(), |at| at + 1)
        };
        Ok(text[..end].to_vec())
    };
    let mut bytes = read(Encoding::Utf8, 0).await?;
    let (mut encoding, mark) = Encoding::Utf8.resolve(&bytes);
    let zeros = memchr::memchr_iter(0, &bytes).count();
    if encoding == Encoding::Utf8 && zeros > bytes.len() / 4 {
        encoding = Encoding::Utf16.resolve(&bytes).0;
    } else if encoding == Encoding::Utf8 && !mostly_utf8(&bytes) {
        if is_binary(&bytes) {
            return Err(Error::new(code::SOURCE, format!("file \"{id}\" is not text"))
                .hint("formats are CSV, NDJSON, JSON and Parquet, plain or as gzip or zstd"));
        }
        encoding = Encoding::Windows1252;
    }
    if encoding != Encoding::Utf8 {
        bytes = read(encoding, mark).await?;
    } else if compression == Compression::None && blob.size() > 3 * SAMPLE as u64 {
        let middle = blob.read(blob.size() / 2, SAMPLE).await?;
        let start = memchr::memchr(b'\n', &middle).map_or(middle.len(), |at| at + 1);
        let end = memchr::memrchr(b'\n', &middle).map_or(start, |at| (at + 1).max(start));
        bytes.extend_from_slice(&middle[start..end]);
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), encoding))
}

/// Whether more than one byte in a hundred is a control character that no text has.
fn is_binary(bytes: &[u8]) -> bool {
    let odd = |byte: &&u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c);
    bytes.iter().filter(odd).count() * 100 > bytes.len()
}

/// Whether at most one line in twenty is not UTF-8: more is another encoding, less is damage.
fn mostly_utf8(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n');
    let (mut other, mut bad) = (0, 0);
    for line in lines.filter(|line| !line.is_ascii()) {
        other += 1;
        bad += usize::from(std::str::from_utf8(line).is_err());
    }
    bad == 0 || bad * 20 < other
}

async fn parquet_columns(blob: &Arc<dyn Blob>, id: &str) -> Result<Vec<ContractColumn>> {
    use crate::formats::BlockFormat;
    let layout = crate::parquet::Parquet.layout(blob, id, &Arc::default()).await?;
    let schema = layout.schema();
    Ok(schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = type_name(field.data_type()).parse().unwrap_or(ColumnType::Text);
            ContractColumn::new(field.name(), data_type)
        })
        .collect())
}

fn json_columns(texts: &[String], inferred: &mut Inferred) {
    let mut names: Vec<String> = Vec::new();
    let mut values: Vec<Vec<String>> = Vec::new();
    let mut nested: Vec<bool> = Vec::new();
    let mut objects = 0;
    let mut add = |value: Value| {
        let Value::Object(fields) = value else { return };
        objects += 1;
        for (name, value) in fields {
            let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                values.push(Vec::new());
                nested.push(false);
                names.len() - 1
            });
            match value {
                Value::Null => {}
                Value::String(text) => values[index].push(text),
                Value::Array(_) | Value::Object(_) => nested[index] = true,
                other => values[index].push(other.to_string()),
            }
        }
    };
    for text in texts {
        let text = text.trim_start_matches('\u{feff}');
        let elements = text.trim_start().strip_prefix('[').unwrap_or(text);
        let mut rest = elements;
        while let Some(start) = rest.find('{') {
            let mut stream =
                serde_json::Deserializer::from_str(&rest[start..]).into_iter::<Value>();
            match stream.next() {
                Some(Ok(value)) => {
                    add(value);
                    rest = &rest[start + stream.byte_offset()..];
                }
                _ => match rest[start..].find('\n') {
                    Some(line) => rest = &rest[start + line..],
                    None => break,
                },
            }
        }
    }
    for ((name, values), nested) in names.into_iter().zip(values).zip(nested) {
        let mut guess = types::Guess::default();
        if !nested {
            guess = types::guess(values.iter().map(String::as_str), &types::Spelling::default());
        }
        let mut column = guess.column(&name, &mut inferred.notes);
        column.nullable = nested || values.len() < objects || objects < types::ENOUGH;
        inferred.columns.push(column);
    }
}

impl Inferred {
    /// The source as YAML: one table `table` of a source `source`.
    pub fn to_yaml(&self, source: &str, table: &str) -> String {
        let mut yaml = String::new();
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        for note in &self.notes {
            let _ = writeln!(yaml, "# look at this: {}", note.replace('\n', " "));
        }
        let _ = writeln!(
            yaml,
            "# from {} sampled file{}",
            self.sampled.len(),
            if self.sampled.len() == 1 { "" } else { "s" }
        );
        let _ = writeln!(yaml, "sources:\n  - name: {}\n    tables:", quoted(source));
        let _ = writeln!(
            yaml,
            "      - name: {}\n        connector: files\n        with:",
            quoted(table)
        );
        let _ = writeln!(
            yaml,
            "          path: {}\n          format: {}",
            quoted(&self.path),
            self.format
        );
        if self.encoding != Encoding::Utf8 {
            let name = serde_json::to_value(self.encoding).unwrap_or_default();
            let _ = writeln!(yaml, "          encoding: {name}");
        }
        if !self.format_options.is_empty() {
            yaml.push_str("          format_options:\n");
            for (name, value) in &self.format_options {
                // JSON is YAML.
                let _ = writeln!(yaml, "            {name}: {value}");
            }
        }
        yaml.push_str("        columns:\n");
        for column in &self.columns {
            let _ = writeln!(yaml, "          - name: {}", quoted(&column.name));
            let _ = writeln!(yaml, "            data_type: {}", column.data_type);
            if let Some(name) = &column.source_name {
                let _ = writeln!(yaml, "            source_name: {}", quoted(name));
            }
            if let Some(format) = &column.format {
                let _ = writeln!(yaml, "            format: {}", quoted(format));
            }
            if !column.nullable {
                yaml.push_str("            constraints:\n              - type: not_null\n");
            }
        }
        yaml
    }
}
