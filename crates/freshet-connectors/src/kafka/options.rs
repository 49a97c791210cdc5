//! The options of the `kafka` connector, checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use freshet_core::config::{ByteSize, HumanDuration, Secret};
use freshet_core::error::{Error, Result, code};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of the `kafka` connector, in the connection or beside the source or sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOptions {
    /// Some of the cluster's brokers, `host:port` with commas between them. Required.
    pub brokers: String,
    /// Whether connections are encrypted, and whether one logs in: `plaintext`, `ssl`,
    /// `sasl_plaintext` or `sasl_ssl`. Default: `plaintext`.
    pub security: Security,
    /// How one logs in: `plain`, `scram-sha-256` or `scram-sha-512`. Default: `scram-sha-256`.
    pub mechanism: Mechanism,
    /// The user to log in as.
    pub username: Option<String>,
    /// The user's password, by reference: `${env:NAME}` or `${file:/path}`.
    pub password: Option<Secret>,
    /// PEM file of the authorities that may have signed the brokers' certificates. Default: those
    /// that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// How long connecting and logging in may take. Default: `10s`.
    pub connect_timeout: HumanDuration,
    /// How long a broker may take to answer. Default: `30s`.
    pub request_timeout: HumanDuration,
    /// The largest answer of a broker that is read. Default: `256MiB`.
    pub max_response: ByteSize,

    /// The topic that is read or written; a source can read several with the same records. Required
    /// for a source; a sink's default is the name of its table.
    pub topic: Option<Topics>,
    /// What the messages' values are: `ndjson` or `json` (one object a message), `csv`, `avro`, or
    /// `raw`, the value as it is in the contract's only column. A sink writes `ndjson`, `avro` or
    /// `raw`. Keys are text, or JSON. Default: `ndjson`.
    pub format: String,
    /// Options of the format. Those of the connection are for `avro`: its registry, and who logs in
    /// there.
    pub format_options: Value,

    /// As a source: where reading begins where no checkpoint says it: `earliest`, `latest`, a
    /// timestamp (`2026-01-31T00:00:00Z`), or the offset of each partition
    /// (`{"orders/0": 10}`; the others begin at the earliest). Default: `earliest`.
    pub start: StartAt,
    /// As a source: where reading ends: `never`, or `latest`, behind the newest record that there is when
    /// the job starts. The job then ends as well: its windows close, and started again it does nothing.
    /// Default: `never`.
    pub end: EndAt,
    /// As a source: the partitions that are read, by number. Default: all, new ones included.
    pub partitions: Option<Vec<i32>>,
    /// As a source: the consumer group to which positions are committed with each checkpoint. With
    /// `assignment: static` they are for the eyes of tools that show lag, and nothing rests on them.
    /// Default: none.
    pub group: Option<String>,
    /// As a source: who says which partitions are read: `static`, the job alone, which reads all; or
    /// `group`, the members of `group`, which divide them among themselves. A partition that comes
    /// from another member goes on where that one has committed, so that records which it read since
    /// its last checkpoint are read twice. Give such a source an `idle_after`: partitions that went
    /// to others have no rows here. Default: `static`.
    pub assignment: Assignment,
    /// As a source with `assignment: group`: a member that is not heard of for so long has left the
    /// group. Default: `30s`.
    pub session_timeout: HumanDuration,
    /// As a source: how often new partitions are looked for. Default: `1m`.
    pub discovery_interval: HumanDuration,
    /// As a source: whether records of transactions that are open or were aborted are read:
    /// `read_committed` or `read_uncommitted`. Default: `read_committed`.
    pub isolation: Isolation,
    /// As a source: what a message without a value means: `skip` leaves it out and counts it,
    /// `delete` deletes the row with its key. Default: `skip`.
    pub tombstones: Tombstones,
    /// As a source: the columns that a message's key holds, for deletes; as a sink: the columns that
    /// make the key, which an upsert topic needs. With one column the key is its value as text, with
    /// several an object of JSON. Default: none.
    pub key: Vec<String>,
    /// As a source: what happens when the record at a position is gone, because retention was faster
    /// than the job: `fail`, or go on at the `earliest` or `latest`. Default: `fail`.
    pub on_lost: OnLost,
    /// As a source: what happens to a batch whose checksum is wrong: `fail` reads it again, `skip`
    /// makes it one dead letter. Default: `fail`.
    pub corrupt_batches: Corrupt,
    /// As a source: bytes that one request asks of one partition. Default: `4MiB`.
    pub fetch_bytes: ByteSize,
    /// As a source: bytes that wait to be decoded, for each partition. Default: `16MiB`.
    pub buffer_bytes: ByteSize,
    /// As a source: how long a broker waits for new records before it answers. Default: `500ms`.
    pub fetch_wait: HumanDuration,
    /// As a source: the largest size of a batch after decompression. Default: `256MiB`.
    pub max_batch_bytes: ByteSize,
    /// As a source: a record larger than this is a dead letter. Default: `1MiB`.
    pub max_record_bytes: ByteSize,

    /// As a sink: what it promises: `exactly_once` publishes by transactions, one for each epoch;
    /// `at_least_once` sends at once. Default: `exactly_once`.
    pub guarantee: Promise,
    /// As a sink: whether a row replaces the one with the same key, and rows that are deleted are
    /// written as messages without a value. Without it the sink only takes inserts. The key is `key`,
    /// else the model's `unique_key`. Default: false.
    pub upsert: bool,
    /// As a sink: the start of the transactional ids and the name of the group that holds the
    /// marker. Two jobs must not share it. Default: `freshet`, the environment, the model and the
    /// topic, joined by `-`.
    pub transactional_id: Option<String>,
    /// As a sink: how long a transaction may stay open before the cluster aborts it. Default: `1m`.
    pub transaction_timeout: HumanDuration,
    /// As a sink, and where records are pushed: makes the topic with so many partitions where it is
    /// missing, with the cluster's own settings. Default: a missing topic is an error.
    pub create_partitions: Option<i32>,
    /// As a sink: how batches are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`. Default: `lz4`.
    pub compression: Codec,
    /// As a sink: the size of a batch before compression. Default: `512KiB`.
    pub batch_bytes: ByteSize,
    /// As a sink: the columns that become headers rather than part of the value. Default: none.
    pub headers: Vec<String>,
    /// As a sink: bytes that are held before rows have to wait (`at_least_once`), or that one epoch
    /// of one writer may hold (`exactly_once`). Default: `256MiB`.
    pub max_held_bytes: ByteSize,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        let seconds = |seconds| HumanDuration(Duration::from_secs(seconds));
        Self {
            brokers: String::new(),
            security: Security::Plaintext,
            mechanism: Mechanism::ScramSha256,
            username: None,
            password: None,
            ca_file: None,
            connect_timeout: seconds(10),
            request_timeout: seconds(30),
            max_response: ByteSize::mib(256),
            topic: None,
            format: "ndjson".into(),
            format_options: Value::Null,
            start: StartAt::Word("earliest".into()),
            end: EndAt::Never,
            partitions: None,
            group: None,
            assignment: Assignment::Static,
            session_timeout: seconds(30),
            discovery_interval: seconds(60),
            isolation: Isolation::ReadCommitted,
            tombstones: Tombstones::Skip,
            key: Vec::new(),
            on_lost: OnLost::Fail,
            corrupt_batches: Corrupt::Fail,
            fetch_bytes: ByteSize::mib(4),
            buffer_bytes: ByteSize::mib(16),
            fetch_wait: HumanDuration(Duration::from_millis(500)),
            max_batch_bytes: ByteSize::mib(256),
            max_record_bytes: ByteSize::mib(1),
            guarantee: Promise::ExactlyOnce,
            upsert: false,
            transactional_id: None,
            transaction_timeout: seconds(60),
            create_partitions: None,
            compression: Codec::Lz4,
            batch_bytes: ByteSize(512 << 10),
            headers: Vec::new(),
            max_held_bytes: ByteSize::mib(256),
        }
    }
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident, $case:literal { $($(#[$doc:meta])* $word:ident),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = $case)]
        pub enum $name { $($(#[$doc])* $word),+ }
    };
}

words!(
    /// Whether connections are encrypted, and whether one logs in.
    Security, "snake_case" {
        /// Neither.
        Plaintext,
        /// Encrypted.
        Ssl,
        /// Logged in.
        SaslPlaintext,
        /// Both.
        SaslSsl,
    }
);
words!(
    /// Where reading ends.
    EndAt, "snake_case" {
        /// Nowhere.
        Never,
        /// Behind the newest record at the start.
        Latest,
    }
);
words!(
    /// What records of transactions are read.
    Isolation, "snake_case" {
        /// Those of committed ones.
        ReadCommitted,
        /// All.
        ReadUncommitted,
    }
);
words!(
    /// Who says which partitions a source reads.
    Assignment, "snake_case" {
        /// The job alone.
        Static,
        /// The members of a consumer group.
        Group,
    }
);
words!(
    /// What a message without a value means.
    Tombstones, "snake_case" {
        /// Nothing.
        Skip,
        /// The row with its key is no more.
        Delete,
    }
);
words!(
    /// What happens when the record at a position is gone.
    OnLost, "snake_case" {
        /// An error.
        Fail,
        /// Go on with the oldest.
        Earliest,
        /// Go on behind the newest.
        Latest,
    }
);
words!(
    /// What happens to a batch whose checksum is wrong.
    Corrupt, "snake_case" {
        /// It is read again.
        Fail,
        /// It is a dead letter.
        Skip,
    }
);
words!(
    /// What a sink promises.
    Promise, "snake_case" {
        /// Each row once.
        ExactlyOnce,
        /// Each row at least once.
        AtLeastOnce,
    }
);
words!(
    /// How batches are compressed.
    Codec, "snake_case" {
        /// Not at all.
        None,
        /// By gzip.
        Gzip,
        /// By Snappy.
        Snappy,
        /// By LZ4.
        Lz4,
        /// By Zstandard.
        Zstd,
    }
);

/// How one logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// The password as it is.
    #[serde(rename = "plain")]
    Plain,
    /// A proof of the password, by SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// A proof of the password, by SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl Mechanism {
    /// The name that brokers know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// One topic or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Topics {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StartAt {
    /// `earliest`, `latest` or a timestamp.
    Word(String),
    /// The offset of each partition, as `topic/number`.
    Offsets(BTreeMap<String, u64>),
}

/// Where reading begins, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFrom {
    /// At the oldest record.
    Earliest,
    /// Behind the newest.
    Latest,
    /// At the first record that is not older than this, in milliseconds since 1970.
    Timestamp(i64),
    /// At these offsets.
    Offsets(BTreeMap<String, u64>),
}

impl StartAt {
    /// What it means.
    pub fn understood(&self) -> Result<StartFrom> {
        Ok(match self {
            Self::Offsets(offsets) => StartFrom::Offsets(offsets.clone()),
            Self::Word(word) => match word.as_str() {
                "earliest" => StartFrom::Earliest,
                "latest" => StartFrom::Latest,
                time => {
                    let time = chrono::DateTime::parse_from_rfc3339(time).map_err(|error| {
                        Error::new(code::CONFIG, format!("option \"start\" is wrong: \"{word}\""))
                            .caused_by(error)
                            .hint("write `earliest`, `latest`, a timestamp as 2026-01-31T00:00:00Z, or an offset for each partition")
                    })?;
                    StartFrom::Timestamp(time.timestamp_millis())
                }
            },
        })
    }
}

/// A user and what proves it.
#[derive(Debug, Clone)]
pub struct Login {
    /// How.
    pub mechanism: Mechanism,
    /// Who.
    pub username: String,
    /// The proof.
    pub password: Secret,
}

/// How brokers are connected to.
#[derive(Debug)]
pub struct ConnectionOptions {
    /// Some of them.
    pub brokers: Vec<(String, u16)>,
    /// Encryption.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Who logs in.
    pub login: Option<Login>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
    /// The largest answer, in bytes.
    pub max_response: usize,
}

impl KafkaOptions {
    /// Those of the connection, overlaid by those beside the source or sink.
    pub fn read(options: &Value, connection: &serde_json::Map<String, Value>) -> Result<Self> {
        let mut merged = connection.clone();
        if let Value::Object(options) = options {
            merged.extend(options.clone());
        }
        // A registry and its password belong to the connection; other formats know neither.
        let shared = connection.get("format_options").and_then(Value::as_object);
        if let Some(shared) = shared {
            let mut of_format = serde_json::Map::new();
            if merged.get("format").and_then(Value::as_str) == Some("avro") {
                of_format.extend(shared.clone());
            }
            if let Some(Value::Object(own)) = options.get("format_options") {
                of_format.extend(own.clone());
            }
            merged.insert("format_options".to_owned(), Value::Object(of_format));
        }
        let options: Self = crate::options::parse(&Value::Object(merged), "")?;
        options.validate()?;
        Ok(options)
    }

    /// Whether they make sense, without touching anything outside.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::new(code::CONFIG, message));
        self.start.understood()?;
        let login = matches!(self.security, Security::SaslPlaintext | Security::SaslSsl);
        // The connection may give what stands beside the source lacks: only what is there is looked at.
        if !login && self.security != Security::Plaintext && self.username.is_some() {
            return wrong("option \"username\" is given, but \"security\" does not log in");
        }
        for (option, size) in [
            ("fetch_bytes", self.fetch_bytes),
            ("buffer_bytes", self.buffer_bytes),
            ("batch_bytes", self.batch_bytes),
            ("max_batch_bytes", self.max_batch_bytes),
            ("max_held_bytes", self.max_held_bytes),
        ] {
            if size.0 < 1024 || size.0 > 1 << 30 {
                return Err(Error::new(
                    code::CONFIG,
                    format!("option \"{option}\" is {size}: it must be between 1KiB and 1GiB"),
                ));
            }
        }
        if self.create_partitions.is_some_and(|partitions| !(1..=10_000).contains(&partitions)) {
            return wrong("option \"create_partitions\" must be between 1 and 10000");
        }
        if self.assignment == Assignment::Group {
            if self.group.as_ref().is_none_or(String::is_empty) {
                return wrong("option \"assignment\" is group, but \"group\" names none");
            }
            if self.partitions.is_some() {
                return wrong(
                    "options \"partitions\" and \"assignment: group\" exclude each other",
                );
            }
            if self.end != EndAt::Never {
                return wrong("options \"end\" and \"assignment: group\" exclude each other");
            }
            if self.session_timeout.0 < Duration::from_secs(1) {
                return wrong("option \"session_timeout\" cannot be less than 1s");
            }
        }
        if self.tombstones == Tombstones::Delete && self.key.is_empty() {
            return wrong(
                "option \"tombstones\" is delete, but \"key\" does not say which columns the key holds",
            );
        }
        Ok(())
    }

    /// An error where rows are to replace each other and nothing says by what.
    pub fn require_key(&self) -> Result<()> {
        if self.upsert && self.key.is_empty() {
            return Err(Error::new(
                code::CONFIG,
                "option \"upsert\" is set, but \"key\" names no column",
            )
            .hint("name the columns as `key`, or as `unique_key` of the model"));
        }
        Ok(())
    }

    /// The topics that source `source` reads.
    pub fn topics(&self, source: &str) -> Result<Vec<Arc<str>>> {
        let topics: Vec<Arc<str>> = match &self.topic {
            Some(Topics::One(topic)) => vec![topic.as_str().into()],
            Some(Topics::Several(topics)) => {
                topics.iter().map(|topic| topic.as_str().into()).collect()
            }
            None => vec![source.rsplit('.').next().unwrap_or(source).into()],
        };
        if topics.is_empty() || topics.iter().any(|topic| topic.is_empty()) {
            return Err(Error::new(code::CONFIG, "option \"topic\" is required"));
        }
        Ok(topics)
    }

    /// How brokers are connected to. Reads the file of authorities.
    pub fn connection(&self, project_dir: &Path) -> Result<Arc<ConnectionOptions>> {
        let encrypted = matches!(self.security, Security::Ssl | Security::SaslSsl);
        let tls = match encrypted {
            true => {
                let path = self.ca_file.as_ref().map(|path| project_dir.join(path));
                Some(super::client::security::tls(path.as_deref())?)
            }
            false => None,
        };
        let login = match self.security {
            Security::SaslPlaintext | Security::SaslSsl => {
                let missing = |option: &str| {
                    Error::new(
                        code::CONFIG,
                        format!("option \"{option}\" is required where \"security\" logs in"),
                    )
                };
                Some(Login {
                    mechanism: self.mechanism,
                    username: self.username.clone().ok_or_else(|| missing("username"))?,
                    password: self.password.clone().ok_or_else(|| missing("password"))?,
                })
            }
            Security::Plaintext | Security::Ssl => None,
        };
        let brokers: Result<Vec<_>> =
            self.brokers.split(',').map(|broker| address(broker.trim())).collect();
        Ok(Arc::new(ConnectionOptions {
            brokers: brokers?,
            tls,
            login,
            connect_timeout: self.connect_timeout.0,
            request_timeout: self.request_timeout.0,
            max_response: self.max_response.as_usize(),
        }))
    }
}

fn address(text: &str) -> Result<(String, u16)> {
    text.rsplit_once(':')
        .and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
        })
        .ok_or_else(|| {
            Error::new(
                code::CONFIG,
                format!("option \"brokers\" is wrong: \"{text}\" is no address"),
            )
            .hint("write host:port, with commas between several")
        })
}
