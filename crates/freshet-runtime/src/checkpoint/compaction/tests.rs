//! Merging against a plain map: whatever is checkpointed, merged, rescaled and read again.

use std::sync::Arc;

use freshet_core::store::LocalStore;
use freshet_testkit::fault::FaultFs;
use futures::executor::block_on;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::write_run;
use crate::state::{Delta, Entry, KeyGroup, KeyGroups};

/// What is in the store, as it is.
struct Stored<'a>(&'a Repository);

impl Fetch for Stored<'_> {
    fn fetch<'a>(
        &'a self,
        file: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<bytes::Bytes>> {
        Box::pin(self.0.get(file, range))
    }
}

fn merge(repository: &Repository, merge: &Merge) -> Result<Option<RunRef>> {
    block_on(repository.merge(merge, Generation(1), &Stored(repository), || true))
}

/// Sizes of runs after so many checkpoints that bring so many bytes each, and bytes that were merged.
fn grow(bytes: impl Iterator<Item = u64>, settings: Merging) -> (Vec<u64>, u64, usize) {
    let (mut runs, mut merged, mut most) = (Vec::new(), 0, 0);
    for bytes in bytes {
        runs.push((bytes, false));
        while let Some(chosen) = choose(&runs, settings) {
            let sum = runs[chosen.clone()].iter().map(|(bytes, _)| bytes).sum();
            merged += sum;
            runs.splice(chosen, [(sum, false)]);
        }
        most = runs.len().max(most);
    }
    (runs.into_iter().map(|(bytes, _)| bytes).collect(), merged, most)
}

#[test]
fn runs_grow_with_the_logarithm_of_the_state_and_so_does_the_work() {
    let settings = Merging::default();
    for (checkpoints, each, runs, times) in
        [(1_000, 1 << 20, 24, 5), (100_000, 1 << 20, 40, 7), (100_000, 10_000, 32, 10)]
    {
        let (left, merged, most) = grow((0..checkpoints).map(|_| each), settings);
        let written = checkpoints * each;
        assert_eq!(left.iter().sum::<u64>(), written);
        assert!(most <= runs, "{most} runs after {checkpoints} of {each}");
        assert!(merged <= times * written, "{} times", merged as f64 / written as f64);
    }
}

proptest! {
    #[test]
    fn there_are_never_more_runs_than_tiers_allow(
        sizes in prop::collection::vec((0_u32..34).prop_map(|power| 1_u64 << power), 1..300),
        fan_in in 2_usize..10,
    ) {
        let settings = Merging { fan_in, smallest: 1000 };
        let most_bytes = sizes.iter().sum::<u64>();
        let tiers = tier(most_bytes, fan_in as u64, settings.smallest) as usize + 1;
        let (_, _, most) = grow(sizes.into_iter(), settings);
        prop_assert!(most <= (fan_in - 1) * tiers, "{most} runs in {tiers} tiers");
    }

    #[test]
    fn mortal_runs_are_left_alone_for_longer(count in 1_usize..100) {
        let settings = Merging { fan_in: 4, smallest: 1000 };
        let chosen = choose(&vec![(10, true); count], settings);
        prop_assert_eq!(chosen.is_some(), count >= 4 * MORTAL);
        let mut runs = vec![(10, true); count];
        runs[count / 2].1 = false;
        prop_assert_eq!(choose(&runs, settings).is_some(), count >= 4);
    }
}

const GROUPS: u16 = 16;

#[derive(Debug, Clone)]
enum Step {
    /// Keys that are set or removed by the task that owns them, all tasks at once.
    Checkpoint(Vec<(u16, u8, bool)>),
    /// Plans a merge for a task, if it is due one.
    Plan(prop::sample::Index),
    /// Carries one out, and puts it into the next checkpoint.
    Merge(prop::sample::Index),
    /// A planned merge is lost with its process; what it wrote stays.
    Crash,
    /// So many tasks from now on.
    Rescale(usize),
    /// Event time goes on.
    Floor,
    /// What no manifest names is deleted.
    Collect,
    Restore(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0_u16..GROUPS, 0_u8..6, any::<bool>());
    let step = prop_oneof![
        8 => prop::collection::vec(change, 0..12).prop_map(Step::Checkpoint),
        6 => any::<prop::sample::Index>().prop_map(Step::Plan),
        6 => any::<prop::sample::Index>().prop_map(Step::Merge),
        1 => Just(Step::Crash),
        1 => (1_usize..6).prop_map(Step::Rescale),
        1 => Just(Step::Floor),
        1 => Just(Step::Collect),
        2 => (1_usize..6).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..120)
}

