//! Streams that write elsewhere than into their table.

use tokio_postgres::config::Host;

use crate::production::{query, server};
use crate::stream::{SOURCE, awaits, interrupt, push, up};
use crate::support::Project;

/// The connections of the tests' broker and database.
fn settings(schema: &str) -> String {
    let broker = std::env::var("FRESHET_TEST_KAFKA")
        .expect("FRESHET_TEST_KAFKA is not set: `cargo xtask test` starts a broker and sets it");
    let server = server();
    let Host::Tcp(host) = &server.get_hosts()[0] else { panic!("the server has an address") };
    let password = server.get_password().expect("a password");
    format!(
        "name: shop\nenvironments:\n  dev:\n    connections:\n      \
         broker: {{ connector: kafka, brokers: '{broker}' }}\n      \
         warehouse: {{ connector: postgres, host: {host}, port: {}, user: {}, password: '{}', \
         database: {}, schema: {schema} }}\n",
        server.get_ports()[0],
        server.get_user().expect("a user"),
        String::from_utf8_lossy(password),
        server.get_dbname().expect("a name"),
    )
}

/// A model that reads a topic back into a table, for its rows to be counted.
fn echo(project: &Project, name: &str, topic: &str, columns: &[(&str, &str)], more: &str) {
    let declared: String = columns
        .iter()
        .map(|(name, kind)| format!("          - {{ name: {name}, data_type: {kind} }}\n"))
        .collect();
    project.write(
        &format!("sources/{name}.yml"),
        &format!(
            "sources:\n  - name: {name}\n    tables:\n      - name: rows\n        connector: kafka\n        \
             connection: broker\n        with: {{ topic: {topic}{more} }}\n        columns:\n{declared}"
        ),
    );
    let key = if more.is_empty() { "" } else { ", unique_key='city'" };
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    project.write(
        &format!("models/{name}_rows.sql"),
        &format!(
            "{{{{ config(materialized='stream'{key}) }}}}\nselect {} from {{{{ source('{name}', 'rows') }}}}\n",
            names.join(", ")
        ),
    );
}

/// A project whose model `routed` goes where `sinks` says. Connection `broker` is the tests' broker.
fn project(sinks: &str) -> Project {
    let settings = settings("public");
    let model = format!(
        "{{{{ config(materialized='stream', sinks=[{sinks}]) }}}}\n\
         select id, upper(city) as city from {{{{ source('shop', 'orders') }}}}\n"
    );
    Project::files(&[
        ("freshet.yml", settings.as_str()),
        ("sources/shop.yml", SOURCE),
        ("models/routed.sql", model.as_str()),
    ])
}

/// A topic that no other test has.
fn topic(name: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unique = folder.path().file_name().and_then(|name| name.to_str()).expect("a name");
    format!("{name}-{}", unique.trim_start_matches('.'))
}

#[test]
fn rows_go_to_each_sink_that_is_named() {
    let topic = topic("routed");
    let project = project(
        &format!(
            "'table', 'blackhole', {{'connector': 'print', 'prefix': 'seen: '}}, \
         {{'connector': 'kafka', 'connection': 'broker', 'topic': '{topic}', \
           'key': 'id', 'create_partitions': 1}}"
        )
        .replace("'key': 'id'", "'key': ['id']"),
    );
    push(&project, 0..20);
    let child = up(&project, &["--select", "routed"]);
    awaits(&project, "select count(*) from routed", "18");
    let said = interrupt(&project, child);
    for promise in [
        "routed: into table \"main.routed\" of the lake, exactly once: rows are seen after the next commit",
        "routed: into nowhere, at least once: rows are seen as they arrive",
        "routed: into standard output, at least once",
        "exactly once: rows are seen after the next checkpoint, every 20ms",
        "18 rows given, 18 committed to table",
    ] {
        assert!(said.contains(promise), "{promise:?} is missing:\n{said}");
    }
    let printed = project.read("up.out");
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 18, "{printed}");
    assert!(printed.contains("seen: +I {\"id\":1,\"city\":\"LYON\"}"), "{printed}");
    // What is in the topic, read by another model.
    echo(&project, "echo", &topic, &[("id", "bigint"), ("city", "text")], "");
    let child = up(&project, &["--select", "echo_rows"]);
    awaits(&project, "select count(*) from echo_rows", "18");
    let differ =
        "select count(*) from (select id, city from routed except select id, city from echo_rows)";
    awaits(&project, differ, "0");
    interrupt(&project, child);
}

