//! A client of a schema registry that speaks Confluent's interface, and the schemas that it gave.
//!
//! A schema never changes, so that each is asked for once. Decoders do not wait: who asks for a schema
//! that is not there yet is told so, and the answer is fetched beside. A registry that does not answer
//! is asked again and again, with growing waits; what is said to be unknown is not, for a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::stream::Wait;
use parking_lot::Mutex;
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use super::AvroOptions;
use super::references::inline;

/// Waits after failures: the first one, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often a registry has to say that it has no such schema until that is believed: one that is a
/// copy of another may be a little behind.
const DENIALS: u32 = 3;
/// How long it is believed, in microseconds.
const BELIEVED: i64 = 60_000_000;
/// Schemas that are kept, unknown ones included. Far more than any topic has: messages of garbage
/// name others.
const MAX_SCHEMAS: usize = 10_000;
/// Schemas that one refers to, directly or not.
const MAX_REFERENCES: usize = 100;
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// What registries take and give.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// The registry's numbers of errors: no such subject, version, schema.
const UNKNOWN: [i64; 3] = [40401, 40402, 40403];

/// A registry.
#[derive(Debug)]
pub struct SchemaRegistry {
    client: Client,
    base: Url,
    login: Option<(String, String)>,
    clock: Arc<dyn Clock>,
    schemas: Mutex<HashMap<u32, Entry>>,
}

/// What is known of a schema.
#[derive(Debug, Clone)]
enum Entry {
    /// It was asked for.
    Wanted { since: i64, reason: String },
    /// It is there.
    Known(Arc<str>),
    /// It is none, until then.
    Denied { why: Arc<str>, until: i64 },
}

/// The answer to who asks for a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The schema, as JSON.
    Known(Arc<str>),
    /// Why there is none.
    Denied(Arc<str>),
    /// It is being fetched.
    Waits,
}

/// Why a question has no answer.
enum Failure {
    /// There is no such thing.
    Unknown(String),
    /// It is refused to us.
    Refused(String),
    /// There is an answer, and no use for it.
    Unfit(String),
    /// Another time it may work.
    Passing(String),
}

#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(default, rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

/// A type that another schema defines.
#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

#[derive(Deserialize)]
struct CompatibilityAnswer {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(default)]
    error_code: i64,
    #[serde(default)]
    message: String,
}

