//! The graph of a run's tasks: the selected nodes and which of them wait for which.
//!
//! Pure: nothing here reads a file or a clock.

use std::collections::{BTreeSet, HashMap};

use freshet_core::ModelId;
use freshet_project::{Materialized, Project};

/// A task's position in its [`TaskGraph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(pub usize);

/// A run's tasks. Each comes after all that it waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskGraph {
    models: Vec<ModelId>,
    /// What each task waits for, ascending.
    upstream: Vec<Vec<TaskIndex>>,
    /// What waits for each task, ascending.
    downstream: Vec<Vec<TaskIndex>>,
    /// Tasks on the longest way from each task to an end: those with more go first.
    heights: Vec<usize>,
}

impl TaskGraph {
    /// The graph of `selected` nodes of `project`; names that the project does not have are left
    /// out, and so are ephemeral nodes, of which nothing is built.
    ///
    /// A table outside the selection is taken as it stands. A view or ephemeral node outside of it
    /// is a query over others: who uses it waits for those.
    pub fn new(project: &Project, selected: &[ModelId]) -> Self {
        let selected: BTreeSet<&ModelId> = selected.iter().collect();
        let mut models = Vec::new();
        let mut edges = Vec::new();
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
            let is_task =
                selected.contains(id) && node.config.materialized != Materialized::Ephemeral;
            if is_task {
                let task = models.len();
                tasks.insert(id, task);
                edges.extend(waits.into_iter().map(|upstream| (upstream, task)));
                models.push(id.clone());
            } else if is_query {
                behind.insert(id, waits);
            }
        }
        Self::from_edges(models, &edges)
    }

    /// The graph of `models` in which the second of each pair waits for the first.
    ///
    /// # Panics
    /// Where an edge does not point from an earlier model to a later one.
    pub fn from_edges(models: Vec<ModelId>, edges: &[(usize, usize)]) -> Self {
        let mut upstream = vec![Vec::new(); models.len()];
        let mut downstream = vec![Vec::new(); models.len()];
        let edges: BTreeSet<(usize, usize)> = edges.iter().copied().collect();
        for (from, to) in edges {
            assert!(from < to && to < models.len(), "edge {from}->{to} does not point forward");
            upstream[to].push(TaskIndex(from));
            downstream[from].push(TaskIndex(to));
        }
        let mut heights = vec![1; models.len()];
        for task in (0..models.len()).rev() {
            let below = downstream[task].iter().map(|TaskIndex(next)| heights[*next]).max();
            heights[task] = 1 + below.unwrap_or(0);
        }
        Self { models, upstream, downstream, heights }
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

    /// What a task waits for.
    pub fn upstream(&self, task: TaskIndex) -> &[TaskIndex] {
        &self.upstream[task.0]
    }

    /// What waits for a task.
    pub fn downstream(&self, task: TaskIndex) -> &[TaskIndex] {
        &self.downstream[task.0]
    }

    /// Tasks on the longest way from this one to an end, itself included.
    pub fn height(&self, task: TaskIndex) -> usize {
        self.heights[task.0]
    }
}
