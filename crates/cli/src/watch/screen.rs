//! What is watched, on a terminal: a table that is drawn over itself.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use opor_core::{DbVersion, Value};
use opor_live::LiveError;
use unicode_width::UnicodeWidthStr;

use super::author::Author;
use super::list::{Change, List, Mark, rows};
use super::outlet;
use crate::database::literal;
use crate::stamp;
use crate::style::{BAD, DIM, GOOD, HEADING, MARK, PLAIN};
use crate::table::{CHARS_PER_COLUMN, COLUMN_MIN, Cell, cut, printable};

/// Another screen, no cursor, and no lines that go on in the next: what is said of a text's width is a guess.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Between columns.
const GAP: usize = 2;
/// What stands before each row: what became of it.
const GUTTER: usize = 2;
/// Lines that are not rows: titles, a rule, the status.
const OTHER_LINES: usize = 3;
/// A value is looked at no further than what the widest terminal shows of it.
const CELL_COLUMNS_MAX: usize = 500;

/// Draws on the terminal that standard output is.
pub(crate) struct ScreenView {
    list: List,
    commit: DbVersion,
    author: Option<Author>,
    at: String,
    error: Option<String>,
    colours: bool,
    entered: bool,
}

/// A cell as it is drawn.
struct Drawn {
    text: String,
    is_null: bool,
}

impl ScreenView {
    pub(crate) fn new() -> Self {
        let colours = anstream::AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        Self {
            list: List::default(),
            commit: DbVersion(0),
            author: None,
            at: String::new(),
            error: None,
            colours,
            entered: false,
        }
    }

    pub(crate) fn change(&mut self, Change { diff, author }: Change) -> io::Result<()> {
        self.commit = diff.commit.unwrap_or_default();
        self.author = author;
        self.at = stamp::now();
        self.error = None;
        self.list.apply(diff);
        self.enter()?;
        self.draw()
    }

    pub(crate) fn error(&mut self, error: &LiveError) -> io::Result<()> {
        self.error = Some(printable(&error.to_string()));
        self.at = stamp::now();
        self.enter()?;
        self.draw()
    }

    /// Draws what there is, as large as the terminal is now.
    pub(crate) fn draw(&self) -> io::Result<()> {
        if !self.entered {
            return Ok(());
        }
        let (width, height) = outlet::size();
        let lines = self.lines(width, height);
        let mut picture = String::from(HOME);
        for (at, line) in lines.iter().map(String::as_str).enumerate() {
            let last = at + 1 == lines.len();
            // First, because what is cleared after a line that is full is its last column.
            picture.push_str(if last { CLEAR_BELOW } else { CLEAR_LINE });
            picture.push_str(line);
            picture.push_str(if last { "" } else { "\r\n" });
        }
        put(&picture)
    }

    /// Leaves the terminal as it was, with the last picture as a part of what it has shown.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let had = self.entered;
        self.leave()?;
        if had {
            let (width, height) = outlet::size();
            // One line is left for the prompt.
            let lines = self.lines(width, height.saturating_sub(1));
            let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            put(&text)?;
        }
        Ok(())
    }

    fn enter(&mut self) -> io::Result<()> {
        if !self.entered {
            self.entered = true;
            put(ENTER)?;
        }
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        if self.entered {
            self.entered = false;
            put(LEAVE)?;
        }
        Ok(())
    }

    fn style(&self, style: Style) -> Style {
        if self.colours { style } else { PLAIN }
    }

    /// The picture: at most `height` lines of at most `width` columns.
    fn lines(&self, width: usize, height: usize) -> Vec<String> {
        let room = height.saturating_sub(OTHER_LINES);
        let total = self.list.rows.len();
        let shown = if total <= room { total } else { room.saturating_sub(1) };
        let columns = self.list.columns.as_deref().unwrap_or_default();
        let titles: Vec<Drawn> =
            columns.iter().map(|name| Drawn { text: brief(name), is_null: false }).collect();
        let cells: Vec<Vec<Drawn>> =
            self.list.rows[..shown].iter().map(|row| row.values.0.iter().map(drawn).collect()).collect();
        let right: Vec<bool> = (0..columns.len())
            .map(|at| is_numeric(self.list.rows[..shown].iter().map(|row| &row.values.0[at])))
            .collect();
        let widths = widths(&titles, &cells, width.saturating_sub(GUTTER));
        let dim = self.style(DIM);
        let mut lines = Vec::new();
        if room > 0 && !columns.is_empty() {
            lines.push(line(" ", self.style(HEADING), dim, &titles, &widths, &right));
            let ruled = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            lines.push(format!("{dim}{:GUTTER$}{}{dim:#}", "", "─".repeat(ruled)));
            for (row, cells) in self.list.rows.iter().zip(&cells) {
                let (sign, style) = match row.mark {
                    Mark::Same => (" ", PLAIN),
                    Mark::New => ("+", GOOD),
                    Mark::Changed => ("~", MARK),
                };
                lines.push(line(sign, self.style(style), dim, cells, &widths, &right));
            }
            if shown < total {
                let more = cut(&format!("and {} more", total - shown), width.saturating_sub(GUTTER));
                lines.push(format!("{dim}{:GUTTER$}{more}{dim:#}", ""));
            }
        }
        if height > 0 {
            lines.push(self.status(width, columns.len() - widths.len()));
        }
        lines
    }

    fn status(&self, width: usize, hidden: usize) -> String {
        if let Some(error) = &self.error {
            let bad = self.style(BAD);
            return format!("{bad}{}{bad:#}", cut(&format!("no result since {}: {error}", self.at), width));
        }
        let mut parts = vec![rows(self.list.rows.len()), format!("commit {}", self.commit)];
        parts.extend(self.author.map(Author::shown));
        parts.push(self.at.clone());
        let counts = [
            ('+', self.list.count(Mark::New)),
            ('~', self.list.count(Mark::Changed)),
            ('-', self.list.removed),
        ];
        let counts =
            counts.iter().filter(|(_, count)| *count > 0).map(|(sign, count)| format!("{sign}{count}"));
        let counts = counts.collect::<Vec<_>>().join(" ");
        parts.extend((!counts.is_empty()).then_some(counts));
        parts.extend((hidden > 0).then(|| format!("{hidden} columns hidden")));
        let status = cut(&parts.join(" · "), width);
        let style =
            self.style(if self.list.count(Mark::Same) < self.list.rows.len() || self.list.removed > 0 {
                Style::new().fg_color(Some(AnsiColor::Cyan.into()))
            } else {
                DIM
            });
        format!("{style}{status}{style:#}")
    }
}

