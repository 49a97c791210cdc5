//! What must hold before a change is pushed.

use anyhow::Result;

use crate::sh::{self, cargo, step};
use crate::{paths, services};

/// Services, then tests. Without arguments: all of the workspace.
pub fn test(arguments: &[String]) -> Result<()> {
    let addresses = step("services", services::up)?;
    step("tests", || {
        let mut command = cargo(&["test"]);
        if !arguments.iter().any(|argument| argument == "-p" || argument.starts_with("--package")) {
            command.arg("--workspace");
        }
        command.args(arguments);
        for (name, value) in &addresses.variables {
            command.env(name, value);
        }
        sh::run(&mut command)
    })
}

/// Everything that CI asks, cheapest first; tests last, so that their result ends the output.
pub fn ci() -> Result<()> {
    step("format", || sh::run(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("lints", || {
        sh::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("docs build", || {
        sh::run(
            cargo(&["doc", "--workspace", "--no-deps", "--quiet"])
                .env("RUSTDOCFLAGS", "-Dwarnings"),
        )
    })?;
    test(&[])
}

/// Writes the generated pages anew, or compares them.
///
/// The pages come from the binary, which knows its options; a test compares them too.
pub fn docs(check: bool) -> Result<()> {
    let folder = paths::root().join("docs");
    let folder = folder.display().to_string();
    let mut arguments = vec!["run", "--quiet", "-p", "freshet", "--", "internal", "docs", "--out"];
    arguments.push(&folder);
    if check {
        arguments.push("--check");
    }
    sh::run(&mut cargo(&arguments))
}
