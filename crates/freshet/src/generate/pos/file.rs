//! One day's file: its rows, what is sent again, and its lines of the sidecar.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::row::{Dirt, Layout, Row};
use super::{FileFacts, FileStatus, Made, Plan, Sales};
use crate::generate::rng::below;

/// Bytes that are gathered before they are written.
const BLOCK: usize = 1 << 20;

/// Makes one file.
pub(super) struct FileMaker<'a> {
    plan: &'a Plan,
    index: usize,
    layout: Layout,
    /// Dates of the previous file, whose records may be sent again in this one.
    previous: Option<Layout>,
    facts: FileFacts,
    truth: Vec<u8>,
    sales: Vec<Sales>,
    block: Vec<u8>,
}

/// A line of the sidecar.
#[derive(Serialize)]
struct TruthLine<'a> {
    kind: &'a str,
    file: &'a str,
    /// One-based physical line; the header is line 1.
    line: u64,
    /// Byte offset of the record's first byte.
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_in: Option<&'a str>,
    /// The record without its line feed, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a str>,
    /// The same in hexadecimal, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_hex: Option<String>,
}

impl<'a> FileMaker<'a> {
    pub(super) fn new(plan: &'a Plan, index: usize) -> Self {
        let file = &plan.files[index];
        let previous = index
            .checked_sub(1)
            .map(|previous| &plan.files[previous])
            .filter(|previous| previous.status == FileStatus::Present && previous.rows > 0);
        let layout = Layout::new(file.date, file.wide);
        Self {
            plan,
            index,
            facts: FileFacts {
                file: file.name.clone(),
                date: file.date,
                status: file.status,
                bytes: 0,
                records: 0,
                good: 0,
                dead: 0,
                duplicates: 0,
                late_rows: 0,
                dirt: BTreeMap::new(),
                header: String::new(),
            },
            previous: previous.map(|previous| Layout::new(previous.date, previous.wide)),
            layout,
            truth: Vec::new(),
            sales: vec![Sales::default(); 2 * plan.stores as usize],
            block: Vec::with_capacity(BLOCK + 4_096),
        }
    }

    /// Writes the file to `out`.
    pub(super) fn make(mut self, out: &mut dyn Write) -> Result<Made> {
        if matches!(self.facts.status, FileStatus::Present | FileStatus::Late) {
            self.facts.header = self.layout.header().to_owned();
            self.block.extend_from_slice(self.layout.header().as_bytes());
            self.block.push(b'\n');
            for row in 0..self.plan.files[self.index].rows {
                self.record(row)?;
                if self.block.len() >= BLOCK {
                    self.flush(out)?;
                }
            }
            self.flush(out)?;
        }
        Ok(Made { facts: self.facts, truth: self.truth, sales: self.sales })
    }

    fn record(&mut self, number: u64) -> Result<()> {
        let (row, again) = Row::of(self.plan, self.index, number);
        let start = self.block.len();
        self.layout.write(&row, &self.layout, &mut self.block);
        self.facts.records += 1;
        match row.dirt {
            Some(dirt) => {
                self.facts.dead += 1;
                *self.facts.dirt.entry(dirt.0).or_default() += 1;
                self.tell_dirt(dirt, start)?;
            }
            None => {
                self.facts.good += 1;
                self.facts.late_rows += u64::from(row.late);
                let day = if row.late { 0 } else { self.plan.stores as usize };
                self.sales[day + row.store as usize - 1] += Sales {
                    transactions: 1,
                    quantity: u64::from(row.quantity),
                    cents: u64::from(row.cents),
                };
            }
        }
        if again < self.plan.duplicates {
            self.send_again(number)?;
        }
        Ok(())
    }

    /// Sends an earlier record of this file or one of the previous file again, where that is good.
    fn send_again(&mut self, number: u64) -> Result<()> {
        // A stream of its own: whether rows are sent again changes no row.
        let mut rng =
            crate::generate::rng::Rng::at(self.plan.seed ^ 0x5E4D_A6A1, self.index as u64, number);
        let chance = rng.bits();
        let from_previous = self.previous.is_some() && chance & 1 == 1;
        let (file, rows) = if from_previous {
            (self.index - 1, self.plan.files[self.index - 1].rows)
        } else {
            (self.index, number + 1)
        };
        let limit = u32::try_from(rows).unwrap_or(u32::MAX);
        let (row, _) = Row::of(self.plan, file, u64::from(below((chance >> 32) as u32, limit)));
        if row.dirt.is_some() {
            return Ok(());
        }
        let start = self.block.len();
        let dates = match &self.previous {
            Some(previous) if from_previous => previous,
            _ => &self.layout,
        };
        self.layout.write(&row, dates, &mut self.block);
        self.facts.records += 1;
        self.facts.good += 1;
        self.facts.duplicates += 1;
        self.tell(TruthLine {
            kind: "duplicate",
            file: "",
            line: 0,
            offset: self.facts.bytes + start as u64,
            rule: None,
            column: None,
            transaction_id: Some(row.transaction),
            first_in: Some(&self.plan.files[file].name),
            raw: None,
            raw_hex: None,
        })
    }

    fn tell_dirt(&mut self, dirt: (Dirt, u32), start: usize) -> Result<()> {
        let bytes = self.block[start..self.block.len() - 1].to_vec();
        let raw = std::str::from_utf8(&bytes).ok();
        let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let kind = serde_json::to_value(dirt.0)?;
        self.tell(TruthLine {
            kind: kind.as_str().unwrap_or_default(),
            file: "",
            line: 0,
            offset: self.facts.bytes + start as u64,
            rule: Some(dirt.0.rule().as_str()),
            column: Layout::column(dirt),
            transaction_id: None,
            first_in: None,
            raw,
            raw_hex: raw.is_none().then(hex),
        })
    }

    /// Appends a line about the record that was counted last.
    fn tell(&mut self, line: TruthLine<'_>) -> Result<()> {
        let line = TruthLine { file: &self.facts.file, line: self.facts.records + 1, ..line };
        serde_json::to_writer(&mut self.truth, &line)?;
        self.truth.push(b'\n');
        Ok(())
    }

    fn flush(&mut self, out: &mut dyn Write) -> Result<()> {
        out.write_all(&self.block)?;
        self.facts.bytes += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }
}
