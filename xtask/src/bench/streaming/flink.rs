//! Apache Flink: a cluster of one job manager and one task manager with two slots, and a SQL gateway.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;

use super::Run;
use crate::services::java::{self, JavaServer};
use crate::services::{self, listens};
use crate::{paths, sh};

const VERSION: &str = "2.3.0";
/// Of the wheel that has Flink's jars, nothing else is needed: no Python runs in the cluster.
const PACKAGES: [&str; 2] = ["--no-deps", "apache-flink-libraries==2.3.0"];
const CONNECTOR: &str = "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2";

const REST: u16 = 55_120;
const RPC: u16 = 55_121;
const GATEWAY: u16 = 55_122;
const WORKER: u16 = 55_123;

/// What Flink's own scripts open to it in a Java virtual machine of version 17.
const OPENED: [&str; 14] = [
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.text=ALL-UNNAMED",
    "--add-opens=java.base/java.time=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.locks=ALL-UNNAMED",
];

const LOGGING: &str = "rootLogger.level = INFO\n\
    rootLogger.appenderRef.console.ref = Console\n\
    appender.console.name = Console\n\
    appender.console.type = CONSOLE\n\
    appender.console.layout.type = PatternLayout\n\
    appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c - %m%n\n";

/// Where Flink keeps what operators remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// In memory, as objects
    Hashmap,
    /// On disk, by RocksDB
    Rocksdb,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Hashmap => "hashmap",
            Self::Rocksdb => "rocksdb",
        }
    }
}

/// A cluster, stopped when it is dropped.
#[derive(Debug)]
pub struct Flink {
    folder: PathBuf,
    classes: String,
    servers: [JavaServer; 3],
}

/// What the script that runs a query says of it.
#[derive(Debug, Deserialize)]
struct Said {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    checkpoints: u64,
    failure: Option<String>,
}

impl Flink {
    /// Installs what is missing.
    pub fn install() -> Result<Self> {
        let folder = paths::services()?.join("flink");
        let python = services::environment(&folder, &PACKAGES)?.program("python");
        let ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
        let packages = sh::read(Command::new(&python).args(["-c", ask]))?;
        let jars = folder.join("jars");
        java::jar(&jars, CONNECTOR)?;
        for part in ["flink-sql-gateway", "flink-sql-gateway-api"] {
            java::jar(&jars, &format!("org.apache.flink:{part}:{VERSION}"))?;
        }
        let lib = Path::new(packages.trim()).join("pyflink/lib");
        let classes = format!("{}:{}", lib.join("*").display(), jars.join("*").display());
        let server = |name, port, mark| JavaServer {
            name,
            folder: folder.join(name),
            port,
            port_variable: "another address in xtask/src/bench/streaming/flink.rs",
            mark,
        };
        let servers = [
            server("jobmanager", REST, "StandaloneSessionClusterEntrypoint"),
            server("taskmanager", WORKER, "TaskManagerRunner"),
            server("gateway", GATEWAY, "SqlGateway"),
        ];
        Ok(Self { folder, classes, servers })
    }

    /// Starts it anew: nothing of an earlier query is left in its memory.
    pub fn start_anew(&self) -> Result<()> {
        self.down()?;
        self.configure()?;
        let (limit, [job_manager, task_manager, gateway]) =
            (Duration::from_secs(180), &self.servers);
        let config = self.folder.join("conf").display().to_string();
        let config = ["--configDir", config.as_str()];
        let entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint";
        job_manager.start(self.java("1g").arg(entry).args(config), limit, || listens(REST))?;
        let entry = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner";
        let mut java = self.java("6272m");
        java.args(["-XX:MaxDirectMemorySize=640m", entry]).args(config);
        // Its slots are known a moment later, which the first run waits for.
        task_manager.start(&mut java, limit, || listens(WORKER))?;
        let mut java = self.java("1g");
        java.arg("org.apache.flink.table.gateway.SqlGateway");
        gateway.start(&mut java, limit, || listens(GATEWAY))
    }

