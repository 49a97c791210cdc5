//! A scanner of JSON that finds the fields of one object and builds nothing.

use std::borrow::Cow;

use crate::values::swar::{leading_digits, load8};

/// Objects and arrays within each other, at most.
pub const MAX_DEPTH: u32 = 128;

/// What kind of value a span of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without its quotes; `true` where it has escapes.
    Text(bool),
    /// As written.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`
    Null,
    /// An object or array, as written.
    Nested,
    /// Something else where an object was expected; never scanned as such.
    Misplaced,
}

/// A value, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Its kind.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
}

/// Why bytes are not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// They end before it does; `true` within a string.
    Ends(bool),
    /// A string is not closed on its line.
    Unclosed,
    /// They are not JSON, for this reason.
    Syntax(&'static str),
}

/// Whoever is told the fields of an object, and may know which one comes next.
pub trait Fields {
    /// How the next field most likely begins: its name in quotes and the colon, as `"id":`. Empty
    /// where nothing is expected.
    fn expected(&self) -> &[u8];

    /// The field that was expected has this value.
    fn take_expected(&mut self, value: Value);

    /// The field that was expected is the object at `at`: scans it where its own fields are asked for
    /// and gives the place behind it. `None` where it is a value like others.
    #[inline(always)]
    fn enter_expected(&mut self, _at: usize) -> Option<Result<usize, Wrong>> {
        None
    }

    /// A field: its key without quotes, whether the key has escapes, and its value.
    fn take(&mut self, key: &[u8], escaped: bool, value: Value);
}

/// Scans the object at `at`, which is a `{`, and tells each field. Returns the place behind the
/// object.
#[inline]
pub fn object(bytes: &[u8], at: usize, fields: &mut impl Fields) -> Result<usize, Wrong> {
    let mut at = blanks(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Ok(at + 1);
    }
    loop {
        let expected = fields.expected();
        let behind = at + expected.len();
        let end = if !expected.is_empty() && bytes.get(at..behind) == Some(expected) {
            let start = blanks(bytes, behind);
            let entered = match bytes.get(start) {
                Some(b'{') => fields.enter_expected(start),
                _ => None,
            };
            match entered {
                Some(end) => end?,
                None => {
                    let (value, end) = value(bytes, start, 1)?;
                    fields.take_expected(value);
                    end
                }
            }
        } else {
            let (key_start, key_end, escaped, behind) = key(bytes, at)?;
            let (value, end) = value(bytes, behind, 1)?;
            fields.take(&bytes[key_start..key_end], escaped, value);
            end
        };
        at = blanks(bytes, end);
        match bytes.get(at) {
            Some(b',') => at = blanks(bytes, at + 1),
            Some(b'}') => return Ok(at + 1),
            Some(_) => return Err(Wrong::Syntax("a comma or the object's end was expected")),
            None => return Err(Wrong::Ends(false)),
        }
    }
}

/// Scans the key at `at`: its place, whether it has escapes, and the place of its value.
#[inline]
fn key(bytes: &[u8], at: usize) -> Result<(usize, usize, bool, usize), Wrong> {
    match bytes.get(at) {
        Some(b'"') => {}
        Some(_) => return Err(Wrong::Syntax("a field's name was expected in quotes")),
        None => return Err(Wrong::Ends(false)),
    }
    let (end, escaped) = string(bytes, at + 1)?;
    let colon = blanks(bytes, end + 1);
    match bytes.get(colon) {
        Some(b':') => Ok((at + 1, end, escaped, blanks(bytes, colon + 1))),
        Some(_) => Err(Wrong::Syntax("a colon was expected behind a field's name")),
        None => Err(Wrong::Ends(false)),
    }
}

/// Tells a function all fields of the object at `at`.
pub fn each_field(
    bytes: &[u8],
    at: usize,
    field: impl FnMut(&[u8], bool, Value),
) -> Result<usize, Wrong> {
    struct Each<F>(F);
    impl<F: FnMut(&[u8], bool, Value)> Fields for Each<F> {
        fn expected(&self) -> &[u8] {
            &[]
        }

        fn take_expected(&mut self, _: Value) {}

        fn take(&mut self, key: &[u8], escaped: bool, value: Value) {
            (self.0)(key, escaped, value);
        }
    }
    object(bytes, at, &mut Each(field))
}

