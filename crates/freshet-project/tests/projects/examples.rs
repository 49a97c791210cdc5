//! The examples are valid projects, in each of their environments.

use std::path::Path;

use freshet_project::{LoadOptions, Project, RenderContext};

fn check(dir: &Path, environment: Option<&str>) {
    let options = LoadOptions {
        environment: environment.map(str::to_owned),
        // Any value does for a secret.
        env: &|_| Some("1".to_owned()),
        ..LoadOptions::default()
    };
    let project = Project::load(dir, &options).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(project.warnings, Vec::<String>::new());
    for node in project.nodes.values() {
        if node.config.materialized != freshet_project::Materialized::Seed {
            project.compile(&node.id, &RenderContext::default()).expect("the model renders");
        }
    }
}

#[test]
fn examples_are_valid_in_all_their_environments() {
    let examples = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(examples).expect("there are examples") {
        let dir = entry.expect("the folder can be read").path();
        if dir.join("freshet.yml").is_file() {
            check(&dir, None);
            count += 1;
        }
    }
    assert!(count > 0, "no example was found");
    let daily_sales = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../examples/daily_sales");
    check(&daily_sales, Some("warehouse"));
}
