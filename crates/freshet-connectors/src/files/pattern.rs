//! Path patterns: globs whose braces may also capture, `sales_{date:%Y%m%d}.csv`.

use std::collections::BTreeMap;

use chrono::{Datelike, Duration, Months, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use freshet_core::ColumnType;
use freshet_core::error::{Error, Result, code};
use freshet_core::source::Interval;
use regex::Regex;

/// A pattern over paths with `/` between names.
///
/// `*` and `?` stay within a name, `**` crosses names, `[a-z]` is a class, `{a,b}` are
/// alternatives, `{name}` captures text and `{name:%Y%m%d}` captures a date or time. Names that
/// begin with a dot are only matched where the pattern spells them out.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    regex: Regex,
    /// The literal beginning, up to and with its last `/`.
    base: String,
    wild: bool,
    captures: Vec<Capture>,
}

/// A captured field.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The column's name.
    pub name: String,
    format: Option<DateFormat>,
}

impl Capture {
    /// The column's type: text, or a date or timestamp where it has a format.
    pub fn column_type(&self) -> ColumnType {
        match &self.format {
            None => ColumnType::Text,
            Some(format) if format.finest >= Part::Hour => ColumnType::Timestamp,
            Some(_) => ColumnType::Date,
        }
    }
}

#[derive(Debug, Clone)]
struct DateFormat {
    text: String,
    finest: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

/// What a path that matches says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Captured values as text, dates in ISO 8601.
    pub captured: BTreeMap<String, String>,
    /// The span that the first captured date stands for.
    pub interval: Option<Interval>,
}

impl PathPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { text, regex: String::from("^"), captures: Vec::new() };
        let wild = parser.run()?;
        parser.regex.push('$');
        let regex = Regex::new(&parser.regex).map_err(|_| {
            wrong(text, "it could not be understood")
                .hint("patterns know *, **, ?, [a-z], {csv,txt}, {name} and {name:%Y%m%d}")
        })?;
        let literal = text.find(['*', '?', '[', '{']).unwrap_or(text.len());
        let base = text[..literal].rfind('/').map_or("", |slash| &text[..=slash]);
        Ok(Self {
            text: text.to_owned(),
            regex,
            base: base.to_owned(),
            wild,
            captures: parser.captures,
        })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The folder below which everything that matches lies: empty or ending with `/`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether more than one path can match.
    pub fn is_wild(&self) -> bool {
        self.wild
    }

    /// Whether matching paths may lie in folders below [`PathPattern::base`].
    pub fn is_deep(&self) -> bool {
        self.text[self.base.len()..].contains('/') || self.text.contains("**")
    }

    /// The captured fields in their order.
    pub fn captures(&self) -> &[Capture] {
        &self.captures
    }

    /// What `path` says, if it matches and every captured date is one.
    pub fn matches(&self, path: &str) -> Option<Matched> {
        let found = self.regex.captures(path)?;
        let rest = path.get(self.base.len()..)?;
        if !self.text[self.base.len()..].split('/').any(|name| name.starts_with('.'))
            && rest.split('/').any(|name| name.starts_with('.'))
        {
            return None;
        }
        let mut matched = Matched::default();
        for (index, capture) in self.captures.iter().enumerate() {
            let text = found.name(&format!("c{index}"))?.as_str();
            let value = match &capture.format {
                None => text.to_owned(),
                Some(format) => {
                    let Some(at) = format.parse(text) else {
                        tracing::warn!(file = path, "file name matches but holds no valid date");
                        return None;
                    };
                    if matched.interval.is_none() {
                        matched.interval = format.interval(at);
                    }
                    if format.finest >= Part::Hour {
                        at.format("%Y-%m-%dT%H:%M:%S").to_string()
                    } else {
                        at.format("%Y-%m-%d").to_string()
                    }
                }
            };
            matched.captured.insert(capture.name.clone(), value);
        }
        Some(matched)
    }
}

struct Parser<'a> {
    text: &'a str,
    regex: String,
    captures: Vec<Capture>,
}

