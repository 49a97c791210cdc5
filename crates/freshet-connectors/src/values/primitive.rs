//! Columns whose values are plain numbers in memory.

use std::cmp::Ordering;
use std::fmt::Debug;

use arrow::array::ArrayRef;
use arrow::buffer::{BooleanBuffer, NullBuffer};

use super::{Column, Fault, Fields, remove_all};

/// How one type is read. The fast way may always give up; the slow one has the last word.
pub(super) trait Parse: Debug + Send + 'static {
    /// What is held for each value.
    type Native: Copy + PartialOrd + Default + Debug + Send + 'static;
    /// What the fast way remembers of earlier values.
    type Memory: Default + Debug + Send;

    /// The least and the greatest value that the type holds.
    fn limits(&self) -> (Self::Native, Self::Native);

    /// The value in the usual spelling, or `None` where it takes a closer look. It may look at
    /// bytes around the value, never take them for a part of it.
    fn fast(
        &self,
        data: &[u8],
        start: usize,
        end: usize,
        memory: &mut Self::Memory,
    ) -> Option<Self::Native>;

    /// The value in any spelling; blanks around it are gone.
    fn slow(&self, text: &[u8]) -> Result<Self::Native, Fault>;

    /// The Arrow array.
    fn array(&self, values: Vec<Self::Native>, nulls: Option<NullBuffer>) -> ArrayRef;
}

/// What is demanded of each value of a column, in the order in which it is looked at.
#[derive(Debug, Clone)]
pub(super) struct Demands<N> {
    pub nullable: bool,
    /// Spellings of null, after the empty one.
    pub nulls: Vec<Vec<u8>>,
    pub empty_is_null: bool,
    pub min: Option<N>,
    pub max: Option<N>,
    pub accepted: Option<Vec<N>>,
}

/// A column of numbers: `KEEP` says whether values are held, which changes nothing else.
#[derive(Debug)]
pub(super) struct Primitive<P: Parse, const KEEP: bool> {
    parser: P,
    demands: Demands<P::Native>,
    /// What the fast way may accept without a closer look; empty where every value needs one.
    fast: Option<(P::Native, P::Native)>,
    memory: P::Memory,
    values: Vec<P::Native>,
    /// One byte a value: 1 where it is not null.
    valid: Vec<u8>,
    any_null: bool,
    scratch: Vec<u8>,
}

impl<P: Parse, const KEEP: bool> Primitive<P, KEEP> {
    pub fn new(parser: P, demands: Demands<P::Native>) -> Self {
        let (low, high) = parser.limits();
        let low = demands.min.map_or(low, |min| if min > low { min } else { low });
        let high = demands.max.map_or(high, |max| if max < high { max } else { high });
        // A spelling of null that could be taken for a value has to be looked for first.
        let ambiguous = demands.nulls.iter().any(|null| parser.slow(null).is_ok());
        let fast = (!ambiguous && demands.accepted.is_none()).then_some((low, high));
        Self {
            parser,
            demands,
            fast,
            memory: P::Memory::default(),
            values: Vec::new(),
            valid: Vec::new(),
            any_null: false,
            scratch: Vec::new(),
        }
    }
}

/// Reads one value with all care: `Ok(None)` is a null.
#[cold]
#[inline(never)]
fn look_closely<P: Parse>(
    parser: &P,
    demands: &Demands<P::Native>,
    text: &[u8],
) -> Result<Option<P::Native>, Fault> {
    let text = text.trim_ascii();
    if text.is_empty() && demands.empty_is_null || demands.nulls.iter().any(|null| null == text) {
        return if demands.nullable { Ok(None) } else { Err(Fault::Missing) };
    }
    let value = parser.slow(text)?;
    let (low, high) = parser.limits();
    if value < low || value > high {
        return Err(Fault::Range);
    }
    // A value without an order (NaN) keeps no bound.
    if demands.min.is_some_and(|min| value.partial_cmp(&min).is_none_or(Ordering::is_lt)) {
        return Err(Fault::Min);
    }
    if demands.max.is_some_and(|max| value.partial_cmp(&max).is_none_or(Ordering::is_gt)) {
        return Err(Fault::Max);
    }
    if demands.accepted.as_ref().is_some_and(|accepted| !accepted.contains(&value)) {
        return Err(Fault::Accepted);
    }
    Ok(Some(value))
}

