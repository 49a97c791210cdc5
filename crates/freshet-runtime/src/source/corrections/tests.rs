//! Corrections that come at any time, before and behind the records that they are of, while a job is
//! cut, killed and restored with other tasks: each counts once.

use arrow::array::{AsArray, RecordBatch, StringArray};
use async_trait::async_trait;
use freshet_core::record::{Reject, Rule};
use freshet_core::stream::Fetcher;
use proptest::prelude::*;

use super::super::stream::tests::{NoWake, feed_of};
use super::super::stream::{StreamFeed, owner};
use super::super::{Fed, Feed};
use super::*;

/// A record is text; it is bad where it begins with a `b`, and comes to nothing where it is `-`.
#[derive(Debug)]
struct Texts;

struct Decoder;

impl BlockDecoder for Decoder {
    fn decode(&mut self, block: &Block, out: &mut Decoded) -> Result<Decoding> {
        out.records += 1;
        let text = std::str::from_utf8(&block.bytes).expect("text");
        if text.starts_with('b') {
            out.rejects.push(Reject {
                offset: block.position.0,
                line: 1,
                rule: Rule::Syntax,
                column: None,
                message: "it is bad".into(),
                raw: text.as_bytes().into(),
            });
        } else {
            out.good += 1;
            let column: arrow::array::ArrayRef = Arc::new(StringArray::from(vec![text]));
            out.batches.push(RecordBatch::try_from_iter([("text", column)]).expect("a column"));
        }
        Ok(Decoding::Done)
    }
}

#[async_trait]
impl StreamSource for Texts {
    fn schema(&self) -> arrow::datatypes::SchemaRef {
        unreachable!("nobody asks")
    }

    async fn partitions(&self) -> Result<Vec<Partition>> {
        unreachable!("nobody asks")
    }

    async fn fetcher(&self) -> Result<Box<dyn Fetcher>> {
        unreachable!("nobody asks")
    }

    fn decoder(&self, _projection: &[usize]) -> Result<Box<dyn BlockDecoder>> {
        Ok(Box::new(Decoder))
    }

    fn block_of(
        &self,
        _partition: &Partition,
        _position: Position,
        record: &[u8],
        _at: i64,
    ) -> Result<Option<Bytes>> {
        Ok(Some(Bytes::copy_from_slice(record)))
    }
}

/// What users gave.
#[derive(Debug, Default)]
struct Given(Mutex<Vec<StreamCorrection>>);

#[async_trait]
impl StreamCorrections for Given {
    async fn since(&self, after: u64) -> Result<Vec<StreamCorrection>> {
        let given = self.0.lock();
        Ok(given.iter().filter(|correction| correction.sequence > after).cloned().collect())
    }
}

/// Says which task reads a partition.
type Owner = Box<dyn Fn(&Partition) -> usize>;

/// One life of a job.
struct Life {
    feeds: Vec<StreamFeed>,
    dealer: Dealer<Owner>,
}

const PARTITIONS: usize = 3;

fn partition(number: usize) -> Partition {
    Partition(format!("p/{number}"))
}

/// The record at a place: each third is bad.
fn record(number: usize, position: u64) -> String {
    let kind = if position % 3 == 1 { "b" } else { "g" };
    format!("{kind}{number}:{position}")
}

impl Life {
    fn begin(
        tasks: usize,
        given: &Arc<Given>,
        records: u64,
        restored: &BTreeMap<String, Position>,
    ) -> Self {
        let source: Arc<dyn StreamSource> = Arc::new(Texts);
        let wake: Arc<dyn Wake> = Arc::new(NoWake);
        let inboxes: Vec<Arc<Inbox>> = (0..tasks).map(|_| Inbox::new(&wake)).collect();
        let mut dealer = Dealer {
            corrections: Arc::clone(given) as Arc<dyn StreamCorrections>,
            inboxes: inboxes.iter().map(Arc::downgrade).collect(),
            owner: Box::new(move |partition: &Partition| owner(&partition.0, tasks)) as Owner,
            last: 0,
        };
        futures::executor::block_on(dealer.look()).expect("it looks");
        let feed = |(task, inbox): (usize, Arc<Inbox>)| {
            let own = (0..PARTITIONS).filter(|n| owner(&partition(*n).0, tasks) == task);
            let own: Vec<usize> = own.collect();
            let mut blocks = Vec::new();
            let mut partitions = Vec::new();
            for (place, number) in own.iter().enumerate() {
                let name = partition(*number);
                let known = restored.get(&name.0).copied();
                partitions.push((name, known));
                for position in known.map_or(0, |known| known.0)..records {
                    blocks.push(Block {
                        partition: place,
                        bytes: record(*number, position).into(),
                        position: Position(position),
                        next: Position(position + 1),
                        written: None,
                    });
                }
            }
            // Partitions take turns.
            blocks.sort_by_key(|block| block.position);
            let corrected = Corrected::new(&source, &[], inbox, restored, dealer.last);
            feed_of(partitions, blocks, Box::new(Decoder), corrected.expect("it begins"))
        };
        let feeds = inboxes.into_iter().enumerate().map(feed).collect();
        Self { feeds, dealer }
    }

