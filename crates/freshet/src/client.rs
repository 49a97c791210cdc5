//! Asks a `freshet up` of this machine over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest answer.
const LONGEST_ANSWER: usize = 64 << 20;

/// How long one is waited for, where nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks one process.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    address: SocketAddr,
    patience: Duration,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Seconds after which to try again, where it says so.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: Bytes,
}

impl Client {
    /// Asks the process that listens at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, patience: PATIENCE }
    }

    /// Waits so long for an answer.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks, and gives whatever is answered.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body.into()))
            .or_code(code::INTERNAL, || format!("address \"{path}\" cannot be asked"))?;
        let asking = self.send(request);
        let answered = tokio::time::timeout(self.patience, asking).await;
        let what = || format!("could not ask the `freshet up` at {}", self.address);
        answered
            .map_err(|_| Error::new(code::IO, what()).caused_by("it did not answer in time"))?
            .or_code(code::IO, what)
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
        connection.abort();
        Ok(Answer { status, retry_after, body })
    }

    /// What is at `path`, as JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, "application/json", Bytes::new()).await?.json()
    }

    /// Asks for something to be done.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        self.ask(Method::POST, path, "application/json", body).await?.json()
    }
}

impl Answer {
    /// The body where all went well; the error that it tells of otherwise.
    pub fn json(self) -> Result<Value> {
        let value: Value = serde_json::from_slice(&self.body).or_code(code::IO, || {
            format!("the answer of `freshet up`, of status {}, could not be read", self.status)
        })?;
        if self.status.is_success() {
            return Ok(value);
        }
        let told = &value["error"];
        let message = told["message"].as_str().unwrap_or("`freshet up` refused it");
        let known = told["code"].as_str().and_then(|told| {
            freshet_core::error::ALL_CODES.iter().find(|info| info.code.to_string() == told)
        });
        let error = Error::new(known.map_or(code::CONTROL, |info| info.code), message);
        Err(match told["hint"].as_str() {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}
