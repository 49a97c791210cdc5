//! Every code a user can meet. Each has a page `docs/errors/<code>.md`, made from this table.

use std::fmt;

use super::ErrorKind;

/// A stable code such as `F0101`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u16);

/// What is known of a code.
#[derive(Debug)]
pub struct CodeInfo {
    /// The code.
    pub code: Code,
    /// Its name in the source.
    pub name: &'static str,
    /// What a caller does about it.
    pub kind: ErrorKind,
    /// A short title, lowercase.
    pub title: &'static str,
    /// What it means and the way out: the body of its page.
    pub help: &'static str,
}

impl Code {
    /// What a caller does about errors of this code.
    pub fn kind(self) -> ErrorKind {
        self.info().kind
    }

    /// What is known of this code.
    pub fn info(self) -> &'static CodeInfo {
        ALL_CODES.iter().find(|info| info.code == self).expect("codes are only made by the table")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! codes {
    ($($number:literal $name:ident $kind:ident $title:literal $help:literal)*) => {
        /// The codes by name.
        pub mod code {
            use super::Code;
            $(#[doc = $title] pub const $name: Code = Code($number);)*
        }

        /// All codes in ascending order.
        pub const ALL_CODES: &[CodeInfo] = &[
            $(CodeInfo {
                code: Code($number),
                name: stringify!($name),
                kind: ErrorKind::$kind,
                title: $title,
                help: $help,
            },)*
        ];
    };
}

codes! {
    1 INTERNAL Internal "a fault of ours"
        "Freshet met a state that its authors thought impossible. Nothing was published by the step that failed. Please report it with the output of `freshet runs show`."
    2 IO External "a file could not be read or written"
        "The operating system refused to read or write a file. The message names the file and the system's reason; mend the cause (permissions, space, a missing folder) and run again: every step can be repeated."
    3 ARGUMENTS User "the arguments are wrong"
        "The command line does not make sense together. The message says which argument and what was expected."
    4 LIMIT User "a limit was reached"
        "A bound of the configuration was reached. The message names the limit; raise it in `freshet.yml` if the machine can bear it."
    5 LOCKED External "another process works on this environment"
        "Two runs must not write the same environment at once. Wait for the other one, or stop it; its lock ends with its process."
    6 INTERRUPTED External "a run was interrupted"
        "The process of the run ended before the run did: it was killed, or the machine stopped. Readers see the old version of each table or the new one. Run again: commits that were begun are finished first, and nothing is doubled."
    101 PROJECT User "the project folder is not usable"
        "No `freshet.yml` or `dbt_project.yml` was found, or it could not be read. Run the command inside a project or name it: `freshet run path/to/project`."
    102 YAML User "a YAML file is wrong"
        "The file is not valid YAML, or has a field that does not exist there, or a value of the wrong type. The message names file, line, field and the nearest valid name."
    103 TEMPLATE User "a template could not be rendered"
        "The Jinja in a model, macro or YAML file failed. The message names file and line and what was undefined or wrong."
    104 REFERENCE User "a reference leads nowhere"
        "A `ref`, `source`, `var` or macro names something that the project does not have. The message lists the nearest valid names."
    105 CYCLE User "models depend on each other in a circle"
        "Each model may only use models that do not use it in turn. The message lists the circle."
    106 DUPLICATE User "two things have one name"
        "Two models, sources, seeds or macros share a name. Rename one of the two files that the message names."
    107 SELECTOR User "a selector is wrong"
        "The argument of `--select` or `--exclude` could not be read or matches nothing."
    108 SECRET User "a secret could not be read"
        "A `${env:NAME}` or `${file:/path}` names a variable or file that is not there. Secrets are only ever given by reference."
    109 CONFIG User "a setting is wrong"
        "An option of a source, model, check or environment has a value that makes no sense. The message names it and what is valid."
    201 SOURCE External "a source could not be read"
        "Listing or reading a place failed. The message names the source, the file and the reason. Reading is repeated safely by running again."
    202 FILE_BROKEN Data "a file is broken as a whole"
        "A truncated archive, a corrupt Parquet file, or a file that is not what its name says. The file is set aside and named in the run's report; the other files go on and the run ends as partial. Replace the file and run again."
    203 FILE_TOO_BAD Data "a file has too many bad records"
        "More of its records were bad than `max_bad` allows, so the file was set aside whole: most often the delimiter, the encoding or the header is not what the source declares. Mend the source or the file and run again, or raise `max_bad`."
    204 FILE_CHANGED Data "a file changed after it was consumed"
        "The file has another size, etag or time than when it was consumed, and the source's `on_changed` is `fail`. Use `reload` to take it again, or restore it."
    205 HEADER Data "a file's header breaks the contract"
        "A column is missing or new and the contract says `freeze`. Mend the file, or change the contract's mode."
    206 FILE_EMPTY Data "a file is empty"
        "The file has no record, not even a header. It is named in the run's report; if that is usual for this source, set `empty_files: allow`."
    207 SOURCE_TOO_BAD Data "a stream has too many bad records"
        "Of the records that a stream gave within the span of its `max_bad`, more were bad than it allows, and the job stopped: most often whoever writes the stream has changed it. The message has the rule that most of them break, and an example. What was read since the last checkpoint is read again when the job is started. Mend the contract or the writer, raise `max_bad`, or let the job go on with `on_max_bad: alert`, so that bad records are dead letters and the log and `/metrics` tell of them."
    301 SQL User "the SQL is wrong"
        "The query could not be parsed or planned. The message names the model, file and line, and the nearest valid name where one is near."
    302 EXECUTION External "a query failed while it ran"
        "The query was valid but failed on the data or the machine: a cast, a division, memory, disk. The message has the cause. What was published before stays."
    303 SCHEMA_CHANGE Data "a table's columns changed"
        "The model's result has other columns than its table, and `on_schema_change` is `fail` or the change cannot be made in place. Use `append_new_columns` or `sync_all_columns`, or run with `--full-refresh`."
    304 MERGE Data "a merge has more than one row for a key"
        "The new rows hold the same `unique_key` more than once, so that the result of a merge would depend on chance. Deduplicate in the model."
    401 CHECK_FAILED Data "a check failed"
        "The result broke a rule whose severity is error. The new version was not published; readers still see the old one. The staged rows are kept for inspection until the next run."
    402 UNIT_TEST Data "a unit test failed"
        "The model did not give the rows that its unit test expects. The message shows the difference."
    501 LAKE External "the lake could not be read or written"
        "Reading or committing a Delta table failed. Readers see the old version or the new one, never a part. Run again: a commit that was begun is finished first."
    502 LAKE_CONFLICT External "someone else changed a table meanwhile"
        "Another writer committed to the table between planning and commit. Nothing of this run's result for it was published; run again."
    503 INTENT External "an intent could not be finished"
        "An earlier run was stopped between its intent and its commit, and finishing it failed. The message names the table; run again when the cause is mended."
    601 CONNECTION External "a database could not be reached"
        "Connecting or logging in failed. The message names the connection of `freshet.yml`, never its password."
    602 LOAD External "a load into a warehouse failed"
        "The warehouse refused a statement. Nothing of the load is visible there: it is one transaction. Run again after the cause is mended."
    603 SINK_REFUSED Data "a sink refuses rows for good"
        "The target of a stream refused rows that it was given, and would refuse them again: a constraint of a table, a receiver that answers that a request is wrong. The job has ended; nothing of the epoch was applied, and its rows wait beside the job's checkpoints. The message has the target's own reason. Change the target so that it takes them (drop or widen the constraint, mend the receiver) and start the job again: it goes on with these rows. Where such rows must not come there, keep those that follow out in the model. What no table of Postgres can hold (a NUL character in a text, a time beyond its calendar) never comes so far: it is a dead letter."
    701 METADATA External "the record of runs could not be read or written"
        "The metadata store failed. It is an index: `freshet runs rebuild` makes it again from the lake's intents."
    801 DEAD_LETTER User "a dead letter could not be replayed"
        "The id is unknown, or the record was corrected and applied before with another content. The message says which."
    901 STATE External "the state of a job could not be read or written"
        "Writing a checkpoint, or reading one to go on from it, failed. Nothing is lost: what is not checkpointed is read again. The message names the object and the reason; where it is damaged, go on from an older savepoint."
    902 FENCED External "another instance of the job has taken over"
        "Each instance of a job that starts takes it over from those before it, which end with this error. Nothing that they did afterwards counts. Run one instance of a job at a time."
    903 STATE_LOST User "a change of the SQL would lose state"
        "The job's checkpoint holds state, or staged rows, of operators and sinks that the model's SQL does not have any more. Nothing was changed. `freshet plan` says what becomes of each; take the change back, or start with `--accept-state-loss`, which goes on without."
    951 LOG External "the event log could not be read or written"
        "The disk refused to read or write a file of the embedded log. The message names the file and the reason. A request that ends so may have been kept: repeat it with its idempotency key."
    952 LOG_DAMAGED Data "a file of the event log is damaged"
        "Bytes in the middle of the log are not what was written: the disk or somebody else changed them. The message names file and offset. What lies before is sound; restore the file from a backup, or start the readers behind the damage."
    953 BUSY External "too much waits to become durable"
        "Records come in faster than the disk makes them durable. Nothing of the request was kept: try again after a moment, or raise `max_pending_bytes`."
    954 IDEMPOTENCY User "an idempotency key was used for another body"
        "A request had the idempotency key of an earlier one and another body. Nothing of it was kept. Give each request a key of its own, and repeat it unchanged."
    961 REQUEST User "a request over HTTP is wrong"
        "Its address, headers or body are not what the route takes; nothing of it was done. The message says what is wrong. Bodies are one record, lines or an Arrow stream, as the content type says; the listener answers programs of this machine alone."
    962 CONTROL User "a job could not be steered"
        "There is no such job or savepoint here, or what was asked would break what its sinks hold. The message says which, and nothing was changed."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_are_unique() {
        assert!(ALL_CODES.windows(2).all(|pair| pair[0].code.0 < pair[1].code.0));
    }
}
