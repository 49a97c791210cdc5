//! Key groups: the units in which keyed state moves when a job becomes more or less parallel.
//!
//! A key belongs to the group that its hash says, for as long as the job lives; an instance of an
//! operator owns a range of groups. After Flink's key groups.

use serde::{Deserialize, Serialize};

/// The number of a key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyGroup(pub u16);

/// How many key groups a job has: fixed with its first checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyGroups(u16);

impl Default for KeyGroups {
    fn default() -> Self {
        Self(128)
    }
}

impl KeyGroups {
    /// This many groups.
    ///
    /// # Panics
    /// Where there are none.
    pub fn new(count: u16) -> Self {
        assert!(count > 0, "a key belongs to some group");
        Self(count)
    }

    /// How many there are.
    pub fn count(self) -> u16 {
        self.0
    }

    /// The group of a key with this hash.
    pub fn group(self, hash: u64) -> KeyGroup {
        // The high bits by multiplication; hash tables use the low ones.
        KeyGroup(((u128::from(hash) * u128::from(self.0)) >> 64) as u16)
    }

    /// The groups of instance `index` of `instances`.
    ///
    /// # Panics
    /// Where there are more instances than groups, or no such instance.
    pub fn range(self, index: usize, instances: usize) -> KeyGroupRange {
        assert!(index < instances && instances <= usize::from(self.0), "an instance owns a group");
        let bound = |index: usize| (index * usize::from(self.0)).div_ceil(instances) as u16;
        KeyGroupRange { start: bound(index), end: bound(index + 1) }
    }

    /// The instance, of `instances`, that owns `group`.
    pub fn owner(self, group: KeyGroup, instances: usize) -> usize {
        usize::from(group.0) * instances / usize::from(self.0)
    }
}

/// Some neighbouring key groups, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// The first.
    pub start: u16,
    /// The first behind it.
    pub end: u16,
}

impl KeyGroupRange {
    /// Whether `group` is among them.
    pub fn contains(self, group: KeyGroup) -> bool {
        (self.start..self.end).contains(&group.0)
    }

    /// How many there are.
    pub fn count(self) -> u16 {
        self.end.saturating_sub(self.start)
    }

    /// Those that are in both; an empty range where there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// Those that are not in `other`: what is before it and what is behind it, where there is any.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let before = Self { end: self.end.min(other.start), ..self };
        let behind = Self { start: self.start.max(other.end), ..self };
        [before, behind].into_iter().filter(|range| range.count() > 0)
    }

    /// Whether any group is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_one_owner() {
        for count in [1_u16, 2, 7, 128, 1000] {
            let groups = KeyGroups::new(count);
            for instances in 1..=usize::from(count).min(20) {
                for group in (0..count).map(KeyGroup) {
                    let owner = groups.owner(group, instances);
                    for index in 0..instances {
                        let owns = groups.range(index, instances).contains(group);
                        assert_eq!(owns, index == owner, "{group:?} of {count}, {instances}");
                    }
                }
            }
        }
    }

    #[test]
    fn hashes_spread_over_all_groups() {
        let groups = KeyGroups::new(3);
        assert_eq!(groups.group(0), KeyGroup(0));
        assert_eq!(groups.group(u64::MAX), KeyGroup(2));
        assert_eq!(groups.group(u64::MAX / 2), KeyGroup(1));
    }
}