#[test]
fn a_table_that_the_list_leaves_out_is_not_made() {
    let project = project("'blackhole'");
    push(&project, 0..10);
    let mut child = up(&project, &[]);
    let begun = std::time::Instant::now();
    while !project.read("up.log").contains("nowhere") {
        assert!(begun.elapsed().as_secs() < 30, "{}", project.read("up.log"));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    project.run(&["sql", "select count(*) from routed"]).exits(2).says(&["does not exist"]);
}

#[test]
fn what_is_wrong_with_a_sink_is_said_with_its_place() {
    for (sinks, says) in [
        ("'blackhol'", &["there is no connector \"blackhol\"", "did you mean \"blackhole\"?"][..]),
        ("'csv'", &["connector \"csv\" cannot be written as a stream"]),
        ("{'connector': 'print', 'prefx': 'x'}", &["no option \"prefx\"", "\"prefix\"?"]),
        ("{'connector': 'kafka', 'connection': 'brokr'}", &["connection \"brokr\"", "\"broker\"?"]),
        ("{'connector': 'print', 'connection': 'broker'}", &["one of connector \"kafka\""]),
        ("'blackhole', 'blackhole'", &["two sinks of model \"routed\" write to nowhere"]),
        (
            "{'connector': 'kafka', 'connection': 'broker', 'key': ['idd']}",
            &["the result has no column \"idd\"", "did you mean \"id\"?"],
        ),
    ] {
        let project = project(sinks);
        let ran = project.run(&["check"]);
        ran.exits(2).says(says).says(&["models/routed.sql:1"]);
    }
    let project = project("'table'");
    project.replace("models/routed.sql", "materialized='stream'", "materialized='table'");
    project.run(&["check"]).exits(2).says(&["model \"routed\" has sinks and is no stream"]);
}

/// How often a process is killed in [`killed_processes_lose_and_double_nothing_anywhere`].
fn kills() -> usize {
    std::env::var("FRESHET_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100)
}

#[test]
fn killed_processes_lose_and_double_nothing_anywhere() {
    let (orders, cities) = (topic("orders"), topic("cities"));
    let schema = format!("killed_{}", uuid::Uuid::new_v4().simple());
    let to = |topic: &str, more: &str| {
        format!(
            "'table', {{'connector': 'kafka', 'connection': 'broker', 'topic': '{topic}', \
             'create_partitions': 2{more}}}, {{'connection': 'warehouse'}}"
        )
    };
    let project = Project::files(&[
        ("freshet.yml", settings(&schema).as_str()),
        ("sources/shop.yml", SOURCE),
        (
            "models/every_order.sql",
            &format!(
                "{{{{ config(materialized='stream', sinks=[{}]) }}}}\n\
                 select id, upper(city) as city from {{{{ source('shop', 'orders') }}}}\n",
                to(&orders, "")
            ),
        ),
        (
            "models/per_city.sql",
            &format!(
                "{{{{ config(materialized='stream', unique_key='city', sinks=[{}]) }}}}\n\
                 select city, count(*) as orders, sum(id) as ids\n\
                 from {{{{ source('shop', 'orders') }}}} group by city\n",
                to(&cities, ", 'upsert': true")
            ),
        ),
    ]);
    query(&format!("drop schema if exists {schema} cascade"));
    let mut rng = freshet_testkit::seeds::rng(11);
    let mut pushed = 0;
    for kill in 0..kills() {
        if kill % 4 == 0 {
            push(&project, pushed..pushed + 200);
            pushed += 200;
        }
        let mut child = up(&project, &["--select", "every_order", "per_city"]);
        let wait = rand::Rng::random_range(&mut rng, 100..900);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
    }
    let all: Vec<u64> = (0..pushed).filter(|id| id % 10 != 3).collect();
    let (count, sum) = (all.len(), all.iter().sum::<u64>());
    let child = up(&project, &["--select", "every_order", "per_city"]);
    let rows = format!("{count} {count} {sum}");
    let totals = "count(*) || ' ' || count(distinct id) || ' ' || sum(id)";
    let per_city =
        "count(*) || ' ' || count(distinct city) || ' ' || sum(orders) || ' ' || sum(ids)";
    let cities_expected = format!("3 3 {count} {sum}");
    awaits(&project, &format!("select {totals} from every_order"), &rows);
    awaits(&project, &format!("select {per_city} from per_city"), &cities_expected);
    let said = interrupt(&project, child);
    let in_postgres = |sql: String| query(&sql.replace(" from ", &format!(" from {schema}.")));
    assert_eq!(
        in_postgres(format!("select {totals} from every_order")),
        std::slice::from_ref(&rows),
        "{said}"
    );
    assert_eq!(
        in_postgres(format!("select {per_city} from per_city")),
        std::slice::from_ref(&cities_expected),
        "{said}"
    );
    echo(&project, "a", &orders, &[("id", "bigint"), ("city", "text")], "");
    let columns = [("city", "text"), ("orders", "bigint"), ("ids", "bigint")];
    echo(&project, "b", &cities, &columns, ", tombstones: delete, key: [city]");
    let child = up(&project, &["--select", "a_rows", "b_rows"]);
    awaits(&project, &format!("select {totals} from a_rows"), &rows);
    awaits(&project, &format!("select {per_city} from b_rows"), &cities_expected);
    interrupt(&project, child);
    query(&format!("drop schema {schema} cascade"));
}

#[test]
fn an_updating_result_needs_a_sink_that_takes_updates() {
    let project = project("'table'");
    for (settings, says) in [
        ("", "table \"main.counts\" of the lake is only appended to"),
        (
            ", sinks=[{'connector': 'kafka', 'connection': 'broker', 'topic': 't'}]",
            "topic \"t\" is only appended to",
        ),
        (", sinks=[{'connector': 'postgres', 'connection': 'warehouse'}]", "is only appended to"),
        (", unique_key='town'", "the result has no column \"town\""),
    ] {
        project.write(
            "models/counts.sql",
            &format!(
                "{{{{ config(materialized='stream'{settings}) }}}}\n\
                 select city, count(*) as orders from {{{{ source('shop', 'orders') }}}} group by city\n"
            ),
        );
        let ran = project.run(&["up", "--select", "counts"]);
        ran.exits(2).says(&[says, "models/counts.sql", "unique_key"]);
    }
}

#[test]
fn rows_that_no_table_of_postgres_can_hold_are_dead_letters() {
    let schema = "stream_refused";
    query(&format!("drop schema if exists {schema} cascade; create schema {schema}"));
    let settings = settings(schema);
    let project = Project::files(&[
        ("freshet.yml", settings.as_str()),
        ("sources/shop.yml", SOURCE),
        (
            "models/routed.sql",
            "{{ config(materialized='stream', sinks=['table', {'connector': 'postgres', 'connection': 'warehouse'}]) }}\n\
             select id, case when id % 5 = 0 then city || chr(0) else city end as city\n\
             from {{ source('shop', 'orders') }}\n",
        ),
    ]);
    push(&project, 0..20);
    let child = up(&project, &["--select", "routed"]);
    // Of the twenty orders two are none at all; the table of the lake has all the others.
    awaits(&project, "select count(*) from routed", "18");
    awaits(&project, "select count(*) from freshet.dead_letters where rule = 'refused'", "4");
    let shown = project.run(&["dlq", "show", "--rule", "refused", "-n", "1", "--json"]).exits(0);
    let letter = &shown.json_lines()[0];
    assert_eq!(letter["column"], "city");
    assert!(letter["message"].as_str().is_some_and(|why| why.contains("NUL")), "{letter}");
    assert!(letter["record"].as_str().is_some_and(|row| row.contains("\\u0000")), "{letter}");
    interrupt(&project, child);
    let rows = query(&format!("select count(*)::text from {schema}.routed"));
    assert_eq!(rows, ["14"]);
}
