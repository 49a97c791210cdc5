//! How the process ends: exit codes, and the two ways in which a command can fail.

use std::io;
use std::process::ExitCode;

use freshet_core::{Error, ErrorKind};

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was done: 0.
    Done,
    /// The data or a check failed; the command has said so: 1.
    DataFailed,
    /// A file or a model was left out: 3.
    Partial,
}

impl Outcome {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::DataFailed => 1,
            Self::Partial => 3,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// It could not do its work; to be printed.
    Error(Error),
    /// Its errors are printed already; only the exit code is left.
    Reported(u8),
    /// Standard output could not be written. Where its reader went away that is no fault.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What commands return.
pub type CommandResult = Result<Outcome, Failure>;

/// The exit code of what a signal ended, as shells give it.
pub const INTERRUPTED: u8 = 130;

/// The exit code of an error: that of the gravest of those that were found together.
pub fn error_code(error: &Error) -> u8 {
    error.all().map(|error| kind_code(error.kind())).max().unwrap_or(70)
}

/// The exit code of errors of a kind; a higher one is graver.
pub fn kind_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::User => 2,
        ErrorKind::Data | ErrorKind::External => 1,
        ErrorKind::Internal => 70,
    }
}

/// `code` as the process hands it to its parent.
pub fn exit_code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use freshet_core::error::code;

    use super::*;

    #[test]
    fn gravest_of_joined_errors_decides() {
        let user = || Error::new(code::YAML, "a");
        let data = || Error::new(code::CHECK_FAILED, "b");
        assert_eq!(error_code(&user()), 2);
        assert_eq!(error_code(&data()), 1);
        let both = Error::join(vec![data(), user()]).expect("two errors");
        assert_eq!(error_code(&both), 2);
        let ours = Error::join(vec![user(), Error::internal("c")]).expect("two errors");
        assert_eq!(error_code(&ours), 70);
    }
}
