//! Many senders at once, over the machine's own file system and over one that forgets.

use std::time::Duration;

use freshet_core::config::HumanDuration;
use freshet_core::error::code;
use freshet_core::ingest::AppendRequest;
use futures::future::join_all;

use super::super::os::{OsFiles, WriterLock};
use super::super::{EventLog, Fsync};
use super::*;

fn request(values: &[&str]) -> AppendRequest {
    let records = values.iter().map(|value| Record::new((*value).to_owned())).collect();
    AppendRequest { records, ..AppendRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_wait_for_few_fsyncs() {
    for fsync in [Fsync::Group, Fsync::Interval(HumanDuration(Duration::from_millis(2)))] {
        let files = Arc::new(FaultFs::new(1));
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0));
        let options = LogOptions { fsync, segment_bytes: ByteSize(1 << 20), ..options(2) };
        let log = EventLog::open(files.clone(), ROOT, options, clock).unwrap();
        let before = files.operations();
        let senders = (0..500).map(|number| log.append(request(&[&format!("record {number}")])));
        let futures: Vec<_> = senders.collect();
        let positions: Vec<_> = join_all(futures).await.into_iter().map(|r| r.unwrap()).collect();
        let operations = files.operations() - before;
        assert!(operations < 200, "{operations} operations for 500 requests");
        drop(log);
        files.crash();
        let mut all: Vec<(u32, u64, Record)> = Vec::new();
        for partition in 0..2u32 {
            let read = read(&*files, &Path::new(ROOT).join(partition.to_string())).unwrap();
            all.extend(read.into_iter().map(|(at, record)| (partition, at, record)));
        }
        assert_eq!(all.len(), 500);
        for (number, appended) in positions.iter().enumerate() {
            let (partition, end) = appended.positions.iter().next().unwrap();
            let value = format!("record {number}");
            let place = (partition.0.parse().unwrap(), end.0 - 1);
            assert!(all.iter().any(|(p, at, record)| (*p, *at) == place && record.value == value));
        }
    }
}

#[tokio::test]
async fn limits_have_errors_of_their_own() {
    let files = Arc::new(FaultFs::new(1));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0));
    let options = LogOptions {
        max_record_bytes: ByteSize(10),
        max_batch_bytes: ByteSize(60),
        max_pending_bytes: ByteSize(100),
        fsync: Fsync::Interval(HumanDuration(Duration::from_secs(3600))),
        ..options(1)
    };
    let log = Arc::new(EventLog::open(files, ROOT, options, clock).unwrap());
    let error = log.append(request(&["12345678901"])).await.unwrap_err();
    assert_eq!(error.code(), code::LIMIT);
    assert!(error.message().contains("`max_record_bytes`"), "{error:?}");
    let error = log.append(request(&["1234567890"; 4])).await.unwrap_err();
    assert_eq!(error.code(), code::LIMIT);
    assert!(error.message().contains("`max_batch_bytes`"), "{error:?}");
    // The first ones wait for a fsync that comes in an hour, or when the log is closed.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let log = Arc::clone(&log);
        let request = request(&["1234567890"; 2]);
        let mut append = Box::pin(async move { log.append(request).await });
        assert!(futures::poll!(append.as_mut()).is_pending());
        waiting.push(append);
    }
    let error = log.append(request(&["1234567890"; 2])).await.unwrap_err();
    assert!(error.code() == code::BUSY && error.is_retryable(), "{error:?}");
    drop(waiting);
}

#[test]
fn one_process_writes_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let held = WriterLock::take(folder.path()).unwrap();
    let error = WriterLock::take(folder.path()).unwrap_err();
    assert_eq!(error.code(), code::LOCKED);
    drop(held);
    WriterLock::take(folder.path()).unwrap();
}

#[tokio::test]
async fn a_log_on_the_disk_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/log");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0));
    for round in 0..3 {
        let files = Arc::new(OsFiles::default());
        let log = EventLog::open(files, &root, options(1), Arc::clone(&clock)).unwrap();
        for number in 0..20 {
            log.append(request(&[&format!("{round}:{number}"), "two\nlines"])).await.unwrap();
        }
    }
    let read = read(&OsFiles::default(), &root.join("0")).unwrap();
    assert_eq!(read.len(), 120);
    assert_eq!(values(&read)[118], "2:19");
}
