//! Values of declared types, straight from bytes: null spellings, formats and constraints included.
//!
//! A [`Rules`] is one column of a contract, compiled. [`Rules::column`] gives a [`Column`] that
//! takes values one by one or a block of fields at a time, checks them, and, where it is asked to
//! keep them, makes an Arrow array. Whether a value is kept never changes whether it is accepted.
//!
//! Nothing here knows a format: the fields of CSV and the strings of JSON come in the same way.

pub mod convert;
mod fields;
mod number;
mod pattern;
mod primitive;
mod rules;
pub(crate) mod swar;
mod temporal;
mod text;

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use freshet_core::Rule;

pub use fields::Fields;
pub use rules::{Rules, ValueFormats};

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is null and the column is required.
    Missing,
    /// It is not of the declared type.
    Type,
    /// It is a number that does not fit the declared type.
    Range,
    /// It is less than the constraint `min`.
    Min,
    /// It is more than the constraint `max`.
    Max,
    /// It is not one of the accepted values.
    Accepted,
    /// It does not match the regular expression with this index among the constraints.
    Regex(u16),
    /// It has too few characters.
    MinLength,
    /// It has too many characters.
    MaxLength,
}

impl Fault {
    /// The rule under which a record with this fault is a dead letter.
    pub fn rule(self) -> Rule {
        match self {
            Self::Missing => Rule::NotNull,
            Self::Type => Rule::Type,
            Self::Range => Rule::Range,
            _ => Rule::Constraint,
        }
    }
}

/// The values of one column, on their way into an array.
///
/// Each call adds one value for each field, whatever is wrong with it: a faulty one is null until
/// its row is removed. Columns that only check hold nothing, and their arrays are never asked for.
pub trait Column: Send + std::fmt::Debug {
    /// Values that are held.
    fn len(&self) -> usize;

    /// Whether none is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the value that `data[start..end]` spells, without quotes or escapes; `quoted` says
    /// whether it had any. Bytes around it may be looked at, never interpreted.
    ///
    /// `data[start..end]` must be UTF-8; a text column copies it.
    fn append(&mut self, data: &[u8], start: usize, end: usize, quoted: bool) -> Result<(), Fault>;

    /// Adds a null.
    fn append_null(&mut self) -> Result<(), Fault>;

    /// Adds the values of a block, and to `faults` the position in the block of each bad one.
    ///
    /// The fields must be UTF-8. A text column refers to the block's bytes, which are those of the
    /// buffer last given to [`Column::set_source`], instead of copying.
    fn append_block(&mut self, fields: &Fields<'_>, faults: &mut Vec<(u32, Fault)>);

    /// The buffer that holds the bytes of the blocks to come. No value may be held.
    fn set_source(&mut self, _buffer: &Buffer) {}

    /// Removes the values at `from + d` for each `d` of `dead`, which ascends.
    fn remove(&mut self, from: usize, dead: &[u32]);

    /// Gives what is held, and holds nothing.
    fn finish(&mut self) -> ArrayRef;
}

/// Closes the gaps that removing `from + d` for each `d` of `dead` (ascending) leaves.
pub(crate) fn remove_all<T: Copy>(values: &mut Vec<T>, from: usize, dead: &[u32]) {
    let Some(&first) = dead.first() else { return };
    let mut write = from + first as usize;
    for (i, &gap) in dead.iter().enumerate() {
        let read = from + gap as usize + 1;
        let until = dead.get(i + 1).map_or(values.len(), |next| from + *next as usize);
        values.copy_within(read..until, write);
        write += until - read;
    }
    values.truncate(write);
}

#[cfg(test)]
mod tests;
