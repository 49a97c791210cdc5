//! Exports: partitioned files in each format, replaced by the next export of the same name.

use freshet_engine::lake::{ExportFormat, ExportTarget, export};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::*;

async fn content(store: &Arc<dyn ObjectStore>, path: &str) -> String {
    let object = store.get(&Path::parse(path).expect("a path")).await.expect("it is there");
    let bytes = object.bytes().await.expect("it can be read");
    String::from_utf8(bytes.to_vec()).expect("it is text")
}

fn regional() -> RecordBatch {
    batch(vec![
        ("id", ints([1, 2, 3])),
        ("note", Arc::new(StringViewArray::from(vec![Some("a,\"b\"\nc"), None, Some("\u{e9}")]))),
        ("region", texts(["n", "s", "n"])),
    ])
}

#[tokio::test]
async fn exports_have_folders_by_partition() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut target = ExportTarget {
        store: Arc::clone(&store),
        prefix: "out".into(),
        format: ExportFormat::Csv,
        partition_by: vec!["region".into()],
        name: "sales".into(),
    };
    let files = export(rows(vec![regional()]), &target).await.expect("it can be written");
    assert_eq!(files.len(), 2);
    let north = content(&store, "out/region=n/sales-000-000.csv").await;
    assert_eq!(north, "id,note\n1,\"a,\"\"b\"\"\nc\"\n3,\u{e9}\n");
    assert_eq!(content(&store, "out/region=s/sales-000-001.csv").await, "id,note\n2,\n");

    target.format = ExportFormat::Ndjson;
    target.partition_by.clear();
    target.prefix = "lines".into();
    export(rows(vec![regional()]), &target).await.expect("it can be written");
    assert_eq!(
        content(&store, "lines/sales-000-000.ndjson").await,
        "{\"id\":1,\"note\":\"a,\\\"b\\\"\\nc\",\"region\":\"n\"}\n\
         {\"id\":2,\"note\":null,\"region\":\"s\"}\n\
         {\"id\":3,\"note\":\"\u{e9}\",\"region\":\"n\"}\n"
    );
}

#[tokio::test]
async fn a_repeated_export_replaces_its_own_files_and_no_others() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let target = ExportTarget {
        store: Arc::clone(&store),
        prefix: "out".into(),
        format: ExportFormat::Parquet,
        partition_by: vec!["region".into()],
        name: "sales".into(),
    };
    store.put(&Path::from("out/sales-old.csv"), "x".into()).await.expect("memory");
    export(rows(vec![regional()]), &target).await.expect("it can be written");
    let fewer = regional().slice(0, 1);
    let files = export(rows(vec![fewer]), &target).await.expect("it can be written");
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    let listed: Vec<_> = listed.into_iter().map(|object| object.location.to_string()).collect();
    assert_eq!(listed, [format!("out/{}", files[0].path).as_str(), "out/sales-old.csv"]);
}
