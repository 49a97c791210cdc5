//! Streams that write elsewhere than into their table.

use crate::stream::{SOURCE, awaits, interrupt, push, up};
use crate::support::Project;

/// A project whose model `routed` goes where `sinks` says. Connection `broker` is the tests' broker.
fn project(sinks: &str) -> Project {
    let broker = std::env::var("FRESHET_TEST_KAFKA")
        .expect("FRESHET_TEST_KAFKA is not set: `cargo xtask test` starts a broker and sets it");
    let settings = format!(
        "name: shop\nenvironments:\n  dev:\n    connections:\n      \
         broker: {{ connector: kafka, brokers: '{broker}' }}\n"
    );
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
    project.write(
        "sources/echo.yml",
        &format!(
            "sources:\n  - name: echo\n    tables:\n      - name: orders\n        connector: kafka\n        \
             connection: broker\n        with: {{ topic: {topic} }}\n        columns:\n          \
             - {{ name: id, data_type: bigint }}\n          - {{ name: city, data_type: text }}\n"
        ),
    );
    project.write(
        "models/echoed.sql",
        "{{ config(materialized='stream') }}\nselect id, city from {{ source('echo', 'orders') }}\n",
    );
    let child = up(&project, &["--select", "echoed"]);
    awaits(&project, "select count(*) from echoed", "18");
    let differ =
        "select count(*) from (select id, city from routed except select id, city from echoed)";
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
