//! Debian packages that a fresh machine lacks.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

/// A package and how to see that what it brings is there.
struct Need {
    package: &'static str,
    there: fn() -> bool,
}

const NEEDS: [Need; 6] = [
    Need {
        package: "build-essential",
        there: || sh::succeeds(Command::new("cc").arg("--version")),
    },
    Need {
        package: "openjdk-17-jre-headless",
        there: || sh::succeeds(Command::new("java").arg("-version")),
    },
    Need { package: "maven", there: || sh::succeeds(Command::new("mvn").arg("-version")) },
    Need { package: "openssl", there: || sh::succeeds(Command::new("openssl").arg("version")) },
    Need { package: "postgresql", there: || super::postgres::programs().is_some() },
    Need {
        package: "python3-venv",
        there: || sh::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])),
    },
];

/// Installs what is missing; asks the user to where we may not.
pub fn install_missing() -> Result<()> {
    let missing: Vec<_> =
        NEEDS.iter().filter(|need| !(need.there)()).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !sh::is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("these packages are missing: {packages}\nhint: sudo apt-get install {packages}");
    }
    let apt = |arguments: &[&str]| {
        let mut command = sh::command("apt-get", arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        sh::run_aside(&mut command)
    };
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments)?;
    match NEEDS.iter().find(|need| !(need.there)()) {
        Some(need) => {
            bail!("package {} was installed, but what it brings is not there", need.package)
        }
        None => Ok(()),
    }
}
