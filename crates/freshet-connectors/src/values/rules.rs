//! One column of a contract, compiled: what its values are read with and what is demanded of them.

use std::borrow::Cow;
use std::fmt::Debug;

use arrow::datatypes::{Int8Type, Int16Type, Int32Type, Int64Type};
use freshet_core::contract::{Constraint, ContractColumn};
use freshet_core::error::{Error, Result, code};
use freshet_core::types::ColumnType;

use super::number::{Boolean, Decimal, Float, Integer, Separators};
use super::pattern::Pattern;
use super::primitive::{Demands, Parse, Primitive};
use super::temporal::{Date, Time, Timestamp};
use super::text::{Binary, Spelling, Text, TextDemands};
use super::{Column, Fault};

/// How values are spelled in a source, whatever their column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueFormats {
    /// Spellings of null. Text that is quoted is never null.
    pub null_values: Vec<String>,
    /// `strftime` pattern of dates; ISO 8601 without one.
    pub date_format: Option<String>,
    /// `strftime` pattern of timestamps; ISO 8601 without one.
    pub timestamp_format: Option<String>,
    /// `strftime` pattern of times; ISO 8601 without one.
    pub time_format: Option<String>,
    /// The character before the fraction of a number.
    pub decimal_separator: char,
    /// The character between groups of three digits.
    pub thousands_separator: Option<char>,
    /// Spellings of true, in any case.
    pub true_values: Vec<String>,
    /// Spellings of false, in any case.
    pub false_values: Vec<String>,
    /// Whether blanks around text that is not quoted are dropped.
    pub trim: bool,
}

impl Default for ValueFormats {
    fn default() -> Self {
        let strings = |texts: [&str; 5]| texts.map(str::to_owned).to_vec();
        Self {
            null_values: vec![String::new()],
            date_format: None,
            timestamp_format: None,
            time_format: None,
            decimal_separator: '.',
            thousands_separator: None,
            true_values: strings(["true", "t", "yes", "y", "1"]),
            false_values: strings(["false", "f", "no", "n", "0"]),
            trim: false,
        }
    }
}

/// A value in a message has at most so many characters.
const SHOWN: usize = 40;

/// One column of a contract, compiled.
#[derive(Debug, Clone)]
pub struct Rules {
    column: ContractColumn,
    formats: ValueFormats,
    free: bool,
}

impl Rules {
    /// Compiles a column; wrong constraints and formats are errors of code `CONFIG`.
    pub fn compile(column: &ContractColumn, formats: &ValueFormats) -> Result<Self> {
        let mut rules = Self { column: column.clone(), formats: formats.clone(), free: false };
        rules.build(false).map_err(|message| {
            Error::new(code::CONFIG, format!("column \"{}\": {message}", column.name))
        })?;
        rules.free = column.data_type == ColumnType::Text
            && rules.text_demands().is_ok_and(|d| d.are_none());
        Ok(rules)
    }

    /// The column's name, as models see it.
    pub fn name(&self) -> &str {
        &self.column.name
    }

    /// The declared column.
    pub fn declared(&self) -> &ContractColumn {
        &self.column
    }

    /// Whether every value is accepted, so that nothing has to be looked at.
    pub fn accept_all(&self) -> bool {
        self.free
    }

    /// An empty column that checks values and, where `keep` says so, holds them.
    pub fn column(&self, keep: bool) -> Box<dyn Column> {
        self.build(keep).expect("the column was built once before, when it was compiled")
    }

