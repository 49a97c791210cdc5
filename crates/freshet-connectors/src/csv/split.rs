//! Where the fields of one record end, byte by byte: what the index does for the usual lines, said
//! for every line. Its word is final; the index only has to know when to ask.
//!
//! A quote has a meaning at the start of a field only. From there on the field lasts to the next
//! quote that is neither doubled nor escaped, behind which it must end.

use super::options::Dialect;

/// What is wrong with a record's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misshape {
    /// A quote is open at the end of the line or file.
    Open,
    /// A quote is open at the size limit of records.
    OpenAtLimit,
    /// A quote closes in mid-field.
    MidField,
}

/// What became of an attempt to split a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The record ends with the line feed at this place, or with the data.
    Ends(usize),
    /// It cannot be a record.
    Misshapen(Misshape),
    /// More data is needed to say.
    More,
}

/// The data around a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub data: &'a [u8],
    /// Whether nothing follows `data`.
    pub last: bool,
    /// A record of more bytes is none.
    pub limit: usize,
}

/// The end of a line's content when its line feed is at `feed`: a `\r` in front belongs to neither.
pub(super) fn content_end(data: &[u8], start: usize, feed: usize) -> usize {
    if feed > start && data[feed - 1] == b'\r' { feed - 1 } else { feed }
}

/// Splits the record that begins at `start`, whose first line ends with the line feed at `feed` (or
/// with the data), and appends the end of each field to `ends`. The last one is the end of its
/// line, `\r` included. On failure, `ends` is as it was.
pub(super) fn record(
    dialect: &Dialect,
    around: Surroundings<'_>,
    start: usize,
    feed: usize,
    ends: &mut Vec<u32>,
) -> Attempt {
    let before = ends.len();
    let attempt = fields(dialect, around, start, feed, ends);
    if !matches!(attempt, Attempt::Ends(_)) {
        ends.truncate(before);
    }
    attempt
}

fn fields(
    dialect: &Dialect,
    around: Surroundings<'_>,
    start: usize,
    mut feed: usize,
    ends: &mut Vec<u32>,
) -> Attempt {
    let data = around.data;
    let mut at = start;
    loop {
        let mut line_end = content_end(data, start, feed);
        let end = match dialect.quote {
            Some(quote) if at < line_end && data[at] == quote => {
                let bound = if dialect.quoted_newlines { data.len() } else { line_end };
                let Some(close) = closing(dialect, quote, &data[..bound], at + 1) else {
                    return still_open(dialect, around, start);
                };
                if dialect.quoted_newlines {
                    if close - start > around.limit {
                        return Attempt::Misshapen(Misshape::OpenAtLimit);
                    }
                    // What follows says whether this is the end of the field, so it must be there.
                    if close + 2 >= data.len() && !around.last {
                        return wait(around, start);
                    }
                    if close >= feed {
                        feed = match memchr::memchr(b'\n', &data[close..]) {
                            Some(distance) => close + distance,
                            None if around.last => data.len(),
                            None => return wait(around, start),
                        };
                        line_end = content_end(data, start, feed);
                        if line_end - start > around.limit {
                            return Attempt::Misshapen(Misshape::OpenAtLimit);
                        }
                    }
                }
                let after = close + 1;
                if after < line_end && data[after] != dialect.delimiter {
                    return Attempt::Misshapen(Misshape::MidField);
                }
                after
            }
            _ => match memchr::memchr(dialect.delimiter, &data[at..line_end]) {
                Some(distance) => at + distance,
                None => line_end,
            },
        };
        if end >= line_end {
            ends.push(feed as u32);
            return Attempt::Ends(feed);
        }
        ends.push(end as u32);
        at = end + 1;
    }
}

/// The quote that closes a field whose content begins at `at`.
fn closing(dialect: &Dialect, quote: u8, data: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = data.get(at..)?;
        let distance = match dialect.escape {
            None => memchr::memchr(quote, rest)?,
            Some(escape) => memchr::memchr2(quote, escape, rest)?,
        };
        at += distance;
        if Some(data[at]) == dialect.escape || data.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return Some(at);
        }
    }
}

/// The answer where no quote closes the field in the data that there is.
fn still_open(dialect: &Dialect, around: Surroundings<'_>, start: usize) -> Attempt {
    if !dialect.quoted_newlines {
        return Attempt::Misshapen(Misshape::Open);
    }
    wait(around, start)
}

/// The answer where a record goes on beyond the data, unless it is too large by now.
fn wait(around: Surroundings<'_>, start: usize) -> Attempt {
    // A line feed and a carriage return are no part of the record.
    if around.data.len() - start > around.limit.saturating_add(2) {
        Attempt::Misshapen(Misshape::OpenAtLimit)
    } else if around.last {
        Attempt::Misshapen(Misshape::Open)
    } else {
        Attempt::More
    }
}
