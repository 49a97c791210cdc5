//! A project in a folder of its own, the binary run in it, and what it came to.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A project folder of its own, and the binary run in it.
pub struct Project {
    _temp: tempfile::TempDir,
    pub dir: PathBuf,
}

/// What a command came to.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Holds the exit code against what was expected.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Holds what was printed against what must be in it.
    #[track_caller]
    pub fn says(self, expected: &[&str]) -> Self {
        for expected in expected {
            assert!(
                self.out.contains(expected) || self.err.contains(expected),
                "{expected:?} is missing\nstdout:\n{}\nstderr:\n{}",
                self.out,
                self.err
            );
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.out, self.err))
    }

    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).expect("each line is JSON");
        self.out.lines().map(parse).collect()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).expect("output is text"),
            err: String::from_utf8(output.stderr).expect("errors are text"),
        }
    }
}

pub fn freshet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(args).stdin(Stdio::null());
    for name in ["FRESHET_PROJECT", "FRESHET_ENV", "FRESHET_LOG", "NO_COLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

pub fn ran(args: &[&str]) -> Ran {
    freshet(args).output().expect("the binary starts").into()
}

impl Project {
    pub fn empty() -> Self {
        let temp = tempfile::tempdir().expect("a temporary folder");
        Self { dir: temp.path().join("shop"), _temp: temp }
    }

    /// A project of the given files.
    pub fn files(files: &[(&str, &str)]) -> Self {
        let project = Self::empty();
        for (path, text) in files {
            project.write(path, text);
        }
        project
    }

    /// What `freshet init` makes.
    pub fn init() -> Self {
        let project = Self::empty();
        ran(&["init", project.path()]).exits(0);
        project
    }

    pub fn path(&self) -> &str {
        self.dir.to_str().expect("the path is text")
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        let output = freshet(args).current_dir(&self.dir).output();
        output.expect("the binary starts").into()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("folder is made");
        std::fs::write(path, text).expect("file is written");
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.dir.join(path)).expect("file is read")
    }

    /// Puts `new` where a file has `old`.
    #[track_caller]
    pub fn replace(&self, path: &str, old: &str, new: &str) {
        let text = self.read(path);
        assert!(text.contains(old), "{path} has no {old:?}");
        self.write(path, &text.replace(old, new));
    }

    /// The only cell of a query's only row.
    #[track_caller]
    pub fn cell(&self, sql: &str) -> String {
        let ran = self.run(&["sql", "--format", "csv", sql]).exits(0);
        ran.out.lines().nth(1).unwrap_or_else(|| panic!("no row: {}", ran.out)).to_owned()
    }
}
