//! The aggregates of a `GROUP BY` over many keys at once, with the sets of values that some of them
//! need: what windows, sessions and plain groups have in common.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use freshet_core::rows::{RowKind, arrow_error};
use freshet_core::{Error, Result, error::code};

use super::{Aggregate, AggregateSpec, Arguments};
use crate::state::{Delta, Entry, Moved, Multiset, Owners};

/// What is computed of each group.
#[derive(Debug)]
pub(crate) struct Layout {
    specs: Vec<Arc<dyn AggregateSpec>>,
    /// Which set, and which of its readers, an aggregate reads; `None` for those that read rows.
    readers: Vec<Option<(usize, usize)>>,
    sets: Vec<Set>,
}

/// A set of values that is shared by all aggregates of one column.
#[derive(Debug)]
struct Set {
    column: usize,
    data_type: DataType,
    /// The rows that each reader counts.
    filters: Vec<Option<usize>>,
}

impl Layout {
    /// Of these aggregates over rows of `input`.
    pub(crate) fn new(specs: &[Arc<dyn AggregateSpec>], input: &SchemaRef) -> Result<Arc<Self>> {
        let mut sets: Vec<Set> = Vec::new();
        let mut readers = Vec::new();
        for spec in specs {
            if !spec.reads_values() {
                readers.push(None);
                continue;
            }
            let [column] = *spec.arguments() else {
                return Err(Error::internal("an aggregate of distinct values has one argument"));
            };
            let set = sets.iter().position(|set| set.column == column).unwrap_or_else(|| {
                let data_type = input.field(column).data_type().clone();
                sets.push(Set { column, data_type, filters: Vec::new() });
                sets.len() - 1
            });
            let filters = &mut sets[set].filters;
            let reader = filters.iter().position(|filter| *filter == spec.filter());
            let reader = reader.unwrap_or_else(|| {
                filters.push(spec.filter());
                filters.len() - 1
            });
            readers.push(Some((set, reader)));
        }
        if sets.len() > 200 {
            return Err(Error::new(
                code::SQL,
                "more than 200 columns have aggregates of their distinct values",
            ));
        }
        Ok(Arc::new(Self { specs: specs.to_vec(), readers, sets }))
    }

    /// One value of a checkpoint for the states of all aggregates that read rows.
    pub(crate) fn converter(&self) -> Result<RowConverter> {
        let types = self.read_rows().flat_map(|spec| spec.state_types());
        RowConverter::new(types.map(SortField::new).collect()).map_err(arrow_error)
    }

    /// How many sets of values there are: tables of a checkpoint.
    pub(crate) fn sets(&self) -> u8 {
        self.sets.len() as u8
    }

    fn read_rows(&self) -> impl Iterator<Item = &Arc<dyn AggregateSpec>> {
        let specs = self.specs.iter().zip(&self.readers);
        specs.filter(|(_, reader)| reader.is_none()).map(|(spec, _)| spec)
    }
}

/// Names groups in checkpoints, and says in which tables their sets are.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    /// Their names.
    pub(crate) owners: &'a dyn Owners,
    /// The table of the first set; those of the others follow.
    pub(crate) first: u8,
}

impl<'a> Named<'a> {
    fn table(self, set: usize) -> (u8, &'a dyn Owners) {
        (self.first + set as u8, self.owners)
    }
}

/// The state of all aggregates of many groups.
#[derive(Debug)]
pub(crate) struct Accumulators {
    layout: Arc<Layout>,
    aggregates: Vec<Box<dyn Aggregate>>,
    sets: Vec<Multiset>,
}

impl Accumulators {
    /// No groups yet.
    pub(crate) fn new(layout: &Arc<Layout>) -> Result<Self> {
        let sets = layout.sets.iter().map(|set| Multiset::new(&set.data_type, set.filters.len()));
        Ok(Self {
            aggregates: layout.specs.iter().map(|spec| spec.create()).collect(),
            sets: sets.collect::<Result<_>>()?,
            layout: Arc::clone(layout),
        })
    }

