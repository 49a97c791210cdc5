//! Fetching: one task for each broker that leads a partition, and one that watches over who leads what.
//!
//! A task asks for the next bytes as soon as it knows where they begin, which the headers of batches
//! say; the bytes themselves go to the workers as they came. Batches of aborted transactions are cut
//! out here, since only the broker's answer says which they are.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::error::{Error, Result, code};
use freshet_core::source::Position;
use freshet_core::stream::{Block, Fetcher, Partition, Start};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::client::{Connection, TopicPartition, refused, topic_name};
use super::group::{Membership, Share};
use super::options::{EndAt, OnLost};
use super::records::{BatchHeader, Damage};
use super::source::Shared;

/// Waits after failures: the first one, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often it is looked who leads what though nothing went wrong.
const REFRESH: Duration = Duration::from_secs(60);
/// The next offset of a partition of a group that was never read.
const UNREAD: i64 = -1;
/// Blocks that wait to be decoded; their bytes are bounded by `buffer_bytes`.
const QUEUE: usize = 1024;

/// Fetches some partitions.
#[derive(Debug)]
pub struct KafkaFetcher {
    crew: Arc<Crew>,
    blocks: mpsc::Receiver<Result<Block>>,
    watcher: JoinHandle<()>,
    /// Of the block that was given last: its bytes are room again once the next one is asked for.
    given: Option<(usize, usize)>,
}

/// What the tasks share.
#[derive(Debug)]
struct Crew {
    shared: Arc<Shared>,
    reads: Mutex<Vec<Read>>,
    blocks: mpsc::Sender<Result<Block>>,
    /// Rises when there is room again, or a partition more.
    room: watch::Sender<u64>,
    /// Rises when somebody has to look who leads what.
    trouble: watch::Sender<u64>,
    /// Rises when a partition came to its end.
    ended: watch::Sender<u64>,
}

/// Where reading a partition stands.
#[derive(Debug)]
struct Read {
    partition: TopicPartition,
    /// The next offset to ask for.
    next: i64,
    /// Bytes on their way to the workers.
    queued: usize,
    /// Who is asked for it.
    leader: Option<i32>,
    /// The topic's identity, once known.
    topic: Option<u128>,
    /// Where to begin anew, once a leader is known.
    restart: Option<Start>,
    /// Where reading ends, where it does.
    end: Option<i64>,
    /// All blocks up to there were handed over.
    ended: bool,
    /// Whether it is ours to read: those of a group may be others' for a while.
    ours: bool,
}

/// What was asked for: by topic and number the number here, and the offset.
type Asked = BTreeMap<(Arc<str>, i32), (usize, i64)>;

/// What became of a partition's part of an answer.
enum Fate {
    /// Blocks, and the next offset.
    Good(Vec<Block>, i64),
    /// It has to be looked who leads it.
    Astray(i16),
    /// The offset is gone.
    Lost,
    /// Nothing will heal this.
    Bad(Error),
}

impl KafkaFetcher {
    /// A fetcher without partitions.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (sender, blocks) = mpsc::channel(QUEUE);
        let crew = Arc::new(Crew {
            shared,
            reads: Mutex::default(),
            blocks: sender,
            room: watch::Sender::new(0),
            trouble: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        });
        let watcher = tokio::spawn(watch_over(Arc::clone(&crew)));
        Self { crew, blocks, watcher, given: None }
    }
}

impl Drop for KafkaFetcher {
    fn drop(&mut self) {
        // Those who fetch are its children and end with it.
        self.watcher.abort();
        let mut waits = self.crew.shared.waits.lock();
        for read in self.crew.reads.lock().iter() {
            waits.remove(&read.partition.to_string());
        }
    }
}