/// Scans the value at `at`; it and the place behind it.
#[inline]
fn value(bytes: &[u8], at: usize, depth: u32) -> Result<(Value, usize), Wrong> {
    let of = |kind, start, end, behind| Ok((Value { kind, start, end }, behind));
    match bytes.get(at) {
        Some(b'"') => {
            let (end, escaped) = string(bytes, at + 1)?;
            of(Kind::Text(escaped), at + 1, end, end + 1)
        }
        Some(b'-' | b'0'..=b'9') => {
            let end = number(bytes, at)?;
            of(Kind::Number, at, end, end)
        }
        Some(b't') => literal(bytes, at, b"true").and_then(|end| of(Kind::Boolean, at, end, end)),
        Some(b'f') => literal(bytes, at, b"false").and_then(|end| of(Kind::Boolean, at, end, end)),
        Some(b'n') => literal(bytes, at, b"null").and_then(|end| of(Kind::Null, at, end, end)),
        Some(b'{' | b'[') => {
            let end = nested(bytes, at, depth)?;
            of(Kind::Nested, at, end, end)
        }
        Some(_) => Err(Wrong::Syntax("a value was expected")),
        None => Err(Wrong::Ends(false)),
    }
}

/// Scans the object or array at `at`; the place behind it.
fn nested(bytes: &[u8], at: usize, depth: u32) -> Result<usize, Wrong> {
    if depth > MAX_DEPTH {
        return Err(Wrong::Syntax("objects and arrays are nested too deeply"));
    }
    let is_object = bytes[at] == b'{';
    let close = if is_object { b'}' } else { b']' };
    let mut at = blanks(bytes, at + 1);
    if bytes.get(at) == Some(&close) {
        return Ok(at + 1);
    }
    loop {
        if is_object {
            at = key(bytes, at)?.3;
        }
        let (_, end) = value(bytes, at, depth + 1)?;
        at = blanks(bytes, end);
        match bytes.get(at) {
            Some(b',') => at = blanks(bytes, at + 1),
            Some(byte) if *byte == close => return Ok(at + 1),
            Some(_) => return Err(Wrong::Syntax("a comma or a closing bracket was expected")),
            None => return Err(Wrong::Ends(false)),
        }
    }
}

/// The place of the first byte at or behind `at` that is no blank.
#[inline]
pub fn blanks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The place of a string's closing quote, and whether there are escapes in front of it.
#[inline]
fn string(bytes: &[u8], mut at: usize) -> Result<(usize, bool), Wrong> {
    let mut escaped = false;
    loop {
        at = plain(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok((at, escaped)),
            Some(b'\\') => {
                escaped = true;
                match bytes.get(at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                    Some(b'u') => {
                        let digits = &bytes[at + 2..bytes.len().min(at + 6)];
                        if !digits.iter().all(u8::is_ascii_hexdigit) {
                            return Err(Wrong::Syntax("\\u was expected to have four digits"));
                        }
                        if digits.len() < 4 {
                            return Err(Wrong::Ends(true));
                        }
                        at += 6;
                    }
                    Some(_) => return Err(Wrong::Syntax("an escape is not known")),
                    None => return Err(Wrong::Ends(true)),
                }
            }
            Some(b'\n') => return Err(Wrong::Unclosed),
            Some(_) => return Err(Wrong::Syntax("a control character stands in a string")),
            None => return Err(Wrong::Ends(true)),
        }
    }
}

/// The place of the first quote, backslash or control character at or behind `at`: many bytes a
/// step.
#[inline(always)]
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    #[cfg(target_arch = "x86_64")]
    while let Some(chunk) = bytes.get(at..at + 16) {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8,
            _mm_or_si128, _mm_set1_epi8,
        };
        // SAFETY: every x86-64 has these instructions, and the chunk has the 16 bytes that are read.
        let found = unsafe {
            let chunk = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
            let quote = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'"' as i8));
            let escape = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(chunk, _mm_set1_epi8(0x1f)), chunk);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, escape), control))
        };
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += 16;
    }
    while let Some(word) = load8(bytes, at) {
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = zero(word ^ (ONES * u64::from(b'"')))
            | zero(word ^ (ONES * u64::from(b'\\')))
            | control;
        if found != 0 {
            // Only the lowest mark is exact, and only that one counts.
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            break;
        }
        at += 1;
    }
    at
}

#[inline(always)]
fn digits(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = load8(bytes, at) {
        let digits = leading_digits(word);
        at += digits;
        if digits < 8 {
            return at;
        }
    }
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

#[inline]
fn number(bytes: &[u8], at: usize) -> Result<usize, Wrong> {
    const WRONG: Wrong = Wrong::Syntax("a number is malformed");
    let start = at + usize::from(bytes[at] == b'-');
    let mut end = digits(bytes, start);
    if end == start {
        return if end == bytes.len() { Err(Wrong::Ends(false)) } else { Err(WRONG) };
    }
    if bytes[start] == b'0' && end > start + 1 {
        return Err(WRONG);
    }
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(bytes, end + 1);
        if fraction == end + 1 {
            return if fraction == bytes.len() { Err(Wrong::Ends(false)) } else { Err(WRONG) };
        }
        end = fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(bytes, end + 1 + sign);
        if exponent == end + 1 + sign {
            return if exponent == bytes.len() { Err(Wrong::Ends(false)) } else { Err(WRONG) };
        }
        end = exponent;
    }
    Ok(end)
}

