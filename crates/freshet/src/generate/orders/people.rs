//! Customers and restaurants: who there is, how they change, and whom nobody knows at first.

use super::record::Writer;
use super::world::CITIES;
use crate::generate::rng::{Rng, below, threshold};
use crate::generate::text::{number, two};

const SPACE_CUSTOMER: u64 = 40;
const SPACE_RESTAURANT: u64 = 41;
const SPACE_MISSING: u64 = 42;

/// In a minute one customer of a thousand changes, and one restaurant of two hundred.
const CUSTOMER_CHANGES: f64 = 0.001;
const RESTAURANT_CHANGES: f64 = 0.005;
/// What was known before the stream began was so for a day.
const KNOWN_SINCE: i64 = -86_400_000;

const TIERS: [&str; 4] = ["basic", "silver", "gold", "staff"];
const FIRST: [&str; 8] = ["Ada", "Ben", "Chloé", "Dario", "Eva", "Finn", "Zoë", "Jürgen"];
const LAST: [&str; 8] =
    ["Moreau", "Weber", "García", "Nowak", "Silva", "Jansen", "O\\\"Neil", "Björk"];
const CUISINES: [&str; 8] =
    ["pizza", "sushi", "burgers", "thai", "tapas", "vegan", "crêpes", "döner"];
const PLACES: [&str; 6] = ["Chez", "Zum", "Casa", "La", "Pod", "Golden"];

/// Something that becomes known of a person or a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    /// When it is sent; whole seconds where a missing customer becomes known.
    pub(super) arrival: i64,
    pub(super) who: Who,
    /// Since when it is so, in milliseconds of the stream.
    since: i64,
    /// Which state: 0 is the first.
    version: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Restaurant(u32),
    Customer(u32),
}

/// See the module.
#[derive(Debug)]
pub(super) struct People {
    seed: u64,
    customers: u32,
    restaurants: u32,
    missing: u64,
    /// The span in which missing customers become known, in seconds.
    appearing: u32,
}

impl People {
    pub(super) fn new(
        seed: u64,
        customers: u32,
        restaurants: u32,
        missing: f64,
        seconds: i64,
    ) -> Self {
        Self {
            seed,
            customers,
            restaurants,
            missing: threshold(missing),
            appearing: seconds.clamp(1, 1_800) as u32,
        }
    }

    /// The customer that chance chooses.
    pub(super) fn customer(&self, bits: u32) -> u32 {
        1 + below(bits, self.customers)
    }

    /// The restaurant of a city that chance chooses.
    pub(super) fn restaurant(&self, city: usize, bits: u32) -> u32 {
        let cities = CITIES.len() as u32;
        let here = (self.restaurants - city as u32).div_ceil(cities);
        1 + city as u32 + cities * below(bits, here)
    }

    /// When a customer that is missing at first becomes known: between a fifth and four fifths of
    /// the span, or of half an hour where the span is longer.
    pub(super) fn known_from(&self, customer: u32) -> Option<i64> {
        let bits = Rng::at(self.seed, SPACE_MISSING, u64::from(customer)).bits();
        let missing = bits & 0xFFFF_FFFF < self.missing;
        missing.then(|| {
            let fifth = self.appearing / 5;
            i64::from(fifth + below((bits >> 32) as u32, (3 * fifth).max(1))) * 1_000
        })
    }

    /// What is known when the stream begins.
    pub(super) fn known(&self) -> impl Iterator<Item = Change> + '_ {
        let first = |who| Change { arrival: 0, who, since: KNOWN_SINCE, version: 0 };
        let restaurants = (1..=self.restaurants).map(Who::Restaurant).map(first);
        let known = |customer: &u32| self.known_from(*customer).is_none();
        restaurants.chain((1..=self.customers).filter(known).map(Who::Customer).map(first))
    }

    /// The customers that are missing at first, and when they become known.
    pub(super) fn missing(&self) -> impl Iterator<Item = (u32, i64)> + '_ {
        (1..=self.customers).filter_map(|id| self.known_from(id).map(|from| (id, from)))
    }

    /// What becomes known in a minute of the stream, in order.
    pub(super) fn changes(&self, minute: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        let (begin, end) = (minute * 60_000, (minute + 1) * 60_000);
        let draw = |space: u64, id: u32, share: u64, from: i64, who: Who| {
            let place = (u64::from(id) << 32) ^ (minute as u64);
            let bits = Rng::at(self.seed, space, place).bits();
            let at = begin + i64::from(below((bits >> 32) as u32, 60_000));
            (bits & 0xFFFF_FFFF < share && at > from).then_some(Change {
                arrival: at,
                who,
                since: at,
                version: 1 + minute,
            })
        };
        let share = threshold(RESTAURANT_CHANGES);
        for id in 1..=self.restaurants {
            changes.extend(draw(SPACE_RESTAURANT, id, share, 0, Who::Restaurant(id)));
        }
        let share = threshold(CUSTOMER_CHANGES);
        for id in 1..=self.customers {
            // Nobody hears of changes of those whom nobody knows.
            let from = self.known_from(id).unwrap_or(0);
            changes.extend(draw(SPACE_CUSTOMER, id, share, from, Who::Customer(id)));
            if from > 0 && (begin..end).contains(&from) {
                let who = Who::Customer(id);
                changes.push(Change { arrival: from, who, since: KNOWN_SINCE, version: 0 });
            }
        }
        changes.sort_unstable();
        changes
    }

    /// Appends a change as a line.
    pub(super) fn write(&self, change: &Change, times: &mut Writer, out: &mut Vec<u8>) {
        let text = |name: &str, value: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":\"");
            out.extend_from_slice(value.as_bytes());
            out.push(b'"');
        };
        let pick = |from: &[&'static str], bits: u64| from[bits as usize % from.len()];
        // The name stays, the rest is another with each state.
        let chance = |space: u64, id: u32| {
            let fixed = Rng::at(self.seed, space + 100, u64::from(id)).bits();
            let state = (u64::from(id) << 32) ^ (change.version as u64);
            (fixed, Rng::at(self.seed, space + 200, state).bits())
        };
        match change.who {
            Who::Restaurant(id) => {
                let (fixed, state) = chance(SPACE_RESTAURANT, id);
                out.extend_from_slice(b"{\"restaurant_id\":");
                number(u64::from(id), out);
                let name = format!("{} {}", pick(&PLACES, fixed), pick(&LAST, fixed >> 8));
                text("name", &name, out);
                text("city", CITIES[(id - 1) as usize % CITIES.len()].0, out);
                text("cuisine", pick(&CUISINES, state), out);
                out.extend_from_slice(b",\"commission\":0.");
                two(10 + (state >> 8) % 20, out);
            }
            Who::Customer(id) => {
                let (fixed, state) = chance(SPACE_CUSTOMER, id);
                out.extend_from_slice(b"{\"customer_id\":");
                number(u64::from(id), out);
                let name = format!("{} {}", pick(&FIRST, fixed), pick(&LAST, fixed >> 8));
                text("name", &name, out);
                text("tier", pick(&TIERS, state), out);
            }
        }
        out.extend_from_slice(b",\"valid_from\":\"");
        times.time(change.since, out);
        out.extend_from_slice(b"\",\"recorded_at\":\"");
        times.time(change.arrival, out);
        out.extend_from_slice(b"\"}\n");
    }
}
