//! Integers, decimals, floating point numbers and booleans.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Decimal128Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Float64Type};

use super::Fault;
use super::primitive::Parse;
use super::swar;

/// The characters between which digits stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Separators {
    /// Before the fraction.
    pub decimal: u8,
    /// Between groups of three digits before it.
    pub thousands: Option<u8>,
}

impl Separators {
    fn are_plain(self) -> bool {
        self == Self { decimal: b'.', thousands: None }
    }

    /// `text` with a point and without groups; `None` where the groups are not of three digits.
    fn plain(self, text: &[u8]) -> Option<Vec<u8>> {
        let (whole, rest) = match memchr::memchr(self.decimal, text) {
            Some(at) => text.split_at(at),
            None => (text, &b""[..]),
        };
        let mut out = Vec::with_capacity(text.len());
        match self.thousands {
            Some(separator) if whole.contains(&separator) => {
                let mut groups = whole.split(|byte| *byte == separator);
                let first = groups.next().unwrap_or_default();
                let digits = first.strip_prefix(b"-").or(first.strip_prefix(b"+")).unwrap_or(first);
                if digits.is_empty() || digits.len() > 3 {
                    return None;
                }
                out.extend_from_slice(first);
                for group in groups {
                    if group.len() != 3 || !group.iter().all(u8::is_ascii_digit) {
                        return None;
                    }
                    out.extend_from_slice(group);
                }
            }
            _ => out.extend_from_slice(whole),
        }
        let Some((_, fraction)) = rest.split_first() else {
            // The other convention's point is no part of a number here.
            return (self.decimal == b'.' || !out.contains(&b'.')).then_some(out);
        };
        if out.contains(&b'.') || fraction.contains(&b'.') {
            return None;
        }
        out.push(b'.');
        out.extend_from_slice(fraction);
        Some(out)
    }
}

/// The sign of a number (`true` for minus) and what follows it.
fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

/// Integers of the Arrow type `T`.
#[derive(Debug)]
pub(super) struct Integer<T> {
    separators: Separators,
    low: i64,
    high: i64,
    marker: PhantomData<fn() -> T>,
}

impl<T> Integer<T> {
    pub fn new(separators: Separators, low: i64, high: i64) -> Self {
        Self { separators, low, high, marker: PhantomData }
    }
}

impl<T> Parse for Integer<T>
where
    T: ArrowPrimitiveType + std::fmt::Debug,
    T::Native: TryFrom<i64> + PartialOrd + Default,
{
    type Native = T::Native;
    type Memory = ();

    fn limits(&self) -> (T::Native, T::Native) {
        let native = |value| T::Native::try_from(value).ok().expect("limits are of the type");
        (native(self.low), native(self.high))
    }

    #[inline(always)]
    fn fast(&self, data: &[u8], start: usize, end: usize, _: &mut ()) -> Option<T::Native> {
        let minus = *data.get(start)? == b'-';
        // At most 18 digits: it fits.
        let number = swar::number(data, start + usize::from(minus), end)? as i64;
        T::Native::try_from(if minus { -number } else { number }).ok()
    }

    fn slow(&self, text: &[u8]) -> Result<T::Native, Fault> {
        let plain;
        let text = if self.separators.thousands.is_some() {
            plain = self.separators.plain(text).ok_or(Fault::Type)?;
            &plain
        } else {
            text
        };
        let (minus, digits) = sign(text);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Fault::Type);
        }
        let mut value = 0i64;
        for digit in digits {
            let digit = i64::from(digit - b'0');
            value =
                value
                    .checked_mul(10)
                    .and_then(|value| {
                        if minus { value.checked_sub(digit) } else { value.checked_add(digit) }
                    })
                    .ok_or(Fault::Range)?;
        }
        T::Native::try_from(value).map_err(|_| Fault::Range)
    }

    fn array(&self, values: Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
    }
}

/// Exact numbers with a fixed number of digits after the point.
#[derive(Debug)]
pub(super) struct Decimal {
    separators: Separators,
    precision: u8,
    scale: u8,
    limit: i128,
}

impl Decimal {
    pub fn new(separators: Separators, precision: u8, scale: u8) -> Self {
        let limit = 10i128.pow(u32::from(precision)) - 1;
        Self { separators, precision, scale, limit }
    }

    /// The digits of `data[start..end]`, which has its point where the scale says.
    #[inline(always)]
    fn unscaled(&self, data: &[u8], start: usize, end: usize) -> Option<u64> {
        let scale = usize::from(self.scale);
        if scale == 0 {
            return swar::number(data, start, end);
        }
        let length = end.wrapping_sub(start);
        let point = end.wrapping_sub(scale + 1);
        if *data.get(point)? != self.separators.decimal {
            return None;
        }
        // In one word: the digits before the point move up beside those after it.
        if length <= 8 && length >= scale + 2 {
            let word = swar::load8_before(data, end)?;
            let fraction = !0u64 << (64 - 8 * scale);
            let digits = (word & fraction) | ((word & ((1u64 << (56 - 8 * scale)) - 1)) << 8);
            return swar::last_digits(digits, length as u32 - 1);
        }
        if !(scale + 2..=19).contains(&length) || scale > 8 {
            return None;
        }
        let whole = swar::number(data, start, point)?;
        let fraction = swar::last_digits(swar::load8_before(data, end)?, self.scale.into())?;
        Some(whole * POWERS[scale] + fraction)
    }
}

