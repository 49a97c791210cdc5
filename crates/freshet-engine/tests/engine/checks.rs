//! Checks on small tables: what each rule finds, and what that means.

use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::clock::ManualClock;
use freshet_core::config::Share;
use freshet_core::{Error, Location, ModelId};
use freshet_engine::checks::{self, CHECK_COLUMN, CheckEnv, Relation, When};
use freshet_engine::{CheckReport, CheckStatus};
use freshet_project::{Check, CheckTarget, OnFail, Threshold};
use serde_json::{Value, json};

/// 2026-11-22 12:00:00 UTC.
const NOW: i64 = 1_795_348_800_000_000;

fn declared(rule: &str, column: Option<&str>, arguments: Value) -> Check {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    Check {
        name: format!("{rule}_orders"),
        target: CheckTarget::Node(ModelId::new("orders")),
        column: column.map(str::to_owned),
        rule: rule.to_owned(),
        arguments,
        where_sql: None,
        mostly: None,
        error_if: None,
        warn_if: None,
        on_fail: OnFail::Fail,
        limit: 5,
        raw_sql: None,
        location: Location::line("models/orders.yml", 7),
    }
}

fn orders() -> TableReference {
    TableReference::partial("main", "orders")
}

async fn session() -> SessionContext {
    let ctx = SessionContext::new();
    for statement in [
        "create schema main",
        "create table main.customers as select * from (values (1, 'ann'), (2, 'bob'), (3, 'cem')) as t(id, name)",
        "create table main.orders as select
            arrow_cast(id, 'Int64') as id, arrow_cast(customer, 'Int32') as customer,
            arrow_cast(status, 'Utf8View') as status, cast(amount as decimal(12,2)) as amount,
            cast(day as date) as day,
            arrow_cast(cast(at as timestamp), 'Timestamp(Microsecond, None)') as at,
            cast(weight as double) as weight
         from (values
            (1, 1,    'open',   '10.00', '2026-11-20', '2026-11-20T08:00:00', 1.5),
            (2, 2,    'open',   '-0.10', '2026-11-21', '2026-11-21T08:00:00', 2.5),
            (3, 9,    'closed', '5.00',  '2026-11-21', '2026-11-21T23:00:00', null),
            (3, null, null,     null,    '2026-11-22', null,                  3.5),
            (5, 3,    'lost',   '99.99', '2026-11-22', '2026-11-22T06:00:00', 4.5)
         ) as t(id, customer, status, amount, day, at, weight)",
        "create table main.empty as select * from main.orders where false",
    ] {
        ctx.sql(statement).await.expect(statement).collect().await.expect(statement);
    }
    ctx
}

fn env(history: &[u64]) -> CheckEnv {
    CheckEnv {
        clock: Arc::new(ManualClock::new(NOW)),
        history: history.to_vec(),
        relations: Arc::new(|relation| match relation {
            Relation::Node(id) if id.as_str() == "customers" => {
                Some(TableReference::partial("main", id.as_str()))
            }
            _ => None,
        }),
        when: When::BeforeQuarantine,
    }
}

async fn evaluate(declared: &[Check], table: &TableReference) -> Vec<CheckReport> {
    let ctx = session().await;
    let rules = checks::parse_all(declared, None).expect("the checks are valid");
    checks::run(&ctx, table, &rules, &env(&[100, 10, 4])).await.expect("the table is there")
}

async fn one(declared: Check) -> CheckReport {
    evaluate(&[declared], &orders()).await.remove(0)
}

