//! The `webhook` connector: batches of rows are posted as lines of JSON.
//!
//! The rows of an epoch are staged beside the job's checkpoints and posted once the checkpoint is
//! durable, in batches that are the same at each attempt. Each carries a key that a repeated one has
//! again: a receiver that remembers keys gets each row once, any other at least once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::Field;
use arrow::json::writer::{EncoderOptions, make_encoder};
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::clock::Clock;
use freshet_core::config::{ByteSize, HumanDuration, Secret};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role, StreamSinkSpec};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::sink::Guarantee;
use freshet_core::staging::Staging;
use freshet_core::stream::{
    Changes, Claim, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake,
};
use object_store::ObjectStore;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, redirect};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sending::with_jitter;

/// The longest wait that a receiver may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Bytes of an answer that are shown.
const SHOWN: usize = 200;

/// Options of the `webhook` connector, in the connection or beside the sink.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookOptions {
    /// Where rows are posted to: an `http://` or `https://` URL. Required.
    pub url: String,
    /// Headers of each request, by name. Those that are secret belong into the connection, by
    /// reference: `${env:NAME}`.
    pub headers: BTreeMap<String, Secret>,
    /// The header that holds the key of a batch. Default: `Idempotency-Key`.
    pub key_header: String,
    /// The field that says what a row means: `+I`, `-U`, `+U` or `-D`. Without it the sink only
    /// takes rows that are added. Default: none.
    pub change_field: Option<String>,
    /// Rows of one request, at most. Default: 1000.
    pub batch_rows: usize,
    /// Bytes of one request, at most, unless a single row is larger. Default: `1MiB`.
    pub batch_bytes: ByteSize,
    /// How long a request may take. Default: `30s`.
    pub timeout: HumanDuration,
    /// The wait after the first request that failed; each further one is twice as long, up to a
    /// minute, or what the receiver asks for by `Retry-After`. Default: `500ms`.
    pub retry_wait: HumanDuration,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            headers: BTreeMap::new(),
            key_header: "Idempotency-Key".into(),
            change_field: None,
            batch_rows: 1_000,
            batch_bytes: ByteSize::mib(1),
            timeout: HumanDuration(Duration::from_secs(30)),
            retry_wait: HumanDuration(Duration::from_millis(500)),
        }
    }
}

impl WebhookOptions {
    fn read(options: &Value) -> Result<Self> {
        let options: Self = crate::options::parse(options, "")?;
        if options.batch_rows == 0 || options.batch_bytes.0 == 0 {
            let message = "options \"batch_rows\" and \"batch_bytes\" cannot be 0";
            return Err(Error::new(code::CONFIG, message));
        }
        options.header_map()?;
        Ok(options)
    }

    fn header_map(&self) -> Result<HeaderMap> {
        let wrong = |name: &str| {
            Error::new(
                code::CONFIG,
                format!("option \"headers\" is wrong: \"{name}\" is no header"),
            )
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name))?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong(name))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        HeaderName::from_bytes(self.key_header.as_bytes()).map_err(|_| {
            let message =
                format!("option \"key_header\" is wrong: \"{}\" is no header", self.key_header);
            Error::new(code::CONFIG, message)
        })?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(headers)
    }
}

/// The connector.
#[derive(Debug)]
pub struct WebhookConnector;

impl Connector for WebhookConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "webhook",
            roles: &[Role::StreamSink],
            summary: "Posts rows as lines of JSON, in batches with a key that a repeated one has again.",
            guarantee: Some(Guarantee::AtLeastOnce),
            options: schemars::schema_for!(WebhookOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        WebhookOptions::read(options).map(drop)
    }

    fn stream_sink(
        &self,
        options: &Value,
        spec: &StreamSinkSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        let options = WebhookOptions::read(&crate::options::over(&context.connection, options))?;
        let url = url::Url::parse(&options.url).ok();
        let Some(url) = url.filter(|url| ["http", "https"].contains(&url.scheme())) else {
            return Err(Error::new(
                code::CONFIG,
                format!("option \"url\" is \"{}\", which is no address", options.url),
            )
            .hint("write it as https://host/path"));
        };
        let client = Client::builder()
            .default_headers(options.header_map()?)
            .timeout(options.timeout.0)
            // Where rows go is said in the project and nowhere else.
            .redirect(redirect::Policy::none())
            .user_agent("freshet")
            .build()
            .or_code(code::CONFIG, || "could not set up a client of HTTP".to_owned())?;
        Ok(Arc::new(Webhook {
            url,
            client,
            writer: spec.writer.clone(),
            clock: Arc::clone(&context.clock),
            staging: Staging::default(),
            posted: Mutex::default(),
            posted_rows: Mutex::default(),
            swept: Mutex::default(),
            options,
        }))
    }
}

/// A receiver.
#[derive(Debug)]
struct Webhook {
    options: WebhookOptions,
    url: url::Url,
    client: Client,
    writer: String,
    clock: Arc<dyn Clock>,
    staging: Staging,
    /// Keys of batches of the commit under way that were taken.
    posted: Mutex<BTreeSet<String>>,
    /// What the last commits have posted, to be deleted.
    posted_rows: Mutex<VecDeque<Vec<Token>>>,
    swept: Mutex<Option<Generation>>,
}

