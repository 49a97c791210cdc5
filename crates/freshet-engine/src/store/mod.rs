//! Places that hold what lasts: a local folder with every write made durable, or a bucket, behind
//! one [`ObjectStore`].
//!
//! Knows nothing of tables. A local folder goes through [`FileSystem`], so that a test can put a
//! file system below that forgets what was not synchronised.

use std::sync::Arc;

use freshet_core::files::FileSystem;
use freshet_core::{Error, Result};
use object_store::ObjectStore;
use serde_json::{Map, Value};
use url::Url;

mod local;
mod os;

pub use local::LocalStore;
pub use os::OsFileSystem;

/// Opens `location`, a folder or an `s3://bucket/prefix` URL. Paths in the store are relative to
/// it; the URL is that of the location itself, with a trailing slash.
///
/// Options of a bucket: `access_key_id`, `secret_access_key`, `session_token`, `region`,
/// `endpoint`, `path_style`, `allow_http`. A folder has none.
pub fn open(location: &str, options: &Map<String, Value>) -> Result<(Arc<dyn ObjectStore>, Url)> {
    open_on(Arc::new(OsFileSystem), location, options)
}

/// As [`open`], with folders on the file system `files`.
pub fn open_on(
    files: Arc<dyn FileSystem>,
    location: &str,
    options: &Map<String, Value>,
) -> Result<(Arc<dyn ObjectStore>, Url)> {
    let _ = (files, location, options);
    Err(Error::internal("opening a store is not built yet"))
}
