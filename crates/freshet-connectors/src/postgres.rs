//! The `postgres` sink: rows are carried into a staging table by binary COPY, then one transaction
//! moves them into the target and records the commit, so that a repeated load changes nothing.
//!
//! The staging table is unlogged: it is emptied by a crash of the server. A commit therefore counts
//! what is staged first, and is refused where rows are missing.
//!
//! As a sink of streams it stages rows beside the job's checkpoints instead.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use freshet_core::EdgeCounts;
use freshet_core::config::{ByteSize, HumanDuration, Secret};
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role, StreamSinkSpec};
use freshet_core::sink::{Guarantee, LoadRequest, Sink, StagedLoad};
use freshet_core::stream::StreamSink;
use futures::StreamExt;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod changes;
mod commit;
mod connect;
mod encode;
mod names;
mod stream;
#[cfg(test)]
mod tests;

use crate::options::Promise;
use names::{Table, stage_name};

/// Options of the `postgres` connector, in the connection or beside the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresOptions {
    /// The server's name or address; a path is the folder of its Unix socket. Default: `localhost`.
    pub host: String,
    /// The server's port. Default: 5432.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// The user to log in as. Required.
    pub user: Option<String>,
    /// The user's password, by reference: `${env:NAME}` or `${file:/path}`.
    pub password: Option<Secret>,
    /// The database. Default: the user's name.
    pub database: Option<String>,
    /// Whether the connection is encrypted and the server's certificate looked at. Default: `prefer`.
    pub sslmode: SslMode,
    /// PEM file of the authorities that may have signed the server's certificate.
    pub sslrootcert: Option<PathBuf>,
    /// How long connecting may take. Default: `10s`.
    pub connect_timeout: HumanDuration,
    /// The schema of tables that name none, of staging tables and of the record of commits.
    /// Default: `public`.
    pub schema: String,

    /// As a sink of streams: the table, `table` or `schema.table`; it is made where it is missing.
    /// Default: the model's name.
    pub table: Option<String>,
    /// As a sink of streams: the columns that identify a row. With them rows replace those with the
    /// same key, and rows that are taken back are deleted; without, rows are added. Default: the
    /// model's `unique_key`.
    pub key: Vec<String>,
    /// As a sink of streams: what it promises: `exactly_once` stages rows with the checkpoint and
    /// applies them in one transaction once it is durable; `at_least_once` writes them as they
    /// arrive. Default: `exactly_once`.
    pub guarantee: Promise,
    /// As a sink of streams: bytes that are held before rows have to wait (`at_least_once`).
    /// Default: `64MiB`.
    pub max_held_bytes: ByteSize,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5432,
            user: None,
            password: None,
            database: None,
            sslmode: SslMode::Prefer,
            sslrootcert: None,
            connect_timeout: HumanDuration(Duration::from_secs(10)),
            schema: "public".into(),
            table: None,
            key: Vec::new(),
            guarantee: Promise::default(),
            max_held_bytes: ByteSize::mib(64),
        }
    }
}

/// A port, also as text: what `${env:NAME}` gives is text.
fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u64),
        Text(String),
    }
    let (port, written) = match Port::deserialize(deserializer) {
        Ok(Port::Number(number)) => (u16::try_from(number).ok(), number.to_string()),
        Ok(Port::Text(text)) => (text.trim().parse().ok(), text),
        Err(_) => (None, "this".to_owned()),
    };
    port.filter(|port| *port != 0)
        .ok_or_else(|| serde::de::Error::custom(format!("{written} is no port: 1 to 65535")))
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// Where the server offers it; its certificate is not looked at.
    Prefer,
    /// Always; the certificate is looked at only where `sslrootcert` is given.
    Require,
    /// Always, and the certificate must be signed by an authority of `sslrootcert` for this host.
    VerifyFull,
}

/// The connector.
#[derive(Debug)]
pub struct PostgresConnector;

impl Connector for PostgresConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "postgres",
            roles: &[Role::Sink, Role::StreamSink],
            summary: "Writes tables of PostgreSQL: loads, appends, upserts and deletes, by binary COPY and one transaction.",
            guarantee: Some(Guarantee::ExactlyOnce),
            options: schemars::schema_for!(PostgresOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        let options: PostgresOptions = crate::options::parse(options, "")?;
        validate(&options)
    }

    fn sink(
        &self,
        options: &Value,
        table: &str,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn Sink>> {
        let options = read(options, context)?;
        let target = Table::parse(table, &options.schema)?;
        Ok(Arc::new(PostgresSink { options: Arc::new(options), target }))
    }

    fn stream_sink(
        &self,
        options: &Value,
        spec: &StreamSinkSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        let mut options = read(options, context)?;
        if options.key.is_empty() {
            options.key.clone_from(&spec.unique_key);
        }
        options.key.iter().try_for_each(|column| spec.check_column("key", column))?;
        Ok(Arc::new(stream::PostgresStream::new(options, spec, context)?))
    }
}

