use super::*;
use crate::state::{KeyGroupRange, KeyGroups};

fn shape() -> Shape {
    let stage = |id: &str, is_source, sink: Option<(&str, i64)>| StageShape {
        id: id.into(),
        tasks: 2,
        is_source,
        operators: vec![format!("{id} operator")],
        sink: sink.map(|(id, commit_interval)| SinkShape { id: id.into(), commit_interval }),
    };
    Shape { stages: vec![stage("in", true, None), stage("out", false, Some(("sink", 250)))] }
}

fn coordinator() -> Coordinator {
    let settings = Settings { interval: 100, pause: 20, keep: 3, ..Settings::default() };
    let manifest = Manifest { epoch: Epoch(7), ..Manifest::empty("job", KeyGroups::default()) };
    Coordinator::new(settings, shape(), manifest, 0)
}

fn part(stage: u16, index: u16, epoch: u64) -> Event {
    let run = RunRef {
        file: format!("{epoch}-{stage}.{index}"),
        offset: 0,
        len: 1,
        entries: 1,
        groups: KeyGroupRange { start: 0, end: 128 },
        expires: BTreeMap::from([(0, EventTime(100))]),
    };
    Event::Part(Part {
        task: TaskId { stage, index },
        epoch: Epoch(epoch),
        watermark: EventTime(i64::from(index) + 10),
        runs: vec![(0, run)],
        floors: vec![(0, 0, EventTime(i64::from(index)))],
        positions: vec![SplitPosition {
            split: index.to_string(),
            position: freshet_core::source::Position(epoch),
        }],
        token: (stage == 1).then(|| Token::from(index)),
    })
}

