//! The order of nodes: each after all that it depends on, equals by name; and the circles that
//! make such an order impossible.

use std::collections::{BTreeMap, BTreeSet};

use freshet_core::ModelId;

/// Orders `nodes`, given as id and dependencies. Dependencies that are no nodes do not count.
///
/// # Errors
/// A circle, starting and ending with the same id, each depending on the next.
pub fn order(nodes: &BTreeMap<&ModelId, Vec<&ModelId>>) -> Result<Vec<ModelId>, Vec<ModelId>> {
    let mut waiting: BTreeMap<&ModelId, usize> = BTreeMap::new();
    let mut users: BTreeMap<&ModelId, Vec<&ModelId>> = BTreeMap::new();
    for (id, dependencies) in nodes {
        let known: BTreeSet<&ModelId> =
            dependencies.iter().copied().filter(|dep| nodes.contains_key(dep)).collect();
        waiting.insert(id, known.len());
        for dependency in known {
            users.entry(dependency).or_default().push(id);
        }
    }
    let mut ready: BTreeSet<&ModelId> =
        waiting.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
    let mut ordered = Vec::with_capacity(nodes.len());
    while let Some(id) = ready.pop_first() {
        ordered.push(id.clone());
        waiting.remove(id);
        for user in users.get(id).into_iter().flatten() {
            let count = waiting.get_mut(user).expect("a user waits until its last dependency");
            *count -= 1;
            if *count == 0 {
                ready.insert(user);
            }
        }
    }
    if ordered.len() == nodes.len() { Ok(ordered) } else { Err(circle(nodes, &waiting)) }
}

/// Every node that still waits depends on another that does: following them ends in a circle.
fn circle(
    nodes: &BTreeMap<&ModelId, Vec<&ModelId>>,
    waiting: &BTreeMap<&ModelId, usize>,
) -> Vec<ModelId> {
    let mut path: Vec<&ModelId> = Vec::new();
    let mut next = waiting.keys().next().copied();
    while let Some(id) = next {
        if let Some(start) = path.iter().position(|seen| *seen == id) {
            let mut circle: Vec<ModelId> = path[start..].iter().map(|id| (*id).clone()).collect();
            circle.push(id.clone());
            return circle;
        }
        path.push(id);
        next = nodes[id].iter().copied().find(|dependency| waiting.contains_key(dependency));
    }
    path.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(edges: &[(&str, &[&str])]) -> Result<Vec<String>, Vec<String>> {
        let ids: Vec<(ModelId, Vec<ModelId>)> = edges
            .iter()
            .map(|(id, deps)| {
                (ModelId::from(*id), deps.iter().map(|d| ModelId::from(*d)).collect())
            })
            .collect();
        let nodes = ids.iter().map(|(id, deps)| (id, deps.iter().collect())).collect();
        let names = |ids: Vec<ModelId>| ids.iter().map(ToString::to_string).collect();
        order(&nodes).map(names).map_err(names)
    }

    #[test]
    fn nodes_come_after_what_they_use_and_equals_by_name() {
        let found =
            run(&[("c", &["a"]), ("b", &["a"]), ("a", &[]), ("z", &[]), ("d", &["b", "c"])]);
        assert_eq!(found, Ok(["a", "b", "c", "d", "z"].map(String::from).to_vec()));
    }

    #[test]
    fn a_circle_is_listed_from_end_to_end() {
        let found = run(&[("a", &["c"]), ("b", &["a"]), ("c", &["b"]), ("d", &["a"])]);
        assert_eq!(found, Err(["a", "c", "b", "a"].map(String::from).to_vec()));
        assert_eq!(run(&[("a", &["a"])]), Err(vec!["a".to_owned(), "a".to_owned()]));
    }
}