impl<P: Parse, const KEEP: bool> Primitive<P, KEEP> {
    fn push(&mut self, value: Option<P::Native>) {
        if KEEP {
            self.any_null |= value.is_none();
            self.valid.push(u8::from(value.is_some()));
            self.values.push(value.unwrap_or_default());
        }
    }
}

impl<P: Parse, const KEEP: bool> Column for Primitive<P, KEEP> {
    fn len(&self) -> usize {
        self.values.len()
    }

    fn append(
        &mut self,
        data: &[u8],
        start: usize,
        end: usize,
        _quoted: bool,
    ) -> Result<(), Fault> {
        if let Some((low, high)) = self.fast
            && let Some(value) = self.parser.fast(data, start, end, &mut self.memory)
            && value >= low
            && value <= high
        {
            self.push(Some(value));
            return Ok(());
        }
        match look_closely(&self.parser, &self.demands, &data[start..end]) {
            Ok(value) => {
                self.push(value);
                Ok(())
            }
            Err(fault) => {
                self.push(None);
                Err(fault)
            }
        }
    }

    fn append_null(&mut self) -> Result<(), Fault> {
        self.push(None);
        if self.demands.nullable { Ok(()) } else { Err(Fault::Missing) }
    }

    fn append_block(&mut self, fields: &Fields<'_>, faults: &mut Vec<(u32, Fault)>) {
        let Self { parser, demands, fast, memory, values, valid, any_null, scratch } = self;
        let data = fields.data();
        let from = values.len();
        if KEEP {
            valid.resize(from + fields.len(), 1);
        }
        let (low, high) = fast.unwrap_or_else(|| parser.limits());
        let always_slow = fast.is_none();
        let mut slow = |row: usize, start: usize, end: usize| {
            let (content, _) = fields.content(start, end, scratch);
            match look_closely(parser, demands, content) {
                Ok(Some(value)) => return value,
                Ok(None) => {}
                Err(fault) => faults.push((row as u32, fault)),
            }
            if KEEP {
                valid[from + row] = 0;
                *any_null = true;
            }
            P::Native::default()
        };
        // A quote that no field begins with where there is none, or where quotes may hide escapes.
        let quote = fields.quote.filter(|_| !fields.escapes).map_or(u32::MAX, u32::from);
        let fits = |value: &P::Native| *value >= low && *value <= high && !always_slow;
        let read = |(row, (start, end)): (usize, (usize, usize))| {
            if let Some(value) = parser.fast(data, start, end, memory).filter(fits) {
                value
            } else if start + 2 <= end
                && u32::from(data[start]) == quote
                && let Some(value) = parser.fast(data, start + 1, end - 1, memory).filter(fits)
            {
                value
            } else {
                slow(row, start, end)
            }
        };
        if KEEP {
            values.extend(fields.spans().enumerate().map(read));
        } else {
            fields.spans().enumerate().map(read).for_each(drop);
        }
    }

    fn remove(&mut self, from: usize, dead: &[u32]) {
        if KEEP {
            remove_all(&mut self.values, from, dead);
            remove_all(&mut self.valid, from, dead);
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        let nulls = take_nulls(&mut self.valid, &mut self.any_null);
        self.parser.array(values, nulls)
    }
}

/// The bitmap of `valid`, which is empty afterwards.
pub(super) fn take_nulls(valid: &mut Vec<u8>, any_null: &mut bool) -> Option<NullBuffer> {
    let nulls = any_null
        .then(|| NullBuffer::new(BooleanBuffer::collect_bool(valid.len(), |i| valid[i] != 0)))
        .filter(|nulls| nulls.null_count() > 0);
    valid.clear();
    *any_null = false;
    nulls
}
