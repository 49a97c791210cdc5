//! A receiver that refuses now and then.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use freshet_core::error::code;
use freshet_core::rows::{RowKind, Rows};
use freshet_core::sink::Guarantee;
use freshet_core::stream::{Claim, Epoch, Generation, PendingCommit, StreamSink, Wake};
use freshet_testkit::stream_sinks::schema;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{sink, try_sink};

/// A request: its key, what it was answered, its body.
type Seen = Arc<Mutex<Vec<(String, u16, String)>>>;

/// Answers requests with these codes in turn, then with 204.
async fn receiver(codes: &[u16]) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address =
        format!("http://{}/hook?token=hidden", listener.local_addr().expect("an address"));
    let seen = Seen::default();
    let (mut codes, told) = (VecDeque::from(codes.to_vec()), Arc::clone(&seen));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.expect("bytes");
                bytes.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = header(head, "content-length").parse::<usize>().expect("a length");
                if body.len() >= length {
                    break (head.to_owned(), body.to_owned());
                }
            };
            assert!(head.starts_with("POST /hook?token=hidden "), "{head}");
            assert_eq!(header(&head, "content-type"), "application/x-ndjson");
            assert_eq!(header(&head, "x-api-key"), "key");
            let code = codes.pop_front().unwrap_or(204);
            told.lock().push((header(&head, "idempotency-key"), code, body));
            let retry = if code == 429 { "retry-after: 0\r\n" } else { "" };
            let answer = format!(
                "HTTP/1.1 {code} x\r\n{retry}content-length: 0\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    (address, seen)
}

fn header(head: &str, name: &str) -> String {
    let of = |line: &str| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    head.lines().find_map(of).unwrap_or_default()
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

fn rows(ids: &[i64]) -> Rows {
    let values = StringViewArray::from_iter_values(ids.iter().map(|id| format!("v{id}")));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(values)];
    Rows::inserts(RecordBatch::try_new(schema(), columns).expect("two columns"))
}

async fn staged(sink: &Arc<dyn StreamSink>, generation: u64, ids: &[i64]) -> PendingCommit {
    let wake: Arc<dyn Wake> = Arc::new(NoWake);
    let claim = Claim { generation: Generation(generation), epoch: Epoch(1) };
    let mut writers = sink.open(claim, &[wake]).await.expect("opened");
    writers[0].write(rows(ids)).expect("written");
    let part = writers[0].cut(Epoch(2)).expect("a cut").await.expect("staged");
    PendingCommit { epoch: Epoch(2), parts: vec![part] }
}

#[tokio::test]
async fn batches_are_posted_until_they_are_taken_and_keep_their_keys() {
    let (url, seen) = receiver(&[204, 503, 429]).await;
    let options = json!({
        "url": url, "headers": { "x-api-key": "key" }, "batch_rows": 2, "retry_wait": "1ms",
    });
    let store = Arc::new(InMemory::new());
    let hook = sink("webhook", &options, &[]);
    assert_eq!(hook.guarantee(), Guarantee::AtLeastOnce);
    assert!(!hook.target().contains("hidden"), "{}", hook.target());
    hook.stage_in(store.clone());
    let pending = staged(&hook, 1, &[1, 2, 3]).await;
    assert!(seen.lock().is_empty(), "nothing is posted before its checkpoint is durable");
    hook.commit(Generation(1), std::slice::from_ref(&pending)).await.expect("posted");
    let first = std::mem::take(&mut *seen.lock());
    let told: Vec<_> = first.iter().map(|(key, code, _)| (key.as_str(), *code)).collect();
    let last = "dev/model/2/0/1";
    assert_eq!(told, [("dev/model/2/0/0", 204), (last, 503), (last, 429), (last, 204)]);
    assert_eq!(first[0].2, "{\"id\":1,\"value\":\"v1\"}\n{\"id\":2,\"value\":\"v2\"}\n");
    assert_eq!(first[3].2, "{\"id\":3,\"value\":\"v3\"}\n");
    // A process that comes after a crash posts the same under the same keys.
    let other = sink("webhook", &options, &[]);
    other.stage_in(store);
    other.commit(Generation(2), &[pending]).await.expect("posted");
    let again: Vec<_> =
        seen.lock().iter().map(|(key, _, body)| (key.clone(), body.clone())).collect();
    assert_eq!(again[0], (first[0].0.clone(), first[0].2.clone()));
    assert_eq!(again[1], (first[3].0.clone(), first[3].2.clone()));
}

#[tokio::test]
async fn a_receiver_that_refuses_for_good_is_told_of() {
    let (url, _) = receiver(&[401]).await;
    let options = json!({ "url": url, "headers": { "x-api-key": "key" } });
    let hook = sink("webhook", &options, &[]);
    let pending = staged(&hook, 1, &[1]).await;
    let error = hook.commit(Generation(1), &[pending]).await.expect_err("refused");
    assert!(error.chain().contains("401"), "{error:?}");
    assert!(!error.chain().contains("hidden"), "{error:?}");
}

#[tokio::test]
async fn rows_that_a_receiver_calls_wrong_end_the_job() {
    let (url, _) = receiver(&[422]).await;
    let options = json!({ "url": url, "headers": { "x-api-key": "key" } });
    let hook = sink("webhook", &options, &[]);
    let pending = staged(&hook, 1, &[1]).await;
    let error = hook.commit(Generation(1), &[pending]).await.expect_err("refused");
    assert_eq!(error.code(), code::SINK_REFUSED);
    assert!(error.chain().contains("422"), "{error:?}");
}

#[tokio::test]
async fn changes_are_told_in_a_field() {
    let (url, seen) = receiver(&[]).await;
    let options =
        json!({ "url": url, "headers": { "x-api-key": "key" }, "change_field": "change" });
    let hook = sink("webhook", &options, &[]);
    let wake: Arc<dyn Wake> = Arc::new(NoWake);
    let claim = Claim { generation: Generation(1), epoch: Epoch(1) };
    let mut writers = hook.open(claim, &[wake]).await.expect("opened");
    let kinds = vec![RowKind::UpdateBefore, RowKind::UpdateAfter];
    writers[0].write(Rows::changes(rows(&[1, 1]).into_batch(), kinds)).expect("written");
    let parts = vec![writers[0].cut(Epoch(2)).expect("a cut").await.expect("staged")];
    hook.commit(Generation(1), &[PendingCommit { epoch: Epoch(2), parts }]).await.expect("posted");
    let body = seen.lock()[0].2.clone();
    assert_eq!(
        body,
        "{\"id\":1,\"value\":\"v1\",\"change\":\"-U\"}\n{\"id\":1,\"value\":\"v1\",\"change\":\"+U\"}\n"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, message) in [
        (json!({}), "which is no address"),
        (json!({ "url": "ftp://a" }), "which is no address"),
        (json!({ "url": "http://a", "headers": { "a b": "c" } }), "\"a b\" is no header"),
        (json!({ "url": "http://a", "batch_rows": 0 }), "cannot be 0"),
    ] {
        let error = try_sink("webhook", &options, &[]).expect_err("wrong");
        assert!(error.message().contains(message), "{error:?}");
    }
}
