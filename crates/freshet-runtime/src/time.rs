//! Watermarks: how far event time has come.

use freshet_core::stream::EventTime;

/// The watermarks of several inputs, combined by minimum over those that are not idle.
///
/// A watermark of `t` says that every row up to and including `t` was seen, those apart that are
/// late. What is combined never goes back.
#[derive(Debug, Clone)]
pub struct WatermarkMerge {
    inputs: Vec<Input>,
    combined: EventTime,
}

#[derive(Debug, Clone, Copy)]
struct Input {
    watermark: EventTime,
    idle: bool,
}

/// What the inputs say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// Nothing that was not known before.
    Same,
    /// Event time has come this far.
    Watermark(EventTime),
    /// All inputs are idle: whoever listens should not wait for this one.
    Idle,
}

impl WatermarkMerge {
    /// No input has said anything yet.
    pub fn new(inputs: usize) -> Self {
        let input = Input { watermark: EventTime::MIN, idle: false };
        Self { inputs: vec![input; inputs], combined: EventTime::MIN }
    }

    /// As [`Self::new`], where time had come to `combined` before: it does not go back behind it.
    pub fn restored(inputs: usize, combined: EventTime) -> Self {
        Self { combined, ..Self::new(inputs) }
    }

    /// There are this many inputs now: nothing is known of the new ones.
    pub fn extend(&mut self, inputs: usize) {
        self.inputs.resize(inputs, Input { watermark: EventTime::MIN, idle: false });
    }

    /// How far time has come for all inputs together.
    pub fn combined(&self) -> EventTime {
        self.combined
    }

    /// An input has come to `watermark`, and is not idle.
    pub fn advance(&mut self, input: usize, watermark: EventTime) -> Merged {
        let place = &mut self.inputs[input];
        place.watermark = place.watermark.max(watermark);
        place.idle = false;
        self.merge()
    }

    /// An input has rows again, though no watermark came with them.
    pub fn activate(&mut self, input: usize) {
        self.inputs[input].idle = false;
    }

    /// An input has had nothing for a while: nobody waits for it.
    pub fn idle(&mut self, input: usize) -> Merged {
        if std::mem::replace(&mut self.inputs[input].idle, true) {
            return Merged::Same;
        }
        match self.merge() {
            Merged::Same if self.inputs.iter().all(|input| input.idle) => Merged::Idle,
            other => other,
        }
    }

    fn merge(&mut self) -> Merged {
        let active = self.inputs.iter().filter(|input| !input.idle);
        match active.map(|input| input.watermark).min() {
            Some(least) if least > self.combined => {
                self.combined = least;
                Merged::Watermark(least)
            }
            _ => Merged::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_active_input_decides() {
        let mut merge = WatermarkMerge::new(2);
        assert_eq!(merge.advance(0, EventTime(10)), Merged::Same);
        assert_eq!(merge.advance(1, EventTime(4)), Merged::Watermark(EventTime(4)));
        assert_eq!(merge.advance(1, EventTime(12)), Merged::Watermark(EventTime(10)));
        assert_eq!(merge.advance(1, EventTime(3)), Merged::Same, "it does not go back");
    }

    #[test]
    fn nobody_waits_for_an_idle_input() {
        let mut merge = WatermarkMerge::new(2);
        merge.advance(0, EventTime(10));
        assert_eq!(merge.idle(1), Merged::Watermark(EventTime(10)));
        assert_eq!(merge.advance(1, EventTime(5)), Merged::Same, "one that comes back is behind");
        assert_eq!(merge.advance(0, EventTime(20)), Merged::Same);
        assert_eq!(merge.advance(1, EventTime(15)), Merged::Watermark(EventTime(15)));
        assert_eq!(merge.idle(0), Merged::Same);
        assert_eq!(merge.idle(1), Merged::Idle);
        assert_eq!(merge.idle(1), Merged::Same, "said once");
    }
}
