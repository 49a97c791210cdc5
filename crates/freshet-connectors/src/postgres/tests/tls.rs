//! Encrypted connections: the server's certificate is for `localhost`, by an authority whose own
//! lies in the server's data folder, beside another that has signed nothing.

use super::*;

/// Connects with these options more and says whether the connection is encrypted.
async fn encrypted(more: Value) -> Result<bool> {
    let mut all = options("public");
    all.extend(more.as_object().expect("an object").clone());
    let options: PostgresOptions = serde_json::from_value(Value::Object(all)).expect("valid");
    let client = connect::open(&options).await?;
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await.expect("the server answers").get(0))
}

/// A file of the server's data folder, here.
async fn certificate(name: &str) -> tempfile::NamedTempFile {
    let options: PostgresOptions =
        serde_json::from_value(Value::Object(options("public"))).expect("valid");
    let client = connect::open(&options).await.expect("the server answers");
    let row = client.query_one("select pg_read_file($1)", &[&name]).await;
    let text: String = row.expect("`cargo xtask services up` has made it").get(0);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("it is written");
    file
}

#[tokio::test]
async fn connections_are_encrypted_as_sslmode_says() {
    for (sslmode, expected) in [("disable", false), ("prefer", true), ("require", true)] {
        let found = encrypted(serde_json::json!({ "sslmode": sslmode })).await;
        assert_eq!(found.expect("it connects"), expected, "{sslmode}");
    }
}

#[tokio::test]
async fn server_is_believed_by_its_authority_and_name_only() {
    let (ours, other) = (certificate("ca.crt").await, certificate("other_ca.crt").await);
    let with = |sslmode: &str, host: &str, authority: &tempfile::NamedTempFile| {
        encrypted(serde_json::json!({
            "sslmode": sslmode, "host": host, "sslrootcert": authority.path(),
        }))
    };
    assert!(with("verify-full", "localhost", &ours).await.expect("it connects"));
    assert!(with("require", "localhost", &ours).await.expect("it connects"));
    for (sslmode, host, authority, why) in [
        ("verify-full", "localhost", &other, "another authority"),
        ("require", "localhost", &other, "another authority"),
        ("verify-full", "127.0.0.1", &ours, "another name"),
    ] {
        let error = with(sslmode, host, authority).await.expect_err(why);
        assert_eq!(error.code(), code::CONNECTION, "{why}: {error:?}");
        assert!(error.chain().contains("certificate"), "{why}: {error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("sslrootcert")), "{error:?}");
        assert!(!error.is_retryable(), "{why}: it is the same the next time");
    }
    std::fs::write(other.path(), "no certificate").expect("it is written");
    let error = with("verify-full", "localhost", &other).await.expect_err("no authority");
    assert_eq!(error.code(), code::CONFIG, "{error:?}");
}