    /// None any more, and none of the memory that they had.
    pub(crate) fn reset(&mut self) -> Result<()> {
        *self = Self::new(&Arc::clone(&self.layout))?;
        Ok(())
    }

    /// Makes room for groups below `groups`.
    pub(crate) fn resize(&mut self, groups: usize) {
        self.aggregates.iter_mut().for_each(|aggregate| aggregate.resize(groups));
        self.sets.iter_mut().for_each(|set| set.resize(groups));
    }

    /// Takes rows: row `n` belongs to the group `slots[n]`.
    pub(crate) fn update(
        &mut self,
        slots: &[u32],
        batch: &RecordBatch,
        kinds: Option<&[RowKind]>,
        named: Named<'_>,
    ) -> Result<()> {
        let layout = Arc::clone(&self.layout);
        for (aggregate, spec) in self.aggregates.iter_mut().zip(&layout.specs) {
            if spec.reads_values() {
                continue;
            }
            let arguments = spec.arguments().iter();
            let columns: Vec<_> = arguments.map(|place| Arc::clone(batch.column(*place))).collect();
            let filter = spec.filter().map(|filter| batch.column(filter).as_boolean());
            aggregate.update(slots, Arguments { columns: &columns, filter, kinds })?;
        }
        for (number, set) in layout.sets.iter().enumerate() {
            let filters: Vec<Option<&BooleanArray>> = set
                .filters
                .iter()
                .map(|filter| filter.map(|filter| batch.column(filter).as_boolean()))
                .collect();
            let sign = |reader: usize, row: usize| {
                let counts = |filter: &BooleanArray| filter.is_valid(row) && filter.value(row);
                let sign = kinds.map_or(1, |kinds| kinds[row].sign());
                if filters[reader].is_none_or(counts) { sign } else { 0 }
            };
            let values = batch.column(set.column);
            let mut moved: Vec<Vec<Moved>> = vec![Vec::new(); filters.len()];
            self.sets[number].update(slots, values, sign, named.table(number), &mut moved)?;
            for (reader, moved) in moved.iter().enumerate() {
                let rows: Vec<u32> = moved.iter().map(|(row, _)| *row).collect();
                let owners: Vec<u32> = rows.iter().map(|row| slots[*row as usize]).collect();
                let values =
                    arrow::compute::take(values, &arrow::array::UInt32Array::from(rows), None)
                        .map_err(arrow_error)?;
                let kinds: Vec<RowKind> = moved
                    .iter()
                    .map(|(_, sign)| if *sign > 0 { RowKind::Insert } else { RowKind::Delete })
                    .collect();
                feed(
                    &layout,
                    &mut self.aggregates,
                    (number, reader),
                    &owners,
                    values,
                    Some(&kinds),
                )?;
            }
        }
        Ok(())
    }

    /// Adds the groups `from` of `other` to the groups `to`, one by one.
    pub(crate) fn merge(
        &mut self,
        to: &[u32],
        other: &Self,
        from: &[u32],
        named: Named<'_>,
    ) -> Result<()> {
        self.merge_states(to, &other.states(from)?)?;
        let Self { layout, aggregates, sets } = self;
        for (number, set) in sets.iter_mut().enumerate() {
            set.merge(
                to,
                &other.sets[number],
                from,
                named.table(number),
                |reader, owners, values| {
                    feed(layout, aggregates, (number, reader), owners, values, None)
                },
            )?;
        }
        Ok(())
    }

    /// Adds the group `from` to the group `to`, and leaves `from` empty.
    pub(crate) fn fold(&mut self, to: u32, from: u32, named: Named<'_>) -> Result<()> {
        let states = self.states(&[from])?;
        self.merge_states(&[to], &states)?;
        let Self { layout, aggregates, sets } = self;
        for (number, set) in sets.iter_mut().enumerate() {
            set.hand_over(to, from, named.table(number), |reader, owners, values| {
                feed(layout, aggregates, (number, reader), owners, values, None)
            })?;
        }
        self.aggregates.iter_mut().for_each(|aggregate| aggregate.reset(from));
        Ok(())
    }

