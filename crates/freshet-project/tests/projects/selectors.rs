//! Selectors: examples, and random graphs against a slow, obvious reference.

use std::collections::BTreeSet;

use freshet_core::error::code;
use freshet_core::{Error, ModelId};
use freshet_project::{Project, ProjectState, Selection};
use proptest::prelude::*;

use crate::project;

fn select(project: &Project, select: &[&str], exclude: &[&str]) -> Result<Vec<String>, Error> {
    let own = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let selection = Selection::parse(&own(select), &own(exclude))?;
    let ids = project.select(&selection, None)?;
    Ok(ids.iter().map(ToString::to_string).collect())
}

/// `raw` → `stg` → `mid` → `top`, with `side` between `stg` and `top`.
fn shop() -> Project {
    project(&[
        ("freshet.yml", "name: shop\nmodels: {marts: {+materialized: table}}"),
        ("seeds/raw.csv", "a\n1\n"),
        ("models/s.yml", "sources: [{name: pos, tables: [{name: sales, with: {path: x}}]}]"),
        (
            "models/staging/stg.sql",
            "{{ config(tags=['nightly', 'raw']) }}select * from {{ ref('raw') }}, {{ source('pos', 'sales') }}",
        ),
        ("models/marts/mid.sql", "select * from {{ ref('stg') }}"),
        (
            "models/marts/deep/side.sql",
            "{{ config(tags='nightly') }}select * from {{ ref('stg') }}",
        ),
        ("models/marts/top.sql", "select * from {{ ref('mid') }}, {{ ref('side') }}"),
    ])
}

#[test]
fn every_method_and_operator_selects_what_dbt_selects() {
    let project = shop();
    for (selected, excluded, expect) in [
        (vec![], vec![], "raw stg mid side top"),
        (vec!["mid"], vec![], "mid"),
        (vec!["+mid"], vec![], "raw stg mid"),
        (vec!["1+mid"], vec![], "stg mid"),
        (vec!["stg+"], vec![], "stg mid side top"),
        (vec!["stg+1"], vec![], "stg mid side"),
        (vec!["1+mid+1"], vec![], "stg mid top"),
        (vec!["@mid"], vec![], "raw stg mid side top"),
        (vec!["mid side"], vec![], "mid side"),
        (vec!["mid", "side"], vec![], "mid side"),
        (vec!["+mid,tag:nightly"], vec![], "stg"),
        (vec!["tag:nightly"], vec![], "stg side"),
        (vec!["tag:night*"], vec!["side"], "stg"),
        (vec!["path:models/marts"], vec![], "mid side top"),
        (vec!["path:models/marts/*.sql"], vec![], "mid side top"),
        (vec!["models/staging/stg.sql"], vec![], "stg"),
        (vec!["file:top.sql"], vec![], "top"),
        (vec!["source:pos"], vec![], "stg"),
        (vec!["source:pos.sales+"], vec![], "stg mid side top"),
        (vec!["config.materialized:table"], vec![], "mid side top"),
        (vec!["resource_type:seed"], vec![], "raw"),
        (vec!["marts"], vec![], "mid side top"),
        (vec!["shop.marts.deep"], vec![], "side"),
        (vec!["marts.deep.*"], vec![], "side"),
        (vec!["s*"], vec![], "stg side"),
        (vec!["package:shop"], vec!["+mid"], "side top"),
        (vec![], vec!["stg+"], "raw"),
        (vec!["state:new"], vec![], "raw stg mid side top"),
    ] {
        let found = select(&project, &selected, &excluded).map(|ids| ids.join(" "));
        assert_eq!(found.expect("the selector is right"), expect, "{selected:?} {excluded:?}");
    }
}

#[test]
fn wrong_selectors_say_what_is_near() {
    let project = shop();
    for (selector, hint) in [
        ("mdi", "did you mean \"mid\"?"),
        ("tag:nightyl", "did you mean \"tag:nightly\"?"),
        ("tags:nightly", "did you mean \"tag:\"?"),
        ("state:modifed", "did you mean \"state:modified\"?"),
        ("source:poss", "did you mean \"source:pos\"?"),
        ("@mid+", "`@model` already means"),
        ("+", "write `model`"),
        ("mid,", "write `model`"),
        ("resource_type:test", "resource types are"),
        ("99999999999999999999999+mid", ""),
        ("[", ""),
    ] {
        let error = select(&project, &[selector], &[]).expect_err(selector);
        assert_eq!(error.code(), code::SELECTOR, "{selector}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{selector}: {error:?}");
    }
}

