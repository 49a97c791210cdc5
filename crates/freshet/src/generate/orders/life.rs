//! What becomes of an order and when, and which events a second has.
//!
//! Orders are divided into 256 groups; those of a group have the same delays, in whole seconds. So
//! the events of a second are found from the numbers of orders placed in earlier ones, remembering none,
//! and a stream can begin with orders under way.

use std::collections::VecDeque;

use serde::Serialize;

use super::world::{CITIES, Mood, World};
use crate::generate::rng::{Rng, below, below_wide, threshold};

/// What an order event says has come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The customer has ordered.
    Placed,
    /// The restaurant has accepted.
    Accepted,
    /// It is cooked.
    Ready,
    /// The courier has it.
    PickedUp,
    /// The customer has it.
    Delivered,
    /// It will not come: called off by the customer, soon after it was placed.
    Cancelled,
}

impl Status {
    /// All, in the order of an order's life.
    pub const ALL: [Status; 6] = [
        Self::Placed,
        Self::Accepted,
        Self::Ready,
        Self::PickedUp,
        Self::Delivered,
        Self::Cancelled,
    ];

    /// As records have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Accepted => "accepted",
            Self::Ready => "ready",
            Self::PickedUp => "picked_up",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a courier event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Courier {
    Assigned,
    PickedUp,
    Delivered,
}

impl Courier {
    const ALL: [Courier; 3] = [Self::Assigned, Self::PickedUp, Self::Delivered];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::PickedUp => "picked_up",
            Self::Delivered => "delivered",
        }
    }
}

/// Which event of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Order(Status),
    Courier(Courier),
}

impl Step {
    fn number(self) -> u64 {
        match self {
            Self::Order(status) => status as u64,
            Self::Courier(courier) => 8 + courier as u64,
        }
    }
}

/// An order's number: the second it was placed in, its city, and which it is of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OrderId(pub(super) u64);

/// Orders are placed up to two hours before the stream begins.
const BEFORE: i64 = 8_192;
/// Seconds that a number has room for, about four years.
pub(super) const MAX_SECONDS: i64 = 1 << 27;

impl OrderId {
    fn new(second: i64, city: usize, nth: u32) -> Self {
        Self(((second + BEFORE) as u64) << 24 | (city as u64) << 20 | u64::from(nth))
    }

    /// What is added to numbers in records of a stream that begins at `start`, in milliseconds since
    /// 1970, in real time: the orders of two such streams are different ones.
    pub(super) fn base(start: i64) -> u64 {
        (start.div_euclid(1_000) as u64) << 24
    }

    /// The number in records.
    pub(super) fn written(self, base: u64) -> u64 {
        self.0 + base
    }

    pub(super) fn city(self) -> usize {
        (self.0 >> 20 & 15) as usize
    }

    pub(super) fn second(self) -> i64 {
        (self.0 >> 24) as i64 - BEFORE
    }
}

/// How an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// As it is, in time.
    Good,
    /// Once more, in time.
    Repeat,
    /// As it is, when its minute has closed.
    Late,
    /// With a fault; the number is chance for the details.
    Bad(u64),
}

/// Something that is sent. Times are in milliseconds since the stream's begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) arrival: i64,
    pub(super) order: OrderId,
    pub(super) step: Step,
    pub(super) at: i64,
    /// `Repeat` is behind `Good`: what comes at the same time as its copy comes first.
    pub(super) fate: Fate,
}

/// Groups of orders with the same delays.
const GROUPS: u32 = 256;
const NONE: u16 = u16::MAX;
/// Seconds from when an order is placed to its last event, at most.
const LONGEST: i64 = 4_500;
/// What an order is delivered within, in seconds.
pub(super) const IN_TIME: i64 = 45 * 60;

const SPACE_LIFE: u64 = 20;
const SPACE_GROUP: u64 = 21;
const SPACE_EVENT: u64 = 22;

/// Seconds from when an order is placed to each of its events.
#[derive(Debug, Clone, Copy)]
struct Life {
    order: [u16; Status::ALL.len()],
    courier: [u16; Courier::ALL.len()],
}

