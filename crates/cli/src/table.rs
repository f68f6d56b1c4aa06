//! Tables of text for a terminal.

use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use crate::style::{DIM, HEADING, PLAIN};

/// The width the output is made for.
pub(crate) const WIDTH: usize = 100;
const GAP: &str = "  ";
/// A column is not made narrower than this.
pub(crate) const COLUMN_MIN: usize = 6;
/// So many characters of a cut text share a place at most: more than any writing stacks, and a bound on what is drawn.
pub(crate) const CHARS_PER_COLUMN: usize = 8;
/// Makes one sign of two, as in emoji of families.
const JOINER: char = '\u{200d}';

/// One cell: a text in a style.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Columns with titles, and rows. Columns that do not fit into [`WIDTH`] are cut short, the widest first.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(Cell, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Cell {
    pub(crate) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: printable(text.as_ref()), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, PLAIN)
    }
}

impl Table {
    /// A table with these titles; `>` before one puts its column to the right.
    pub(crate) fn new(titles: &[&str]) -> Self {
        let column = |title: &&str| match title.strip_prefix('>') {
            Some(title) => (Cell::styled(title, HEADING), Align::Right),
            None => (Cell::styled(title, HEADING), Align::Left),
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Colours the title of a column.
    pub(crate) fn title_style(&mut self, column: usize, style: Style) {
        self.columns[column].0.style = style;
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        assert_eq!(row.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(row);
    }

    /// Writes the table, every line behind `indent` spaces.
    pub(crate) fn write(&self, out: &mut dyn Write, indent: usize) -> io::Result<()> {
        let widths = self.widths(WIDTH.saturating_sub(indent));
        let titles: Vec<&Cell> = self.columns.iter().map(|(title, _)| title).collect();
        self.write_row(out, indent, &widths, &titles)?;
        let rule: usize = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        writeln!(out, "{:indent$}{DIM}{}{DIM:#}", "", "─".repeat(rule))?;
        for row in &self.rows {
            self.write_row(out, indent, &widths, &row.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn write_row(
        &self,
        out: &mut dyn Write,
        indent: usize,
        widths: &[usize],
        row: &[&Cell],
    ) -> io::Result<()> {
        write!(out, "{:indent$}", "")?;
        for (i, ((cell, width), (_, align))) in row.iter().zip(widths).zip(&self.columns).enumerate() {
            if row[i..].iter().all(|cell| cell.text.is_empty()) {
                break;
            }
            let text = cut(&cell.text, *width);
            let pad = width - text.width();
            let style = cell.style;
            let (before, after) = if *align == Align::Right { (pad, 0) } else { (0, pad) };
            // Nothing trails the last column.
            let after =
                if row[i + 1..].iter().all(|cell| cell.text.is_empty()) { 0 } else { after + GAP.len() };
            write!(out, "{:before$}{style}{text}{style:#}{:after$}", "", "")?;
        }
        writeln!(out)
    }

    fn widths(&self, available: usize) -> Vec<usize> {
        let natural = |i: usize| {
            let cells = self.rows.iter().map(|row| row[i].text.width());
            cells.chain([self.columns[i].0.text.width()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(natural).collect();
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > available {
            match widths.iter_mut().max() {
                Some(widest) if *widest > COLUMN_MIN => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// A text without control characters: what is stored in a database must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else if steers(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a character does something to what stands around it: separators of lines, and those that turn
/// the direction of writing.
const fn steers(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `1.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let (mut whole, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB"] {
        if whole < 1024.0 {
            break;
        }
        (whole, unit) = (whole / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{whole:.1} {unit}") }
}

/// A text cut to a width, with an ellipsis where something is missing.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut shown = String::new();
    // Characters together may be wider or narrower than one by one, and any number of them may be of no width.
    for c in text.chars().take(width * CHARS_PER_COLUMN) {
        shown.push(c);
        if shown.width() >= width {
            shown.pop();
            break;
        }
    }
    // What joined it to the next is not there any more.
    shown.truncate(shown.trim_end_matches(JOINER).len());
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut anstream::StripStream::new(&mut out), 1).expect("a Vec takes everything");
        String::from_utf8(out).expect("tables are text")
    }

    #[test]
    fn columns_are_aligned_by_what_they_show() {
        let mut table = Table::new(&["name", ">n"]);
        table.push(vec!["żółw".into(), "1".into()]);
        table.push(vec![Cell::styled("日本", DIM), "12".into()]);
        assert_eq!(drawn(&table), " name   n\n ────────\n żółw   1\n 日本  12\n");
    }

    #[test]
    fn the_widest_column_is_cut() {
        let mut table = Table::new(&["a", "b"]);
        table.push(vec!["x".repeat(200).into(), "short".into()]);
        let drawn = drawn(&table);
        assert_eq!(drawn.lines().map(UnicodeWidthStr::width).max(), Some(WIDTH));
        assert!(drawn.ends_with("x…  short\n"), "{drawn}");
    }

    #[test]
    fn texts_are_cut_between_what_is_seen() {
        for (text, width, expected) in [
            ("abcdef", 4, "abc…"),
            ("abcd", 4, "abcd"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
            ("👨\u{200d}👩\u{200d}👧👨\u{200d}👩\u{200d}👧", 3, "👨\u{200d}👩\u{200d}👧…"),
            ("❤\u{fe0f}❤\u{fe0f}", 3, "❤\u{fe0f}…"),
            ("abc", 0, "…"),
        ] {
            assert_eq!(cut(text, width), expected);
        }
        let piled = format!("a{}b", "\u{301}".repeat(100_000));
        assert!(cut(&format!("{piled}c"), 2).len() < 100, "a pile is cut as well");
    }

    #[test]
    fn stored_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("a\u{202e}b\u{9b}31m"), "a\\u{202e}b\\u{9b}31m");
    }
}
