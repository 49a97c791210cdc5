//! Places: a local folder whose writes last, and a bucket.

use std::io;
use std::path::{Path as FsPath, PathBuf};

use bytes::Bytes;
use freshet_core::files::{DirEntry, FileSystem};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_folder_keeps_the_rules_of_object_stores() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    rules(local(folder.path())).await;
    let left: Vec<_> = walk(folder.path());
    assert!(!left.iter().any(|path| path.contains(".freshet-tmp-")), "{left:?}");
}

#[tokio::test]
async fn a_bucket_keeps_the_rules_of_object_stores() {
    rules(bucket("rules")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_in_a_bucket_merges_and_commits_once() {
    let fixture = Fixture::on(bucket("lake"), |options| options.checkpoint_interval = 2);
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10), (2, 20)])]).await;
    let change = fixture.write(merge_on(&["id"]), vec![sales(&[(2, 21), (3, 30)])]).await;
    assert_eq!(fixture.commit(&change, 2).await.expect("held"), 1);
    fixture.write(StageMode::Append, vec![sales(&[(4, 40)])]).await;
    assert_eq!(pairs(&fixture).await, [(1, 10), (2, 21), (3, 30), (4, 40)]);
    let late = StagedChange { base_version: Some(1), ..change };
    let error = fixture.commit(&late, 9).await.expect_err("the table moved on");
    assert_eq!(error.code(), code::LAKE_CONFLICT);
}

/// A bucket's folder of its own on the server that `FRESHET_TEST_S3` names.
fn bucket(name: &str) -> Arc<dyn ObjectStore> {
    let endpoint = std::env::var("FRESHET_TEST_S3")
        .expect("FRESHET_TEST_S3 is the URL of an S3 server with a bucket \"freshet-test\"");
    let serde_json::Value::Object(options) = json!({
        "endpoint": endpoint,
        "access_key_id": "test",
        "secret_access_key": "test",
        "path_style": true,
        "region": "us-east-1",
    }) else {
        panic!("it is an object")
    };
    let unique = uuid::Uuid::new_v4().simple();
    let location = format!("s3://freshet-test/{name}/{unique}");
    freshet_engine::store::open(&location, &options).expect("the options are right").0
}

fn walk(folder: &FsPath) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

async fn rules(store: Arc<dyn ObjectStore>) {
    let (a, b) = (Path::from("x/a"), Path::from("x/y/b"));
    let create = || PutOptions::from(PutMode::Create);
    store.put_opts(&a, "one".into(), create()).await.expect("there is none yet");
    let again = store.put_opts(&a, "two".into(), create()).await.expect_err("there is one");
    let taken = matches!(
        again,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    );
    assert!(taken, "{again:?}");
    let read = |path: Path| {
        let store = Arc::clone(&store);
        async move { store.get(&path).await.expect("it is there").bytes().await.expect("read") }
    };
    assert_eq!(read(a.clone()).await, "one");
    let first = store.head(&a).await.expect("it is there").e_tag;
    store.put(&a, "three".into()).await.expect("it may be replaced");
    assert_eq!(read(a.clone()).await, "three");
    assert_ne!(store.head(&a).await.expect("it is there").e_tag, first);
    assert_eq!(store.get_range(&a, 1..3).await.expect("a part"), "hr");

    let mut upload = store.put_multipart(&b).await.expect("a part at a time");
    let part = Bytes::from(vec![b'p'; 5 << 20]);
    let first = upload.put_part(PutPayload::from(part.clone()));
    let second = upload.put_part("end".into());
    // In whatever order they are polled.
    second.await.expect("it is written");
    first.await.expect("it is written");
    assert!(store.head(&b).await.is_err(), "it is not there before it is complete");
    upload.complete().await.expect("all parts are there");
    let whole = read(b.clone()).await;
    assert_eq!(whole.len(), part.len() + 3);
    assert_eq!(&whole[part.len()..], b"end");

    let mut aborted = store.put_multipart(&Path::from("x/never")).await.expect("begun");
    aborted.put_part("lost".into()).await.expect("it is written");
    aborted.abort().await.expect("it can be given up");

    let names = |prefix: &'static str| {
        let store = Arc::clone(&store);
        async move {
            let prefix = Path::from(prefix);
            let listed: Vec<_> = store.list(Some(&prefix)).try_collect().await.expect("listed");
            listed.into_iter().map(|object| object.location.to_string()).collect::<Vec<_>>()
        }
    };
    store.put(&Path::from("x/a-c"), "".into()).await.expect("it is written");
    assert_eq!(names("x").await, ["x/a", "x/a-c", "x/y/b"]);
    assert_eq!(names("x/y").await, ["x/y/b"]);
    assert_eq!(names("no/such").await, Vec::<String>::new());
    let shallow = store.list_with_delimiter(Some(&Path::from("x"))).await.expect("listed");
    assert_eq!(shallow.common_prefixes, [Path::from("x/y")]);
    assert_eq!(shallow.objects.len(), 2);

    store.copy(&a, &Path::from("copy")).await.expect("it is copied");
    assert_eq!(read(Path::from("copy")).await, "three");
    store.delete(&a).await.expect("it is there");
    let gone = store.get(&a).await.expect_err("it was deleted");
    assert!(matches!(gone, object_store::Error::NotFound { .. }), "{gone:?}");
}

/// Writes down what is done to the machine's own files.
#[derive(Debug, Default)]
struct Witness(Mutex<Vec<String>>);

impl Witness {
    fn note(&self, what: &str, path: &FsPath) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let name = if name.starts_with(".freshet-tmp-") { "TEMP".to_owned() } else { name };
        self.0.lock().push(format!("{what} {name}"));
    }
}