/// By group and key: the value, and when it is dead.
type Plain = BTreeMap<(u16, Vec<u8>), (Vec<u8>, i64)>;

fn restored(repository: &Repository, manifest: &Manifest, tasks: usize) -> Plain {
    let mut plain = Plain::new();
    let none = Vec::new();
    for task in 0..tasks {
        let groups = manifest.groups.range(task, tasks);
        let floors = manifest.floors.get("state").cloned().unwrap_or_default();
        let wanted = Wanted { groups, floors, removed: false };
        let runs = manifest.operators.get("state").unwrap_or(&none);
        let fetch = Stored(repository);
        block_on(async {
            let mut merger = Merger::new(runs, &wanted, &fetch).await.expect("it is read");
            while merger.advance().await.expect("it is read") {
                for (entry, removed) in merger.entries() {
                    assert!(!removed && groups.contains(entry.group));
                    let key = (entry.group.0, entry.key.to_vec());
                    let value = (entry.value.to_vec(), entry.expires.0);
                    assert_eq!(plain.insert(key, value), None, "a key comes once");
                }
            }
        });
    }
    plain
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn state_is_what_a_map_holds_whatever_is_merged(steps in steps(), timed in any::<bool>()) {
        let repository = Repository::new(Arc::new(InMemory::new()), "job");
        let mut manifest = Manifest::empty("job", KeyGroups::new(GROUPS));
        let settings = Merging { fan_in: 2, smallest: 200 };
        let (mut plain, mut tasks, mut time) = (Plain::new(), 1, 0_i64);
        let mut planned: Vec<Merge> = Vec::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Checkpoint(changes) => {
                    manifest.epoch = manifest.epoch.next();
                    time += 1;
                    for task in 0..tasks {
                        let groups = manifest.groups.range(task, tasks);
                        let mut delta = Delta::default();
                        for (group, key, set) in &changes {
                            let group = KeyGroup(*group);
                            if !groups.contains(group) {
                                continue;
                            }
                            let name = (group.0, vec![*key]);
                            // What is given later is never dead before.
                            let expires = if timed { time } else { i64::MAX };
                            if *set {
                                let value = time.to_le_bytes();
                                plain.insert(name, (value.to_vec(), expires));
                                delta.set(Entry {
                                    group,
                                    table: 0,
                                    key: &[*key],
                                    expires: EventTime(expires),
                                    value: &value,
                                })
                            } else {
                                plain.remove(&name);
                                delta.remove(group, 0, &[*key])
                            }
                            .expect("it fits");
                        }
                        if delta.has_no_entries() {
                            continue;
                        }
                        let (bytes, entries) = write_run(&mut delta);
                        let file = repository.state_path(&format!("{:020}-1-{task}", manifest.epoch.0));
                        // Runs share files.
                        let content = vec![vec![7; task].into(), bytes.clone()];
                        block_on(repository.put(&file, content)).expect("there is room");
                        let (offset, len) = (task as u64, bytes.len() as u64);
                        let expires = delta.expires();
                        let run = RunRef { file, offset, len, entries, groups, expires };
                        manifest.operators.entry("state".into()).or_default().push(run);
                    }
                    manifest.forget_dead();
                    block_on(repository.write(&manifest)).expect("there is room");
                }
                Step::Plan(index) => {
                    let groups = manifest.groups.range(index.index(tasks), tasks);
                    let is_busy = planned.iter().any(|merge| merge.groups.overlaps(groups));
                    let merge = Merge::plan(&manifest, "state", groups, settings);
                    if let (false, Some(mut merge)) = (is_busy, merge) {
                        merge.id = next;
                        next += 1;
                        planned.push(merge);
                    }
                }
                Step::Merge(index) if !planned.is_empty() => {
                    let planned = planned.swap_remove(index.index(planned.len()));
                    let runs = manifest.operators.entry("state".into()).or_default();
                    let output = match merge(&repository, &planned) {
                        Ok(output) => output,
                        Err(error) => {
                            // An input died, and was deleted: another merge does without it.
                            prop_assert_eq!(error.code(), code::STATE);
                            let is_there = |input: &RunRef| runs.iter().any(|run| run.file == input.file);
                            prop_assert!(!planned.inputs.iter().all(is_there));
                            continue;
                        }
                    };
                    let before = runs.len();
                    planned.apply(output, runs);
                    prop_assert!(tasks > 1 || runs.len() <= before);
                }
                Step::Crash => {
                    for merge in planned.drain(..) {
                        // Nobody knows what came of it.
                        let _ = self::merge(&repository, &merge);
                    }
                }
                Step::Rescale(now) => {
                    // Nothing is under way when a job begins.
                    planned.clear();
                    tasks = now;
                }
                Step::Floor if timed => {
                    let floor = EventTime(time - 2);
                    manifest.floors.entry("state".into()).or_default().insert(0, floor);
                    plain.retain(|_, (_, expires)| *expires > floor.0);
                }
                Step::Collect => {
                    manifest.epoch = manifest.epoch.next();
                    block_on(repository.write(&manifest)).expect("there is room");
                    let epochs = planned.iter().map(|merge| merge.epoch);
                    let before = epochs.chain([manifest.epoch]).min().expect("there is one");
                    block_on(repository.collect(1, before)).expect("they are deleted");
                }
                Step::Restore(tasks) => {
                    prop_assert_eq!(&restored(&repository, &manifest, tasks), &plain);
                }
                _ => {}
            }
        }
        prop_assert_eq!(restored(&repository, &manifest, tasks), plain);
    }
}