/// Rule, column, arguments, then failures, rows and the message.
#[tokio::test]
async fn each_rule_finds_what_it_is_for() {
    let cases = [
        ("not_null", Some("status"), json!({}), (1, 5), "1 of 5 rows: column \"status\" is null"),
        (
            "unique",
            Some("id"),
            json!({}),
            (1, 5),
            "1 of 5 rows: the key (id) occurs more than once",
        ),
        ("unique", None, json!({"columns": ["id", "day"]}), (0, 5), "5 rows pass"),
        (
            "dbt_utils.unique_combination_of_columns",
            None,
            json!({"combination_of_columns": ["day"]}),
            (2, 5),
            "2 of 5 rows: the key (day) occurs more than once",
        ),
        (
            "accepted_values",
            Some("status"),
            json!({"values": ["open", "closed"]}),
            (1, 5),
            "1 of 5 rows: column \"status\" is not one of open, closed",
        ),
        (
            "accepted_values",
            Some("id"),
            json!({"values": ["1", "2", "3", "5"]}),
            (0, 5),
            "5 rows pass",
        ),
        (
            "accepted_values",
            Some("id"),
            json!({"values": [1, 2], "quote": false}),
            (3, 5),
            "3 of 5 rows: column \"id\" is not one of 1, 2",
        ),
        (
            "accepted_values",
            Some("amount"),
            json!({"values": [10, "5.0", -0.1]}),
            (1, 5),
            "1 of 5 rows: column \"amount\" is not one of 10, 5.0, -0.1",
        ),
        (
            "accepted_values",
            Some("day"),
            json!({"values": ["2026-11-20", "2026-11-21"]}),
            (2, 5),
            "2 of 5 rows: column \"day\" is not one of 2026-11-20, 2026-11-21",
        ),
        (
            "dbt_utils.not_accepted_values",
            Some("status"),
            json!({"values": ["lost"]}),
            (1, 5),
            "1 of 5 rows: column \"status\" is one of lost",
        ),
        (
            "relationships",
            Some("customer"),
            json!({"to": "ref('customers')", "field": "id"}),
            (1, 5),
            "1 of 5 rows: column \"customer\" has a value that is not in column \"id\" of ref('customers')",
        ),
        (
            "range",
            Some("amount"),
            json!({"min": 0}),
            (1, 5),
            "1 of 5 rows: column \"amount\" is not at least 0",
        ),
        ("range", Some("amount"), json!({"min": -0.1, "max": 99.99}), (0, 5), "5 rows pass"),
        (
            "dbt_utils.accepted_range",
            Some("amount"),
            json!({"max_value": 99.99, "inclusive": false}),
            (1, 5),
            "1 of 5 rows: column \"amount\" is not less than 99.99",
        ),
        (
            "between",
            Some("day"),
            json!({"min": "2026-11-21"}),
            (1, 5),
            "1 of 5 rows: column \"day\" is not at least 2026-11-21",
        ),
        (
            "range",
            Some("at"),
            json!({"max": "2026-11-21 09:00:00"}),
            (2, 5),
            "2 of 5 rows: column \"at\" is not at most 2026-11-21 09:00:00",
        ),
        (
            "range",
            Some("id"),
            json!({"min": "customer"}),
            (1, 5),
            "1 of 5 rows: column \"id\" is not at least customer",
        ),
        (
            "length",
            Some("status"),
            json!({"min": 5, "max": 6}),
            (3, 5),
            "3 of 5 rows: column \"status\" does not have at least 5 and at most 6 characters",
        ),
        (
            "regex",
            Some("status"),
            json!({"regex": "^[co]"}),
            (1, 5),
            "1 of 5 rows: column \"status\" does not match ^[co]",
        ),
        (
            "not_regex",
            Some("status"),
            json!({"regex": "o"}),
            (4, 5),
            "4 of 5 rows: column \"status\" matches o",
        ),
        ("expression", None, json!({"expression": "amount > 0 or id = 2"}), (0, 5), "5 rows pass"),
        (
            "expression",
            Some("amount"),
            json!({"expression": ">= 0"}),
            (1, 5),
            "1 of 5 rows: the expression does not hold: \"amount\" >= 0",
        ),
        (
            "expression",
            None,
            json!({"expression": "customer in (select id from main.customers)"}),
            (1, 5),
            "1 of 5 rows: the expression does not hold: customer in (select id from main.customers)",
        ),
        (
            "row_count",
            None,
            json!({"min": 1, "max": 4}),
            (1, 5),
            "row_count is 5, not at least 1 and at most 4",
        ),
        (
            "null_ratio",
            Some("weight"),
            json!({"max": "20%"}),
            (0, 5),
            "null_ratio of column \"weight\" is 0.2",
        ),
        (
            "null_ratio",
            Some("weight"),
            json!({"max": 0.1}),
            (1, 5),
            "null_ratio of column \"weight\" is 0.2, not at most 0.1",
        ),
        (
            "dbt_utils.not_null_proportion",
            Some("weight"),
            json!({"at_least": 0.9}),
            (1, 5),
            "null_ratio of column \"weight\" is 0.2, not at most 0.1",
        ),
        (
            "distinct_count",
            Some("id"),
            json!({"min": 5}),
            (1, 5),
            "distinct_count of column \"id\" is 4, not at least 5",
        ),
        (
            "mean",
            Some("weight"),
            json!({"min": 3, "max": 3}),
            (0, 5),
            "mean of column \"weight\" is 3.0",
        ),
        (
            "sum",
            Some("amount"),
            json!({"max": 114.88}),
            (1, 5),
            "sum of column \"amount\" is 114.89, not at most 114.88",
        ),
        (
            "sum",
            Some("amount"),
            json!({"max": 114.89}),
            (0, 5),
            "sum of column \"amount\" is 114.89",
        ),
        (
            "min",
            Some("day"),
            json!({"min": "2026-11-21"}),
            (1, 5),
            "min of column \"day\" is 2026-11-20, not at least 2026-11-21",
        ),
        ("max", Some("id"), json!({"max": 5}), (0, 5), "max of column \"id\" is 5"),
        (
            "stddev",
            Some("id"),
            json!({"max": 1}),
            (1, 5),
            "stddev of column \"id\" is 1.4832396974191326, not at most 1",
        ),
        (
            "quantile",
            Some("id"),
            json!({"quantile": 0.5, "min": 3, "max": 3}),
            (0, 5),
            "quantile 0.5 of column \"id\" is 3.0",
        ),
        (
            "freshness",
            Some("at"),
            json!({"max_age": "6h"}),
            (0, 5),
            "latest value is 2026-11-22T06:00:00, allowed age is 6h",
        ),
        (
            "freshness",
            None,
            json!({"column": "at", "max_age": "5h"}),
            (1, 5),
            "latest value is 2026-11-22T06:00:00, allowed age is 5h",
        ),
        (
            "dbt_utils.recency",
            None,
            json!({"field": "day", "datepart": "day", "interval": 1}),
            (0, 5),
            "latest value is 2026-11-22T00:00:00, allowed age is 1day",
        ),
        (
            "volume",
            None,
            json!({}),
            (0, 5),
            "5 rows, median of 3 earlier runs is 10, accepted are 0.5 to 2 times it",
        ),
        (
            "volume",
            None,
            json!({"runs": 2}),
            (1, 5),
            "5 rows, median of 2 earlier runs is 55, accepted are 0.5 to 2 times it",
        ),
        (
            "sql",
            None,
            json!({"query": "select id from this group by id having count(*) > 1;"}),
            (1, 1),
            "the query gives 1 row",
        ),
    ];
    let declared: Vec<_> = cases
        .iter()
        .map(|(rule, column, arguments, ..)| declared(rule, *column, arguments.clone()))
        .collect();
    let reports = evaluate(&declared, &orders()).await;
    for ((rule, column, arguments, (failures, rows), message), report) in cases.iter().zip(&reports)
    {
        let case = format!("{rule} {column:?} {arguments}");
        assert_eq!(report.message, *message, "{case}");
        assert_eq!((report.failures, report.rows), (*failures, *rows), "{case}");
        let status = if *failures == 0 { CheckStatus::Pass } else { CheckStatus::Fail };
        assert_eq!(report.status, status, "{case}");
    }
}