/// All parts of an epoch; gives what the last one led to.
fn gather(coordinator: &mut Coordinator, epoch: u64, now: i64) -> Box<Manifest> {
    for (stage, index) in [(1, 1), (0, 0), (0, 1)] {
        assert_eq!(coordinator.on(part(stage, index, epoch), now), []);
    }
    match coordinator.on(part(1, 0, epoch), now).as_slice() {
        [Effect::Write(manifest)] => manifest.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_checkpoint_is_parts_then_manifest_then_commit() {
    let mut coordinator = coordinator();
    assert_eq!(coordinator.on(Event::Tick, 99), []);
    assert_eq!(coordinator.deadline(), Some(100));
    let barrier = Barrier { epoch: Epoch(8), last: false };
    assert_eq!(coordinator.on(Event::Tick, 100), [Effect::Inject(barrier)]);
    assert_eq!(coordinator.deadline(), None);
    let (epoch, since, waiting) = coordinator.waits_for().expect("a barrier is on its way");
    assert_eq!((epoch, since, waiting.len()), (Epoch(8), 100, 4));
    let manifest = gather(&mut coordinator, 8, 110);
    assert_eq!(manifest.epoch, Epoch(8));
    assert_eq!(manifest.watermarks["out"], EventTime(10), "the least of its tasks");
    assert_eq!(manifest.operators["in operator"].len(), 2);
    assert_eq!(manifest.floors["out operator"][&0], EventTime(1));
    assert_eq!(manifest.sources["in"].len(), 2);
    assert!(!manifest.sources.contains_key("out"));
    let pending = PendingCommit { epoch: Epoch(8), parts: vec![0.into(), 1.into()] };
    assert_eq!(
        manifest.sinks["sink"].pending,
        std::slice::from_ref(&pending),
        "in the order of tasks"
    );
    // The interval of commits is not over yet.
    assert_eq!(coordinator.on(Event::Written(Epoch(8)), 120), [Effect::Publish(Epoch(8))]);
    assert_eq!(coordinator.deadline(), Some(200), "measured from the beginning of the last");

    coordinator.on(Event::Tick, 230);
    let manifest = gather(&mut coordinator, 9, 240);
    assert_eq!(manifest.sinks["sink"].pending.len(), 2, "what is not committed is kept");
    let second = PendingCommit { epoch: Epoch(9), ..pending.clone() };
    assert_eq!(
        coordinator.on(Event::Written(Epoch(9)), 320),
        [
            Effect::Publish(Epoch(9)),
            Effect::Commit { stage: 1, epoch: Epoch(9), pending: vec![pending, second] },
        ]
    );
    assert_eq!(coordinator.deadline(), Some(340), "not at once after a slow one");
    assert_eq!(coordinator.on(Event::Committed { stage: 1, epoch: Epoch(9) }, 330), []);
    coordinator.on(Event::Tick, 340);
    let manifest = gather(&mut coordinator, 10, 345);
    let kept: Vec<_> = manifest.sinks["sink"].pending.iter().map(|kept| kept.epoch).collect();
    assert_eq!(kept, [Epoch(10)]);
}

#[test]
fn a_job_that_has_read_everything_ends_after_its_last_commit() {
    let mut coordinator = coordinator();
    let task = |index| Event::Exhausted(TaskId { stage: 0, index });
    assert_eq!(coordinator.on(task(0), 5), []);
    let barrier = Barrier { epoch: Epoch(8), last: true };
    assert_eq!(coordinator.on(task(1), 6), [Effect::Inject(barrier)]);
    let manifest = gather(&mut coordinator, 8, 7);
    assert!(manifest.finished);
    let effects = coordinator.on(Event::Written(Epoch(8)), 8);
    assert!(
        matches!(effects.as_slice(), [Effect::Publish(_), Effect::Commit { .. }]),
        "whatever the interval is: {effects:?}"
    );
    let committed = Event::Committed { stage: 1, epoch: Epoch(8) };
    assert_eq!(coordinator.on(committed, 9), [Effect::Finish]);
    assert_eq!(coordinator.on(Event::Tick, 1000), []);
}

#[test]
fn runs_whose_entries_are_all_dead_are_forgotten() {
    let mut manifest = *{
        let mut coordinator = coordinator();
        coordinator.on(Event::Tick, 100);
        gather(&mut coordinator, 8, 110)
    };
    manifest.operators.get_mut("in operator").expect("it has runs")[1].expires =
        BTreeMap::from([(0, EventTime(100)), (1, EventTime::MAX)]);
    let floors = manifest.floors.get_mut("in operator").expect("it has a floor");
    floors.insert(0, EventTime(99));
    manifest.forget_dead();
    assert_eq!(manifest.operators["in operator"].len(), 2, "there is one more instant to come");
    manifest.floors.get_mut("in operator").expect("it has a floor").insert(0, EventTime(100));
    manifest.forget_dead();
    let left: Vec<_> = manifest.operators["in operator"].iter().map(|run| &run.expires).collect();
    assert_eq!(left, [&BTreeMap::from([(0, EventTime(100)), (1, EventTime::MAX)])]);
    assert_eq!(manifest.operators["out operator"].len(), 2, "another operator's time is its own");
}

#[test]
fn a_job_that_drains_in_a_checkpoint_makes_one_more() {
    let mut coordinator = coordinator();
    coordinator.on(Event::Tick, 100);
    assert_eq!(coordinator.on(Event::Drain, 101), []);
    gather(&mut coordinator, 8, 102);
    let effects = coordinator.on(Event::Written(Epoch(8)), 103);
    let last = Barrier { epoch: Epoch(9), last: true };
    assert_eq!(effects, [Effect::Publish(Epoch(8)), Effect::Inject(last)]);
    let manifest = gather(&mut coordinator, 9, 104);
    assert!(!manifest.finished, "there is more to read");
}

/// What is merged is named by the first manifest that is composed afterwards, in place of its inputs.
#[test]
fn a_merged_run_takes_the_place_of_its_inputs_in_the_next_manifest() {
    let mut shape = shape();
    shape.stages.truncate(1);
    shape.stages[0].tasks = 1;
    let merging = Merging { fan_in: 3, smallest: 1000 };
    let settings = Settings { merging, interval: 100, ..Settings::default() };
    let manifest = Manifest { epoch: Epoch(7), ..Manifest::empty("job", KeyGroups::default()) };
    let mut coordinator = Coordinator::new(settings, shape, manifest, 0);
    let checkpoint = |coordinator: &mut Coordinator, epoch: u64, merged: Option<Event>| {
        coordinator.on(Event::Tick, 1000 * epoch as i64);
        let mut effects = coordinator.on(part(0, 0, epoch), 1000 * epoch as i64);
        assert!(merged.into_iter().all(|event| coordinator.on(event, 0).is_empty()));
        let Some(Effect::Write(manifest)) = effects.pop() else { panic!("{effects:?}") };
        (manifest, coordinator.on(Event::Written(Epoch(epoch)), 1000 * epoch as i64))
    };
    let merge_of = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Merge(merge) => Some(*merge),
            _ => None,
        })
    };
    // They die by themselves: there are to be more of them.
    for epoch in 8..19 {
        let (_, effects) = checkpoint(&mut coordinator, epoch, None);
        assert_eq!(merge_of(effects), None);
    }
    let (_, effects) = checkpoint(&mut coordinator, 19, None);
    let merge = merge_of(effects).expect("it is due");
    assert_eq!((merge.inputs.len(), merge.is_oldest, merge.epoch), (12, true, Epoch(19)));
    // One at a time of the same groups; what it writes is spared while it does.
    let (manifest, effects) = checkpoint(&mut coordinator, 20, None);
    assert_eq!(manifest.operators["in operator"].len(), 13);
    assert_eq!(effects, [Effect::Publish(Epoch(20))]);
    for epoch in 21..27 {
        checkpoint(&mut coordinator, epoch, None);
    }
    let (manifest, effects) = {
        let run = RunRef { file: "merged".into(), ..merge.inputs[0].clone() };
        // It comes while a manifest is written, which does not name it.
        checkpoint(&mut coordinator, 27, Some(Event::Merged { id: merge.id, run: Some(run) }))
    };
    assert_eq!(manifest.operators["in operator"].len(), 20);
    let spares = Effect::Collect { keep: 3, before: Epoch(19) };
    assert_eq!(effects, [Effect::Publish(Epoch(27)), spares]);
    let (manifest, effects) = checkpoint(&mut coordinator, 28, None);
    let files: Vec<_> = manifest.operators["in operator"].iter().map(|run| &run.file).collect();
    assert_eq!(files.len(), 10);
    assert_eq!((files[0].as_str(), files[1].as_str()), ("merged", "20-0.0"));
    assert_eq!(merge_of(effects), None);
    // One that fails leaves everything as it is, and is not tried again at once.
    let (mut failed, mut epoch) = (None, 28);
    while failed.is_none() {
        epoch += 1;
        failed = merge_of(checkpoint(&mut coordinator, epoch, None).1);
    }
    let failed = Event::NotMerged { id: failed.expect("it is due").id };
    assert_eq!(coordinator.on(failed, 0), []);
    let mut again = None;
    for later in 1..=MERGE_AGAIN_AFTER {
        assert_eq!(again, None);
        again = merge_of(checkpoint(&mut coordinator, epoch + later, None).1);
    }
    assert!(again.is_some());
}
