//! The records of a body: one, lines, or the rows of an Arrow stream, as its content type says.
//!
//! A record is not looked into here: whether it is good is the contract's to say.

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use freshet_core::ingest::Record;

use crate::answer::Problem;

/// How a body holds its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It is one.
    One,
    /// Each line is one; empty ones are none.
    Lines,
    /// Each row of an Arrow IPC stream is one.
    Arrow,
}

/// Records and where they stood in the body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Framed {
    pub records: Vec<Record>,
    /// The line of each, from 1; where they are none, records are numbered.
    pub lines: Option<Vec<u32>>,
}

impl Framed {
    /// The line of the record `number`, counted from 0.
    pub fn line(&self, number: u64) -> u64 {
        let lines = self.lines.as_ref();
        let line = lines.and_then(|lines| lines.get(usize::try_from(number).ok()?));
        line.map_or(number + 1, |line| u64::from(*line))
    }
}

impl Framing {
    /// As the headers say, for a source whose records have this format.
    pub fn of(headers: &HeaderMap, format: &str) -> Result<Self, Problem> {
        let wrong = |message: String| {
            Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).hint(
                "send `application/json` (one record), `application/x-ndjson` (a record a line), \
                 `application/vnd.apache.arrow.stream`, or, for records of any format, `text/plain` \
                 (a record a line) or `application/octet-stream` (one record)",
            )
        };
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let given = match (types.next(), types.next()) {
            (Some(given), None) => given.to_str().unwrap_or_default(),
            (None, _) => return Err(wrong("the request has no content type".into())),
            (Some(_), Some(_)) => return Err(wrong("the request has two content types".into())),
        };
        let mut parts = given.split(';').map(|part| part.trim().to_ascii_lowercase());
        let name = parts.next().unwrap_or_default();
        let charset = parts.find_map(|part| part.strip_prefix("charset=").map(str::to_owned));
        if charset
            .is_some_and(|set| !["utf-8", "utf8", "us-ascii"].contains(&set.trim_matches('"')))
        {
            return Err(wrong(format!("content type \"{given}\" is not of UTF-8")));
        }
        let (framing, of) = match name.as_str() {
            "application/json" => (Self::One, Some("ndjson")),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines" => (Self::Lines, Some("ndjson")),
            "application/vnd.apache.arrow.stream" => (Self::Arrow, Some("ndjson")),
            "text/csv" => (Self::Lines, Some("csv")),
            "text/plain" => (Self::Lines, None),
            "application/octet-stream" => (Self::One, None),
            _ => return Err(wrong(format!("content type \"{given}\" is not taken"))),
        };
        if of.is_some_and(|of| of != format) {
            return Err(wrong(format!(
                "the source has records of format \"{format}\", not of content type \"{given}\""
            )));
        }
        Ok(framing)
    }

    /// The records of `body`, at most `most`, of which each is under `key` where there is one.
    pub fn split(self, body: &Bytes, key: Option<&Bytes>, most: usize) -> Result<Framed, Problem> {
        let record = |value: Bytes| Record { value, key: key.cloned() };
        match self {
            Self::One if body.is_empty() => Err(Problem::request(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body is empty: it is to be one record",
            )),
            Self::One => Ok(Framed { records: vec![record(body.clone())], lines: None }),
            Self::Lines => lines(body, most, record),
            Self::Arrow => {
                let rows = crate::arrow_rows::split(body, most)?;
                Ok(Framed { records: rows.into_iter().map(record).collect(), lines: None })
            }
        }
    }
}

fn lines(body: &Bytes, most: usize, record: impl Fn(Bytes) -> Record) -> Result<Framed, Problem> {
    let (mut records, mut lines) = (Vec::new(), Vec::new());
    let mut numbered = false;
    for (number, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if records.len() == most {
            return Err(too_many(most));
        }
        numbered |= number != records.len();
        lines.push(u32::try_from(number + 1).unwrap_or(u32::MAX));
        records.push(record(body.slice_ref(line)));
    }
    Ok(Framed { records, lines: numbered.then_some(lines) })
}

/// The answer to more records than a request may have.
pub(crate) fn too_many(most: usize) -> Problem {
    Problem::too_large(format!("the body has more than the {most} records of `max_records`"))
        .hint("send less at a time, or raise `max_records` under `http:` in freshet.yml")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn framing(given: &str, format: &str) -> Option<Framing> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(given).expect("a value"));
        Framing::of(&headers, format).ok()
    }

    #[test]
    fn content_types_say_how_records_lie() {
        assert_eq!(framing("application/json", "ndjson"), Some(Framing::One));
        assert_eq!(framing("Application/JSON; charset=UTF-8", "ndjson"), Some(Framing::One));
        assert_eq!(framing("application/x-ndjson", "ndjson"), Some(Framing::Lines));
        assert_eq!(framing("text/csv; header=absent", "csv"), Some(Framing::Lines));
        assert_eq!(framing("text/plain", "raw"), Some(Framing::Lines));
        assert_eq!(framing("application/octet-stream", "csv"), Some(Framing::One));
        for (given, format) in [
            ("application/json", "csv"),
            ("text/csv", "ndjson"),
            ("application/x-www-form-urlencoded", "ndjson"),
            ("application/json; charset=latin1", "ndjson"),
            ("", "ndjson"),
            ("application/vnd.apache.arrow.stream", "raw"),
        ] {
            assert_eq!(framing(given, format), None, "{given} {format}");
        }
    }

    fn split(body: &'static str, most: usize) -> Option<(Vec<&'static str>, Vec<u64>)> {
        let framed = Framing::Lines.split(&Bytes::from_static(body.as_bytes()), None, most).ok()?;
        let lines = (0..framed.records.len() as u64).map(|number| framed.line(number)).collect();
        let texts = framed.records.iter().map(|record| {
            let at = record.value.as_ptr() as usize - body.as_ptr() as usize;
            &body[at..at + record.value.len()]
        });
        Some((texts.collect(), lines))
    }

    #[test]
    fn each_line_that_holds_something_is_a_record() {
        assert_eq!(split("", 9), Some((vec![], vec![])));
        assert_eq!(split("\n \r\n\t\n", 9), Some((vec![], vec![])));
        assert_eq!(split("a", 9), Some((vec!["a"], vec![1])));
        assert_eq!(split("a\r\nb\n", 9), Some((vec!["a", "b"], vec![1, 2])));
        assert_eq!(split("\n a \n\nb", 9), Some((vec![" a ", "b"], vec![2, 4])));
    }

    #[test]
    fn too_many_records_are_refused() {
        assert!(split("a\nb\n\n", 2).is_some());
        assert_eq!(split("a\nb\nc", 2), None);
    }

    #[test]
    fn one_record_is_the_body_as_it_is() {
        let body = Bytes::from_static(b"{\n}\n");
        let framed = Framing::One.split(&body, None, 1).expect("one");
        assert_eq!(framed.records, [Record::new(body)]);
        assert!(Framing::One.split(&Bytes::new(), None, 1).is_err());
    }
}
