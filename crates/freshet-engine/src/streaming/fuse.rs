//! Chains: stages that only hand rows on to one other are joined with it, so that their operators
//! call each other.

use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::MAIN;
use freshet_runtime::plan::StageInput;

use super::lower::Lowered;

/// Joins what can be joined.
pub fn fuse(mut lowered: Lowered) -> Lowered {
    while let Some(place) =
        (0..lowered.stages.len()).find(|place| before(&lowered, *place).is_some())
    {
        let from = before(&lowered, place).expect("it was found");
        join(&mut lowered, from, place);
    }
    lowered
}

/// The stage that a stage can be joined to.
fn before(lowered: &Lowered, place: usize) -> Option<usize> {
    let stage = &lowered.stages[place];
    let StageInput::Edges(edges) = &stage.input else { return None };
    let [edge] = edges.as_slice() else { return None };
    let from = &lowered.stages[edge.from];
    let readers = lowered.stages.iter().filter_map(|stage| match &stage.input {
        StageInput::Edges(edges) => Some(edges),
        StageInput::Source { .. } => None,
    });
    let last = from.operators.len().saturating_sub(1);
    let of_last = readers
        .flatten()
        .filter(|other| (other.from, other.operator, other.port) == (edge.from, last, MAIN));
    let fits = edge.partitioning == Partitioning::Forward
        && (edge.operator, edge.port) == (last, MAIN)
        && from.parallelism == stage.parallelism
        && from.sink.is_none()
        && lowered.output != edge.from
        && of_last.count() == 1;
    fits.then_some(edge.from)
}

/// Puts the operators of stage `place` behind those of `from`, which is before it.
fn join(lowered: &mut Lowered, from: usize, place: usize) {
    let stage = lowered.stages.remove(place);
    let shift = lowered.stages[from].operators.len();
    lowered.stages[from].operators.extend(stage.operators);
    lowered.stages[from].sink = stage.sink;
    let moved = |stage: &mut usize, operator: &mut usize| {
        if *stage == place {
            *stage = from;
            *operator += shift;
        } else if *stage > place {
            *stage -= 1;
        }
    };
    for stage in &mut lowered.stages {
        if let StageInput::Edges(edges) = &mut stage.input {
            for edge in edges {
                moved(&mut edge.from, &mut edge.operator);
            }
        }
    }
    for side in &mut lowered.sides {
        moved(&mut side.stage, &mut side.operator);
    }
    let mut nothing = 0;
    moved(&mut lowered.output, &mut nothing);
}
