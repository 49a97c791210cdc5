//! What users do wrong and what goes wrong around them: each time the object, the place, the way
//! out, and the exit code.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::{Project, Ran, freshet};

/// Something done to a new project.
type Deed = fn(&Project);

#[test]
fn each_error_names_its_object_its_place_and_the_way_out() {
    let cases: [(Deed, &[&str], i32, &[&str]); 12] = [
        (
            |p| p.write("models/x.sql", "select * form {{ ref('stg_orders') }}"),
            &["run"],
            2,
            &[
                "error[F0301]",
                "model \"x\"",
                "end of statement, found: form",
                "--> models/x.sql:1:10",
            ],
        ),
        (
            |p| p.write("models/x.sql", "select order_idd from {{ ref('stg_orders') }}"),
            &["run"],
            2,
            &["error[F0301]", "order_idd", "Did you mean", "--> models/x.sql"],
        ),
        (
            |p| {
                let sql = "{{ config(materialized='table') }}
                           select cast(status as int) as s from {{ ref('stg_orders') }}";
                p.write("models/x.sql", sql);
            },
            &["run"],
            1,
            &["error[F0302]", "Cannot cast string", "--> models/x.sql", "hint: `try_cast`"],
        ),
        (
            |p| p.write("models/x.sql", "{{ config(materialized='tabel') }} select 1 as a"),
            &["check"],
            2,
            &["error[F0109]", "models/x.sql:1", "did you mean \"table\"?"],
        ),
        (
            |p| p.replace("sources/shop.yml", "data_type: bigint", "data_type: bigin"),
            &["check"],
            2,
            &["error[F0109]", "sources/shop.yml:15", "did you mean \"bigint\"?"],
        ),
        (
            |p| p.write("models/models.yml", "models:\n  - name: a\n   columns: [\n"),
            &["check"],
            2,
            &["error[F0102]", "models/models.yml:3", "hint: check the indentation"],
        ),
        (
            |p| std::fs::remove_dir_all(p.dir.join("data")).expect("it is there"),
            &["run"],
            1,
            &["error[F0201]", "\"data/\"", "--> sources/shop.yml:", "hint: relative paths"],
        ),
        (
            |p| p.write("seeds/customers.csv", "a,b\n1,2\n3\n"),
            &["run", "--select", "customers"],
            2,
            &["error[F0109]", "seed \"customers\"", "seeds/customers.csv:3", "hint: mend the line"],
        ),
        (
            |_| (),
            &["run", "--select", "stg_orders"],
            1,
            &["not evaluated", "models/models.yml:11", "`freshet run --select customers`"],
        ),
        (|_| (), &["run", "--select", "nope"], 2, &["error[F0107]", "hint: `freshet ls`"]),
        (|_| (), &["run", "--env", "prod"], 2, &["error[F0109]", "environments are dev"]),
        (
            |p| p.write(".freshet", "a file where a folder is to be"),
            &["run"],
            1,
            &["error[F0002]", ".freshet/dev"],
        ),
    ];
    for (deed, args, code, expected) in cases {
        let project = Project::init();
        deed(&project);
        project.run(args).exits(code).says(expected);
    }
}

#[test]
fn bytes_that_are_no_text_are_not_inferred_from() {
    let project = Project::init();
    let noise: Vec<u8> =
        (0..3000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(project.dir.join("data/noise.bin"), noise).expect("file is written");
    let ran = project.run(&["sources", "infer", "data/noise.bin"]).exits(1);
    assert_eq!(ran.says(&["error[F0201]", "\"data/noise.bin\" is not text", "hint: "]).out, "");
}

#[test]
fn source_without_files_is_said() {
    let project = Project::init();
    for day in 1..=3 {
        let path = project.dir.join(format!("data/orders_2026100{day}.csv"));
        std::fs::remove_file(path).expect("it is there");
    }
    let ran = project.run(&["run"]).exits(0);
    ran.says(&["warnings", "source \"shop.orders\" has no file at \"data/orders_"]);
}

#[test]
fn checking_touches_nothing() {
    let project = Project::init();
    project.run(&["check"]).exits(0);
    assert!(!project.dir.join(".freshet").exists());
    project.run(&["run"]).exits(0);
    project.run(&["check"]).exits(0);
}

#[test]
fn pipe_that_is_closed_hides_no_failure() {
    let project = Project::init();
    project.replace("models/models.yml", "min: 0", "min: 100000");
    let mut child = freshet(&["run"])
        .current_dir(&project.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

/// A project with a model that never ends, and a run of it that has begun to compute it.
fn endless() -> (Project, Child) {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    project.write(
        "models/endless.sql",
        "{{ config(materialized='table') }}
         select count(*) as n from generate_series(1, 1000000000000000) as t(a) where a % 7 = 3",
    );
    let mut child = freshet(&["run", "--full-refresh", "--json"])
        .current_dir(&project.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let is_computing = |line: &str| line.contains("endless") && line.contains("\"execute\"");
    assert!(lines.any(|line| is_computing(&line.expect("it is text"))), "it computes");
    // Whoever reads on keeps the pipe open.
    std::thread::spawn(move || lines.for_each(drop));
    (project, child)
}

#[cfg(unix)]
fn interrupt(child: &mut Child) -> Option<i32> {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
    child.wait().expect("it ends").code()
}

#[cfg(unix)]
#[test]
fn interrupted_run_ends_in_order_and_can_be_repeated() {
    let (project, mut child) = endless();
    assert_eq!(interrupt(&mut child), Some(130));
    let runs = project.run(&["runs", "--json"]).exits(0).json();
    assert_eq!(runs[0]["status"], "cancelled");
    let tables = project.run(&["lake", "ls", "--json"]).exits(0).json();
    let tables = tables.as_array().expect("it is a list").iter();
    assert!(tables.clone().all(|table| table["table"] != "main.endless"), "{tables:?}");
    std::fs::remove_file(project.dir.join("models/endless.sql")).expect("it is there");
    project.run(&["run"]).exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "11");
}

#[cfg(unix)]
#[test]
fn second_run_at_once_is_refused_and_reading_is_not() {
    let (project, mut child) = endless();
    let refused: Ran = project.run(&["run"]).exits(1);
    refused.says(&["error[F0005]", &format!("process {}", child.id()), "hint: wait for it"]);
    assert_eq!(project.cell("select count(*) from stg_orders"), "11");
    assert_eq!(interrupt(&mut child), Some(130));
}
