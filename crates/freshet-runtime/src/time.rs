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
    /// How far it had come before it came to its end.
    before_end: EventTime,
    idle: bool,
}

impl Input {
    /// Nothing is known of it.
    const NEW: Self = Self { watermark: EventTime::MIN, before_end: EventTime::MIN, idle: false };

    fn come_to(&mut self, watermark: EventTime) {
        self.watermark = self.watermark.max(watermark);
        if watermark != EventTime::MAX {
            self.before_end = self.before_end.max(watermark);
        }
    }

    /// Whether nothing will come any more.
    fn has_ended(self) -> bool {
        self.watermark == EventTime::MAX
    }
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
        Self { inputs: vec![Input::NEW; inputs], combined: EventTime::MIN }
    }

    /// As [`Self::new`], where time had come to `combined` before: it does not go back behind it.
    pub fn restored(inputs: usize, combined: EventTime) -> Self {
        Self { combined, ..Self::new(inputs) }
    }

    /// There are this many inputs now: nothing is known of the new ones.
    pub fn extend(&mut self, inputs: usize) {
        self.inputs.resize(inputs, Input::NEW);
    }

    /// How far time has come for all inputs together.
    pub fn combined(&self) -> EventTime {
        self.combined
    }

    /// How far the time of one input has come, and whether it is idle.
    pub fn input(&self, input: usize) -> Option<(EventTime, bool)> {
        self.inputs.get(input).map(|input| (input.watermark, input.idle))
    }

    /// Whether all inputs are idle that have not come to their end.
    pub fn is_idle(&self) -> bool {
        !self.has_ended() && self.inputs.iter().all(|input| input.idle || input.has_ended())
    }

    fn has_ended(&self) -> bool {
        !self.inputs.is_empty() && self.inputs.iter().all(|input| input.has_ended())
    }

    /// How far the input has come that came furthest, its end apart.
    fn furthest(&self) -> Option<EventTime> {
        self.inputs.iter().map(|input| input.before_end).max()
    }

    /// An input has come to `watermark`, and is not idle.
    pub fn advance(&mut self, input: usize, watermark: EventTime) -> Merged {
        let place = &mut self.inputs[input];
        place.come_to(watermark);
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
        Merged { is_idle: true, ..self.reach(self.furthest()) }
    }

    /// Time has come to `time` whatever the inputs say.
    pub fn raise(&mut self, time: EventTime) -> Merged {
        self.reach(Some(time))
    }

    fn merge(&mut self) -> Merged {
        if self.has_ended() {
            return self.reach(Some(EventTime::MAX));
        }
        // Of those that are idle more may come: the end of the others is not the end of time.
        let active = self.inputs.iter().filter(|input| !input.idle && !input.has_ended());
        self.reach(active.map(|input| input.watermark).min())
    }

    /// Time has come as far as those had that have ended and were not idle.
    fn reach_last_words(&mut self) -> Merged {
        let ended = self.inputs.iter().filter(|input| !input.idle && input.has_ended());
        self.reach(ended.map(|input| input.before_end).max())
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

/// The watermarks of the channels of a task.
///
/// All instances of a stage have to have come equally far when a barrier passes: what a checkpoint says
/// of event time, it says of all of them. Their channels carry the same, but come in any order among
/// each other; and how far time ever came depends on that order where a channel falls idle, or is not
/// idle any more. So both count from the next barrier on, which is at the same place of all channels.
/// A channel that was idle before it said anything counts as idle at once.
#[derive(Debug, Clone)]
pub struct ChannelMerge {
    merge: WatermarkMerge,
    /// What the next barrier makes of each.
    idle: Vec<bool>,
    /// Those behind know that all of them are idle.
    told_idle: bool,
}

impl ChannelMerge {
    /// Of channels that have said nothing yet, where time had come to `combined` before.
    pub fn restored(channels: usize, combined: EventTime) -> Self {
        Self {
            merge: WatermarkMerge::restored(channels, combined),
            idle: vec![false; channels],
            told_idle: false,
        }
    }

    /// A channel has come to `watermark`, and is not idle.
    pub fn advance(&mut self, channel: usize, watermark: EventTime) -> Merged {
        self.idle[channel] = false;
        self.merge.inputs[channel].come_to(watermark);
        self.merge.merge()
    }

    /// A channel is idle until it says how far its time has come.
    pub fn idle(&mut self, channel: usize) -> Merged {
        self.idle[channel] = true;
        let input = &mut self.merge.inputs[channel];
        input.idle |= input.watermark == EventTime::MIN;
        self.merge.merge()
    }

    /// A barrier has come on all channels.
    pub fn settle(&mut self) -> Merged {
        // Where all that were waited for have ended, the order of their last words does not matter.
        let last = match self.is_idle() {
            true => self.merge.reach_last_words(),
            false => Merged::SAME,
        };
        for (input, idle) in self.merge.inputs.iter_mut().zip(&self.idle) {
            input.idle = *idle;
        }
        if !self.is_idle() {
            self.told_idle = false;
            return last.then(self.merge.merge());
        }
        let furthest = self.merge.furthest();
        let is_idle = !std::mem::replace(&mut self.told_idle, true);
        last.then(Merged { is_idle, ..self.merge.reach(furthest) })
    }

    /// Whether all channels are idle.
    pub fn is_idle(&self) -> bool {
        self.merge.is_idle()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Said {
        Watermark(i64),
        Idle,
    }

    /// How far an instance has come at each barrier that takes, between two of them, what `channels`
    /// say in the order that `choices` draw.
    fn come(channels: &[Vec<Vec<Said>>], choices: &[usize]) -> Vec<EventTime> {
        let epochs = channels[0].len();
        let mut merge = ChannelMerge::restored(channels.len(), EventTime::MIN);
        let mut choices = choices.iter().cycle();
        let mut come = Vec::new();
        for epoch in 0..epochs {
            let mut next = vec![0; channels.len()];
            loop {
                let left = (0..channels.len()).filter(|of| next[*of] < channels[*of][epoch].len());
                let left: Vec<usize> = left.collect();
                if left.is_empty() {
                    break;
                }
                let channel = left[choices.next().expect("it cycles") % left.len()];
                match channels[channel][epoch][next[channel]] {
                    Said::Watermark(time) => merge.advance(channel, EventTime(time)),
                    Said::Idle => merge.idle(channel),
                };
                next[channel] += 1;
            }
            merge.settle();
            come.push(merge.merge.combined());
        }
        come
    }

    proptest! {
        #[test]
        fn instances_have_come_equally_far_at_a_barrier(
            channels in (1_usize..4, 1_usize..5).prop_flat_map(|(channels, epochs)| {
                let said = prop_oneof![
                    6 => (0_i64..50).prop_map(Said::Watermark),
                    2 => Just(Said::Idle),
                    1 => Just(Said::Watermark(i64::MAX)),
                ];
                let epoch = prop::collection::vec(said, 0..5);
                prop::collection::vec(prop::collection::vec(epoch, epochs), channels)
            }),
            first in prop::collection::vec(0_usize..4, 1..40),
            second in prop::collection::vec(0_usize..4, 1..40),
        ) {
            prop_assert_eq!(come(&channels, &first), come(&channels, &second));
        }
    }

    #[test]
    fn nobody_waits_for_a_channel_that_was_idle_when_a_barrier_came() {
        let mut merge = ChannelMerge::restored(3, EventTime::MIN);
        assert_eq!(merge.idle(2), Merged::SAME);
        merge.advance(0, EventTime(10));
        assert_eq!(merge.advance(1, EventTime(5)), EventTime(5).into(), "one never said anything");
        assert_eq!(merge.idle(1), Merged::SAME, "not before the barrier");
        assert_eq!(merge.settle(), EventTime(10).into());
        assert_eq!(merge.advance(1, EventTime(6)), Merged::SAME);
        assert_eq!(merge.advance(0, EventTime(12)), EventTime(12).into(), "it is idle until then");
        assert_eq!(merge.settle(), Merged::SAME);
        assert_eq!(merge.advance(0, EventTime(20)), Merged::SAME, "it is behind");
        assert_eq!(merge.advance(1, EventTime(15)), EventTime(15).into());
        merge.idle(0);
        merge.idle(1);
        assert_eq!(merge.advance(2, EventTime::MAX), Merged::SAME);
        assert_eq!(merge.settle(), Merged { watermark: Some(EventTime(20)), is_idle: true });
        assert_eq!(merge.settle(), Merged::SAME, "said once");
        assert_eq!(merge.advance(0, EventTime::MAX), Merged::SAME, "another one is idle");
        assert_eq!(merge.settle(), Merged::SAME);
        assert_eq!(merge.advance(1, EventTime::MAX), EventTime::MAX.into());
    }

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
