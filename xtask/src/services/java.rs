//! Programs that run in a Java virtual machine: their jars by Maven, their processes by number.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::listens;
use crate::sh;

/// The jars of `artifacts` (`group:artifact:version`) and of what they need, in `folder/libs`.
pub fn jars(folder: &Path, artifacts: &[&str]) -> Result<PathBuf> {
    let libs = folder.join("libs");
    // Written last: says that everything before it went well.
    let stamp = folder.join("artifacts");
    let wanted = artifacts.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(libs);
    }
    if libs.exists() {
        fs::remove_dir_all(&libs)?;
    }
    fs::create_dir_all(folder)
        .with_context(|| format!("could not make folder {}", folder.display()))?;
    let mut dependencies = String::new();
    for artifact in artifacts {
        let mut parts = artifact.split(':');
        let mut part = || parts.next().with_context(|| format!("{artifact} is no artifact"));
        dependencies.push_str(&format!(
            "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>",
            part()?,
            part()?,
            part()?
        ));
    }
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>freshet</groupId><artifactId>services</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>\n"
    );
    fs::write(folder.join("pom.xml"), pom)?;
    let output = format!("-DoutputDirectory={}", libs.display());
    maven(folder, &["dependency:copy-dependencies", &output])?;
    fs::write(&stamp, wanted)?;
    Ok(libs)
}

/// One jar (`group:artifact:version`) without what it needs, in `folder`.
pub fn jar(folder: &Path, artifact: &str) -> Result<()> {
    let name = artifact.split(':').skip(1).collect::<Vec<_>>().join("-");
    if folder.join(format!("{name}.jar")).exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)
        .with_context(|| format!("could not make folder {}", folder.display()))?;
    let (artifact, output) =
        (format!("-Dartifact={artifact}"), format!("-DoutputDirectory={}", folder.display()));
    maven(folder, &["dependency:copy", &artifact, &output])
}

/// Runs Maven in `folder`.
pub fn maven(folder: &Path, arguments: &[&str]) -> Result<()> {
    sh::run_aside(Command::new("mvn").args(["-q", "-B"]).args(arguments).current_dir(folder))
}

/// A server that is one Java process.
#[derive(Debug)]
pub struct JavaServer {
    /// What it is called in messages.
    pub name: &'static str,
    /// Where its log and the number of its process lie.
    pub folder: PathBuf,
    /// Where it listens once it is ready.
    pub port: u16,
    /// The variable that chooses another port.
    pub port_variable: &'static str,
    /// What the command line of the process holds, so that it is told from others.
    pub mark: &'static str,
}

impl JavaServer {
    pub fn runs(&self) -> bool {
        self.process().is_some() && listens(self.port)
    }

    /// Starts `java` with these arguments and waits until `ready`.
    pub fn start(
        &self,
        java: &mut Command,
        limit: Duration,
        ready: impl FnMut() -> bool,
    ) -> Result<()> {
        // One that is still starting, or stopping, is not started twice.
        if self.process().is_none() {
            if listens(self.port) {
                bail!(
                    "port {} is taken by another program\nhint: stop it, or set {}",
                    self.port,
                    self.port_variable
                );
            }
            let log = File::create(self.log())?;
            let child = java
                .current_dir(&self.folder)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // It outlives us, and the terminal's Ctrl-C is not meant for it.
                .process_group(0)
                .spawn()
                .with_context(|| format!("could not start {}", self.name))?;
            fs::write(self.pid_file(), child.id().to_string())?;
        }
        sh::wait_until(self.name, limit, ready)
            .with_context(|| format!("it says why in {}", self.log().display()))
    }

    pub fn down(&self) -> Result<()> {
        if let Some(process) = self.process() {
            sh::run_aside(Command::new("kill").arg(process.to_string()))?;
            sh::wait_until(&format!("the end of {}", self.name), Duration::from_secs(60), || {
                self.process().is_none()
            })?;
        }
        if self.pid_file().exists() {
            fs::remove_file(self.pid_file())?;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// The process that we started, if it lives; its number may belong to another one by now.
    pub fn process(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains(self.mark).then_some(pid)
    }
}

/// The port that a variable chooses, or else this one.
pub fn port(variable: &str, default: u16) -> u16 {
    std::env::var(variable).ok().and_then(|port| port.parse().ok()).unwrap_or(default)
}
