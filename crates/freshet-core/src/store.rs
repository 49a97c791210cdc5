//! A folder as an object store whose every answer is durable, over [`crate::files::FileSystem`]: so
//! that a test can put a file system below that forgets what was not synchronised.

use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};

use crate::error::{Result, ResultExt, code};

mod local;

pub use local::LocalStore;

/// Asks a folder to make the names beside an object durable before it answers.
#[derive(Debug, Clone, Copy)]
struct Settled;

/// Makes what is seen at `path`, and beside it, durable where the store is a folder.
pub async fn settle(store: &dyn ObjectStore, path: &Path) -> Result<()> {
    let mut options = GetOptions { head: true, ..GetOptions::default() };
    options.extensions.insert(Settled);
    match store.get_opts(path, options).await {
        // Its folder was settled all the same.
        Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => {
            Err(error).or_code(code::LAKE, || format!("could not make \"{path}\" durable"))
        }
    }
}
