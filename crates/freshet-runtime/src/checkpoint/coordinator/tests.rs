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
    let settings = Settings { interval: 100, pause: 20, keep: 3 };
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