/// The options over those of the connection, checked.
fn read(options: &Value, context: &ConnectorContext) -> Result<PostgresOptions> {
    let merged = crate::options::over(&context.connection, options);
    let mut options: PostgresOptions = crate::options::parse(&merged, "")?;
    validate(&options)?;
    if options.user.is_none() {
        return Err(Error::new(code::CONFIG, "option \"user\" is required")
            .hint("give the user of the postgres connection in `freshet.yml`"));
    }
    if let Some(path) = &mut options.sslrootcert {
        *path = context.project_dir.join(&*path);
    }
    Ok(options)
}

fn validate(options: &PostgresOptions) -> Result<()> {
    if options.sslmode == SslMode::VerifyFull && options.sslrootcert.is_none() {
        return Err(Error::new(
            code::CONFIG,
            "option \"sslmode\" is verify-full, but no authority is given to verify against",
        )
        .hint("give the PEM file of the server's authority as \"sslrootcert\""));
    }
    for (option, text) in [
        ("host", Some(&options.host)),
        ("schema", Some(&options.schema)),
        ("user", options.user.as_ref()),
    ] {
        if text.is_some_and(|text| text.is_empty() || text.contains('\0')) {
            return Err(Error::new(
                code::CONFIG,
                format!("option \"{option}\" is empty or no name"),
            ));
        }
    }
    Ok(())
}

/// A table of a database as a sink.
#[derive(Debug)]
struct PostgresSink {
    options: Arc<PostgresOptions>,
    target: Table,
}

/// What a [`StagedLoad`]'s token says.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    version: u32,
    stage: Table,
    columns: Vec<StagedColumn>,
}

/// A column of the staging table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StagedColumn {
    name: String,
    #[serde(rename = "type")]
    sql_type: String,
}

impl PostgresSink {
    fn token(&self, staged: &StagedLoad) -> Result<Token> {
        let token: Token = serde_json::from_str(&staged.token).map_err(|error| {
            Error::internal("could not read the token of a staged load").caused_by(error)
        })?;
        if token.version != 1 {
            return Err(Error::new(
                code::LOAD,
                format!("the load of table \"{}\" was staged by another version", self.target),
            )
            .hint("run again: the rows are staged anew"));
        }
        Ok(token)
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn committed(&self, writer: &str) -> Result<u64> {
        let client = connect::open(&self.options).await?;
        commit::committed(&client, &self.options.schema, &self.target, writer).await
    }

    async fn stage(
        &self,
        request: LoadRequest,
        schema: SchemaRef,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<StagedLoad> {
        let columns = encode::columns(&schema, &self.target)?;
        let client = connect::open(&self.options).await?;
        let stage = Table {
            schema: self.options.schema.clone(),
            name: stage_name(&request.id.writer, &self.target, request.id.number),
        };
        let failed =
            |error| connect::failed(error, || format!("could not stage table \"{}\"", self.target));
        commit::make_schema(&client, &stage.schema).await.map_err(failed)?;
        let definitions: Vec<String> = columns
            .iter()
            .map(|column| format!("{} {}", names::quote(&column.name), column.sql_type))
            .collect();
        client
            .batch_execute(&format!(
                "drop table if exists {stage}; create unlogged table {stage} ({})",
                definitions.join(", "),
                stage = stage.sql(),
            ))
            .await
            .map_err(failed)?;

        let copy = format!("copy {} from stdin (format binary)", stage.sql());
        let sink = client.copy_in(copy.as_str()).await.map_err(failed)?;
        let mut writer = encode::CopyWriter::new(sink, &self.target);
        while let Some(batch) = rows.next().await {
            writer.write(&batch?).await?;
        }
        let staged = writer.finish().await?;
        client.batch_execute(&format!("analyze {}", stage.sql())).await.map_err(failed)?;
        let token = Token { version: 1, stage, columns };
        Ok(StagedLoad {
            request,
            rows: staged,
            token: serde_json::to_string(&token).map_err(|error| {
                Error::internal("could not write the token of a staged load").caused_by(error)
            })?,
        })
    }

    async fn commit(&self, staged: &StagedLoad) -> Result<EdgeCounts> {
        let token = self.token(staged)?;
        let mut client = connect::open(&self.options).await?;
        commit::commit(&mut client, &self.options.schema, &self.target, staged, &token).await?;
        Ok(EdgeCounts { rows_in: staged.rows, rows_out: staged.rows, dead: 0, filtered: 0 })
    }

    async fn abort(&self, staged: &StagedLoad) -> Result<()> {
        let token = self.token(staged)?;
        let client = connect::open(&self.options).await?;
        client.batch_execute(&format!("drop table if exists {}", token.stage.sql())).await.map_err(
            |error| connect::failed(error, || format!("could not drop table \"{}\"", token.stage)),
        )
    }
}
