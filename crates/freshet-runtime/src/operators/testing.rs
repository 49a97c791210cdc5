//! Instances of one operator under a test: rows divided among them by key, checkpoints that are
//! drained in pieces while rows come, and restores at another parallelism.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use freshet_core::Result;
use freshet_core::clock::ManualClock;
use freshet_core::rows::Rows;
use freshet_core::stream::EventTime;

use crate::exchange::{Partitioner, Partitioning};
use crate::operator::{Chain, Flow, OperatorContext, OperatorSpec, Port, Tail};
use crate::state::{Delta, Entry, KeyGroup, KeyGroups, SpillOptions};

/// Entries of a checkpoint: by group, table and key, when they expire and what they hold.
type Entries = BTreeMap<(u16, u8, Vec<u8>), (i64, Vec<u8>)>;

/// Rows that operators gave, by port.
#[derive(Debug, Default, Clone)]
pub(crate) struct Given(pub(crate) Vec<(Port, Rows)>);

impl Tail for Given {
    fn rows(&mut self, _from: usize, port: Port, rows: Rows) -> Result<()> {
        self.0.push((port, rows));
        Ok(())
    }
}

/// Some instances of one operator.
pub(crate) struct Cluster {
    spec: Arc<dyn OperatorSpec>,
    groups: KeyGroups,
    /// By input, its columns and those that divide it.
    inputs: Vec<(SchemaRef, Vec<usize>)>,
    partitioners: Vec<Partitioner>,
    instances: Vec<Chain>,
    /// What was given so far.
    pub(crate) given: Given,
    pub(crate) clock: Arc<ManualClock>,
    /// For instances that are made from now on.
    pub(crate) spill: Option<SpillOptions>,
    /// The last whole checkpoint.
    entries: Entries,
    /// What the one that is being made has so far, by instance, and whether that is all.
    deltas: Vec<(Delta, bool)>,
}

impl Cluster {
    pub(crate) fn new(
        spec: Arc<dyn OperatorSpec>,
        groups: KeyGroups,
        inputs: Vec<(SchemaRef, Vec<usize>)>,
        instances: usize,
    ) -> Self {
        let mut cluster = Self {
            spec,
            groups,
            inputs,
            partitioners: Vec::new(),
            instances: Vec::new(),
            given: Given::default(),
            clock: Arc::new(ManualClock::new(1_790_000_000_000_000)),
            spill: None,
            entries: Entries::new(),
            deltas: Vec::new(),
        };
        cluster.restore(instances, EventTime::MIN);
        cluster
    }

    pub(crate) fn push(&mut self, input: usize, rows: Rows) {
        let Self { partitioners, instances, given, .. } = self;
        partitioners[input]
            .divide(rows, |target, rows| {
                let chain = &mut instances[target];
                let mut flow = chain.on_rows(input, rows, given).expect("it takes rows");
                while flow == Flow::More {
                    flow = chain.resume(given).expect("it goes on");
                }
            })
            .expect("rows are divided");
    }

    /// Gives the watermarks that instances hand on: all the same, or the least.
    pub(crate) fn watermark(&mut self, watermark: i64) -> EventTime {
        let given = &mut self.given;
        let watermarks = self
            .instances
            .iter_mut()
            .map(|chain| chain.on_watermark(EventTime(watermark), given).expect("time goes on"));
        watermarks.min().expect("there are instances")
    }

    pub(crate) fn flush(&mut self) {
        for chain in &mut self.instances {
            chain.flush(&mut self.given).expect("it gives");
        }
    }

    /// Calls operators whose time of day has come.
    pub(crate) fn tick(&mut self) {
        use freshet_core::clock::Clock;
        let now = self.clock.now_micros();
        for chain in &mut self.instances {
            chain.on_time(now, &mut self.given).expect("it goes on");
        }
    }

    /// Cuts a checkpoint; the one before is drained first.
    pub(crate) fn cut(&mut self) {
        while !self.drain(1 << 20) {}
        self.flush();
        for chain in &mut self.instances {
            chain.freeze();
        }
        self.deltas = self.instances.iter().map(|_| (Delta::default(), false)).collect();
    }