impl Parser<'_> {
    /// Translates the whole pattern; whether more than one path can match.
    fn run(&mut self) -> Result<bool> {
        let text = self.text;
        let mut wild = false;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let mut taken = c.len_utf8();
            match c {
                '*' => {
                    wild = true;
                    if rest.starts_with("**/") {
                        taken = 3;
                        self.regex.push_str("(?:.*/)?");
                    } else if rest.starts_with("**") {
                        taken = 2;
                        self.regex.push_str(".*");
                    } else {
                        self.regex.push_str("[^/]*");
                    }
                }
                '?' => {
                    wild = true;
                    self.regex.push_str("[^/]");
                }
                '[' => {
                    wild = true;
                    let end =
                        rest[1..].find(']').ok_or_else(|| wrong(text, "a [ is not closed"))?;
                    let class = &rest[1..=end];
                    taken = end + 2;
                    self.class(class)?;
                }
                '{' => {
                    wild = true;
                    let end = rest.find('}').ok_or_else(|| wrong(text, "a { is not closed"))?;
                    let inner = &rest[1..end];
                    taken = end + 1;
                    self.braces(inner)?;
                }
                _ => self.regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
            rest = &rest[taken..];
        }
        Ok(wild)
    }

    fn class(&mut self, class: &str) -> Result<()> {
        let (negated, members) = match class.strip_prefix(['!', '^']) {
            Some(members) => (true, members),
            None => (false, class),
        };
        if members.is_empty() {
            return Err(wrong(self.text, "a [] is empty"));
        }
        self.regex.push_str(if negated { "[^/" } else { "[" });
        for c in members.chars() {
            if c == '-' || c.is_alphanumeric() {
                self.regex.push(c);
            } else {
                self.regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
            }
        }
        self.regex.push(']');
        Ok(())
    }

    fn braces(&mut self, inner: &str) -> Result<()> {
        let (name, format) = match inner.split_once(':') {
            Some((name, format)) => (name, Some(format)),
            None => (inner, None),
        };
        if format.is_none() && inner.contains(',') {
            let alternatives: Vec<String> = inner.split(',').map(regex::escape).collect();
            self.regex.push_str(&format!("(?:{})", alternatives.join("|")));
            return Ok(());
        }
        let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        if !is_name {
            return Err(wrong(self.text, &format!("\"{name}\" is not a column name")));
        }
        if name == "_file" || name == "_offset" {
            return Err(wrong(self.text, &format!("\"{name}\" is a column of every file already")));
        }
        if self.captures.iter().any(|capture| capture.name == name) {
            return Err(wrong(self.text, &format!("\"{name}\" is captured twice")));
        }
        let index = self.captures.len();
        let format = match format {
            None => {
                self.regex.push_str(&format!("(?P<c{index}>[^/]+?)"));
                None
            }
            Some(format) => {
                let (pattern, finest) = date_regex(format).map_err(|why| wrong(self.text, &why))?;
                self.regex.push_str(&format!("(?P<c{index}>{pattern})"));
                Some(DateFormat { text: format.to_owned(), finest })
            }
        };
        self.captures.push(Capture { name: name.to_owned(), format });
        Ok(())
    }
}

fn wrong(pattern: &str, why: &str) -> Error {
    Error::new(code::CONFIG, format!("path \"{pattern}\" is not a pattern: {why}"))
}

/// The regular expression of a `strftime` format and its finest part.
fn date_regex(format: &str) -> Result<(String, Part), String> {
    let mut regex = String::new();
    let mut parts = Vec::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
            continue;
        }
        let specifier = chars.next().ok_or("its date format ends with %")?;
        let (pattern, found): (&str, &[Part]) = match specifier {
            'Y' => (r"\d{4}", &[Part::Year]),
            'y' => (r"\d{2}", &[Part::Year]),
            'm' => (r"\d{2}", &[Part::Month]),
            'b' => (r"[A-Za-z]{3}", &[Part::Month]),
            'd' => (r"\d{2}", &[Part::Day]),
            'j' => (r"\d{3}", &[Part::Month, Part::Day]),
            'F' => (r"\d{4}-\d{2}-\d{2}", &[Part::Year, Part::Month, Part::Day]),
            'H' => (r"\d{2}", &[Part::Hour]),
            'M' => (r"\d{2}", &[Part::Minute]),
            'S' => (r"\d{2}", &[Part::Second]),
            's' => (
                r"\d{1,11}",
                &[Part::Year, Part::Month, Part::Day, Part::Hour, Part::Minute, Part::Second],
            ),
            '%' => ("%", &[]),
            other => {
                return Err(format!(
                    "%{other} is not known in file names; known are %Y %y %m %b %d %j %F %H %M %S %s"
                ));
            }
        };
        regex.push_str(pattern);
        parts.extend_from_slice(found);
    }
    let order = [Part::Year, Part::Month, Part::Day, Part::Hour, Part::Minute, Part::Second];
    let finest = *parts.iter().max().ok_or("its date format has no date")?;
    if let Some(missing) = order.iter().find(|part| **part <= finest && !parts.contains(part)) {
        return Err(format!(
            "its date format has no {}",
            format!("{missing:?}").to_ascii_lowercase()
        ));
    }
    Ok((regex, finest))
}

impl DateFormat {
    fn parse(&self, text: &str) -> Option<NaiveDateTime> {
        // What the format leaves out is appended, so that one parser reads all.
        let (text, format) = match self.finest {
            Part::Year => (format!("{text} 01 01"), format!("{} %m %d", self.text)),
            Part::Month => (format!("{text} 01"), format!("{} %d", self.text)),
            _ => (text.to_owned(), self.text.clone()),
        };
        match self.finest {
            Part::Year | Part::Month | Part::Day => {
                Some(NaiveDate::parse_from_str(&text, &format).ok()?.and_time(NaiveTime::MIN))
            }
            Part::Hour => {
                NaiveDateTime::parse_from_str(&format!("{text} 00 00"), &format!("{format} %M %S"))
                    .ok()
            }
            Part::Minute => {
                NaiveDateTime::parse_from_str(&format!("{text} 00"), &format!("{format} %S")).ok()
            }
            Part::Second => NaiveDateTime::parse_from_str(&text, &format).ok(),
        }
    }

