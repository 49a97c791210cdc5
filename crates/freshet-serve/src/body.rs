//! The bytes of a request's body: read within a time and a size, and decompressed within the same
//! size.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use freshet_core::http::HttpOptions;
use http_body_util::BodyExt;

use crate::answer::Problem;
use crate::budget::{Budget, Held};

/// Bytes that are decompressed at once.
const PIECE: usize = 64 << 10;

/// The largest window of zstd, as a power of two: what its specification asks decoders for.
const ZSTD_WINDOW: u32 = 23;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// Reads a body; the bytes are held against `budget` until what comes with them is dropped.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    options: &HttpOptions,
    budget: &Budget,
) -> Result<(Bytes, Held), Problem> {
    let coding = coding(headers)?;
    let most = options.max_body_bytes.as_usize();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large(most));
    }
    let mut held = budget.hold();
    let time = options.body_timeout.0;
    let bytes = match tokio::time::timeout(time, gather(body, most, &mut held)).await {
        Ok(bytes) => bytes?,
        Err(_) => {
            return Err(Problem::request(
                StatusCode::REQUEST_TIMEOUT,
                format!(
                    "the body did not arrive within the {} of `body_timeout`",
                    options.body_timeout
                ),
            ));
        }
    };
    if coding == Coding::Identity {
        return Ok((bytes, held));
    }
    let unpacking = tokio::task::spawn_blocking(move || unpack(coding, &bytes, most, held));
    unpacking.await.map_err(|error| {
        freshet_core::Error::internal("decompressing a body ended early").caused_by(error)
    })?
}

fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => return Ok(Coding::Identity),
        (Some(coding), None) => coding.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
        (Some(_), Some(_)) => "several".to_owned(),
    };
    match coding.as_str() {
        "identity" => Ok(Coding::Identity),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "zstd" => Ok(Coding::Zstd),
        other => Err(Problem::request(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("content encoding \"{other}\" is not known"),
        )
        .hint("send gzip, zstd or none")),
    }
}

async fn gather(mut body: Body, most: usize, held: &mut Held) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error = freshet_core::Error::new(
                freshet_core::error::code::REQUEST,
                "the body ended before all of it was there",
            )
            .caused_by(error);
            Problem { status: StatusCode::BAD_REQUEST, error }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if data.len() > most - so_far {
            return Err(too_large(most));
        }
        held.grow(data.len())?;
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut all = BytesMut::with_capacity((first.len() + data.len()) * 2);
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                rest = Some(all);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

fn unpack(
    coding: Coding,
    packed: &[u8],
    most: usize,
    mut held: Held,
) -> Result<(Bytes, Held), Problem> {
    let mut reader: Box<dyn Read + '_> = match coding {
        Coding::Identity => Box::new(packed),
        Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Coding::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(packed).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW)?;
                Ok(decoder)
            });
            Box::new(decoder.map_err(broken)?)
        }
    };
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        held.grow(PIECE)?;
        (&mut reader).take(PIECE as u64).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() > most {
            return Err(too_large(most));
        }
        if bytes.len() == before {
            return Ok((bytes.into(), held));
        }
    }
}

fn broken(error: std::io::Error) -> Problem {
    let error = freshet_core::Error::new(
        freshet_core::error::code::REQUEST,
        "the body cannot be decompressed",
    )
    .caused_by(error);
    Problem { status: StatusCode::UNPROCESSABLE_ENTITY, error }
}

fn too_large(most: usize) -> Problem {
    Problem::too_large(format!("the body has more than the {most} bytes of `max_body_bytes`"))
        .hint("send less at a time, or raise `max_body_bytes` under `http:` in freshet.yml")
}
