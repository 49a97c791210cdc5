//! Tables for people: columns aligned, numbers to the right, cut to the terminal's width.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::ui::Paint;

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// What makes a cell look different. Never changes its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Of less interest: nulls, skipped things.
    Dim,
    /// Went well.
    Good,
    /// Deserves a look.
    Warn,
    /// Failed.
    Bad,
}

impl Tone {
    fn paint(self, paint: Paint, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Dim => paint.dim(text),
            Self::Good => paint.green(text),
            Self::Warn => paint.yellow(text),
            Self::Bad => paint.red(text),
        }
    }
}

/// A cell: text that is safe to print, on one line.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell of a tone.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// Lines around and between cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// None: columns two spaces apart, for reports.
    Open,
    /// A box, for the rows of a query.
    Boxed,
}

/// Rows under a heading.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<String>,
    align: Vec<Align>,
    rows: Vec<Vec<Cell>>,
    frame: Frame,
    indent: &'static str,
    whole: usize,
}

/// No column is cut narrower than this.
const MIN_COLUMN: usize = 4;

impl Table {
    /// A table with these columns.
    pub fn new(
        columns: impl IntoIterator<Item = (impl Into<String>, Align)>,
        frame: Frame,
    ) -> Self {
        let (header, align) = columns.into_iter().map(|(name, align)| (name.into(), align)).unzip();
        Self { header, align, rows: Vec::new(), frame, indent: "", whole: 0 }
    }

    /// Never cuts the first `columns`: names and ids that a person copies.
    #[must_use]
    pub fn whole(mut self, columns: usize) -> Self {
        self.whole = columns;
        self
    }

    /// Shifts an open table to the right.
    #[must_use]
    pub fn indented(mut self, indent: &'static str) -> Self {
        self.indent = indent;
        self
    }

