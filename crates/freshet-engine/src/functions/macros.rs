//! SQL macros: calls are replaced by bodies in the query's text, token by token, so that all else
//! stays as it was written, line by line.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, Whitespace};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_project::SqlMacro;

use super::dates::UNITS;

/// Functions whose first argument is a unit, which many write without quotes.
const UNIT_FIRST: [&str; 7] =
    ["dateadd", "datediff", "date_diff", "timestampadd", "timestampdiff", "date_part", "datepart"];

/// Calls within arguments and bodies of others, at most.
const MAX_DEPTH: usize = 64;

/// Calls expanded in one query, at most: macros that call each other twice grow without a circle.
const MAX_CALLS: usize = 20_000;

/// Bytes of an expanded query, at most.
const MAX_BYTES: usize = 4 << 20;

/// Replaces calls of `macros` in a query by their bodies, arguments put in and both in brackets,
/// and puts units of `dateadd(day, …)` and the like in quotes.
///
/// SQL without such calls is returned as it is, to the byte. Lines stay what they were: an
/// expansion stands on the line of its call. Names are compared without case; a quoted name, a
/// qualified one and one that no bracket follows is never a call.
pub fn expand_macros(sql: &str, macros: &[SqlMacro]) -> Result<String> {
    let mut state = State { open: Vec::new(), depth: 0, calls: 0 };
    let expanded = expand(sql, macros, &mut state)?;
    Ok(expanded.unwrap_or_else(|| sql.to_owned()))
}

/// How far an expansion has come.
struct State<'m> {
    /// The macros within whose bodies it is.
    open: Vec<&'m SqlMacro>,
    /// Calls within whose arguments or bodies it is.
    depth: usize,
    /// Calls expanded so far.
    calls: usize,
}

/// A token and the bytes that it stands on.
#[derive(Debug, Clone)]
struct Piece {
    token: Token,
    start: usize,
    end: usize,
}

/// Expands `text`; `None` where there is nothing to expand.
fn expand<'m>(text: &str, macros: &'m [SqlMacro], state: &mut State<'m>) -> Result<Option<String>> {
    // Text that cannot be cut into tokens is a matter for whoever plans it, and has a place there.
    let Some(pieces) = pieces(text) else { return Ok(None) };
    let mut out = String::new();
    let mut copied = 0;
    let mut index = 0;
    while index < pieces.len() {
        let Some(call) = call_at(text, &pieces, index) else {
            index += 1;
            continue;
        };
        let name = word(&pieces[index].token).unwrap_or_default();
        if UNIT_FIRST.iter().any(|function| function.eq_ignore_ascii_case(name))
            && let Some(unit) = unit_of(&pieces, &call)
        {
            out.push_str(&text[copied..unit.start]);
            out.push_str(&format!("'{}'", &text[unit.start..unit.end]));
            copied = unit.end;
            index += 1;
            continue;
        }
        let Some(found) = macros.iter().find(|known| known.name.eq_ignore_ascii_case(name)) else {
            index += 1;
            continue;
        };
        out.push_str(&text[copied..pieces[index].start]);
        let whole = &text[pieces[index].start..pieces[call.close].end];
        state.calls += 1;
        state.depth += 1;
        if state.depth > MAX_DEPTH || state.calls > MAX_CALLS {
            return Err(Error::new(
                code::LIMIT,
                format!(
                    "calls of SQL macro \"{}\" go more than {MAX_DEPTH} deep or are more than {MAX_CALLS}",
                    found.name
                ),
            )
            .hint("name a part of the expression in a common table expression")
            .at(found.location.clone()));
        }
        out.push_str(&body(found, &call, macros, state)?);
        state.depth -= 1;
        // What follows keeps its line.
        out.extend(std::iter::repeat_n('\n', whole.matches('\n').count()));
        check_size(found, out.len())?;
        copied = pieces[call.close].end;
        index = call.close + 1;
    }
    if copied == 0 {
        return Ok(None);
    }
    out.push_str(&text[copied..]);
    Ok(Some(out))
}