    /// The states of `groups` of the aggregates that read rows: what [`Self::merge_states`] takes. The
    /// others follow from their sets.
    pub(crate) fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let aggregates = self.aggregates.iter().zip(&self.layout.readers);
        let states = aggregates
            .filter(|(_, reader)| reader.is_none())
            .map(|(aggregate, _)| aggregate.state(groups));
        Ok(states.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Adds states, row `n` of which belongs to `groups[n]`.
    pub(crate) fn merge_states(&mut self, groups: &[u32], states: &[ArrayRef]) -> Result<()> {
        let mut rest = states;
        let layout = Arc::clone(&self.layout);
        let aggregates = self.aggregates.iter_mut().zip(layout.specs.iter().zip(&layout.readers));
        for (aggregate, (spec, _)) in aggregates.filter(|(_, (_, reader))| reader.is_none()) {
            let (own, behind) = rest.split_at(spec.state_types().len());
            aggregate.merge(groups, own)?;
            rest = behind;
        }
        Ok(())
    }

    /// The results of `groups`, a column for each aggregate.
    pub(crate) fn values(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        self.aggregates.iter().map(|aggregate| aggregate.value(groups)).collect()
    }

    /// Forgets a group.
    pub(crate) fn clear(&mut self, group: u32, named: Named<'_>) -> Result<()> {
        self.aggregates.iter_mut().for_each(|aggregate| aggregate.reset(group));
        for (number, set) in self.sets.iter_mut().enumerate() {
            set.clear(group, named.table(number))?;
        }
        Ok(())
    }

    /// Cuts a checkpoint of the sets.
    pub(crate) fn freeze(&mut self) {
        self.sets.iter_mut().for_each(Multiset::freeze);
    }

    /// Gives entries of the sets until `delta` has `enough` bytes; `false` where some are left.
    pub(crate) fn drain(
        &mut self,
        enough: usize,
        named: Named<'_>,
        delta: &mut Delta,
    ) -> Result<bool> {
        for (number, set) in self.sets.iter_mut().enumerate() {
            if !set.drain(enough, named.table(number), delta)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes an entry of set `set` of a checkpoint, with the group that it belongs to by its name.
    /// [`Self::loaded`] is to be called once all were taken.
    pub(crate) fn load(
        &mut self,
        set: usize,
        entry: &Entry<'_>,
        owner: impl FnOnce(&[u8]) -> Result<u32>,
    ) -> Result<()> {
        let set = self.sets.get_mut(set).ok_or_else(|| {
            Error::new(code::STATE, "a checkpoint has a set of values that no aggregate has")
        })?;
        set.load(entry, owner)
    }

    /// All entries were loaded: the aggregates that follow from sets are computed anew.
    pub(crate) fn loaded(&mut self) -> Result<()> {
        let Self { layout, aggregates, sets } = self;
        for (number, set) in sets.iter().enumerate() {
            set.loaded(|reader, owners, values| {
                feed(layout, aggregates, (number, reader), owners, values, None)
            })?;
        }
        Ok(())
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let aggregates: usize = self.aggregates.iter().map(|aggregate| aggregate.bytes()).sum();
        aggregates + self.sets.iter().map(Multiset::bytes).sum::<usize>()
    }
}

/// Gives the aggregates of one reader of a set the values that came or went.
fn feed(
    layout: &Layout,
    aggregates: &mut [Box<dyn Aggregate>],
    reader: (usize, usize),
    owners: &[u32],
    values: ArrayRef,
    kinds: Option<&[RowKind]>,
) -> Result<()> {
    if owners.is_empty() {
        return Ok(());
    }
    let columns = [values];
    for (aggregate, of) in aggregates.iter_mut().zip(&layout.readers) {
        if *of == Some(reader) {
            aggregate.update(owners, Arguments { columns: &columns, filter: None, kinds })?;
        }
    }
    Ok(())
}
