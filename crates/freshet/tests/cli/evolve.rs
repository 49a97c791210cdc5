//! Contracts that follow the data: wider types, fields that first appear far behind a file's head.

use crate::support::Project;

const SOURCE: &str = r#"sources:
  - name: meter
    tables:
      - name: readings
        connector: files
        with: { path: "readings/*.EXTENSION" }
        max_bad: 100%
        contract: { bad_values: evolve }
        columns:
          - { name: id, data_type: int, constraints: [{ type: not_null }] }
          - { name: level, data_type: smallint, constraints: [{ type: min, value: 0 }] }
          - { name: day, data_type: date }
"#;

fn project(extension: &str) -> Project {
    let project = Project::init();
    project.write("sources/meter.yml", &SOURCE.replace("EXTENSION", extension));
    project.write(
        "models/levels.sql",
        "{{ config(materialized='incremental', on_schema_change='append_new_columns') }}\n\
         select * exclude (_file, _offset) from {{ source('meter', 'readings') }}\n",
    );
    project
}

fn types(project: &Project) -> String {
    project.cell(
        "select replace(arrow_typeof(id) || ' ' || arrow_typeof(level) || ' ' || arrow_typeof(day), ',', '') \
         from levels limit 1",
    )
}

#[test]
fn a_type_is_widened_as_far_as_values_need_and_stays_so() {
    let project = project("csv");
    project.write(
        "readings/a.csv",
        "id,level,day\n1,7,2026-10-01\n5000000000,7,2026-10-01\n3,-1,2026-10-02\n\
         4,70000,2026-10-02\n5,2.25,2026-10-02\n,1,2026-10-02\n7,9,2026-10-03 12:30:00\n",
    );
    // What breaks a constraint or is missing is mended by no type.
    project.run(&["run", "--select", "levels"]).exits(0).says(&["constraint 1, not_null 1"]);
    assert_eq!(types(&project), "Int64 Decimal128(38 9) Timestamp(µs)");
    assert_eq!(project.cell("select count(*) from levels"), "5");
    assert_eq!(project.cell("select sum(id) from levels"), "5000000017");
    assert_eq!(project.cell("select sum(level) from levels"), "70025.250000000");
    let shown = project.run(&["runs", "show"]).exits(0);
    shown.says(&[
        "data of meter.readings:",
        "from int to bigint",
        "from smallint to decimal(38,9)",
    ]);

    // The next files need none of it, and their rows still fit the table.
    project.write("readings/b.csv", "id,level,day\n8,1,2026-10-04\n");
    project.run(&["run", "--select", "levels"]).exits(0);
    let shown = project.run(&["runs", "show"]).exits(0);
    assert!(!shown.out.contains("data of"), "{}", shown.out);
    assert_eq!(project.cell("select count(*) from levels"), "6");
    assert_eq!(project.cell("select arrow_typeof(id) from meter.readings limit 1"), "Int64");

    // A table cannot take what is wider than its columns: nothing is lost, and the way out is named.
    project.write("readings/c.csv", "id,level,day\nnine,1,2026-10-04\n");
    project
        .run(&["run", "--select", "levels"])
        .exits(1)
        .says(&["\"id\" is bigint in the table and text in the result", "--full-refresh"]);
    assert_eq!(project.cell("select count(*) from levels"), "6");
    project.run(&["run", "--select", "levels", "--full-refresh"]).exits(0);
    assert_eq!(project.cell("select count(*) from levels"), "7");
    assert_eq!(project.cell("select count(*) from levels where id = 'nine'"), "1");

    // Another declaration starts anew.
    project.replace("sources/meter.yml", "name: id, data_type: int", "name: id, data_type: bigint");
    project.write("readings/c.csv", "id,level,day\n9,1,2026-10-04\n");
    project.run(&["run", "--select", "levels", "--full-refresh"]).exits(0);
    assert_eq!(types(&project), "Int64 Decimal128(38 9) Timestamp(µs)");
}

#[test]
fn a_field_that_first_appears_behind_the_head_is_a_column() {
    let project = project("ndjson");
    let mut lines: Vec<String> =
        (0..4000).map(|id| format!(r#"{{"id":{id},"level":1,"day":"2026-10-01"}}"#)).collect();
    lines[3000] = r#"{"id":3000,"level":2,"day":"2026-10-01","operator":"Ada"}"#.into();
    lines[3500] = r#"{"id":"3500b","level":2,"day":"2026-10-01","site":{"x":1}}"#.into();
    // What is no object has no fields.
    lines[3600] = r#"{"id":3600,"broken":1,"#.into();
    project.write("readings/a.ndjson", &(lines.join("\n") + "\n"));
    assert!(lines[..3000].join("\n").len() > 64 << 10, "the head ends before the first new field");
    project.run(&["run", "--select", "levels"]).exits(0).says(&["1 (syntax 1)"]);
    assert_eq!(project.cell("select count(*) from levels"), "3999");
    assert_eq!(project.cell("select operator from levels where operator is not null"), "Ada");
    assert_eq!(project.cell("select length(site) from levels where id = '3500b'"), "7");
    project.run(&["runs", "show"]).exits(0).says(&[
        "data of meter.readings:",
        "from int to text",
        "operator",
        "site",
    ]);
    let columns = "select count(*) from information_schema.columns where table_name = 'levels' \
        and column_name = 'broken'";
    assert_eq!(project.cell(columns), "0");
}

const EVOLVING: &str = r#"sources:
  - name: till
    tables:
      - name: sales
        connector: files
        with: { path: "PATH", OPTIONS }
        contract: { bad_values: evolve }
        columns:
          - { name: id, data_type: int }
          - { name: note, data_type: text }
"#;

#[test]
fn records_over_several_lines_and_parquet_evolve_as_well() {
    let project = Project::init();
    let source = |path: &str, options: &str| {
        project
            .write("sources/till.yml", &EVOLVING.replace("PATH", path).replace("OPTIONS", options));
    };
    project.write(
        "models/sold.sql",
        "{{ config(materialized='table') }} select id, note from {{ source('till', 'sales') }}\n",
    );
    // Workers guess where records begin; a wrong guess must not widen anything.
    source("till/*.csv", "split_size: 256B, format_options: { quoted_newlines: true }");
    let record = |id: u64| format!("{id},\"a\nx,{id},\"\"b\"\"\n\"\n");
    let records: String =
        (0..400).map(|n| record(if n == 300 { 5_000_000_000 } else { n })).collect();
    project.write("till/a.csv", &format!("id,note\n{records}"));
    project.run(&["run", "--select", "sold"]).exits(0);
    assert_eq!(project.cell("select arrow_typeof(id) from sold limit 1"), "Int64");
    assert_eq!(project.cell("select count(*) from sold"), "400");
    let sum = (0..400).sum::<u64>() - 300 + 5_000_000_000;
    assert_eq!(project.cell("select sum(id) from sold"), sum.to_string());

    project.write(
        "models/wide.sql",
        "{{ config(materialized='table', export={'path': 'out', 'format': 'parquet'}) }}\n\
         select 5000000000 as id, 'x' as note union all select 1, 'y'\n",
    );
    source("out/*.parquet", "format: parquet");
    project.replace("sources/till.yml", "data_type: int", "data_type: smallint");
    project.run(&["run", "--select", "wide"]).exits(0);
    project.run(&["run", "--select", "sold"]).exits(0);
    assert_eq!(project.cell("select arrow_typeof(id) from sold limit 1"), "Int64");
    assert_eq!(project.cell("select sum(id) from sold"), "5000000001");
}