#[test]
fn states_follow_every_thing_that_decides_a_result() {
    let files = |model: &str, macro_text: &str, limit: &str, path: &str| {
        project(&[
            ("freshet.yml", &format!("name: p\nvars: {{limit: {limit}}}")),
            ("macros/m.sql", macro_text),
            (
                "models/s.yml",
                &format!("sources: [{{name: s, tables: [{{name: t, with: {{path: {path}}}}}]}}]"),
            ),
            ("models/a.sql", model),
            ("models/b.sql", "select {{ one() }}"),
            ("models/c.sql", "select {{ var('limit') }}"),
            ("models/d.sql", "select * from {{ source('s', 't') }}"),
        ])
    };
    let one = "{% macro one() %}{{ two() }}{% endmacro %}{% macro two() %}1{% endmacro %}";
    let other = "{% macro one() %}{{ two() }}{% endmacro %}{% macro two() %}2{% endmacro %}";
    let before = files("select 1", one, "1", "x").state();
    let kept = serde_json::to_string(&before).expect("JSON");
    let before: ProjectState = serde_json::from_str(&kept).expect("it reads what it wrote");
    let modified = |project: &Project| {
        let selection = Selection::parse(&["state:modified".to_owned()], &[]).expect("it is right");
        let ids = project.select(&selection, Some(&before)).expect("a state may match nothing");
        ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(modified(&files("select 1", one, "1", "x")), "");
    assert_eq!(modified(&files("select 2", one, "1", "x")), "a");
    assert_eq!(modified(&files("select 1", other, "1", "x")), "b");
    assert_eq!(modified(&files("select 1", one, "2", "x")), "c");
    assert_eq!(modified(&files("select 1", one, "1", "y")), "d");
    let fewer = project(&[("freshet.yml", "name: p"), ("models/z.sql", "select 1")]);
    let diff = before.diff(&fewer.state());
    assert_eq!((diff.added.len(), diff.removed.len(), diff.modified.len()), (1, 4, 0));
}

/// Nodes within `levels` steps along `edges`, by walking every path.
fn reach(start: usize, edges: &[(usize, usize)], forwards: bool, levels: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([start]);
    if levels > 0 {
        for (from, to) in edges {
            let (near, far) = if forwards { (from, to) } else { (to, from) };
            if *near == start {
                found.extend(reach(*far, edges, forwards, levels - 1));
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn graph_operators_agree_with_walking_every_path(
        size in 2usize..8,
        picks in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..14),
        target in any::<u8>(),
        up in 0usize..4,
        down in 0usize..4,
        at in any::<bool>(),
    ) {
        let edges: Vec<(usize, usize)> = picks
            .iter()
            .map(|(a, b)| (usize::from(*a) % size, usize::from(*b) % size))
            .filter(|(a, b)| a < b)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        // Names against the order of the graph, so that sorting by name would be seen.
        let name = |node: usize| format!("m{}", size - node);
        let mut files = vec![("freshet.yml".to_owned(), "name: p".to_owned())];
        for node in 0..size {
            let uses: Vec<String> = edges
                .iter()
                .filter(|(_, to)| *to == node)
                .map(|(from, _)| format!("{{{{ ref('{}') }}}}", name(*from)))
                .collect();
            files.push((format!("models/{}.sql", name(node)), format!("select * from {}", uses.join(", "))));
        }
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let project = project(&files);

        let position = |id: &ModelId| project.nodes.get_index_of(id).expect("it is a node");
        for (from, to) in &edges {
            let (from, to) = (ModelId::new(name(*from)), ModelId::new(name(*to)));
            prop_assert!(position(&from) < position(&to));
        }

        let target = usize::from(target) % size;
        let (selector, expect) = if at {
            let users = reach(target, &edges, true, size);
            let all = users.iter().flat_map(|user| reach(*user, &edges, false, size)).collect();
            (format!("@{}", name(target)), all)
        } else {
            let mut all = reach(target, &edges, false, up);
            all.extend(reach(target, &edges, true, down));
            let up = if up == 0 { String::new() } else { format!("{up}+") };
            let down = if down == 0 { String::new() } else { format!("+{down}") };
            (format!("{up}{}{down}", name(target)), all)
        };
        let expect: BTreeSet<String> = BTreeSet::into_iter(expect).map(name).collect();
        let found = select(&project, &[&selector], &[]).expect("the selector is right");
        let order: Vec<usize> = found.iter().map(|id| position(&ModelId::from(id.as_str()))).collect();
        prop_assert!(order.is_sorted());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expect);
    }
}
