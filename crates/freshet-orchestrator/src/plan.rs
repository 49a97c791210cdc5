//! The graph of a run's tasks: the selected nodes and which of them wait for which.
//!
//! Pure: nothing here reads a file or a clock.

use std::collections::{BTreeSet, HashMap};

use freshet_core::ModelId;
use freshet_project::{Check, CheckTarget, Materialized, Project};

/// A task's position in its [`TaskGraph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(pub usize);

/// A run's tasks. Each comes after all that it waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskGraph {
    models: Vec<ModelId>,
    /// What each task needs, ascending.
    upstream: Vec<Vec<TaskIndex>>,
    /// What needs each task, ascending.
    downstream: Vec<Vec<TaskIndex>>,
    /// What begins after each task, however that ended.
    followers: Vec<Vec<TaskIndex>>,
    /// How many tasks each one waits for, for either reason.
    waits: Vec<usize>,
    /// Tasks on the longest way from each task to an end: those with more go first.
    heights: Vec<usize>,
}

impl TaskGraph {
    /// The graph of `selected` nodes of `project`; names that the project does not have are left
    /// out, and so are ephemeral nodes, of which nothing is built.
    ///
    /// A table outside the selection is taken as it stands. A view or ephemeral node outside of it
    /// is a query over others: who uses it needs those.
    ///
    /// A node whose checks look at another node begins after that one, however it ended: the
    /// check is to see the table of this run where there is one.
    pub fn new(project: &Project, selected: &[ModelId]) -> Self {
        let selected: BTreeSet<&ModelId> = selected.iter().collect();
        let mut models = Vec::new();
        let mut needs = Vec::new();
        let mut tasks: HashMap<&ModelId, usize> = HashMap::new();
        // For a node that is no task: the tasks that stand behind it.
        let mut behind: HashMap<&ModelId, BTreeSet<usize>> = HashMap::new();
        for (id, node) in &project.nodes {
            let mut waits = BTreeSet::new();
            for used in &node.refs {
                match tasks.get(used) {
                    Some(task) => {
                        waits.insert(*task);
                    }
                    None => waits.extend(behind.get(used).into_iter().flatten()),
                }
            }
            let is_query =
                matches!(node.config.materialized, Materialized::View | Materialized::Ephemeral);
            // A stream is no task of a run: jobs of its own write its table.
            let is_task = selected.contains(id)
                && !matches!(
                    node.config.materialized,
                    Materialized::Ephemeral | Materialized::Stream
                );
            if is_task {
                let task = models.len();
                tasks.insert(id, task);
                needs.extend(waits.into_iter().map(|upstream| (upstream, task)));
                models.push(id.clone());
            } else if is_query {
                behind.insert(id, waits);
            }
        }
        let mut follows = Vec::new();
        for check in &project.checks {
            let Some((checked, seen)) = looks_at(project, check) else { continue };
            let Some(checked) = tasks.get(&checked) else { continue };
            for other in seen {
                match tasks.get(&other) {
                    Some(task) => follows.push((*task, *checked)),
                    None => {
                        let behind = behind.get(&other).into_iter().flatten();
                        follows.extend(behind.map(|task| (*task, *checked)));
                    }
                }
            }
        }
        Self::from_edges(models, &needs, &follows)
    }

