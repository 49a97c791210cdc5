//! `GET /healthz`: whether the process lives.

use axum::body::Body;
use axum::http::{Response, StatusCode};

use crate::answer;

pub(crate) async fn get() -> Response<Body> {
    answer::json(StatusCode::OK, &serde_json::json!({ "status": "ok" }))
}
