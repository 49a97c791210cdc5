//! `POST /v1/ingest/{source}`: records are pushed, and the answer comes once they are durable.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use freshet_core::error::code;
use freshet_core::ingest::{AppendRequest, Appended, IdempotencyKey, Ingest};
use freshet_core::{Error, Result};
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::answer::{self, Problem};
use crate::body;
use crate::records::{Framed, Framing};
use crate::server::Shared;

/// Bad records that an answer tells one by one.
const TOLD: usize = 10_000;

/// Bodies that are split where they arrive; larger ones on a thread of their own.
const SMALL: usize = 256 << 10;

/// What can be pushed to.
#[async_trait]
pub trait Sources: Debug + Send + Sync {
    /// What the records of `source` are pushed to. An error of code [`code::REFERENCE`] says that
    /// there is no such source.
    async fn ingest(&self, source: &str) -> Result<Arc<dyn Ingest>>;
}

/// What became of a request.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    /// Records that the contract accepts.
    accepted: u64,
    /// Records that it does not; they are dead letters, unless the request was strict.
    rejected: u64,
    /// Those, by their lines; the first of them where they are very many.
    rejects: Vec<Told<'a>>,
    /// Whether anything is kept.
    kept: bool,
    /// Whether an earlier request with the same idempotency key was the same.
    repeated: bool,
}

/// A record that the contract does not accept.
#[derive(Debug, Serialize)]
struct Told<'a> {
    /// The line in the body, from 1; where it has none, the number of the record.
    line: u64,
    /// Why: a stable name, as the table of dead letters has it.
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    message: &'a str,
}

/// What the address asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    strict: bool,
    key: Option<Bytes>,
}

pub(crate) async fn post(
    State(shared): State<Arc<Shared>>,
    Path(source): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let begun = tokio::time::Instant::now();
    let answered = answer(&shared, &source, query.as_deref(), &headers, body).await;
    let known = match &answered {
        Err(problem) if problem.status == StatusCode::NOT_FOUND => None,
        _ => Some(source.as_str()),
    };
    let (counts, response) = match answered {
        Ok((framed, appended)) => {
            let rejected = appended.rejects.len() as u64;
            let counts = if appended.kept { (appended.accepted, rejected) } else { (0, 0) };
            (counts, told(&framed, &appended))
        }
        Err(problem) => ((0, 0), problem.into()),
    };
    shared.figures.asked(known, response.status(), counts, begun.elapsed());
    response
}

async fn answer(
    shared: &Shared,
    source: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Framed, Appended), Problem> {
    let asked = Asked::of(query.unwrap_or_default())?;
    let idempotency = idempotency_key(headers)?;
    let ingest = shared.services.sources.ingest(source).await?;
    let framing = Framing::of(headers, ingest.format())?;
    let (body, held) = body::read(headers, body, &shared.options, &shared.budget).await?;
    let idempotency = idempotency.map(|name| {
        let digest = digest(framing, &asked, &body);
        IdempotencyKey { name, digest }
    });
    let most = shared.options.max_records;
    let key = asked.key.clone();
    let framed = if body.len() <= SMALL && framing != Framing::Arrow {
        framing.split(&body, key.as_ref(), most)?
    } else {
        let splitting = move || framing.split(&body, key.as_ref(), most);
        tokio::task::spawn_blocking(splitting)
            .await
            .map_err(|error| Error::internal("splitting a body ended early").caused_by(error))??
    };
    let request =
        AppendRequest { records: framed.records.clone(), idempotency, strict: asked.strict };
    let time = shared.options.append_timeout;
    // What is being made durable goes on where whoever asked has gone: it is all of it or nothing.
    let appending = tokio::spawn(async move {
        let appended = ingest.append(request).await;
        drop(held);
        appended
    });
    let appended = match tokio::time::timeout(time.0, appending).await {
        Ok(appended) => appended
            .map_err(|error| Error::internal("appending records ended early").caused_by(error))??,
        Err(_) => {
            let error = Error::new(
                code::LOG,
                format!("the records were not durable within the {time} of `append_timeout`"),
            )
            .hint("they may be kept all the same: repeat the request with its idempotency key");
            return Err(Problem { status: StatusCode::SERVICE_UNAVAILABLE, error });
        }
    };
    Ok((framed, appended))
}

fn told(framed: &Framed, appended: &Appended) -> Response<Body> {
    let rejects = appended.rejects.iter().take(TOLD).map(|reject| Told {
        line: framed.line(reject.offset),
        code: reject.rule.as_str(),
        column: reject.column.as_deref(),
        message: &reject.message,
    });
    let answer = Answer {
        accepted: if appended.kept { appended.accepted } else { 0 },
        rejected: appended.rejects.len() as u64,
        rejects: rejects.collect(),
        kept: appended.kept,
        repeated: appended.repeated,
    };
    let status = if appended.kept { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    answer::json(status, &answer)
}

impl Asked {
    fn of(query: &str) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("strict", "true" | "1" | "") => asked.strict = true,
                ("strict", "false" | "0") => asked.strict = false,
                ("key", key) => asked.key = Some(Bytes::copy_from_slice(key.as_bytes())),
                ("strict", _) => {
                    let message = format!("parameter \"strict\" is \"{value}\", not true or false");
                    return Err(Problem::request(StatusCode::BAD_REQUEST, message));
                }
                _ => {
                    let message = format!("there is no parameter \"{name}\"");
                    return Err(Problem::request(StatusCode::BAD_REQUEST, message)
                        .hint("there are `strict` and `key`"));
                }
            }
        }
        Ok(asked)
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let wrong = |message: &str| Err(Problem::request(StatusCode::BAD_REQUEST, message));
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => wrong("header \"idempotency-key\" is given more than once"),
        (Some(key), None) => match key.to_str() {
            Ok(key) if (1..=256).contains(&key.len()) => Ok(Some(key.to_owned())),
            _ => wrong("header \"idempotency-key\" is not a text of 1 to 256 bytes"),
        },
    }
}

/// Tells bodies apart that mean different records.
fn digest(framing: Framing, asked: &Asked, body: &Bytes) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&[framing as u8, u8::from(asked.key.is_some())]);
    let key = asked.key.as_deref().unwrap_or_default();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_unknown_ones_refused() {
        let asked = |query| Asked::of(query).ok();
        assert_eq!(asked(""), Some(Asked::default()));
        assert_eq!(asked("strict=true"), Some(Asked { strict: true, key: None }));
        assert_eq!(asked("strict=false"), Some(Asked::default()));
        assert_eq!(asked("key=a%20b"), Some(Asked { strict: false, key: Some("a b".into()) }));
        assert_eq!(asked("strict=maybe"), None);
        assert_eq!(asked("stricct=true"), None);
    }

    #[test]
    fn digests_tell_bodies_and_keys_apart() {
        let plain = Asked::default();
        let keyed = Asked { key: Some("k".into()), ..Asked::default() };
        let of = |framing, asked: &Asked, body: &'static str| {
            digest(framing, asked, &Bytes::from_static(body.as_bytes()))
        };
        let one = of(Framing::Lines, &plain, "kx");
        assert_eq!(one, of(Framing::Lines, &plain, "kx"));
        assert_ne!(one, of(Framing::Lines, &plain, "ky"));
        assert_ne!(one, of(Framing::One, &plain, "kx"));
        assert_ne!(one, of(Framing::Lines, &keyed, "x"));
    }
}