    /// Drains a piece of it; `true` once there is nothing left, and it is the last whole one.
    pub(crate) fn drain(&mut self, bytes: usize) -> bool {
        for (chain, (delta, done)) in self.instances.iter_mut().zip(&mut self.deltas) {
            if !*done {
                let mut deltas = [std::mem::take(delta)];
                *done = chain.drain(bytes, &mut deltas).expect("it drains") == Flow::Done;
                [*delta] = deltas;
                if !*done {
                    return false;
                }
            }
        }
        for (mut delta, _) in std::mem::take(&mut self.deltas) {
            for (entry, removed) in delta.sorted() {
                let key = (entry.group.0, entry.table, entry.key.to_vec());
                match removed {
                    true => self.entries.remove(&key),
                    false => self.entries.insert(key, (entry.expires.0, entry.value.to_vec())),
                };
            }
            for (table, floor) in delta.floors() {
                self.entries.retain(|(_, of, _), (expires, _)| of != table || *expires > floor.0);
            }
        }
        true
    }

    /// How many entries the last whole checkpoint has.
    pub(crate) fn checkpoint_len(&self) -> usize {
        self.entries.len()
    }

    /// The state in memory, of all instances: bytes and keys.
    pub(crate) fn size(&self) -> (u64, u64) {
        let figures = self.instances.iter().flat_map(Chain::figures);
        figures.fold((0, 0), |(bytes, keys), (_, _, size)| (bytes + size.bytes, keys + size.keys))
    }

    /// All instances are gone; others begin where the last whole checkpoint was cut.
    pub(crate) fn restore(&mut self, instances: usize, watermark: EventTime) {
        self.deltas.clear();
        let divide = |(schema, columns): &(SchemaRef, Vec<usize>)| {
            let partitioning = Partitioning::Hash(columns.clone());
            Partitioner::new(&partitioning, 0, instances, self.groups, schema)
                .expect("columns that can be keys")
        };
        self.partitioners = self.inputs.iter().map(divide).collect();
        self.instances = (0..instances)
            .map(|index| {
                let groups = self.groups.range(index, instances);
                let clock = Arc::clone(&self.clock) as Arc<_>;
                let context =
                    OperatorContext { clock, groups, watermark, spill: self.spill.clone() };
                let operator = self.spec.create(&context).expect("it can be made");
                let mut chain = Chain::new(vec![operator]);
                let entries = self
                    .entries
                    .iter()
                    .filter(|((group, ..), _)| groups.contains(KeyGroup(*group)));
                let entries: Vec<Entry<'_>> = entries
                    .map(|((group, table, key), (expires, value))| Entry {
                        group: KeyGroup(*group),
                        table: *table,
                        key,
                        expires: EventTime(*expires),
                        value,
                    })
                    .collect();
                for entries in entries.chunks(3) {
                    chain.load(0, entries).expect("its own entries");
                }
                chain
            })
            .collect();
    }
}

/// Rows as lines.
pub(crate) fn lines(rows: &Rows) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<_> = rows
        .batch()
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that is shown"))
        .collect();
    let line = |row: usize| {
        let fields: Vec<_> = columns.iter().map(|column| column.value(row).to_string()).collect();
        fields.join(",")
    };
    (0..rows.len()).map(line).collect()
}

/// The table that changes of one port come to: rows with how often they are there. Every change is
/// one that a reader can apply: nothing is taken away that is not there, and the two rows of an
/// update stand together.
pub(crate) fn fold(given: &Given, port: Port) -> Result<BTreeMap<String, i64>, String> {
    use freshet_core::rows::RowKind;
    let mut table = BTreeMap::new();
    for (_, rows) in given.0.iter().filter(|(of, _)| *of == port) {
        for (row, line) in lines(rows).into_iter().enumerate() {
            let kind = rows.kind(row);
            let next = (row + 1 < rows.len()).then(|| rows.kind(row + 1));
            if (kind == RowKind::UpdateBefore) != (next == Some(RowKind::UpdateAfter)) {
                return Err(format!("an update in parts at {line}"));
            }
            let count = table.entry(line.clone()).or_insert(0);
            *count += kind.sign();
            if *count < 0 {
                return Err(format!("{line} is taken away and was not there"));
            }
            if *count == 0 {
                table.remove(&line);
            }
        }
    }
    Ok(table)
}
