//! Rendering for builds: incremental, batches, variables, environments, secrets.

use chrono::NaiveDate;
use freshet_core::error::code;
use freshet_core::source::Interval;
use freshet_core::{ModelId, SourceId};
use freshet_project::{LoadOptions, Project, RenderContext, UnitTestRef};
use serde_json::json;

use crate::{folder, load, project};

fn sql(project: &Project, model: &str, context: &RenderContext) -> String {
    project.compile(&ModelId::from(model), context).expect("the model renders").sql
}

fn batch() -> RenderContext {
    let midnight = |day| {
        NaiveDate::from_ymd_opt(2026, 1, day).and_then(|d| d.and_hms_opt(0, 0, 0)).expect("a date")
    };
    RenderContext {
        incremental: true,
        batch: Some(Interval { start: midnight(1), end: midnight(2) }),
        ..RenderContext::default()
    }
}

const SOURCES: &str = "sources: [{name: pos, tables: [{name: sales, event_time: at, with: {path: x}}, {name: stores, with: {path: y}}]}]";

#[test]
fn batches_limit_inputs_that_have_an_event_time() {
    let microbatch = "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='at', batch_size='day', begin='2026-01-01') }}";
    let model = format!(
        "{microbatch}select '{{{{ model.batch.event_time_start }}}}', sales.x from {{{{ source('pos', 'sales') }}}} join {{{{ source('pos', 'stores') }}}} on true join {{{{ ref('up') }}}} u on true where {{{{ source('pos', 'sales').render() }}}}"
    );
    let project = project(&[
        ("freshet.yml", "name: p"),
        ("models/s.yml", SOURCES),
        ("models/up.sql", "{{ config(event_time='t') }}select 1"),
        ("models/batched.sql", &model),
        ("models/plain.sql", "select * from {{ source('pos', 'sales') }}"),
    ]);
    let window = |column: &str| {
        format!(
            "where \"{column}\" >= timestamp '2026-01-01 00:00:00' and \"{column}\" < timestamp '2026-01-02 00:00:00'"
        )
    };
    assert_eq!(
        sql(&project, "batched", &batch()),
        format!(
            "select '2026-01-01 00:00:00', sales.x from (select * from \"pos\".\"sales\" {}) as \"sales\" join \"pos\".\"stores\" on true join (select * from \"main\".\"up\" {}) u on true where \"pos\".\"sales\"",
            window("at"),
            window("t")
        )
    );
    assert_eq!(sql(&project, "plain", &batch()), "select * from \"pos\".\"sales\"");
}

#[test]
fn incremental_branches_render_only_where_asked_and_count_as_uses_always() {
    let project = project(&[
        ("freshet.yml", "name: p"),
        ("models/seen.sql", "select 1 as id"),
        (
            "models/m.sql",
            "{{ config(materialized='incremental') }}select 1{% if is_incremental() %} from {{ ref('seen') }} where {{ this }}.id{% endif %}",
        ),
    ]);
    assert_eq!(project.nodes[&ModelId::from("m")].refs, [ModelId::from("seen")]);
    assert_eq!(sql(&project, "m", &RenderContext::default()), "select 1");
    let later = RenderContext { incremental: true, ..RenderContext::default() };
    assert_eq!(
        sql(&project, "m", &later),
        "select 1 from \"main\".\"seen\" where \"main\".\"m\".id"
    );
}

#[test]
fn macros_return_values_and_call_themselves() {
    let project = project(&[
        ("freshet.yml", "name: p"),
        (
            "macros/m.sql",
            "{% macro fact(n) %}{% if n < 2 %}{{ return(1) }}{% endif %}{{ return(n * fact(n - 1)) }}{% endmacro %}\n{% macro names() %}{% set found = {} %}{% for n in ['b', 'a'] %}{% do found.update({n: [n]}) %}{% do found[n].append('x') %}{% endfor %}{{ return(found) }}{% endmacro %}",
        ),
        (
            "models/m.sql",
            "select {{ fact(5) + 1 }}, {{ names()['a'] | join('-') }}, {{ p.names().keys() | list | length }}",
        ),
    ]);
    assert_eq!(sql(&project, "m", &RenderContext::default()), "select 121, a-x, 2");
}

#[test]
fn unit_tests_put_their_tables_in_the_place_of_inputs() {
    let project = project(&[
        ("freshet.yml", "name: p"),
        ("models/s.yml", SOURCES),
        (
            "models/m.sql",
            "{{ config(materialized='incremental') }}select * from {{ source('pos', 'sales') }}{% if is_incremental() %} where id > (select max(id) from {{ this }}){% endif %}",
        ),
        (
            "models/u.yml",
            "unit_tests: [{name: u, model: m, overrides: {macros: {is_incremental: true}}, given: [{input: this, rows: []}], expect: {rows: []}}]",
        ),
    ]);
    let tables = [
        (UnitTestRef::This, "\"given\".\"a\"".to_owned()),
        (UnitTestRef::Source(SourceId::of("pos", "sales")), "\"given\".\"b\"".to_owned()),
    ];
    let compiled = project.compile_unit_test(&project.unit_tests[0], &tables).expect("it renders");
    assert_eq!(
        compiled.sql,
        "select * from \"given\".\"b\" where id > (select max(id) from \"given\".\"a\")"
    );
}

