//! Reading SQL with the table functions of windows as Flink spells them.
//!
//! `TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))` becomes a subquery that
//! adds `window_start`, `window_end` and `window_time` to the columns of its table: what they are is
//! said by the functions of [`super::windows`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Join, JoinConstraint,
    JoinOperator, Query, SetExpr, Statement, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};
use freshet_core::error::code;
use freshet_core::{Error, Result};

use super::as_of::AS_OF;
use super::windows::Kind;

/// Reads one statement.
pub fn parse(text: &str) -> Result<Statement> {
    let wrong = |error: String| Error::new(code::SQL, format!("could not read the query: {error}"));
    let dialect = GenericDialect {};
    let mut tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|error| wrong(error.to_string()))?;
    leave_out_table(&mut tokens);
    wrap_partition(&mut tokens);
    wrap_version(&mut tokens);
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(|error| wrong(error.to_string()))?;
    let (Some(mut statement), true) = (statements.pop(), statements.is_empty()) else {
        return Err(Error::new(code::SQL, "a streaming model is one SELECT"));
    };
    let mut rewriter = Rewriter { error: None };
    let _: ControlFlow<()> = statement.visit(&mut rewriter);
    match rewriter.error {
        Some(error) => Err(error),
        None => Ok(statement),
    }
}

/// Takes the word `TABLE` out of `TUMBLE(TABLE orders, …)`, which the parser does not know as an
/// argument; every other token keeps its place.
fn leave_out_table(tokens: &mut [TokenWithSpan]) {
    let is_word = |token: &Token| matches!(token, Token::Word(_));
    let mut before = Token::EOF;
    for at in 0..tokens.len() {
        if matches!(tokens[at].token, Token::Whitespace(_)) {
            continue;
        }
        let is_table =
            matches!(&tokens[at].token, Token::Word(word) if word.keyword == Keyword::TABLE);
        let behind = tokens[at + 1..]
            .iter()
            .map(|token| &token.token)
            .find(|token| !matches!(token, Token::Whitespace(_)));
        let is_argument = matches!(before, Token::LParen | Token::Comma | Token::RArrow);
        if is_table && is_argument && behind.is_some_and(is_word) {
            tokens[at].token = Token::Whitespace(Whitespace::Space);
        } else {
            before = tokens[at].token.clone();
        }
    }
}

/// Makes the columns of `SESSION(t PARTITION BY a, b, DESCRIPTOR(time), …)` one argument, which the
/// parser takes for a function's: `t, freshet_partition(a, b), DESCRIPTOR(time)`.
fn wrap_partition(tokens: &mut Vec<TokenWithSpan>) {
    let word = |token: &TokenWithSpan, keyword: Keyword| matches!(&token.token, Token::Word(word) if word.keyword == keyword);
    let is_descriptor = |token: &TokenWithSpan| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case("descriptor"));
    let is_space = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    let mut at = 0;
    while at < tokens.len() {
        let start = at;
        at += 1;
        if !word(&tokens[start], Keyword::PARTITION) {
            continue;
        }
        let Some(by) = (start + 1..tokens.len()).find(|at| !is_space(&tokens[*at])) else { return };
        // Not that of OVER: those come behind an opening parenthesis.
        let before = (0..start).rev().find(|at| !is_space(&tokens[*at]));
        let follows = before.is_some_and(|at| tokens[at].token != Token::LParen);
        let end = tokens[by..].iter().position(is_descriptor).map(|end| by + end);
        let comma = end.and_then(|end| {
            (by..end)
                .rev()
                .find(|at| !is_space(&tokens[*at]))
                .filter(|at| tokens[*at].token == Token::Comma)
        });
        let (true, true, Some(comma)) = (word(&tokens[by], Keyword::BY), follows, comma) else {
            continue;
        };
        let span = tokens[start].span;
        let token = |token| TokenWithSpan { token, span };
        tokens.insert(comma, token(Token::RParen));
        let function = Token::make_word(PARTITION, None);
        let opened = [Token::Comma, function, Token::LParen].map(token);
        tokens.splice(start..=by, opened);
    }
}

