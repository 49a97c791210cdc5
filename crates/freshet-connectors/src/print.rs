//! The `print` connector: every change as a line of standard output. For looking at what a model
//! gives, not for programs that must not miss a line.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::Field;
use arrow::json::writer::{EncoderOptions, make_encoder};
use async_trait::async_trait;
use freshet_core::error::{Result, ResultExt, code};
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role, StreamSinkSpec};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::sink::Guarantee;
use freshet_core::stream::{
    Changes, Claim, Epoch, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of the `print` connector.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrintOptions {
    /// What each line begins with, where several models print. Default: nothing.
    pub prefix: String,
}

/// The connector.
#[derive(Debug)]
pub struct PrintConnector;

impl Connector for PrintConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "print",
            roles: &[Role::StreamSink],
            summary: "Prints every change to standard output: +I, -U, +U or -D, then the row as JSON.",
            guarantee: Some(Guarantee::AtLeastOnce),
            options: schemars::schema_for!(PrintOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        crate::options::parse::<PrintOptions>(options, "").map(drop)
    }

    fn stream_sink(
        &self,
        options: &Value,
        _spec: &StreamSinkSpec,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        let options: PrintOptions = crate::options::parse(options, "")?;
        Ok(Arc::new(Print { prefix: options.prefix.into() }))
    }
}

/// Prints rows as they come.
#[derive(Debug, Clone)]
struct Print {
    prefix: Arc<str>,
}

#[async_trait]
impl StreamSink for Print {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn changes(&self) -> Changes {
        Changes::All
    }

    fn target(&self) -> String {
        "standard output".into()
    }

    async fn open(&self, _: Claim, wakes: &[Arc<dyn Wake>]) -> Result<Vec<Box<dyn SinkWriter>>> {
        Ok(wakes.iter().map(|_| Box::new(self.clone()) as Box<dyn SinkWriter>).collect())
    }

    async fn commit(&self, _: Generation, _: &[PendingCommit]) -> Result<()> {
        Ok(())
    }
}

impl SinkWriter for Print {
    fn write(&mut self, rows: Rows) -> Result<()> {
        let lines = lines(&rows, &self.prefix)?;
        let mut out = io::stdout().lock();
        out.write_all(&lines)
            .and_then(|()| out.flush())
            .or_code(code::LOAD, || "could not write to standard output".into())
    }

    fn cut(&mut self, _: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        Ok(async { Ok(Token::Null) }.boxed())
    }
}

/// A line for each row.
fn lines(rows: &Rows, prefix: &str) -> Result<Vec<u8>> {
    let values: ArrayRef = Arc::new(StructArray::from(rows.batch().clone()));
    let field = Arc::new(Field::new("row", values.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, values.as_ref(), &options).map_err(arrow_error)?;
    let mut lines = Vec::new();
    for row in 0..rows.len() {
        lines.extend_from_slice(prefix.as_bytes());
        lines.extend_from_slice(rows.kind(row).short().as_bytes());
        lines.push(b' ');
        encoder.encode(row, &mut lines);
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, StringViewArray};
    use freshet_core::rows::RowKind;

    use super::*;

    #[test]
    fn a_line_says_the_change_and_the_row() {
        let batch = RecordBatch::try_from_iter([
            ("city", Arc::new(StringViewArray::from(vec!["Lyon", "Lyon"])) as ArrayRef),
            ("orders", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ])
        .expect("two columns");
        let rows = Rows::changes(batch, vec![RowKind::UpdateBefore, RowKind::UpdateAfter]);
        let text = String::from_utf8(lines(&rows, "m: ").expect("rows as JSON")).expect("text");
        assert_eq!(
            text,
            "m: -U {\"city\":\"Lyon\",\"orders\":1}\nm: +U {\"city\":\"Lyon\",\"orders\":null}\n"
        );
    }
}
