//! An object store that leaves out, delays or alters some writes on purpose and answers as if it had
//! done them: to prove that a test would notice a step that is missing or out of order.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// Tells the writes that are meant, by their path.
pub type Which = fn(&str) -> bool;

/// What is not as the store says.
#[derive(Debug, Clone, Copy)]
pub enum Lie {
    /// Writes that are never done.
    LeftOut(Which),
    /// Writes that are answered at once, and done right after the next write of the second kind.
    Late {
        /// The writes that wait.
        what: Which,
        /// What they wait for.
        until: Which,
    },
    /// Writes of which lines are lost that hold a text.
    WithoutLines {
        /// The writes.
        what: Which,
        /// The text.
        holding: &'static str,
    },
    /// Writes that are to fail where the object exists, and replace it instead.
    Unconditional(Which),
}

/// A store over another one, which lies about its writes. Only whole writes are lied about: an
/// upload in parts is an error where the lie is about its path.
#[derive(Debug)]
pub struct LyingStore {
    inner: Arc<dyn ObjectStore>,
    lie: Lie,
    waiting: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
}

impl LyingStore {
    /// A store over `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, lie: Lie) -> Self {
        Self { inner, lie, waiting: Mutex::default() }
    }

    fn is_about(&self, path: &Path) -> bool {
        match self.lie {
            Lie::LeftOut(what)
            | Lie::Late { what, .. }
            | Lie::WithoutLines { what, .. }
            | Lie::Unconditional(what) => what(path.as_ref()),
        }
    }
}

impl fmt::Display for LyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, with a lie", self.inner)
    }
}

#[async_trait]
impl ObjectStore for LyingStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let answered = PutResult { e_tag: None, version: None };
        let payload = match (self.lie, self.is_about(path)) {
            (Lie::LeftOut(_), true) => return Ok(answered),
            (Lie::Late { .. }, true) => {
                self.waiting.lock().push((path.clone(), payload, options));
                return Ok(answered);
            }
            (Lie::WithoutLines { holding, .. }, true) => without_lines(payload, holding),
            (Lie::Unconditional(_), true) => {
                options.mode = object_store::PutMode::Overwrite;
                payload
            }
            (_, false) => payload,
        };
        let result = self.inner.put_opts(path, payload, options).await?;
        if let Lie::Late { until, .. } = self.lie
            && until(path.as_ref())
        {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            for (path, payload, options) in waiting {
                self.inner.put_opts(&path, payload, options).await?;
            }
        }
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if self.is_about(path) {
            return Err(object_store::Error::NotImplemented {
                operation: "a lie about an upload in parts".into(),
                implementer: self.to_string(),
            });
        }
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn without_lines(payload: PutPayload, holding: &str) -> PutPayload {
    let bytes: Bytes = payload.into();
    let text = String::from_utf8_lossy(&bytes);
    let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(holding)).collect();
    PutPayload::from(kept.into_bytes())
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;

    /// The content of "a" and "b" after a write of "a", and after one of "b" as well.
    fn check(lie: Lie, after_a: [Option<&str>; 2], after_both: [Option<&str>; 2]) {
        let store = LyingStore::new(Arc::new(InMemory::new()), lie);
        let seen = |store: &LyingStore| {
            ["a", "b"].map(|name| {
                let bytes =
                    block_on(async { store.get(&name.into()).await?.bytes().await }).ok()?;
                Some(String::from_utf8(bytes.to_vec()).expect("text"))
            })
        };
        let as_text = |seen: [Option<&str>; 2]| seen.map(|text| text.map(str::to_owned));
        for (name, expect) in [("a", after_a), ("b", after_both)] {
            block_on(store.put(&name.into(), "1\n2\n".into())).expect("it says that it is done");
            assert_eq!(seen(&store), as_text(expect), "{lie:?} after {name}");
        }
    }

    #[test]
    fn lies_are_told_about_what_they_are_about() {
        let whole = Some("1\n2\n");
        check(Lie::LeftOut(|path| path == "a"), [None, None], [None, whole]);
        check(Lie::LeftOut(|path| path == "b"), [whole, None], [whole, None]);
        let late = Lie::Late { what: |path| path == "a", until: |path| path == "b" };
        check(late, [None, None], [whole, whole]);
        let without = Lie::WithoutLines { what: |path| path == "a", holding: "1" };
        check(without, [Some("2\n"), None], [Some("2\n"), whole]);
    }

    #[test]
    fn a_conditional_write_replaces_where_the_lie_says_so() {
        let store = LyingStore::new(Arc::new(InMemory::new()), Lie::Unconditional(|p| p == "a"));
        for (name, is_replaced) in [("a", true), ("b", false)] {
            let put = || {
                let options = PutOptions::from(PutMode::Create);
                block_on(store.put_opts(&name.into(), "x".into(), options))
            };
            put().expect("it is new");
            assert_eq!(put().is_ok(), is_replaced, "{name}");
        }
    }
}