impl SchemaRegistry {
    /// The registry that the options name; `None` where they name none.
    pub fn new(
        options: &AvroOptions,
        project_dir: &std::path::Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Arc<Self>>> {
        let Some(address) = &options.registry else { return Ok(None) };
        let wrong = |why: String| {
            Error::new(code::CONFIG, format!("option \"format_options.registry\" is wrong: {why}"))
                .hint("write the registry's address, e.g. http://127.0.0.1:8081")
        };
        let mut base = Url::parse(address).map_err(|error| wrong(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong(format!("\"{address}\" is not of http or https")));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut client = Client::builder()
            .timeout(options.registry_timeout.0)
            .redirect(reqwest::redirect::Policy::limited(3))
            .user_agent("freshet");
        if let Some(path) = &options.registry_ca_file {
            let path = project_dir.join(path);
            let pem = std::fs::read(&path)
                .or_code(code::CONFIG, || format!("could not read \"{}\"", path.display()))?;
            let failure = || format!("\"{}\" holds no certificates", path.display());
            for certificate in
                reqwest::Certificate::from_pem_bundle(&pem).or_code(code::CONFIG, failure)?
            {
                client = client.add_root_certificate(certificate);
            }
        }
        let login = options.registry_username.clone().map(|username| {
            let password = options.registry_password.as_ref();
            (username, password.map(|secret| secret.expose().to_owned()).unwrap_or_default())
        });
        Ok(Some(Arc::new(Self {
            client: client
                .build()
                .or_code(code::CONFIG, || "the schema registry has no client".to_owned())?,
            base,
            login,
            clock,
            schemas: Mutex::default(),
        })))
    }

    /// The schema with this number, which is fetched on `runtime` where it is not known.
    pub fn schema(self: &Arc<Self>, id: u32, runtime: &Handle) -> Lookup {
        let now = self.clock.now_micros();
        let mut schemas = self.schemas.lock();
        match schemas.get(&id) {
            Some(Entry::Known(schema)) => return Lookup::Known(Arc::clone(schema)),
            Some(Entry::Denied { why, until }) if *until > now => {
                return Lookup::Denied(Arc::clone(why));
            }
            Some(Entry::Wanted { .. }) => return Lookup::Waits,
            Some(Entry::Denied { .. }) => {}
            None if schemas.len() >= MAX_SCHEMAS => {
                // Known ones are needed; what was denied can be asked for again.
                schemas.retain(|_, entry| !matches!(entry, Entry::Denied { .. }));
                if schemas.len() >= MAX_SCHEMAS {
                    let why = format!("messages have more than {MAX_SCHEMAS} schemas");
                    return Lookup::Denied(why.into());
                }
            }
            None => {}
        }
        schemas.insert(id, Entry::Wanted { since: now, reason: "it was not asked yet".into() });
        runtime.spawn(fetch(Arc::downgrade(self), id));
        Lookup::Waits
    }

    /// What is waited for.
    pub fn waits(&self) -> Vec<Wait> {
        let schemas = self.schemas.lock();
        let mut waits: Vec<Wait> = schemas
            .iter()
            .filter_map(|(id, entry)| match entry {
                Entry::Wanted { since, reason } => Some(Wait {
                    what: format!("the schema registry, for schema {id}"),
                    reason: reason.clone(),
                    since: *since,
                }),
                _ => None,
            })
            .collect();
        waits.sort_by(|a, b| (a.since, &a.what).cmp(&(b.since, &b.what)));
        waits
    }

    /// Registers `schema` under `subject`, where it is not already, and gives its number. One that
    /// cannot follow those before it is an error, and nothing is registered.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let body = json!({ "schema": schema });
        let registered: Result<IdAnswer, _> =
            self.ask(Method::POST, &["subjects", subject], Some(&body)).await;
        match registered {
            Ok(answer) => return Ok(answer.id),
            Err(Failure::Unknown(_)) => {}
            Err(failure) => return Err(self.error(subject, failure)),
        }
        let versions = ["compatibility", "subjects", subject, "versions", "latest"];
        let checked: Result<CompatibilityAnswer, _> =
            self.ask(Method::POST, &versions, Some(&body)).await;
        match checked {
            Ok(answer) if answer.is_compatible => {}
            Ok(answer) => {
                let why = match answer.messages.as_slice() {
                    [] => "readers of the schema before could not read it".to_owned(),
                    messages => messages.join("; "),
                };
                return Err(Error::new(
                    code::CONFIG,
                    format!("the schema of subject \"{subject}\" cannot become the new one"),
                )
                .caused_by(why)
                .hint(
                    "add columns as nullable, keep those that are there, or write another topic",
                ));
            }
            // The first one of its subject.
            Err(Failure::Unknown(_)) => {}
            Err(failure) => return Err(self.error(subject, failure)),
        }
        let answer: Result<IdAnswer, _> =
            self.ask(Method::POST, &["subjects", subject, "versions"], Some(&body)).await;
        answer.map(|answer| answer.id).map_err(|failure| self.error(subject, failure))
    }

    fn error(&self, subject: &str, failure: Failure) -> Error {
        let error = |why| {
            let message = format!("could not register a schema under subject \"{subject}\"");
            Error::new(code::LOAD, message).caused_by(why)
        };
        match failure {
            Failure::Passing(why) => error(why).retryable(),
            Failure::Unknown(why) | Failure::Refused(why) | Failure::Unfit(why) => {
                error(why).hint(format!("look at the schema registry at {}", self.base))
            }
        }
    }

    /// The schema with this number, asked for once.
    async fn one(&self, id: u32) -> Result<Arc<str>, Failure> {
        let number = id.to_string();
        let answer: SchemaAnswer =
            self.ask(Method::GET, &["schemas", "ids", &number], None).await?;
        match answer.schema_type.as_deref() {
            None | Some("AVRO") => {}
            Some(other) => {
                return Err(Failure::Unfit(format!("schema {id} is {other}, not Avro")));
            }
        }
        if answer.references.is_empty() {
            return Ok(answer.schema.into());
        }
        let mut known = BTreeMap::new();
        let mut wanted = answer.references;
        while let Some(reference) = wanted.pop() {
            if known.contains_key(&reference.name) {
                continue;
            }
            if known.len() >= MAX_REFERENCES {
                let why = format!("schema {id} refers to more than {MAX_REFERENCES} others");
                return Err(Failure::Unfit(why));
            }
            let version = reference.version.to_string();
            let path = ["subjects", reference.subject.as_str(), "versions", &version];
            let other: SchemaAnswer = self.ask(Method::GET, &path, None).await?;
            known.insert(reference.name, parsed(&other.schema)?);
            wanted.extend(other.references);
        }
        Ok(inline(parsed(&answer.schema)?, &known).to_string().into())
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.request(method, url).header("accept", MEDIA_TYPE);
        if let Some((username, password)) = &self.login {
            request = request.basic_auth(username, Some(password));
        }
        if let Some(body) = body {
            request = request.header("content-type", MEDIA_TYPE).body(body.to_string());
        }
        // The address is left out: it may hold a password.
        let passing = |error: reqwest::Error| Failure::Passing(chain(&error.without_url()));
        let mut answer = request.send().await.map_err(passing)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(passing)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_ANSWER {
                let why = format!("its answer is larger than {MAX_ANSWER} bytes");
                return Err(Failure::Unfit(why));
            }
        }
        if status.is_success() {
            let read = serde_json::from_slice(&bytes);
            return read.map_err(|error| Failure::Passing(format!("its answer is none: {error}")));
        }
        let said: Option<ErrorAnswer> = serde_json::from_slice(&bytes).ok();
        let why = match &said {
            Some(said) if !said.message.is_empty() => format!("{status}: {}", said.message),
            _ => status.to_string(),
        };
        Err(match status {
            // Without a number of its own, whoever answers may not be a registry.
            StatusCode::NOT_FOUND
                if said.as_ref().is_some_and(|said| UNKNOWN.contains(&said.error_code)) =>
            {
                Failure::Unknown(why)
            }
            StatusCode::CONFLICT
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::BAD_REQUEST
            | StatusCode::FORBIDDEN
            | StatusCode::UNAUTHORIZED
            | StatusCode::METHOD_NOT_ALLOWED => Failure::Refused(why),
            _ => Failure::Passing(why),
        })
    }
}