/// Makes `rates FOR SYSTEM_TIME AS OF o.at` a table function, as the parser knows no versions of tables:
/// `TABLE(freshet_as_of(rates, o.at))`.
fn wrap_version(tokens: &mut Vec<TokenWithSpan>) {
    let is_space = |token: &Token| matches!(token, Token::Whitespace(_));
    let is_name = |token: &Token| matches!(token, Token::Word(_) | Token::Period);
    let mut at = 0;
    while at < tokens.len() {
        let start = at;
        at += 1;
        let words: Vec<usize> =
            (start..tokens.len()).filter(|at| !is_space(&tokens[*at].token)).take(5).collect();
        let keywords = [Keyword::FOR, Keyword::SYSTEM_TIME, Keyword::AS, Keyword::OF];
        let is_version = words.len() == 5
            && words[0] == start
            && keywords.iter().zip(&words).all(|(keyword, at)| {
                matches!(&tokens[*at].token, Token::Word(word) if word.keyword == *keyword)
            });
        let Some(last) = (0..start).rev().find(|at| !is_space(&tokens[*at].token)) else {
            continue;
        };
        if !is_version || !is_name(&tokens[last].token) {
            continue;
        }
        let name = (0..last).rev().take_while(|at| is_name(&tokens[*at].token)).last();
        let name = name.unwrap_or(last);
        let time = words[4];
        let behind = (time..tokens.len()).find(|at| !is_name(&tokens[*at].token));
        let behind = behind.unwrap_or(tokens.len());
        let span = tokens[start].span;
        let token = |token| TokenWithSpan { token, span };
        let mut call = vec![
            token(Token::make_keyword("TABLE")),
            token(Token::LParen),
            token(Token::make_word(AS_OF, None)),
            token(Token::LParen),
        ];
        call.extend_from_slice(&tokens[name..=last]);
        call.push(token(Token::Comma));
        call.extend_from_slice(&tokens[time..behind]);
        call.extend([token(Token::RParen), token(Token::RParen)]);
        at = name + call.len();
        tokens.splice(name..behind, call);
    }
}

/// Puts the times of the tables that [`wrap_version`] found into the conditions of their joins.
fn version_joins(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            version_joins(left)?;
            version_joins(right)
        }
        SetExpr::Select(select) => {
            let mut joins = select.from.iter_mut().flat_map(|from| from.joins.iter_mut());
            joins.try_for_each(version_join)
        }
        _ => Ok(()),
    }
}

fn version_join(join: &mut Join) -> Result<()> {
    let TableFactor::TableFunction { expr: Expr::Function(function), alias, .. } = &join.relation
    else {
        return Ok(());
    };
    if function.name.to_string() != AS_OF {
        return Ok(());
    }
    let FunctionArguments::List(list) = &function.args else { return Ok(()) };
    let [table, time] = list.args.as_slice() else { return Ok(()) };
    let parsed = Parser::parse_sql(&GenericDialect {}, &format!("SELECT * FROM {table}"));
    let relation = parsed.ok().and_then(|mut statements| match statements.pop()? {
        Statement::Query(query) => first_factor(*query),
        _ => None,
    });
    let Some(TableFactor::Table { .. }) = &relation else {
        return Err(Error::new(code::SQL, format!("{table} is no table that has versions")));
    };
    let mut relation = relation.expect("it is a table");
    if let TableFactor::Table { alias: of, .. } = &mut relation {
        of.clone_from(alias);
    }
    let mut condition = function.clone();
    let constraint = match &mut join.join_operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint) => constraint,
        _ => {
            let message = "FOR SYSTEM_TIME AS OF stands in an inner or a left join";
            return Err(Error::new(code::SQL, message));
        }
    };
    let JoinConstraint::On(on) = constraint else {
        return Err(Error::new(code::SQL, "a join as of a time has no condition")
            .hint("write JOIN t FOR SYSTEM_TIME AS OF time ON key = t.key"));
    };
    if let FunctionArguments::List(list) = &mut condition.args {
        let on = FunctionArg::Unnamed(FunctionArgExpr::Expr(on.clone()));
        list.args = vec![time.clone(), on];
    }
    *on = Expr::Function(condition);
    join.relation = relation;
    Ok(())
}

/// Stands for the columns that sessions are divided by.
const PARTITION: &str = "freshet_partition";