fn literal(bytes: &[u8], at: usize, word: &'static [u8]) -> Result<usize, Wrong> {
    let there = &bytes[at..bytes.len().min(at + word.len())];
    if there == word {
        Ok(at + word.len())
    } else if word.starts_with(there) && at + there.len() == bytes.len() {
        Err(Wrong::Ends(false))
    } else {
        Err(Wrong::Syntax("a value was expected"))
    }
}

/// The text of a string with escapes, which a scan accepted. `None` where a `\u` is half a pair.
pub fn unescape<'a>(raw: &[u8], out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    out.clear();
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &raw[at..]) {
        out.extend_from_slice(&raw[at..at + found]);
        at += found;
        let byte = *raw.get(at + 1)?;
        at += 2;
        out.push(match byte {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit = hex(raw, at)?;
                at += 4;
                let point = if (0xd800..0xdc00).contains(&unit) {
                    if raw.get(at..at + 2)? != b"\\u" {
                        return None;
                    }
                    let low = hex(raw, at + 2)?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return None;
                    }
                    at += 6;
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    unit
                };
                let c = char::from_u32(point)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other,
        });
    }
    out.extend_from_slice(&raw[at..]);
    Some(out)
}

fn hex(raw: &[u8], at: usize) -> Option<u32> {
    let digits = std::str::from_utf8(raw.get(at..at + 4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

/// A field's name as text.
pub fn key_text(raw: &[u8], escaped: bool) -> Option<Cow<'_, str>> {
    if !escaped {
        return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    }
    let mut out = Vec::new();
    unescape(raw, &mut out)?;
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(text: &str) -> Result<Vec<(String, Kind, String)>, Wrong> {
        let mut found = Vec::new();
        let end = each_field(text.as_bytes(), 0, |key, escaped, value| {
            let key = key_text(key, escaped).expect("keys are text").into_owned();
            found.push((key, value.kind, text[value.start..value.end].to_owned()));
        })?;
        assert_eq!(end, text.len());
        Ok(found)
    }

    #[test]
    fn fields_are_found_by_place() {
        let found =
            fields(r#"{"a":1, "b" : "x\"y" ,"c":[1,{"d":"]}"}],"e":null,"f":true,"g":-1.5e3}"#);
        let found = found.expect("it is an object");
        let values: Vec<_> = found.iter().map(|(k, _, v)| format!("{k}={v}")).collect();
        assert_eq!(
            values,
            ["a=1", "b=x\\\"y", "c=[1,{\"d\":\"]}\"}]", "e=null", "f=true", "g=-1.5e3"]
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":+1}",
            "{\"a\":tru3}",
            "{\"a\":'x'}",
            "{\"a\":1,}",
            "{\"a\":[1,]}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"\t\"}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":NaN}",
        ] {
            assert!(matches!(fields(text), Err(Wrong::Syntax(_))), "{text}: {:?}", fields(text));
        }
    }

    #[test]
    fn every_beginning_of_an_object_only_ends_too_early() {
        let text = r#"{"a":-1.5e-3,"b":"x\u00e9\n","c":[true,false,null,{"d":{}}],"e":0}"#;
        for end in 1..text.len() {
            let result = each_field(&text.as_bytes()[..end], 0, |_, _, _| {});
            assert!(matches!(result, Err(Wrong::Ends(_))), "{}: {result:?}", &text[..end]);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(
            each_field(deep.as_bytes(), 0, |_, _, _| {}),
            Err(Wrong::Syntax("objects and arrays are nested too deeply"))
        );
    }

    #[test]
    fn escapes_are_resolved() {
        let mut out = Vec::new();
        let text = br#"\"\\\/\b\f\n\r\t\u00e9\ud834\udd1e."#;
        let text = unescape(text, &mut out).expect("it is text");
        assert_eq!(text, "\"\\/\u{8}\u{c}\n\r\té𝄞.".as_bytes());
        assert!(unescape(br"\ud834x", &mut Vec::new()).is_none());
        assert!(unescape(br"\udd1e", &mut Vec::new()).is_none());
    }

    proptest! {
        #[test]
        fn accepts_exactly_what_serde_accepts(text in r#"\{("[ab\\n]{0,2}":([0-9.e-]{1,4}|"[a-z\\u0"]{0,5}"|true|null|\[1?,?2?\]|\{\}),?){0,2}\}"#) {
            let ours = each_field(text.as_bytes(), 0, |_, _, _| {}) == Ok(text.len());
            let theirs = serde_json::from_str::<serde_json::Value>(&text)
                .is_ok_and(|value| value.is_object());
            prop_assert_eq!(ours, theirs, "{}", text);
        }

        #[test]
        fn strings_end_where_a_slow_scan_says(text in "[ -~\\n\"\\\\é]{0,40}") {
            let slow = text.bytes().position(|b| b == b'"' || b == b'\\' || b < 0x20);
            prop_assert_eq!(plain(text.as_bytes(), 0), slow.unwrap_or(text.len()));
        }
    }
}
