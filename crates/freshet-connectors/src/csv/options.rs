//! What users can say about CSV files.

use freshet_core::error::{Error, Result, code};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::ValueFormats;

/// Options of the format `csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct CsvOptions {
    /// The character between fields: any ASCII character but letters, digits, quotes and line
    /// ends. Default: a comma.
    pub delimiter: char,
    /// The character around fields that hold delimiters, quotes or line ends; `null` where quotes
    /// have no meaning. It has a meaning at the start of a field only. Default: `"`.
    pub quote: Option<char>,
    /// The character in front of a quote that belongs to a quoted field's content. Default: none,
    /// such a quote is doubled (which is understood in any case).
    pub escape: Option<char>,
    /// Whether the first line names the columns. Without it, they are those of the contract, in
    /// its order. Default: true.
    pub header: bool,
    /// Lines that begin with this character are no records. Default: none.
    pub comment: Option<char>,
    /// Lines to skip before the header, or before the first record where there is none. Default: 0.
    pub skip_lines: u32,
    /// Spellings of null. In a text column they hold without quotes only: a quoted empty field is
    /// an empty text. Default: the empty field.
    pub null_values: Vec<String>,
    /// `strftime` pattern of dates, unless a column has one of its own. Default: ISO 8601.
    pub date_format: Option<String>,
    /// `strftime` pattern of timestamps, unless a column has one of its own. Default: ISO 8601.
    pub timestamp_format: Option<String>,
    /// `strftime` pattern of times of day, unless a column has one of its own. Default: ISO 8601.
    pub time_format: Option<String>,
    /// The character before the fraction of a number. Default: a point.
    pub decimal_separator: char,
    /// The character between groups of three digits of a number. Default: none.
    pub thousands_separator: Option<char>,
    /// Spellings of true, in any case. Default: true, t, yes, y, 1.
    pub true_values: Vec<String>,
    /// Spellings of false, in any case. Default: false, f, no, n, 0.
    pub false_values: Vec<String>,
    /// Whether blanks around text that is not quoted are dropped; around other values they never
    /// count. Default: false.
    pub trim: bool,
    /// Whether a quoted field may hold line ends. Default: false, every line is one record, and an
    /// unclosed quote costs that line alone.
    pub quoted_newlines: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        let values = ValueFormats::default();
        Self {
            delimiter: ',',
            quote: Some('"'),
            escape: None,
            header: true,
            comment: None,
            skip_lines: 0,
            null_values: values.null_values,
            date_format: values.date_format,
            timestamp_format: values.timestamp_format,
            time_format: values.time_format,
            decimal_separator: values.decimal_separator,
            thousands_separator: values.thousands_separator,
            true_values: values.true_values,
            false_values: values.false_values,
            trim: values.trim,
            quoted_newlines: false,
        }
    }
}

impl CsvOptions {
    /// How values are spelled.
    pub fn value_formats(&self) -> ValueFormats {
        ValueFormats {
            null_values: self.null_values.clone(),
            date_format: self.date_format.clone(),
            timestamp_format: self.timestamp_format.clone(),
            time_format: self.time_format.clone(),
            decimal_separator: self.decimal_separator,
            thousands_separator: self.thousands_separator,
            true_values: self.true_values.clone(),
            false_values: self.false_values.clone(),
            trim: self.trim,
        }
    }
}

/// The characters that shape a file, as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    pub delimiter: u8,
    pub quote: Option<u8>,
    /// Never the quote itself.
    pub escape: Option<u8>,
    pub comment: Option<u8>,
    pub quoted_newlines: bool,
}

impl Dialect {
    pub fn new(options: &CsvOptions) -> Result<Self> {
        let byte = |field: &str, character: char| {
            let usable = character.is_ascii()
                && !character.is_ascii_alphanumeric()
                && !matches!(character, '\n' | '\r' | '\0');
            u8::try_from(character).ok().filter(|_| usable).ok_or_else(|| {
                wrong(format!("{field} {character:?} cannot shape a file"))
                    .hint("use one ASCII character that is no letter, digit or line end")
            })
        };
        let delimiter = byte("delimiter", options.delimiter)?;
        let quote = options.quote.map(|c| byte("quote", c)).transpose()?;
        let escape = options.escape.map(|c| byte("escape", c)).transpose()?;
        let comment = options.comment.map(|c| byte("comment", c)).transpose()?;
        let escape = escape.filter(|escape| Some(*escape) != quote);
        let named = [
            ("delimiter", Some(delimiter)),
            ("quote", quote),
            ("escape", escape),
            ("comment", comment),
        ];
        for (i, (name, byte)) in named.iter().enumerate() {
            if let Some((other, _)) = named[..i].iter().find(|(_, b)| b.is_some() && b == byte) {
                return Err(wrong(format!("{other} and {name} are the same character"))
                    .hint(format!("choose another {name}, or set it to null")));
            }
        }
        if escape.is_some() && quote.is_none() {
            return Err(wrong("escape has no meaning without a quote".to_owned())
                .hint("leave out escape, or set quote"));
        }
        Ok(Self { delimiter, quote, escape, comment, quoted_newlines: options.quoted_newlines })
    }
}

/// An error about an option of the format.
fn wrong(message: String) -> Error {
    Error::new(code::CONFIG, format!("format csv: {message}"))
}
