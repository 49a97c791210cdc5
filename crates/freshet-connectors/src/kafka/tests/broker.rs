//! A broker of one test's own, which is killed and started again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use freshet_core::rows::Rows;
use freshet_core::stream::{Epoch, Generation, PendingCommit, Wake};

use super::*;

struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Child>,
}

impl Broker {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("an address").port()
        };
        let (port, controller) = (free(), free());
        let data = folder.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n",
            data.display()
        );
        std::fs::write(folder.path().join("server.properties"), properties).expect("written");
        let broker = Self { folder, port, running: None };
        let formatted = broker
            .java(&["kafka.tools.StorageTool", "format", "-t", "RnJlc2hldFRlc3RzMDAwMQ", "-c"])
            .arg(broker.properties())
            .status()
            .expect("java runs");
        assert!(formatted.success(), "the folder can be formatted");
        broker
    }

    fn properties(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn java(&self, arguments: &[&str]) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx300m", "-XX:+UseSerialGC", "-cp"])
            .arg(PathBuf::from(variable("FRESHET_TEST_KAFKA_LIBS")).join("*"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        java
    }

    async fn start(&mut self) {
        let child = self.java(&["kafka.Kafka"]).arg(self.properties()).spawn().expect("java runs");
        self.running = Some(child);
        let options = KafkaOptions { brokers: self.address(), ..KafkaOptions::default() };
        let connection = options.connection(".".as_ref()).expect("valid options");
        let cluster = Cluster::new(connection);
        client::retrying(Duration::from_secs(90), || cluster.metadata(std::iter::empty()))
            .await
            .expect("the broker answers");
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_under_load_costs_no_record_and_doubles_none() {
    let mut broker = Broker::new();
    broker.start().await;
    let fixture = client::retrying(Duration::from_secs(60), || async {
        Ok(Fixture::at(&broker.address(), "killed", 2, &[]).await)
    })
    .await
    .expect("a topic");
    let sink = fixture.sink(json!({"request_timeout": "5s", "connect_timeout": "2s"}));
    let source = fixture.source(json!({"request_timeout": "5s", "connect_timeout": "2s"}));

    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    // What the writer fails with, should it never end.
    let trouble = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let troubled = Arc::clone(&trouble);
    let mut writing = tokio::spawn(async move {
        let wakes: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
        let mut generation = 1;
        let mut writers = sink.open(claim(generation), &wakes).await.expect("open");
        let (mut next, mut epoch) = (0_i64, 0);
        while !ended.load(Ordering::SeqCst) || epoch < 20 {
            let ids = Int64Array::from((next..next + 100).collect::<Vec<_>>());
            next += 100;
            epoch += 1;
            let rows = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef)]);
            writers[0].write(Rows::inserts(rows.expect("one column"))).expect("written");
            let part = writers[0].cut(Epoch(epoch)).expect("a cut").await.expect("staged");
            let pending = [PendingCommit { epoch: Epoch(epoch), parts: vec![part] }];
            // As a job does after a failure: a new generation, and the commits that were left.
            while let Err(error) = sink.commit(Generation(generation), &pending).await {
                assert!(error.is_retryable(), "{error:?}");
                troubled.lock().push(error.chain());
                generation += 1;
                loop {
                    match sink.open(claim(generation), &wakes).await {
                        Ok(opened) => break writers = opened,
                        Err(error) => {
                            assert!(error.is_retryable(), "{error:?}");
                            troubled.lock().push(error.chain());
                        }
                    }
                }
            }
        }
        next
    });

    let partitions = source.partitions().await.expect("the topic is there");
    let mut fetcher = source.fetcher().await.expect("a fetcher");
    for partition in &partitions {
        fetcher.add(partition, Start::Earliest).await.expect("the partition is there");
    }
    let mut seen = Seen::default();
    for round in 1..=3 {
        let some = more(&source, &mut fetcher, &partitions, &[0], round * 500, &mut seen);
        tokio::select! {
            some = tokio::time::timeout(Duration::from_secs(120), some) => some.expect("records"),
            // What it panicked with is told by the test.
            ended = &mut writing => panic!("the writer ended: {ended:?}"),
        }
        broker.kill();
        // The fetcher says what it waits for.
        let waiting = async {
            while source.waits().is_empty() {
                tokio::select! {
                    block = fetcher.fetch() => {
                        // What was on its way when it died.
                        let block = block.expect("no error that lasts").expect("no end");
                        let mut decoder = source.decoder(&[0]).expect("a decoder");
                        let mut out = Decoded::default();
                        let decoding = decoder.decode(&block, &mut out).expect("sound");
                        assert_eq!(decoding, Decoding::Done);
                        enter(&out, &mut seen);
                    }
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("a reason");
        broker.start().await;
    }
    done.store(true, Ordering::SeqCst);
    // An epoch is tried five times, and each step of a try for as long as a request may take.
    let written = tokio::time::timeout(Duration::from_secs(300), writing).await;
    let written = written.unwrap_or_else(|_| panic!("no end: {:#?}", trouble.lock()));
    let written = written.expect("all was written");
    let rest = more(&source, &mut fetcher, &partitions, &[0], written as u64, &mut seen);
    tokio::time::timeout(Duration::from_secs(120), rest).await.expect("all is read");
    let mut ids: Vec<i64> =
        seen.rows.iter().map(|row| row[3..].parse().expect("a number")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..written).collect::<Vec<_>>());
    assert!(source.waits().is_empty(), "{:?}", source.waits());
}

fn enter(out: &Decoded, seen: &mut Seen) {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    for batch in &out.batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        seen.rows.extend(ids.values().iter().map(|id| format!("+I {id}")));
    }
    seen.records += out.records;
}

/// What an instance of this generation has; its checkpoints are newer than all that a test writes.
fn claim(generation: u64) -> freshet_core::stream::Claim {
    let epoch = freshet_core::stream::Epoch(u64::MAX);
    freshet_core::stream::Claim { generation: Generation(generation), epoch }
}
