//! The same files in a folder and in a bucket. The S3 server's address is in `FRESHET_TEST_S3`.

use freshet_core::source::{Purpose, SplitStatus};
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use serde_json::{Map, Value, json};

use super::support::{Reading, gzip, runtime};

fn endpoint() -> String {
    std::env::var("FRESHET_TEST_S3").expect("FRESHET_TEST_S3 is the address of an S3 server")
}

fn connection() -> Map<String, Value> {
    let Value::Object(connection) = json!({
        "endpoint": endpoint(),
        "access_key_id": "test",
        "secret_access_key": "test",
        "region": "us-east-1",
    }) else {
        unreachable!("it is written as an object")
    };
    connection
}

/// A bucket of its own. Making one is a PUT of the bucket itself, which an object store has no
/// name for: the object is called like the bucket, in a bucket without a name.
fn bucket(name: &str) -> impl ObjectStore {
    let builder = || {
        AmazonS3Builder::new()
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id("test")
            .with_secret_access_key("test")
    };
    let store = builder().with_endpoint(endpoint()).with_bucket_name(name).build().unwrap();
    create_bucket(name);
    runtime().block_on(store.list_with_delimiter(None)).expect("the bucket is there");
    store
}

/// Asks the server for a bucket: signed, as `object_store` signs, with the path of the bucket.
fn create_bucket(name: &str) {
    let store = AmazonS3Builder::new()
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_virtual_hosted_style_request(true)
        .with_endpoint(endpoint())
        .with_bucket_name(name)
        .build()
        .unwrap();
    let key = Path::parse(name).unwrap();
    // A bucket has no etag, so that the answer is not that of an object: the listing tells.
    let _ = runtime().block_on(store.put(&key, PutPayload::new()));
}

#[test]
fn a_bucket_gives_what_a_folder_gives() {
    let dir = tempfile::tempdir().unwrap();
    let store = bucket("freshet-conformance");
    let mut large = String::from("id,day,amount,note\n");
    for i in 0..150_000 {
        let line = format!("{i},2024-05-{:02},{}.25,note {i}\n", i % 28 + 1, i % 1000);
        large.push_str(if i % 10_000 == 77 { "bad,line\n" } else { &line });
    }
    let files = [
        ("in/s_20240501.csv", large.clone().into_bytes()),
        ("in/s_20240502.csv", b"id,day,amount,note\n1,,,\nx,,,\n".to_vec()),
        ("in/s_20240503.csv", Vec::new()),
        ("in/s_20240504.csv", gzip(large.as_bytes())),
        ("in/other.csv", b"id\n1\n".to_vec()),
        ("in/deeper/s_20240501.csv", b"id\n1\n".to_vec()),
    ];
    for (name, bytes) in &files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        let payload = PutPayload::from(bytes.clone());
        runtime().block_on(store.put(&Path::from(*name), payload)).unwrap();
    }
    let mut local = Reading::new(dir.path(), "in/s_{date:%Y%m%d}.csv");
    local.workers = 2;
    let local = local.run();
    let url = "s3://freshet-conformance/in/s_{date:%Y%m%d}.csv";
    for split_size in ["4MiB", "1MiB"] {
        let mut remote = Reading::new(dir.path(), url).with("split_size", split_size);
        remote.workers = 2;
        remote.connection = connection();
        let remote = remote.run();
        let digests = |outcome: &super::support::Outcome| {
            outcome.report.splits.iter().map(|file| file.digest.clone()).collect::<Vec<_>>()
        };
        assert_eq!(digests(&remote), digests(&local));
        let summary = remote.summary().replace("s3://freshet-conformance/", "");
        assert!(summary == local.summary(), "a bucket gives something else");
        assert_eq!(remote.report.splits[2].status, SplitStatus::Empty);
    }
}

#[test]
fn an_object_that_changed_after_it_was_listed_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = bucket("freshet-changes");
    let key = Path::from("a.csv");
    let put = |text: &'static str| {
        runtime().block_on(store.put(&key, PutPayload::from_static(text.as_bytes()))).unwrap();
    };
    put("id,day,amount,note\n1,,,\n");
    let mut reading = Reading::new(dir.path(), "s3://freshet-changes/*.csv");
    reading.connection = connection();
    let source = reading.source().unwrap();
    let splits = runtime().block_on(source.splits()).unwrap();
    put("id,day,amount,note\n2,,,\n");
    let requests = splits
        .into_iter()
        .map(|split| freshet_core::source::SplitRequest {
            split,
            extent: freshet_core::source::Extent::Whole,
        })
        .collect();
    let scan = runtime().block_on(source.plan(requests, Default::default())).unwrap();
    let report = scan.start(&[0], 10, Purpose::Build).unwrap().report();
    assert_eq!(report.splits[0].status, SplitStatus::SetAside);
    assert!(report.splits[0].error.as_ref().unwrap().message().contains("changed"));
}

#[test]
fn a_single_object_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = bucket("freshet-single");
    for name in ["in/a.csv", "in/a.csv.old", "in/a.csv/b.csv"] {
        let payload = PutPayload::from_static(b"id,day,amount,note\n1,,,\n");
        runtime().block_on(store.put(&Path::from(name), payload)).unwrap();
    }
    let splits = |name: &str| {
        let mut reading = Reading::new(dir.path(), &format!("s3://freshet-single/in/{name}"));
        reading.connection = connection();
        runtime().block_on(reading.source().unwrap().splits())
    };
    let found: Vec<_> = splits("a.csv").unwrap().into_iter().map(|split| split.id).collect();
    assert_eq!(found, ["s3://freshet-single/in/a.csv"]);
    let error = splits("c.csv").expect_err("it is not there");
    assert!(error.message().contains("s3://freshet-single/in/c.csv"), "{error}");
}

#[test]
fn thousands_of_objects_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = bucket("freshet-many");
    runtime().block_on(async {
        let puts = (0..2_500).map(|i| {
            let key = Path::from(format!("many/f_{i:05}.csv"));
            let store = &store;
            async move { store.put(&key, PutPayload::from_static(b"id\n1\n")).await }
        });
        let results: Vec<_> = futures::StreamExt::collect::<Vec<_>>(
            futures::StreamExt::buffer_unordered(futures::stream::iter(puts), 32),
        )
        .await;
        assert!(results.iter().all(Result::is_ok));
    });
    let mut reading = Reading::new(dir.path(), "s3://freshet-many/many/f_*.csv");
    reading.connection = connection();
    let splits = runtime().block_on(reading.source().unwrap().splits()).unwrap();
    assert_eq!(splits.len(), 2_500);
}
