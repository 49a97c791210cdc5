//! The `blackhole` connector: rows are counted and forgotten. For measuring, and for trying a model
//! without writing anything.

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::error::Result;
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role, StreamSinkSpec};
use freshet_core::rows::Rows;
use freshet_core::sink::Guarantee;
use freshet_core::stream::{
    Changes, Claim, Epoch, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of the `blackhole` connector: there are none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlackholeOptions {}

/// The connector.
#[derive(Debug)]
pub struct BlackholeConnector;

impl Connector for BlackholeConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "blackhole",
            roles: &[Role::StreamSink],
            summary: "Counts rows and forgets them: for measuring, and for trying a model.",
            guarantee: None,
            options: schemars::schema_for!(BlackholeOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        crate::options::parse::<BlackholeOptions>(options, "").map(drop)
    }

    fn stream_sink(
        &self,
        options: &Value,
        _spec: &StreamSinkSpec,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        self.validate(options)?;
        Ok(Arc::new(Blackhole))
    }
}

/// Takes everything. The job counts what it gives.
#[derive(Debug)]
struct Blackhole;

#[async_trait]
impl StreamSink for Blackhole {
    /// After a crash rows are counted once more.
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn changes(&self) -> Changes {
        Changes::All
    }

    fn target(&self) -> String {
        "nowhere".into()
    }

    async fn open(&self, _: Claim, wakes: &[Arc<dyn Wake>]) -> Result<Vec<Box<dyn SinkWriter>>> {
        Ok(wakes.iter().map(|_| Box::new(Blackhole) as Box<dyn SinkWriter>).collect())
    }

    async fn commit(&self, _: Generation, _: &[PendingCommit]) -> Result<()> {
        Ok(())
    }
}

impl SinkWriter for Blackhole {
    fn write(&mut self, _: Rows) -> Result<()> {
        Ok(())
    }

    fn cut(&mut self, _: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        Ok(async { Ok(Token::Null) }.boxed())
    }
}