#[test]
fn lines_lead_back_to_the_template() {
    let project = project(&[
        ("freshet.yml", "name: p"),
        (
            "models/m.sql",
            "{# one\ntwo #}\nselect\n{% for c in ['a', 'b'] %}\n  {{ c }},\n{% endfor %}\n{{ three() }} as x\nfrom t",
        ),
        ("macros/m.sql", "{% macro three() %}1 +\n2{% endmacro %}"),
    ]);
    let compiled =
        project.compile(&ModelId::from("m"), &RenderContext::default()).expect("it renders");
    let found: Vec<(&str, u32)> = compiled
        .sql
        .split('\n')
        .map(str::trim)
        .zip(compiled.lines.iter().copied())
        .filter(|(text, _)| !text.is_empty())
        .collect();
    assert_eq!(
        found,
        [("select", 3), ("a,", 5), ("b,", 5), ("1 +", 7), ("2 as x", 7), ("from t", 8)]
    );
}

#[test]
fn variables_go_from_the_command_line_over_the_environment_to_the_project() {
    let dir = folder(&[
        (
            "freshet.yml",
            "name: p\nvars: {a: 1, b: 1, c: 1}\nenvironments: {dev: {vars: {b: 2, c: 2}}}",
        ),
        ("models/m.sql", "select {{ var('a') }}{{ var('b') }}{{ var('c') }}"),
    ]);
    let vars = json!({"c": 3}).as_object().cloned().expect("a mapping");
    let project = Project::load(dir.path(), &LoadOptions { vars, ..LoadOptions::default() })
        .expect("the project is valid");
    assert_eq!(sql(&project, "m", &RenderContext::default()), "select 123");
}

#[test]
fn environments_are_chosen_by_name_default_or_being_the_only_one() {
    let environments =
        |rest: &str| format!("name: p\nenvironments: {{a: {{schema: x}}, b: {{}}}}\n{rest}");
    let choose = |text: &str, name: Option<&str>| {
        let dir = folder(&[("freshet.yml", text)]);
        let environment = name.map(str::to_owned);
        Project::load(dir.path(), &LoadOptions { environment, ..LoadOptions::default() })
            .map(|project| project.environment.name)
            .map_err(|error| (error.code(), error.hint_text().map(str::to_owned)))
    };
    assert_eq!(choose("name: p", None), Ok("dev".into()));
    assert_eq!(choose("name: p\nenvironments: {prod: {}}", None), Ok("prod".into()));
    assert_eq!(choose(&environments("default_environment: b"), None), Ok("b".into()));
    assert_eq!(choose(&environments(""), Some("a")), Ok("a".into()));
    assert_eq!(choose(&environments(""), None).map_err(|(found, _)| found), Err(code::CONFIG));
    let wrong = choose("name: p\nenvironments: {prod: {}}", Some("prd")).expect_err("no such one");
    assert_eq!(wrong, (code::CONFIG, Some("did you mean \"prod\"?".into())));
}

#[test]
fn defaults_lie_below_the_project() {
    let dir =
        folder(&[("freshet.yml", "name: p\nenvironments: {dev: {lake: 's3://b/p'}, own: {}}")]);
    let of = |name: &str| {
        let environment = Some(name.to_owned());
        Project::load(dir.path(), &LoadOptions { environment, ..LoadOptions::default() })
            .expect("the project is valid")
            .environment
    };
    assert_eq!(of("dev").lake, "s3://b/p");
    let own = of("own");
    assert_eq!(own.state_dir, dir.path().join(".freshet/own"));
    assert_eq!(std::path::Path::new(&own.lake), dir.path().join(".freshet/own/lake"));
    assert_eq!((own.schema.as_str(), own.threads), ("main", None));
}

#[test]
fn secrets_are_resolved_and_never_shown() {
    let dir = folder(&[
        (
            "freshet.yml",
            "name: p\nconnections: {pg: {connector: postgres, password: '${env:PW}'}}\nenvironments: {dev: {warehouse: pg}}",
        ),
        (
            "sources/s.yml",
            "sources: [{name: s, tables: [{name: t, with: {path: 'x?${file:key.txt}'}}]}]",
        ),
        ("key.txt", "hunter3\n"),
    ]);
    let env = |name: &str| (name == "PW").then(|| "hunter2".to_owned());
    let project = Project::load(dir.path(), &LoadOptions { env: &env, ..LoadOptions::default() })
        .expect("the project is valid");
    assert_eq!(project.environment.connections["pg"].options["password"], "hunter2");
    assert_eq!(project.sources[&SourceId::of("s", "t")].options["path"], "x?hunter3");
    let shown = format!("{project:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(!serde_json::to_string(&project.state()).expect("JSON").contains("hunter"));
}

#[test]
fn a_folder_without_a_project_says_what_is_missing() {
    let error = load(folder(&[("readme.md", "")]).path()).expect_err("there is no project");
    assert_eq!(error.code(), code::PROJECT);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("freshet init")));
}
