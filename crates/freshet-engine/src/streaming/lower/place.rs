//! Where a part of a plan stands in its statement, as far as planning has kept it.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, Spans};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Tokenizer};

/// Line and column of the first name that the expressions of a plan's root have; `None` where none has
/// kept its place, as what was rewritten.
pub(super) fn place_of(plan: &LogicalPlan) -> Option<(u64, u64)> {
    let mut first: Option<(u64, u64)> = None;
    for expr in plan.expressions() {
        // Nothing here fails.
        let _ = expr.apply(|expr| {
            if let Expr::Column(Column { spans, .. }) = expr
                && let Some(span) = spans.first()
            {
                let place = (span.start.line, span.start.column);
                first = Some(first.map_or(place, |first| first.min(place)));
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    first
}

/// What the root of a plan is in SQL, where that is one keyword or two.
pub(super) fn keyword_of(plan: &LogicalPlan) -> Option<&'static str> {
    match plan {
        LogicalPlan::Sort(_) => Some("ORDER BY"),
        LogicalPlan::Limit(_) => Some("LIMIT"),
        LogicalPlan::Window(_) => Some("OVER"),
        LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON"),
        LogicalPlan::Unnest(_) => Some("UNNEST"),
        _ => None,
    }
}

/// Line and column of a keyword in a text, where it is there once, outside of comments and quotes.
pub fn place_in(text: &str, keyword: &str) -> Option<(u64, u64)> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().ok()?;
    let words = tokens.iter().filter_map(|token| match &token.token {
        Token::Whitespace(_) => None,
        Token::Word(word) if word.quote_style.is_none() => Some((word.value.as_str(), token.span)),
        // What stands between words keeps them apart.
        _ => Some(("", token.span)),
    });
    let words: Vec<(&str, Span)> = words.collect();
    let wanted: Vec<&str> = keyword.split(' ').collect();
    let mut found = words.windows(wanted.len()).filter(|words| {
        words.iter().zip(&wanted).all(|((word, _), wanted)| word.eq_ignore_ascii_case(wanted))
    });
    let (_, span) = found.next()?.first()?;
    found.next().is_none().then_some((span.start.line, span.start.column))
}

/// A plan whose names have forgotten their places: they are those of another text.
pub fn without_places(plan: LogicalPlan) -> Result<LogicalPlan> {
    let forget = |expr: Expr| {
        expr.transform(|expr| match expr {
            Expr::Column(column) if column.spans.first().is_some() => {
                Ok(Transformed::yes(Expr::Column(column.with_spans(Spans::new()))))
            }
            other => Ok(Transformed::no(other)),
        })
    };
    let plan = plan.transform_down_with_subqueries(|node| node.map_expressions(forget))?;
    Ok(plan.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_is_found_where_it_is_there_once() {
        let text = "select 'order by' -- order by\nfrom t\n  Order /* really */ BY city";
        assert_eq!(place_in(text, "ORDER BY"), Some((3, 3)));
        assert_eq!(place_in(text, "LIMIT"), None);
        assert_eq!(place_in("select a from t order by a limit 1 by order by", "ORDER BY"), None);
        assert_eq!(place_in("select \"limit\" from t", "LIMIT"), None);
        assert_eq!(place_in("not 'sql", "LIMIT"), None);
    }
}