/// The body of a macro with a call's arguments in place of its parameters, in brackets.
fn body<'m>(
    found: &'m SqlMacro,
    call: &Call<'_>,
    macros: &'m [SqlMacro],
    state: &mut State<'m>,
) -> Result<String> {
    if let Some(first) = state.open.iter().position(|outer| std::ptr::eq(*outer, found)) {
        let mut names: Vec<_> =
            state.open[first..].iter().map(|outer| outer.name.as_str()).collect();
        names.push(&found.name);
        return Err(Error::new(
            code::CYCLE,
            format!("SQL macro \"{}\" calls itself: {}", found.name, names.join(" → ")),
        )
        .hint("a macro is put in where it is called and has no end that way")
        .at(found.location.clone()));
    }
    if call.arguments.len() != found.parameters.len() {
        return Err(Error::new(
            code::SQL,
            format!(
                "SQL macro \"{}\" takes {} arguments and is called with {}",
                found.name,
                found.parameters.len(),
                call.arguments.len()
            ),
        )
        .hint(format!("write {}({})", found.name, found.parameters.join(", "))));
    }
    check_body(found)?;
    // Arguments belong to where they were written: a call of the macro inside its own argument is
    // no recursion.
    let mut arguments = Vec::with_capacity(call.arguments.len());
    for argument in &call.arguments {
        let expanded = expand(argument, macros, state)?;
        arguments.push(one_line(expanded.as_deref().unwrap_or(argument)));
    }
    state.open.push(found);
    let inner = expand(&found.body, macros, state);
    state.open.pop();
    let inner = inner?.unwrap_or_else(|| found.body.clone());
    // Parameters are replaced last, and in the expanded body: an inner macro's body may not use
    // the outer one's parameters, but its arguments do.
    Ok(format!("({})", substitute(found, &one_line(&inner), &arguments)?))
}

fn check_size(found: &SqlMacro, bytes: usize) -> Result<()> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(Error::new(
        code::LIMIT,
        format!("SQL macro \"{}\" expands to more than {MAX_BYTES} bytes", found.name),
    )
    .hint("use its parameters less often, or name its arguments in a common table expression")
    .at(found.location.clone()))
}

/// Refuses a body that is not one expression: brackets would not hold it together.
fn check_body(found: &SqlMacro) -> Result<()> {
    let reason = match Parser::new(&GenericDialect {}).try_with_sql(&found.body) {
        Err(error) => error.to_string(),
        Ok(mut parser) => match parser.parse_expr() {
            Err(error) => error.to_string(),
            Ok(_) => match parser.peek_token().token {
                Token::EOF => return Ok(()),
                token => format!("unexpected {token}"),
            },
        },
    };
    Err(Error::new(
        code::SQL,
        format!("the body of SQL macro \"{}\" is not an expression: {reason}", found.name),
    )
    .hint("a macro is one scalar expression over its parameters")
    .at(found.location.clone()))
}

/// Puts arguments in place of parameters: bare names, neither qualified nor called.
fn substitute(found: &SqlMacro, body: &str, arguments: &[String]) -> Result<String> {
    let Some(pieces) = pieces(body) else { return Ok(body.to_owned()) };
    let parameters = &found.parameters;
    let solid: Vec<_> = pieces.iter().filter(|piece| !is_blank(&piece.token)).collect();
    let mut out = String::new();
    let mut copied = 0;
    for (index, piece) in solid.iter().enumerate() {
        let Some(name) = word(&piece.token) else { continue };
        let Some(parameter) = parameters.iter().position(|known| known.eq_ignore_ascii_case(name))
        else {
            continue;
        };
        let before = index.checked_sub(1).and_then(|before| solid.get(before));
        let after = solid.get(index + 1);
        let qualified = before.is_some_and(|piece| piece.token == Token::Period)
            || after.is_some_and(|piece| matches!(piece.token, Token::Period | Token::LParen));
        if qualified {
            continue;
        }
        out.push_str(&body[copied..piece.start]);
        out.push_str(&format!("({})", arguments[parameter]));
        copied = piece.end;
        check_size(found, out.len())?;
    }
    out.push_str(&body[copied..]);
    Ok(out)
}

