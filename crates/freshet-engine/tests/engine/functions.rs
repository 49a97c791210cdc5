//! SQL macros, and what the list of functions promises.

use std::collections::HashSet;

use datafusion::prelude::SessionContext;
use freshet_core::{Error, Location};
use freshet_engine::functions::{self, expand_macros};
use freshet_project::SqlMacro;

fn sql_macro(name: &str, parameters: &[&str], body: &str) -> SqlMacro {
    SqlMacro {
        name: name.to_owned(),
        parameters: parameters.iter().map(|name| (*name).to_owned()).collect(),
        body: body.to_owned(),
        location: Location::line("macros/sql.yml", 3),
    }
}

fn macros() -> Vec<SqlMacro> {
    vec![
        sql_macro("net", &["gross", "rate"], "gross / (1 + rate)"),
        sql_macro("cents", &["x"], "cast(round(x * 100) as bigint)"),
        sql_macro("net_cents", &["x"], "cents(net(x, 0.19))"),
        sql_macro("one", &[], "1"),
        sql_macro("own", &["x"], "t.x + x + x(1) + \"x\" + 'x' -- x\n + 0"),
    ]
}

#[test]
fn calls_are_replaced_and_all_else_stays() {
    let cases = [
        ("select 1  -- net(1, 2)\n from t", "select 1  -- net(1, 2)\n from t"),
        (
            "select 'net(1, 2)', \"net\"(1, 2), s.net(1, 2), net from t",
            "select 'net(1, 2)', \"net\"(1, 2), s.net(1, 2), net from t",
        ),
        ("select net(a, b) from t", "select ((a) / (1 + (b))) from t"),
        ("select NET (a + 1, f(b, c)) , 2", "select ((a + 1) / (1 + (f(b, c)))) , 2"),
        ("select net(net(a, 1), 2)", "select ((((a) / (1 + (1)))) / (1 + (2)))"),
        ("select one() + one( )", "select (1) + (1)"),
        ("select net_cents(p)", "select ((cast(round(((((p)) / (1 + (0.19)))) * 100) as bigint)))"),
        ("select 'äöü', one() -- ü\n, one()", "select 'äöü', (1) -- ü\n, (1)"),
        ("select net(\n  a, -- gross\n  b\n)\nfrom t", "select ((a) / (1 + (b)))\n\n\n\nfrom t"),
        ("select own(y)", "select (t.x + (y) + x(1) + \"x\" + 'x' + 0)"),
        ("select net('a, b)', '(')", "select (('a, b)') / (1 + ('(')))"),
        (
            "select dateadd(day, 1, d), datediff( MONTH , a, b), dateadd(days_of, 1, d)",
            "select dateadd('day', 1, d), datediff( 'MONTH' , a, b), dateadd(days_of, 1, d)",
        ),
        ("select 'unclosed", "select 'unclosed"),
    ];
    for (sql, expected) in cases {
        assert_eq!(expand_macros(sql, &macros()).expect(sql), expected, "{sql}");
    }
}

#[tokio::test]
async fn precedence_survives_expansion() {
    let macros = [sql_macro("twice", &["x"], "x + x"), sql_macro("neg", &["x"], "-x")];
    let ctx = SessionContext::new();
    for (sql, expected) in [
        ("select twice(1) * 10 = 20", true),
        ("select twice(1 - 2) * 3 = -6", true),
        ("select neg(1 + 2) = -3", true),
        ("select 10 - neg(-1) = 9", true),
    ] {
        let expanded = expand_macros(sql, &macros).expect(sql);
        let batches = ctx.sql(&expanded).await.expect(&expanded).collect().await.expect(&expanded);
        let column = arrow::array::AsArray::as_boolean(batches[0].column(0).as_ref());
        assert_eq!(column.value(0), expected, "{expanded}");
    }
}

fn refusal(sql: &str, macros: &[SqlMacro]) -> Error {
    expand_macros(sql, macros).expect_err("it is wrong")
}

#[test]
fn circles_wrong_counts_and_bodies_are_errors() {
    let circle = [
        sql_macro("a", &["x"], "b(x) + 1"),
        sql_macro("b", &["x"], "c(a(x))"),
        sql_macro("c", &["x"], "x"),
    ];
    let error = refusal("select a(1)", &circle);
    assert_eq!(error.message(), "SQL macro \"a\" calls itself: a → b → a");
    assert_eq!(error.location().map(ToString::to_string).as_deref(), Some("macros/sql.yml:3"));
    let error = refusal("select net(1)", &macros());
    assert_eq!(error.message(), "SQL macro \"net\" takes 2 arguments and is called with 1");
    assert_eq!(error.hint_text(), Some("write net(gross, rate)"));
    let error = refusal("select bad(1)", &[sql_macro("bad", &["x"], "x, x")]);
    assert!(error.message().contains("is not an expression"), "{error:?}");
}

#[test]
fn expansion_is_bounded() {
    // Each doubles the one before: 2^40 ones without a circle.
    let mut bomb = vec![sql_macro("m0", &[], "1 + 1")];
    bomb.extend(
        (1..40).map(|i| sql_macro(&format!("m{i}"), &[], &format!("m{0}() + m{0}()", i - 1))),
    );
    assert!(refusal("select m39()", &bomb).message().contains("more than"));
    // A few calls, each of which writes its argument many times.
    let wide = [sql_macro("wide", &["x"], &vec!["x"; 1000].join(" + "))];
    assert!(refusal("select wide(wide(wide(wide(1))))", &wide).message().contains("bytes"));
    let deep = format!("select {}1{}", "one_of(".repeat(500), ")".repeat(500));
    let error = refusal(&deep, &[sql_macro("one_of", &["x"], "x")]);
    assert!(error.message().contains("deep"), "{error:?}");
}

#[test]
fn every_listed_function_is_registered_under_all_its_names() {
    let ctx = SessionContext::new();
    functions::register(&ctx).expect("functions can be registered");
    let state = ctx.state();
    let mut seen = HashSet::new();
    for info in functions::functions() {
        for name in std::iter::once(&info.name).chain(info.aliases) {
            assert!(seen.insert(*name), "{name} is listed twice");
            assert!(
                state.scalar_functions().contains_key(*name)
                    || state.aggregate_functions().contains_key(*name),
                "{name} is listed and not registered"
            );
        }
        assert!(info.usage.starts_with(info.name), "{}", info.usage);
        assert!(info.help.ends_with('.'), "{}", info.help);
    }
}
