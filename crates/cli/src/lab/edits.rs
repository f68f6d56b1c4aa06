//! Edits for a database that nobody here has seen before: some for alice, some for bob, some in conflict.
//!
//! Every edit is planned on the original copy, where it is tried and taken back, so that what breaks a constraint is
//! never played. Rows that others refer to are not deleted: the effect of an edit is the row it names.

use std::collections::BTreeMap;

use anyhow::Context;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::shape::{Column, Referrer, Shape};
use crate::database::quoted;

/// One statement for one peer.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) kind: Kind,
    pub(crate) sql: String,
    pub(crate) params: Vec<Value>,
}

/// What an edit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    Update,
    Delete,
}

/// The edits of one table, for alice and for bob.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) alice: Vec<Edit>,
    pub(crate) bob: Vec<Edit>,
    /// How many rows both sides edit.
    pub(crate) contested: usize,
    /// What could not be played here, and why.
    pub(crate) left_out: Vec<&'static str>,
}

/// A row of the original: its values by column.
type Row = BTreeMap<String, Value>;

/// Rows for edits of values: the conflict, different columns, one for each side alone.
const UPDATED_ROWS: usize = 4;
/// Rows for deletes: alice's, bob's, and one that the other side updates.
const DELETED_ROWS: usize = 3;

impl Plan {
    /// Plans the edits of a table. The connection is on the original copy, and leaves it as it is.
    pub(crate) fn of(db: &Connection, shape: &Shape) -> anyhow::Result<Self> {
        let planner = Planner { db, shape };
        let mut plan = Self::default();
        let rows = planner.rows("", "", UPDATED_ROWS)?;
        let Some(template) = rows.first() else {
            plan.left_out.push("all: the table is empty");
            return Ok(plan);
        };
        planner.updates(&mut plan, &rows)?;
        planner.deletes(&mut plan, &rows)?;
        planner.inserts(&mut plan, template)?;
        Ok(plan)
    }

    pub(crate) fn count(edits: &[Edit], kind: Kind) -> usize {
        edits.iter().filter(|edit| edit.kind == kind).count()
    }
}

struct Planner<'a> {
    db: &'a Connection,
    shape: &'a Shape,
}