/// What is larger than a part is uploaded in parts, into a folder that means what it says.
#[test]
fn large_runs_are_written_in_parts() {
    let disk = Arc::new(FaultFs::new(7));
    let store = LocalStore::new(Arc::clone(&disk) as _, "/state").expect("the folder can be made");
    let repository = Repository::new(Arc::new(store), "job");
    let mut inputs = Vec::new();
    for round in 0..3_u16 {
        let mut delta = Delta::default();
        for group in 0..10 {
            let (group, value) = (KeyGroup(3 * group + round), vec![round as u8; 1 << 20]);
            let (key, expires) = (b"key".as_slice(), EventTime::MAX);
            delta.set(Entry { group, table: 0, key, expires, value: &value }).expect("it fits");
        }
        let (bytes, entries) = write_run(&mut delta);
        let (file, len) = (repository.state_path(&format!("{round}")), bytes.len() as u64);
        block_on(repository.put(&file, vec![bytes])).expect("there is room");
        let groups = KeyGroupRange { start: 0, end: 128 };
        inputs.push(RunRef { file, offset: 0, len, entries, groups, expires: BTreeMap::new() });
    }
    let all = Merge {
        id: 0,
        operator: "state".into(),
        groups: KeyGroupRange { start: 0, end: 128 },
        inputs,
        is_oldest: true,
        floors: BTreeMap::new(),
        epoch: Epoch(4),
    };
    let run = merge(&repository, &all).expect("it is merged").expect("there is something");
    assert!(run.len > 3 * PART as u64 && run.entries == 30);
    disk.crash();
    let mut manifest = Manifest::empty("job", KeyGroups::new(128));
    manifest.operators.insert("state".into(), vec![run]);
    let plain = restored(&repository, &manifest, 3);
    assert_eq!(plain.len(), 30);
    for ((group, _), (value, _)) in plain {
        assert_eq!(value, vec![(group % 3) as u8; 1 << 20]);
    }
    // Nobody waits for this one.
    let given_up = block_on(repository.merge(&all, Generation(2), &Stored(&repository), || false));
    assert_eq!(given_up.expect_err("it stops").code(), code::STATE);
}