    fn positions(&self) -> BTreeMap<String, Position> {
        let all = self.feeds.iter().flat_map(|feed| feed.positions());
        let mut positions = BTreeMap::new();
        for SplitPosition { split, position } in all {
            assert_eq!(positions.insert(split, position), None, "each is told by one task");
        }
        positions
    }

    /// What a task gives next; nothing where it has nothing.
    fn step(&mut self, task: usize, rows: &mut Vec<String>) -> bool {
        let task = task % self.feeds.len();
        let Fed::Rows { rows: given, .. } = self.feeds[task].next(0).expect("it reads") else {
            return false;
        };
        for batch in &given {
            let texts = batch.batch().column(0).as_string::<i32>();
            rows.extend(texts.iter().map(|text| text.expect("a text").to_owned()));
        }
        true
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// Some tasks read on.
    Step(Vec<usize>),
    /// A record is corrected.
    Correct(usize, u64),
    /// Who runs looks for corrections.
    Look,
    Checkpoint,
    Kill(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => proptest::collection::vec(0usize..4, 1..12).prop_map(Act::Step),
        4 => (0..PARTITIONS, 0u64..20).prop_map(|(p, n)| Act::Correct(p, n)),
        3 => Just(Act::Look),
        3 => Just(Act::Checkpoint),
        1 => (1usize..4).prop_map(Act::Kill),
    ]
}

proptest! {
    #[test]
    fn every_correction_counts_once(acts in proptest::collection::vec(act(), 1..80)) {
        const RECORDS: u64 = 20;
        let given = Arc::new(Given::default());
        let mut life = Life::begin(2, &given, RECORDS, &BTreeMap::new());
        let (mut rows, mut kept) = (Vec::new(), (0, BTreeMap::new()));
        let mut expected: Vec<String> = Vec::new();
        for act in acts {
            match act {
                Act::Step(tasks) => tasks.into_iter().for_each(|task| {
                    life.step(task, &mut rows);
                }),
                Act::Correct(number, position) => {
                    let mut given = given.0.lock();
                    let known = given.iter().any(|other| {
                        (&other.partition, other.position.0) == (&partition(number), position)
                    });
                    // Only bad records are corrected, and once.
                    if position % 3 == 1 && !known {
                        let sequence = given.len() as u64 + 1;
                        let drops = position % 2 == 0;
                        let record = if drops { String::new() } else { format!("c{number}:{position}") };
                        if !drops {
                            expected.push(record.clone());
                        }
                        given.push(StreamCorrection {
                            sequence,
                            partition: partition(number),
                            position: Position(position),
                            record: record.into(),
                            at: 0,
                        });
                    }
                }
                Act::Look => futures::executor::block_on(life.dealer.look()).expect("it looks"),
                Act::Checkpoint => {
                    // A manifest keeps what nobody told anew.
                    kept.0 = rows.len();
                    kept.1.extend(life.positions());
                }
                Act::Kill(tasks) => {
                    rows.truncate(kept.0);
                    life = Life::begin(tasks, &given, RECORDS, &kept.1);
                }
            }
        }
        futures::executor::block_on(life.dealer.look()).expect("it looks");
        for task in 0..life.feeds.len() {
            while life.step(task, &mut rows) {}
        }
        for number in 0..PARTITIONS {
            expected.extend((0..RECORDS).filter(|n| n % 3 != 1).map(|n| record(number, n)));
        }
        expected.sort_unstable();
        rows.sort_unstable();
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn a_correction_that_was_rejected_counts_no_more_once_there_is_another() {
    let given = Arc::new(Given::default());
    let correct = |record: &str| {
        let mut given = given.0.lock();
        let sequence = given.len() as u64 + 1;
        given.push(StreamCorrection {
            sequence,
            partition: partition(0),
            position: Position(1),
            record: record.to_owned().into(),
            at: 0,
        });
    };
    let mut rows = Vec::new();
    let mut life = Life::begin(1, &given, 3, &BTreeMap::new());
    while life.step(0, &mut rows) {}
    let restored = life.positions();
    let before = rows.clone();
    correct("first");
    correct("second");
    // The first one may be good by now: what counts is the last.
    for _ in 0..2 {
        let mut life = Life::begin(1, &given, 3, &restored);
        let mut rows = before.clone();
        while life.step(0, &mut rows) {}
        assert_eq!(rows[before.len()..], ["second"]);
    }
    let mut rows = Vec::new();
    let mut life = Life::begin(1, &given, 3, &BTreeMap::new());
    while life.step(0, &mut rows) {}
    assert_eq!(rows.iter().filter(|row| !row.starts_with('g')).collect::<Vec<_>>(), ["second"]);
}
