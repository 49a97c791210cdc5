//! Columns of text and of bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, StringViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use base64::Engine as _;
use regex::bytes::Regex;

use super::fields::{has_escape, unescape};
use super::primitive::take_nulls;
use super::{Column, Fault, Fields, remove_all};

/// Text of at most so many bytes is held in its view.
const INLINE: usize = 12;

/// What is demanded of each text.
#[derive(Debug, Clone)]
pub(super) struct TextDemands {
    pub nullable: bool,
    /// Spellings of null, after the empty one; only without quotes.
    pub nulls: Vec<Vec<u8>>,
    pub empty_is_null: bool,
    pub trim: bool,
    pub accepted: Option<Vec<Vec<u8>>>,
    pub patterns: Vec<Regex>,
    pub min_chars: Option<u32>,
    pub max_chars: Option<u32>,
}

impl TextDemands {
    /// Whether every text keeps them.
    pub fn are_none(&self) -> bool {
        self.nullable && !self.constrained()
    }

    fn constrained(&self) -> bool {
        self.accepted.is_some()
            || !self.patterns.is_empty()
            || self.min_chars.is_some()
            || self.max_chars.is_some()
    }

    fn is_null(&self, text: &[u8]) -> bool {
        text.is_empty() && self.empty_is_null || self.nulls.iter().any(|null| null == text)
    }

    fn check(&self, text: &[u8]) -> Result<(), Fault> {
        if self.accepted.as_ref().is_some_and(|accepted| !accepted.iter().any(|a| a == text)) {
            return Err(Fault::Accepted);
        }
        if self.min_chars.is_some() || self.max_chars.is_some() {
            let chars = text.iter().filter(|byte| (**byte as i8) >= -64).count() as u64;
            if self.min_chars.is_some_and(|min| chars < u64::from(min)) {
                return Err(Fault::MinLength);
            }
            if self.max_chars.is_some_and(|max| chars > u64::from(max)) {
                return Err(Fault::MaxLength);
            }
        }
        match self.patterns.iter().position(|pattern| !pattern.is_match(text)) {
            Some(index) => Err(Fault::Regex(u16::try_from(index).unwrap_or(u16::MAX))),
            None => Ok(()),
        }
    }
}

/// A column of text. Views refer to the source where they can, else to a buffer of their own.
#[derive(Debug)]
pub(super) struct Text<const KEEP: bool> {
    demands: TextDemands,
    constrained: bool,
    views: Vec<u128>,
    valid: Vec<u8>,
    any_null: bool,
    source: Option<Buffer>,
    /// Whether a view refers to the source.
    refers: bool,
    /// Text that stands nowhere in the source as it is: unescaped, or appended one by one.
    own: Vec<u8>,
    scratch: Vec<u8>,
}

/// Index of the source among an array's buffers, and of the column's own buffer.
const SOURCE: u32 = 0;
const OWN: u32 = 1;

/// The view of a text that lies at `start` of a buffer.
#[inline(always)]
fn view(data: &[u8], start: usize, end: usize, buffer: u32) -> u128 {
    let length = end - start;
    let word = match data.get(start..start + 16) {
        Some(bytes) => u128::from_le_bytes(bytes.try_into().expect("the slice has 16 bytes")),
        None => {
            let mut bytes = [0u8; 16];
            let have = length.min(16);
            bytes[..have].copy_from_slice(&data[start..start + have]);
            u128::from_le_bytes(bytes)
        }
    };
    if length <= INLINE {
        let mask = (1u128 << (8 * length)) - 1;
        ((word & mask) << 32) | length as u128
    } else {
        (length as u128)
            | ((word & 0xFFFF_FFFF) << 32)
            | (u128::from(buffer) << 64)
            | ((start as u128) << 96)
    }
}

