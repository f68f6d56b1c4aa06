//! What is watched, where the output is no terminal: a table, and then the changes in lines.

use std::io::{self, Write};

use opor_live::{Edit, LiveError};

use super::list::{Change, List, rows};
use super::screen;
use super::values::Values;
use crate::database::literal;
use crate::stamp;
use crate::style::{BAD, DIM, GOOD, MARK};
use crate::table::{Table, printable};

/// Writes lines.
pub(crate) struct LinesView<'a> {
    out: &'a mut dyn Write,
    list: List,
}

impl<'a> LinesView<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, list: List::default() }
    }

    pub(crate) fn change(&mut self, Change { diff, author }: Change) -> io::Result<()> {
        let commit = diff.commit.unwrap_or_default();
        let by = author.map_or_else(String::new, |author| format!(" by {}", author.shown()));
        let head = format!("commit {commit}{by} at {}", stamp::now());
        if let [Edit::Reset { .. }] = diff.edits[..] {
            self.list.apply(diff);
            self.table()?;
            let count = rows(self.list.rows.len());
            writeln!(self.out, "{DIM}{count}, {head}{DIM:#}")?;
            return self.out.flush();
        }
        let columns = diff.columns.clone();
        writeln!(self.out, "{DIM}{head}{DIM:#}")?;
        // Each edit is about the list as those before it have left it.
        for edit in diff.edits.clone() {
            self.edit(&edit, &columns)?;
            let step = opor_live::Diff { edits: vec![edit], ..diff.clone() };
            self.list.apply(step);
        }
        self.out.flush()
    }

    fn edit(&mut self, edit: &Edit<Values>, columns: &[String]) -> io::Result<()> {
        let out = &mut *self.out;
        match edit {
            Edit::Remove { at } => {
                let was = shown(columns, &self.list.rows[*at].values);
                writeln!(out, "{BAD}- {at}{BAD:#}  {was}")
            }
            Edit::Move { from, to } => writeln!(out, "{MARK}> {from} to {to}{MARK:#}"),
            Edit::Insert { at, row } => writeln!(out, "{GOOD}+ {at}{GOOD:#}  {}", shown(columns, row)),
            Edit::Update { at, row } => writeln!(out, "{MARK}~ {at}{MARK:#}  {}", shown(columns, row)),
            Edit::Reset { rows: all } => writeln!(out, "{MARK}= {}{MARK:#}", rows(all.len())),
        }
    }

    pub(crate) fn error(&mut self, error: &LiveError) -> io::Result<()> {
        writeln!(
            self.out,
            "{BAD}no result:{BAD:#} {} {DIM}at {}{DIM:#}",
            printable(&error.to_string()),
            stamp::now()
        )?;
        self.out.flush()
    }

    fn table(&mut self) -> io::Result<()> {
        let columns = self.list.columns.as_deref().unwrap_or_default();
        let titles: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let right = screen::is_numeric(self.list.rows.iter().map(|row| &row.values.0[at]));
                format!("{}{name}", if right { ">" } else { "" })
            })
            .collect();
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        for row in &self.list.rows {
            table.push(row.values.0.iter().map(screen::cell).collect());
        }
        table.write(self.out, 0)
    }
}

fn shown(columns: &[String], Values(values): &Values) -> String {
    let values = columns.iter().zip(values).map(|(name, value)| format!("{name}={}", literal(value)));
    printable(&values.collect::<Vec<_>>().join(" "))
}
