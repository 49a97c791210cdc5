//! One column of a block of delimited records, as places in the bytes that hold them.

/// The fields of one column in a block of records, by the places where fields end.
///
/// Record `r` begins its run in `ends` at `rows[r]`: its field `c` lies between
/// `ends[rows[r] + c - 1] + 1` and `ends[rows[r] + c]`. The entry in front of a record's first one
/// is the end of what precedes it, wrapping below zero at the start of the data.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    data: &'a [u8],
    ends: &'a [u32],
    rows: &'a [u32],
    column: usize,
    last: bool,
    pub(super) quote: Option<u8>,
    pub(super) escape: Option<u8>,
    pub(super) escapes: bool,
}

impl<'a> Fields<'a> {
    /// Fields of the records `rows` over `data`, which have `width` fields each; the first column.
    ///
    /// `escapes` says whether any quoted field may hold an escaped quote.
    ///
    /// # Panics
    /// Where a record's run leaves `ends`.
    pub fn new(data: &'a [u8], ends: &'a [u32], rows: &'a [u32], width: usize) -> Self {
        let highest = rows.iter().copied().max().unwrap_or(1) as usize;
        let lowest = rows.iter().copied().min().unwrap_or(1) as usize;
        assert!(width > 0 && lowest > 0, "a record has a field and something in front of it");
        assert!(rows.is_empty() || highest + width <= ends.len(), "records end inside the index");
        let last = width == 1;
        Self { data, ends, rows, column: 0, last, quote: None, escape: None, escapes: false }
    }

    /// How fields are quoted, and whether any holds an escaped quote.
    #[must_use]
    pub fn quoting(mut self, quote: Option<u8>, escape: Option<u8>, escapes: bool) -> Self {
        self.quote = quote;
        self.escape = escape;
        self.escapes = escapes;
        self
    }

    /// The column `column` of `width`.
    #[must_use]
    pub fn with_column(mut self, column: usize, width: usize) -> Self {
        assert!(column < width, "a record has {width} fields");
        self.column = column;
        self.last = column + 1 == width;
        self
    }

    /// Records in the block.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The bytes that the places are in.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The places of the fields, quotes included, without the `\r` of a line's end.
    #[inline(always)]
    pub fn spans(&self) -> impl ExactSizeIterator<Item = (usize, usize)> + use<'a> {
        let Self { data, ends, rows, column, last, .. } = *self;
        rows.iter().map(move |&row| {
            let at = row as usize + column;
            let start = ends[at - 1].wrapping_add(1) as usize;
            let end = ends[at] as usize;
            if last && end > start && data[end - 1] == b'\r' {
                (start, end - 1)
            } else {
                (start, end)
            }
        })
    }

    /// The place of the field of one record.
    pub fn span(&self, record: usize) -> (usize, usize) {
        let mut one = *self;
        one.rows = &self.rows[record..=record];
        one.spans().next().expect("there is one record")
    }

    /// The field's content without its quotes, and whether it had any. Escapes are resolved into
    /// `scratch` where there are any.
    pub fn content<'s>(
        &self,
        start: usize,
        end: usize,
        scratch: &'s mut Vec<u8>,
    ) -> (&'s [u8], bool)
    where
        'a: 's,
    {
        let raw = &self.data[start..end];
        let Some(quote) = self.quote else { return (raw, false) };
        if raw.len() < 2 || raw[0] != quote {
            return (raw, false);
        }
        let inner = &raw[1..raw.len() - 1];
        if !self.escapes || !has_escape(inner, quote, self.escape) {
            return (inner, true);
        }
        scratch.clear();
        unescape(inner, quote, self.escape, scratch);
        (scratch, true)
    }
}

/// Whether the inside of a quoted field holds an escape.
pub(super) fn has_escape(inner: &[u8], quote: u8, escape: Option<u8>) -> bool {
    match escape {
        None => memchr::memchr(quote, inner).is_some(),
        Some(escape) => memchr::memchr2(quote, escape, inner).is_some(),
    }
}

/// Resolves `""` and, where there is an escape character, what follows it.
pub(super) fn unescape(inner: &[u8], quote: u8, escape: Option<u8>, out: &mut Vec<u8>) {
    let mut rest = inner;
    loop {
        let next = match escape {
            None => memchr::memchr(quote, rest),
            Some(escape) => memchr::memchr2(quote, escape, rest),
        };
        let Some(at) = next else { break };
        out.extend_from_slice(&rest[..at]);
        match rest.get(at + 1) {
            Some(&byte) => {
                out.push(byte);
                rest = &rest[at + 2..];
            }
            None => {
                rest = &rest[at..];
                break;
            }
        }
    }
    out.extend_from_slice(rest);
}
