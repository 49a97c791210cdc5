//! Decoders that cannot go on yet, and who reads which partition.

use bytes::Bytes;
use freshet_core::stream::EventTime;

use super::*;

/// Waits as often as it is told, then gives nothing but its position.
struct Slow(u32);

impl BlockDecoder for Slow {
    fn decode(&mut self, _block: &Block, out: &mut Decoded) -> Result<Decoding> {
        // Of no use where it waits.
        out.records = 1;
        if self.0 > 0 {
            self.0 -= 1;
            return Ok(Decoding::Waits);
        }
        out.filtered = 1;
        Ok(Decoding::Done)
    }
}

#[derive(Debug)]
pub(in crate::source) struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// A feed that has these blocks, and corrections.
pub(in crate::source) fn feed_of(
    partitions: Vec<(Partition, Option<Position>)>,
    blocks: Vec<Block>,
    decoder: Box<dyn BlockDecoder>,
    corrected: Corrected,
) -> StreamFeed {
    let bytes = blocks.iter().map(|block| block.bytes.len()).sum();
    let state = State { partitions, blocks: blocks.into(), bytes, ..State::default() };
    StreamFeed {
        ends: Box::new(BTreeMap::new),
        shared: Arc::new(Shared { state: Mutex::new(state), wake: Arc::new(NoWake) }),
        decoder,
        splits: Vec::new(),
        held: None,
        corrected: Some(corrected),
        watch: None,
        tells: false,
    }
}

fn feed(waits: u32, blocks: &[u64], ends: u64) -> StreamFeed {
    let mut state = State::default();
    state.partitions.push((Partition("p".into()), Some(Position(0))));
    for position in blocks {
        state.blocks.push_back(Block {
            partition: 0,
            bytes: Bytes::new(),
            position: Position(*position),
            next: Position(position + 1),
            written: Some(EventTime::MIN.0),
        });
    }
    let ends = move || BTreeMap::from([(Partition("p".into()), Position(ends))]);
    StreamFeed {
        ends: Box::new(ends),
        shared: Arc::new(Shared { state: Mutex::new(state), wake: Arc::new(NoWake) }),
        decoder: Box::new(Slow(waits)),
        splits: Vec::new(),
        held: None,
        corrected: None,
        watch: None,
        tells: false,
    }
}

#[test]
fn a_block_that_cannot_be_decoded_yet_is_tried_again_and_none_overtakes_it() {
    let mut feed = feed(8, &[0, 1], 2);
    let mut now = 0;
    let mut tries = Vec::new();
    let position = |feed: &StreamFeed| feed.positions().first().map(|split| split.position.0);
    loop {
        match feed.next(now).expect("no error") {
            Fed::Rows { .. } => break,
            Fed::Nothing => {}
            Fed::End => panic!("it does not end"),
        }
        assert_eq!(position(&feed), Some(0), "what was not decoded was not read");
        let again = feed.deadline().expect("it is tried again");
        // Before that nothing happens, though there is another block.
        assert!(matches!(feed.next(again - 1), Ok(Fed::Nothing)));
        tries.push(again - now);
        now = again;
    }
    assert_eq!(tries, [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 200_000, 200_000]);
    assert_eq!((position(&feed), feed.deadline()), (Some(1), None));
    assert!(matches!(feed.next(now), Ok(Fed::Rows { .. })));
    assert_eq!(position(&feed), Some(2));
}

#[test]
fn a_split_is_behind_until_it_was_read_to_its_end() {
    let mut feed = feed(1, &[0], 2);
    assert!(feed.has_backlog(0), "a block was fetched");
    assert!(matches!(feed.next(0), Ok(Fed::Nothing)));
    assert!(feed.has_backlog(0), "a block is held");
    let again = feed.deadline().expect("it is tried again");
    assert!(matches!(feed.next(again), Ok(Fed::Rows { .. })));
    assert!(feed.has_backlog(0), "there is a record that was not fetched");
    feed.ends = Box::new(|| BTreeMap::from([(Partition("p".into()), Position(1))]));
    assert!(!feed.has_backlog(0));
    feed.ends = Box::new(BTreeMap::new);
    assert!(!feed.has_backlog(0), "nothing is known");
}

#[test]
fn numbered_partitions_are_dealt_out_in_turn() {
    for (partitions, tasks) in [(4, 2), (2, 2), (7, 3), (3, 8)] {
        let mut counts = vec![0; tasks];
        for number in 0..partitions {
            counts[owner(&format!("orders/{number}"), tasks)] += 1;
        }
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{counts:?}");
    }
    assert!(owner("", 3) < 3 && owner("99999999999999999999999", 3) < 3);
}
