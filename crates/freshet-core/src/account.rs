//! The accounting of rows: where rows are carried, what went in came out or is accounted for.

use serde::{Deserialize, Serialize};

/// The rows that crossed one edge that carries rows (decode, contract, check, load).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCounts {
    /// Rows that went in.
    pub rows_in: u64,
    /// Rows that came out.
    pub rows_out: u64,
    /// Rows that became dead letters.
    pub dead: u64,
    /// Rows that were filtered on purpose.
    pub filtered: u64,
}

impl EdgeCounts {
    /// Whether in = out + dead letters + filtered, exactly.
    pub fn balances(&self) -> bool {
        self.rows_in == self.rows_out + self.dead + self.filtered
    }
}

impl std::ops::AddAssign for EdgeCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.dead += other.dead;
        self.filtered += other.filtered;
    }
}

/// What one SQL operator did to its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCounts {
    /// The operator's name and position in the plan, e.g. `FilterExec#3`.
    pub operator: String,
    /// Rows that went in, over all inputs.
    pub rows_in: u64,
    /// Rows that came out.
    pub rows_out: u64,
    /// Rows that a predicate removed.
    pub filtered: u64,
    /// Rows of a join's preserved sides that found no partner; `None` where it is not known.
    pub unmatched: Option<u64>,
    /// Rows that a deduplication removed.
    pub deduplicated: u64,
}
