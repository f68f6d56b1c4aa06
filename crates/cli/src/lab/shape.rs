//! The shape of a table of any database: columns, keys, and what refers to it.

use rusqlite::Connection;

/// What there is to know about a table in order to edit it without breaking it.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
    /// Foreign keys of other tables, or of itself, that point here.
    pub(crate) referrers: Vec<Referrer>,
}

/// A column that is stored.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its place in the primary key, from 1.
    pub(crate) key: Option<u32>,
    pub(crate) generated: bool,
    /// Whether it is part of a foreign key.
    pub(crate) refers: bool,
    /// Whether it is part of a unique index besides the primary key.
    pub(crate) unique: bool,
}

/// A foreign key that points to a table: where from, and which columns to which.
#[derive(Clone, Debug)]
pub(crate) struct Referrer {
    pub(crate) table: String,
    /// Column there, column here.
    pub(crate) columns: Vec<(String, String)>,
}

impl Shape {
    /// Reads the shape of a table.
    pub(crate) fn of(db: &Connection, table: &str) -> rusqlite::Result<Self> {
        let mut shape = Self { table: table.to_owned(), columns: columns(db, table)?, referrers: Vec::new() };
        for name in crate::database::user_tables(db)? {
            shape.add_referrers(db, &name)?;
        }
        Ok(shape)
    }

    /// The key columns, in PRIMARY KEY order.
    pub(crate) fn key(&self) -> Vec<&Column> {
        let mut key: Vec<&Column> = self.columns.iter().filter(|column| column.key.is_some()).collect();
        key.sort_by_key(|column| column.key);
        key
    }

    /// Columns whose value can be changed without regard to anything else.
    pub(crate) fn editable(&self) -> impl Iterator<Item = &Column> {
        self.columns
            .iter()
            .filter(|column| column.key.is_none() && !column.generated && !column.refers && !column.unique)
    }

    fn add_referrers(&mut self, db: &Connection, from: &str) -> rusqlite::Result<()> {
        let mut select = db.prepare(
            "SELECT id, \"from\", \"to\" FROM pragma_foreign_key_list(?1) \
             WHERE \"table\" = ?2 COLLATE NOCASE ORDER BY id, seq",
        )?;
        let mut found = select.query([from, &self.table])?;
        let key: Vec<String> = self.key().iter().map(|column| column.name.clone()).collect();
        let mut last = None;
        while let Some(row) = found.next()? {
            let id: i64 = row.get(0)?;
            if last.replace(id) != Some(id) {
                self.referrers.push(Referrer { table: from.to_owned(), columns: Vec::new() });
            }
            let columns = &mut self.referrers.last_mut().expect("one was just pushed").columns;
            // Without a column named, the primary key is meant.
            let to = match row.get::<_, Option<String>>(2)? {
                Some(to) => to,
                None => key.get(columns.len()).cloned().unwrap_or_default(),
            };
            columns.push((row.get(1)?, to));
        }
        Ok(())
    }
}

fn columns(db: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut select = db.prepare(
        "SELECT name, pk, hidden, \
           EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1) AS f WHERE f.\"from\" = c.name COLLATE NOCASE), \
           EXISTS (SELECT 1 FROM pragma_index_list(?1) AS l, pragma_index_info(l.name) AS i \
                   WHERE l.\"unique\" AND l.origin <> 'pk' AND i.name = c.name) \
         FROM pragma_table_xinfo(?1) AS c WHERE hidden <> 1 ORDER BY cid",
    )?;
    let columns = select.query_map([table], |row| {
        let key: u32 = row.get(1)?;
        Ok(Column {
            name: row.get(0)?,
            key: (key > 0).then_some(key),
            generated: row.get::<_, i64>(2)? != 0,
            refers: row.get(3)?,
            unique: row.get(4)?,
        })
    })?;
    columns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_knows_what_refers_to_the_table() {
        let db = Connection::open_in_memory().expect("memory");
        db.execute_batch(
            "CREATE TABLE a (x, y, n UNIQUE, g AS (x + 1), PRIMARY KEY (y, x)); \
             CREATE TABLE b (id INTEGER PRIMARY KEY NOT NULL, p, q, boss REFERENCES b, \
                             FOREIGN KEY (p, q) REFERENCES A (y, x));",
        )
        .expect("two tables");
        let a = Shape::of(&db, "a").expect("a");
        assert_eq!(a.key().iter().map(|column| &*column.name).collect::<Vec<_>>(), ["y", "x"]);
        assert_eq!(a.editable().count(), 0, "key, unique and generated columns are not edited");
        assert_eq!(a.referrers.len(), 1);
        assert_eq!(a.referrers[0].columns, [("p".into(), "y".into()), ("q".into(), "x".into())]);
        let b = Shape::of(&db, "b").expect("b");
        assert_eq!(b.referrers[0].columns, [("boss".into(), "id".into())]);
        assert!(b.columns.iter().all(|column| column.refers == (column.name != "id")));
    }
}
