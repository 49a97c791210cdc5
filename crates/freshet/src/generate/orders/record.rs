//! The records as JSON, faulty where they must be.

use freshet_core::Rule;
use serde::Serialize;

use super::life::{Courier, Event, Fate, OrderId, Status, Step};
use super::people::People;
use super::world::CITIES;
use crate::generate::rng::{Rng, below};
use crate::generate::text::{TimeText, number, two};

/// A fault that an order event can have. Each has one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderFault {
    /// The line ends in the middle of the object.
    Truncated,
    /// The line is no JSON: an error page of something in between.
    Garbage,
    /// The city has bytes that are not UTF-8.
    BadUtf8,
    /// The amount is no number.
    BadAmount,
    /// The time is one that no calendar has.
    BadTime,
    /// The order's number is null.
    NullOrder,
    /// The city is not there.
    MissingCity,
    /// A status that nobody has declared.
    UnknownStatus,
    /// An amount below zero, which the contract forbids.
    NegativeAmount,
}

impl OrderFault {
    /// All kinds, each as likely as the others.
    pub const ALL: [OrderFault; 9] = [
        Self::Truncated,
        Self::Garbage,
        Self::BadUtf8,
        Self::BadAmount,
        Self::BadTime,
        Self::NullOrder,
        Self::MissingCity,
        Self::UnknownStatus,
        Self::NegativeAmount,
    ];

    /// The rule that finds it.
    pub fn rule(self) -> Rule {
        match self {
            Self::Truncated | Self::Garbage => Rule::Syntax,
            Self::BadUtf8 => Rule::Encoding,
            Self::BadAmount | Self::BadTime => Rule::Type,
            Self::NullOrder | Self::MissingCity => Rule::NotNull,
            Self::UnknownStatus | Self::NegativeAmount => Rule::Constraint,
        }
    }

    /// The column that it is in, where it is in one.
    pub fn column(self) -> Option<&'static str> {
        match self {
            Self::Truncated | Self::Garbage | Self::BadUtf8 => None,
            Self::BadAmount | Self::NegativeAmount => Some("amount"),
            Self::BadTime => Some("event_time"),
            Self::NullOrder => Some("order_id"),
            Self::MissingCity => Some("city"),
            Self::UnknownStatus => Some("status"),
        }
    }

    pub(super) fn of(detail: u64) -> Self {
        Self::ALL[below(detail as u32, Self::ALL.len() as u32) as usize]
    }
}

const BAD_AMOUNTS: [&str; 3] = ["\"n/a\"", "\"12,50\"", "true"];
const BAD_TIMES: [&str; 3] = ["2026-02-30T12:00:00.000Z", "yesterday", "2026-13-01T25:00:00.000Z"];
const BAD_STATES: [&str; 3] = ["teleported", "PLACED", ""];
const COURIERS: u32 = 20_000;
const SPACE_ORDER: u64 = 30;

/// What all events of an order say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) id: OrderId,
    pub(super) customer: u32,
    restaurant: u32,
    courier: u32,
    pub(super) cents: u32,
}

impl Order {
    pub(super) fn new(seed: u64, people: &People, id: OrderId) -> Self {
        let mut rng = Rng::at(seed, SPACE_ORDER, id.0);
        let (who, what) = (rng.bits(), rng.bits());
        Self {
            id,
            customer: people.customer(who as u32),
            restaurant: people.restaurant(id.city(), (who >> 32) as u32),
            courier: 1 + below(what as u32, COURIERS),
            // Around a small meal, now and then a large one.
            cents: 800
                + below((what >> 32) as u32, 3_200)
                + below((what >> 40) as u32 & 0xFFFF, 65_536) / 16,
        }
    }
}

/// Writes records.
#[derive(Debug)]
pub(super) struct Writer {
    start: i64,
    /// See [`OrderId::written`].
    base: u64,
    time: TimeText,
}

impl Writer {
    pub(super) fn new(start: i64, base: u64) -> Self {
        Self { start, base, time: TimeText::new(b'T') }
    }