    /// The graph of `models` in which the second of each pair of `needs` needs the first, and the
    /// second of each pair of `follows` begins after the first has ended in whatever way. A pair of
    /// `follows` that would close a circle is left out. Where the order of `models` allows it, it
    /// is kept.
    ///
    /// # Panics
    /// Where a need does not point from an earlier model to a later one.
    pub fn from_edges(
        models: Vec<ModelId>,
        needs: &[(usize, usize)],
        follows: &[(usize, usize)],
    ) -> Self {
        let count = models.len();
        let mut next = vec![BTreeSet::new(); count];
        for (from, to) in needs {
            assert!(from < to && *to < count, "edge {from}->{to} does not point forward");
            next[*from].insert(*to);
        }
        let mut order_only = BTreeSet::new();
        for (from, to) in follows.iter().copied() {
            if from != to && !next[from].contains(&to) && !reaches(&next, to, from) {
                next[from].insert(to);
                order_only.insert((from, to));
            }
        }
        // Kahn's algorithm; of those that are free, the one that was first goes first.
        let mut waits = vec![0; count];
        next.iter().flatten().for_each(|to| waits[*to] += 1);
        let mut free: BTreeSet<usize> = (0..count).filter(|task| waits[*task] == 0).collect();
        let mut order = Vec::with_capacity(count);
        while let Some(task) = free.pop_first() {
            order.push(task);
            for to in &next[task] {
                waits[*to] -= 1;
                if waits[*to] == 0 {
                    free.insert(*to);
                }
            }
        }
        assert_eq!(order.len(), count, "edges that close a circle were left out");
        let mut place = vec![0; count];
        order.iter().enumerate().for_each(|(at, task)| place[*task] = at);

        let mut graph = Self {
            models: order.iter().map(|task| models[*task].clone()).collect(),
            upstream: vec![Vec::new(); count],
            downstream: vec![Vec::new(); count],
            followers: vec![Vec::new(); count],
            waits: vec![0; count],
            heights: vec![1; count],
        };
        for from in 0..count {
            for to in next[order[from]].iter().map(|to| place[*to]).collect::<BTreeSet<_>>() {
                graph.waits[to] += 1;
                if order_only.contains(&(order[from], order[to])) {
                    graph.followers[from].push(TaskIndex(to));
                } else {
                    graph.upstream[to].push(TaskIndex(from));
                    graph.downstream[from].push(TaskIndex(to));
                }
            }
        }
        for task in (0..count).rev() {
            let below = graph.downstream[task].iter().chain(&graph.followers[task]);
            let below = below.map(|TaskIndex(next)| graph.heights[*next]).max();
            graph.heights[task] = 1 + below.unwrap_or(0);
        }
        graph
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.models.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// All tasks in their order.
    pub fn tasks(&self) -> impl DoubleEndedIterator<Item = TaskIndex> + use<> {
        (0..self.models.len()).map(TaskIndex)
    }

    /// The nodes in their order.
    pub fn models(&self) -> &[ModelId] {
        &self.models
    }

    /// The node of a task.
    pub fn model(&self, task: TaskIndex) -> &ModelId {
        &self.models[task.0]
    }

    /// What a task needs: if one of these fails, it is skipped.
    pub fn upstream(&self, task: TaskIndex) -> &[TaskIndex] {
        &self.upstream[task.0]
    }

    /// What needs a task.
    pub fn downstream(&self, task: TaskIndex) -> &[TaskIndex] {
        &self.downstream[task.0]
    }

    /// What begins after a task has ended, however it ended.
    pub fn followers(&self, task: TaskIndex) -> &[TaskIndex] {
        &self.followers[task.0]
    }

    /// How many tasks must have ended before this one begins.
    pub fn waits(&self, task: TaskIndex) -> usize {
        self.waits[task.0]
    }

    /// Tasks on the longest way from this one to an end, itself included.
    pub fn height(&self, task: TaskIndex) -> usize {
        self.heights[task.0]
    }
}

/// Whether there is a way from one task to another.
fn reaches(next: &[BTreeSet<usize>], from: usize, to: usize) -> bool {
    let mut seen = vec![false; next.len()];
    let mut open = vec![from];
    while let Some(task) = open.pop() {
        if task == to {
            return true;
        }
        if !std::mem::replace(&mut seen[task], true) {
            open.extend(&next[task]);
        }
    }
    false
}

/// The node with which a check runs, and the other nodes that it looks at.
fn looks_at(project: &Project, check: &Check) -> Option<(ModelId, Vec<ModelId>)> {
    match &check.target {
        CheckTarget::Node(checked) => {
            let other = referenced(check.arguments.get("to")?.as_str()?)?;
            Some((checked.clone(), vec![other]))
        }
        // A query runs with the last of its nodes.
        CheckTarget::Query { nodes, .. } => {
            let last = nodes.iter().max_by_key(|node| project.nodes.get_index_of(*node))?;
            let others = nodes.iter().filter(|node| *node != last).cloned().collect();
            Some((last.clone(), others))
        }
        CheckTarget::Source(_) => None,
    }
}

/// The model in `ref('model')` or `ref('package', 'model')`.
fn referenced(text: &str) -> Option<ModelId> {
    let (_, arguments) = text.split_once("ref")?;
    let arguments = arguments.trim_start().strip_prefix('(')?.split(')').next()?;
    let last = arguments.rsplit(',').next()?.trim();
    let name = last.trim_matches(['\'', '"']);
    (!name.is_empty()).then(|| ModelId::new(name))
}

#[cfg(test)]
mod tests;
