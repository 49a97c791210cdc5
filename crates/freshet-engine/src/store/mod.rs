//! Places that hold what lasts: a local folder with every write made durable, or a bucket, behind
//! one [`ObjectStore`].
//!
//! Knows nothing of tables. A local folder goes through [`FileSystem`], so that a test can put a
//! file system below that forgets what was not synchronised.

use std::path::Path as FsPath;
use std::sync::Arc;

use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::files::FileSystem;
use freshet_core::{Error, Result, ResultExt};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use serde_json::{Map, Value};
use url::Url;

mod os;

pub use freshet_core::store::{LocalStore, settle};
pub use object_store::prefix::PrefixStore;
pub use os::OsFileSystem;

const BUCKET_OPTIONS: [&str; 8] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "endpoint",
    "path_style",
    "allow_http",
    "anonymous",
];

/// Opens `location`, a folder or an `s3://bucket/prefix` URL. Paths in the store are relative to
/// it; the URL is that of the location itself, with a trailing slash.
///
/// Options of a bucket: `access_key_id`, `secret_access_key`, `session_token`, `region`,
/// `endpoint`, `path_style`, `allow_http`, `anonymous`; keys and region not given are taken from
/// the usual variables of the environment. A folder has none.
pub fn open(location: &str, options: &Map<String, Value>) -> Result<(Arc<dyn ObjectStore>, Url)> {
    open_on(Arc::new(OsFileSystem), location, options)
}

/// As [`open`], with folders on the file system `files`.
pub fn open_on(
    files: Arc<dyn FileSystem>,
    location: &str,
    options: &Map<String, Value>,
) -> Result<(Arc<dyn ObjectStore>, Url)> {
    match Url::parse(location) {
        Ok(url) if url.scheme() == "s3" || url.scheme() == "s3a" => open_bucket(&url, options),
        Ok(url) if url.scheme() == "file" => {
            let path = url.to_file_path().map_err(|()| {
                Error::new(code::CONFIG, format!("\"{location}\" is not the URL of a folder"))
                    .hint("write the folder's path instead")
            })?;
            open_folder(files, &path)
        }
        // A drive's letter looks like a scheme.
        Ok(url) if url.scheme().len() > 1 => {
            Err(Error::new(code::CONFIG, format!("no store for \"{}://\" is known", url.scheme()))
                .hint("use a folder or an s3:// URL"))
        }
        _ => open_folder(files, FsPath::new(location)),
    }
}

/// Deletes the temporary files that killed processes left in a folder and last wrote before
/// `before`; gives their number. A bucket has none.
pub async fn sweep(place: &Url, before: chrono::DateTime<chrono::Utc>) -> Result<u64> {
    match place.to_file_path() {
        Ok(folder) if folder.is_dir() => {
            LocalStore::new(Arc::new(OsFileSystem), folder)?.sweep(before).await
        }
        _ => Ok(0),
    }
}

fn open_folder(files: Arc<dyn FileSystem>, path: &FsPath) -> Result<(Arc<dyn ObjectStore>, Url)> {
    let path = std::path::absolute(path)
        .or_code(code::IO, || format!("could not find folder \"{}\"", path.display()))?;
    let url = Url::from_directory_path(&path).map_err(|()| {
        Error::new(code::CONFIG, format!("\"{}\" is not the path of a folder", path.display()))
    })?;
    Ok((Arc::new(LocalStore::new(files, path)?), url))
}

fn open_bucket(url: &Url, options: &Map<String, Value>) -> Result<(Arc<dyn ObjectStore>, Url)> {
    let wrong = |message: String| Error::new(code::CONFIG, message);
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(|| {
        wrong(format!("\"{url}\" names no bucket")).hint("write s3://bucket/prefix")
    })?;
    // A commit is a PUT that fails where the object exists: `If-None-Match: *`.
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    let mut has_key = false;
    for (name, value) in options {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => continue,
            other => other.to_string(),
        };
        let flag = || {
            text.parse::<bool>().map_err(|_| {
                wrong(format!("option `{name}` of \"{url}\" is neither true nor false"))
            })
        };
        builder = match name.as_str() {
            "access_key_id" => {
                has_key = true;
                builder.with_access_key_id(text)
            }
            "secret_access_key" => builder.with_secret_access_key(text),
            "session_token" => builder.with_token(text),
            "region" => builder.with_region(text),
            "endpoint" => {
                // A server of one's own without TLS is no accident where its URL says so.
                builder = builder.with_allow_http(text.starts_with("http://"));
                builder.with_endpoint(text)
            }
            "path_style" => builder.with_virtual_hosted_style_request(!flag()?),
            "allow_http" => {
                let allow = flag()?;
                if allow { builder.with_allow_http(true) } else { builder }
            }
            "anonymous" => builder.with_skip_signature(flag()?),
            other => {
                let error = wrong(format!("a bucket has no option `{other}`"));
                return Err(match nearest(other, BUCKET_OPTIONS) {
                    Some(name) => error.hint(format!("did you mean `{name}`?")),
                    None => error.hint(format!("options are {}", BUCKET_OPTIONS.join(", "))),
                });
            }
        };
    }
    if !options.contains_key("region") {
        let region = std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION"));
        builder = builder.with_region(region.unwrap_or_else(|_| "us-east-1".into()));
    }
    if !has_key {
        for (name, key) in [
            ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
            ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
            ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
        ] {
            if let Ok(value) = std::env::var(name) {
                builder = builder.with_config(key, value);
            }
        }
    }
    let store = builder.build().or_code(code::CONFIG, || format!("could not use \"{url}\""))?;
    let prefix = Path::from_url_path(url.path())
        .or_code(code::CONFIG, || format!("\"{url}\" has no usable prefix"))?;
    let mut place = url.clone();
    if !place.path().ends_with('/') {
        place.set_path(&format!("{}/", url.path()));
    }
    let store: Arc<dyn ObjectStore> = if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    };
    Ok((store, place))
}
