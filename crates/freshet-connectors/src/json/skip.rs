//! Finding the end of a broken element of an array: by its brackets, or by the line on which the
//! next element begins.

/// Looks for the end of a broken element, piece by piece.
///
/// The element ends where its brackets close, or in front of a later line that begins, as far
/// indented as the element's own line, with an opening brace or the end of the array: whichever
/// comes first. In valid JSON no string holds a line feed, so that a line of its own is a safe
/// place even where a quote is missing.
#[derive(Debug, Clone)]
pub struct Skipper {
    /// Blanks in front of the element on its line; `None` where something else stands there.
    indent: Option<usize>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// Blanks so far on a line of which nothing else was seen, once a line feed was passed.
    line: Option<usize>,
    /// Whether a comma stands among these blanks.
    comma: bool,
    started: bool,
}

impl Skipper {
    /// For an element with so many blanks, or something else, in front of it on its line.
    pub fn new(indent: Option<usize>) -> Self {
        Self {
            indent,
            depth: 0,
            in_string: false,
            escaped: false,
            line: None,
            comma: false,
            started: false,
        }
    }

    /// Passes over `bytes`; how many of them belong to the element, if its end is among them.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            if let Some(blanks) = self.line {
                match byte {
                    b' ' | b'\t' | b'\r' => {
                        self.line = Some(blanks + usize::from(*byte != b'\r'));
                    }
                    b',' if !self.comma && !self.in_string => self.comma = true,
                    b'\n' => {}
                    b'{' | b']' if self.indent.is_none_or(|indent| blanks <= indent) => {
                        return Some(at);
                    }
                    _ => self.line = None,
                }
            }
            if *byte == b'\n' {
                self.line = Some(0);
                self.comma = false;
                // A string never goes over a line's end: what looks like one began with a stray quote.
                self.in_string = false;
                self.escaped = false;
                continue;
            }
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.started = true;
                }
                b'}' | b']' => {
                    if !self.started {
                        // The array's end, not the element's.
                        return Some(at);
                    }
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                // An element without brackets ends with its comma.
                b',' if !self.started => return Some(at),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        for piece in [1, 3, 1000] {
            let mut skipper = Skipper::new(Some(0));
            let mut passed = 0;
            let mut found = None;
            for piece in text.as_bytes().chunks(piece) {
                if let Some(end) = skipper.feed(piece) {
                    found = Some(&text[..passed + end]);
                    break;
                }
                passed += piece.len();
            }
            assert_eq!(found, expect, "{text:?}");
        }
    }

    #[test]
    fn the_end_is_by_brackets_or_by_line() {
        check("{\"a\":tru},{\"b\":1}", Some("{\"a\":tru}"));
        check("{\"a\":\"x},\n{\"b\":1}", Some("{\"a\":\"x},\n"));
        check("{\"a\":{,\n  {\n{\"b\":1}", Some("{\"a\":{,\n  {\n"));
        check("{\"a\":\n]", Some("{\"a\":\n"));
        check("12,{\"a\":1}", Some("12"));
        check("\"x,y\"]", Some("\"x,y\""));
        check("{\"a\":", None);
    }
}
