//! A store that takes its time, fails, and loses answers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_runtime::executor::Io;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::Chance;

/// How often things go wrong outside a process, and how long they take.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// The probability that a call fails and does nothing.
    pub refused: f64,
    /// The probability that a call does what it was asked for, and fails all the same.
    pub lost: f64,
    /// The longest time that a call takes, in microseconds.
    pub slow: i64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self { refused: 0.0, lost: 0.0, slow: 1 };

    /// Waits as long as a call takes before it is carried out.
    pub async fn before(self, chance: &Chance, io: &dyn Io) -> Result<(), &'static str> {
        self.wait(chance, io).await;
        if chance.happens(self.refused) { Err("refused, as the test asked for") } else { Ok(()) }
    }

    /// Waits as long as its answer takes.
    pub async fn after(self, chance: &Chance, io: &dyn Io) -> Result<(), &'static str> {
        self.wait(chance, io).await;
        if chance.happens(self.lost) { Err("answer lost, as the test asked for") } else { Ok(()) }
    }

    async fn wait(self, chance: &Chance, io: &dyn Io) {
        io.sleep(chance.between(0..self.slow.max(1))).await;
    }
}

/// What goes wrong at the moment: whoever shares it sees it change.
#[derive(Debug, Clone)]
pub struct Weather(Arc<Mutex<Faults>>);

impl Weather {
    /// What goes wrong now.
    pub fn now(&self) -> Faults {
        *self.0.lock()
    }

    /// From now on this goes wrong.
    pub fn turn(&self, faults: Faults) {
        *self.0.lock() = faults;
    }
}

impl From<Faults> for Weather {
    fn from(faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(faults)))
    }
}

/// A store over another one.
#[derive(Debug)]
pub struct SlowStore {
    /// The other one.
    pub inner: Arc<dyn ObjectStore>,
    /// What goes wrong.
    pub faults: Weather,
    /// When.
    pub chance: Chance,
    /// The process that asks.
    pub io: Arc<dyn Io>,
}

impl SlowStore {
    async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let failed = |what: &'static str| object_store::Error::Generic {
            store: "simulation",
            source: what.into(),
        };
        self.faults.now().before(&self.chance, &*self.io).await.map_err(failed)?;
        let answer = call.await;
        self.faults.now().after(&self.chance, &*self.io).await.map_err(failed)?;
        answer
    }
}

impl fmt::Display for SlowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, slowly", self.inner)
    }
}

#[async_trait]
impl ObjectStore for SlowStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.call(self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(self.inner.get_opts(path, options)).await
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
