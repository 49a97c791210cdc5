//! The error that crosses every crate boundary: a stable code, a kind that callers act on, a
//! message that names the object, where it was found, the cause, and the way out.

use std::fmt;

mod codes;
pub use codes::{ALL_CODES, Code, CodeInfo, code};

/// The result of anything in Freshet that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The project, the SQL or the arguments are wrong; exit code 2.
    User,
    /// The data is wrong: a check failed, a file is broken; exit code 1.
    Data,
    /// Something outside did not answer as it should: disk, network, database; exit code 1.
    External,
    /// A fault of ours; exit code 70.
    Internal,
}

/// A place in a file that a person wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Location {
    /// The file's path, relative to the project folder where it lies inside it.
    pub file: String,
    /// One-based line; 0 where only the file is known.
    pub line: u32,
    /// One-based column in characters; 0 where only the line is known.
    pub column: u32,
}

impl Location {
    /// A place of which only the file is known.
    pub fn file(file: impl Into<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }

    /// A line of a file.
    pub fn line(file: impl Into<String>, line: u32) -> Self {
        Self { file: file.into(), line, column: 0 }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}", self.file),
            (line, 0) => write!(f, "{}:{line}", self.file),
            (line, column) => write!(f, "{}:{line}:{column}", self.file),
        }
    }
}

/// An error with a stable code.
///
/// `Display` prints the message alone (lowercase, no full stop); the cause chain is behind
/// [`std::error::Error::source`], place and hint behind their accessors.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    hint: Option<String>,
    location: Option<Location>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    retryable: bool,
    /// Further errors found in the same pass, so that `check` can name all of them at once.
    also: Vec<Error>,
}

impl Error {
    /// An error of `code` whose message names the object and its kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            hint: None,
            location: None,
            source: None,
            retryable: false,
            also: Vec::new(),
        }))
    }

    /// A fault of ours ([`code::INTERNAL`]).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(code::INTERNAL, message)
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the place, unless a more precise one is known already.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.0.location.get_or_insert(location);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks that the same call may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Joins the errors of one pass into one; `None` where there are none.
    pub fn join(errors: Vec<Error>) -> Option<Error> {
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        first.0.also.extend(errors);
        Some(first)
    }

    /// This error and those found in the same pass, in the order in which they were found.
    pub fn all(&self) -> impl Iterator<Item = &Error> {
        std::iter::once(self).chain(self.0.also.iter().flat_map(|error| error.all_boxed()))
    }

    fn all_boxed(&self) -> Box<dyn Iterator<Item = &Error> + '_> {
        Box::new(self.all())
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What a caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.code.kind()
    }

    /// The message without cause, place or hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The way out, if one is known: the one that was given, or that of the system's error among
    /// the causes.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| self.system_hint())
    }

    fn system_hint(&self) -> Option<&'static str> {
        use std::io::ErrorKind;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>();
            match io.map(std::io::Error::kind) {
                Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                    return Some("the user who runs freshet needs the right to it: see `ls -ld`");
                }
                Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                    return Some("free some space, or put the environment's `lake` elsewhere");
                }
                _ => {}
            }
            // An error that was wrapped by hand is not the source of its wrapper: its source is.
            let wrapped = io.and_then(|io| io.get_ref());
            cause = wrapped
                .map(|inner| inner as &(dyn std::error::Error + 'static))
                .or_else(|| error.source());
        }
        None
    }

    /// Where in a person's file it was found.
    pub fn location(&self) -> Option<&Location> {
        self.0.location.as_ref()
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The message and the messages of all causes, outermost first, joined with `: `.
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // Many libraries repeat their cause in their own message.
            if !text.ends_with(&message) {
                text.push_str(": ");
                text.push_str(&message);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] ", self.0.code)?;
        if let Some(location) = &self.0.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.chain())?;
        if let Some(hint) = &self.0.hint {
            write!(f, " (hint: {hint})")?;
        }
        for error in &self.0.also {
            write!(f, "\n{error:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Turns a library's error into ours, with the object named.
pub trait ResultExt<T> {
    /// Wraps the error as the cause of one with `code` and `message`.
    fn or_code(self, code: Code, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> ResultExt<T>
    for std::result::Result<T, E>
{
    fn or_code(self, code: Code, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(code, message()).caused_by(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_each_cause_once() {
        let cause = std::io::Error::other("disk full");
        let error = Error::new(code::IO, "could not write file \"a.csv\"").caused_by(cause);
        assert_eq!(error.chain(), "could not write file \"a.csv\": disk full");
    }

    #[test]
    fn errors_of_the_system_know_a_way_out_wherever_they_stand() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let outer = Error::new(code::IO, "a").caused_by(std::io::Error::other(full()));
        assert!(outer.hint_text().is_some_and(|hint| hint.contains("space")), "{outer:?}");
        assert_eq!(outer.hint("b").hint_text(), Some("b"));
        assert_eq!(Error::new(code::IO, "a").caused_by("full").hint_text(), None);
    }

    #[test]
    fn joined_errors_keep_their_order() {
        let joined = Error::join(vec![
            Error::new(code::IO, "a"),
            Error::new(code::IO, "b"),
            Error::new(code::IO, "c"),
        ])
        .expect("three errors were given");
        let messages: Vec<_> = joined.all().map(Error::message).collect();
        assert_eq!(messages, ["a", "b", "c"]);
    }
}