#[async_trait]
impl Fetcher for KafkaFetcher {
    async fn add(&mut self, partition: &Partition, start: Start) -> Result<Option<Position>> {
        let partition: TopicPartition = partition.0.parse()?;
        let shared = &self.crew.shared;
        let of_group = shared.membership().is_some();
        let next = match (of_group, start) {
            (false, start) => shared.first(&partition, start).await?,
            (true, Start::At(position)) => i64::try_from(position.0).unwrap_or(i64::MAX),
            (true, _) => UNREAD,
        };
        let end = match shared.options.end {
            EndAt::Never => None,
            EndAt::Latest => Some(shared.first(&partition, Start::Latest).await?),
        };
        self.crew.reads.lock().push(Read {
            partition,
            next,
            queued: 0,
            leader: None,
            topic: None,
            restart: None,
            end,
            ended: end.is_some_and(|end| next >= end),
            ours: !of_group,
        });
        raise(&self.crew.trouble);
        // Of what a group reads the offsets are known once it is ours.
        Ok(u64::try_from(next).ok().map(Position))
    }

    async fn fetch(&mut self) -> Result<Option<Block>> {
        if let Some((partition, bytes)) = self.given.take() {
            self.crew.give_back(partition, bytes);
        }
        let mut ended = self.crew.ended.subscribe();
        let received = loop {
            ended.borrow_and_update();
            if self.crew.has_ended() {
                // All that there is was handed over before it was said to be all.
                match self.blocks.try_recv() {
                    Ok(received) => break Some(received),
                    Err(_) => return Ok(None),
                }
            }
            tokio::select! {
                received = self.blocks.recv() => break received,
                // The crew holds the sender.
                _ = ended.changed() => {}
            }
        };
        match received {
            Some(Ok(block)) => {
                self.given = Some((block.partition, block.bytes.len()));
                Ok(Some(block))
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::internal("the tasks that fetch from kafka have ended")),
        }
    }
}

impl Read {
    /// Whether it should be read, and nobody is asked for it.
    fn is_astray(&self) -> bool {
        self.ours && self.leader.is_none()
    }
}

impl Crew {
    /// Reads what the group says is ours, and nothing else.
    fn take_share(&self, share: &Share) {
        let mut given_up = Vec::new();
        for read in self.reads.lock().iter_mut() {
            let ours = share.partitions.as_ref().is_some_and(|p| p.contains(&read.partition));
            match (read.ours, ours) {
                (true, false) => {
                    read.leader = None;
                    read.restart = None;
                    given_up.push(read.partition.clone());
                }
                (false, true) => {
                    read.restart = Some(match read.next {
                        UNREAD => Start::Configured,
                        next => Start::At(Position(next as u64)),
                    });
                }
                _ => {}
            }
            read.ours = ours;
        }
        for partition in given_up {
            tracing::info!(%partition, "partition went to another member of the group");
            self.go_on(&partition);
        }
    }

    fn limit(&self) -> usize {
        self.shared.options.buffer_bytes.as_usize()
    }

    /// Whether reading has an end and has come to it, in all partitions.
    fn has_ended(&self) -> bool {
        self.shared.options.end != EndAt::Never && self.reads.lock().iter().all(|read| read.ended)
    }

    /// A block was handed over.
    fn handed_over(&self, partition: usize, next: i64) {
        let read = &mut self.reads.lock()[partition];
        if !read.ended && read.end.is_some_and(|end| next >= end) {
            read.ended = true;
            raise(&self.ended);
        }
    }

    fn give_back(&self, partition: usize, bytes: usize) {
        let mut reads = self.reads.lock();
        let queued = &mut reads[partition].queued;
        let before = *queued;
        *queued -= bytes;
        let had_room = before < self.limit();
        if !had_room && *queued < self.limit() {
            raise(&self.room);
        }
    }

    /// Something is waited for, for as long as it was not heard to be over.
    fn wait(&self, partition: &TopicPartition, reason: &str) {
        let now = self.shared.clock.now_micros();
        let mut waits = self.shared.waits.lock();
        let entry = waits.entry(partition.to_string());
        let wait = entry.or_insert_with(|| {
            tracing::warn!(%partition, reason, "partition cannot be fetched");
            (String::new(), now)
        });
        reason.clone_into(&mut wait.0);
    }

    fn go_on(&self, partition: &TopicPartition) {
        let mut waits = self.shared.waits.lock();
        if !waits.is_empty() && waits.remove(&partition.to_string()).is_some() {
            tracing::info!(%partition, "partition is fetched again");
        }
    }