#[tokio::test]
async fn nothing_fails_on_an_empty_table_but_what_asks_for_rows() {
    let declared = [
        declared("not_null", Some("id"), json!({})),
        declared("unique", Some("id"), json!({})),
        declared(
            "relationships",
            Some("customer"),
            json!({"to": "ref('customers')", "field": "id"}),
        ),
        declared("mean", Some("weight"), json!({"min": 1})),
        declared("null_ratio", Some("id"), json!({"max": 0})),
        declared("distinct_count", Some("id"), json!({"min": 1})),
        declared("row_count", None, json!({"min": 1})),
        declared("freshness", Some("at"), json!({"max_age": "1day"})),
    ];
    let reports = evaluate(&declared, &TableReference::partial("main", "empty")).await;
    let statuses: Vec<_> = reports.iter().map(|report| report.status).collect();
    use CheckStatus::{Fail, Pass};
    assert_eq!(statuses, [Pass, Pass, Pass, Pass, Pass, Fail, Fail, Fail]);
}

#[tokio::test]
async fn samples_show_failing_rows_up_to_the_limit() {
    let mut check = declared("range", Some("id"), json!({"max": 1}));
    check.limit = 2;
    let report = one(check).await;
    assert_eq!((report.failures, report.sample.len()), (4, 2));
    let report = one(declared("unique", Some("id"), json!({}))).await;
    let expected = [("id", "3"), ("occurrences", "2")];
    let expected = expected.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    assert_eq!(report.sample, [expected.to_vec()]);
    let customers = json!({"to": "ref('customers')", "field": "id"});
    let report = one(declared("relationships", Some("customer"), customers)).await;
    assert_eq!(report.sample[0][1], ("customer".to_owned(), Some("9".to_owned())));
    let mut silent = declared("not_null", Some("status"), json!({}));
    silent.limit = 0;
    assert!(one(silent).await.sample.is_empty());
}

