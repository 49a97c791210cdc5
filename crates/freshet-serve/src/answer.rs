//! Errors as answers: a status that programs act on, and a body with the code that people look up.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use freshet_core::error::{Code, code};
use freshet_core::{Error, ErrorKind};
use serde::Serialize;

/// Seconds after which whoever was sent away may try again.
const RETRY_AFTER: &str = "1";

/// An answer that says what went wrong.
#[derive(Debug)]
pub(crate) struct Problem {
    pub status: StatusCode,
    pub error: Error,
}

/// The form of an error's body.
#[derive(Debug, Serialize)]
struct Told<'a> {
    error: ToldError<'a>,
}

#[derive(Debug, Serialize)]
struct ToldError<'a> {
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Problem {
    /// A request that is wrong in itself.
    pub fn request(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, error: Error::new(code::REQUEST, message) }
    }

    /// Too much was sent: nothing of it is kept.
    pub fn too_large(message: impl Into<String>) -> Self {
        let error = Error::new(code::LIMIT, message);
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, error }
    }

    /// Too much is under way: nothing of it is kept.
    pub fn busy(message: impl Into<String>) -> Self {
        let error = Error::new(code::BUSY, message).hint("try again after a moment").retryable();
        Self { status: StatusCode::TOO_MANY_REQUESTS, error }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error = self.error.hint(hint);
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match (error.code(), error.kind()) {
            (code::LIMIT, _) => StatusCode::PAYLOAD_TOO_LARGE,
            (code::BUSY, _) => StatusCode::TOO_MANY_REQUESTS,
            (code::IDEMPOTENCY | code::CONTROL, _) => StatusCode::CONFLICT,
            (code::REFERENCE, _) => StatusCode::NOT_FOUND,
            (code::LOCKED, _) => StatusCode::SERVICE_UNAVAILABLE,
            (_, ErrorKind::User) => StatusCode::BAD_REQUEST,
            (_, ErrorKind::Data) => StatusCode::UNPROCESSABLE_ENTITY,
            (_, ErrorKind::External) if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            (_, ErrorKind::External | ErrorKind::Internal) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl From<Problem> for Response<Body> {
    fn from(problem: Problem) -> Self {
        let Problem { status, error } = problem;
        let told =
            ToldError { code: error.code(), message: error.chain(), hint: error.hint_text() };
        let mut response = json(status, &Told { error: told });
        let again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if again.contains(&status) {
            let value = HeaderValue::from_static(RETRY_AFTER);
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

/// An answer of JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // What is answered has string keys and finite numbers alone.
    let mut text = serde_json::to_vec(value).expect("answers can be written as JSON");
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