    /// All partitions of a broker are to be led by somebody else, or by it again.
    fn abandon(&self, broker: i32, error: &Error) {
        let reason = error.chain();
        for read in self.reads.lock().iter_mut().filter(|read| read.leader == Some(broker)) {
            read.leader = None;
            self.wait(&read.partition, &reason);
        }
        raise(&self.trouble);
    }

    /// What to ask a broker for; the partitions as they are numbered here, by topic and number.
    fn request(&self, broker: i32) -> Option<(FetchRequest, Asked)> {
        let mut asked = BTreeMap::new();
        let mut topics: BTreeMap<Arc<str>, Vec<FetchPartition>> = BTreeMap::new();
        let options = &self.shared.options;
        let fetch_bytes = i32::try_from(options.fetch_bytes.0).unwrap_or(i32::MAX);
        let mut reads = self.reads.lock();
        // Those that have little come first: a broker fills its answer in this order.
        let mut order: Vec<usize> = (0..reads.len())
            .filter(|&n| {
                let read = &reads[n];
                let has_more = read.end.is_none_or(|end| read.next < end);
                read.leader == Some(broker) && read.queued < self.limit() && has_more
            })
            .collect();
        order.sort_by_key(|&n| reads[n].queued);
        for number in order {
            let Read { partition: TopicPartition { topic, index }, next, .. } = &mut reads[number];
            asked.insert((Arc::clone(topic), *index), (number, *next));
            topics.entry(Arc::clone(topic)).or_default().push(
                FetchPartition::default()
                    .with_partition(*index)
                    .with_current_leader_epoch(-1)
                    .with_fetch_offset(*next)
                    .with_log_start_offset(-1)
                    .with_partition_max_bytes(fetch_bytes),
            );
        }
        if asked.is_empty() {
            return None;
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            FetchTopic::default().with_topic(topic_name(&topic)).with_partitions(partitions)
        });
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(options.fetch_wait.0.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(i32::try_from(options.max_response.0 / 2).unwrap_or(i32::MAX))
            .with_isolation_level(self.shared.isolation())
            // No session: with all partitions in each request there is none to keep in step.
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(topics.collect());
        Some((request, asked))
    }

    /// Enters how far a partition goes, as an answer says.
    fn learn(
        &self,
        partition: &TopicPartition,
        end: i64,
        next: i64,
        last: Option<&Block>,
        from: i64,
    ) {
        let mut ends = self.shared.ends.lock();
        let known = ends.entry(Partition(partition.to_string())).or_insert((from, 0));
        if let Some(block) = last {
            known.0 = i64::try_from(block.next.0).unwrap_or(i64::MAX);
        }
        known.1 = end.saturating_sub(next).max(0);
    }

    /// Enters an answer; the blocks in it.
    fn enter(&self, broker: i32, answer: FetchResponse, asked: &Asked) -> Result<Vec<Block>> {
        let mut given = Vec::new();
        let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
        // A broker that has anything to give does not answer with nothing, unless it slows us down.
        let silent = answer.throttle_time_ms == 0
            && partitions.all(|data| {
                data.error_code == 0 && data.records.as_ref().is_none_or(Bytes::is_empty)
            });
        for topic in answer.responses {
            let name: Arc<str> = topic.topic.0.as_str().into();
            for data in topic.partitions {
                let index = data.partition_index;
                let Some(&(number, from)) = asked.get(&(Arc::clone(&name), index)) else {
                    continue;
                };
                let partition = TopicPartition { topic: Arc::clone(&name), index };
                let end = self.reads.lock()[number].end.unwrap_or(i64::MAX);
                let known = match self.shared.isolation() {
                    0 => data.high_watermark,
                    _ => data.last_stable_offset,
                };
                let fate = fate(number, &partition, (from, end), data);
                let mut reads = self.reads.lock();
                let read = &mut reads[number];
                if read.next != from || !read.ours {
                    // It was given up, and maybe taken up elsewhere, while the answer was on its way.
                    continue;
                }
                match fate {
                    Fate::Good(mut blocks, mut next) => {
                        if silent && let Some(end) = read.end {
                            // What was in front of the end was compacted away.
                            blocks.push(empty(number, next, end));
                            next = end;
                        }
                        self.learn(&partition, known.min(end), next, blocks.last(), from);
                        read.next = next;
                        read.queued += blocks.iter().map(|block| block.bytes.len()).sum::<usize>();
                        given.extend(blocks);
                        drop(reads);
                        self.go_on(&partition);
                    }
                    Fate::Astray(error) => {
                        if read.leader == Some(broker) {
                            read.leader = None;
                        }
                        drop(reads);
                        let error = refused(error, || "could not fetch".to_owned());
                        self.wait(&partition, &error.chain());
                        raise(&self.trouble);
                    }
                    Fate::Lost => {
                        let start = match self.shared.options.on_lost {
                            OnLost::Fail => {
                                return Err(Error::new(
                                    code::SOURCE,
                                    format!("partition \"{partition}\" has no record at offset {from} any more"),
                                )
                                .hint("the topic's retention was faster than the job, or the topic was emptied: set `on_lost` to go on at the earliest or latest record, and lengthen the retention"));
                            }
                            OnLost::Earliest => Start::Earliest,
                            OnLost::Latest => Start::Latest,
                        };
                        read.leader = None;
                        read.restart = Some(start);
                        drop(reads);
                        tracing::error!(%partition, offset = from, "records were lost: retention was faster than the job");
                        raise(&self.trouble);
                    }
                    Fate::Bad(error) => return Err(error),
                }
            }
        }
        Ok(given)
    }
}

