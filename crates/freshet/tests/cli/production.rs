//! The production environment of the guide, with a bucket and a server that are here.

use tokio_postgres::config::Host;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::support::{Project, Ran, freshet};

const GUIDE: &str = include_str!("../../../../docs/guide.md");

/// The guide's environment, below `environments:`.
fn environment() -> &'static str {
    let (_, rest) =
        GUIDE.split_once("```yaml\nenvironments:\n  prod:\n").expect("the guide has it");
    rest.split_once("```").expect("the block ends").0
}

pub fn server() -> tokio_postgres::Config {
    let address = std::env::var("FRESHET_TEST_POSTGRES")
        .expect("FRESHET_TEST_POSTGRES names a server: `cargo xtask test` starts one");
    address.parse().expect("FRESHET_TEST_POSTGRES is a connection string")
}

/// The rows of a query, values parted by spaces.
pub fn query(sql: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a thread").block_on(async {
        let (client, connection) = server().connect(NoTls).await.expect("the server answers");
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await.expect("the query runs");
        drop(client);
        connection.await.expect("no panic").expect("the connection ends well");
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|column| row.get(column).unwrap_or("").to_owned());
                Some(values.collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    })
}

#[test]
fn the_guides_production_environment_runs() {
    let project = Project::init();
    let name = format!("prod_{}", uuid::Uuid::new_v4().simple());
    let server = server();
    let Host::Tcp(host) = &server.get_hosts()[0] else { panic!("the server has an address") };
    let endpoint = std::env::var("FRESHET_TEST_S3")
        .expect("FRESHET_TEST_S3 is the address of an S3 server: `cargo xtask test` starts one");
    let mut prod = format!("  prod:\n{}", environment());
    for (there, here) in [
        ("s3://company-lake/freshet", format!("s3://freshet-test/{name}")),
        (
            "region: eu-central-1",
            format!(
                "region: us-east-1, endpoint: \"{endpoint}\", path_style: true, \
                 access_key_id: test, secret_access_key: test"
            ),
        ),
        ("host: db.internal", format!("host: {host}\n        port: {}", server.get_ports()[0])),
        ("user: loader", format!("user: {}", server.get_user().expect("a user"))),
        (
            "database: analytics",
            format!("database: {}\n        schema: {name}", server.get_dbname().expect("a name")),
        ),
    ] {
        assert!(prod.contains(there), "the guide no longer has {there:?}");
        prod = prod.replace(there, &here);
    }
    project.replace("freshet.yml", "environments:\n", &format!("environments:\n{prod}"));
    project.replace(
        "models/daily_revenue.sql",
        "materialized='table'",
        "materialized='table', load={'mode': 'replace', 'table': 'daily_revenue'}",
    );
    query(&format!("create schema {name}"));

    let password = server.get_password().expect("a password");
    let run = |args: &[&str]| -> Ran {
        let mut command = freshet(args);
        command.env("WAREHOUSE_PASSWORD", String::from_utf8_lossy(password).as_ref());
        command.current_dir(&project.dir).output().expect("the binary starts").into()
    };
    let ran = run(&["run", "--env", "prod"]).exits(0);
    assert!(!ran.out.contains("WAREHOUSE") && !ran.err.contains("WAREHOUSE"), "no secret");
    let ours = run(&[
        "sql",
        "--env",
        "prod",
        "--format",
        "csv",
        "select concat(day, ' ', country, ' ', orders) as row from daily_revenue order by 1",
    ])
    .exits(0);
    let ours: Vec<&str> = ours.out.lines().skip(1).collect();
    let theirs =
        query(&format!("select day, country, orders from {name}.daily_revenue order by 1, 2"));
    assert!(!theirs.is_empty());
    assert_eq!(ours, theirs);
    assert!(!project.dir.join(".freshet/prod/lake").exists(), "the lake lies in the bucket");
    query(&format!("drop schema {name} cascade"));
}
