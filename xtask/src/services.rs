//! The servers that tests need: what is missing is installed, each is started and waited for.
//!
//! `up` may be called at any time; where everything runs it changes nothing. All listen on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::paths;

mod apt;
pub mod java;
mod kafka;
mod moto;
mod postgres;
mod python;
mod schema_registry;

pub use python::environment;

/// What to do with the services.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Action {
    /// Install what is missing, start what is stopped, print the addresses
    Up,
    /// Stop what runs; data is kept
    Down,
    /// Say what runs
    Status,
}

/// What tests are told through their environment.
#[derive(Debug)]
pub struct Addresses {
    /// Names and values of the variables.
    pub variables: Vec<(&'static str, String)>,
}

/// Does what the command line asks.
pub fn run(action: Action) -> Result<()> {
    let folder = paths::services()?;
    match action {
        Action::Up => {
            for (name, value) in up()?.variables {
                println!("{name}={value}");
            }
        }
        Action::Down => {
            postgres::Postgres::new(&folder).down()?;
            moto::Moto::new(&folder).down()?;
            kafka::Kafka::new(&folder).down()?;
            schema_registry::SchemaRegistry::new(&folder).down()?;
        }
        Action::Status => {
            let say = |name: &str, runs: bool, address: &str| {
                println!("{name}: {}", if runs { address } else { "stopped" });
            };
            let postgres = postgres::Postgres::new(&folder);
            say("postgres", postgres.runs(), &postgres.address());
            let moto = moto::Moto::new(&folder);
            say("s3", moto.runs(), &moto.address());
            let kafka = kafka::Kafka::new(&folder);
            say("kafka", kafka.runs(), &kafka.address());
            say("kafka over TLS", kafka.runs(), &kafka.secure_address());
            let registry = schema_registry::SchemaRegistry::new(&folder);
            say("schema registry", registry.runs(), &registry.address());
        }
    }
    Ok(())
}

/// The broker, brought up where it does not run: its address, and the number of its process.
pub fn broker() -> Result<(String, u32)> {
    let folder = paths::services()?;
    apt::install_missing()?;
    let kafka = kafka::Kafka::new(&folder);
    kafka.up()?;
    Ok((kafka.address(), kafka.process()?))
}

/// Brings everything up.
pub fn up() -> Result<Addresses> {
    let folder = paths::services()?;
    apt::install_missing()?;
    std::fs::create_dir_all(&folder)?;
    let postgres = postgres::Postgres::new(&folder);
    postgres.up()?;
    let moto = moto::Moto::new(&folder);
    moto.up()?;
    let kafka = kafka::Kafka::new(&folder);
    kafka.up()?;
    let registry = schema_registry::SchemaRegistry::new(&folder);
    registry.up()?;
    let python = readers(&folder)?;
    Ok(Addresses {
        variables: vec![
            ("FRESHET_TEST_POSTGRES", postgres.address()),
            ("FRESHET_TEST_S3", moto.address()),
            ("FRESHET_TEST_KAFKA", kafka.address()),
            ("FRESHET_TEST_KAFKA_TLS", kafka.secure_address()),
            ("FRESHET_TEST_KAFKA_CA", kafka.authority().display().to_string()),
            ("FRESHET_TEST_KAFKA_LIBS", kafka.libs().display().to_string()),
            ("FRESHET_TEST_SCHEMA_REGISTRY", registry.address()),
            ("FRESHET_TEST_PYTHON", python.display().to_string()),
        ],
    })
}

/// A Python with the readers that are not ours.
fn readers(folder: &std::path::Path) -> Result<PathBuf> {
    environment(
        &folder.join("python"),
        // DuckDB in the version for which its reader of Delta tables is packaged.
        &[
            "deltalake==1.6.6",
            "duckdb-extension-delta==1.5.5",
            "duckdb==1.5.5",
            "polars==2.1.0",
            "pyarrow",
        ],
    )
    .map(|environment| environment.program("python"))
}

/// Whether somebody listens on a port of this machine.
pub fn listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}