#[tokio::test]
async fn where_narrows_what_is_looked_at() {
    for (condition, rows, failures) in [
        ("day >= '2026-11-21'", 4, 1),
        ("customer in (select id from main.customers)", 3, 0),
        ("id = 3 -- twice", 2, 1),
    ] {
        for rule in ["not_null", "regex"] {
            let arguments = if rule == "regex" { json!({"regex": "."}) } else { json!({}) };
            let mut check = declared(rule, Some("status"), arguments);
            check.where_sql = Some(condition.to_owned());
            let report = one(check).await;
            let failures = if rule == "regex" { 0 } else { failures };
            assert_eq!(
                (report.rows, report.failures),
                (rows, failures),
                "{rule} where {condition}"
            );
        }
    }
    let condition = json!({"row_condition": "status is not null", "min": 4});
    let report = one(declared("row_count", None, condition)).await;
    assert_eq!((report.rows, report.status), (4, CheckStatus::Pass));
}

#[tokio::test]
async fn thresholds_decide_what_a_failure_is() {
    let threshold =
        |operator: &str, value| Some(Threshold { operator: operator.to_owned(), value });
    // `range id <= 2` fails for 3 of 5 rows.
    let check = |change: &dyn Fn(&mut Check)| {
        let mut check = declared("range", Some("id"), json!({"max": 2}));
        change(&mut check);
        check
    };
    use CheckStatus::{Fail, Pass, Quarantine, Warn};
    let cases = [
        (Fail, check(&|_| {})),
        (Warn, check(&|c| c.on_fail = OnFail::Warn)),
        (Quarantine, check(&|c| c.on_fail = OnFail::Quarantine)),
        (Warn, check(&|c| c.error_if = threshold(">", 3.0))),
        (Fail, check(&|c| c.error_if = threshold(">=", 3.0))),
        (
            Pass,
            check(&|c| {
                c.error_if = threshold(">", 10.0);
                c.warn_if = threshold(">", 5.0);
            }),
        ),
        (Pass, check(&|c| c.mostly = Some(Share(0.4)))),
        (Fail, check(&|c| c.mostly = Some(Share(0.41)))),
        (
            Warn,
            check(&|c| {
                c.mostly = Some(Share(0.5));
                c.on_fail = OnFail::Warn;
            }),
        ),
        (
            Quarantine,
            check(&|c| {
                c.on_fail = OnFail::Quarantine;
                c.mostly = Some(Share(0.4));
            }),
        ),
        (
            Fail,
            check(&|c| {
                c.on_fail = OnFail::Quarantine;
                c.mostly = Some(Share(0.8));
            }),
        ),
        (
            Fail,
            check(&|c| {
                c.on_fail = OnFail::Quarantine;
                c.error_if = threshold(">", 2.0);
            }),
        ),
        (
            Pass,
            check(&|c| {
                c.on_fail = OnFail::Quarantine;
                c.arguments["max"] = json!(5);
            }),
        ),
    ];
    let (expected, declared): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let reports = evaluate(&declared, &orders()).await;
    for ((expected, declared), report) in expected.iter().zip(&declared).zip(&reports) {
        assert_eq!(report.status, *expected, "{declared:?}");
    }
}

