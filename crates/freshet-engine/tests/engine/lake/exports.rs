//! Exports: partitioned files in each format, replaced by the next export of the same name.

use freshet_engine::lake::{ExportCompression, ExportFormat, ExportTarget, export};
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
        compression: ExportCompression::None,
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
async fn exported_text_is_compressed_as_asked() {
    use std::io::Read;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let long: Vec<i64> = (0..100_000).collect();
    let long = batch(vec![("id", ints(long))]);
    let bytes = async |path: &str| {
        let object = store.get(&Path::from(path)).await.expect("it is there");
        object.bytes().await.expect("it can be read").to_vec()
    };
    for (format, plain) in [(ExportFormat::Csv, "csv"), (ExportFormat::Ndjson, "ndjson")] {
        let mut texts = Vec::new();
        for (compression, end) in [
            (ExportCompression::None, ""),
            (ExportCompression::Gzip, ".gz"),
            (ExportCompression::Zstd, ".zst"),
        ] {
            let target = ExportTarget {
                store: Arc::clone(&store),
                prefix: "out".into(),
                format,
                compression,
                partition_by: Vec::new(),
                name: "ids".into(),
            };
            let files = export(rows(vec![long.clone()]), &target).await;
            let files = files.expect("it can be written");
            assert_eq!(files[0].path, format!("ids-000-000.{plain}{end}"));
            let packed = bytes(&format!("out/{}", files[0].path)).await;
            assert_eq!(files[0].size, packed.len() as u64);
            let mut text = Vec::new();
            match compression {
                ExportCompression::None => text = packed,
                ExportCompression::Gzip => {
                    let mut reader = flate2::read::GzDecoder::new(packed.as_slice());
                    reader.read_to_end(&mut text).expect("it is whole");
                }
                ExportCompression::Zstd => {
                    text = zstd::decode_all(packed.as_slice()).expect("it is whole");
                }
            }
            assert!(
                compression == ExportCompression::None || files[0].size * 2 < text.len() as u64
            );
            texts.push(text);
        }
        assert!(texts[0].len() > 500_000);
        assert!(texts.iter().all(|text| *text == texts[0]), "{format:?}");
    }
    // Each export has replaced the one before, whatever its compression was.
    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.expect("listed").len(), 1);
}

#[tokio::test]
async fn a_repeated_export_replaces_its_own_files_and_no_others() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let target = ExportTarget {
        store: Arc::clone(&store),
        prefix: "out".into(),
        format: ExportFormat::Parquet,
        compression: ExportCompression::Zstd,
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
