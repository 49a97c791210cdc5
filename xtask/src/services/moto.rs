//! An S3 server in memory: `moto`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::python::Environment;
use super::{environment, listens};
use crate::sh;

const DEFAULT_PORT: u16 = 55_001;

/// What `FRESHET_TEST_S3` is expected to hold.
const BUCKET: &str = "freshet-test";

/// The server.
#[derive(Debug)]
pub struct Moto {
    folder: PathBuf,
    port: u16,
}

impl Moto {
    pub fn new(folder: &Path) -> Self {
        let port = std::env::var("FRESHET_S3_PORT").ok().and_then(|port| port.parse().ok());
        Self { folder: folder.join("moto"), port: port.unwrap_or(DEFAULT_PORT) }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn runs(&self) -> bool {
        self.process().is_some() && listens(self.port)
    }

    pub fn up(&self) -> Result<()> {
        let environment = environment(&self.folder, &["moto[server]==5.2.5"])?;
        if self.runs() {
            return self.make_bucket(&environment);
        }
        if listens(self.port) {
            bail!(
                "port {} is taken by another program\nhint: stop it, or set FRESHET_S3_PORT",
                self.port
            );
        }
        let log = File::create(self.folder.join("log"))?;
        let port = self.port.to_string();
        let child = Command::new(environment.program("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // It outlives us, and the terminal's Ctrl-C is not meant for it.
            .process_group(0)
            .spawn()
            .context("could not start moto_server")?;
        fs::write(self.pid_file(), child.id().to_string())?;
        sh::wait_until("the S3 server", Duration::from_secs(60), || listens(self.port))
            .with_context(|| format!("it says why in {}", self.folder.join("log").display()))?;
        self.make_bucket(&environment)
    }

    /// The bucket that the tests share; making it again changes nothing.
    fn make_bucket(&self, environment: &Environment) -> Result<()> {
        let script = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1], \
                      region_name='us-east-1', aws_access_key_id='test', \
                      aws_secret_access_key='test').create_bucket(Bucket=sys.argv[2])";
        let mut command = Command::new(environment.program("python"));
        sh::run_aside(command.args(["-c", script, &self.address(), BUCKET]))
    }

    pub fn down(&self) -> Result<()> {
        if let Some(process) = self.process() {
            sh::run_aside(Command::new("kill").arg(process.to_string()))?;
        }
        if self.pid_file().exists() {
            fs::remove_file(self.pid_file())?;
        }
        Ok(())
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// The process that we started, if it lives; its number may belong to another one by now.
    fn process(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains("moto_server").then_some(pid)
    }
}