    /// Adds a row. Missing cells are empty, further ones are not shown.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<Cell>>) {
        let mut row: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        row.resize_with(self.header.len(), Cell::default);
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints it, no line wider than `width` where that can be had.
    pub fn write(&self, out: &mut dyn Write, width: Option<usize>, paint: Paint) -> io::Result<()> {
        let widths = self.widths(width);
        match self.frame {
            Frame::Open => self.write_open(out, &widths, paint),
            Frame::Boxed => self.write_boxed(out, &widths, paint),
        }
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let headers = self.header.iter().map(|name| name.width());
        let mut cells: Vec<usize> = vec![0; self.header.len()];
        for row in &self.rows {
            for (width, cell) in cells.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let mut widths: Vec<usize> =
            headers.zip(&cells).map(|(head, cell)| head.max(*cell)).collect();
        let Some(limit) = limit else { return widths };
        let around = match self.frame {
            Frame::Open => self.indent.len() + 2 * widths.len().saturating_sub(1),
            Frame::Boxed => 3 * widths.len() + 1,
        };
        let mut total: usize = around + widths.iter().sum::<usize>();
        // Headings give way before values, then text, the widest column first, a step at a time, so
        // that narrow ones stay whole. A report's figures are never cut: they would look like others.
        let nothing = vec![0; widths.len()];
        let figures = self.align.iter().zip(&cells);
        let figures = figures.map(|(align, width)| if *align == Align::Right { *width } else { 0 });
        let figures: Vec<usize> = figures.collect();
        let steps = match self.frame {
            Frame::Open => vec![&cells, &figures],
            Frame::Boxed => vec![&cells, &figures, &nothing],
        };
        for least in steps {
            while total > limit {
                let columns = widths.iter_mut().zip(least).skip(self.whole);
                let wide = columns.filter(|(width, least)| **width > MIN_COLUMN.max(**least));
                let Some((widest, _)) = wide.max_by_key(|(width, _)| **width) else { break };
                *widest -= 1;
                total -= 1;
            }
        }
        widths
    }

    fn write_open(&self, out: &mut dyn Write, widths: &[usize], paint: Paint) -> io::Result<()> {
        if self.header.iter().any(|name| !name.is_empty()) {
            let cells: Vec<_> = self.header.iter().map(|name| Cell::from(name.as_str())).collect();
            writeln!(out, "{}", paint.dim(&self.open_line(&cells, widths, Paint(false))))?;
        }
        for row in &self.rows {
            writeln!(out, "{}", self.open_line(row, widths, paint))?;
        }
        Ok(())
    }

    fn open_line(&self, row: &[Cell], widths: &[usize], paint: Paint) -> String {
        let mut line = self.indent.to_owned();
        // Trailing blanks are left out, so that copied reports carry none.
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
        for (i, cell) in row.iter().enumerate().take(last + 1) {
            if i > 0 {
                line.push_str("  ");
            }
            let (text, fill) = fit(&cell.text, widths[i]);
            let painted = cell.tone.paint(paint, &text);
            match self.align[i] {
                Align::Left if i == last => line.push_str(&painted),
                Align::Left => line.push_str(&format!("{painted}{}", " ".repeat(fill))),
                Align::Right => line.push_str(&format!("{}{painted}", " ".repeat(fill))),
            }
        }
        line
    }

    fn write_boxed(&self, out: &mut dyn Write, widths: &[usize], paint: Paint) -> io::Result<()> {
        let rule = |left: &str, middle: &str, right: &str| {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            paint.dim(&format!("{left}{}{right}", bars.join(middle)))
        };
        let bar = paint.dim("│");
        let line = |row: &[Cell], head: bool| {
            let mut line = bar.clone();
            for (i, cell) in row.iter().enumerate() {
                let (text, fill) = fit(&cell.text, widths[i]);
                let painted = if head { paint.bold(&text) } else { cell.tone.paint(paint, &text) };
                let fill = " ".repeat(fill);
                line.push_str(&match self.align[i] {
                    Align::Left => format!(" {painted}{fill} {bar}"),
                    Align::Right => format!(" {fill}{painted} {bar}"),
                });
            }
            line
        };
        writeln!(out, "{}", rule("┌", "┬", "┐"))?;
        let cells: Vec<_> = self.header.iter().map(|name| Cell::from(name.as_str())).collect();
        writeln!(out, "{}", line(&cells, true))?;
        writeln!(out, "{}", rule("├", "┼", "┤"))?;
        for row in &self.rows {
            writeln!(out, "{}", line(row, false))?;
        }
        writeln!(out, "{}", rule("└", "┴", "┘"))
    }
}

/// The text cut to `width` columns, and how many blanks fill the rest.
fn fit(text: &str, width: usize) -> (String, usize) {
    let full = text.width();
    if full <= width {
        return (text.to_owned(), width - full);
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > width {
            break;
        }
        used += w;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
        used += 1;
    }
    (out, width - used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_figures_stay_whole_where_it_is_narrow() {
        let columns = [
            ("model", Align::Left),
            ("kind", Align::Left),
            ("rows in table", Align::Right),
            ("", Align::Left),
        ];
        let mut table = Table::new(columns, Frame::Open).whole(1);
        table.row(["sales_by_region", "incremental", "205,886", "because of stg_sales"]);
        let mut out = Vec::new();
        table.write(&mut out, Some(45), Paint(false)).expect("memory takes everything");
        assert_eq!(
            String::from_utf8(out).expect("it is text"),
            "model            kind       rows i…\n\
             sales_by_region  incremen…  205,886  because…\n"
        );
    }

    fn print(table: &Table, width: Option<usize>) -> String {
        let mut out = Vec::new();
        table.write(&mut out, width, Paint(false)).expect("memory takes everything");
        String::from_utf8(out).expect("tables are text")
    }

    fn sample(frame: Frame) -> Table {
        let mut table = Table::new([("name", Align::Left), ("rows", Align::Right)], frame);
        table.row(["stg_sales", "1,234"]);
        table.row(["東京", "7"]);
        table
    }

    #[test]
    fn numbers_stand_right_and_wide_characters_count_twice() {
        assert_eq!(
            print(&sample(Frame::Open), None),
            "name        rows\nstg_sales  1,234\n東京           7\n"
        );
        assert_eq!(
            print(&sample(Frame::Boxed), None),
            "┌───────────┬───────┐\n\
             │ name      │  rows │\n\
             ├───────────┼───────┤\n\
             │ stg_sales │ 1,234 │\n\
             │ 東京      │     7 │\n\
             └───────────┴───────┘\n"
        );
    }

    #[test]
    fn widest_column_gives_way_first() {
        let text = print(&sample(Frame::Boxed), Some(19));
        assert!(text.lines().all(|line| line.width() == 19), "{text}");
        assert!(text.contains("│ stg_sa… │ 1,234 │"), "{text}");
    }

    #[test]
    fn every_width_can_be_asked_for() {
        for width in 0..40 {
            for line in print(&sample(Frame::Boxed), Some(width)).lines() {
                assert!(line.width() <= width.max(3 * 2 + 1 + 2 * MIN_COLUMN), "{width}: {line}");
            }
        }
    }
}
