//! The cities: how many orders are placed in each second, and when one surges, drops or falls silent.

use crate::generate::rng::{Rng, below};

/// Names and weights. They are places, so that text beyond ASCII occurs.
pub(super) const CITIES: [(&str, f64); 10] = [
    ("Paris", 20.0),
    ("Berlin", 17.0),
    ("Madrid", 14.0),
    ("Wien", 11.0),
    ("Zürich", 10.0),
    ("Kraków", 9.0),
    ("Lyon", 7.0),
    ("Malmö", 5.0),
    ("Porto", 4.0),
    ("Gent", 3.0),
];

/// What is particular about a city in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Normal,
    /// Four times as many orders are placed.
    Surge,
    /// A fifth of the orders is placed.
    Drop,
    /// Nothing is placed and nothing is sent, as if its line were cut.
    Silent,
}

/// Places of chance, each used by one thing.
const SPACE_MOOD: u64 = 10;
const SPACE_COUNT: u64 = 11;

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    /// Orders placed in a second in each city, where nothing is particular.
    placed: [f64; CITIES.len()],
    /// Minutes after which something particular happens again; 0 is never.
    cycle: i64,
}

impl World {
    /// With `placed` orders a second in all cities together, over `minutes`.
    pub(super) fn new(seed: u64, placed: f64, minutes: i64) -> Self {
        let total: f64 = CITIES.iter().map(|(_, weight)| weight).sum();
        Self {
            seed,
            placed: CITIES.map(|(_, weight)| placed * weight / total),
            cycle: if minutes < 10 { 0 } else { minutes.min(60) },
        }
    }

    /// In each cycle (an hour, or the span where that is shorter; none under ten minutes) one city
    /// falls silent, another surges and a third drops, for a few whole minutes each.
    pub(super) fn mood(&self, city: usize, minute: i64) -> Mood {
        if self.cycle == 0 || minute < 0 {
            return Mood::Normal;
        }
        let at = minute % self.cycle;
        let mut rng = Rng::at(self.seed, SPACE_MOOD, (minute / self.cycle) as u64);
        let cities = CITIES.len() as u32;
        let first = below(rng.bits() as u32, cities);
        for (number, (mood, tenths, part)) in
            [(Mood::Silent, 30, 12), (Mood::Surge, 55, 20), (Mood::Drop, 80, 12)]
                .into_iter()
                .enumerate()
        {
            let begin = self.cycle * tenths / 100;
            let long = (self.cycle / part).max(2);
            // Three steps of three among ten never meet.
            let chosen = (first + 3 * number as u32) % cities;
            if chosen as usize == city && (begin..begin + long).contains(&at) {
                return mood;
            }
        }
        Mood::Normal
    }

    /// How many orders are placed in a city in a second, which lies in `minute`.
    pub(super) fn placed(&self, city: usize, second: i64, minute: i64) -> u32 {
        let factor = match self.mood(city, minute) {
            Mood::Normal => 1.0,
            Mood::Surge => 4.0,
            Mood::Drop => 0.2,
            Mood::Silent => return 0,
        };
        let place = second.wrapping_mul(16).wrapping_add(city as i64) as u64;
        let bits = Rng::at(self.seed, SPACE_COUNT, place).bits();
        let unit = |bits: u32| f64::from(bits) / 4_294_967_296.0;
        // A tenth more or less, and the fraction by chance.
        let mean = self.placed[city] * factor * (0.9 + 0.2 * unit(bits as u32));
        (mean + unit((bits >> 32) as u32)) as u32
    }
}
