//! A listener with something behind it that can be blocked, and clients that write bytes as they like.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::error::code;
use freshet_core::http::HttpOptions;
use freshet_core::ingest::{AppendRequest, Appended, Ingest};
use freshet_core::record::{Reject, Rule};
use freshet_core::{Error, Result};
use freshet_runtime::figures::JobFigures;
use freshet_serve::{Jobs, Restored, Saved, Server, Services, Sources};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Something that records are pushed to: it takes objects, and remembers them.
#[derive(Debug)]
struct Memory {
    kept: Mutex<Vec<String>>,
    keys: Mutex<HashMap<String, u128>>,
    blocked: watch::Sender<bool>,
    appending: watch::Sender<usize>,
    busy: Mutex<bool>,
}

#[async_trait]
impl Ingest for Memory {
    fn format(&self) -> &str {
        "ndjson"
    }

    async fn append(&self, request: AppendRequest) -> Result<Appended> {
        if *self.busy.lock() {
            return Err(Error::new(code::BUSY, "too much waits").retryable());
        }
        self.appending.send_modify(|appending| *appending += 1);
        let mut blocked = self.blocked.subscribe();
        blocked.wait_for(|blocked| !blocked).await.expect("the sender lives");
        let bad = |(number, record): (usize, &freshet_core::ingest::Record)| {
            let good = serde_json::from_slice::<Value>(&record.value).is_ok_and(|v| v.is_object());
            (!good).then(|| Reject {
                offset: number as u64,
                line: 1,
                rule: Rule::Syntax,
                column: None,
                message: "not an object".into(),
                raw: record.value.to_vec().into(),
            })
        };
        let rejects: Vec<_> = request.records.iter().enumerate().filter_map(bad).collect();
        let accepted = (request.records.len() - rejects.len()) as u64;
        let mut appended = Appended { accepted, rejects, ..Appended::default() };
        if request.strict && !appended.rejects.is_empty() {
            return Ok(appended);
        }
        appended.kept = true;
        if let Some(key) = request.idempotency {
            let mut keys = self.keys.lock();
            match keys.insert(key.name.clone(), key.digest) {
                None => {}
                Some(known) if known == key.digest => {
                    appended.repeated = true;
                    return Ok(appended);
                }
                Some(known) => {
                    keys.insert(key.name, known);
                    return Err(Error::new(code::IDEMPOTENCY, "another body"));
                }
            }
        }
        let texts = request
            .records
            .iter()
            .map(|record| String::from_utf8(record.value.to_vec()).expect("tests send text"));
        self.kept.lock().extend(texts);
        Ok(appended)
    }
}

#[derive(Debug)]
struct One(Arc<Memory>);

#[async_trait]
impl Sources for One {
    async fn ingest(&self, source: &str) -> Result<Arc<dyn Ingest>> {
        match source {
            "shop.orders" => Ok(Arc::clone(&self.0) as Arc<dyn Ingest>),
            _ => Err(Error::new(code::REFERENCE, format!("there is no source \"{source}\""))),
        }
    }
}

/// No job runs.
#[derive(Debug)]
struct NoJobs;

#[async_trait]
impl Jobs for NoJobs {
    fn figures(&self) -> Vec<JobFigures> {
        Vec::new()
    }

    async fn savepoint(&self, _job: &str, _name: &str) -> Result<Saved> {
        Err(Error::new(code::REFERENCE, "there is none"))
    }

    async fn restore(&self, _job: &str, _from: &str, _duplicates: bool) -> Result<Restored> {
        Err(Error::new(code::REFERENCE, "there is none"))
    }

    async fn rescale(&self, _job: &str, _parallelism: u16) -> Result<()> {
        Err(Error::new(code::REFERENCE, "there is none"))
    }
}

/// A listener that runs.
pub struct Door {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    memory: Arc<Memory>,
    running: Mutex<Option<JoinHandle<()>>>,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Door {
    pub async fn open(options: HttpOptions) -> Self {
        let memory = Arc::new(Memory {
            kept: Mutex::default(),
            keys: Mutex::default(),
            blocked: watch::Sender::new(false),
            appending: watch::Sender::new(0),
            busy: Mutex::default(),
        });
        let sources = Arc::new(One(Arc::clone(&memory)));
        let services = Services { sources, jobs: Arc::new(NoJobs) };
        let options = HttpOptions { listen: Some("127.0.0.1:0".into()), ..options };
        let server = Server::bind(&options, services).await.expect("it is bound");
        let server = server.expect("it is to listen");
        let (address, stop) = (server.address(), CancellationToken::new());
        let running = tokio::spawn(server.run(stop.clone()));
        Self { address, stop, memory, running: Mutex::new(Some(running)) }
    }

    /// The records that were kept.
    pub fn kept(&self) -> Vec<String> {
        self.memory.kept.lock().clone()
    }

    /// Lets nothing become durable until [`Self::release`].
    pub fn block(&self) {
        self.memory.blocked.send_replace(true);
    }

    pub fn release(&self) {
        self.memory.blocked.send_replace(false);
    }

    /// Refuses all from now on.
    pub fn busy(&self) {
        *self.memory.busy.lock() = true;
    }

    /// Waits until something is being appended.
    pub async fn appending(&self) {
        let mut appending = self.memory.appending.subscribe();
        appending.wait_for(|appending| *appending > 0).await.expect("the sender lives");
    }

    /// Waits until the listener has stopped.
    pub async fn stopped(&self) {
        let running = self.running.lock().take().expect("it is waited for once");
        running.await.expect("it ends well");
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", "", b"").await
    }

    pub async fn post(&self, path: &str, kind: &str, body: &[u8]) -> Answer {
        self.request("POST", path, kind, "", body).await
    }

    pub async fn request(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let kind = match kind {
            "" => String::new(),
            kind => format!("Content-Type: {kind}\r\n"),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{kind}{headers}Content-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.address,
            body.len()
        );
        self.raw(&[head.as_bytes(), body]).await
    }

    /// Writes pieces as they are; the answer must come though nothing more does.
    pub async fn raw(&self, pieces: &[&[u8]]) -> Answer {
        self.exchange(pieces, false).await.expect("it is answered")
    }

    /// Writes pieces as they are and says that nothing follows; there may be no answer.
    pub async fn ended(&self, pieces: &[&[u8]]) -> Option<Answer> {
        self.exchange(pieces, true).await
    }

    async fn exchange(&self, pieces: &[&[u8]], end: bool) -> Option<Answer> {
        let mut stream = self.connect().await;
        for piece in pieces {
            // It may have been answered and closed already.
            let _ = stream.write_all(piece).await;
        }
        if end {
            let _ = stream.shutdown().await;
        }
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return parse(&bytes, true),
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
            if let Some(answer) = parse(&bytes, false) {
                return Some(answer);
            }
        }
    }
}

/// An answer, where all of it is there; whatever there is where nothing more comes.
fn parse(bytes: &[u8], all: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("headers are text");
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    let body = &bytes[end + 4..];
    (all || body.len() >= length).then(|| Answer {
        status,
        headers,
        body: body[..length.min(body.len())].to_vec(),
    })
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}
