//! Which instance gets which row.

use std::ops::Range;

use freshet_core::Result;

use crate::keys::KeyEncoder;
use crate::state::KeyGroups;
use freshet_core::rows::Rows;

/// How the rows of one stage are divided among the instances of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitioning {
    /// Instance `n` sends to instance `n`.
    Forward,
    /// By the values of these columns: equal keys go to the same instance.
    Hash(Vec<usize>),
    /// All instances get all rows.
    Broadcast,
    /// All rows go to the first instance.
    Single,
}

/// The instances, of `targets`, that instance `own` sends to.
pub fn reach(partitioning: &Partitioning, own: usize, targets: usize) -> Range<usize> {
    match partitioning {
        Partitioning::Single => 0..1,
        Partitioning::Forward if targets > 1 => own..own + 1,
        _ => 0..targets,
    }
}

/// Divides rows among instances.
#[derive(Debug)]
pub struct Partitioner {
    rule: Rule,
    reach: Range<usize>,
    /// Row numbers for each target; kept for their memory.
    chosen: Vec<Vec<u32>>,
}

#[derive(Debug)]
enum Rule {
    One,
    Broadcast,
    Hash(KeyEncoder, KeyGroups),
}

impl Partitioner {
    /// A partitioner in instance `own`, sending to `targets` instances rows of this schema.
    pub fn new(
        partitioning: &Partitioning,
        own: usize,
        targets: usize,
        groups: KeyGroups,
        schema: &arrow::datatypes::Schema,
    ) -> Result<Self> {
        let reach = reach(partitioning, own, targets);
        let rule = match partitioning {
            _ if reach.len() == 1 => Rule::One,
            Partitioning::Hash(columns) => Rule::Hash(KeyEncoder::new(schema, columns)?, groups),
            _ => Rule::Broadcast,
        };
        Ok(Self { rule, chosen: vec![Vec::new(); reach.len()], reach })
    }

    /// The instances that this one sends to.
    pub fn reaches(&self) -> Range<usize> {
        self.reach.clone()
    }

    /// Calls `send` with the place in [`Self::reaches`] of each instance that gets any of the rows,
    /// and with those rows in their order.
    pub fn divide(&mut self, rows: Rows, mut send: impl FnMut(usize, Rows)) -> Result<()> {
        match &mut self.rule {
            Rule::One => send(0, rows),
            Rule::Broadcast => {
                for target in 0..self.chosen.len() {
                    send(target, rows.clone());
                }
            }
            Rule::Hash(encoder, groups) => {
                let keys = encoder.encode(rows.batch())?;
                for chosen in &mut self.chosen {
                    chosen.clear();
                }
                let targets = self.chosen.len();
                let owner = |hash: u64| groups.owner(groups.group(hash), targets);
                for (row, hash) in keys.hashes().iter().enumerate() {
                    self.chosen[owner(*hash)].push(row as u32);
                }
                // An update that changes the key leaves one instance and comes to another.
                let rows = match rows.kinds() {
                    Some(_) => rows.torn(|row| owner(keys.hashes()[row])),
                    None => rows,
                };
                for (target, chosen) in self.chosen.iter().enumerate() {
                    if chosen.len() == rows.len() {
                        send(target, rows);
                        return Ok(());
                    }
                    if !chosen.is_empty() {
                        send(target, rows.take(chosen)?);
                    }
                }
            }
        }
        Ok(())
    }
}