/// Powers of ten.
const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

impl Parse for Decimal {
    type Native = i128;
    type Memory = ();

    fn limits(&self) -> (i128, i128) {
        (-self.limit, self.limit)
    }

    #[inline(always)]
    fn fast(&self, data: &[u8], start: usize, end: usize, _: &mut ()) -> Option<i128> {
        let minus = *data.get(start)? == b'-';
        let value = i128::from(self.unscaled(data, start + usize::from(minus), end)?);
        Some(if minus { -value } else { value })
    }

    fn slow(&self, text: &[u8]) -> Result<i128, Fault> {
        let plain;
        let text = if self.separators.are_plain() {
            text
        } else {
            plain = self.separators.plain(text).ok_or(Fault::Type)?;
            &plain
        };
        let (minus, digits) = sign(text);
        let (whole, fraction) = match memchr::memchr(b'.', digits) {
            Some(at) => (&digits[..at], &digits[at + 1..]),
            None => (digits, &b""[..]),
        };
        let is_number = whole.iter().chain(fraction).all(u8::is_ascii_digit);
        if !is_number || whole.is_empty() && fraction.is_empty() {
            return Err(Fault::Type);
        }
        let scale = usize::from(self.scale);
        let (kept, beyond) = fraction.split_at(scale.min(fraction.len()));
        if beyond.iter().any(|digit| *digit != b'0') {
            return Err(Fault::Type);
        }
        let zeros = std::iter::repeat_n(&b'0', scale - kept.len());
        let mut value = 0i128;
        for digit in whole.iter().chain(kept).chain(zeros) {
            value = value
                .checked_mul(10)
                .map(|value| value + i128::from(digit - b'0'))
                .filter(|value| *value <= self.limit)
                .ok_or(Fault::Range)?;
        }
        Ok(if minus { -value } else { value })
    }

    fn array(&self, values: Vec<i128>, nulls: Option<NullBuffer>) -> ArrayRef {
        let scale = i8::try_from(self.scale).expect("a scale is at most 38");
        let array = Decimal128Array::new(values.into(), nulls)
            .with_precision_and_scale(self.precision, scale)
            .expect("precision and scale were checked with the contract");
        Arc::new(array)
    }
}

/// Floating point numbers.
#[derive(Debug)]
pub(super) struct Float<T> {
    separators: Separators,
    marker: PhantomData<fn() -> T>,
}

impl<T> Float<T> {
    pub fn new(separators: Separators) -> Self {
        Self { separators, marker: PhantomData }
    }
}

macro_rules! float {
    ($type:ident, $native:ty) => {
        impl Parse for Float<$type> {
            type Native = $native;
            type Memory = ();

            fn limits(&self) -> ($native, $native) {
                (<$native>::NEG_INFINITY, <$native>::INFINITY)
            }

            #[inline]
            fn fast(&self, data: &[u8], start: usize, end: usize, _: &mut ()) -> Option<$native> {
                let text = data.get(start..end)?;
                if !self.separators.are_plain() {
                    return None;
                }
                lexical_core::parse::<$native>(text).ok().filter(|value| value.is_finite())
            }

            fn slow(&self, text: &[u8]) -> Result<$native, Fault> {
                let plain;
                let text = if self.separators.are_plain() {
                    text
                } else {
                    plain = self.separators.plain(text).ok_or(Fault::Type)?;
                    &plain
                };
                let value = lexical_core::parse::<$native>(text).map_err(|_| Fault::Type)?;
                let in_digits = text.iter().any(u8::is_ascii_digit);
                if value.is_infinite() && in_digits { Err(Fault::Range) } else { Ok(value) }
            }

            fn array(&self, values: Vec<$native>, nulls: Option<NullBuffer>) -> ArrayRef {
                Arc::new(PrimitiveArray::<$type>::new(values.into(), nulls))
            }
        }
    };
}

float!(Float32Type, f32);
float!(Float64Type, f64);

/// Booleans.
#[derive(Debug)]
pub(super) struct Boolean {
    pub truths: Vec<Vec<u8>>,
    pub lies: Vec<Vec<u8>>,
}

impl Parse for Boolean {
    type Native = bool;
    type Memory = ();

    fn limits(&self) -> (bool, bool) {
        (false, true)
    }

    #[inline]
    fn fast(&self, data: &[u8], start: usize, end: usize, _: &mut ()) -> Option<bool> {
        self.slow(data.get(start..end)?).ok()
    }

    fn slow(&self, text: &[u8]) -> Result<bool, Fault> {
        let among = |spellings: &[Vec<u8>]| spellings.iter().any(|s| s.eq_ignore_ascii_case(text));
        match (among(&self.truths), among(&self.lies)) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(Fault::Type),
        }
    }

    fn array(&self, values: Vec<bool>, nulls: Option<NullBuffer>) -> ArrayRef {
        Arc::new(BooleanArray::new(values.into(), nulls))
    }
}
