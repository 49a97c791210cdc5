//! A Postgres cluster of our own, in our folder, as a user that is not root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::listens;
use crate::sh;

const DEFAULT_PORT: u16 = 54_329;
/// Loopback only, and for tests only: no secret.
const NAME: &str = "freshet";

/// The cluster.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    port: u16,
}

/// The folder of the server's programs: the newest of Debian's, or wherever `PATH` has them.
pub fn programs() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    versions.sort();
    if let Some((_, bin)) = versions.pop() {
        return Some(bin);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
}

impl Postgres {
    pub fn new(folder: &Path) -> Self {
        let port = std::env::var("FRESHET_POSTGRES_PORT").ok().and_then(|port| port.parse().ok());
        Self { folder: folder.join("postgres"), port: port.unwrap_or(DEFAULT_PORT) }
    }

    pub fn address(&self) -> String {
        format!("postgres://{NAME}:{NAME}@127.0.0.1:{}/{NAME}", self.port)
    }

    pub fn runs(&self) -> bool {
        self.control(&["status"]).is_ok_and(|mut command| sh::succeeds(&mut command))
    }

    pub fn up(&self) -> Result<()> {
        if !self.runs() {
            self.start()?;
        }
        self.offer_tls()
    }

    fn start(&self) -> Result<()> {
        if listens(self.port) {
            bail!(
                "port {} is taken by another program\nhint: stop it, or set FRESHET_POSTGRES_PORT",
                self.port
            );
        }
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("could not make folder {}", self.folder.display()))?;
        self.give_to_server_user()?;
        if !self.data().join("PG_VERSION").exists() {
            self.initialise()?;
        }
        let log = self.folder.join("log").display().to_string();
        let mut start = self.control(&["start", "-w", "-s", "-l", &log])?;
        // The server keeps what it inherits for as long as it runs.
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sh::run(&mut start).with_context(|| format!("postgres says why in {log}"))?;
        sh::wait_until("postgres", Duration::from_secs(30), || {
            self.query("postgres", "select 1").is_ok()
        })?;
        let database = format!("select 1 from pg_database where datname = '{NAME}'");
        if self.query("postgres", &database)?.trim().is_empty() {
            self.query("postgres", &format!("create database {NAME}"))?;
        }
        Ok(())
    }

    pub fn down(&self) -> Result<()> {
        if self.runs() {
            sh::run_aside(&mut self.control(&["stop", "-w", "-s", "-m", "fast"])?)?;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initialise(&self) -> Result<()> {
        let data = self.data().display().to_string();
        // An earlier attempt that was stopped half-way leaves files that `initdb` refuses.
        if self.data().exists() {
            fs::remove_dir_all(self.data()).with_context(|| format!("could not remove {data}"))?;
        }
        let password = self.folder.join("password");
        fs::write(&password, NAME)?;
        self.give_to_server_user()?;
        let password = format!("--pwfile={}", password.display());
        sh::run_aside(&mut self.server_program(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                NAME,
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256",
                "--no-sync",
                &password,
            ],
        )?)?;
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nwal_level = logical\nfsync = off\nmax_connections = 100\n",
            self.port
        );
        let file = self.data().join("postgresql.conf");
        let mut config = fs::read_to_string(&file)?;
        config.push_str(&settings);
        fs::write(&file, config)?;
        Ok(())
    }

    /// A certificate for `localhost`, by an authority of our own, and another authority that has
    /// signed nothing. Tests read the authorities through the server, from its data folder.
    fn offer_tls(&self) -> Result<()> {
        if self.data().join("other_ca.crt").exists() {
            return Ok(());
        }
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500"];
        let place = self.folder.join("certificates");
        fs::create_dir_all(&place)?;
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command.args(request).args(arguments).current_dir(&place);
            sh::run_aside(&mut command)
        };
        for name in ["ca", "other_ca"] {
            let (key, out) = (format!("{name}.key"), format!("{name}.crt"));
            let subject = format!("/CN=freshet tests {name}");
            openssl(&["-keyout", &key, "-out", &out, "-subj", &subject])?;
        }
        let server = ["-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=localhost"];
        let signed =
            ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        openssl(&[&server[..], &signed, &leaf].concat())?;
        for file in ["server.key", "server.crt", "ca.crt", "other_ca.crt"] {
            let to = self.data().join(file);
            fs::copy(place.join(file), &to)
                .with_context(|| format!("could not write {}", to.display()))?;
        }
        self.give_to_server_user()?;
        self.query("postgres", "alter system set ssl = on")?;
        self.query("postgres", "select pg_reload_conf()")?;
        sh::wait_until("postgres over TLS", Duration::from_secs(30), || {
            self.query("postgres", "show ssl").is_ok_and(|ssl| ssl.trim() == "on")
        })
    }

    fn query(&self, database: &str, statement: &str) -> Result<String> {
        let programs = programs().context("postgres is not installed")?;
        let port = self.port.to_string();
        let mut command = Command::new(programs.join("psql"));
        command
            .args(["-h", "127.0.0.1", "-p", &port, "-U", NAME, "-d", database])
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .env("PGPASSWORD", NAME);
        sh::read(&mut command)
    }

    fn control(&self, arguments: &[&str]) -> Result<Command> {
        let data = self.data().display().to_string();
        let port = format!("-p {}", self.port);
        let mut all = vec!["-D", &data];
        if arguments.first() == Some(&"start") {
            all.extend(["-o", &port]);
        }
        all.extend(arguments);
        self.server_program("pg_ctl", &all)
    }

    /// A program of the server's, as the user that owns its data: it refuses to run as root.
    fn server_program(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let program = programs().context("postgres is not installed")?.join(program);
        let mut command = if sh::is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // The caller's folder may be closed to that user.
        command.args(arguments).current_dir("/");
        Ok(command)
    }

    fn give_to_server_user(&self) -> Result<()> {
        if sh::is_root() {
            let folder = self.folder.display().to_string();
            return sh::run_aside(&mut sh::command("chown", &["-R", "postgres:", &folder]));
        }
        Ok(())
    }
}
