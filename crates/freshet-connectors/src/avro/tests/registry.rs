//! Against a real registry.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use url::Url;

use super::*;

fn address() -> String {
    std::env::var("FRESHET_TEST_SCHEMA_REGISTRY").unwrap_or_else(|_| {
        panic!("FRESHET_TEST_SCHEMA_REGISTRY is not set: `cargo xtask test` starts one and sets it")
    })
}

fn client(address: &str) -> Arc<SchemaRegistry> {
    let options = AvroOptions { registry: Some(address.to_owned()), ..AvroOptions::default() };
    let made = SchemaRegistry::new(&options, &std::env::temp_dir(), Arc::new(SystemClock));
    made.expect("sound options").expect("an address")
}

fn subject(name: &str) -> String {
    format!("{name}-{}-value", SystemClock.now_micros())
}

/// Decodes, and waits for schemas as a job does.
async fn patiently(
    decoder: &mut Box<dyn MessageDecoder>,
    bytes: &Bytes,
    messages: &[Message],
) -> Got {
    for _ in 0..1000 {
        let mut out = Decoded::default();
        let decoding = decoder.decode(bytes, messages, &mut out).expect("no error");
        if decoding == Decoding::Done {
            return got(&out);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the schema never came");
}

#[tokio::test]
async fn schemas_that_change_in_mid_stream_are_read_each_by_its_own() {
    let registry = client(&address());
    let subject = subject("evolving");
    let (before, _) = encode(&[("id", ids(&[]))], Framing::Plain, 0);
    let first = registry.register(&subject, &before).await.expect("it is new");
    let more = [("id", ids(&[])), ("name", names(&[]))];
    let second = registry.register(&subject, &encode(&more, Framing::Plain, 0).0).await;
    let second = second.expect("a field that may be null can be added");
    assert_ne!(first, second);
    assert_eq!(registry.register(&subject, &before).await.expect("it is known"), first);
    // As registries of Confluent are from the start.
    let mut config = Url::parse(&format!("{}/", address())).expect("an address");
    config = config.join(&format!("config/{subject}")).expect("an address");
    let put = reqwest::Client::new()
        .put(config)
        .header("content-type", "application/json")
        .body(r#"{"compatibility": "BACKWARD"}"#);
    put.send().await.and_then(|answer| answer.error_for_status()).expect("it is configured");
    let other = [("id", names(&[]))];
    let error = registry.register(&subject, &encode(&other, Framing::Plain, 0).0).await;
    let error = error.expect_err("a field cannot change its type");
    assert!(error.message().contains("cannot become the new one"), "{error:?}");
    assert!(!error.is_retryable());

    let old = |id| encode(&[("id", ids(&[id]))], Framing::Confluent, first).1.remove(0);
    let new = |id, name| {
        let columns = [("id", ids(&[id])), ("name", names(&[Some(name)]))];
        encode(&columns, Framing::Confluent, second).1.remove(0)
    };
    let mut unknown = old(9);
    unknown[1..5].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
    let parts = [old(1), old(2), new(3, "c"), old(4), unknown.clone(), new(5, "e"), b"{}".to_vec()];
    let declared = contract(&[("name", ColumnType::Text), ("id", ColumnType::Int64)]);
    let avro = format(json!({"registry": address()}), declared).expect("sound options");
    let (bytes, messages) = pack(&parts);
    let mut decoder = avro.decoder(&spec(2)).expect("a decoder");
    let found = patiently(&mut decoder, &bytes, &messages).await;
    assert_eq!(found.rows, ["10: -,1", "11: -,2", "12: c,3", "13: -,4", "15: e,5"]);
    assert_eq!(found.rejects, ["14 encoding -", "16 syntax -"]);
    assert_eq!(found.raw, [unknown, b"{}".to_vec()]);
    assert!(avro.waits().is_empty());
}

#[tokio::test]
async fn schemas_that_refer_to_others_are_put_together() {
    let registry = client(&address());
    let name = format!("N{}", SystemClock.now_micros());
    let inner = json!({"type": "record", "name": name, "fields": [{"name": "a", "type": "int"}]});
    let (of_inner, of_outer) = (subject("inner"), subject("outer"));
    registry.register(&of_inner, &inner.to_string()).await.expect("it is new");
    let outer = json!({"type": "record", "name": "Outer", "fields": [
        {"name": "id", "type": "long"}, {"name": "inner", "type": name}]});
    let body = json!({
        "schema": outer.to_string(),
        "references": [{"name": name, "subject": of_inner, "version": 1}],
    });
    let post = reqwest::Client::new()
        .post(format!("{}/subjects/{of_outer}/versions", address()))
        .header("content-type", "application/vnd.schemaregistry.v1+json")
        .body(body.to_string());
    let answer = post.send().await.and_then(|answer| answer.error_for_status());
    let answer = answer.expect("it is registered").bytes().await.expect("a body");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let id = u32::try_from(answer["id"].as_u64().expect("a number")).expect("a small one");
    let mut message = vec![0];
    message.extend(id.to_be_bytes());
    message.extend([14, 4]);
    let declared = contract(&[("id", ColumnType::Int64), ("inner", ColumnType::Text)]);
    let avro = format(json!({"registry": address()}), declared).expect("sound options");
    let (bytes, messages) = pack(&[message]);
    let mut decoder = avro.decoder(&spec(2)).expect("a decoder");
    let found = patiently(&mut decoder, &bytes, &messages).await;
    assert_eq!(found.rows, ["10: 7,{\"a\":2}"], "{found:?}");
}

#[tokio::test]
async fn a_registry_that_is_down_is_waited_for_and_asked_again() {
    let real = address();
    let subject = subject("down");
    let columns = [("id", ids(&[1, 2]))];
    let (schema, _) = encode(&columns, Framing::Plain, 0);
    let id = client(&real).register(&subject, &schema).await.expect("it is new");
    let (_, parts) = encode(&columns, Framing::Confluent, id);

    // A door that is closed at first.
    let door = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = door.local_addr().expect("an address");
    drop(door);
    let real = Url::parse(&real).expect("an address");
    let address = format!("http://{at}{}", real.path());
    let avro =
        format(json!({"registry": address.as_str()}), contract(&[("id", ColumnType::Int64)]));
    let avro = avro.expect("sound options");
    let mut decoder = avro.decoder(&spec(1)).expect("a decoder");
    let (bytes, messages) = pack(&parts);
    let mut out = Decoded::default();
    let decoding = decoder.decode(&bytes, &messages, &mut out).expect("no error");
    assert_eq!((decoding, out.records), (Decoding::Waits, 0));
    let known = async {
        while avro.waits().first().is_none_or(|wait| !wait.reason.contains("refused")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("a reason");
    let wait = avro.waits().remove(0);
    assert_eq!(wait.what, format!("the schema registry, for schema {id}"));
    assert!(wait.since > 0 && wait.since <= SystemClock.now_micros());

    let door = TcpListener::bind(at).await.expect("the port is free again");
    let behind = format!("{}:{}", real.host_str().unwrap_or_default(), real.port().unwrap_or(80));
    let passing = tokio::spawn(async move {
        while let Ok((mut outside, _)) = door.accept().await {
            let mut inside = TcpStream::connect(&behind).await.expect("the registry runs");
            tokio::spawn(async move { copy_bidirectional(&mut outside, &mut inside).await });
        }
    });
    let found = patiently(&mut decoder, &bytes, &messages).await;
    assert_eq!(found.rows, ["10: 1", "11: 2"]);
    assert!(avro.waits().is_empty());
    passing.abort();
}

#[tokio::test]
async fn what_does_not_speak_as_a_registry_is_waited_for_too() {
    // The path is wrong: its answer says nothing of schemas.
    let mut address = Url::parse(&address()).expect("an address");
    address.set_path("/nowhere");
    let avro =
        format(json!({"registry": address.as_str()}), contract(&[("id", ColumnType::Int64)]));
    let avro = avro.expect("sound options");
    let mut decoder = avro.decoder(&spec(1)).expect("a decoder");
    let (bytes, messages) = pack(&[vec![0, 0, 0, 0, 1, 2]]);
    let decoding = decoder.decode(&bytes, &messages, &mut Decoded::default()).expect("no error");
    assert_eq!(decoding, Decoding::Waits);
    let known = async {
        while avro.waits().first().is_none_or(|wait| !wait.reason.contains("404")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("a reason");
}