    fn interval(&self, at: NaiveDateTime) -> Option<Interval> {
        let midnight = at.date().and_time(NaiveTime::MIN);
        let (start, end) = match self.finest {
            Part::Year => {
                let start = midnight.with_day(1)?.with_month(1)?;
                (start, start.checked_add_months(Months::new(12))?)
            }
            Part::Month => {
                let start = midnight.with_day(1)?;
                (start, start.checked_add_months(Months::new(1))?)
            }
            Part::Day => (midnight, midnight.checked_add_signed(Duration::days(1))?),
            Part::Hour | Part::Minute | Part::Second => {
                // Batches are never finer than an hour.
                let start = midnight.with_hour(at.hour())?;
                (start, start.checked_add_signed(Duration::hours(1))?)
            }
        };
        Some(Interval { start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expect: Option<&[(&str, &str)]>) {
        let pattern = PathPattern::parse(pattern).expect("the pattern is valid");
        let found = pattern.matches(path).map(|matched| matched.captured);
        let expect = expect.map(|pairs| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>()
        });
        assert_eq!(found, expect, "{} on {path}", pattern.as_str());
    }

    #[test]
    fn globs_match_as_in_a_shell() {
        check("data/*.csv", "data/a.csv", Some(&[]));
        check("data/*.csv", "data/sub/a.csv", None);
        check("data/*.csv", "data/.a.csv", None);
        check("data/**/*.csv", "data/a.csv", Some(&[]));
        check("data/**/*.csv", "data/x/y/a.csv", Some(&[]));
        check("data/**/*.csv", "data/.tmp/a.csv", None);
        check("a?.{csv,txt}", "ab.txt", Some(&[]));
        check("a?.{csv,txt}", "ab.json", None);
        check("a[0-9].csv", "a7.csv", Some(&[]));
        check("a[!0-9].csv", "a7.csv", None);
        check("a+b(1).csv", "a+b(1).csv", Some(&[]));
    }

    #[test]
    fn captures_become_text_and_dates() {
        check("s_{date:%Y%m%d}.csv", "s_20240229.csv", Some(&[("date", "2024-02-29")]));
        check("s_{date:%Y%m%d}.csv", "s_20230229.csv", None);
        check(
            "{store}/{at:%Y/%m/%d/%H}.csv",
            "s1/2024/05/06/07.csv",
            Some(&[("store", "s1"), ("at", "2024-05-06T07:00:00")]),
        );
        check("{month:%Y-%m}_*.csv", "2024-05_x.csv", Some(&[("month", "2024-05-01")]));
        check("{year:%Y}.csv", "2024.csv", Some(&[("year", "2024-01-01")]));
    }

    #[test]
    fn the_finest_part_gives_the_interval() {
        for (pattern, path, start, end) in [
            ("{d:%Y%m%d}", "20241231", "2024-12-31T00:00:00", "2025-01-01T00:00:00"),
            ("{d:%Y%m}", "202412", "2024-12-01T00:00:00", "2025-01-01T00:00:00"),
            ("{d:%Y}", "2024", "2024-01-01T00:00:00", "2025-01-01T00:00:00"),
            ("{d:%Y%m%dT%H}", "20241231T23", "2024-12-31T23:00:00", "2025-01-01T00:00:00"),
            ("{d:%Y%m%d_%H%M}", "20241231_2315", "2024-12-31T23:00:00", "2025-01-01T00:00:00"),
        ] {
            let matched = PathPattern::parse(pattern).expect("valid").matches(path);
            let interval = matched.and_then(|matched| matched.interval).expect("it has a date");
            let text = |at: NaiveDateTime| at.format("%Y-%m-%dT%H:%M:%S").to_string();
            assert_eq!((text(interval.start), text(interval.end)), (start.into(), end.into()));
        }
    }

    #[test]
    fn the_base_is_the_literal_part() {
        for (pattern, base, deep) in [
            ("data/in/*.csv", "data/in/", false),
            ("data/x_*/a.csv", "data/", true),
            ("*.csv", "", false),
            ("/abs/**/a.csv", "/abs/", true),
        ] {
            let pattern = PathPattern::parse(pattern).expect("valid");
            assert_eq!((pattern.base(), pattern.is_deep()), (base, deep));
        }
    }

    #[test]
    fn wrong_patterns_say_why() {
        for (pattern, why) in [
            ("a{b", "a { is not closed"),
            ("a[b", "a [ is not closed"),
            ("{a}{a}", "\"a\" is captured twice"),
            ("{d:%Q}", "%Q is not known"),
            ("{d:%m%d}", "has no year"),
            ("{d:%Y%d}", "has no month"),
            ("{1x}", "\"1x\" is not a column name"),
            ("{_file}", "column of every file"),
        ] {
            let error = PathPattern::parse(pattern).expect_err("it is wrong");
            assert!(error.message().contains(why), "{pattern}: {}", error.message());
        }
    }
}
