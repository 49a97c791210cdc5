//! Each folder below `fixtures` is loaded and what comes of it is compared with its `expect.txt`.
//! `UPDATE_GOLDEN=1` writes the files anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use freshet_core::{Error, Result};
use freshet_project::{CheckTarget, LoadOptions, Project, RenderContext, UnitTestRef};
use serde_json::json;

fn fixtures() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/fixtures")
}

/// The environment of every fixture.
fn env(name: &str) -> Option<String> {
    match name {
        "FIXTURE_PASSWORD" => Some("hunter2".to_owned()),
        "FIXTURE_REGION" => Some("eu".to_owned()),
        _ => None,
    }
}

fn validate(connector: &str, options: &serde_json::Value) -> Result<()> {
    use freshet_core::error::code;
    if connector != "files" {
        return Err(Error::new(code::CONFIG, format!("there is no connector \"{connector}\"")));
    }
    match options.get("path") {
        Some(serde_json::Value::String(_)) => Ok(()),
        _ => Err(Error::new(code::CONFIG, "option \"path\" is missing")),
    }
}

fn load(dir: &Path) -> Result<Project> {
    Project::load(
        dir,
        &LoadOptions { env: &env, validate_connector: Some(&validate), ..LoadOptions::default() },
    )
}

fn show_errors(error: &Error) -> String {
    let mut out = String::new();
    for error in error.all() {
        let at = error.location().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{} {at}: {}", error.code(), error.chain()).expect("text grows");
        if let Some(hint) = error.hint_text() {
            writeln!(out, "    hint: {hint}").expect("text grows");
        }
    }
    out
}

/// Everything of a project that a golden file should hold, without the folder's own path.
fn show(project: &Project) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("project {} in {}", project.name, project.environment.name));
    for warning in &project.warnings {
        line(format!("warning {warning}"));
    }
    for source in project.sources.values() {
        line(format!(
            "source {} connector={:?} options={} contract={}",
            source.id,
            source.connector,
            source.options,
            json!(*source.contract)
        ));
    }
    for node in project.nodes.values() {
        line(format!(
            "{:?} {} path={} schema={} alias={} materialized={:?} tags={:?}",
            node.kind,
            node.id,
            node.path.display(),
            project.schema_of(node),
            node.alias(),
            node.config.materialized,
            node.config.tags,
        ));
        if !node.description.is_empty() {
            line(format!("  description {:?}", node.description));
        }
        for column in &node.columns {
            line(format!("  column {} {:?}", column.name, column.data_type));
        }
        line(format!(
            "  refs {:?} sources {:?}",
            node.refs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            node.sources.iter().map(ToString::to_string).collect::<Vec<_>>()
        ));
        if node.config.materialized != freshet_project::Materialized::Seed {
            match project.compile(&node.id, &RenderContext::default()) {
                Ok(compiled) => {
                    for (number, text) in compiled.lines.iter().zip(compiled.sql.split('\n')) {
                        if !text.trim().is_empty() {
                            line(format!("  {number:>4} | {text}"));
                        }
                    }
                }
                Err(error) => line(show_errors(&error)),
            }
        }
    }
    for check in &project.checks {
        let target = match &check.target {
            CheckTarget::Node(id) => format!("node {id}"),
            CheckTarget::Source(id) => format!("source {id}"),
            CheckTarget::Query { nodes, sources } => {
                let nodes = nodes.iter().map(ToString::to_string);
                let sources = sources.iter().map(|source| format!("source {source}"));
                format!("query of {:?}", nodes.chain(sources).collect::<Vec<_>>())
            }
        };
        line(format!(
            "check {} at {} on {target} column={:?} rule={} args={} where={:?} mostly={:?} error_if={:?} warn_if={:?} on_fail={:?} limit={}",
            check.name,
            check.location,
            check.column,
            check.rule,
            serde_json::Value::Object(check.arguments.clone()),
            check.where_sql,
            check.mostly,
            check.error_if,
            check.warn_if,
            check.on_fail,
            check.limit,
        ));
        if check.raw_sql.is_some() {
            match project.compile_check_sql(check) {
                Ok(compiled) => {
                    for text in compiled.sql.lines().filter(|text| !text.trim().is_empty()) {
                        line(format!("    {text}"));
                    }
                }
                Err(error) => line(show_errors(&error)),
            }
        }
    }
    for test in &project.unit_tests {
        let tables: Vec<(UnitTestRef, String)> = test
            .given
            .iter()
            .enumerate()
            .map(|(index, given)| (given.input.clone(), format!("given_{index}")))
            .collect();
        let given: Vec<_> = test.given.iter().map(|given| json!(given.rows)).collect();
        line(format!(
            "unit test {} of {} given={} expect={}",
            test.name,
            test.model,
            json!(given),
            json!(test.expect)
        ));
        match project.compile_unit_test(test, &tables) {
            Ok(compiled) => {
                for text in compiled.sql.lines().filter(|text| !text.trim().is_empty()) {
                    line(format!("    {text}"));
                }
            }
            Err(error) => line(show_errors(&error)),
        }
    }
    for sql_macro in &project.sql_macros {
        line(format!(
            "sql macro {}({}) = {}",
            sql_macro.name,
            sql_macro.parameters.join(", "),
            sql_macro.body
        ));
    }
    out
}

#[test]
fn every_fixture_gives_what_its_golden_file_says() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases = BTreeMap::new();
    for entry in std::fs::read_dir(fixtures()).expect("the fixtures are there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            cases.insert(path.file_name().map(|n| n.to_os_string()), path);
        }
    }
    assert!(cases.len() >= 10, "fixtures are missing");
    let mut wrong = Vec::new();
    for dir in cases.values() {
        let actual = match load(dir) {
            Ok(project) => show(&project),
            Err(error) => show_errors(&error),
        };
        assert!(!actual.contains("hunter2"), "a secret is shown: {actual}");
        let golden = dir.join("expect.txt");
        if update {
            std::fs::write(&golden, &actual).expect("the golden file can be written");
        }
        let expect = std::fs::read_to_string(&golden).unwrap_or_default();
        if actual != expect {
            wrong.push(format!("{}:\n{actual}", dir.display()));
        }
    }
    assert!(wrong.is_empty(), "golden files differ:\n{}", wrong.join("\n"));
}
