//! `freshet sql`: one query, several, or a prompt, over the tables of the project.

use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Instant;

use freshet_core::error::code;
use freshet_core::{Error, ResultExt};
use freshet_engine::lake::AsOf;
use freshet_engine::session::query_error;
use futures::StreamExt;

use crate::app::{self, App, Place};
use crate::cli::{AsOfArg, OutputFormat, SqlArgs};
use crate::exit::{CommandResult, Failure, Outcome};
use crate::output::{self, PrintOptions, Rows};
use crate::prompt;
use crate::statements;
use crate::ui::Ui;

/// A file of queries is no larger than this.
const MAX_SCRIPT_BYTES: u64 = 16 << 20;

/// Runs queries.
pub fn run(args: &SqlArgs, place: &Place, ui: &Ui) -> CommandResult {
    let format = if ui.json && args.format == OutputFormat::Table {
        OutputFormat::Json
    } else {
        args.format
    };
    let options = PrintOptions {
        format,
        max_rows: args.max_rows,
        width: ui.width,
        paint: ui.out,
        timer: true,
    };
    let script = match (args.query.as_ref().or(args.command.as_ref()), &args.file) {
        (Some(query), _) => Some(query.clone()),
        (None, Some(file)) if file == Path::new("-") => Some(read_script(&mut io::stdin(), file)?),
        (None, Some(file)) => {
            let mut opened = std::fs::File::open(file).or_code(code::ARGUMENTS, || {
                format!("could not open file \"{}\"", file.display())
            })?;
            Some(read_script(&mut opened, file)?)
        }
        (None, None) if !io::stdin().is_terminal() => {
            Some(read_script(&mut io::stdin(), Path::new("-"))?)
        }
        (None, None) => None,
    };
    let app = place.open()?;
    let runtime = app::runtime(None)?;
    let Some(script) = script else {
        return prompt::run(&app, &runtime, options, args.as_of.map(as_of), ui);
    };
    let (mut queries, rest) = statements::split(&script);
    if !statements::is_blank(rest) {
        queries.push(rest);
    }
    if queries.is_empty() {
        return Err(Error::new(code::ARGUMENTS, "there is no query to run").into());
    }
    runtime.block_on(async {
        for query in queries {
            let as_of = args.as_of.map(as_of);
            until_signal(query_and_print(&app, query, as_of, &options)).await?;
        }
        Ok(Outcome::Done)
    })
}

fn read_script(from: &mut dyn Read, path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let name = || {
        if path == Path::new("-") {
            "standard input".to_owned()
        } else {
            format!("file \"{}\"", path.display())
        }
    };
    from.take(MAX_SCRIPT_BYTES + 1)
        .read_to_end(&mut bytes)
        .or_code(code::IO, || format!("could not read {}", name()))?;
    if bytes.len() as u64 > MAX_SCRIPT_BYTES {
        return Err(Error::new(code::LIMIT, format!("{} is larger than 16 MiB", name())).into());
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::new(code::ARGUMENTS, format!("{} is not UTF-8", name())).into())
}

/// The engine's word for a point in a table's history.
pub fn as_of(arg: AsOfArg) -> AsOf {
    match arg {
        AsOfArg::Version(version) => AsOf::Version(version),
        AsOfArg::Time(time) => AsOf::Timestamp(time.and_utc()),
    }
}

/// A stream of the engine, its errors made ours.
macro_rules! engine_rows {
    ($stream:expr) => {{
        let stream = $stream;
        let schema = stream.schema();
        let batches = stream
            .map(|batch| {
                batch.map_err(|error| query_error(error, || "the query failed".to_owned()))
            })
            .boxed();
        Rows { schema, batches }
    }};
}

/// The rows of a query.
pub async fn query(app: &App, sql: &str, as_of: Option<AsOf>) -> Result<Rows, Error> {
    Ok(engine_rows!(app.engine.query(sql, as_of).await?))
}

/// The first rows of a model.
pub async fn preview(app: &App, id: &freshet_core::ModelId, limit: usize) -> Result<Rows, Error> {
    Ok(engine_rows!(app.engine.preview(id, limit).await?))
}

/// Runs one query and prints its rows as they come.
pub async fn query_and_print(
    app: &App,
    sql: &str,
    as_of: Option<AsOf>,
    options: &PrintOptions,
) -> Result<(), Failure> {
    let started = Instant::now();
    let rows = query(app, sql, as_of).await?;
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout());
    output::print(rows, &mut out, options, started).await?;
    Ok(out.flush()?)
}

/// Runs to the end, or stops at Ctrl-C with the shell's usual exit code.
pub async fn until_signal<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::Reported(130)),
    }
}