    /// Runs a query to its end; `sink` are the options of the table that it goes to.
    pub fn run(
        &self,
        python: &Path,
        state: State,
        setup: &Path,
        query: &Path,
        sink: &str,
    ) -> Result<Run> {
        let [job_manager, task_manager, _] = &self.servers;
        let pids: Vec<String> = [job_manager, task_manager]
            .iter()
            .map(|server| server.process().map(|pid| pid.to_string()))
            .collect::<Option<_>>()
            .context("flink does not run any more")?;
        let tool = paths::root().join("bench/streaming/tools/flink.py");
        let mut command = Command::new(python);
        command.arg(tool);
        command.args([format!("http://127.0.0.1:{GATEWAY}"), format!("http://127.0.0.1:{REST}")]);
        command.arg(state.name()).arg(setup).arg(query).arg(sink).arg(pids.join(","));
        let said: Said = serde_json::from_str(&sh::read(&mut command)?)?;
        if let Some(failure) = said.failure {
            bail!("flink's job failed: {failure}");
        }
        Ok(Run {
            seconds: said.seconds,
            cpu_seconds: said.cpu_seconds,
            peak_mib: said.peak_mib,
            checkpoints: Some(said.checkpoints),
            ..Run::default()
        })
    }

    /// Stops it.
    pub fn down(&self) -> Result<()> {
        self.servers.iter().rev().try_for_each(JavaServer::down)
    }

    fn java(&self, heap: &str) -> Command {
        let mut java = Command::new("java");
        let logging = self.folder.join("conf/log4j.properties");
        java.arg(format!("-Xmx{heap}"))
            .args(OPENED)
            .arg(format!("-Dlog4j.configurationFile=file:{}", logging.display()))
            .args(["-cp", &self.classes])
            .env("FLINK_CONF_DIR", self.folder.join("conf"))
            .env_remove("JAVA_TOOL_OPTIONS");
        java
    }

    fn configure(&self) -> Result<()> {
        let conf = self.folder.join("conf");
        for folder in [&conf, &self.folder.join("tmp")] {
            fs::create_dir_all(folder)
                .with_context(|| format!("could not make folder {}", folder.display()))?;
        }
        for server in &self.servers {
            fs::create_dir_all(&server.folder)?;
        }
        fs::write(conf.join("log4j.properties"), LOGGING)?;
        let folder = self.folder.display();
        let config = format!(
            "jobmanager.rpc.address: 127.0.0.1\n\
             jobmanager.rpc.port: {RPC}\n\
             jobmanager.bind-host: 127.0.0.1\n\
             taskmanager.host: 127.0.0.1\n\
             taskmanager.bind-host: 127.0.0.1\n\
             taskmanager.rpc.port: {WORKER}\n\
             taskmanager.numberOfTaskSlots: 2\n\
             taskmanager.cpu.cores: 2.0\n\
             taskmanager.memory.task.heap.size: 6g\n\
             taskmanager.memory.task.off-heap.size: 0b\n\
             taskmanager.memory.framework.heap.size: 128m\n\
             taskmanager.memory.framework.off-heap.size: 128m\n\
             taskmanager.memory.network.min: 256m\n\
             taskmanager.memory.network.max: 256m\n\
             taskmanager.memory.managed.size: 1g\n\
             taskmanager.memory.jvm-metaspace.size: 512m\n\
             taskmanager.memory.jvm-overhead.min: 512m\n\
             taskmanager.memory.jvm-overhead.max: 512m\n\
             rest.address: 127.0.0.1\n\
             rest.bind-address: 127.0.0.1\n\
             rest.port: {REST}\n\
             sql-gateway.endpoint.rest.address: 127.0.0.1\n\
             sql-gateway.endpoint.rest.bind-address: 127.0.0.1\n\
             sql-gateway.endpoint.rest.port: {GATEWAY}\n\
             io.tmp.dirs: {folder}/tmp\n\
             parallelism.default: 2\n\
             pipeline.object-reuse: true\n\
             execution.checkpointing.interval: 1s\n\
             execution.checkpointing.mode: EXACTLY_ONCE\n\
             execution.checkpointing.incremental: true\n\
             execution.checkpointing.dir: file://{folder}/checkpoints\n"
        );
        fs::write(conf.join("config.yaml"), config)?;
        Ok(())
    }
}

impl Drop for Flink {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("warning: flink could not be stopped: {error:#}");
        }
    }
}
