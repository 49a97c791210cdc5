//! The schema registry: Apicurio, in memory, with Confluent's API.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::java::{self, JavaServer};
use crate::sh;

const VERSION: &str = "3.0.9";

/// The registry.
#[derive(Debug)]
pub struct SchemaRegistry {
    server: JavaServer,
}

impl SchemaRegistry {
    pub fn new(folder: &Path) -> Self {
        Self {
            server: JavaServer {
                name: "the schema registry",
                folder: folder.join("schema-registry"),
                port: java::port("FRESHET_SCHEMA_REGISTRY_PORT", 55_081),
                port_variable: "FRESHET_SCHEMA_REGISTRY_PORT",
                mark: "apicurio-registry-app",
            },
        }
    }

    /// The root of Confluent's API.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.server.port)
    }

    pub fn runs(&self) -> bool {
        self.server.runs()
    }

    pub fn up(&self) -> Result<()> {
        let app = self.install()?;
        if self.runs() {
            return Ok(());
        }
        let mut java = Command::new("java");
        java.args(["-Xmx400m", "-XX:+UseSerialGC", "-jar"])
            .arg(app.join(format!("apicurio-registry-app-{VERSION}-runner.jar")))
            .env_remove("JAVA_TOOL_OPTIONS")
            .env("QUARKUS_HTTP_HOST", "127.0.0.1")
            .env("QUARKUS_HTTP_PORT", self.server.port.to_string());
        self.server.start(&mut java, Duration::from_secs(120), || self.answers())
    }

    pub fn down(&self) -> Result<()> {
        self.server.down()
    }

    fn install(&self) -> Result<PathBuf> {
        let folder = &self.server.folder;
        let app = folder.join("app");
        // Written last: says that everything before it went well.
        let stamp = folder.join("version");
        if fs::read_to_string(&stamp).is_ok_and(|there| there == VERSION) {
            return Ok(app);
        }
        if app.exists() {
            fs::remove_dir_all(&app)?;
        }
        fs::create_dir_all(&app)?;
        let artifact = format!("-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all");
        let output = format!("-DoutputDirectory={}", folder.display());
        java::maven(folder, &["dependency:copy", &artifact, &output])?;
        let archive = folder.join(format!("apicurio-registry-app-{VERSION}-all.tar.gz"));
        sh::run_aside(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&app))?;
        fs::remove_file(&archive)?;
        fs::write(&stamp, VERSION)?;
        Ok(app)
    }

    /// Whether it lists its subjects.
    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.server.port));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(
                b"GET /apis/ccompat/v7/subjects HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }
}