impl<const KEEP: bool> Text<KEEP> {
    pub fn new(demands: TextDemands) -> Self {
        Self {
            constrained: demands.constrained() || !demands.nulls.is_empty() || demands.trim,
            demands,
            views: Vec::new(),
            valid: Vec::new(),
            any_null: false,
            source: None,
            refers: false,
            own: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn push_null(&mut self) {
        if KEEP {
            self.views.push(0);
            self.valid.push(0);
            self.any_null = true;
        }
    }

    fn push_copy(&mut self, text: &[u8]) {
        if KEEP {
            self.views.push(copy(&mut self.own, text));
            self.valid.push(1);
        }
    }
}

/// The view of a copy of `text` at the end of `own`.
fn copy(own: &mut Vec<u8>, text: &[u8]) -> u128 {
    if text.len() <= INLINE {
        return view(text, 0, text.len(), OWN);
    }
    let start = own.len();
    own.extend_from_slice(text);
    view(own, start, own.len(), OWN)
}

impl<const KEEP: bool> Column for Text<KEEP> {
    fn len(&self) -> usize {
        self.views.len()
    }

    fn append(&mut self, data: &[u8], start: usize, end: usize, quoted: bool) -> Result<(), Fault> {
        let text = &data[start..end];
        let text = if self.demands.trim && !quoted { text.trim_ascii() } else { text };
        if !quoted && self.demands.is_null(text) {
            return self.append_null();
        }
        match self.demands.check(text) {
            Ok(()) => {
                self.push_copy(text);
                Ok(())
            }
            Err(fault) => {
                self.push_null();
                Err(fault)
            }
        }
    }

    fn append_null(&mut self) -> Result<(), Fault> {
        self.push_null();
        if self.demands.nullable { Ok(()) } else { Err(Fault::Missing) }
    }

    fn append_block(&mut self, fields: &Fields<'_>, faults: &mut Vec<(u32, Fault)>) {
        let Self { demands, constrained, views, valid, any_null, refers, own, scratch, .. } = self;
        let data = fields.data();
        let from = views.len();
        if KEEP {
            valid.resize(from + fields.len(), 1);
        }
        // A quote that no field begins with where there is none.
        let quote = fields.quote.map_or(u32::MAX, u32::from);
        let mut null = |row: usize, fault: Option<Fault>| {
            if let Some(fault) = fault {
                faults.push((row as u32, fault));
            }
            if KEEP {
                valid[from + row] = 0;
                *any_null = true;
            }
            0
        };
        let missing = (!demands.nullable).then_some(Fault::Missing);
        let read = |(row, (mut start, mut end)): (usize, (usize, usize))| -> u128 {
            let quoted = start < end && u32::from(data[start]) == quote && end - start >= 2;
            let mut escaped = false;
            if quoted {
                (start, end) = (start + 1, end - 1);
                escaped = fields.escapes
                    && fields
                        .quote
                        .is_some_and(|q| has_escape(&data[start..end], q, fields.escape));
            } else if *constrained {
                if demands.trim {
                    let text = data[start..end].trim_ascii_start();
                    start = end - text.len();
                    end = start + text.trim_ascii_end().len();
                }
                if demands.is_null(&data[start..end]) {
                    return null(row, missing);
                }
            } else if start == end && demands.empty_is_null {
                return null(row, missing);
            }
            if escaped {
                scratch.clear();
                let quote = fields.quote.expect("a field is quoted");
                unescape(&data[start..end], quote, fields.escape, scratch);
            }
            if *constrained {
                let text = if escaped { scratch.as_slice() } else { &data[start..end] };
                if let Err(fault) = demands.check(text) {
                    return null(row, Some(fault));
                }
            }
            match (KEEP, escaped) {
                (false, _) => 0,
                (true, true) => copy(own, scratch),
                (true, false) => {
                    *refers |= end - start > INLINE;
                    view(data, start, end, SOURCE)
                }
            }
        };
        if KEEP {
            views.extend(fields.spans().enumerate().map(read));
        } else {
            fields.spans().enumerate().map(read).for_each(drop);
        }
    }

    fn set_source(&mut self, buffer: &Buffer) {
        assert!(
            self.views.is_empty(),
            "views refer to the buffer that was there when they were made"
        );
        self.source = Some(buffer.clone());
    }

    fn remove(&mut self, from: usize, dead: &[u32]) {
        if KEEP {
            remove_all(&mut self.views, from, dead);
            remove_all(&mut self.valid, from, dead);
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let next = Vec::with_capacity(self.views.len());
        let views = ScalarBuffer::from(std::mem::replace(&mut self.views, next));
        let nulls = take_nulls(&mut self.valid, &mut self.any_null);
        // A view names its buffer by index, so the source keeps its place where only the own
        // buffer is referred to; a source that no view needs is let go.
        let source = self.source.clone().filter(|_| self.refers);
        let mut buffers = Vec::new();
        if source.is_some() || !self.own.is_empty() {
            buffers.push(source.unwrap_or_else(|| Buffer::from(Vec::<u8>::new())));
        }
        if !self.own.is_empty() {
            buffers.push(Buffer::from(std::mem::take(&mut self.own)));
        }
        self.refers = false;
        // SAFETY: every view was made by `view` over the source or the own buffer, whose indices
        // these are, from a range inside of it that is UTF-8: callers of this trait promise it of
        // fields, fields end at ASCII characters, and so do escapes.
        Arc::new(unsafe { StringViewArray::new_unchecked(views, buffers, nulls) })
    }
}

/// How bytes are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Hex,
    Base64,
}

impl Spelling {
    fn decode(self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Base64 => base64::engine::general_purpose::STANDARD.decode(text).ok(),
            Self::Hex => {
                let digits = text.strip_prefix(b"\\x").or(text.strip_prefix(b"0x")).unwrap_or(text);
                if !digits.len().is_multiple_of(2) {
                    return None;
                }
                let nibble = |byte: u8| char::from(byte).to_digit(16);
                digits
                    .chunks_exact(2)
                    .map(|pair| Some((nibble(pair[0])? * 16 + nibble(pair[1])?) as u8))
                    .collect()
            }
        }
    }
}

/// A column of bytes.
#[derive(Debug)]
pub(super) struct Binary<const KEEP: bool> {
    demands: TextDemands,
    spelling: Spelling,
    values: Vec<Option<Vec<u8>>>,
    scratch: Vec<u8>,
}

impl<const KEEP: bool> Binary<KEEP> {
    pub fn new(demands: TextDemands, spelling: Spelling) -> Self {
        Self { demands, spelling, values: Vec::new(), scratch: Vec::new() }
    }