impl FileSystem for Witness {
    fn create_dir_all(&self, path: &FsPath) -> io::Result<()> {
        self.note("mkdir", path);
        OsFileSystem.create_dir_all(path)
    }
    fn create(&self, path: &FsPath, content: &[Bytes]) -> io::Result<()> {
        self.note("create", path);
        OsFileSystem.create(path, content)
    }
    fn append(&self, path: &FsPath, content: &[Bytes]) -> io::Result<()> {
        self.note("append", path);
        OsFileSystem.append(path, content)
    }
    fn sync_file(&self, path: &FsPath) -> io::Result<()> {
        self.note("sync", path);
        OsFileSystem.sync_file(path)
    }
    fn sync_dir(&self, path: &FsPath) -> io::Result<()> {
        self.note("syncdir", path);
        OsFileSystem.sync_dir(path)
    }
    fn rename(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        self.note("rename", to);
        OsFileSystem.rename(from, to)
    }
    fn hard_link(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        self.note("link", to);
        OsFileSystem.hard_link(from, to)
    }
    fn remove_file(&self, path: &FsPath) -> io::Result<()> {
        self.note("remove", path);
        OsFileSystem.remove_file(path)
    }
    fn read(&self, path: &FsPath, offset: u64, len: usize) -> io::Result<Bytes> {
        OsFileSystem.read(path, offset, len)
    }
    fn metadata(&self, path: &FsPath) -> io::Result<DirEntry> {
        OsFileSystem.metadata(path)
    }
    fn read_dir(&self, path: &FsPath) -> io::Result<Vec<DirEntry>> {
        OsFileSystem.read_dir(path)
    }
}

#[tokio::test]
async fn a_folder_synchronises_content_before_names() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let root: PathBuf = folder.path().join("root");
    let witness = Arc::new(Witness::default());
    let store = LocalStore::new(Arc::clone(&witness) as _, &root).expect("it can be made");
    let seen = |_: ()| std::mem::take(&mut *witness.0.lock());
    assert_eq!(seen(()), ["mkdir root"]);

    let options = PutOptions::from(PutMode::Create);
    store.put_opts(&Path::from("t/log/1"), "x".into(), options).await.expect("it is new");
    // The folders above may have been made by a process that was killed before it synchronised.
    let mut first = seen(());
    let above = folder.path().ancestors().count();
    let synchronised = first.splice(0..=above, []).collect::<Vec<_>>();
    let parent = folder.path().file_name().expect("it has a name").to_string_lossy().into_owned();
    assert_eq!(synchronised[..2], ["mkdir root".to_owned(), format!("syncdir {parent}")]);
    assert!(synchronised[1..].iter().all(|l| l.starts_with("syncdir ")), "{synchronised:?}");
    assert_eq!(
        first,
        [
            "mkdir log",
            "syncdir root",
            "syncdir t",
            "create TEMP",
            "sync TEMP",
            "link 1",
            "remove TEMP",
            "syncdir log",
        ]
    );
    store.put(&Path::from("t/log/1"), "y".into()).await.expect("it may be replaced");
    assert_eq!(seen(()), ["create TEMP", "sync TEMP", "rename 1", "syncdir log"]);

    let mut upload = store.put_multipart(&Path::from("t/data")).await.expect("begun");
    upload.put_part("a".into()).await.expect("written");
    upload.put_part("b".into()).await.expect("written");
    upload.complete().await.expect("complete");
    assert_eq!(
        seen(()),
        ["create TEMP", "append TEMP", "append TEMP", "sync TEMP", "rename data", "syncdir t"]
    );

    // Another process need not go up there again.
    let store = LocalStore::new(Arc::clone(&witness) as _, &root).expect("it is there");
    store.put(&Path::from("u"), "x".into()).await.expect("it is written");
    assert_eq!(
        seen(()),
        ["mkdir root", "mkdir root", "create TEMP", "sync TEMP", "rename u", "syncdir root"]
    );
}

#[tokio::test]
async fn what_killed_writers_leave_is_hidden_and_swept() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let store = LocalStore::new(Arc::new(OsFileSystem), folder.path()).expect("it can be made");
    store.put(&Path::from("t/kept"), "x".into()).await.expect("it is written");
    let left = folder.path().join("t/.freshet-tmp-0123");
    std::fs::write(&left, "half").expect("it can be written");
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    assert_eq!(listed.len(), 1);
    assert!(store.get(&Path::from("t/.freshet-tmp-0123")).await.is_err());
    let now = freshet_core::clock::SystemClock.now();
    let hour = chrono::Duration::hours(1);
    assert_eq!(store.sweep(now - hour).await.expect("it runs"), 0);
    assert_eq!(store.sweep(now + hour).await.expect("it runs"), 1);
    assert!(!left.exists());
    assert!(store.head(&Path::from("t/kept")).await.is_ok());
}

#[test]
fn locations_that_make_no_sense_say_what_does() {
    let open = |location: &str, options: serde_json::Value| {
        let serde_json::Value::Object(options) = options else { panic!("it is an object") };
        freshet_engine::store::open(location, &options).expect_err("it makes no sense")
    };
    assert_eq!(open("ftp://x/y", json!({})).code(), code::CONFIG);
    let error = open("s3://bucket/x", json!({ "regoin": "eu" }));
    assert_eq!(error.hint_text(), Some("did you mean `region`?"));
    let error = open("s3://bucket/x", json!({ "path_style": "perhaps" }));
    assert!(error.message().contains("path_style"), "{error}");
}