fn parsed(schema: &str) -> Result<Value, Failure> {
    serde_json::from_str(schema)
        .map_err(|error| Failure::Unfit(format!("a schema of the registry is no JSON: {error}")))
}

/// Fetches a schema for as long as anybody has use for it.
async fn fetch(registry: Weak<SchemaRegistry>, id: u32) {
    let (mut wait, longest) = BACKOFF;
    let mut denials = 0;
    loop {
        let Some(registry) = registry.upgrade() else { return };
        let asked = registry.one(id).await;
        let now = registry.clock.now_micros();
        let deny = |why: &str| {
            tracing::warn!(schema = id, why, "schema registry has no such schema");
            Entry::Denied { why: why.into(), until: now.saturating_add(BELIEVED) }
        };
        let entry = match asked {
            Ok(schema) => Some(Entry::Known(schema)),
            Err(Failure::Unknown(why)) => {
                denials += 1;
                (denials >= DENIALS).then(|| deny(&why))
            }
            Err(Failure::Unfit(why)) => Some(deny(&why)),
            // What it will not give to us now it may give once somebody has mended that.
            Err(Failure::Refused(why) | Failure::Passing(why)) => {
                registry.note(id, why);
                None
            }
        };
        if let Some(entry) = entry {
            registry.schemas.lock().insert(id, entry);
            return;
        }
        drop(registry);
        tokio::time::sleep(jittered(wait, now)).await;
        wait = (wait * 2).min(longest);
    }
}

impl SchemaRegistry {
    /// Says why a schema is still waited for.
    fn note(&self, id: u32, why: String) {
        if let Some(Entry::Wanted { reason, .. }) = self.schemas.lock().get_mut(&id)
            && *reason != why
        {
            tracing::warn!(schema = id, %why, "schema registry does not answer, will ask again");
            *reason = why;
        }
    }
}

/// Between half of `wait` and all of it: who was cut off together does not come back together.
fn jittered(wait: Duration, now: i64) -> Duration {
    let share = xxh3_64(&now.to_le_bytes()) % 1000;
    wait / 2 + (wait / 2).mul_f64(share as f64 / 1000.0)
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
