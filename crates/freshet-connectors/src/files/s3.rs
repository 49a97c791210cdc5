//! Buckets of S3 and of servers that speak its protocol.

use std::sync::Arc;

use freshet_core::config::Secret;
use freshet_core::error::{Error, Result, ResultExt, code};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::options;

/// Options of a connection to S3. What is not given comes from the usual variables of the
/// environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL` …).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct S3Options {
    /// The access key's id.
    pub access_key_id: Option<String>,
    /// The access key's secret.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// The region. Default: `us-east-1`.
    pub region: Option<String>,
    /// The server's address where it is not Amazon's: `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path instead of the host's name. Default: `true` with an
    /// endpoint of its own.
    pub path_style: Option<bool>,
    /// Whether an endpoint without TLS may be used. Default: where `endpoint` begins with `http://`.
    pub allow_http: Option<bool>,
    /// Whether requests are not signed, for public buckets.
    pub anonymous: bool,
}

/// Checks the options of a connection without touching anything outside.
pub fn validate(connection: &Map<String, Value>) -> Result<()> {
    options::parse::<S3Options>(&Value::Object(connection.clone()), "").map(|_| ())
}

/// The bucket of `s3://bucket/key`.
pub fn bucket(url: &str) -> Result<&str> {
    let name = url.strip_prefix("s3://").and_then(|rest| rest.split('/').next()).unwrap_or("");
    let valid = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if valid {
        return Ok(name);
    }
    Err(Error::new(code::CONFIG, format!("path \"{url}\" names no bucket"))
        .hint("write it as \"s3://bucket/folder/*.csv\"; the bucket's name cannot be a pattern"))
}

/// Opens a bucket with the options of a connection.
pub fn open(bucket: &str, connection: &Map<String, Value>) -> Result<Arc<dyn ObjectStore>> {
    let options: S3Options = options::parse(&Value::Object(connection.clone()), "")?;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if let Some(id) = &options.access_key_id {
        builder = builder.with_access_key_id(id);
    }
    if let Some(secret) = &options.secret_access_key {
        builder = builder.with_secret_access_key(secret.expose());
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.expose());
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    let from_env = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .find_map(|name| std::env::var(name).ok());
    if let Some(endpoint) = options.endpoint.as_ref().or(from_env.as_ref()) {
        builder = builder
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(!options.path_style.unwrap_or(true))
            .with_allow_http(options.allow_http.unwrap_or(endpoint.starts_with("http://")));
    } else if let Some(path_style) = options.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if options.anonymous {
        builder = builder.with_skip_signature(true);
    }
    let store = builder
        .build()
        .or_code(code::CONNECTION, || format!("could not open bucket \"{bucket}\""))?;
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_first_name() {
        assert_eq!(bucket("s3://b-1/x/*.csv").ok(), Some("b-1"));
        assert!(bucket("s3:///x").is_err());
        assert!(bucket("s3://b*/x").is_err());
    }
}
