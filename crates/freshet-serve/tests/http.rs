//! The listener over real sockets: what it answers to those who ask well, and to all others.

mod support;

use std::time::Duration;

use freshet_core::config::{ByteSize, HumanDuration};
use freshet_core::http::HttpOptions;
use serde_json::json;
use support::{Door, gzip};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_answered_once_they_are_kept() {
    let door = Door::open(HttpOptions::default()).await;
    let answer = door.post("/v1/ingest/shop.orders", "application/json", br#"{"id": 1}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.json(),
        json!({ "accepted": 1, "rejected": 0, "rejects": [], "kept": true, "repeated": false })
    );
    let lines = b"{\"id\": 2}\n\nno\r\n{\"id\": 3}";
    let answer = door.post("/v1/ingest/shop.orders", "application/x-ndjson", lines).await;
    assert_eq!(answer.status, 200);
    let told = answer.json();
    assert_eq!((&told["accepted"], &told["rejected"]), (&json!(2), &json!(1)));
    assert_eq!(told["rejects"][0]["line"], 3);
    assert_eq!(told["rejects"][0]["code"], "syntax");
    assert_eq!(door.kept(), [r#"{"id": 1}"#, r#"{"id": 2}"#, "no", r#"{"id": 3}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_requests_are_kept_whole_or_not_at_all() {
    let door = Door::open(HttpOptions::default()).await;
    let path = "/v1/ingest/shop.orders?strict=true";
    let answer = door.post(path, "application/x-ndjson", b"{\"id\": 2}\nno").await;
    assert_eq!(answer.status, 422);
    let told = answer.json();
    assert_eq!((&told["accepted"], &told["kept"]), (&json!(0), &json!(false)));
    assert_eq!(told["rejects"][0]["line"], 2);
    assert_eq!(door.kept(), Vec::<String>::new());
    let answer = door.post(path, "application/x-ndjson", b"{\"id\": 2}").await;
    assert_eq!(answer.status, 200);
    assert_eq!(door.kept().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_bodies_are_unpacked_within_the_same_bound() {
    let options = HttpOptions { max_body_bytes: ByteSize(10_000), ..HttpOptions::default() };
    let door = Door::open(options).await;
    let path = "/v1/ingest/shop.orders";
    let body = "{\"id\": 7}\n".repeat(900);
    let zstd = zstd::encode_all(body.as_bytes(), 3).expect("it is packed");
    for (coding, packed) in [("gzip", gzip(body.as_bytes())), ("zstd", zstd)] {
        let before = door.kept().len();
        let headers = format!("Content-Encoding: {coding}\r\n");
        let answer = door.request("POST", path, "application/x-ndjson", &headers, &packed).await;
        assert_eq!(answer.status, 200, "{coding}: {}", answer.text());
        assert_eq!(door.kept().len(), before + 900, "{coding}");
        // Cut off anywhere, it is no body.
        for cut in (1..packed.len()).step_by(packed.len() / 7 + 1) {
            let cut = &packed[..cut];
            let answer = door.request("POST", path, "application/x-ndjson", &headers, cut).await;
            assert_eq!(answer.status, 422, "{coding} of {} bytes", cut.len());
        }
        let bomb = vec![b' '; 5_000_000];
        let bomb = match coding {
            "gzip" => gzip(&bomb),
            _ => zstd::encode_all(&bomb[..], 3).expect("it is packed"),
        };
        assert!(bomb.len() < 10_000);
        let answer = door.request("POST", path, "application/x-ndjson", &headers, &bomb).await;
        assert_eq!(answer.status, 413, "{coding}");
        let answer = door.request("POST", path, "application/x-ndjson", &headers, b"plain").await;
        assert_eq!(answer.status, 422, "{coding}");
    }
    let answer =
        door.request("POST", path, "application/x-ndjson", "Content-Encoding: br\r\n", b"x").await;
    assert_eq!(answer.status, 415);
    assert_eq!(door.kept().len(), 1800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let options =
        HttpOptions { max_body_bytes: ByteSize(1000), max_records: 5, ..HttpOptions::default() };
    let door = Door::open(options).await;
    let head = "POST /v1/ingest/shop.orders HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: text/plain\r\nContent-Length: 1000000000000\r\n\r\n";
    assert_eq!(door.raw(&[head.as_bytes()]).await.status, 413, "by what it says of itself");
    let head = "POST /v1/ingest/shop.orders HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let answer = door.raw(&[head.as_bytes(), chunk.as_bytes(), chunk.as_bytes()]).await;
    assert_eq!(answer.status, 413, "by what comes");
    let answer = door.post("/v1/ingest/shop.orders", "text/plain", b"{}\n{}\n{}\n{}\n{}\n{}").await;
    assert_eq!(answer.status, 413, "by the number of records");
    assert!(answer.text().contains("max_records"), "{}", answer.text());
    assert_eq!(door.kept(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_bodies_keep_nothing() {
    let options = HttpOptions {
        body_timeout: HumanDuration(Duration::from_millis(200)),
        ..HttpOptions::default()
    };
    let door = Door::open(options).await;
    let head = "POST /v1/ingest/shop.orders HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/x-ndjson\r\nContent-Length: 18\r\n\r\n";
    // Ended by whoever sends: nobody is there to be answered, or the answer says so.
    let answer = door.ended(&[head.as_bytes(), b"{\"id\": 1}"]).await;
    assert!(answer.is_none_or(|answer| answer.status == 400));
    // Not ended, and not going on.
    let answer = door.raw(&[head.as_bytes(), b"{\"id\": 1}"]).await;
    assert_eq!(answer.status, 408);
    let chunked = "POST /v1/ingest/shop.orders HTTP/1.1\r\nHost: localhost\r\n\
                   Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n\
                   a\r\n{\"id\": 1}\n\r\n";
    let answer = door.ended(&[chunked.as_bytes()]).await;
    assert!(answer.is_none_or(|answer| answer.status == 400));
    let answer = door.ended(&[chunked.as_bytes(), b"zz\r\n"]).await;
    assert!(answer.is_none_or(|answer| answer.status == 400));
    assert_eq!(door.kept(), Vec::<String>::new());
    let answer = door.post("/v1/ingest/shop.orders", "text/plain", b"{\"id\": 1}").await;
    assert_eq!(answer.status, 200, "others are served all the while");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_let_go() {
    let options = HttpOptions {
        header_timeout: HumanDuration(Duration::from_millis(200)),
        max_connections: 1,
        ..HttpOptions::default()
    };
    let door = Door::open(options).await;
    let mut silent = door.connect().await;
    let mut half = door.connect().await;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    half.write_all(b"GET /healthz HT").await.expect("it is sent");
    // The one connection that there may be goes from one to the next.
    let answer = tokio::time::timeout(Duration::from_secs(20), door.get("/healthz")).await;
    assert_eq!(answer.expect("it gets its turn").status, 200);
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.expect("it is closed");
    let _ = half.read_to_end(&mut rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_named() {
    let door = Door::open(HttpOptions::default()).await;
    let path = "/v1/ingest/shop.orders";
    for (method, path, kind, body, status) in [
        ("POST", "/v1/ingest/shop.nothing", "text/plain", "{}", 404),
        ("POST", "/v1/ingest", "text/plain", "{}", 404),
        ("POST", "/v1/ingest/a/b", "text/plain", "{}", 404),
        ("GET", path, "text/plain", "", 405),
        ("PUT", path, "text/plain", "{}", 405),
        ("POST", path, "application/x-www-form-urlencoded", "a=b", 415),
        ("POST", path, "text/csv", "1,2", 415),
        ("POST", path, "", "{}", 415),
        ("POST", path, "application/json", "", 422),
        ("POST", path, "application/vnd.apache.arrow.stream", "no stream", 422),
        ("POST", "/v1/ingest/shop.orders?strikt=1", "text/plain", "{}", 400),
        ("POST", "/v1/ingest/shop.orders?strict=5", "text/plain", "{}", 400),
        ("POST", "/v1/ingest/%ff%fe", "text/plain", "{}", 400),
    ] {
        let answer = door.request(method, path, kind, "", body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path} {kind}: {}", answer.text());
        if status != 400 || path.contains('?') {
            assert!(answer.json()["error"]["code"].is_string(), "{}", answer.text());
        }
    }
    for key in ["", &"k".repeat(257), "\u{e9}"] {
        let header = format!("Idempotency-Key: {key}\r\n");
        let answer = door.request("POST", path, "text/plain", &header, b"{}").await;
        assert_eq!(answer.status, 400, "{key:?}");
    }
    let answer = door.request("POST", path, "text/plain", "", b"").await;
    assert_eq!((answer.status, answer.json()["accepted"].clone()), (200, json!(0)), "no lines");
    assert_eq!(door.kept(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn framing_that_two_could_read_differently_is_refused() {
    let door = Door::open(HttpOptions::default()).await;
    let head =
        "POST /v1/ingest/shop.orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    for framing in [
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        "Content-Length: -1\r\n\r\n{}",
        "Content-Length: 2x\r\n\r\n{}",
        "Content-Length: 99999999999999999999999\r\n\r\n{}",
        "Transfer-Encoding: chunked, gzip\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        "Bad Header: x\r\n\r\n",
        "Content-Length: 2\r\n\0: x\r\n\r\n{}",
    ] {
        let text = format!("{head}{framing}");
        let answer = door.ended(&[text.as_bytes()]).await;
        let status = answer.map(|answer| answer.status);
        assert!(matches!(status, None | Some(400 | 408 | 413)), "{framing:?}: {status:?}");
    }
    for garbage in ["\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02", "GET / HTTP/9.9\r\n\r\n"] {
        let status = door.ended(&[garbage.as_bytes()]).await.map(|answer| answer.status);
        assert!(matches!(status, None | Some(400 | 505)), "{garbage:?}: {status:?}");
    }
    let long =
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let status = door.ended(&[long.as_bytes()]).await.map(|answer| answer.status);
    assert!(matches!(status, None | Some(400 | 431)), "{status:?}");
    let many = "X: y\r\n".repeat(200);
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    let status = door.ended(&[many.as_bytes()]).await.map(|answer| answer.status);
    assert!(matches!(status, None | Some(400 | 431)), "{status:?}");
    assert_eq!(door.kept(), Vec::<String>::new());
    assert_eq!(door.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_programs_of_this_machine_are_answered() {
    let door = Door::open(HttpOptions::default()).await;
    let ask = async |host: &str, more: &str| {
        let text = format!("GET /healthz HTTP/1.1\r\n{host}{more}\r\n");
        door.ended(&[text.as_bytes()]).await.map(|answer| answer.status)
    };
    assert_eq!(ask("Host: localhost\r\n", "").await, Some(200));
    assert_eq!(ask("Host: [::1]:99\r\n", "").await, Some(200));
    assert_eq!(ask("Host: evil.example\r\n", "").await, Some(403));
    assert_eq!(ask("Host: localhost\r\n", "Origin: http://evil.example\r\n").await, Some(403));
    assert_eq!(ask("Host: localhost\r\n", "Origin: null\r\n").await, Some(403));
    assert_eq!(ask("", "").await, Some(400));
    let text = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(door.ended(&[text.as_bytes()]).await.map(|answer| answer.status), Some(403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_make_repetitions_the_same_request() {
    let door = Door::open(HttpOptions::default()).await;
    let path = "/v1/ingest/shop.orders";
    let keyed = async |key: &str, body: &'static str| {
        let header = format!("Idempotency-Key: {key}\r\n");
        let answer = door.request("POST", path, "text/plain", &header, body.as_bytes()).await;
        (answer.status, answer.json())
    };
    let (status, told) = keyed("a", "{\"id\": 1}").await;
    assert_eq!((status, &told["repeated"]), (200, &json!(false)));
    let (status, told) = keyed("a", "{\"id\": 1}").await;
    assert_eq!((status, &told["repeated"]), (200, &json!(true)));
    let (status, told) = keyed("a", "{\"id\": 2}").await;
    assert_eq!((status, &told["error"]["code"]), (409, &json!("F0954")));
    // A body is the same whatever it was packed in.
    let packed = gzip(b"{\"id\": 1}");
    let header = "Idempotency-Key: a\r\nContent-Encoding: gzip\r\n";
    let answer = door.request("POST", path, "text/plain", header, &packed).await;
    assert_eq!((answer.status, &answer.json()["repeated"]), (200, &json!(true)));
    // Many at once are one.
    let asking = (0..20).map(|_| keyed("b", "{\"id\": 5}"));
    let answers = futures::future::join_all(asking).await;
    let fresh = answers.iter().filter(|(_, told)| told["repeated"] == json!(false));
    assert_eq!(fresh.count(), 1);
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert_eq!(door.kept(), [r#"{"id": 1}"#, r#"{"id": 5}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_are_told_to_wait_where_too_much_is_under_way() {
    let options = HttpOptions {
        max_body_bytes: ByteSize(4096),
        max_pending_bytes: ByteSize(4096),
        ..HttpOptions::default()
    };
    let door = Door::open(options).await;
    door.block();
    let body = "{}\n".repeat(1000);
    let waiting = door.post("/v1/ingest/shop.orders", "text/plain", body.as_bytes());
    let mut waiting = std::pin::pin!(waiting);
    let refused = async {
        door.appending().await;
        let answer = door.post("/v1/ingest/shop.orders", "text/plain", body.as_bytes()).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after"), Some("1"));
        door.release();
    };
    let (answer, ()) = tokio::join!(&mut waiting, refused);
    assert_eq!(answer.status, 200);
    door.busy();
    let answer = door.post("/v1/ingest/shop.orders", "text/plain", b"{}").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(answer.json()["error"]["code"], "F0953");
    assert_eq!(door.kept().len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_do_not_become_durable_in_time_are_no_success() {
    let options = HttpOptions {
        append_timeout: HumanDuration(Duration::from_millis(100)),
        ..HttpOptions::default()
    };
    let door = Door::open(options).await;
    door.block();
    let answer = door.post("/v1/ingest/shop.orders", "text/plain", b"{}").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("append_timeout"), "{}", answer.text());
    door.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_answered_when_the_listener_stops() {
    let door = Door::open(HttpOptions::default()).await;
    door.block();
    let waiting = door.post("/v1/ingest/shop.orders", "text/plain", b"{}");
    let stopping = async {
        door.appending().await;
        door.stop.cancel();
        door.release();
    };
    let (answer, ()) = tokio::join!(waiting, stopping);
    assert_eq!(answer.status, 200);
    door.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_take_answers_is_let_go() {
    use tokio::io::AsyncWriteExt;
    let options = HttpOptions {
        write_timeout: HumanDuration(Duration::from_millis(200)),
        max_connections: 1,
        ..HttpOptions::default()
    };
    let door = Door::open(options).await;
    let mut deaf = door.connect().await;
    let asked = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let asking = async {
        // Until the buffers between are full, and then until it is closed.
        while deaf.write_all(asked.as_bytes()).await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it is closed");
    assert_eq!(door.get("/healthz").await.status, 200, "the one connection is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_arrow_are_records() {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    let column = std::sync::Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("id", column)]).expect("a batch");
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(&batch).expect("it is written");
    let whole = writer.into_inner().expect("its bytes");
    let door = Door::open(HttpOptions::default()).await;
    let (path, kind) = ("/v1/ingest/shop.orders", "application/vnd.apache.arrow.stream");
    let answer = door.post(path, kind, &whole).await;
    assert_eq!((answer.status, answer.json()["accepted"].clone()), (200, json!(2)));
    assert_eq!(door.kept(), ["{\"id\":1}", "{}"]);
    for cut in 0..whole.len() {
        let answer = door.post(path, kind, &whole[..cut]).await;
        assert!([200, 422].contains(&answer.status), "cut at {cut}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_not_steered_by_forms() {
    let door = Door::open(HttpOptions::default()).await;
    assert_eq!(door.get("/v1/jobs").await.json(), json!({ "jobs": [] }));
    assert_eq!(door.get("/v1/jobs/none").await.status, 404);
    assert!(door.get("/metrics").await.text().ends_with("# EOF\n"));
    let path = "/v1/jobs/none/rescale";
    for (kind, body, status) in [
        ("application/json", r#"{"parallelism": 2}"#, 404),
        ("application/json", r#"{"parallelism": 70000}"#, 422),
        ("application/json", r#"{"parallelism": 2, "more": 1}"#, 422),
        ("application/json", "{", 422),
        ("text/plain", r#"{"parallelism": 2}"#, 415),
        ("application/x-www-form-urlencoded", "parallelism=2", 415),
    ] {
        let answer = door.post(path, kind, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{kind} {body}: {}", answer.text());
    }
}