#[tokio::test]
async fn a_rule_that_cannot_be_evaluated_stops_no_other() {
    let declared = [
        declared("not_null", Some("status"), json!({})),
        declared("mean", Some("status"), json!({"min": 1})),
        declared("not_null", Some("statsu"), json!({})),
        declared("relationships", Some("id"), json!({"to": "ref('nowhere')", "field": "id"})),
        declared("expression", None, json!({"expression": "no_such_function(id)"})),
        declared("range", Some("id"), json!({"max": 5})),
    ];
    let reports = evaluate(&declared, &orders()).await;
    let statuses: Vec<_> = reports.iter().map(|report| report.status).collect();
    use CheckStatus::{Error, Fail, Pass};
    assert_eq!(statuses, [Fail, Error, Error, Error, Error, Pass]);
    assert!(reports[2].message.contains("did you mean \"status\"?"), "{}", reports[2].message);
    assert!(reports[3].message.contains("model \"nowhere\""), "{}", reports[3].message);
}

#[tokio::test]
async fn checks_of_one_table_share_scans() {
    let declared = [
        declared("not_null", Some("id"), json!({})),
        declared("unique", Some("id"), json!({})),
        declared("distinct_count", Some("id"), json!({"min": 1})),
        declared("range", Some("amount"), json!({"min": 0})),
        declared("row_count", None, json!({"min": 1})),
        declared("volume", None, json!({})),
        declared("freshness", Some("at"), json!({"max_age": "1day"})),
        declared(
            "relationships",
            Some("customer"),
            json!({"to": "ref('customers')", "field": "id"}),
        ),
    ];
    let ctx = session().await;
    let schema = ctx.table(orders()).await.expect("it is there").schema().as_arrow().clone();
    let rules = checks::parse_all(&declared, Some(&schema)).expect("the checks are valid");
    let plan = checks::compile(&rules, &orders(), &schema, &env(&[])).expect("they compile");
    assert_eq!(plan.queries().count(), 3, "{:#?}", plan.queries().collect::<Vec<_>>());
}

#[tokio::test]
async fn queries_of_their_own_fail_by_their_rows() {
    let mut check = declared("sql", None, json!({}));
    check.target = CheckTarget::Query { nodes: vec![ModelId::new("orders")], sources: Vec::new() };
    check.raw_sql = Some("select * from {{ ref('orders') }} where amount < 0".to_owned());
    let rule = checks::query_rule(&check, "select * from main.orders where amount < 0;\n")
        .expect("the query is there");
    let reports = checks::run(&session().await, &TableReference::bare("none"), &[rule], &env(&[]))
        .await
        .expect("no table is needed");
    assert_eq!((reports[0].failures, reports[0].status), (1, CheckStatus::Fail));
    assert_eq!(reports[0].sample[0][0], ("id".to_owned(), Some("2".to_owned())));
}

fn refusal(rule: &str, column: Option<&str>, arguments: Value) -> Error {
    checks::parse(&declared(rule, column, arguments), None).expect_err("it is wrong")
}

#[test]
fn wrong_arguments_name_the_nearest() {
    let cases = [
        (refusal("not_nul", Some("id"), json!({})), "has no rule \"not_nul\"", "not_null"),
        (refusal("range", Some("id"), json!({"mim": 1})), "no argument \"mim\"", "\"min\""),
        (
            refusal("range", Some("id"), json!({})),
            "neither \"min\" nor \"max\"",
            "one of the bounds",
        ),
        (refusal("range", None, json!({"min": 1})), "no column", "below a column"),
        (refusal("row_count", Some("id"), json!({"min": 1})), "about the table", "below the model"),
        (refusal("accepted_values", Some("id"), json!({})), "\"values\" is missing", "accepted"),
        (refusal("accepted_values", Some("id"), json!({"values": []})), "empty", "at least one"),
        (
            refusal("relationships", Some("id"), json!({"to": "ref(customers)", "field": "id"})),
            "not a table",
            "ref('model')",
        ),
        (refusal("freshness", Some("at"), json!({})), "\"max_age\" is missing", "1day"),
    ];
    for (error, message, hint) in cases {
        assert!(error.message().contains(message), "{error:?}");
        assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error:?}");
        assert_eq!(
            error.location().map(ToString::to_string).as_deref(),
            Some("models/orders.yml:7")
        );
    }
    for (rule, arguments) in [
        ("regex", json!({"regex": "("})),
        ("expression", json!({"expression": "1 = 1; drop table orders"})),
        ("range", json!({"min": 5, "max": 1})),
        ("quantile", json!({"quantile": 2, "min": 1})),
        ("null_ratio", json!({"max": "120%"})),
        ("length", json!({"min": -1})),
        ("unique", json!({"order_by": "id; select 1"})),
    ] {
        refusal(rule, Some("id"), arguments);
    }
}