    /// Appends an event as a line.
    pub(super) fn event(&mut self, order: &Order, event: &Event, out: &mut Vec<u8>) {
        match event.step {
            Step::Courier(courier) => self.courier(order, courier, event.at, out),
            Step::Order(status) => {
                let fault = match event.fate {
                    Fate::Bad(detail) => Some((OrderFault::of(detail), (detail >> 32) as usize)),
                    Fate::Good | Fate::Repeat | Fate::Late => None,
                };
                self.order(order, status, event.at, fault, out);
            }
        }
        out.push(b'\n');
    }

    fn order(
        &mut self,
        order: &Order,
        status: Status,
        at: i64,
        fault: Option<(OrderFault, usize)>,
        out: &mut Vec<u8>,
    ) {
        let (fault, detail) = (fault.map(|fault| fault.0), fault.map_or(0, |fault| fault.1));
        if fault == Some(OrderFault::Garbage) {
            out.extend_from_slice(b"<html><body>502 Bad Gateway</body></html>");
            return;
        }
        let start = out.len();
        out.extend_from_slice(b"{\"order_id\":");
        if fault == Some(OrderFault::NullOrder) {
            out.extend_from_slice(b"null");
        } else {
            number(order.id.written(self.base), out);
        }
        out.extend_from_slice(b",\"customer_id\":");
        number(u64::from(order.customer), out);
        out.extend_from_slice(b",\"restaurant_id\":");
        number(u64::from(order.restaurant), out);
        if fault != Some(OrderFault::MissingCity) {
            out.extend_from_slice(b",\"city\":\"");
            match fault {
                Some(OrderFault::BadUtf8) => out.extend_from_slice(b"Z\xfcrich"),
                _ => out.extend_from_slice(CITIES[order.id.city()].0.as_bytes()),
            }
            out.push(b'"');
        }
        out.extend_from_slice(b",\"status\":\"");
        let unknown = (fault == Some(OrderFault::UnknownStatus)).then(|| BAD_STATES[detail % 3]);
        out.extend_from_slice(unknown.unwrap_or(status.as_str()).as_bytes());
        out.extend_from_slice(b"\",\"amount\":");
        match fault {
            Some(OrderFault::BadAmount) => {
                out.extend_from_slice(BAD_AMOUNTS[detail % 3].as_bytes())
            }
            _ => {
                if fault == Some(OrderFault::NegativeAmount) {
                    out.push(b'-');
                }
                number(u64::from(order.cents / 100), out);
                out.push(b'.');
                two(order.cents, out);
            }
        }
        out.extend_from_slice(b",\"event_time\":\"");
        if fault == Some(OrderFault::BadTime) {
            out.extend_from_slice(BAD_TIMES[detail % 3].as_bytes());
        } else {
            self.time(at, out);
        }
        out.extend_from_slice(b"\"}");
        if fault == Some(OrderFault::Truncated) {
            let mut cut = start + 1 + detail % (out.len() - start - 1);
            // Between two characters, or the rule would be another.
            while out[cut] & 0xC0 == 0x80 {
                cut -= 1;
            }
            out.truncate(cut);
        }
    }

    fn courier(&mut self, order: &Order, courier: Courier, at: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"courier_id\":");
        number(u64::from(order.courier), out);
        out.extend_from_slice(b",\"order_id\":");
        number(order.id.written(self.base), out);
        out.extend_from_slice(b",\"city\":\"");
        out.extend_from_slice(CITIES[order.id.city()].0.as_bytes());
        out.extend_from_slice(b"\",\"event\":\"");
        out.extend_from_slice(courier.as_str().as_bytes());
        out.extend_from_slice(b"\",\"event_time\":\"");
        self.time(at, out);
        out.extend_from_slice(b"\"}");
    }

    /// Appends a time of the stream in ISO 8601, in UTC.
    pub(super) fn time(&mut self, at: i64, out: &mut Vec<u8>) {
        self.time.write(self.start + at, out);
        out.push(b'Z');
    }
}
