//! One record: a pure function of (seed, file, row number), and its bytes, faulty where it must be.

use chrono::{Days, NaiveDate};
use freshet_core::Rule;
use serde::Serialize;

use super::Plan;
use crate::generate::rng::{Rng, below};
use crate::generate::text::{number, two};

/// A fault that a record can have. Each record has one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Dirt {
    /// An amount below zero, which the contract forbids.
    NegativeAmount,
    /// An amount that is no number.
    BadAmount,
    /// A date that no calendar has.
    ImpossibleDate,
    /// The last column is not there.
    MissingColumn,
    /// There is a column too many.
    ExtraColumn,
    /// The product's quote is not closed.
    UnclosedQuote,
    /// The product has bytes that are not UTF-8.
    BadUtf8,
    /// A required value is empty.
    EmptyValue,
}

impl Dirt {
    /// All kinds, each as likely as the others.
    pub const ALL: [Dirt; 8] = [
        Dirt::NegativeAmount,
        Dirt::BadAmount,
        Dirt::ImpossibleDate,
        Dirt::MissingColumn,
        Dirt::ExtraColumn,
        Dirt::UnclosedQuote,
        Dirt::BadUtf8,
        Dirt::EmptyValue,
    ];

    /// The rule that finds it.
    pub fn rule(self) -> Rule {
        match self {
            Self::NegativeAmount => Rule::Constraint,
            Self::BadAmount | Self::ImpossibleDate => Rule::Type,
            Self::MissingColumn | Self::ExtraColumn => Rule::ColumnCount,
            Self::UnclosedQuote => Rule::Quote,
            Self::BadUtf8 => Rule::Encoding,
            Self::EmptyValue => Rule::NotNull,
        }
    }
}

/// Products as the file has them inside the quotes, and their prices in cents.
const PRODUCTS: [(&[u8], u32); 32] = [
    (b"Milk", 129),
    (b"Butter", 249),
    (b"Eggs, 10", 319),
    (b"Bread", 289),
    (b"Bananas", 179),
    (b"Apples", 229),
    (b"Rice", 199),
    (b"Pasta", 99),
    ("Café".as_bytes(), 649),
    (b"Tea", 349),
    (b"Sugar", 149),
    (b"Flour", 89),
    (b"Salt", 59),
    (b"Olive oil", 799),
    (b"Cheese", 459),
    (b"Yoghurt", 119),
    (b"Ham, sliced", 279),
    (b"Tomatoes", 259),
    (b"Potatoes", 319),
    (b"Onions", 149),
    ("Crème fraîche".as_bytes(), 139),
    (b"Soap", 95),
    (b"Mop 12\"\"", 1_299),
    (b"Batteries", 599),
    (b"Notebook", 199),
    (b"Pen", 79),
    (b"Water", 69),
    (b"Juice, 1 l", 219),
    (b"Beer", 109),
    ("Müsli".as_bytes(), 389),
    (b"TV 43\"\", LED", 29_900),
    (b"Crisps", 189),
];

const PAYMENTS: [&[u8]; 4] = [b"card", b"cash", b"app", b"voucher"];

const BAD_AMOUNTS: [&[u8]; 4] = [b"n/a", b"1O.50", b"12.3.4", b"free"];
const BAD_DATES: [&[u8]; 4] = [b"2026-02-30", b"2026-13-01", b"2026-00-10", b"31.10.2026"];
const BAD_TEXT: [&[u8]; 4] = [b"Caf\xe9", b"\xff\xfe", b"M\xfcsli", b"\xc3("];

/// What one record says.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) transaction: u64,
    pub(super) store: u32,
    pub(super) late: bool,
    second: u32,
    product: usize,
    pub(super) quantity: u32,
    pub(super) cents: u32,
    payment: usize,
    /// The fault, and chance for its details.
    pub(super) dirt: Option<(Dirt, u32)>,
}

impl Row {
    /// Record `row` of file `file`, and chance for whether something is sent again after it.
    pub(super) fn of(plan: &Plan, file: usize, row: u64) -> (Self, u64) {
        let mut rng = Rng::at(plan.seed, file as u64, row);
        let (who, when, fate) = (rng.bits(), rng.bits(), rng.bits());
        let dirt = (fate & 0xFFFF_FFFF) < plan.dirty;
        let late = (when & 0xFFFF_FFFF) < plan.late_rows;
        // Late records are of the previous day's last hour, the others of opening hours.
        let second = if late {
            23 * 3_600 + below((when >> 32) as u32, 3_600)
        } else {
            7 * 3_600 + below((when >> 32) as u32, 15 * 3_600)
        };
        let product = (who & 31) as usize;
        // Mostly one or two of a thing.
        let quantity =
            1 + ((who >> 5) & 1) as u32 + ((who >> 6) & (who >> 7) & (who >> 8) & 3) as u32;
        let row = Self {
            transaction: plan.files[file].first + row,
            store: 1 + below((who >> 32) as u32, plan.stores),
            late,
            second,
            product,
            quantity,
            cents: quantity * PRODUCTS[product].1,
            payment: ((who >> 12) & 3) as usize,
            dirt: dirt.then(|| {
                let detail = rng.bits();
                let kind = below(detail as u32, plan.kinds.len() as u32);
                (plan.kinds[kind as usize], (detail >> 32) as u32)
            }),
        };
        (row, fate >> 32)
    }
}