/// Text without comments and line feeds outside of quotes.
pub(crate) fn one_line(text: &str) -> String {
    let Some(pieces) = pieces(text) else { return text.to_owned() };
    let mut line = String::with_capacity(text.len());
    for piece in &pieces {
        if is_blank(&piece.token) {
            if !line.ends_with(' ') {
                line.push(' ');
            }
        } else {
            line.push_str(&text[piece.start..piece.end]);
        }
    }
    line.trim().to_owned()
}

/// A call: its arguments' texts, and the index of the closing bracket's token.
struct Call<'t> {
    open: usize,
    close: usize,
    arguments: Vec<&'t str>,
}

/// The call whose name is the token at `index`, if it is one.
fn call_at<'t>(text: &'t str, pieces: &[Piece], index: usize) -> Option<Call<'t>> {
    word(&pieces[index].token)?;
    let before = pieces[..index].iter().rev().find(|piece| !is_blank(&piece.token));
    if before.is_some_and(|piece| piece.token == Token::Period) {
        return None;
    }
    let solid = |from: usize| (from..pieces.len()).find(|i| !is_blank(&pieces[*i].token));
    let open = solid(index + 1)?;
    if pieces[open].token != Token::LParen {
        return None;
    }
    let mut depth = 0_usize;
    let mut arguments = Vec::new();
    let mut start = pieces[open].end;
    for (close, piece) in pieces.iter().enumerate().skip(open) {
        match piece.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    let last = &text[start..piece.start];
                    if !(arguments.is_empty() && last.trim().is_empty()) {
                        arguments.push(last);
                    }
                    return Some(Call { open, close, arguments });
                }
            }
            Token::Comma if depth == 1 => {
                arguments.push(&text[start..piece.start]);
                start = piece.end;
            }
            _ => {}
        }
    }
    None
}

/// The first argument of a call where it is a unit without quotes.
fn unit_of<'p>(pieces: &'p [Piece], call: &Call<'_>) -> Option<&'p Piece> {
    let mut solid = pieces[call.open + 1..=call.close].iter().filter(|p| !is_blank(&p.token));
    let (unit, comma) = (solid.next()?, solid.next()?);
    let name = word(&unit.token)?;
    (comma.token == Token::Comma && UNITS.iter().any(|known| known.eq_ignore_ascii_case(name)))
        .then_some(unit)
}

/// A name without quotes.
fn word(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
        _ => None,
    }
}

fn is_blank(token: &Token) -> bool {
    matches!(
        token,
        Token::Whitespace(
            Whitespace::Space
                | Whitespace::Newline
                | Whitespace::Tab
                | Whitespace::SingleLineComment { .. }
                | Whitespace::MultiLineComment(_)
        )
    )
}

/// Cuts text into tokens with the bytes that they stand on; `None` where it cannot be cut.
fn pieces(text: &str) -> Option<Vec<Piece>> {
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .with_unescape(false)
        .tokenize_with_location()
        .ok()?;
    let mut place = Places::new(text);
    tokens
        .into_iter()
        .filter(|token| token.token != Token::EOF)
        .map(|token| {
            let start = place.offset(token.span.start.line, token.span.start.column)?;
            let end = place.offset(token.span.end.line, token.span.end.column)?;
            (start <= end).then_some(Piece { token: token.token, start, end })
        })
        .collect()
}

/// Lines and columns, both from 1 and ascending, to byte offsets.
struct Places<'t> {
    text: &'t str,
    line: u64,
    column: u64,
    offset: usize,
}

impl<'t> Places<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, line: 1, column: 1, offset: 0 }
    }

    fn offset(&mut self, line: u64, column: u64) -> Option<usize> {
        while (self.line, self.column) < (line, column) {
            let next = self.text.get(self.offset..)?.chars().next()?;
            self.offset += next.len_utf8();
            if next == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        ((self.line, self.column) == (line, column)).then_some(self.offset)
    }
}