/// What became of a partition.
fn fate(
    number: usize,
    partition: &TopicPartition,
    (from, end): (i64, i64),
    data: PartitionData,
) -> Fate {
    if data.error_code != 0 {
        let error = ResponseError::try_from_code(data.error_code);
        return match error {
            Some(ResponseError::OffsetOutOfRange) => Fate::Lost,
            Some(error) if error.is_retriable() => Fate::Astray(data.error_code),
            // A broker in trouble says so.
            Some(ResponseError::UnknownServerError) => Fate::Astray(data.error_code),
            _ => Fate::Bad(refused(data.error_code, || {
                format!("could not read partition \"{partition}\"")
            })),
        };
    }
    let records = data.records.unwrap_or_default();
    match blocks(number, (from, end), &records, data.aborted_transactions.unwrap_or_default()) {
        Ok((blocks, next)) => Fate::Good(blocks, next),
        Err(damage) => Fate::Bad(
            Error::new(
                code::SOURCE,
                format!("could not read a batch of partition \"{partition}\" behind offset {from}"),
            )
            .caused_by(damage)
            .retryable(),
        ),
    }
}

/// The whole batches in `records` that begin in front of `end`, without those of aborted transactions, and the offset behind them.
///
/// Batches that follow each other stay together: a block ends where something was cut out.
fn blocks(
    partition: usize,
    (from, end): (i64, i64),
    records: &Bytes,
    mut aborted: Vec<AbortedTransaction>,
) -> Result<(Vec<Block>, i64), Damage> {
    // Latest first: those that begin next are taken from behind.
    aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut dead: HashSet<i64> = HashSet::new();
    let mut blocks: Vec<Block> = Vec::new();
    let (mut at, mut next) = (0, from);
    let mut run: Option<Run> = None;
    while let Some(header) = BatchHeader::parse(&records[at..])? {
        if header.base_offset >= end {
            break;
        }
        let batch = &records[at..at + header.length];
        let behind = header.next_offset();
        while aborted.last().is_some_and(|transaction| transaction.first_offset < behind) {
            dead.extend(aborted.pop().map(|transaction| transaction.producer_id.0));
        }
        let cut = if header.is_control() {
            // Checked here, since no worker will see it.
            if !header.is_sound(batch) {
                return Err(Damage("a mark of a transaction has a wrong checksum"));
            }
            if header.aborts(batch) {
                dead.remove(&header.producer_id);
            }
            true
        } else {
            header.is_transactional() && dead.contains(&header.producer_id)
        };
        // A batch may begin before what was asked for, never end before it.
        let position = next.max(header.base_offset.min(next));
        if cut {
            blocks.extend(run.take().map(|run| run.block(partition, records)));
        } else {
            let run = run.get_or_insert(Run { start: at, end: at, position, next, written: 0 });
            run.end = at + header.length;
            run.next = behind;
            run.written = run.written.max(header.max_timestamp);
        }
        at += header.length;
        next = next.max(behind);
    }
    match run.take() {
        Some(run) => blocks.push(run.block(partition, records)),
        // What was cut out at the end is behind us as well.
        None if next > blocks.last().map_or(from, |block| block.next.0 as i64) => {
            blocks.push(empty(partition, next, next));
        }
        None => {}
    }
    Ok((blocks, next))
}

