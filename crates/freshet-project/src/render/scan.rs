//! Finds the tags of a Jinja text, cuts files into their macro, test and docs blocks, and rewrites
//! the few things of Python's Jinja that the template engine does not have.

use std::borrow::Cow;

/// A `{% … %}` tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    /// Byte offset of `{%`.
    pub start: usize,
    /// Byte offset behind `%}`.
    pub end: usize,
    /// The first word: `macro`, `endmacro`, `set` …
    pub word: &'a str,
    /// Byte offset of the first word.
    pub word_start: usize,
    /// What follows the first word, up to `%}` or `-%}`.
    pub rest: &'a str,
}

/// The tags of `text` in order; comments, raw blocks and expressions are passed over. A tag that is
/// not closed ends the list: the template engine names it.
pub(crate) fn tags(text: &str) -> Vec<Tag<'_>> {
    let bytes = text.as_bytes();
    let mut tags = Vec::new();
    let mut raw = false;
    let mut at = 0;
    while let Some(brace) = text[at..].find('{').map(|found| at + found) {
        match bytes.get(brace + 1) {
            Some(b'#') if !raw => {
                let Some(end) = text[brace..].find("#}") else { break };
                at = brace + end + 2;
            }
            Some(b'{') if !raw => {
                let Some(end) = close(bytes, brace + 2, b'}') else { break };
                at = end;
            }
            Some(b'%') => {
                let Some(end) = close(bytes, brace + 2, b'%') else { break };
                let inner_start =
                    brace + 2 + usize::from(matches!(bytes.get(brace + 2), Some(b'-' | b'+')));
                let mut inner_end = end - 2;
                if inner_end > inner_start && matches!(bytes[inner_end - 1], b'-' | b'+') {
                    inner_end -= 1;
                }
                let inner = text.get(inner_start..inner_end.max(inner_start)).unwrap_or("");
                let trimmed = inner.trim_start();
                let word_start = inner_start + inner.len() - trimmed.len();
                let word_len = trimmed
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(trimmed.len());
                let tag = Tag {
                    start: brace,
                    end,
                    word: &trimmed[..word_len],
                    word_start,
                    rest: &trimmed[word_len..],
                };
                match tag.word {
                    "raw" => raw = true,
                    "endraw" => raw = false,
                    _ if !raw => tags.push(tag),
                    _ => {}
                }
                at = end;
            }
            _ => at = brace + 1,
        }
    }
    tags
}

/// The offset behind the first `first}` at or after `from` that is not in quotes; `first` is `%` or `}`.
fn close(bytes: &[u8], from: usize, first: u8) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0usize;
    let mut at = from;
    while at < bytes.len() {
        let byte = bytes[at];
        match quote {
            Some(_) if byte == b'\\' => at += 1,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None => match byte {
                b'\'' | b'"' => quote = Some(byte),
                _ if byte == first && depth == 0 && bytes.get(at + 1) == Some(&b'}') => {
                    return Some(at + 2);
                }
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                _ => {}
            },
        }
        at += 1;
    }
    None
}

/// What a block of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// `{% macro name(…) %}`
    Macro,
    /// `{% test name(model, …) %}`: a rule for checks.
    Test,
    /// `{% docs name %}`: text for descriptions.
    Docs,
    /// dbt's `{% snapshot %}` or `{% materialization %}`.
    Unsupported,
}

/// A block of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// What it is.
    pub kind: BlockKind,
    /// Its name.
    pub name: String,
    /// One-based line of its first tag.
    pub line: u32,
    /// Macros and tests: the whole block as a macro; docs: what is between the tags.
    pub text: String,
}

/// The top-level blocks of a file.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let tags = tags(text);
    let mut blocks = Vec::new();
    let mut index = 0;
    while index < tags.len() {
        let open = tags[index];
        index += 1;
        let (kind, closing) = match open.word {
            "macro" => (BlockKind::Macro, "endmacro"),
            "test" => (BlockKind::Test, "endtest"),
            "data_test" => (BlockKind::Test, "enddata_test"),
            "docs" => (BlockKind::Docs, "enddocs"),
            "snapshot" => (BlockKind::Unsupported, "endsnapshot"),
            "materialization" => (BlockKind::Unsupported, "endmaterialization"),
            _ => continue,
        };
        let mut depth = 1;
        let mut end = None;
        while index < tags.len() {
            let tag = tags[index];
            index += 1;
            if tag.word == open.word {
                depth += 1;
            } else if tag.word == closing {
                depth -= 1;
                if depth == 0 {
                    end = Some(tag);
                    break;
                }
            }
        }
        let name: String = open
            .rest
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        // A block that is not closed goes to the template engine as it is, which names the fault.
        let (inner_end, block_end) =
            end.map_or((text.len(), text.len()), |tag| (tag.start, tag.end));
        let text_of = match kind {
            BlockKind::Docs => text[open.end..inner_end].trim().to_owned(),
            BlockKind::Macro | BlockKind::Unsupported => text[open.start..block_end].to_owned(),
            BlockKind::Test => {
                let rest_start = open.word_start + open.word.len();
                let mut macro_text = String::with_capacity(block_end - open.start + 16);
                macro_text.push_str(&text[open.start..open.word_start]);
                macro_text.push_str("macro");
                let gap = open.rest.len() - open.rest.trim_start().len();
                macro_text.push_str(&text[rest_start..rest_start + gap]);
                macro_text.push_str("test_");
                macro_text.push_str(&text[rest_start + gap..inner_end]);
                if let Some(tag) = end {
                    macro_text.push_str(&text[tag.start..tag.word_start]);
                    macro_text.push_str("endmacro");
                    macro_text.push_str(&text[tag.word_start + closing.len()..tag.end]);
                }
                macro_text
            }
        };
        blocks.push(Block { kind, name, line: line_at(text, open.start), text: text_of });
    }
    blocks
}

