//! One event: who and what it is by its number, and its JSON.

use super::NexmarkEvents;
use super::tables::{Tables, string};
use crate::generate::rng::{Rng, below, below_wide};
use crate::generate::text::{TimeText, number, two};

/// Events after which the mixture repeats: one person, three auctions, 46 bids.
pub const EPOCH: u64 = PERSONS + AUCTIONS + BIDS;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;

const FIRST_PERSON: u64 = 1_000;
const FIRST_AUCTION: u64 = 1_000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u32 = 5;
/// Identifiers ahead of the last one that are drawn too: an event may name what comes a little later.
const LEAD: u64 = 10;
const ACTIVE_PEOPLE: u64 = 1_000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
/// A hot seller, auction or bidder is the first (second) of this many.
const HOT_GROUP: u64 = 100;
/// Of four sellers three are hot, of four bidders three, of two auctions one.
const HOT_SELLERS: u32 = 4;
const HOT_BIDDERS: u32 = 4;
const HOT_AUCTIONS: u32 = 2;

const PERSON_SIZE: usize = 200;
const AUCTION_SIZE: usize = 500;
const BID_SIZE: usize = 100;

/// The factor that shuffles within a group, as in the suite; it is prime.
pub(super) const SHUFFLE: u64 = 953;

/// Places of chance; [`super::tables`] has another.
const SPACE: u64 = 0;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter",
];
const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

/// What an event is, with what its truth counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new person.
    Person,
    /// A new auction.
    Auction {
        /// Its category, 10 to 14.
        category: u64,
    },
    /// A bid.
    Bid {
        /// In cents.
        price: u64,
    },
}

/// From an event's place in the stream to its number, identifiers and time.
#[derive(Debug, Clone)]
pub struct Numbers {
    seed: u64,
    start: i64,
    rate: u64,
    group: u64,
}

impl Numbers {
    pub(super) fn new(options: &NexmarkEvents) -> Self {
        Self {
            seed: options.seed,
            start: options.start.and_utc().timestamp_millis(),
            rate: options.first_event_rate,
            group: options.out_of_order_group,
        }
    }

    /// The number of the event at `place`: the same, but for shuffling within a group.
    pub fn number(&self, place: u64) -> u64 {
        let base = place / self.group * self.group;
        base + place % self.group * SHUFFLE % self.group
    }

    /// The event time of an event by its number, in milliseconds since 1970.
    pub fn time(&self, number: u64) -> i64 {
        self.start + (u128::from(number) * 1_000 / u128::from(self.rate)) as i64
    }

    /// The least and the greatest event time of the first `events`.
    pub(super) fn span(&self, events: u64) -> (i64, i64) {
        // The last group may be cut short, so that its greatest number is not its last.
        let tail = (events - 1) / self.group * self.group;
        let last = (tail..events).map(|place| self.number(place)).max().unwrap_or(0);
        let head = events.min(self.group);
        let first = (0..head).map(|place| self.number(place)).min().unwrap_or(0);
        (self.time(first), self.time(last))
    }

    /// A time that no event and no auction's end exceeds; `None` where it cannot be computed.
    pub(super) fn latest(&self, events: u64) -> Option<i64> {
        let number = u128::from(events) + u128::from(self.group) + 2 * u128::from(horizon());
        let millis = i64::try_from(number * 1_000 / u128::from(self.rate)).ok()?;
        self.start.checked_add(millis)?.checked_add(1_000)
    }
}

/// Events until as many auctions as are in flight will have come.
const fn horizon() -> u64 {
    AUCTIONS_IN_FLIGHT * EPOCH / AUCTIONS
}

/// The last person, from 0, when event `number` is made; its own where it is one. There is one in
/// an epoch, at its begin.
fn last_person(number: u64) -> u64 {
    number / EPOCH
}

/// The last auction, from 0, when event `number`, which is no person, is made; its own where it is one.
fn last_auction(number: u64) -> u64 {
    number / EPOCH * AUCTIONS + (number % EPOCH - PERSONS).min(AUCTIONS - 1)
}

/// Writes events; keeps what one has in common with the next.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    numbers: &'a Numbers,
    tables: &'a Tables,
    time: TimeText,
    expires: TimeText,
}

impl<'a> Writer<'a> {
    pub(super) fn new(numbers: &'a Numbers, tables: &'a Tables) -> Self {
        Self { numbers, tables, time: TimeText::new(b' '), expires: TimeText::new(b' ') }
    }

    /// Appends the event at `place` as a JSON object.
    pub(super) fn write(&mut self, place: u64, out: &mut Vec<u8>) -> Kind {
        let event = self.numbers.number(place);
        let mut rng = Rng::at(self.numbers.seed, SPACE, event);
        match event % EPOCH {
            rest if rest < PERSONS => self.person(event, &mut rng, out),
            rest if rest < PERSONS + AUCTIONS => self.auction(event, &mut rng, out),
            _ => self.bid(event, &mut rng, out),
        }
    }