impl Planner<'_> {
    fn updates(&self, plan: &mut Plan, rows: &[Row]) -> anyhow::Result<()> {
        let same = rows.first().map_or(Ok(None), |row| self.update_pair(row, 0, 0))?;
        let Some((alice, bob)) = same else {
            plan.left_out.push("updates: no column is free");
            return Ok(());
        };
        plan.alice.push(alice);
        plan.bob.push(bob);
        plan.contested += 1;
        let different = rows.get(1).map_or(Ok(None), |row| self.update_pair(row, 0, 1))?;
        if let Some((alice, bob)) = different {
            plan.alice.push(alice);
            plan.bob.push(bob);
            plan.contested += 1;
        }
        if let Some(row) = rows.get(2) {
            plan.alice.extend(self.update(row, 0, "alice")?);
        }
        if let Some(row) = rows.get(3) {
            plan.bob.extend(self.update(row, 0, "bob")?);
        }
        Ok(())
    }

    /// Updates of one row on both sides, of the `a`th and the `b`th column that can be.
    fn update_pair(&self, row: &Row, a: usize, b: usize) -> anyhow::Result<Option<(Edit, Edit)>> {
        Ok(self.update(row, a, "alice")?.zip(self.update(row, b, "bob")?))
    }

    /// An update of the `n`th column of a row that can be updated by either side.
    fn update(&self, row: &Row, n: usize, who: &str) -> anyhow::Result<Option<Edit>> {
        let mut skip = n;
        for column in self.shape.editable() {
            let edits = ["alice", "bob"].map(|who| self.set(row, column, who));
            let mut possible = true;
            for edit in &edits {
                possible &= match edit {
                    Some(edit) => self.try_out(edit)?,
                    None => false,
                };
            }
            let [alice, bob] = edits;
            match (possible, skip) {
                (false, _) => {}
                (true, 0) => return Ok(if who == "alice" { alice } else { bob }),
                (true, _) => skip -= 1,
            }
        }
        Ok(None)
    }

    fn set(&self, row: &Row, column: &Column, who: &str) -> Option<Edit> {
        let old = row.get(&column.name)?;
        let mut params = vec![changed(old, who)?];
        params.extend(self.key_of(row));
        let place = self.place(2);
        let sql =
            format!("UPDATE {} SET {} = ?1 WHERE {place}", quoted(&self.shape.table), quoted(&column.name));
        Some(Edit { kind: Kind::Update, sql, params })
    }

    fn deletes(&self, plan: &mut Plan, taken: &[Row]) -> anyhow::Result<()> {
        let unreferred: Vec<String> =
            self.shape.referrers.iter().map(|referrer| self.nobody_refers(referrer)).collect();
        let keys: Vec<Vec<Value>> = taken.iter().map(|row| self.key_of(row)).collect();
        let wanted = UPDATED_ROWS + DELETED_ROWS;
        let rows = self.rows(&unreferred.join(" AND "), " DESC", wanted)?;
        let mut rows = rows.into_iter().filter(|row| !keys.contains(&self.key_of(row)));
        let mut alice_deletes = Vec::new();
        for (i, row) in rows.by_ref().take(DELETED_ROWS).enumerate() {
            let delete = self.delete(&row);
            if !self.try_out(&delete)? {
                continue;
            }
            if i == 1 {
                plan.bob.push(delete);
                continue;
            }
            alice_deletes.push(delete);
            if let (2, Some(update)) = (i, self.update(&row, 0, "bob")?) {
                plan.bob.push(update);
                plan.contested += 1;
            }
        }
        if alice_deletes.is_empty() {
            plan.left_out.push("deletes: other rows refer to all");
        }
        plan.alice.extend(alice_deletes);
        Ok(())
    }

    fn delete(&self, row: &Row) -> Edit {
        let sql = format!("DELETE FROM {} WHERE {}", quoted(&self.shape.table), self.place(1));
        Edit { kind: Kind::Delete, sql, params: self.key_of(row) }
    }

    /// Two rows by alice, two by bob, and one key that both use.
    fn inserts(&self, plan: &mut Plan, template: &Row) -> anyhow::Result<()> {
        let mut new: [Vec<Edit>; 2] = Default::default();
        for (n, who) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 0), (4, 1)] {
            let Some(row) = self.new_row(template, n, ["alice", "bob"][who])? else { continue };
            let insert = self.insert(&row);
            if self.try_out(&insert)? {
                new[who].push(insert);
            }
        }
        if new.iter().all(|edits| edits.len() == 3) {
            plan.contested += 1;
        }
        if new.iter().all(Vec::is_empty) {
            plan.left_out.push("inserts: no new key fits");
        }
        let [alice, bob] = new;
        plan.alice.extend(alice);
        plan.bob.extend(bob);
        Ok(())
    }

    fn insert(&self, row: &Row) -> Edit {
        let stored = || self.shape.columns.iter().filter(|column| !column.generated);
        let names: Vec<String> = stored().map(|column| quoted(&column.name)).collect();
        let places: Vec<String> = (1..=names.len()).map(|i| format!("?{i}")).collect();
        let (table, names, places) = (quoted(&self.shape.table), names.join(", "), places.join(", "));
        let params = stored().map(|column| row[&column.name].clone()).collect();
        Edit { kind: Kind::Insert, sql: format!("INSERT INTO {table} ({names}) VALUES ({places})"), params }
    }

    /// The template with the `n`th new key, and values that say who made it.
    fn new_row(&self, template: &Row, n: usize, who: &str) -> anyhow::Result<Option<Row>> {
        let Some(key) = self.new_key(template, n)? else { return Ok(None) };
        let mut row = template.clone();
        if let Some((name, value)) =
            self.shape.editable().find_map(|column| Some((&column.name, changed(&row[&column.name], who)?)))
        {
            row.insert(name.clone(), value);
        }
        for column in self.shape.columns.iter().filter(|column| column.unique && column.key.is_none()) {
            let Some(value) = self.beyond(column, &row[&column.name], n)? else { return Ok(None) };
            row.insert(column.name.clone(), value);
        }
        row.extend(key);
        Ok(Some(row))
    }

    fn new_key(&self, template: &Row, n: usize) -> anyhow::Result<Option<Row>> {
        let key = self.shape.key();
        if let Some(column) = key.iter().find(|column| !column.refers) {
            let value = self.beyond(column, &template[&column.name], n)?;
            return Ok(value.map(|value| Row::from([(column.name.clone(), value)])));
        }
        match key[..] {
            [a, b, ..] => self.free_pair(template, a, b, n),
            _ => Ok(None),
        }
    }

    /// A value that the column does not hold yet, the `n`th.
    fn beyond(&self, column: &Column, like: &Value, n: usize) -> anyhow::Result<Option<Value>> {
        let n = i64::try_from(n).context("few rows are inserted")? + 1;
        Ok(match like {
            Value::Integer(_) => {
                let (name, table) = (quoted(&column.name), quoted(&self.shape.table));
                let sql = format!("SELECT max({name}) FROM {table} WHERE typeof({name}) = 'integer'");
                let max: i64 = self.db.query_row(&sql, [], |row| row.get(0))?;
                max.checked_add(n).map(Value::Integer)
            }
            Value::Text(_) => Some(Value::Text(format!("opor-lab-{n}"))),
            Value::Blob(_) => Some(Value::Blob(format!("opor-lab-{n}").into_bytes())),
            Value::Null | Value::Real(_) => None,
        })
    }

    /// Values of two key columns that are there, though not together.
    fn free_pair(&self, template: &Row, a: &Column, b: &Column, n: usize) -> anyhow::Result<Option<Row>> {
        let (table, x, y) = (quoted(&self.shape.table), quoted(&a.name), quoted(&b.name));
        let rest: Vec<&Column> = self.shape.key().into_iter().skip(2).collect();
        let same =
            rest.iter().enumerate().map(|(i, column)| format!(" AND {} IS ?{}", quoted(&column.name), i + 1));
        let sql = format!(
            "SELECT p.v, q.v FROM (SELECT DISTINCT {x} AS v FROM {table} ORDER BY 1 LIMIT 50) AS p, \
             (SELECT DISTINCT {y} AS v FROM {table} ORDER BY 1 DESC LIMIT 50) AS q \
             WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {x} IS p.v AND {y} IS q.v{}) LIMIT 1 OFFSET {n}",
            same.collect::<String>(),
        );
        let params = params_from_iter(rest.iter().map(|column| &template[&column.name]));
        let mut select = self.db.prepare(&sql)?;
        let mut found = select.query(params)?;
        let Some(row) = found.next()? else { return Ok(None) };
        Ok(Some(Row::from([(a.name.clone(), row.get(0)?), (b.name.clone(), row.get(1)?)])))
    }

    /// The first rows in order of the key that meet a condition.
    fn rows(&self, condition: &str, order: &str, limit: usize) -> anyhow::Result<Vec<Row>> {
        let condition = if condition.is_empty() { "1" } else { condition };
        let names: Vec<String> = self.shape.columns.iter().map(|column| quoted(&column.name)).collect();
        let key: Vec<String> =
            self.shape.key().iter().map(|column| format!("t.{}{order}", quoted(&column.name))).collect();
        let sql = format!(
            "SELECT {} FROM {} AS t WHERE {condition} ORDER BY {} LIMIT {limit}",
            names.join(", "),
            quoted(&self.shape.table),
            key.join(", "),
        );
        let mut select = self.db.prepare(&sql)?;
        let rows = select.query_map([], |row| {
            let columns = self.shape.columns.iter().enumerate();
            columns.map(|(i, column)| Ok((column.name.clone(), row.get(i)?))).collect()
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn nobody_refers(&self, referrer: &Referrer) -> String {
        let same =
            referrer.columns.iter().map(|(there, here)| format!("r.{} = t.{}", quoted(there), quoted(here)));
        let same: Vec<String> = same.collect();
        format!("NOT EXISTS (SELECT 1 FROM {} AS r WHERE {})", quoted(&referrer.table), same.join(" AND "))
    }

    fn key_of(&self, row: &Row) -> Vec<Value> {
        self.shape.key().iter().map(|column| row[&column.name].clone()).collect()
    }

    /// The condition that finds a row by its key, whose first parameter is `?first`.
    fn place(&self, first: usize) -> String {
        let key = self.shape.key();
        let same =
            key.iter().enumerate().map(|(i, column)| format!("{} IS ?{}", quoted(&column.name), first + i));
        same.collect::<Vec<_>>().join(" AND ")
    }

    /// Whether an edit goes through and changes exactly one row. It is taken back.
    fn try_out(&self, edit: &Edit) -> anyhow::Result<bool> {
        self.db.execute_batch("SAVEPOINT try_out")?;
        let changed = self.db.execute(&edit.sql, params_from_iter(&edit.params));
        self.db.execute_batch("ROLLBACK TO try_out; RELEASE try_out")?;
        Ok(changed == Ok(1))
    }
}

/// Another value of the same type, which one depending on who.
fn changed(old: &Value, who: &str) -> Option<Value> {
    let step = if who == "alice" { 1 } else { 2 };
    match old {
        Value::Integer(v) => v.checked_add(step).map(Value::Integer),
        Value::Real(v) => Some(Value::Real(v + step as f64)),
        Value::Text(v) => Some(Value::Text(format!("{v} ({who})"))),
        Value::Blob(v) => Some(Value::Blob([v, who.as_bytes()].concat())),
        Value::Null => None,
    }
}