/// A macro's block with `prefix` before the macro's name.
pub(crate) fn renamed(block: &str, prefix: &str) -> String {
    let Some(tag) = tags(block).into_iter().find(|tag| tag.word == "macro") else {
        return block.to_owned();
    };
    let gap = tag.rest.len() - tag.rest.trim_start().len();
    let name = tag.word_start + tag.word.len() + gap;
    format!("{}{prefix}{}", &block[..name], &block[name..])
}

/// One-based line of a byte offset.
pub(crate) fn line_at(text: &str, offset: usize) -> u32 {
    let before = &text.as_bytes()[..offset.min(text.len())];
    u32::try_from(before.iter().filter(|byte| **byte == b'\n').count() + 1).unwrap_or(u32::MAX)
}

/// Python's lists and dicts can be changed in place (`{% do names.append(x) %}`): values given to a
/// name by `{% set name = … %}` become lists and maps that can, where the text changes any.
pub(crate) fn mutable_sets(text: &str) -> Cow<'_, str> {
    const CHANGES: [&str; 10] = [
        ".append(",
        ".extend(",
        ".insert(",
        ".update(",
        ".pop(",
        ".remove(",
        ".clear(",
        ".sort(",
        ".reverse(",
        ".setdefault(",
    ];
    if !CHANGES.iter().any(|method| text.contains(method)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut copied = 0;
    for tag in tags(text) {
        if tag.word != "set" {
            continue;
        }
        let rest = tag.rest;
        let Some(equals) = rest.find('=') else { continue };
        let name = rest[..equals].trim();
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest_start = tag.word_start + tag.word.len();
        let value_start = rest_start + equals + 1;
        let value_end = rest_start + rest.len();
        // A namespace can be changed as it is.
        if text[value_start..value_end].trim_start().starts_with("namespace") {
            continue;
        }
        out.push_str(&text[copied..value_start]);
        out.push_str(" __mutable(");
        out.push_str(text[value_start..value_end].trim_end());
        out.push_str(") ");
        copied = value_end;
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Names given as the first argument of calls of `function` with a literal: `env_var('NAME')`.
pub(crate) fn literal_calls<'a>(text: &'a str, function: &str) -> Vec<(&'a str, u32)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(function).map(|at| from + at) {
        from = at + function.len();
        let rest = text[from..].trim_start();
        let Some(rest) = rest.strip_prefix('(') else { continue };
        let rest = rest.trim_start();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else { continue };
        if let Some(end) = rest[1..].find(quote) {
            found.push((&rest[1..=end], line_at(text, at)));
        }
    }
    found
}

/// The one-based line where `function` is called with all of `names` as literals on one line, or
/// else the first call of it; 0 where there is none.
pub(crate) fn line_of_call(text: &str, function: &str, names: &[&str]) -> u32 {
    let mut first = 0;
    for (index, line) in text.lines().enumerate() {
        if !line.contains(function) {
            continue;
        }
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        if names.iter().all(|name| {
            line.contains(&format!("'{name}'")) || line.contains(&format!("\"{name}\""))
        }) {
            return number;
        }
        if first == 0 {
            first = number;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_with_their_lines() {
        let text = "{# {% macro no() %} #}\n{% macro a(x, y='%}') -%}\n  {{ x }}\n{%- endmacro %}\n\n{%- test positive(model, column_name) %}\nselect 1\n{% endtest -%}\n{% docs d %} words {% enddocs %}";
        let found = blocks(text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!((found[0].name.as_str(), found[0].line), ("a", 2));
        assert_eq!((found[1].name.as_str(), found[1].line), ("positive", 6));
        assert_eq!(
            found[1].text,
            "{%- macro test_positive(model, column_name) %}\nselect 1\n{% endmacro -%}"
        );
        assert_eq!(found[2].text, "words");
    }

    #[test]
    fn sets_become_mutable_only_where_something_is_changed() {
        let plain = "{% set a = [1] %}{{ a }}";
        assert_eq!(mutable_sets(plain), plain);
        assert_eq!(
            mutable_sets("{%- set a = [] -%}{% do a.append(1) %}"),
            "{%- set a = __mutable( []) -%}{% do a.append(1) %}"
        );
    }

    #[test]
    fn hostile_text_never_panics() {
        for text in [
            "{%",
            "{%-%}",
            "{%--%}",
            "{{",
            "{#",
            "{% macro",
            "{% macro %}",
            "{%é",
            "{% set = %}.pop(",
            "{% test %}{% endtest %}",
            "{% docs é %}",
        ] {
            tags(text);
            blocks(text);
            mutable_sets(text);
        }
    }
}