    fn person(&mut self, event: u64, rng: &mut Rng, out: &mut Vec<u8>) -> Kind {
        let mut size = 8;
        out.extend_from_slice(b"{\"event_type\":0,\"person\":{\"id\":");
        number(FIRST_PERSON + last_person(event), out);

        out.extend_from_slice(b",\"name\":\"");
        let start = out.len();
        let bits = rng.bits();
        pick(&FIRST_NAMES, bits as u32, out);
        out.push(b' ');
        pick(&LAST_NAMES, (bits >> 32) as u32, out);
        size += out.len() - start;

        out.extend_from_slice(b"\",\"emailAddress\":\"");
        let start = out.len();
        string(rng, 7, b' ', out);
        out.push(b'@');
        string(rng, 5, b' ', out);
        out.extend_from_slice(b".com");
        size += out.len() - start;

        out.extend_from_slice(b"\",\"creditCard\":\"");
        let start = out.len();
        let bits = rng.bits();
        for group in 0..4 {
            if group > 0 {
                out.push(b' ');
            }
            let digits = u64::from(below(((bits >> (16 * group)) as u32) << 16, 10_000));
            two(digits / 100, out);
            two(digits, out);
        }
        size += out.len() - start;

        let bits = rng.bits();
        out.extend_from_slice(b"\",\"city\":\"");
        let city = pick(&CITIES, bits as u32, out);
        out.extend_from_slice(b"\",\"state\":\"");
        let state = pick(&STATES, (bits >> 32) as u32, out);
        size += city + state;

        out.extend_from_slice(b"\",\"dateTime\":\"");
        self.time.write(self.numbers.time(event), out);
        self.extra(rng, size, PERSON_SIZE, out);
        out.extend_from_slice(b",\"auction\":null,\"bid\":null}");
        Kind::Person
    }

    fn auction(&mut self, event: u64, rng: &mut Rng, out: &mut Vec<u8>) -> Kind {
        let time = self.numbers.time(event);
        let bits = rng.bits();
        // A hot seller is the first of the last hundred persons.
        let seller = if below(bits as u32, HOT_SELLERS) > 0 {
            last_person(event) / HOT_GROUP * HOT_GROUP
        } else {
            any_person(event, rng)
        };
        let category = FIRST_CATEGORY + u64::from(below((bits >> 32) as u32, CATEGORIES));
        let bits = rng.bits();
        let initial = self.tables.price(bits as u32);
        let reserve = initial + self.tables.price((bits >> 32) as u32);
        let ahead = (self.numbers.time(event + horizon()) - time).unsigned_abs();
        let length = 1 + below_wide(rng.bits(), (2 * ahead).max(1)) as i64;

        out.extend_from_slice(b"{\"event_type\":1,\"person\":null,\"auction\":{\"id\":");
        number(FIRST_AUCTION + last_auction(event), out);
        out.extend_from_slice(b",\"itemName\":\"");
        let start = out.len();
        string(rng, 20, b' ', out);
        let mut size = 8 + 5 * 8 + out.len() - start;
        out.extend_from_slice(b"\",\"description\":\"");
        let start = out.len();
        string(rng, 100, b' ', out);
        size += out.len() - start;
        out.extend_from_slice(b"\",\"initialBid\":");
        number(initial, out);
        out.extend_from_slice(b",\"reserve\":");
        number(reserve, out);
        out.extend_from_slice(b",\"dateTime\":\"");
        self.time.write(time, out);
        out.extend_from_slice(b"\",\"expires\":\"");
        self.expires.write(time + length, out);
        out.extend_from_slice(b"\",\"seller\":");
        number(FIRST_PERSON + seller, out);
        out.extend_from_slice(b",\"category\":");
        number(category, out);
        // `extra` closes the quote of a text before it, which `category` has not.
        out.extend_from_slice(b",\"extra\":\"");
        out.extend_from_slice(self.tables.extra(rng, size, AUCTION_SIZE));
        out.extend_from_slice(b"\"},\"bid\":null}");
        Kind::Auction { category }
    }

    fn bid(&mut self, event: u64, rng: &mut Rng, out: &mut Vec<u8>) -> Kind {
        let bits = rng.bits();
        let last = last_auction(event);
        let auction = if below(bits as u32, HOT_AUCTIONS) > 0 {
            last / HOT_GROUP * HOT_GROUP
        } else {
            let least = last.saturating_sub(AUCTIONS_IN_FLIGHT);
            least + draw(rng, last - least + 1 + LEAD)
        };
        // A hot bidder is the second of the last hundred persons: hot sellers are the first.
        let bidder = if below((bits >> 32) as u32, HOT_BIDDERS) > 0 {
            last_person(event) / HOT_GROUP * HOT_GROUP + 1
        } else {
            any_person(event, rng)
        };
        let price = self.tables.price((rng.bits() >> 32) as u32);

        out.extend_from_slice(
            b"{\"event_type\":2,\"person\":null,\"auction\":null,\"bid\":{\"auction\":",
        );
        number(FIRST_AUCTION + auction, out);
        out.extend_from_slice(b",\"bidder\":");
        // Twice, as in the suite's generator: a bidder's number is that of a person and 1,000.
        number(2 * FIRST_PERSON + bidder, out);
        out.extend_from_slice(b",\"price\":");
        number(price, out);
        out.push(b',');
        out.extend_from_slice(self.tables.channel(rng));
        out.extend_from_slice(b",\"dateTime\":\"");
        self.time.write(self.numbers.time(event), out);
        self.extra(rng, 4 * 8, BID_SIZE, out);
        out.push(b'}');
        Kind::Bid { price }
    }

    /// Closes the text before it, and the object.
    fn extra(&self, rng: &mut Rng, size: usize, average: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\",\"extra\":\"");
        out.extend_from_slice(self.tables.extra(rng, size, average));
        out.extend_from_slice(b"\"}");
    }
}

/// One of the active persons, from 0, or one that comes a little later.
fn any_person(event: u64, rng: &mut Rng) -> u64 {
    let people = last_person(event) + 1;
    let active = people.min(ACTIVE_PEOPLE);
    people - active + draw(rng, active + LEAD)
}

fn draw(rng: &mut Rng, limit: u64) -> u64 {
    u64::from(below((rng.bits() >> 32) as u32, limit as u32))
}

/// Appends one of the texts, and says how long it is.
fn pick(from: &[&str], bits: u32, out: &mut Vec<u8>) -> usize {
    let text = from[below(bits, from.len() as u32) as usize];
    out.extend_from_slice(text.as_bytes());
    text.len()
}
