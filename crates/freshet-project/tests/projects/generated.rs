//! Large and hostile projects, made by the test.

use std::time::{Duration, Instant};

use freshet_core::ModelId;
use freshet_project::{RenderContext, schemas};
use proptest::prelude::*;

use crate::{folder, load};

/// Generous: a debug build on a busy machine; in release it is a tenth of a second.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_thousand_models_load_and_render_soon() {
    let mut files = vec![
        ("freshet.yml".to_owned(), "name: big\nmodels: {+materialized: table}".to_owned()),
        (
            "macros/m.sql".to_owned(),
            (0..50)
                .map(|n| format!("{{% macro m{n}(x) %}}({{{{ x }}}} + {n}){{% endmacro %}}\n"))
                .collect(),
        ),
    ];
    for n in 0..1000 {
        let uses =
            if n == 0 { "t".to_owned() } else { format!("{{{{ ref('model_{}') }}}}", n / 2) };
        let own = if n == 0 { String::new() } else { uses.clone() };
        files.push((
            format!("models/f{}/model_{n}.sql", n % 20),
            format!("select id, {{{{ m{}('amount') }}}} as amount\nfrom {uses} -- {own}\nwhere id > 0\n", n % 50),
        ));
    }
    for folder in 0..20 {
        let mut yaml = "models:\n".to_owned();
        for n in (folder..1000).step_by(20) {
            yaml.push_str(&format!("  - name: model_{n}\n    description: number {n}\n    columns:\n      - name: id\n        data_tests: [unique, not_null]\n      - name: amount\n        description: money\n"));
        }
        files.push((format!("models/f{folder}/all.yml"), yaml));
    }
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let dir = folder(&files);
    let start = Instant::now();
    let project = load(dir.path()).expect("the project is valid");
    let loaded = start.elapsed();
    assert_eq!((project.nodes.len(), project.checks.len()), (1000, 2000));
    for id in project.nodes.keys() {
        project.compile(id, &RenderContext::default()).expect("the model renders");
    }
    let total = start.elapsed();
    println!("1000 models: loaded in {loaded:?}, with all rendered {total:?}");
    assert!(total < LIMIT, "{total:?}");
    let last = project.nodes.get_index_of(&ModelId::from("model_999"));
    assert!(last > project.nodes.get_index_of(&ModelId::from("model_499")));
}

#[test]
fn every_schema_describes_every_field() {
    for (name, schema) in schemas() {
        let fields = schema.get("properties").and_then(|fields| fields.as_object());
        let fields = fields.unwrap_or_else(|| panic!("schema \"{name}\" has no fields"));
        for (field, about) in fields {
            let text = about.get("description").and_then(|text| text.as_str());
            assert!(text.is_some_and(|text| !text.is_empty()), "{name}.{field} is not described");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any text in any place is a project or an error, never a panic; and errors have places.
    #[test]
    fn hostile_files_are_errors_with_places(
        yaml in r#"(models|sources|name|columns|- |: |\{|\}|\[|\]|&a |\*a|"|'|<<|!!x |[ \n]|a|\{\{|\}\}|\||>|[0-9]){0,40}"#,
        sql in r#"(\{\{|\}\}|\{%|%\}|\{#|#\}| set x = | for | if | macro m\(\) | endmacro | do | ref\('a'\)|\(|\)|\[|\]|'|"|x|\.append\(|é|\n){0,30}"#,
    ) {
        let dir = folder(&[
            ("freshet.yml", "name: p"),
            ("models/a.yml", &yaml),
            ("models/a.sql", &sql),
            ("macros/m.sql", &sql),
        ]);
        match load(dir.path()) {
            Ok(project) => {
                for id in project.nodes.keys() {
                    // What rendered once may still fail with real names: that is an error too.
                    let _ = project.compile(id, &RenderContext::default());
                }
            }
            Err(error) => {
                for error in error.all() {
                    prop_assert!(error.location().is_some(), "{error:?}");
                }
            }
        }
    }
}