#[test]
fn every_listed_rule_can_be_declared() {
    let arguments = json!({
        "values": ["a"], "regex": "a", "expression": "= 1", "max_age": "1h", "max": 1,
        "to": "ref('x')", "field": "f", "query": "select 1",
    });
    for info in checks::rules() {
        for name in std::iter::once(&info.name).chain(info.aliases) {
            let wanted = info.arguments.iter().map(|argument| argument.name);
            let given: serde_json::Map<_, _> = wanted
                .filter(|name| *name != "field" || info.name == "relationships")
                .filter_map(|name| Some((name.to_owned(), arguments.get(name)?.clone())))
                .collect();
            let column = (info.scope != checks::RuleScope::Table).then_some("id");
            let check = declared(name, column, Value::Object(given));
            let rule = checks::parse(&check, None).expect(name);
            assert_eq!(rule.info().name, info.name);
        }
        assert_eq!(checks::json_schema(info)["type"], "object");
    }
}

/// Ids and marks of the rows that the quarantine's query gives.
async fn marks(declared: &[Check]) -> (Vec<String>, Vec<String>) {
    let ctx = session().await;
    let schema = ctx.table(orders()).await.expect("it is there").schema().as_arrow().clone();
    let rules = checks::parse_all(declared, Some(&schema)).expect("the checks are valid");
    let quarantine = checks::quarantine(&rules, &orders(), &schema, &env(&[]))
        .expect("it compiles")
        .expect("there are such rules");
    let sql = format!(
        "select concat(id, ' ', day, ' ', coalesce(cast({CHECK_COLUMN} as varchar), 'kept')) as row from ({}) order by 1",
        quarantine.sql
    );
    let batches = ctx.sql(&sql).await.expect(&sql).collect().await.expect(&sql);
    let mut rows = Vec::new();
    for batch in &batches {
        let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)
            .expect("text is text");
        let column = arrow::array::AsArray::as_string::<i32>(column.as_ref());
        rows.extend(column.iter().flatten().map(str::to_owned));
    }
    (rows, quarantine.rules.into_iter().map(|rule| rule.check).collect())
}

fn taking_out(mut check: Check) -> Check {
    check.on_fail = OnFail::Quarantine;
    check
}

#[tokio::test]
async fn quarantine_marks_each_row_with_its_first_broken_rule() {
    let customers = json!({"to": "ref('customers')", "field": "id"});
    let (rows, rules) = marks(&[
        declared("not_null", Some("day"), json!({})),
        taking_out(declared("range", Some("amount"), json!({"min": 0}))),
        taking_out(declared("relationships", Some("customer"), customers)),
        taking_out(declared("row_count", None, json!({"min": 100}))),
    ])
    .await;
    assert_eq!(rules, ["range_orders", "relationships_orders"]);
    assert_eq!(
        rows,
        [
            "1 2026-11-20 kept",
            "2 2026-11-21 0",
            "3 2026-11-21 1",
            "3 2026-11-22 kept",
            "5 2026-11-22 kept"
        ]
    );
}

#[tokio::test]
async fn quarantine_keeps_one_row_of_a_key_and_never_loses_it_to_a_bad_one() {
    let unique = || taking_out(declared("unique", Some("id"), json!({})));
    let (rows, _) = marks(&[unique()]).await;
    // By all columns: customer 9 before null.
    assert_eq!(rows[2..4], ["3 2026-11-21 kept", "3 2026-11-22 0"]);
    let latest = taking_out(declared("unique", Some("id"), json!({"order_by": "day desc"})));
    let (rows, _) = marks(&[latest]).await;
    assert_eq!(rows[2..4], ["3 2026-11-21 0", "3 2026-11-22 kept"]);
    let customers = json!({"to": "ref('customers')", "field": "id"});
    let bad = taking_out(declared("relationships", Some("customer"), customers));
    let (rows, _) = marks(&[unique(), bad]).await;
    assert_eq!(rows[2..4], ["3 2026-11-21 1", "3 2026-11-22 kept"]);
}
