//! What checks take out, let through and stop, in whole runs.

use crate::support::{Project, Ran};

/// A shop with a table of customers and one of orders, each a model over files.
fn shop(orders: &str) -> Project {
    let project = Project::files(&[
        ("freshet.yml", "name: shop\nenvironments:\n  dev: {}\n"),
        (
            "sources/shop.yml",
            "sources:
  - name: shop
    tables:
      - name: orders
        with: { path: data/orders_*.csv }
        columns:
          - { name: id, data_type: bigint }
          - { name: customer, data_type: bigint }
          - { name: parent, data_type: bigint }
",
        ),
        ("seeds/customers.csv", "id,name\n1,Ann\n2,Bob\n"),
        (
            "models/orders.sql",
            "{{ config(materialized='incremental') }}
select id, customer, parent from {{ source('shop', 'orders') }}
",
        ),
        ("data/orders_1.csv", orders),
    ]);
    project.run(&["run", "--select", "customers"]).exits(0);
    project
}

/// The shop with checks of the column `customer`, then of the column `id`.
fn checked(orders: &str, customer: &str, id: &str) -> Project {
    let project = shop(orders);
    project.write(
        "models/orders.yml",
        &format!(
            "models:
  - name: orders
    columns:
      - name: customer
        data_tests: [{customer}]
      - name: id
        data_tests: [{id}]
"
        ),
    );
    project
}

const KNOWN: &str = "relationships: {to: ref('customers'), field: id";
const HEADER: &str = "id,customer,parent\n";

fn ids(project: &Project) -> String {
    project.cell("select string_agg(cast(id as varchar), ' ' order by id) from orders")
}

/// Status and message of a check in the last run.
fn found(project: &Project, name: &str) -> (String, String) {
    let report = project.run(&["runs", "show", "--json"]).exits(0).json();
    let tasks = report["tasks"].as_array().expect("a run has tasks");
    let mut checks = tasks.iter().flat_map(|task| task["build"]["checks"].as_array()).flatten();
    let check = checks.find(|check| check["name"].as_str().is_some_and(|n| n.contains(name)));
    let check = check.unwrap_or_else(|| panic!("no check {name} in {report:#}"));
    let text = |field: &str| check[field].as_str().expect("it is text").to_owned();
    (text("status"), text("message"))
}

fn orders(rows: &[(u32, u32)]) -> String {
    let rows: String = rows.iter().map(|(id, customer)| format!("{id},{customer},\n")).collect();
    format!("{HEADER}{rows}")
}

#[test]
fn rows_without_a_partner_are_taken_out_and_shown() {
    let project = checked(
        &orders(&[(1, 1), (2, 9), (3, 2)]),
        &format!("{{{KNOWN}, on_fail: quarantine}}}}"),
        "not_null",
    );
    project.run(&["run", "--select", "orders"]).exits(0).says(&["quarantined relationships"]);
    assert_eq!(ids(&project), "1 3");
    let (status, message) = found(&project, "relationships");
    assert_eq!(status, "quarantine");
    assert!(message.starts_with("1 of 3 rows"), "{message}");
    let letters = project.run(&["dlq", "show", "--json"]).exits(0).json_lines();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["record"], r#"{"id":2,"customer":9}"#);
    // What is published holds.
    project.run(&["test", "--select", "orders"]).exits(0);
}

#[test]
fn quarantine_beyond_its_bound_publishes_nothing() {
    for bound in ["mostly: 0.6", "error_if: '>1'"] {
        let project = checked(
            &orders(&[(1, 1), (2, 8), (3, 9)]),
            &format!("{{{KNOWN}, on_fail: quarantine, {bound}}}}}"),
            "not_null",
        );
        project.run(&["run", "--select", "orders"]).exits(1).says(&[
            "error[F0401]",
            "2 of 3 rows",
            "lets a quarantine take out",
        ]);
        project.run(&["sql", "select * from orders"]).exits(2);
        project.run(&["dlq", "ls", "--json"]).exits(0).says(&["[]"]);

        // Within the bound they are.
        project.write("data/orders_1.csv", &orders(&[(1, 1), (2, 8), (3, 2)]));
        project.run(&["run", "--select", "orders"]).exits(0);
        assert_eq!(ids(&project), "1 3", "{bound}");
    }
}