    /// What is wrong with a value, for a person.
    pub fn message(&self, fault: Fault, value: &[u8]) -> Cow<'static, str> {
        let shown = shown(value);
        let constraint = |pick: fn(&Constraint) -> Option<&String>| {
            self.column.constraints.iter().find_map(pick).cloned().unwrap_or_default()
        };
        let length = |pick: fn(&Constraint) -> Option<u32>| {
            self.column.constraints.iter().find_map(pick).unwrap_or_default()
        };
        let article = match self.column.data_type {
            ColumnType::Int32 => "an",
            _ => "a",
        };
        Cow::Owned(match fault {
            Fault::Missing => return Cow::Borrowed("required value is missing"),
            Fault::Type => format!("{shown} is not {article} {}", self.column.data_type),
            Fault::Range => format!("{shown} does not fit {article} {}", self.column.data_type),
            Fault::Min => {
                let min =
                    constraint(|c| if let Constraint::Min(min) = c { Some(min) } else { None });
                format!("{shown} is less than {min}")
            }
            Fault::Max => {
                let max =
                    constraint(|c| if let Constraint::Max(max) = c { Some(max) } else { None });
                format!("{shown} is more than {max}")
            }
            Fault::Accepted => format!("{shown} is not one of the accepted values"),
            Fault::Regex(index) => {
                let pattern = self
                    .column
                    .constraints
                    .iter()
                    .filter_map(|c| if let Constraint::Regex(r) = c { Some(r) } else { None })
                    .nth(usize::from(index));
                format!("{shown} does not match {}", pattern.map_or("", String::as_str))
            }
            Fault::MinLength => {
                let least =
                    length(|c| if let Constraint::MinLength(n) = c { Some(*n) } else { None });
                format!("{shown} has fewer than {least} characters")
            }
            Fault::MaxLength => {
                let most =
                    length(|c| if let Constraint::MaxLength(n) = c { Some(*n) } else { None });
                format!("{shown} has more than {most} characters")
            }
        })
    }

    /// The narrowest type that holds what this column's type holds, and `value` as well, which is
    /// UTF-8; `None` where the column's own type is the widest.
    pub fn widened(&self, value: &[u8]) -> Option<ColumnType> {
        self.column.data_type.wider().into_iter().find(|data_type| {
            let column = self.column.retyped(data_type.clone());
            Self::compile(&column, &self.formats).is_ok_and(|rules| {
                let read = rules.column(false).append(value, 0, value.len(), true);
                !matches!(read, Err(Fault::Type | Fault::Range))
            })
        })
    }

    fn separators(&self) -> std::result::Result<Separators, String> {
        let ascii = |what: &str, character: char| {
            u8::try_from(character)
                .ok()
                .filter(|byte| {
                    byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"+-".contains(byte)
                })
                .ok_or_else(|| format!("'{character}' cannot be the {what} separator"))
        };
        let decimal = ascii("decimal", self.formats.decimal_separator)?;
        let thousands =
            self.formats.thousands_separator.map(|c| ascii("thousands", c)).transpose()?;
        if thousands == Some(decimal) {
            return Err(format!(
                "'{}' cannot be both the decimal and the thousands separator",
                self.formats.decimal_separator
            ));
        }
        Ok(Separators { decimal, thousands })
    }

    /// The pattern of the column, or else of the source.
    fn pattern(&self, general: &Option<String>) -> std::result::Result<Option<Pattern>, String> {
        self.column.format.as_ref().or(general.as_ref()).map(|text| Pattern::new(text)).transpose()
    }

    fn nulls(&self) -> (bool, Vec<Vec<u8>>) {
        let spellings = self.formats.null_values.iter();
        let nulls = spellings.filter(|n| !n.is_empty()).map(|n| n.as_bytes().to_vec()).collect();
        (self.formats.null_values.iter().any(String::is_empty), nulls)
    }

    fn text_demands(&self) -> std::result::Result<TextDemands, String> {
        let (empty_is_null, nulls) = self.nulls();
        let mut demands = TextDemands {
            nullable: self.column.nullable,
            nulls,
            empty_is_null,
            trim: self.formats.trim,
            accepted: None,
            patterns: Vec::new(),
            min_chars: None,
            max_chars: None,
        };
        for constraint in &self.column.constraints {
            match constraint {
                Constraint::AcceptedValues(values) => {
                    demands.accepted =
                        Some(values.iter().map(|v| v.clone().into_bytes()).collect());
                }
                Constraint::Regex(pattern) => {
                    let compiled = regex::bytes::Regex::new(pattern)
                        .map_err(|_| format!("\"{pattern}\" is not a regular expression"))?;
                    demands.patterns.push(compiled);
                }
                Constraint::MinLength(length) => demands.min_chars = Some(*length),
                Constraint::MaxLength(length) => demands.max_chars = Some(*length),
                Constraint::Min(_) | Constraint::Max(_) => {
                    return Err("text has no min or max; use min_length or max_length".to_owned());
                }
            }
        }
        Ok(demands)
    }

    fn demands<P: Parse>(&self, parser: &P) -> std::result::Result<Demands<P::Native>, String> {
        let (empty_is_null, nulls) = self.nulls();
        let mut demands = Demands {
            nullable: self.column.nullable,
            nulls,
            empty_is_null,
            min: None,
            max: None,
            accepted: None,
        };
        let value = |text: &String| {
            parser.slow(text.trim().as_bytes()).map_err(|_| {
                format!("the constraint's \"{text}\" is not of type {}", self.column.data_type)
            })
        };
        for constraint in &self.column.constraints {
            match constraint {
                Constraint::Min(text) => demands.min = Some(value(text)?),
                Constraint::Max(text) => demands.max = Some(value(text)?),
                Constraint::AcceptedValues(texts) => {
                    demands.accepted = Some(texts.iter().map(value).collect::<Result<_, _>>()?);
                }
                Constraint::Regex(_) | Constraint::MinLength(_) | Constraint::MaxLength(_) => {
                    return Err(format!(
                        "regular expressions and lengths are for text, not for {}",
                        self.column.data_type
                    ));
                }
            }
        }
        Ok(demands)
    }

    fn build(&self, keep: bool) -> std::result::Result<Box<dyn Column>, String> {
        let separators = self.separators()?;
        let column = &self.column;
        match &column.data_type {
            ColumnType::Int8 => self.primitive(
                Integer::<Int8Type>::new(separators, i8::MIN.into(), i8::MAX.into()),
                keep,
            ),
            ColumnType::Int16 => self.primitive(
                Integer::<Int16Type>::new(separators, i16::MIN.into(), i16::MAX.into()),
                keep,
            ),
            ColumnType::Int32 => self.primitive(
                Integer::<Int32Type>::new(separators, i32::MIN.into(), i32::MAX.into()),
                keep,
            ),
            ColumnType::Int64 => {
                self.primitive(Integer::<Int64Type>::new(separators, i64::MIN, i64::MAX), keep)
            }
            ColumnType::Float32 => {
                self.primitive(Float::<arrow::datatypes::Float32Type>::new(separators), keep)
            }
            ColumnType::Float64 => {
                self.primitive(Float::<arrow::datatypes::Float64Type>::new(separators), keep)
            }
            ColumnType::Decimal { precision, scale } => {
                if !(1..=38).contains(precision) || scale > precision {
                    return Err(format!("{} is not a type", column.data_type));
                }
                self.primitive(Decimal::new(separators, *precision, *scale), keep)
            }
            ColumnType::Boolean => {
                let bytes =
                    |texts: &[String]| texts.iter().map(|t| t.clone().into_bytes()).collect();
                let truths = bytes(&self.formats.true_values);
                let lies = bytes(&self.formats.false_values);
                self.primitive(Boolean { truths, lies }, keep)
            }
            ColumnType::Date => {
                self.primitive(Date { pattern: self.pattern(&self.formats.date_format)? }, keep)
            }
            ColumnType::Time => {
                self.primitive(Time { pattern: self.pattern(&self.formats.time_format)? }, keep)
            }
            ColumnType::Timestamp | ColumnType::TimestampTz => {
                let pattern = self.pattern(&self.formats.timestamp_format)?;
                let zoned = column.data_type == ColumnType::TimestampTz;
                self.primitive(Timestamp { pattern, zoned }, keep)
            }
            ColumnType::Text => {
                let demands = self.text_demands()?;
                Ok(if keep {
                    Box::new(Text::<true>::new(demands))
                } else {
                    Box::new(Text::<false>::new(demands))
                })
            }
            ColumnType::Binary => {
                if !column.constraints.is_empty() {
                    return Err("a binary column has no constraints beside not null".to_owned());
                }
                let spelling = match column.format.as_deref() {
                    None | Some("hex") => Spelling::Hex,
                    Some("base64") => Spelling::Base64,
                    Some(other) => {
                        return Err(format!(
                            "\"{other}\" is not a format of binary: hex or base64"
                        ));
                    }
                };
                let demands = self.text_demands()?;
                Ok(if keep {
                    Box::new(Binary::<true>::new(demands, spelling))
                } else {
                    Box::new(Binary::<false>::new(demands, spelling))
                })
            }
        }
    }

    fn primitive<P: Parse>(
        &self,
        parser: P,
        keep: bool,
    ) -> std::result::Result<Box<dyn Column>, String> {
        let demands = self.demands(&parser)?;
        Ok(if keep {
            Box::new(Primitive::<P, true>::new(parser, demands))
        } else {
            Box::new(Primitive::<P, false>::new(parser, demands))
        })
    }
}

/// A value as messages show it: quoted, its beginning only where it is long.
fn shown(value: &[u8]) -> String {
    // Four bytes a character at most, so the rest need not be looked at.
    let text = String::from_utf8_lossy(&value[..value.len().min(4 * SHOWN + 4)]);
    if text.chars().count() <= SHOWN {
        return format!("\"{text}\"");
    }
    let beginning: String = text.chars().take(SHOWN).collect();
    format!("\"{beginning}…\"")
}
