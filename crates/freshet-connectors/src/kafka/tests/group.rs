//! Sources that are members of one group.

use freshet_core::source::Position;

use super::*;

/// A member, as a job is one: it reads, and commits what it has read.
struct Job {
    source: Arc<dyn StreamSource>,
    fetcher: Box<dyn Fetcher>,
    decoder: Box<dyn freshet_core::stream::BlockDecoder>,
    partitions: Vec<Partition>,
    positions: BTreeMap<Partition, Position>,
    rows: Vec<i64>,
}

impl Job {
    async fn new(fixture: &Fixture) -> Self {
        let group = format!("group-{}", fixture.topic);
        let source = fixture.source(json!({
            "group": group,
            "assignment": "group",
            "session_timeout": "6s",
            "discovery_interval": "1s",
            "fetch_wait": "50ms",
        }));
        let fetcher = source.fetcher().await.expect("a fetcher");
        let decoder = source.decoder(&[0]).expect("a decoder");
        let (partitions, positions) = (Vec::new(), BTreeMap::new());
        Self { source, fetcher, decoder, partitions, positions, rows: Vec::new() }
    }

    /// Takes up new partitions, and reads for a moment.
    async fn step(&mut self) {
        use arrow::array::AsArray;
        use arrow::datatypes::Int64Type;
        for partition in self.source.partitions().await.expect("the group agrees") {
            if !self.partitions.contains(&partition) {
                self.fetcher.add(&partition, Start::Configured).await.expect("it is there");
                self.decoder.add(&partition);
                self.partitions.push(partition);
            }
        }
        let moment = Duration::from_millis(20);
        while let Ok(block) = tokio::time::timeout(moment, self.fetcher.fetch()).await {
            let block = block.expect("no error").expect("no end");
            let mut out = Decoded::default();
            let decoding = self.decoder.decode(&block, &mut out).expect("a sound block");
            assert_eq!(decoding, Decoding::Done);
            for batch in &out.batches {
                self.rows.extend(batch.column(0).as_primitive::<Int64Type>().values());
            }
            let partition = self.partitions[block.partition].clone();
            self.positions.insert(partition, block.next);
        }
    }

    async fn commit(&self) {
        client::retrying(Duration::from_secs(30), || async {
            // While members change, the group takes nothing.
            let committed = self.source.publish(&self.positions).await;
            committed.map_err(freshet_core::Error::retryable)
        })
        .await
        .expect("committed");
    }
}

async fn send(fixture: &mut Fixture, ids: std::ops::Range<i64>) {
    for id in ids {
        let text = format!("{{\"id\":{id}}}");
        fixture.send((id % 4) as i32, &[(None, Some(&text))], Compression::None).await;
    }
}

/// Reads until all have as many rows together.
async fn until(jobs: &mut [&mut Job], rows: usize) {
    let reading = async {
        while jobs.iter().map(|job| job.rows.len()).sum::<usize>() < rows {
            for job in jobs.iter_mut() {
                job.step().await;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(90), reading).await.is_err() {
        let seen: Vec<_> = jobs.iter().map(|job| (&job.partitions, &job.rows)).collect();
        panic!("{rows} rows were expected, and these came: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_divide_partitions_and_take_over_where_others_have_committed() {
    let mut fixture = Fixture::new("members", 4, &[]).await;
    let mut first = Job::new(&fixture).await;
    send(&mut fixture, 0..8).await;
    until(&mut [&mut first], 8).await;
    assert_eq!(first.partitions.len(), 4);
    first.commit().await;

    // A second one takes over half of them, from where the first one has committed.
    let mut second = Job::new(&fixture).await;
    let shared = async {
        loop {
            first.step().await;
            second.step().await;
            if second.partitions.len() == 2 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(90), shared).await.expect("they agree");
    send(&mut fixture, 8..24).await;
    until(&mut [&mut first, &mut second], 24).await;
    let of_second: Vec<i64> = second.rows.clone();
    assert_eq!(of_second.len(), 8, "{of_second:?}");
    let mut rows = [first.rows.as_slice(), &of_second].concat();
    rows.sort_unstable();
    assert_eq!(rows, (0..24).collect::<Vec<_>>(), "each was read once");

    // It leaves, and the first one goes on where it had come to.
    first.commit().await;
    second.commit().await;
    drop(second);
    send(&mut fixture, 24..32).await;
    let before = first.rows.len();
    until(&mut [&mut first], before + 8).await;
    let mut last = first.rows[before..].to_vec();
    last.sort_unstable();
    assert_eq!(last, (24..32).collect::<Vec<_>>());
    assert!(first.source.waits().is_empty(), "{:?}", first.source.waits());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_reads_partitions_that_are_new() {
    let mut fixture = Fixture::new("growing", 1, &[]).await;
    let mut job = Job::new(&fixture).await;
    fixture.send(0, &[(None, Some("{\"id\":0}"))], Compression::None).await;
    until(&mut [&mut job], 1).await;
    fixture.cluster.add_partitions(&fixture.topic, 2).await.expect("added");
    fixture.send(1, &[(None, Some("{\"id\":1}"))], Compression::None).await;
    until(&mut [&mut job], 2).await;
    assert_eq!(job.partitions.len(), 2);
}

#[test]
fn groups_are_named_and_divide_whole_topics() {
    for (options, message) in [
        (json!({"assignment": "group"}), "\"group\" names none"),
        (json!({"assignment": "group", "group": "g", "partitions": [0]}), "exclude each other"),
        (json!({"assignment": "group", "group": "g", "session_timeout": "1ms"}), "session_timeout"),
    ] {
        let error = KafkaOptions::read(&options, &serde_json::Map::new());
        let error = error.expect_err("it makes no sense");
        assert!(error.message().contains(message), "{error:?}");
    }
}
