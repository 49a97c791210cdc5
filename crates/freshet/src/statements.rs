//! Where one SQL statement ends and the next begins. Knows quotes and comments, and no grammar.

/// The statements of `script` that a `;` ends, without it, and what follows the last one.
pub fn split(script: &str) -> (Vec<&str>, &str) {
    let mut statements = Vec::new();
    let mut rest = script;
    while let Some(end) = find_end(rest) {
        let statement = &rest[..end];
        if !is_blank(statement) {
            statements.push(statement.trim());
        }
        rest = &rest[end + 1..];
    }
    (statements, rest)
}

/// Whether there is nothing but white space and comments.
pub fn is_blank(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match skip_comment(bytes, at) {
            Some(end) => at = end,
            None if bytes[at].is_ascii_whitespace() => at += 1,
            None => return false,
        }
    }
    true
}

/// Offset of the first `;` that is neither in quotes nor in a comment.
fn find_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = skip_comment(bytes, at) {
            at = end;
            continue;
        }
        match bytes[at] {
            b';' => return Some(at),
            quote @ (b'\'' | b'"' | b'`') => {
                // A doubled quote closes and opens again, which comes to the same.
                at += 1 + bytes[at + 1..].iter().position(|byte| *byte == quote)?;
            }
            b'$' => at = skip_dollar_quoted(bytes, at)?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The offset behind a comment that begins at `at`. An open block comment ends with the text.
fn skip_comment(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes[at..].starts_with(b"--") {
        let line = bytes[at..].iter().position(|byte| *byte == b'\n');
        return Some(line.map_or(bytes.len(), |line| at + line + 1));
    }
    if !bytes[at..].starts_with(b"/*") {
        return None;
    }
    let mut depth = 0;
    let mut i = at;
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return Some(i);
            }
        } else {
            i += 1;
        }
    }
    Some(bytes.len())
}

/// The offset of the last byte of `$tag$…$tag$`; of the `$` itself where that is no quote. `None`
/// where the quote is not closed.
fn skip_dollar_quoted(bytes: &[u8], at: usize) -> Option<usize> {
    let name =
        bytes[at + 1..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let end = at + 1 + name;
    let is_quote = bytes.get(end) == Some(&b'$')
        && !bytes[at + 1..end].first().is_some_and(u8::is_ascii_digit);
    if !is_quote {
        return Some(at);
    }
    let tag = &bytes[at..=end];
    let body = &bytes[end + 1..];
    let close = body.windows(tag.len()).position(|window| window == tag)?;
    Some(end + close + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_only_outside_of_quotes_and_comments() {
        for (script, statements, rest) in [
            ("select 1; select 2", vec!["select 1"], " select 2"),
            ("select ';'; x", vec!["select ';'"], " x"),
            ("select 'it''s;';", vec!["select 'it''s;'"], ""),
            ("select \"a;b\" -- c;\n from t;", vec!["select \"a;b\" -- c;\n from t"], ""),
            ("/* a; /* b; */ c; */ select 1;", vec!["/* a; /* b; */ c; */ select 1"], ""),
            ("select $$;$$, $1, $a$;$$;$a$;", vec!["select $$;$$, $1, $a$;$$;$a$"], ""),
            ("select 'open;", vec![], "select 'open;"),
            ("select $$open;", vec![], "select $$open;"),
            (";; -- nothing\n;", vec![], ""),
            ("select 'Zürich;';", vec!["select 'Zürich;'"], ""),
        ] {
            assert_eq!(split(script), (statements, rest), "{script}");
        }
    }

    #[test]
    fn comments_are_blank() {
        assert!(is_blank(" -- a\n /* b */ \n"));
        assert!(is_blank("/* never closed"));
        assert!(!is_blank("-- a\n x"));
    }
}