struct Rewriter {
    error: Option<Error>,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        match version_joins(&mut query.body) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match rewritten(factor) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(new)) => {
                *factor = new;
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// The subquery that stands for a table function of windows; `None` for anything else.
fn rewritten(factor: &TableFactor) -> Result<Option<TableFactor>> {
    let TableFactor::TableFunction { expr: Expr::Function(function), alias, .. } = factor else {
        return Ok(None);
    };
    let name = function.name.to_string();
    if name == AS_OF {
        return Err(Error::new(
            code::SQL,
            "FOR SYSTEM_TIME AS OF stands behind the table of a JOIN",
        ));
    }
    let Some(kind) = Kind::of_name(&name) else {
        return Err(Error::new(code::SQL, format!("\"{name}\" is no table function"))
            .hint("there are TUMBLE, HOP, CUMULATE and SESSION"));
    };
    let Call { input, time, spans, partition } = Call::read(function, kind)?;
    let arguments: Vec<String> = std::iter::once(time).chain(spans).chain(partition).collect();
    let arguments = arguments.join(", ");
    let bounds = ["start", "end", "time"]
        .map(|bound| format!("{}({arguments}) AS window_{bound}", kind.function(bound)));
    let text = format!("SELECT * FROM (SELECT *, {} FROM {input})", bounds.join(", "));
    let parsed = Parser::parse_sql(&GenericDialect {}, &text);
    let subquery = parsed.ok().and_then(|mut statements| match statements.pop()? {
        Statement::Query(query) => first_factor(*query),
        _ => None,
    });
    match subquery {
        Some(TableFactor::Derived { lateral, subquery, sample, .. }) => {
            Ok(Some(TableFactor::Derived { lateral, subquery, alias: alias.clone(), sample }))
        }
        _ => Err(Error::internal(format!("could not rewrite {function}"))),
    }
}

fn first_factor(query: Query) -> Option<TableFactor> {
    match *query.body {
        SetExpr::Select(select) => Some(select.from.into_iter().next()?.relation),
        _ => None,
    }
}

/// The arguments of a table function, as SQL.
struct Call {
    input: String,
    time: String,
    /// Size and what else the kind has; `NULL` where nothing is said.
    spans: Vec<String>,
    /// The columns that sessions are divided by.
    partition: Vec<String>,
}

impl Call {
    fn read(function: &Function, kind: Kind) -> Result<Self> {
        let usage = kind.usage();
        let wrong = |what: String| Error::new(code::SQL, what).hint(format!("write {usage}"));
        let FunctionArguments::List(list) = &function.args else {
            return Err(wrong(format!("{} has no arguments", function.name)));
        };
        let names = kind.arguments();
        let mut given: Vec<Option<&Expr>> = vec![None; names.len()];
        let mut partition = Vec::new();
        let arguments = list.args.iter().filter(|argument| match partition_of(argument) {
            Some(columns) if kind == Kind::Session => {
                partition = columns;
                false
            }
            _ => true,
        });
        for (position, argument) in arguments.enumerate() {
            let (place, value) = match argument {
                FunctionArg::Unnamed(value) => (Some(position), value),
                FunctionArg::Named { name, arg, .. } => {
                    let name = name.value.to_ascii_uppercase();
                    (names.iter().position(|known| *known == name), arg)
                }
                FunctionArg::ExprNamed { name, arg, .. } => {
                    let name = name.to_string().to_ascii_uppercase();
                    (names.iter().position(|known| *known == name), arg)
                }
            };
            let (Some(place), FunctionArgExpr::Expr(value)) = (place, value) else {
                return Err(wrong(format!("{} has no argument {argument}", function.name)));
            };
            let Some(place) = given.get_mut(place) else {
                return Err(wrong(format!("{} has too many arguments", function.name)));
            };
            *place = Some(value);
        }
        let needed = kind.needed();
        if let Some(missing) = (0..needed).find(|place| given[*place].is_none()) {
            return Err(wrong(format!("{} lacks {}", function.name, names[missing])));
        }
        let input = match given[0] {
            Some(Expr::Subquery(query)) => format!("({query})"),
            Some(name @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => name.to_string(),
            other => {
                let shown = other.map(ToString::to_string).unwrap_or_default();
                return Err(wrong(format!("{} takes a table, not {shown}", function.name)));
            }
        };
        let time = match given[1] {
            Some(Expr::Function(descriptor))
                if descriptor.name.to_string().eq_ignore_ascii_case("descriptor") =>
            {
                descriptor_column(descriptor)
            }
            _ => None,
        };
        let time = time.ok_or_else(|| {
            wrong(format!("{} takes the column of time as DESCRIPTOR(column)", function.name))
        })?;
        let null = || "NULL".to_owned();
        let spans = given[2..].iter().map(|span| span.map_or_else(null, ToString::to_string));
        Ok(Self { input, time, spans: kind.order(spans.collect()), partition })
    }
}

/// The columns of an argument that [`wrap_partition`] made.
fn partition_of(argument: &FunctionArg) -> Option<Vec<String>> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(function))) = argument else {
        return None;
    };
    let FunctionArguments::List(list) = &function.args else { return None };
    let columns = list.args.iter().map(ToString::to_string).collect();
    (function.name.to_string() == PARTITION).then_some(columns)
}

fn descriptor_column(descriptor: &Function) -> Option<String> {
    let FunctionArguments::List(list) = &descriptor.args else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(name @ Expr::Identifier(_)))] => {
            Some(name.to_string())
        }
        _ => None,
    }
}
