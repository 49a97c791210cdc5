use freshet_core::Location;
use freshet_project::OnFail;

use super::*;
use crate::fixture;

/// The graph in words: `model <- what it needs ~ what it follows`, one a line, in the graph's order.
fn show(graph: &TaskGraph) -> String {
    let names = |tasks: &[TaskIndex]| {
        tasks.iter().map(|task| graph.model(*task).to_string()).collect::<Vec<_>>().join(" ")
    };
    let mut text = String::new();
    for task in graph.tasks() {
        let followed: Vec<_> =
            graph.tasks().filter(|other| graph.followers(*other).contains(&task)).collect();
        let line = format!(
            "{} <- {} ~ {}",
            graph.model(task),
            names(graph.upstream(task)),
            names(&followed)
        );
        text.push_str(line.trim_end_matches([' ', '~', '<', '-']));
        text.push('\n');
    }
    text
}

const NODES: &[(&str, &[&str])] = &[
    ("raw", &[]),
    ("v_clean", &["raw"]),
    ("e_shared", &["v_clean"]),
    ("sales", &["e_shared", "raw"]),
    ("report", &["sales", "e_shared"]),
];

fn check(nodes: &[(&str, &[&str])], selected: &[&str], expected: &str) {
    let project = fixture::project("/nowhere".as_ref(), nodes);
    let selected: Vec<_> = selected.iter().map(|name| ModelId::from(*name)).collect();
    assert_eq!(show(&TaskGraph::new(&project, &selected)), expected);
}

#[test]
fn ephemeral_nodes_hand_their_needs_on() {
    check(
        NODES,
        &["raw", "v_clean", "e_shared", "sales", "report"],
        "raw\nv_clean <- raw\nsales <- raw v_clean\nreport <- v_clean sales\n",
    );
}

#[test]
fn tables_outside_the_selection_are_taken_as_they_stand_and_views_are_looked_through() {
    check(NODES, &["raw", "report"], "raw\nreport <- raw\n");
    check(NODES, &["v_clean", "report"], "v_clean\nreport <- v_clean\n");
    check(&[("a", &[]), ("b", &["a"]), ("c", &["b"])], &["a", "c"], "a\nc\n");
}

#[test]
fn names_that_are_not_in_the_project_are_left_out() {
    check(NODES, &["raw", "nothing"], "raw\n");
    check(NODES, &[], "");
}

fn relationship(from: &str, to: &str) -> Check {
    let arguments = serde_json::json!({"to": format!("ref('{to}')"), "field": "id"});
    Check {
        name: format!("relationships_{from}_{to}"),
        target: CheckTarget::Node(from.into()),
        column: Some("id".into()),
        rule: "relationships".into(),
        arguments: arguments.as_object().cloned().expect("an object"),
        where_sql: None,
        mostly: None,
        error_if: None,
        warn_if: None,
        on_fail: OnFail::Fail,
        limit: 5,
        raw_sql: None,
        location: Location::file("models/models.yml"),
    }
}

#[test]
fn a_model_whose_check_looks_at_another_follows_it() {
    let mut project =
        fixture::project("/nowhere".as_ref(), &[("a", &[]), ("b", &[]), ("c", &["a"])]);
    project.checks.push(relationship("a", "b"));
    let all = ["a", "b", "c"].map(ModelId::from);
    assert_eq!(show(&TaskGraph::new(&project, &all)), "b\na <-  ~ b\nc <- a\n");
    // Checks that look at each other, or at what is built from their own table: first come.
    project.checks.push(relationship("b", "a"));
    project.checks.push(relationship("a", "c"));
    assert_eq!(show(&TaskGraph::new(&project, &all)), "b\na <-  ~ b\nc <- a\n");
    assert_eq!(show(&TaskGraph::new(&project, &all[..1])), "a\n");
}

#[test]
fn a_query_over_several_models_runs_with_the_last_after_the_others() {
    let mut project = fixture::project("/nowhere".as_ref(), &[("a", &[]), ("b", &[])]);
    project.checks.push(Check {
        target: CheckTarget::Query { nodes: vec!["b".into(), "a".into()], sources: vec![] },
        rule: "sql".into(),
        ..relationship("a", "b")
    });
    let all = ["a", "b"].map(ModelId::from);
    assert_eq!(show(&TaskGraph::new(&project, &all)), "a\nb <-  ~ a\n");
}

#[test]
fn references_are_read_as_dbt_writes_them() {
    for text in ["ref('a')", "ref(\"a\")", "{{ ref('a') }}", "ref('shop', 'a')", "ref ( 'a' )"] {
        assert_eq!(referenced(text), Some("a".into()), "{text}");
    }
    for text in ["", "a", "source('pos', 'sales')", "ref", "ref(", "ref()"] {
        assert_eq!(referenced(text), None, "{text}");
    }
}