/// A block without bytes, which only says where reading stands.
fn empty(partition: usize, position: i64, next: i64) -> Block {
    Block {
        partition,
        bytes: Bytes::new(),
        position: Position(position as u64),
        next: Position(next as u64),
        written: None,
    }
}

/// Batches that follow each other.
struct Run {
    start: usize,
    end: usize,
    position: i64,
    next: i64,
    written: i64,
}

impl Run {
    fn block(self, partition: usize, records: &Bytes) -> Block {
        Block {
            partition,
            bytes: records.slice(self.start..self.end),
            position: Position(self.position as u64),
            next: Position(self.next as u64),
            written: (self.written > 0).then_some(self.written.saturating_mul(1000)),
        }
    }
}

/// Looks who leads what, and keeps a task for each broker that leads anything.
async fn watch_over(crew: Arc<Crew>) {
    let mut brokers: BTreeMap<i32, JoinHandleGuard> = BTreeMap::new();
    let mut trouble = crew.trouble.subscribe();
    let mut share = crew.shared.membership().map(Membership::share);
    let mut backoff = BACKOFF.0;
    loop {
        trouble.borrow_and_update();
        if let Some(share) = &mut share {
            crew.take_share(&share.borrow_and_update());
        }
        match look(&crew).await {
            Ok(true) => backoff = BACKOFF.0,
            Ok(false) => backoff = (backoff * 2).min(BACKOFF.1),
            Err(Trouble::Passing(error)) => {
                let reason = error.chain();
                for read in crew.reads.lock().iter().filter(|read| read.is_astray()) {
                    crew.wait(&read.partition, &reason);
                }
                backoff = (backoff * 2).min(BACKOFF.1);
            }
            Err(Trouble::Lasting(error)) => {
                let _ = crew.blocks.send(Err(error)).await;
                return;
            }
        }
        let leaders: HashSet<i32> =
            crew.reads.lock().iter().filter_map(|read| read.leader).collect();
        brokers.retain(|_, task| !task.0.is_finished());
        for broker in leaders {
            brokers
                .entry(broker)
                .or_insert_with(|| JoinHandleGuard(tokio::spawn(serve(Arc::clone(&crew), broker))));
        }
        raise(&crew.room);
        let astray = crew.reads.lock().iter().any(Read::is_astray);
        let longest = if astray { backoff } else { REFRESH };
        let changed = async {
            match &mut share {
                Some(share) => drop(share.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(longest) => {}
            () = changed => {}
            // The watcher holds a sender itself.
            _ = trouble.changed(), if !astray => {}
        }
    }
}

/// Why it could not be looked who leads what.
enum Trouble {
    Passing(Error),
    Lasting(Error),
}

/// Finds the leaders; whether all partitions have one.
async fn look(crew: &Crew) -> Result<bool, Trouble> {
    let sort = |error: Error| match error.is_retryable() {
        true => Trouble::Passing(error),
        false => Trouble::Lasting(error),
    };
    let topics: HashSet<Arc<str>> = {
        let reads = crew.reads.lock();
        let ours = reads.iter().filter(|read| read.ours);
        ours.map(|read| Arc::clone(&read.partition.topic)).collect()
    };
    if topics.is_empty() {
        return Ok(true);
    }
    let metadata = crew.shared.cluster.metadata(topics.iter().map(AsRef::as_ref)).await;
    let metadata = metadata.map_err(sort)?;
    let mut restarts = Vec::new();
    let mut all = true;
    {
        let mut reads = crew.reads.lock();
        for (number, read) in reads.iter_mut().enumerate().filter(|(_, read)| read.ours) {
            let topic = metadata.topics.get(&*read.partition.topic);
            let (leader, reason) = match topic {
                Some(topic) if topic.error != 0 => {
                    let error = refused(topic.error, || "could not fetch".to_owned());
                    if !error.is_retryable() {
                        return Err(Trouble::Lasting(error));
                    }
                    (None, error.chain())
                }
                Some(topic) => {
                    if topic.id != 0 && *read.topic.get_or_insert(topic.id) != topic.id {
                        return Err(Trouble::Lasting(
                            Error::new(
                                code::SOURCE,
                                format!("topic \"{}\" was deleted and made again", read.partition.topic),
                            )
                            .hint("positions in it mean nothing any more: start the job anew, without its checkpoint"),
                        ));
                    }
                    let leader = topic.leaders.get(&read.partition.index).copied().flatten();
                    (leader, "the partition has no leader".to_owned())
                }
                None => (None, "kafka says nothing of the topic".to_owned()),
            };
            match (leader, read.restart) {
                (Some(_), Some(start)) => {
                    restarts.push((number, read.partition.clone(), start, leader))
                }
                (Some(_), None) => read.leader = leader,
                (None, _) => {
                    read.leader = None;
                    all = false;
                    crew.wait(&read.partition, &reason);
                }
            }
        }
    }
    for (number, partition, start, leader) in restarts {
        let first = match crew.shared.membership() {
            Some(membership) => {
                crew.shared.first_of_group(membership, &partition, start).await.map_err(sort)?
            }
            None => crew.shared.first(&partition, start).await.map_err(sort)?,
        };
        let read = &mut crew.reads.lock()[number];
        // It may have gone to another member meanwhile.
        if read.ours {
            (read.next, read.leader, read.restart) = (first, leader, None);
        }
        if read.end.is_some_and(|end| first >= end) {
            read.ended = true;
            raise(&crew.ended);
        }
    }
    Ok(all)
}

/// A task that ends with whoever holds it.
struct JoinHandleGuard(JoinHandle<()>);

impl Drop for JoinHandleGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Fetches from one broker for as long as it answers and leads anything.
async fn serve(crew: Arc<Crew>, broker: i32) {
    let served = async {
        let mut connection = crew.shared.cluster.connect(broker).await?;
        fetch_from(&crew, broker, &mut connection).await
    };
    match served.await {
        Ok(()) => {}
        Err(error) if error.is_retryable() => crew.abandon(broker, &error),
        Err(error) => {
            // Nobody listens where the fetcher was dropped.
            let _ = crew.blocks.send(Err(error)).await;
        }
    }
}

async fn fetch_from(crew: &Crew, broker: i32, connection: &mut Connection) -> Result<()> {
    let mut room = crew.room.subscribe();
    let options = &crew.shared.cluster.options;
    let timeout = options.request_timeout + crew.shared.options.fetch_wait.0;
    let mut ready: Vec<Block> = Vec::new();
    loop {
        room.borrow_and_update();
        let request = crew.request(broker);
        let Some((request, asked)) = request else {
            hand_over(crew, &mut ready).await?;
            // Without a partition to read the connection is kept: one may come back.
            if room.changed().await.is_err() {
                return Ok(());
            }
            continue;
        };
        // Up to 12 topics go by their names.
        let sent = connection.send(&request, 12).await?;
        // While the broker works, the workers get what came last.
        hand_over(crew, &mut ready).await?;
        let answer = tokio::time::timeout(timeout, connection.receive::<FetchRequest>(sent)).await;
        let answer = answer.map_err(|_| connection.silent(timeout))??;
        if answer.error_code != 0 {
            return Err(refused(answer.error_code, || {
                format!("could not fetch from kafka broker \"{}\"", connection.address())
            }));
        }
        ready = crew.enter(broker, answer, &asked)?;
    }
}

async fn hand_over(crew: &Crew, ready: &mut Vec<Block>) -> Result<()> {
    for block in ready.drain(..) {
        let (partition, next) = (block.partition, block.next.0 as i64);
        if crew.blocks.send(Ok(block)).await.is_err() {
            return Err(Error::internal("nobody fetches any more"));
        }
        crew.handed_over(partition, next);
    }
    Ok(())
}

fn raise(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count += 1);
}
