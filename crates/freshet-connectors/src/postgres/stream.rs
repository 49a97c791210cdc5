//! A table as a sink without an end.
//!
//! Exactly once: the rows of an epoch are staged beside the job's checkpoints; once the checkpoint
//! is durable, one transaction applies them and moves the job's row in the table of streams. At
//! least once: rows are applied as they arrive. The row of the job fences instances that came before
//! in both.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use freshet_core::clock::Clock;
use freshet_core::error::Result;
use freshet_core::registry::{ConnectorContext, StreamSinkSpec};
use freshet_core::rows::Rows;
use freshet_core::sink::Guarantee;
use freshet_core::staging::Staging;
use freshet_core::stream::{
    Changes, Claim, Generation, PendingCommit, Refused, SinkWriter, StreamSink, Token, Wake,
};
use futures::future::BoxFuture;
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio_postgres::Client;

use super::changes::Target;
use super::names::Table;
use super::{PostgresOptions, connect, encode};
use crate::options::Promise;
use crate::sending::{Deliver, SendingWriter};

/// A table that is written.
#[derive(Debug)]
pub(super) struct PostgresStream {
    target: Arc<Target>,
    promise: Promise,
    limit: usize,
    clock: Arc<dyn Clock>,
    staging: Staging,
    /// The connection that commits, as long as it lasts.
    client: tokio::sync::Mutex<Option<Client>>,
    /// The generation whose predecessors' leftovers were swept.
    swept: Mutex<Option<Generation>>,
}

impl PostgresStream {
    pub(super) fn new(
        options: PostgresOptions,
        spec: &StreamSinkSpec,
        context: &ConnectorContext,
    ) -> Result<Self> {
        let name = options.table.clone().unwrap_or_else(|| spec.table.clone());
        let table = Table::parse(&name, &options.schema)?;
        let columns = encode::columns(&spec.schema, &table)?;
        Ok(Self {
            promise: options.guarantee,
            limit: options.max_held_bytes.as_usize(),
            clock: Arc::clone(&context.clock),
            staging: Staging::default(),
            client: tokio::sync::Mutex::default(),
            swept: Mutex::default(),
            target: Arc::new(Target {
                job: spec.writer.clone(),
                schema: SchemaRef::clone(&spec.schema),
                table,
                columns,
                options,
            }),
        })
    }
}

#[async_trait]
impl StreamSink for PostgresStream {
    fn guarantee(&self) -> Guarantee {
        self.promise.into()
    }

    fn changes(&self) -> Changes {
        match self.target.options.key.as_slice() {
            [] => Changes::Append,
            key => Changes::Upsert { key: key.to_vec() },
        }
    }

    fn target(&self) -> String {
        let PostgresOptions { host, port, .. } = &self.target.options;
        format!("table \"{}\" of postgres server \"{host}:{port}\"", self.target.table)
    }

    fn can_refuse(&self) -> bool {
        true
    }

    fn refuses(&self, rows: &Rows) -> Result<Vec<Refused>> {
        encode::refused(rows.batch(), &self.target.table)
    }

    fn stage_in(&self, store: Arc<dyn ObjectStore>) {
        self.staging.keep_in(store);
    }

    async fn open(
        &self,
        claim: Claim,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn SinkWriter>>> {
        let mut client = connect::open(&self.target.options).await?;
        self.target.open(&mut client, claim).await?;
        *self.client.lock().await = Some(client);
        let writer = |(task, wake)| -> Box<dyn SinkWriter> {
            match self.promise {
                Promise::ExactlyOnce => Box::new(self.staging.writer(claim.generation, task, wake)),
                Promise::AtLeastOnce => Box::new(SendingWriter::start(
                    Carrier {
                        target: Arc::clone(&self.target),
                        generation: claim.generation,
                        client: None,
                    },
                    self.limit,
                    Arc::clone(wake),
                    Arc::clone(&self.clock),
                )),
            }
        };
        Ok(wakes.iter().enumerate().map(writer).collect())
    }

    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        if self.promise == Promise::AtLeastOnce {
            return Ok(());
        }
        let mut held = self.client.lock().await;
        let mut client = match held.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect::open(&self.target.options).await?,
        };
        // One that failed in the midst of something is not used again.
        self.target.commit(&mut client, generation, pending, &self.staging).await?;
        *held = Some(client);
        drop(held);
        let tokens: Vec<&Token> = pending.iter().flat_map(|pending| &pending.parts).collect();
        self.staging.forget(&tokens).await;
        if self.swept.lock().replace(generation) != Some(generation) {
            self.staging.sweep(generation).await;
        }
        Ok(())
    }
}

/// Applies rows as they arrive.
struct Carrier {
    target: Arc<Target>,
    generation: Generation,
    client: Option<Client>,
}

impl Deliver for Carrier {
    fn target(&self) -> String {
        format!("table \"{}\"", self.target.table)
    }

    fn deliver<'a>(&'a mut self, rows: &'a [Rows]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = match self.client.take() {
                Some(client) if !client.is_closed() => client,
                _ => connect::open(&self.target.options).await?,
            };
            self.target.deliver(&mut client, self.generation, rows).await?;
            self.client = Some(client);
            Ok(())
        })
    }
}
