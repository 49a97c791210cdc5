//! Unit tests of models, run.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::{Location, ModelId, Result, SourceId};
use freshet_engine::unit_tests::{UnitTestReport, UnitTestTable, run_unit_test};
use freshet_project::{UnitTest, UnitTestInput, UnitTestRef};
use serde_json::{Map, Value, json};

const MODEL: &str = "select o.store, sum(o.amount) as total, max(day) as last
    from \"main\".\"orders\" o join \"pos\".\"stores\" s on o.store = s.store group by o.store";

fn rows(value: Value) -> Vec<Map<String, Value>> {
    serde_json::from_value(value).expect("rows are objects")
}

fn orders() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("store", DataType::Utf8View, false),
        Field::new("amount", DataType::Decimal128(12, 2), true),
        Field::new("day", DataType::Date32, true),
    ]))
}

async fn run(sql: &str, given: Value, expect: Value) -> Result<UnitTestReport> {
    let node = UnitTestRef::Node(ModelId::new("orders"));
    let source = UnitTestRef::Source(SourceId::of("pos", "stores"));
    let test = UnitTest {
        name: "totals".to_owned(),
        model: ModelId::new("daily_sales"),
        given: vec![
            UnitTestInput { input: node.clone(), rows: rows(given) },
            UnitTestInput {
                input: source.clone(),
                rows: rows(json!([{"store": "a", "size": 1}, {"store": "b"}])),
            },
        ],
        expect: rows(expect),
        overrides: Map::new(),
        location: Location::line("models/daily_sales.yml", 12),
    };
    let tables = [
        (
            node,
            UnitTestTable {
                name: TableReference::partial("main", "orders"),
                schema: Some(orders()),
            },
        ),
        (source, UnitTestTable { name: TableReference::partial("pos", "stores"), schema: None }),
    ];
    run_unit_test(&SessionContext::new(), &test, sql, &tables).await
}

fn given() -> Value {
    json!([
        {"store": "a", "amount": "1.10", "day": "2026-11-01"},
        {"store": "a", "amount": 2, "day": "2026-11-03"},
        {"store": "b", "amount": null},
        {"STORE": "zzz", "amount": 5},
    ])
}

#[tokio::test]
async fn expected_rows_are_read_in_the_models_types_and_any_order() {
    let expect = json!([
        {"store": "b", "total": null, "last": null},
        {"store": "a", "total": 3.1, "last": "2026-11-03"},
    ]);
    let report = run(MODEL, given(), expect).await.expect("it runs");
    assert_eq!((report.passed, report.rows, report.diff), (true, 2, vec![]));
    let some_columns = json!([{"store": "a"}, {"Store": "b"}]);
    assert!(run(MODEL, given(), some_columns).await.expect("it runs").passed);
    let floats = "select 0.1 + 0.2 as x, count(*) as n from main.orders";
    let expect = json!([{"x": 0.3, "n": 0}]);
    assert!(run(floats, json!([]), expect).await.expect("it runs").passed);
}

#[tokio::test]
async fn a_difference_shows_missing_and_unexpected_rows() {
    let expect = json!([
        {"store": "a", "total": 3.10},
        {"store": "a", "total": 3.10},
        {"store": "b", "total": "nothing"},
    ]);
    let report = run(MODEL, given(), expect).await.expect("it runs");
    assert!(!report.passed);
    assert_eq!(report.diff, ["  store | total", "- a | 3.10", "+ b | null", "- b | nothing"]);
    let report = run(MODEL, given(), json!([])).await.expect("it runs");
    assert_eq!(report.diff.len(), 3, "{:?}", report.diff);
}

#[tokio::test]
async fn what_cannot_be_compared_is_an_error_with_its_place() {
    let cases = [
        (run(MODEL, given(), json!([{"totals": 1}])).await, "no column \"totals\""),
        (run(MODEL, json!([{"amount": "x"}]), json!([])).await, "not of type decimal(12,2)"),
        (run("select nope from main.orders", json!([]), json!([])).await, "could not run model"),
    ];
    for (result, message) in cases {
        let error = result.expect_err(message);
        assert!(error.message().contains(message), "{error:?}");
        let place = error.location().map(ToString::to_string);
        assert_eq!(place.as_deref(), Some("models/daily_sales.yml:12"));
    }
}