impl Life {
    fn new(seed: u64, group: u32) -> Self {
        let mut rng = Rng::at(seed, SPACE_LIFE, u64::from(group));
        let mut draw = |from: u32, to: u32| from + below((rng.bits() >> 32) as u32, to - from);
        let accepted = draw(10, 180);
        let assigned = accepted + draw(20, 200);
        let ready = accepted + draw(240, 900);
        let picked_up = ready.max(assigned) + draw(30, 300);
        let delivered = picked_up + draw(300, 1_080);
        let lost = group % 51 == 3;
        let called_off = group % 32 == 7;
        let slow = group % 36 == 5;
        let mut life = Self { order: [NONE; 6], courier: [NONE; 3] };
        let mut set = |status: Status, after: u32| life.order[status as usize] = after as u16;
        set(Status::Placed, 0);
        if called_off {
            set(Status::Cancelled, accepted + draw(5, 60));
            // Half of them after the restaurant has accepted.
            if group % 64 == 7 {
                set(Status::Accepted, accepted);
            }
            return life;
        }
        set(Status::Accepted, accepted);
        set(Status::Ready, ready);
        set(Status::PickedUp, picked_up);
        life.courier[Courier::Assigned as usize] = assigned as u16;
        life.courier[Courier::PickedUp as usize] = picked_up as u16;
        if !lost {
            // In time with a minute to spare, or a minute too late at least: chance within a second
            // does not matter.
            let delivered = if slow { draw(2_760, LONGEST as u32) } else { delivered.min(2_640) };
            life.order[Status::Delivered as usize] = delivered as u16;
            life.courier[Courier::Delivered as usize] = delivered as u16;
        }
        life
    }
}

/// Why an order was not delivered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Undelivered {
    /// It was called off.
    Cancelled,
    /// The courier never came.
    Never,
    /// The courier came later.
    TooLate,
    /// The courier came in time, but the city was silent then.
    Silent,
}

/// How events are to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    /// Milliseconds by which events in time are out of order at most.
    pub(super) bound: i64,
    pub(super) bad: f64,
    pub(super) late: f64,
    pub(super) repeated: f64,
}

/// Milliseconds behind `bound` by which late events come at least: their minute has closed then,
/// as long as the stream goes on.
pub(super) const LATE_FROM: i64 = 70_000;
const LATE_SPREAD: u32 = 120_000;

