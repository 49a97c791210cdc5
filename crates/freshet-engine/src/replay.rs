//! Replaying dead letters: corrections of files go into the overlay, and the next run reads them as
//! records that are new; those of streams are read by the jobs, which look for them.

use std::collections::BTreeMap;

use freshet_core::error::code;
use freshet_core::source::Position;
use freshet_core::stream::Partition;
use freshet_core::{Error, Result, SourceId};
use futures::future::BoxFuture;

use crate::corrections::{NewCorrection as NewStreamCorrection, SourceCorrections};
use crate::engine::Engine;
use crate::overlay::{self, Given, NewCorrection};
use crate::report::DeadLetter;

/// A dead letter and what is to be read in its place.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The letter.
    pub letter: DeadLetter,
    /// The corrected record; the raw bytes again where the contract was mended; empty to drop it.
    pub bytes: Vec<u8>,
}

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Corrections that were not there before.
    pub added: usize,
    /// Corrections that were there already, to the byte.
    pub known: usize,
    /// The sources that have new ones: the models that read them are to be run.
    pub sources: Vec<SourceId>,
    /// The streams that have new ones: jobs that run read them within seconds.
    pub streams: Vec<SourceId>,
}

impl Engine {
    /// Keeps corrections beside the lake. They hold for every later reading of the same content.
    ///
    /// A record whose correction a table may hold already cannot be corrected differently: the
    /// table would hold it twice. One whose correction was itself rejected can. That it was is told
    /// by a dead letter that is younger than the correction, so that nobody may build while
    /// corrections are kept: the caller holds the environment's lock.
    pub fn replay<'a>(&'a self, replays: Vec<Replay>) -> BoxFuture<'a, Result<Replayed>> {
        Box::pin(async move {
            let mut by_source: BTreeMap<SourceId, Vec<Replay>> = BTreeMap::new();
            for replay in replays {
                let source = SourceId::new(replay.letter.source.clone());
                self.source_table(&source).map_err(|_| {
                    Error::new(
                    code::DEAD_LETTER,
                    format!("dead letter \"{}\" is of no source", replay.letter.id),
                )
                .hint("rows that a check took out are replayed by mending the model and running it")
                })?;
                by_source.entry(source).or_default().push(replay);
            }
            let mut outcome = Replayed::default();
            for (source, replays) in by_source {
                if self.is_only_streamed(self.source_table(&source)?)? {
                    self.replay_stream(source, replays, &mut outcome).await?;
                    continue;
                }
                let known = overlay::given(self.lake().store(), &source).await?;
                let given = replays.len();
                let mut corrections = Vec::with_capacity(given);
                for Replay { letter, bytes } in replays {
                    let (Some(digest), Some(offset), Some(size)) =
                        (letter.digest.clone(), letter.offset, letter.size)
                    else {
                        return Err(Error::new(
                            code::DEAD_LETTER,
                            format!(
                                "dead letter \"{}\" does not say where its record lies",
                                letter.id
                            ),
                        )
                        .hint("mend the file itself and run with `on_changed: reload`"));
                    };
                    let earlier = known.get(&(digest.clone(), offset));
                    let again = is_again(earlier, &letter, &bytes)?;
                    corrections.push(NewCorrection { digest, size, offset, bytes, again });
                }
                let at = self.clock().now();
                let added = overlay::add(self.lake().store(), &source, at, corrections).await?;
                outcome.added += added;
                outcome.known += given - added;
                if added > 0 {
                    outcome.sources.push(source);
                }
            }
            Ok(outcome)
        })
    }

    /// Keeps corrections of a stream.
    async fn replay_stream(
        &self,
        source: SourceId,
        replays: Vec<Replay>,
        outcome: &mut Replayed,
    ) -> Result<()> {
        let stream = self.stream_source(self.source_table(&source)?)?;
        let corrections = SourceCorrections::new(self.lake().store(), &source);
        let (known, files) = corrections.given().await?;
        let (at, mut fresh) = (self.clock().now(), Vec::new());
        for Replay { letter, bytes } in replays {
            let (Some(partition), Some(position)) = (letter.file.clone(), letter.offset) else {
                return Err(Error::new(
                    code::DEAD_LETTER,
                    format!("dead letter \"{}\" does not say where its record lies", letter.id),
                ));
            };
            let place = (Partition(partition.clone()), Position(position));
            let block = stream.block_of(&place.0, place.1, &bytes, at.timestamp_micros())?;
            if block.is_none() && !bytes.is_empty() {
                return Err(Error::new(
                    code::DEAD_LETTER,
                    format!("records of source \"{source}\" cannot be replayed"),
                ));
            }
            let earlier = known.get(&(partition.clone(), position));
            let again = is_again(earlier, &letter, &bytes)?;
            if earlier.is_some_and(|old| old.bytes == bytes) && !again {
                outcome.known += 1;
            } else {
                fresh.push(NewStreamCorrection { partition, position, bytes });
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        outcome.added += fresh.len();
        corrections.add(files, at, fresh).await?;
        outcome.streams.push(source);
        Ok(())
    }
}

/// Whether an earlier correction of a letter's record was rejected, so that the record may be corrected
/// anew. An error where it was not and is another one: tables may hold it.
fn is_again(earlier: Option<&Given>, letter: &DeadLetter, bytes: &[u8]) -> Result<bool> {
    let again = earlier.is_some_and(|old| match old.at {
        Some(_) => old.is_rejected_by(&letter.raw, letter.at),
        None => old.bytes == letter.raw && old.bytes != bytes,
    });
    if earlier.is_some_and(|old| old.bytes != bytes) && !again {
        return Err(Error::new(
            code::DEAD_LETTER,
            format!("record \"{}\" was corrected before, and differently", letter.id),
        )
        .hint("its tables may hold the earlier correction; amend the row in a model instead"));
    }
    Ok(again)
}
