//! Example projects make their own data: `demo_data` of the project file names a generator, a
//! folder and options. Nothing is made where the folder is there already.

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_project::{DemoData, Project};
use serde_json::Value;

use crate::format::{bytes, count};
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

/// Makes a project's own data where it declares some and the folder is missing.
pub fn make_missing(project: &Project, ui: &Ui) -> Result<()> {
    let Some(demo) = &project.demo_data else { return Ok(()) };
    let folder = project.dir.join(&demo.into);
    if folder.exists() {
        return Ok(());
    }
    if demo.generator != "pos" {
        return Err(Error::new(
            code::CONFIG,
            format!("there is no generator \"{}\" for `demo_data`", demo.generator),
        )
        .hint("generators are: pos"));
    }
    let mut words = arguments(demo)?;
    words.push(folder.clone().into_os_string());
    let line = PosLine::try_parse_from(words).map_err(|error| {
        Error::new(code::CONFIG, "the options of `demo_data` are wrong")
            .caused_by(error.to_string().trim().to_owned())
            .hint("they are those of `freshet generate pos`")
    })?;
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
