//! The records of an indexed window: which lines are records of the right width, and what is wrong
//! with the others.

use std::borrow::Cow;

use freshet_core::record::Rule;

use super::index::Index;
use super::options::Dialect;
use super::split::{self, Attempt, Misshape, Surroundings};

/// A record that has not the shape of one.
#[derive(Debug)]
pub(super) struct BadShape {
    pub start: usize,
    /// Behind its content.
    pub end: usize,
    pub rule: Rule,
    pub message: Cow<'static, str>,
}

/// The records of a window.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Where each well-shaped record's run begins in the index's `ends`.
    pub rows: Vec<u32>,
    /// The others, in order.
    pub bad: Vec<BadShape>,
}

/// How far the records of a window go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// The first byte that belongs to none of them.
    pub resume: usize,
    /// Physical lines in front of it.
    pub lines: usize,
    /// Whether the record that begins there needs more data than there is.
    pub more: bool,
}

impl Rows {
    /// Finds the records of the lines that `index` holds, of `width` fields each.
    ///
    /// Lines whose fields the index does not know for certain are split again; their ends are
    /// appended to the index.
    pub fn find(
        &mut self,
        index: &mut Index,
        dialect: &Dialect,
        around: Surroundings<'_>,
        width: usize,
    ) -> Progress {
        self.rows.clear();
        self.bad.clear();
        let lines = std::mem::take(&mut index.lines);
        let first = index.ends[0].wrapping_add(1) as usize;
        // Lines that are no records may look like good ones only then.
        let careful = width == 1 || dialect.comment.is_some();
        let width_of_run = u32::try_from(width).unwrap_or(u32::MAX);
        let limit = u32::try_from(around.limit).unwrap_or(u32::MAX);
        let mut odd = 0;
        let mut next_odd = index.odd.first().copied().unwrap_or(u32::MAX);
        let mut previous = 0;
        let mut progress = Progress { resume: first, lines: 0, more: false };
        while let Some(&line) = lines.get(progress.lines) {
            let start = index.ends[previous as usize].wrapping_add(1);
            let feed = index.ends[line as usize];
            if line - previous == width_of_run
                && feed < next_odd
                && feed - start <= limit
                && !careful
            {
                self.rows.push(previous + 1);
                previous = line;
                progress.lines += 1;
                continue;
            }
            let is_odd = next_odd <= feed;
            let count = if is_odd { 0 } else { (line - previous) as usize };
            let line_at =
                Line { start: start as usize, feed: feed as usize, run: previous + 1, count };
            match self.look(index, dialect, around, width, line_at) {
                Looked::Next => {
                    previous = line;
                    progress.lines += 1;
                }
                Looked::More => {
                    progress.more = true;
                    break;
                }
                Looked::EndsAt(end) => {
                    let within = lines[progress.lines..]
                        .iter()
                        .position(|line| index.ends[*line as usize] as usize == end);
                    match within {
                        Some(distance) => {
                            progress.lines += distance;
                            previous = lines[progress.lines];
                            progress.lines += 1;
                        }
                        // The record goes on beyond the window.
                        None => {
                            let data = around.data;
                            let stop = data.len().min(end + 1);
                            let feeds = memchr::memchr_iter(b'\n', &data[start as usize..stop]);
                            progress.lines += feeds.count() + usize::from(end == data.len());
                            progress.resume = stop;
                            index.lines = lines;
                            return progress;
                        }
                    }
                }
            }
            let passed = index.ends[previous as usize];
            while index.odd.get(odd).is_some_and(|place| *place <= passed) {
                odd += 1;
            }
            next_odd = index.odd.get(odd).copied().unwrap_or(u32::MAX);
        }
        if progress.lines > 0 {
            let feed = index.ends[previous as usize] as usize;
            progress.resume = around.data.len().min(feed + 1);
        }
        index.lines = lines;
        progress
    }

    /// Looks at a line that is not plainly a record.
    fn look(
        &mut self,
        index: &mut Index,
        dialect: &Dialect,
        around: Surroundings<'_>,
        width: usize,
        line: Line,
    ) -> Looked {
        let Line { start, feed, run, count } = line;
        let end = split::content_end(around.data, start, feed);
        let comment = start < end && Some(around.data[start]) == dialect.comment;
        if start == end || comment {
            return Looked::Next;
        }
        if end - start > around.limit {
            // The message is that of all formats; see `Reject::too_large`.
            self.bad.push(BadShape {
                start,
                end,
                rule: Rule::TooLarge,
                message: Cow::Borrowed(""),
            });
            return Looked::Next;
        }
        if count == width {
            self.rows.push(run);
            return Looked::Next;
        }
        if count > 0 {
            self.wrong_count(start, end, width, count);
            return Looked::Next;
        }
        let sentinel = index.ends.len();
        index.ends.push((start as u32).wrapping_sub(1));
        let attempt = split::record(dialect, around, start, feed, &mut index.ends);
        let count = index.ends.len() - sentinel - 1;
        match attempt {
            Attempt::Ends(end) if count == width => {
                // The index took the record's quotes for other ones than they are.
                index.escapes = true;
                self.rows.push(u32::try_from(sentinel + 1).expect("places are 32 bits wide"));
                return if end == feed { Looked::Next } else { Looked::EndsAt(end) };
            }
            Attempt::Ends(_) => self.wrong_count(start, end, width, count),
            Attempt::Misshapen(shape) => {
                let message = match shape {
                    Misshape::Open => Cow::Borrowed("a quote is not closed"),
                    Misshape::MidField => Cow::Borrowed("a quote closes in mid-field"),
                    Misshape::OpenAtLimit => {
                        Cow::Owned(format!("a quote is not closed within {} bytes", around.limit))
                    }
                };
                self.bad.push(BadShape { start, end, rule: Rule::Quote, message });
            }
            Attempt::More => {
                index.ends.truncate(sentinel);
                return Looked::More;
            }
        }
        index.ends.truncate(sentinel);
        Looked::Next
    }

    fn wrong_count(&mut self, start: usize, end: usize, width: usize, count: usize) {
        let message = format!("expected {width} columns, found {count}");
        self.bad.push(BadShape {
            start,
            end,
            rule: Rule::ColumnCount,
            message: Cow::Owned(message),
        });
    }
}

/// A line of the index.
#[derive(Debug, Clone, Copy)]
struct Line {
    start: usize,
    feed: usize,
    /// Where its run begins in the index.
    run: u32,
    /// Its fields; 0 where the index does not know.
    count: usize,
}

/// What looking at a line came to.
enum Looked {
    /// It is dealt with.
    Next,
    /// It begins a record that ends with a later line feed, here.
    EndsAt(usize),
    /// It may begin a record of which more data is needed.
    More,
}
