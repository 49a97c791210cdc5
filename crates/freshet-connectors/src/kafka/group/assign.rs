//! Which member of a group reads which partition: a pure function.
//!
//! All members have about as many, each keeps what it has as far as that allows, and a partition that
//! somebody else still has is given to nobody: it is free in the next round, once it was given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::kafka::client::TopicPartition;

/// A member, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimant {
    /// The topics that it reads.
    pub topics: BTreeSet<Arc<str>>,
    /// What it has.
    pub owned: BTreeSet<TopicPartition>,
    /// The generation in which it was given that; of two claims the later one counts.
    pub generation: i32,
}

/// What each member is to read, by its id.
pub type Assignments = BTreeMap<String, BTreeSet<TopicPartition>>;

/// Divides `partitions` among `members`.
pub fn assign(
    members: &BTreeMap<String, Claimant>,
    partitions: &BTreeSet<TopicPartition>,
) -> Assignments {
    let owners = owners(members, partitions);
    let mut target = balance(members, partitions, &owners);
    for (member, given) in &mut target {
        given.retain(|partition| owners.get(partition).is_none_or(|owner| *owner == member));
    }
    target
}

/// Who has what now, where the claim is sound.
fn owners<'a>(
    members: &'a BTreeMap<String, Claimant>,
    partitions: &BTreeSet<TopicPartition>,
) -> BTreeMap<TopicPartition, &'a String> {
    let mut owners: BTreeMap<TopicPartition, &String> = BTreeMap::new();
    for (id, member) in members {
        let sound = |partition: &&TopicPartition| {
            partitions.contains(partition) && member.topics.contains(&partition.topic)
        };
        for partition in member.owned.iter().filter(sound) {
            let known = owners.get(partition).map(|owner| members[*owner].generation);
            if known.is_none_or(|known| known < member.generation) {
                owners.insert(partition.clone(), id);
            }
        }
    }
    owners
}

/// What each is to have in the end.
fn balance(
    members: &BTreeMap<String, Claimant>,
    partitions: &BTreeSet<TopicPartition>,
    owners: &BTreeMap<TopicPartition, &String>,
) -> Assignments {
    let mut target: Assignments =
        members.keys().map(|member| (member.clone(), BTreeSet::new())).collect();
    let mut free = Vec::new();
    for partition in partitions {
        match owners.get(partition) {
            Some(owner) => {
                target.entry((*owner).clone()).or_default().insert(partition.clone());
            }
            None => free.push(partition),
        }
    }
    // Those that few can read come first.
    let readers = |partition: &TopicPartition| {
        members.values().filter(|member| member.topics.contains(&partition.topic)).count()
    };
    free.sort_by_cached_key(|partition| readers(partition));
    for partition in free {
        let least = target
            .iter_mut()
            .filter(|(member, _)| members[*member].topics.contains(&partition.topic))
            .min_by_key(|(_, given)| given.len());
        if let Some((_, given)) = least {
            given.insert(partition.clone());
        }
    }
    // One at a time from who has most to who has least and reads its topic, until nobody gains.
    while let Some((from, to, partition)) = step(members, &target) {
        target.entry(from).or_default().remove(&partition);
        target.entry(to).or_default().insert(partition);
    }
    target
}

