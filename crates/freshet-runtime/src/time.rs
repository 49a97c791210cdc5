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

/// What the inputs say together that was not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Event time has come this far.
    pub watermark: Option<EventTime>,
    /// All inputs are idle now: whoever listens should not wait for this one.
    pub is_idle: bool,
}

impl Merged {
    /// Nothing.
    pub const SAME: Self = Self { watermark: None, is_idle: false };

    /// This, and what was said after it.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self { watermark: later.watermark.or(self.watermark), is_idle: later.is_idle }
    }
}

impl From<EventTime> for Merged {
    fn from(watermark: EventTime) -> Self {
        Self { watermark: Some(watermark), is_idle: false }
    }
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

    /// How far the time of one input has come, and whether it is idle.
    pub fn input(&self, input: usize) -> Option<(EventTime, bool)> {
        self.inputs.get(input).map(|input| (input.watermark, input.idle))
    }

    /// Whether all inputs are idle.
    pub fn is_idle(&self) -> bool {
        self.inputs.iter().all(|input| input.idle)
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

    /// An input has had nothing for a while: nobody waits for it. Once all are idle, time has come
    /// as far as the one that came furthest says, whichever was idle first; as in Flink.
    pub fn idle(&mut self, input: usize) -> Merged {
        if std::mem::replace(&mut self.inputs[input].idle, true) {
            return Merged::SAME;
        }
        if !self.is_idle() {
            return self.merge();
        }
        let furthest = self.inputs.iter().map(|input| input.watermark).max();
        Merged { is_idle: true, ..self.reach(furthest) }
    }

    /// Time has come to `time` whatever the inputs say.
    pub fn raise(&mut self, time: EventTime) -> Merged {
        self.reach(Some(time))
    }

    fn merge(&mut self) -> Merged {
        let active = self.inputs.iter().filter(|input| !input.idle);
        self.reach(active.map(|input| input.watermark).min())
    }

    fn reach(&mut self, time: Option<EventTime>) -> Merged {
        match time {
            Some(time) if time > self.combined => {
                self.combined = time;
                Merged::from(time)
            }
            _ => Merged::SAME,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_active_input_decides() {
        let mut merge = WatermarkMerge::new(2);
        assert_eq!(merge.advance(0, EventTime(10)), Merged::SAME);
        assert_eq!(merge.advance(1, EventTime(4)), EventTime(4).into());
        assert_eq!(merge.advance(1, EventTime(12)), EventTime(10).into());
        assert_eq!(merge.advance(1, EventTime(3)), Merged::SAME, "it does not go back");
    }

    #[test]
    fn nobody_waits_for_an_idle_input() {
        let mut merge = WatermarkMerge::new(2);
        merge.advance(0, EventTime(10));
        assert_eq!(merge.idle(1), EventTime(10).into());
        assert_eq!(merge.advance(1, EventTime(5)), Merged::SAME, "one that comes back is behind");
        assert_eq!(merge.advance(0, EventTime(20)), Merged::SAME);
        assert_eq!(merge.advance(1, EventTime(15)), EventTime(15).into());
        assert_eq!(merge.idle(0), Merged::SAME);
    }

    #[test]
    fn when_all_are_idle_the_furthest_decides() {
        for order in [[0, 1], [1, 0]] {
            let mut merge = WatermarkMerge::new(2);
            merge.advance(0, EventTime(20));
            merge.advance(1, EventTime(15));
            let said = merge.idle(order[0]).then(merge.idle(order[1]));
            assert_eq!(said, Merged { watermark: Some(EventTime(20)), is_idle: true }, "{order:?}");
            assert_eq!(merge.idle(order[0]), Merged::SAME, "said once");
        }
    }
}
