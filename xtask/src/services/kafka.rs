//! Kafka: one KRaft node with a plain listener and one with TLS and passwords.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::java::{self, JavaServer};
use super::listens;
use crate::sh;

const VERSION: &str = "4.3.1";
/// Loopback only, and for tests only: no secret.
const NAME: &str = "freshet";

/// The broker.
#[derive(Debug)]
pub struct Kafka {
    server: JavaServer,
}

impl Kafka {
    pub fn new(folder: &Path) -> Self {
        Self {
            server: JavaServer {
                name: "kafka",
                folder: folder.join("kafka"),
                port: java::port("FRESHET_KAFKA_PORT", 55_092),
                port_variable: "FRESHET_KAFKA_PORT",
                mark: "kafka.Kafka",
            },
        }
    }

    /// Where it answers without TLS and passwords.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }

    /// Where it answers with both. The user is `freshet`, as is the password; `freshet-plain` may
    /// log in by PLAIN alone.
    pub fn secure_address(&self) -> String {
        format!("localhost:{}", self.secure_port())
    }

    /// The authority that signed the broker's certificate.
    pub fn authority(&self) -> PathBuf {
        self.certificates().join("ca.crt")
    }

    /// The jars, for tests that start and kill a broker of their own.
    pub fn libs(&self) -> PathBuf {
        self.server.folder.join("libs")
    }

    pub fn runs(&self) -> bool {
        self.server.runs()
    }

    /// The number of its process.
    pub fn process(&self) -> Result<u32> {
        self.server.process().context("kafka does not run")
    }

    pub fn up(&self) -> Result<()> {
        java::jars(
            &self.server.folder,
            &[
                &format!("org.apache.kafka:kafka_2.13:{VERSION}"),
                &format!("org.apache.kafka:kafka-tools:{VERSION}"),
                "org.slf4j:slf4j-simple:1.7.36",
            ],
        )?;
        if self.runs() {
            return Ok(());
        }
        self.certify()?;
        let properties = self.server.folder.join("server.properties");
        fs::write(&properties, self.properties())?;
        if !self.data().join("meta.properties").exists() {
            self.format(&properties)?;
        }
        let mut java = self.java("512m");
        java.arg("kafka.Kafka").arg(&properties);
        self.server.start(&mut java, Duration::from_secs(90), || {
            listens(self.server.port) && listens(self.secure_port())
        })
    }

    pub fn down(&self) -> Result<()> {
        self.server.down()
    }

    fn java(&self, heap: &str) -> Command {
        let mut java = Command::new("java");
        java.args([&format!("-Xmx{heap}"), "-XX:+UseSerialGC", "-cp"])
            .arg(self.libs().join("*"))
            .env_remove("JAVA_TOOL_OPTIONS");
        java
    }

    fn format(&self, properties: &Path) -> Result<()> {
        let mut storage = self.java("256m");
        storage
            .args(["kafka.tools.StorageTool", "format"])
            // Of a folder that lives and dies with this machine's tests: any will do.
            .args(["-t", "RnJlc2hldFRlc3RzMDAwMQ", "-c"])
            .arg(properties)
            .arg("--add-scram")
            .arg(format!("SCRAM-SHA-256=[name={NAME},password={NAME}]"))
            .arg("--add-scram")
            .arg(format!("SCRAM-SHA-512=[name={NAME},password={NAME}]"));
        // It prints all of its settings, which are news to nobody.
        sh::read(&mut storage).map(drop)
    }

    fn properties(&self) -> String {
        let (plain, secure, controller) =
            (self.server.port, self.secure_port(), self.server.port + 2);
        let data = self.data().display().to_string();
        let certificates = self.certificates().display().to_string();
        let login = "org.apache.kafka.common.security";
        format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://localhost:{secure}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_{NAME}=\"{NAME}\" user_{NAME}-plain=\"{NAME}\";\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location={certificates}/server.pem\n\
             log.dirs={data}\n\
             num.partitions=1\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=5\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=5\n\
             group.initial.rebalance.delay.ms=0\n\
             log.cleaner.backoff.ms=200\n\
             log.retention.check.interval.ms=60000\n\
             log.initial.task.delay.ms=1000\n"
        )
    }

    /// A certificate for `localhost`, by an authority of our own, and another authority that has
    /// signed nothing.
    fn certify(&self) -> Result<()> {
        let place = self.certificates();
        if place.join("server.pem").exists() {
            return Ok(());
        }
        fs::create_dir_all(&place)
            .with_context(|| format!("could not make folder {}", place.display()))?;
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command
                .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500"])
                .args(arguments)
                .current_dir(&place);
            sh::run_aside(&mut command)
        };
        for name in ["ca", "other_ca"] {
            let (key, out) = (format!("{name}.key"), format!("{name}.crt"));
            let subject = format!("/CN=freshet tests {name}");
            openssl(&["-keyout", &key, "-out", &out, "-subj", &subject])?;
        }
        let names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
        let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        let server = ["-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=localhost"];
        openssl(&[&server[..], &signed, &names, &leaf].concat())?;
        let mut pem = fs::read_to_string(place.join("server.key"))?;
        for part in ["server.crt", "ca.crt"] {
            pem.push_str(&fs::read_to_string(place.join(part))?);
        }
        fs::write(place.join("server.pem"), pem)?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.server.folder.join("data")
    }

    fn certificates(&self) -> PathBuf {
        self.server.folder.join("certificates")
    }

    fn secure_port(&self) -> u16 {
        self.server.port + 1
    }
}
