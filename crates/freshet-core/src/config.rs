//! Config primitives: sizes, durations, shares and secrets as types, each written by a person as a string.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! string_serde {
    ($type:ident, $description:literal, $example:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($description)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": ["string", "number"],
                    "description": $description,
                    "examples": [$example],
                })
            }
        }
    };
}

/// A number of bytes, written `64MiB`, `1.5GB` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

string_serde!(ByteSize, "a size such as \"64MiB\", \"1.5GB\" or a number of bytes", "64MiB");

const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl ByteSize {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The size where memory is addressed.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let digits =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim();
        let scale = if unit.is_empty() {
            1
        } else {
            SIZE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, scale)| *scale)
                .ok_or_else(|| {
                    format!("\"{text}\" is not a size: write it as \"64MiB\" or \"1.5GB\"")
                })?
        };
        let number: f64 = number
            .parse()
            .map_err(|_| format!("\"{text}\" is not a size: write it as \"64MiB\" or \"1.5GB\""))?;
        let bytes = number * scale as f64;
        if bytes > u64::MAX as f64 {
            return Err(format!("\"{text}\" is larger than any machine's memory"));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, scale) in SIZE_UNITS[..4].iter().rev() {
            if self.0 >= *scale && self.0.is_multiple_of(*scale) {
                return write!(f, "{}{name}", self.0 / scale);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A span of time, written `10s`, `1h 30m` or `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

string_serde!(HumanDuration, "a duration such as \"10s\", \"5m\" or \"1h 30m\"", "10m");

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text.trim()).map(Self).map_err(|_| {
            format!("\"{text}\" is not a duration: write it as \"10s\", \"5m\" or \"1h 30m\"")
        })
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// A share of a whole, written `5%` or `0.05`; between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(pub f64);

string_serde!(Share, "a share such as \"5%\" or 0.05", "5%");

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let (number, scale) = match trimmed.strip_suffix('%') {
            Some(number) => (number.trim(), 100.0),
            None => (trimmed, 1.0),
        };
        let share = number.parse::<f64>().ok().map(|number| number / scale);
        match share {
            Some(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(format!("\"{text}\" is not a share: write it as \"5%\" or 0.05, from 0 to 1")),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// A share of bad records, and the span of time whose records it is of: `5%`, or of a stream
/// `1%/1m`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaxBad {
    /// The share.
    pub share: Share,
    /// The span that is looked back at, where it is said.
    pub per: Option<HumanDuration>,
}

string_serde!(MaxBad, "a share such as \"5%\", of a stream with a span: \"1%/1m\"", "5%");

impl FromStr for MaxBad {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (share, per) = match text.split_once('/') {
            Some((share, per)) => (share, Some(per.parse::<HumanDuration>()?)),
            None => (text, None),
        };
        if per.is_some_and(|per| per.0.is_zero()) {
            return Err(format!("the span of \"{text}\" is empty: write it as \"1%/1m\""));
        }
        Ok(Self { share: share.parse()?, per })
    }
}

impl fmt::Display for MaxBad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.per {
            Some(per) => write!(f, "{}/{per}", self.share),
            None => self.share.fmt(f),
        }
    }
}

/// A secret: prints as `***` wherever it is printed or serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps what was read from the environment or a file.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for handing to a client library and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl schemars::JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "a secret, given by reference: \"${env:NAME}\" or \"${file:/path}\"",
        })
    }
}

/// The nearest of `names` to `wrong`, for "did you mean"; `None` where none is near.
///
/// Near is an edit distance of at most a third of the name's length.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (edit_distance(wrong, name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's distance in characters, ignoring ASCII case; two neighbours that changed places
/// count as one.
fn edit_distance(a: &str, b: &str) -> usize {
    let lower = |text: &str| text.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<char>>();
    let (a, b) = (lower(a), lower(b));
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for j in 0..b.len() {
            let substitute = row[j] + usize::from(a[i] != b[j]);
            let mut best = substitute.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_print() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("1.5GB", 1_500_000_000), ("4096", 4096), ("2 kib", 2048)]
        {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert!("64 parsecs".parse::<ByteSize>().is_err());
    }

    #[test]
    fn shares_are_between_none_and_all() {
        assert_eq!("5%".parse::<Share>(), Ok(Share(0.05)));
        assert_eq!("0.05".parse::<Share>(), Ok(Share(0.05)));
        assert!("120%".parse::<Share>().is_err());
        assert!("-1".parse::<Share>().is_err());
    }

    #[test]
    fn shares_of_streams_may_have_a_span() {
        let minute = Some(HumanDuration(Duration::from_secs(60)));
        for (text, share, per) in [("1%/1m", 0.01, minute), ("0.05", 0.05, None)] {
            assert_eq!(text.parse::<MaxBad>(), Ok(MaxBad { share: Share(share), per }), "{text}");
        }
        assert_eq!("1%/60s".parse::<MaxBad>().expect("it reads").to_string(), "1%/1m");
        for wrong in ["1%/", "1%/0s", "1%/1m/1m", "/1m"] {
            assert!(wrong.parse::<MaxBad>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_never_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(serde_json::to_string(&secret).expect("a string serialises"), "\"***\"");
    }

    #[test]
    fn nearest_name_is_offered_only_when_near() {
        assert_eq!(nearest("delimeter", ["delimiter", "header"]), Some("delimiter"));
        assert_eq!(nearest("tabel", ["view", "table"]), Some("table"));
        assert_eq!(nearest("zzz", ["delimiter", "header"]), None);
    }
}