#[test]
fn quarantine_beyond_warn_if_is_said() {
    let project = checked(
        &orders(&[(1, 1), (2, 8), (3, 9)]),
        &format!("{{{KNOWN}, on_fail: quarantine, warn_if: '>1'}}}}"),
        "not_null",
    );
    project.run(&["run", "--select", "orders"]).exits(0).says(&["warnings", "took out 2 of 3"]);
    assert_eq!(ids(&project), "1");
}

#[test]
fn rows_that_were_published_before_are_a_warning_and_a_second_of_a_key_an_error() {
    let project = checked(&orders(&[(1, 9)]), "not_null", "not_null");
    project.run(&["run", "--select", "orders"]).exits(0);
    project.replace(
        "models/orders.yml",
        "[not_null]\n      - name: id",
        &format!("[{{{KNOWN}, on_fail: quarantine}}}}]\n      - name: id"),
    );
    project.write("data/orders_2.csv", &orders(&[(2, 8), (3, 1)]));
    project.run(&["run", "--select", "orders"]).exits(0).says(&["warned", "--full-refresh"]);
    assert_eq!(ids(&project), "1 3");
    assert_eq!(found(&project, "relationships").0, "warn");

    project.replace("models/orders.yml", "[not_null]", "[{unique: {on_fail: quarantine}}]");
    project.write("data/orders_3.csv", &orders(&[(3, 1), (4, 1)]));
    project.run(&["run", "--select", "orders"]).exits(1).says(&["error[F0401]", "(id)"]);
    assert_eq!(ids(&project), "1 3");
    project.run(&["run", "--select", "orders", "--full-refresh"]).exits(0);
    assert_eq!(ids(&project), "3 4");
}

#[test]
fn partners_in_the_model_itself_are_looked_for_among_older_rows_too() {
    let project = shop(&format!("{HEADER}1,1,\n2,1,1\n"));
    project.write(
        "models/orders.yml",
        "models:
  - name: orders
    columns:
      - name: parent
        data_tests: [{relationships: {to: ref('orders'), field: id, on_fail: quarantine}}]
",
    );
    project.run(&["run"]).exits(0);
    project.write("data/orders_2.csv", &format!("{HEADER}3,1,1\n4,1,3\n5,1,7\n"));
    project.run(&["run"]).exits(0);
    assert_eq!(ids(&project), "1 2 3 4");
}

#[test]
fn check_that_cannot_be_read_fails_alone_and_names_its_line() {
    let project = checked(
        &orders(&[(1, 1), (2, 9)]),
        "{accepted_values: {values: [1, 2, 9], where: 'customr > 0'}}, {expression: {expression: 'no_such(1)'}}",
        "{unique: {column: idd}}, not_null",
    );
    let run: Ran = project.run(&["run", "--select", "orders"]).exits(1);
    run.says(&[
        "1 passed, 3 not evaluated",
        "models/orders.yml:5",
        "customr",
        "no_such",
        "models/orders.yml:7",
        "has no column \"idd\"",
        "did you mean \"id\"?",
    ]);
    assert_eq!(found(&project, "not_null").0, "pass");
    assert_eq!(found(&project, "unique").0, "error");
}

#[test]
fn singular_tests_may_refer_to_sources_only() {
    let project = shop(&orders(&[(1, 1), (2, 9)]));
    project.write(
        "tests/no_nines.sql",
        "select * from {{ source('shop', 'orders') }} where customer = 9\n",
    );
    project.write(
        "tests/holds.sql",
        "select * from {{ source('shop', 'orders') }} where customer > 9\n",
    );
    project.write(
        "tests/both.sql",
        "select o.id from {{ source('shop', 'orders') }} as o
         left join {{ ref('orders') }} as m on m.id = o.id where m.id is null\n",
    );
    project.run(&["check"]).exits(0);
    // A run holds those that refer to what it builds.
    project.run(&["run"]).exits(0).says(&["1 passed"]);
    project.run(&["test"]).exits(1).says(&["2 passed, 1 failed", "no_nines", "customer=9"]);
    project.write("data/orders_1.csv", &orders(&[(1, 1), (2, 2)]));
    project.run(&["test"]).exits(0).says(&["3 passed"]);
}

#[test]
fn nothing_is_taken_out_of_a_view() {
    let project =
        checked(&orders(&[(1, 9)]), &format!("{{{KNOWN}, on_fail: quarantine}}}}"), "unique");
    project.replace("models/orders.sql", "incremental", "view");
    project.run(&["run", "--select", "orders"]).exits(1).says(&["error[F0401]", "1 of 1 rows"]);
}