impl Drop for ScreenView {
    fn drop(&mut self) {
        let _best_effort = self.leave();
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Every cell begins at a column of the terminal, wherever the one before has ended in its opinion.
fn line(sign: &str, style: Style, dim: Style, cells: &[Drawn], widths: &[usize], right: &[bool]) -> String {
    let mut line = format!("{style}{sign}{style:#}");
    let mut column = GUTTER;
    for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
        let text = cut(&cell.text, *width);
        let pad = if *right { width.saturating_sub(text.width()) } else { 0 };
        let style = if cell.is_null && style == PLAIN { dim } else { style };
        let at = column + pad + 1;
        let _infallible = write!(line, "\x1b[{at}G{style}{text}{style:#}");
        column += width + GAP;
    }
    line
}

/// The widths of the columns that fit, the widest cut first.
fn widths(titles: &[Drawn], rows: &[Vec<Drawn>], available: usize) -> Vec<usize> {
    let natural = |at: usize| {
        let cells = rows.iter().map(|row| row[at].text.width());
        cells.chain([titles[at].text.width()]).max().unwrap_or(0).max(1)
    };
    let mut widths: Vec<usize> = (0..titles.len()).map(natural).collect();
    let taken = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    while taken(&widths) > available {
        let count = widths.len();
        match widths.iter_mut().max() {
            Some(widest) if *widest > COLUMN_MIN => *widest -= 1,
            // They do not fit, however narrow: the last ones are not shown.
            Some(_) if count > 1 => drop(widths.pop()),
            Some(only) => {
                *only = available.max(1);
                break;
            }
            None => break,
        }
    }
    widths
}

/// Whether a column is of numbers alone, which stand to the right.
pub(crate) fn is_numeric<'a>(values: impl Iterator<Item = &'a Value>) -> bool {
    let mut any = false;
    for value in values {
        match value {
            Value::Null => {}
            Value::Integer(_) | Value::Real(_) => any = true,
            Value::Text(_) | Value::Blob(_) => return false,
        }
    }
    any
}

/// A value in a table that is printed.
pub(crate) fn cell(value: &Value) -> Cell {
    let Drawn { text, is_null } = drawn(value);
    Cell::styled(text, if is_null { DIM } else { PLAIN })
}

fn drawn(value: &Value) -> Drawn {
    let text = match value {
        Value::Text(text) => brief(text),
        other => literal(other),
    };
    Drawn { text, is_null: *value == Value::Null }
}

/// A text that is harmless, and not longer than can be seen.
fn brief(text: &str) -> String {
    let limit = CELL_COLUMNS_MAX * CHARS_PER_COLUMN;
    match text.char_indices().nth(limit) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::Row;
    use super::super::values::Values;
    use super::*;

    fn view(rows: Vec<(Vec<Value>, Mark)>) -> ScreenView {
        let rows = rows.into_iter().map(|(values, mark)| Row { values: Values(values), mark }).collect();
        let columns = ["id", "title", "note"].map(str::to_owned);
        let list = List { columns: Some(columns.into()), rows, removed: 2 };
        let at = "12:00:00".to_owned();
        ScreenView {
            list,
            commit: DbVersion(7),
            author: Some(Author::Local),
            at,
            error: None,
            colours: false,
            entered: false,
        }
    }

    #[test]
    fn the_picture_fits_and_what_does_not_is_counted() {
        let row = |id: i64, mark| (vec![id.into(), "日本\u{1b}[2J".into(), Value::Null], mark);
        let shown = view(vec![row(1, Mark::Same), row(20, Mark::New), row(3, Mark::Changed)]);
        let expected = [
            " \x1b[3Gid\x1b[7Gtitle\x1b[22Gnote",
            "  ───────────────────────",
            " \x1b[4G1\x1b[7G日本\\u{1b}[2J\x1b[22GNULL",
            "  and 2 more",
            "3 rows · commit 7 · local · 12:00:00 · +1 ~1 -2",
        ];
        assert_eq!(shown.lines(80, 5), expected);
        assert!(shown.lines(80, 6)[3].starts_with("+\x1b[3G20"));
        let narrow = shown.lines(18, 9);
        assert_eq!(narrow[0], " \x1b[3Gid\x1b[7Gtitle\x1b[15Gnote");
        let tiny = shown.lines(12, 9);
        assert_eq!(tiny[2], " \x1b[4G1\x1b[7G日本\\…");
        for (width, height) in [(0, 0), (1, 1), (2, 2), (3, 3), (5, 4)] {
            assert!(shown.lines(width, height).len() <= height.max(1), "{width} by {height}");
        }
    }
}
