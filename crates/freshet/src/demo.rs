//! Example projects make their own data: `demo_data` of the project file names a generator, where
//! its data goes, and options. No file is made where the folder is there already; streams are made
//! while `freshet up --demo` runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

use clap::Parser;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt, SourceId};
use freshet_project::{DemoData, DemoTarget, Project};
use serde_json::Value;

use crate::format::{bytes, count};
use crate::generate::orders::{OrdersOptions, Stream};
use crate::generate::pos::{self, PosOptions};
use crate::progress::spinner;
use crate::ui::Ui;

/// The generator's options, read as from the command line, so that both have one meaning.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct PosLine {
    #[command(flatten)]
    options: PosOptions,
}

/// As [`PosLine`].
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct OrdersLine {
    #[command(flatten)]
    options: OrdersOptions,
}

/// Makes a project's own data where it declares some and the folder is missing.
pub fn make_missing(project: &Project, ui: &Ui) -> Result<()> {
    let Some(demo) = &project.demo_data else { return Ok(()) };
    let DemoTarget::Folder(folder) = &demo.into else { return Ok(()) };
    if folder.exists() {
        return Ok(());
    }
    if demo.generator != "pos" {
        return Err(no_generator(demo, "files", "pos"));
    }
    let mut words = arguments(demo)?;
    words.push(folder.clone().into_os_string());
    let line = PosLine::try_parse_from(words).map_err(|error| wrong_options(demo, &error))?;
    let records = count(line.options.rows);
    let bar = spinner(ui, &format!("making {records} records of example data"));
    let made = pos::run(&line.options);
    bar.finish_and_clear();
    let summary = made.map_err(|error| {
        Error::new(code::IO, format!("could not make example data in \"{}\"", folder.display()))
            .caused_by(error.into_boxed_dyn_error())
    })?;
    if !ui.quiet && !ui.json {
        writeln!(
            std::io::stderr(),
            "made example data: {} records, {} in {}",
            count(summary.records),
            bytes(summary.bytes),
            folder.display()
        )
        .or_code(code::IO, || "could not write to the terminal".to_owned())?;
    }
    Ok(())
}

/// Streams that a project makes for itself.
#[derive(Debug)]
pub struct LiveDemo {
    /// What is made, in real time.
    pub options: OrdersOptions,
    /// The source of each stream that is wanted.
    pub sources: BTreeMap<Stream, SourceId>,
    /// The query whose result is shown.
    pub show: Option<String>,
}

impl LiveDemo {
    /// What a project declares.
    pub fn of(project: &Project) -> Result<Self> {
        let streams = project.demo_data.as_ref().and_then(|demo| match &demo.into {
            DemoTarget::Streams { sources, show } => Some((demo, sources, show)),
            DemoTarget::Folder(_) => None,
        });
        let Some((demo, sources, show)) = streams else {
            return Err(Error::new(code::CONFIG, "the project makes no streams of its own")
                .hint("`demo_data` with `streams` in freshet.yml says what `--demo` makes"));
        };
        if demo.generator != "orders" {
            return Err(no_generator(demo, "streams", "orders"));
        }
        let mut words = arguments(demo)?;
        words.push("--live".into());
        let line =
            OrdersLine::try_parse_from(words).map_err(|error| wrong_options(demo, &error))?;
        let mut named = BTreeMap::new();
        for (name, source) in sources {
            let stream = Stream::ALL.into_iter().find(|stream| stream.as_str() == name);
            let stream = stream.ok_or_else(|| {
                let names = Stream::ALL.map(Stream::as_str).join(", ");
                Error::new(
                    code::CONFIG,
                    format!("generator \"{}\" has no stream \"{name}\"", demo.generator),
                )
                .hint(format!("streams are: {names}"))
            })?;
            named.insert(stream, source.clone());
        }
        Ok(Self { options: line.options, sources: named, show: show.clone() })
    }
}

fn no_generator(demo: &DemoData, what: &str, known: &str) -> Error {
    Error::new(
        code::CONFIG,
        format!("there is no generator \"{}\" of {what} for `demo_data`", demo.generator),
    )
    .hint(format!("generators of {what} are: {known}"))
}

fn wrong_options(demo: &DemoData, error: &clap::Error) -> Error {
    Error::new(code::CONFIG, "the options of `demo_data` are wrong")
        .caused_by(error.to_string().trim().to_owned())
        .hint(format!("they are those of `freshet generate {}`", demo.generator))
}

fn arguments(demo: &DemoData) -> Result<Vec<OsString>> {
    let mut words = Vec::new();
    for (name, value) in &demo.options {
        let flag = format!("--{}", name.replace('_', "-"));
        match value {
            Value::Bool(true) => words.push(flag.into()),
            Value::Bool(false) => {}
            Value::Number(number) => words.push(format!("{flag}={number}").into()),
            Value::String(text) => words.push(format!("{flag}={text}").into()),
            _ => {
                return Err(Error::new(
                    code::CONFIG,
                    format!("option \"{name}\" of `demo_data` is not a plain value"),
                ));
            }
        }
    }
    Ok(words)
}