/// A partition that somebody has two or more partitions less could have as well.
fn step(
    members: &BTreeMap<String, Claimant>,
    target: &Assignments,
) -> Option<(String, String, TopicPartition)> {
    let mut by_size: Vec<_> = target.iter().collect();
    by_size.sort_by_key(|(_, given)| given.len());
    for (from, given) in by_size.iter().rev() {
        for (to, taken) in &by_size {
            if taken.len() + 2 > given.len() {
                break;
            }
            let topics = &members[*to].topics;
            // The last ones are given up: a member that is alone has them all in order.
            let moved = given.iter().rev().find(|partition| topics.contains(&partition.topic));
            if let Some(moved) = moved {
                return Some(((*from).clone(), (*to).clone(), moved.clone()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partitions(topics: &[(&str, i32)]) -> BTreeSet<TopicPartition> {
        let of = |(topic, count): &(&str, i32)| {
            let topic: Arc<str> = (*topic).into();
            (0..*count).map(move |index| TopicPartition { topic: Arc::clone(&topic), index })
        };
        topics.iter().flat_map(of).collect()
    }

    /// Rounds until nothing changes, as members that give up and come again.
    fn settle(
        members: &mut BTreeMap<String, Claimant>,
        partitions: &BTreeSet<TopicPartition>,
    ) -> u32 {
        for round in 1..10 {
            let assigned = assign(members, partitions);
            let mut taken = BTreeSet::new();
            let mut same = true;
            for (id, given) in assigned {
                for partition in &given {
                    assert!(taken.insert(partition.clone()), "{partition} is given twice");
                }
                let member = members.get_mut(&id).expect("a member");
                // Nobody reads what another one still has.
                same &= member.owned == given;
                member.owned = given;
                member.generation = round;
            }
            if same {
                return round as u32;
            }
        }
        panic!("it never settles: {members:?}");
    }

    fn member(topics: &[&str]) -> Claimant {
        let topics = topics.iter().map(|topic| Arc::from(*topic)).collect();
        Claimant { topics, ..Claimant::default() }
    }

    #[test]
    fn what_another_one_has_is_given_a_round_later() {
        let all = partitions(&[("t", 4)]);
        let mut members = BTreeMap::from([("a".to_owned(), member(&["t"]))]);
        settle(&mut members, &all);
        assert_eq!(members["a"].owned, all);
        members.insert("b".to_owned(), member(&["t"]));
        let first = assign(&members, &all);
        assert_eq!((first["a"].len(), first["b"].len()), (2, 0));
        settle(&mut members, &all);
        assert_eq!((members["a"].owned.len(), members["b"].owned.len()), (2, 2));
        assert!(members["a"].owned.iter().all(|partition| partition.index < 2));
        // Who was away and claims what others were given since has none of it.
        let away = Claimant { owned: all.clone(), ..member(&["t"]) };
        members.insert("c".to_owned(), away);
        let next = assign(&members, &all);
        assert_eq!(next["c"].len(), 0);
    }

    proptest! {
        #[test]
        fn all_is_given_evenly_and_little_moves(
            count in 0..40_i32,
            before in 1..8_usize,
            after in 1..8_usize,
        ) {
            let all = partitions(&[("t", count), ("u", count / 3)]);
            let topics = ["t", "u"];
            let mut members: BTreeMap<String, Claimant> =
                (0..before).map(|n| (n.to_string(), member(&topics))).collect();
            settle(&mut members, &all);
            let owned: BTreeMap<String, BTreeSet<TopicPartition>> =
                members.iter().map(|(id, member)| (id.clone(), member.owned.clone())).collect();
            members.retain(|id, _| id.parse::<usize>().is_ok_and(|n| n < after));
            for n in before..after {
                members.insert(n.to_string(), member(&topics));
            }
            settle(&mut members, &all);
            let sizes: Vec<usize> = members.values().map(|member| member.owned.len()).collect();
            prop_assert_eq!(sizes.iter().sum::<usize>(), all.len());
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{sizes:?}");
            // Members that stay give up only what is beyond their share, or gain.
            let fair = all.len() / members.len();
            for (id, member) in &members {
                let had = owned.get(id).map_or(0, BTreeSet::len);
                let kept = owned.get(id).map_or(0, |had| had.intersection(&member.owned).count());
                prop_assert!(kept >= had.min(fair), "{id} had {had} and kept {kept} of {fair}");
            }
        }

        #[test]
        fn members_read_their_topics_alone(
            subscriptions in proptest::collection::vec(1..8_u8, 1..6),
            count in 1..12_i32,
        ) {
            let names = ["t", "u", "v"];
            let all = partitions(&names.map(|name| (name, count)));
            let mut members: BTreeMap<String, Claimant> = BTreeMap::new();
            for (n, bits) in subscriptions.iter().enumerate() {
                let topics: Vec<&str> =
                    names.iter().enumerate().filter(|(t, _)| bits >> t & 1 == 1).map(|(_, name)| *name).collect();
                members.insert(n.to_string(), member(&topics));
            }
            settle(&mut members, &all);
            let mut given = 0;
            for member in members.values() {
                prop_assert!(member.owned.iter().all(|p| member.topics.contains(&p.topic)));
                given += member.owned.len();
            }
            let read = all.iter().filter(|p| members.values().any(|m| m.topics.contains(&p.topic)));
            prop_assert_eq!(given, read.count());
        }
    }
}