    fn read(&self, text: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let text = text.trim_ascii();
        if self.demands.is_null(text) {
            return if self.demands.nullable { Ok(None) } else { Err(Fault::Missing) };
        }
        self.spelling.decode(text).map(Some).ok_or(Fault::Type)
    }
}

impl<const KEEP: bool> Column for Binary<KEEP> {
    fn len(&self) -> usize {
        self.values.len()
    }

    fn append(&mut self, data: &[u8], start: usize, end: usize, _: bool) -> Result<(), Fault> {
        let (value, result) = match self.read(&data[start..end]) {
            Ok(value) => (value, Ok(())),
            Err(fault) => (None, Err(fault)),
        };
        if KEEP {
            self.values.push(value);
        }
        result
    }

    fn append_null(&mut self) -> Result<(), Fault> {
        if KEEP {
            self.values.push(None);
        }
        if self.demands.nullable { Ok(()) } else { Err(Fault::Missing) }
    }

    fn append_block(&mut self, fields: &Fields<'_>, faults: &mut Vec<(u32, Fault)>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for (row, (start, end)) in fields.spans().enumerate() {
            let (text, _) = fields.content(start, end, &mut scratch);
            if let Err(fault) = self.append(text, 0, text.len(), false) {
                faults.push((row as u32, fault));
            }
        }
        self.scratch = scratch;
    }

    fn remove(&mut self, from: usize, dead: &[u32]) {
        if KEEP {
            let mut gaps = dead.iter().map(|gap| from + *gap as usize).peekable();
            let mut index = 0;
            self.values.retain(|_| {
                let gone = gaps.next_if_eq(&index).is_some();
                index += 1;
                !gone
            });
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let bytes = self.values.iter().flatten().map(Vec::len).sum();
        let mut builder = BinaryBuilder::with_capacity(self.values.len(), bytes);
        for value in self.values.drain(..) {
            builder.append_option(value);
        }
        Arc::new(builder.finish())
    }
}