/// The longest that an event is under way, in milliseconds.
pub(super) fn longest(bound: i64) -> i64 {
    bound + LATE_FROM + i64::from(LATE_SPREAD)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lives {
    seed: u64,
    lives: Vec<Life>,
    sending: Sending,
    bad: u64,
    late: u64,
    repeated: u64,
    /// The stream's begin in milliseconds since 1970, for minutes are those of the clock.
    start: i64,
    /// Seconds of event time.
    seconds: i64,
    /// What the last seconds placed, up to the one whose events were asked for last.
    recent: VecDeque<[Placed; CITIES.len()]>,
    /// The second that `recent` begins with.
    recent_from: i64,
}

/// The orders that a city places in a second.
#[derive(Debug, Clone, Copy)]
struct Placed {
    count: u32,
    /// The group of the first.
    turn: u32,
}

impl Lives {
    pub(super) fn new(seed: u64, sending: Sending, start: i64, seconds: i64) -> Self {
        Self {
            seed,
            lives: (0..GROUPS).map(|group| Life::new(seed, group)).collect(),
            bad: threshold(sending.bad),
            late: threshold(sending.late),
            repeated: threshold(sending.repeated),
            sending,
            start,
            seconds,
            recent: VecDeque::new(),
            recent_from: -LONGEST,
        }
    }

    /// Order events that an order has on average.
    pub(super) fn events_of_an_order(&self) -> f64 {
        let events =
            self.lives.iter().flat_map(|life| life.order).filter(|delay| *delay != NONE).count();
        events as f64 / f64::from(GROUPS)
    }

    /// The minute that a time is in, counted from that of the begin.
    pub(super) fn minute(&self, at: i64) -> i64 {
        (self.start + at).div_euclid(60_000) - self.start.div_euclid(60_000)
    }

    /// Calls `each` with the events of one second of event time, each as often as it is sent.
    /// Seconds are asked for one after another.
    pub(super) fn events(&mut self, world: &World, second: i64, each: &mut dyn FnMut(Event)) {
        self.remember(world, second);
        let minute = self.minute(second * 1_000);
        for city in 0..CITIES.len() {
            if world.mood(city, minute) == Mood::Silent {
                continue;
            }
            let steps = Status::ALL.iter().map(|status| Step::Order(*status));
            for step in steps.chain(Courier::ALL.iter().map(|courier| Step::Courier(*courier))) {
                for (group, life) in (0..).zip(&self.lives) {
                    let delay = match step {
                        Step::Order(status) => life.order[status as usize],
                        Step::Courier(courier) => life.courier[courier as usize],
                    };
                    if delay == NONE {
                        continue;
                    }
                    let placed = second - i64::from(delay);
                    let orders = self.recent[(placed - self.recent_from) as usize][city];
                    let mut nth = (group + GROUPS - orders.turn) % GROUPS;
                    while nth < orders.count {
                        self.send(OrderId::new(placed, city, nth), step, second, each);
                        nth += GROUPS;
                    }
                }
            }
        }
    }

    fn remember(&mut self, world: &World, second: i64) {
        let mut next = self.recent_from + self.recent.len() as i64;
        while next <= second {
            let minute = self.minute(next * 1_000);
            let placed = std::array::from_fn(|city| Placed {
                count: world.placed(city, next, minute),
                turn: self.turn(next, city),
            });
            self.recent.push_back(placed);
            next += 1;
        }
        while second - self.recent_from > LONGEST {
            self.recent.pop_front();
            self.recent_from += 1;
        }
    }

    fn send(&self, order: OrderId, step: Step, second: i64, each: &mut dyn FnMut(Event)) {
        let place = order.0.wrapping_mul(16).wrapping_add(step.number());
        let mut rng = Rng::at(self.seed, SPACE_EVENT, place);
        let (first, detail) = (rng.bits(), rng.bits());
        let at = second * 1_000 + i64::from(below(first as u32, 1_000));
        let bound = self.sending.bound;
        let within = |bits: u64, limit: i64| below_wide(bits, limit.unsigned_abs()) as i64;
        let delay = within(rng.bits(), bound);
        let event = Event { arrival: at + delay, order, step, at, fate: Fate::Good };
        if matches!(step, Step::Courier(_)) {
            return each(event);
        }
        if first >> 32 < self.bad {
            return each(Event { fate: Fate::Bad(rng.bits()), ..event });
        }
        if detail & 0xFFFF_FFFF < self.late {
            let late = bound + LATE_FROM + i64::from(below((detail >> 32) as u32, LATE_SPREAD));
            // What would come when the stream is over would not be late.
            if at + late < self.seconds * 1_000 {
                return each(Event { arrival: at + late, fate: Fate::Late, ..event });
            }
        }
        each(event);
        if detail >> 32 < self.repeated {
            let again = delay + within(rng.bits(), bound - delay);
            each(Event { arrival: at + again, fate: Fate::Repeat, ..event });
        }
    }

    /// Whether, by the courier events that are sent, an order was not delivered within 45 minutes;
    /// and when it was, in seconds of the stream.
    pub(super) fn undelivered(&self, world: &World, order: OrderId) -> Option<Undelivered> {
        let nth = (order.0 & 0xF_FFFF) as u32;
        let (placed, city) = (order.second(), order.city());
        let life = &self.lives[((nth + self.turn(placed, city)) % GROUPS) as usize];
        if life.order[Status::Cancelled as usize] != NONE {
            return Some(Undelivered::Cancelled);
        }
        match life.courier[Courier::Delivered as usize] {
            NONE => Some(Undelivered::Never),
            delay if i64::from(delay) > IN_TIME => Some(Undelivered::TooLate),
            delay => {
                let minute = self.minute((placed + i64::from(delay)) * 1_000);
                (world.mood(city, minute) == Mood::Silent).then_some(Undelivered::Silent)
            }
        }
    }

    /// Which group the first order of a second is in: another each time.
    fn turn(&self, second: i64, city: usize) -> u32 {
        let place = second.wrapping_mul(16).wrapping_add(city as i64) as u64;
        Rng::at(self.seed, SPACE_GROUP, place).bits() as u32 % GROUPS
    }
}