impl Webhook {
    /// Posts a batch, unless this process has done so already, until it is taken or refused for good.
    async fn post(&self, key: String, body: Bytes) -> Result<()> {
        if self.posted.lock().contains(&key) {
            return Ok(());
        }
        let mut wait = self.options.retry_wait.0;
        loop {
            let request = self
                .client
                .post(self.url.clone())
                .header(self.options.key_header.as_str(), &key)
                .body(body.clone());
            let (problem, asked) = match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    self.posted.lock().insert(key);
                    return Ok(());
                }
                Ok(answer) => {
                    let status = answer.status();
                    let asked =
                        answer.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok());
                    let asked = asked.and_then(|wait| wait.parse().ok()).map(Duration::from_secs);
                    let text = answer.text().await.unwrap_or_default();
                    let text: String = text.chars().take(SHOWN).collect();
                    let problem = format!("{status} {text}");
                    if !may_pass(status) {
                        let message = format!("the receiver of {} refuses rows", self.target());
                        // Who may not post, or where to, can be mended meanwhile; rows cannot.
                        let code = if is_of_rows(status) { code::SINK_REFUSED } else { code::LOAD };
                        return Err(Error::new(code, message)
                            .caused_by(problem)
                            .hint("look at the options `url` and `headers`, and at the receiver's own log"));
                    }
                    (problem, asked)
                }
                // The URL may hold a secret.
                Err(error) => (error.without_url().to_string(), None),
            };
            let pause = asked
                .map_or_else(|| with_jitter(wait, &*self.clock), |asked| asked.min(LONGEST_WAIT));
            tracing::warn!(
                pipeline = self.writer,
                problem,
                wait_ms = pause.as_millis() as u64,
                "rows are posted again"
            );
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(Duration::from_secs(60));
        }
    }

    /// Rows as bodies of requests.
    fn bodies(&self, rows: &[Rows]) -> Result<Vec<Bytes>> {
        let (mut bodies, mut body, mut count) = (Vec::new(), Vec::new(), 0);
        for rows in rows {
            let values: ArrayRef = Arc::new(StructArray::from(rows.batch().clone()));
            let field = Arc::new(Field::new("row", values.data_type().clone(), true));
            let options = EncoderOptions::default().with_explicit_nulls(true);
            let mut encoder =
                make_encoder(&field, values.as_ref(), &options).map_err(arrow_error)?;
            for row in 0..rows.len() {
                let begin = body.len();
                encoder.encode(row, &mut body);
                if let Some(field) = &self.options.change_field {
                    let comma = if rows.batch().num_columns() == 0 { "" } else { "," };
                    let name = Value::from(field.as_str());
                    let kind = format!("{comma}{name}:\"{}\"}}", rows.kind(row).short());
                    body.pop();
                    body.extend_from_slice(kind.as_bytes());
                }
                body.push(b'\n');
                count += 1;
                let too_many = body.len() > self.options.batch_bytes.as_usize() && begin > 0;
                if too_many {
                    let last = body.split_off(begin);
                    bodies.push(std::mem::replace(&mut body, last).into());
                    count = 1;
                }
                if count >= self.options.batch_rows {
                    bodies.push(std::mem::take(&mut body).into());
                    count = 0;
                }
            }
        }
        if !body.is_empty() {
            bodies.push(body.into());
        }
        Ok(bodies)
    }
}

/// Whether the same request may succeed later.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
            .contains(&status)
}

/// Whether it is the body of the request that is refused.
fn is_of_rows(status: StatusCode) -> bool {
    [
        StatusCode::BAD_REQUEST,
        StatusCode::CONFLICT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::UNPROCESSABLE_ENTITY,
    ]
    .contains(&status)
}

#[async_trait]
impl StreamSink for Webhook {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn waits_for_checkpoint(&self) -> bool {
        true
    }

    fn changes(&self) -> Changes {
        match self.options.change_field {
            Some(_) => Changes::All,
            None => Changes::Append,
        }
    }

    fn target(&self) -> String {
        // What stands behind the host may be a secret.
        let host = self.url.host_str().unwrap_or_default();
        let digest = blake3::hash(self.url.as_str().as_bytes()).to_hex();
        format!("webhook {host} ({})", &digest[..8])
    }

    fn stage_in(&self, store: Arc<dyn ObjectStore>) {
        self.staging.keep_in(store);
    }

    async fn open(
        &self,
        claim: Claim,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn SinkWriter>>> {
        let writer = |(task, wake): (usize, &Arc<dyn Wake>)| -> Box<dyn SinkWriter> {
            Box::new(self.staging.writer(claim.generation, task, wake))
        };
        Ok(wakes.iter().enumerate().map(writer).collect())
    }

    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        for PendingCommit { epoch, parts } in pending {
            for (part, token) in parts.iter().enumerate() {
                let rows = self.staging.read(token).await?;
                for (number, body) in self.bodies(&rows)?.into_iter().enumerate() {
                    let key = format!("{}/{epoch}/{part}/{number}", self.writer);
                    self.post(key, body).await?;
                }
            }
        }
        self.posted.lock().clear();
        // The receiver does not say what it holds. Until a manifest is durable that was begun after
        // this, an instance that takes over posts the same again: two commits later one is.
        let old = {
            let mut kept = self.posted_rows.lock();
            kept.push_back(pending.iter().flat_map(|pending| pending.parts.clone()).collect());
            if kept.len() > 2 { kept.pop_front() } else { None }
        };
        let old = old.unwrap_or_default();
        self.staging.forget(&old.iter().collect::<Vec<_>>()).await;
        if self.swept.lock().replace(generation) != Some(generation) {
            self.staging.sweep(generation).await;
        }
        Ok(())
    }
}