/// How the rows of one file are written.
#[derive(Debug)]
pub(super) struct Layout {
    wide: bool,
    today: [u8; 10],
    yesterday: [u8; 10],
}

impl Layout {
    pub(super) fn new(date: NaiveDate, wide: bool) -> Self {
        Self { wide, today: iso(date), yesterday: iso(date - Days::new(1)) }
    }

    /// The header, without a line feed.
    pub(super) fn header(&self) -> &'static str {
        if self.wide {
            "store_id,transaction_id,sale_date,sold_at,product,quantity,amount,payment_method,cashier"
        } else {
            "transaction_id,store_id,sale_date,sold_at,product,quantity,amount,payment_method"
        }
    }

    /// Appends the record as a line. `dates` are those of the file that the row first came in.
    pub(super) fn write(&self, row: &Row, dates: &Layout, out: &mut Vec<u8>) {
        let (fault, detail) = match row.dirt {
            Some((fault, detail)) => (Some(fault), detail as usize),
            None => (None, 0),
        };
        let empty = (fault == Some(Dirt::EmptyValue)).then_some(detail % 3);
        let transaction = |out: &mut Vec<u8>| {
            if empty != Some(0) {
                number(row.transaction, out);
            }
            out.push(b',');
        };
        if !self.wide {
            transaction(out);
        }
        if empty != Some(1) {
            number(u64::from(row.store), out);
        }
        out.push(b',');
        if self.wide {
            transaction(out);
        }

        let date = if row.late { &dates.yesterday } else { &dates.today };
        match fault {
            Some(Dirt::ImpossibleDate) => out.extend_from_slice(BAD_DATES[detail & 3]),
            _ if empty == Some(2) => {}
            _ => out.extend_from_slice(date),
        }
        out.push(b',');
        out.extend_from_slice(date);
        out.push(b' ');
        two(row.second / 3_600, out);
        out.push(b':');
        two(row.second / 60 % 60, out);
        out.push(b':');
        two(row.second % 60, out);

        out.extend_from_slice(b",\"");
        match fault {
            Some(Dirt::BadUtf8) => out.extend_from_slice(BAD_TEXT[detail & 3]),
            _ => out.extend_from_slice(PRODUCTS[row.product].0),
        }
        if fault != Some(Dirt::UnclosedQuote) {
            out.push(b'"');
        }
        out.push(b',');
        number(u64::from(row.quantity), out);
        out.push(b',');
        match fault {
            Some(Dirt::BadAmount) => out.extend_from_slice(BAD_AMOUNTS[detail & 3]),
            _ => {
                if fault == Some(Dirt::NegativeAmount) {
                    out.push(b'-');
                }
                number(u64::from(row.cents / 100), out);
                out.push(b'.');
                two(row.cents % 100, out);
            }
        }
        let missing = fault == Some(Dirt::MissingColumn);
        if self.wide || !missing {
            out.push(b',');
            out.extend_from_slice(PAYMENTS[row.payment]);
        }
        if self.wide && !missing {
            out.extend_from_slice(b",C");
            two((row.transaction % 40) as u32, out);
        }
        if fault == Some(Dirt::ExtraColumn) {
            out.extend_from_slice(b",?");
        }
        out.push(b'\n');
    }

    /// The column that the fault is in, where it is in one.
    pub(super) fn column(dirt: (Dirt, u32)) -> Option<&'static str> {
        match dirt.0 {
            Dirt::NegativeAmount | Dirt::BadAmount => Some("amount"),
            Dirt::ImpossibleDate => Some("sale_date"),
            Dirt::EmptyValue => {
                Some(["transaction_id", "store_id", "sale_date"][dirt.1 as usize % 3])
            }
            Dirt::MissingColumn | Dirt::ExtraColumn | Dirt::UnclosedQuote | Dirt::BadUtf8 => None,
        }
    }
}

fn iso(date: NaiveDate) -> [u8; 10] {
    let mut text = [b'0'; 10];
    for (to, from) in text.iter_mut().zip(date.format("%Y-%m-%d").to_string().bytes()) {
        *to = from;
    }
    text
}
