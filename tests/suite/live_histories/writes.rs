//! Random statements that write, and that change the schema.

use opor_tests::{Rng, literal, quote};

use super::schema::{self, TABLES, Table, value};

/// Past so many rows a table is thinned out: queries join them with each other.
const ROWS_MAX: usize = 12;
/// Rows of one transaction that the feed does not keep apart.
const MANY_ROWS: usize = opor_store::ROWS_WAITING_MAX + 100;

/// One transaction, or one statement of its own.
pub(super) fn random_commit(rng: &mut Rng, tables: &[Table]) -> Vec<String> {
    if rng.chance(50) {
        return vec![random_write(rng, tables)];
    }
    let mut all = vec!["BEGIN".to_owned()];
    let mut depth = 0;
    for _ in 0..2 + rng.below(5) {
        match rng.below(12) {
            0..2 => {
                all.push(format!("SAVEPOINT s{depth}"));
                depth += 1;
            }
            2..4 if depth > 0 => all.push(format!("ROLLBACK TO s{}", depth - 1)),
            4 if depth > 0 => {
                depth -= 1;
                all.push(format!("RELEASE s{depth}"));
            }
            _ => all.push(random_write(rng, tables)),
        }
    }
    all.push(if rng.chance(85) { "COMMIT" } else { "ROLLBACK" }.to_owned());
    // What could not be committed, because of a foreign key.
    all.push("ROLLBACK".to_owned());
    all
}

/// One that writes more rows than the feed keeps apart, and leaves few behind.
pub(super) fn large_commit(rng: &mut Rng, tables: &[Table]) -> Vec<String> {
    let Some(table) = real(rng, tables) else { return Vec::new() };
    let name = quote(&table.name);
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY_ROWS} + 100) \
         INSERT OR IGNORE INTO {name}(id, a, b) SELECT i, i % 7, 'many' || i FROM n"
    );
    let mut all = vec![
        "BEGIN".to_owned(),
        random_write(rng, tables),
        fill,
        format!("DELETE FROM {name} WHERE id > 102"),
    ];
    // A trigger may have written a row for each that is gone; queries that join these with each other would not end.
    all.extend([thin_out(tables), thin_out(tables)].concat());
    all.extend(["COMMIT".to_owned(), "ROLLBACK".to_owned()]);
    all
}

/// Makes room, so that results stay small.
pub(super) fn thin_out(tables: &[Table]) -> Vec<String> {
    let real = tables.iter().filter(|table| !table.view);
    real.map(|table| {
        let (name, first) = (quote(&table.name), quote(&table.columns[0].name));
        format!(
            "DELETE FROM {name} WHERE (SELECT count(*) FROM {name}) > {ROWS_MAX} AND {first} NOT IN (SELECT {first} FROM {name} LIMIT 5)"
        )
    })
    .collect()
}

fn real<'a>(rng: &mut Rng, tables: &'a [Table]) -> Option<&'a Table> {
    let real: Vec<&Table> = tables.iter().filter(|table| !table.view).collect();
    (!real.is_empty()).then(|| *rng.pick(&real))
}

pub(super) fn random_write(rng: &mut Rng, tables: &[Table]) -> String {
    let Some(table) = real(rng, tables) else { return "SELECT 1".to_owned() };
    let name = quote(&table.name);
    let mut columns: Vec<String> =
        table.columns.iter().filter(|column| !column.computed).map(|column| quote(&column.name)).collect();
    let mut or = *rng.pick(&["", "", "", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ROLLBACK"]);
    if table.strict && or == " OR REPLACE" {
        // In a transaction a value of the wrong type leaves the indexes of a STRICT table without the row that was to be replaced: SQLite
        // 3.40 and 3.53 do not take that back. What such a database gives depends on the plan.
        or = "";
    }
    match rng.below(20) {
        0..9 => {
            if rng.chance(30) {
                columns.truncate(1 + rng.below(columns.len()));
            }
            let row = |rng: &mut Rng| {
                let values: Vec<String> = columns.iter().map(|_| literal(&value(rng))).collect();
                format!("({})", values.join(", "))
            };
            let rows: Vec<String> = (0..1 + rng.below(3)).map(|_| row(rng)).collect();
            let (into, rows) = (columns.join(", "), rows.join(", "));
            let conflict = match rng.below(8) {
                0 => " ON CONFLICT DO NOTHING".to_owned(),
                1..3 => format!(
                    " ON CONFLICT(id) DO UPDATE SET {} = excluded.{}",
                    rng.pick(&columns),
                    rng.pick(&columns)
                ),
                _ => String::new(),
            };
            format!("INSERT{or} INTO {name}({into}) VALUES {rows}{conflict}")
        }
        9..15 => {
            let column = rng.pick(&columns).clone();
            let other = rng.pick(&columns).clone();
            let new = match rng.below(6) {
                0 => other,
                1 => format!("{column} || 'a'"),
                2 => format!("{column} + 1"),
                3 => column.clone(),
                _ => literal(&value(rng)),
            };
            format!("UPDATE{or} {name} SET {column} = {new} WHERE {}", condition(rng, &columns))
        }
        15..18 => format!("DELETE FROM {name} WHERE {}", condition(rng, &columns)),
        18 if rng.chance(20) => format!("DELETE FROM {name}"),
        _ => {
            let other = &tables[rng.below(tables.len())];
            let from = &other.columns[rng.below(other.columns.len())].name;
            let into = rng.pick(&columns);
            format!(
                "INSERT{or} INTO {name}(id, {into}) SELECT {id}, {} FROM {} LIMIT 2",
                quote(from),
                quote(&other.name),
                id = rng.below(9)
            )
        }
    }
}

fn condition(rng: &mut Rng, columns: &[String]) -> String {
    let column = rng.pick(columns).clone();
    match rng.below(6) {
        0..3 => format!("{column} = {}", literal(&value(rng))),
        3 => format!("{column} > {}", literal(&value(rng))),
        4 => format!("{column} IS NULL"),
        _ => format!("id = {}", rng.below(6)),
    }
}

/// Something that changes the schema. It may well fail.
pub(super) fn random_ddl(rng: &mut Rng, tables: &[Table]) -> String {
    let name = *rng.pick(&TABLES);
    let there = tables.iter().find(|table| table.name == name);
    let column = there.map_or("a", |table| &table.columns[rng.below(table.columns.len())].name);
    match rng.below(15) {
        0..3 => format!(
            "ALTER TABLE {name} ADD COLUMN e{} {}",
            rng.below(3),
            *rng.pick(&["", "TEXT DEFAULT 'e'", "AS (a || 'e')"])
        ),
        3 => format!("ALTER TABLE {name} DROP COLUMN {}", quote(column)),
        4 => format!("ALTER TABLE {name} RENAME COLUMN {} TO f{}", quote(column), rng.below(3)),
        5 => format!("DROP TABLE {name}"),
        6..8 => TABLES
            .iter()
            .find(|name| tables.iter().all(|table| table.name != **name))
            .map_or_else(|| "SELECT 1".to_owned(), |name| schema::table(rng, name)),
        8 => schema::view(rng),
        9 => format!("DROP VIEW v{}", rng.below(3)),
        10..12 => schema::index(rng),
        12 => format!("DROP INDEX i{}", rng.below(8)),
        13 => format!("DROP TRIGGER r{}", rng.below(4)),
        _ => "VACUUM".to_owned(),
    }
}
