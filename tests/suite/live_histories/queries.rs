//! Random SELECTs over whatever tables there are.

use opor_core::Value;
use opor_tests::{Rng, literal, quote};

use super::schema::{Table, value};

/// A statement and its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) sql: String,
    pub(super) parameters: Vec<Value>,
}

/// A query; its first column is named `k` more often than not.
pub(super) fn random_query(rng: &mut Rng, tables: &[Table]) -> Asked {
    if tables.is_empty() {
        return Asked { sql: "SELECT 1 AS k".to_owned(), parameters: Vec::new() };
    }
    let mut builder = Builder { rng, tables, parameters: Vec::new(), aliases: 0, depth: 0 };
    let sql = builder.query();
    Asked { sql, parameters: builder.parameters }
}

/// Columns that can be named, as SQL.
type Scope = Vec<String>;

struct Builder<'a> {
    rng: &'a mut Rng,
    tables: &'a [Table],
    parameters: Vec<Value>,
    aliases: usize,
    depth: usize,
}

impl Builder<'_> {
    fn query(&mut self) -> String {
        match self.rng.below(24) {
            0..4 => self.guarded(),
            4..11 => {
                let (core, width) = self.core(None);
                core + &self.order(width)
            }
            11..13 => self.aggregate(),
            13 => self.window(),
            14..17 => {
                let (left, width) = self.core(None);
                let (right, _) = self.core(Some(width));
                let operator = *self.rng.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
                let order = self.order(width);
                format!("{left} {operator} {right}{order}")
            }
            17 => {
                let (inner, _) = self.core(Some(2));
                let (from, scope) = self.source();
                let on = self.rng.pick(&scope).clone();
                let condition = self.condition(&scope);
                format!(
                    "WITH q(m, n) AS ({inner}) SELECT q.m AS k, q.n, {on} FROM q LEFT JOIN {from} ON q.n = {on} AND {condition}"
                )
            }
            18 => self.recursive(),
            19 => self.over_json(),
            _ => self.followed(),
        }
    }

    fn parameter(&mut self) -> String {
        let value = value(self.rng);
        if self.rng.chance(25) {
            return literal(&value);
        }
        self.parameters.push(value);
        format!("?{}", self.parameters.len())
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("x{}", self.aliases)
    }

    fn plain_table(&mut self) -> (String, Scope) {
        let table = &self.tables[self.rng.below(self.tables.len())];
        let alias = self.alias();
        let scope = table.columns.iter().map(|column| format!("{alias}.{}", quote(&column.name)));
        (format!("{} AS {alias}", quote(&table.name)), scope.collect())
    }

    fn item(&mut self) -> (String, Scope) {
        if self.depth > 0 || self.rng.chance(88) {
            return self.plain_table();
        }
        self.depth += 1;
        let (from, scope) = self.source();
        let (one, other) = (self.expression(&scope), self.rng.pick(&scope).clone());
        let condition = self.condition(&scope);
        let limit = if self.rng.chance(20) { " ORDER BY 1, 2 LIMIT 4" } else { "" };
        self.depth -= 1;
        let alias = self.alias();
        let sql =
            format!("(SELECT {one} AS m, {other} AS n FROM {from} WHERE {condition}{limit}) AS {alias}");
        (sql, vec![format!("{alias}.m"), format!("{alias}.n")])
    }

    fn source(&mut self) -> (String, Scope) {
        const KINDS: [&str; 7] =
            ["JOIN", "INNER JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"];
        let (mut sql, mut scope) = self.item();
        for _ in 0..*self.rng.pick(&[0, 0, 0, 1, 1, 2]) {
            let (other, more) = self.item();
            match self.rng.below(10) {
                0 => sql = format!("{sql}, {other}"),
                1 => {
                    sql = format!(
                        "{sql} NATURAL {} {other}",
                        *self.rng.pick(&["JOIN", "LEFT JOIN", "FULL JOIN"])
                    )
                }
                2 => sql = format!("{sql} {} {other} USING (id)", *self.rng.pick(&["JOIN", "LEFT JOIN"])),
                _ => {
                    let (left, right) = (self.rng.pick(&scope).clone(), self.rng.pick(&more).clone());
                    let kind = *self.rng.pick(&KINDS);
                    sql = format!("{sql} {kind} {other} ON {left} = {right}");
                    if self.rng.chance(30) {
                        sql = format!("{sql} AND {}", self.simple_condition(&more));
                    }
                }
            }
            scope.extend(more);
        }
        (sql, scope)
    }

    fn expression(&mut self, scope: &Scope) -> String {
        let column = self.rng.pick(scope).clone();
        match self.rng.below(24) {
            0..13 => column,
            13 => format!("coalesce({column}, {})", self.parameter()),
            14 => format!("{column} || 'x'"),
            15 => {
                let condition = self.condition(scope);
                format!("CASE WHEN {condition} THEN {column} ELSE {} END", self.parameter())
            }
            16 => format!("typeof({column})"),
            17 => format!("lower({column})"),
            18 => format!("{column} COLLATE NOCASE"),
            19 => format!("{column} + 1"),
            20 => format!("CASE {column} WHEN 1 THEN 'one' WHEN 'a' THEN 'letter' END"),
            21 if self.rng.chance(30) => {
                // Fails for some rows.
                format!("json_extract(CASE WHEN {column} = 5 THEN 'no' ELSE '[1]' END, '$[0]')")
            }
            _ => {
                let (table, inner) = self.plain_table();
                let (value, equal) = (self.rng.pick(&inner).clone(), self.rng.pick(&inner).clone());
                let function = *self.rng.pick(&["max", "count", "min", "total"]);
                format!("(SELECT {function}({value}) FROM {table} WHERE {equal} = {column})")
            }
        }
    }

    /// The kind that is compared with parameters: what guards are made of.
    fn simple_condition(&mut self, scope: &Scope) -> String {
        let column = self.rng.pick(scope).clone();
        match self.rng.below(14) {
            0..4 => format!("{column} = {}", self.parameter()),
            4 => format!("{} = {column}", self.parameter()),
            5 => format!("{column} IS {}", self.parameter()),
            6 => format!("{column} IN ({}, {}, {})", self.parameter(), self.parameter(), self.parameter()),
            7 => format!("{column} BETWEEN {} AND {}", self.parameter(), self.parameter()),
            8..10 => {
                let operator = *self.rng.pick(&["<", "<=", ">", ">="]);
                format!("{column} {operator} {}", self.parameter())
            }
            10 => {
                let other = self.rng.pick(scope).clone();
                format!("({column} = {} OR {other} = {})", self.parameter(), self.parameter())
            }
            11 => format!("({column} = {} OR {column} = {})", self.parameter(), self.parameter()),
            12 => format!("{column} COLLATE NOCASE = {}", self.parameter()),
            _ => format!("{column} IS {}NULL", *self.rng.pick(&["", "NOT "])),
        }
    }

    fn condition(&mut self, scope: &Scope) -> String {
        let column = self.rng.pick(scope).clone();
        match self.rng.below(20) {
            0..9 => self.simple_condition(scope),
            9..12 => {
                let (one, other) = (self.simple_condition(scope), self.simple_condition(scope));
                format!("{one} AND {other}")
            }
            12 => format!("NOT ({})", self.simple_condition(scope)),
            13 if self.rng.chance(25) => format!("{column} LIKE {} || '%'", self.parameter()),
            13 => format!("{column} LIKE {}", *self.rng.pick(&["'a%'", "'%1%'", "'B'"])),
            14 => format!("{column} GLOB {}", *self.rng.pick(&["'a*'", "'[ab]'", "'*'"])),
            15 => {
                let (one, other) = (self.rng.pick(scope).clone(), self.parameter());
                format!("({column}, {one}) = ({other}, {})", self.parameter())
            }
            16 => format!("{} <> {column} OR TRUE", self.parameter()),
            _ => {
                let (table, inner) = self.plain_table();
                let (value, equal) = (self.rng.pick(&inner).clone(), self.rng.pick(&inner).clone());
                let not = *self.rng.pick(&["", "", "NOT "]);
                let simple = self.simple_condition(&inner);
                match self.rng.below(3) {
                    0 => format!("{not}EXISTS (SELECT 1 FROM {table} WHERE {equal} = {column} AND {simple})"),
                    1 => format!("{column} {not}IN (SELECT {value} FROM {table} WHERE {simple})"),
                    _ => format!(
                        "{column} {not}IN (SELECT {value} FROM {table} WHERE {equal} = {column} AND {simple})"
                    ),
                }
            }
        }
    }

    /// A SELECT of so many columns, without an order.
    fn core(&mut self, width: Option<usize>) -> (String, usize) {
        let width = width.unwrap_or_else(|| 1 + self.rng.below(3));
        let (from, scope) = self.source();
        let first = if self.rng.chance(60) { scope[0].clone() } else { self.expression(&scope) };
        let mut columns = vec![format!("{first} AS k")];
        columns.extend((1..width).map(|_| self.expression(&scope)));
        let distinct = if self.rng.chance(15) { "DISTINCT " } else { "" };
        let mut sql = format!("SELECT {distinct}{} FROM {from}", columns.join(", "));
        if self.rng.chance(75) {
            sql = format!("{sql} WHERE {}", self.condition(&scope));
        }
        (sql, width)
    }

    /// One table with conditions on its columns, as applications have most.
    fn guarded(&mut self) -> String {
        let (table, scope) = self.plain_table();
        let columns = if self.rng.chance(15) {
            "*".to_owned()
        } else {
            format!("{} AS k, {}", scope[0], self.rng.pick(&scope))
        };
        let mut conditions = vec![self.simple_condition(&scope)];
        conditions.extend((0..self.rng.below(2)).map(|_| self.simple_condition(&scope)));
        let order = if columns == "*" { String::new() } else { self.order(2) };
        format!("SELECT {columns} FROM {table} WHERE {}{order}", conditions.join(" AND "))
    }

    /// What is asked only about rows that changed, if its tables allow that: joins, groups and subqueries, with an order and a LIMIT.
    fn followed(&mut self) -> String {
        let (mut from, left) = self.plain_table();
        let mut scope = left.clone();
        for _ in 0..*self.rng.pick(&[0, 0, 1, 1, 2]) {
            let (other, more) = self.plain_table();
            let (one, two) = (self.rng.pick(&scope).clone(), self.rng.pick(&more).clone());
            let kind = *self.rng.pick(&["LEFT JOIN", "LEFT JOIN", "JOIN"]);
            from = format!("{from} {kind} {other} ON {one} = {two}");
            if self.rng.chance(30) {
                from = format!("{from} AND {}", self.simple_condition(&more));
            }
            scope.extend(more);
        }
        let condition = match self.rng.below(3) {
            0 => String::new(),
            1 => format!(" WHERE {}", self.condition(&left)),
            _ => format!(" WHERE {}", self.simple_condition(&left)),
        };
        let (one, two) = (self.rng.pick(&scope).clone(), self.rng.pick(&scope).clone());
        let (distinct, columns, group) = match self.rng.below(6) {
            0 => ("DISTINCT ", format!("{one} AS k, {two}"), String::new()),
            1..4 => {
                let function = *self.rng.pick(&["count", "sum", "max", "min", "total", "avg"]);
                let having = if self.rng.chance(20) { " HAVING count(*) > 1" } else { "" };
                ("", format!("{one} AS k, {function}({two})"), format!(" GROUP BY {one}{having}"))
            }
            _ => ("", format!("{one} AS k, {two}"), String::new()),
        };
        let order = self.order(2);
        format!("SELECT {distinct}{columns} FROM {from}{condition}{group}{order}")
    }

    fn order(&mut self, width: usize) -> String {
        if self.rng.chance(50) {
            return String::new();
        }
        let mut terms: Vec<String> = (1..=width)
            .map(|place| {
                format!("{place}{}", *self.rng.pick(&["", "", " DESC", " COLLATE NOCASE", " NULLS LAST"]))
            })
            .collect();
        self.rng.shuffle(&mut terms);
        let limit = match self.rng.below(4) {
            0 => format!(" LIMIT {}", 1 + self.rng.below(5)),
            1 => format!(" LIMIT {} OFFSET {}", 1 + self.rng.below(4), self.rng.below(4)),
            _ => String::new(),
        };
        format!(" ORDER BY {}{limit}", terms.join(", "))
    }

    fn aggregate(&mut self) -> String {
        const FUNCTIONS: [&str; 8] =
            ["count", "sum", "min", "max", "avg", "total", "group_concat", "count(DISTINCT"];
        let (from, scope) = self.source();
        let mut columns: Vec<String> = (0..1 + self.rng.below(3))
            .map(|_| {
                let (function, column) = (*self.rng.pick(&FUNCTIONS), self.rng.pick(&scope).clone());
                let filter = if self.rng.chance(15) {
                    format!(" FILTER (WHERE {})", self.simple_condition(&scope))
                } else {
                    String::new()
                };
                let open = if function.contains('(') { "" } else { "(" };
                format!("{function}{open} {column}){filter}")
            })
            .collect();
        let condition = if self.rng.chance(60) { self.condition(&scope) } else { "TRUE".to_owned() };
        if self.rng.chance(30) {
            columns[0] += " AS k";
            return format!("SELECT {} FROM {from} WHERE {condition}", columns.join(", "));
        }
        let group = self.expression(&scope);
        let having = if self.rng.chance(30) { " HAVING count(*) > 1" } else { "" };
        let order = self.order(columns.len() + 1);
        format!(
            "SELECT {group} AS k, {} FROM {from} WHERE {condition} GROUP BY {group}{having}{order}",
            columns.join(", ")
        )
    }

    fn window(&mut self) -> String {
        let (from, scope) = self.source();
        let mut pick = || self.rng.pick(&scope).clone();
        let (value, part, by) = (pick(), pick(), pick());
        let function = match self.rng.below(5) {
            0 => "row_number()".to_owned(),
            1 => format!("lag({value})"),
            2 => format!("sum({value})"),
            3 => "dense_rank()".to_owned(),
            _ => format!("first_value({value})"),
        };
        let condition = self.condition(&scope);
        format!(
            "SELECT {} AS k, {function} OVER (PARTITION BY {part} ORDER BY {by}, {}) FROM {from} WHERE {condition}",
            scope[0], scope[0]
        )
    }

    fn recursive(&mut self) -> String {
        let (start, scope) = self.plain_table();
        let (next, inner) = self.plain_table();
        let (from, to) = (self.rng.pick(&inner).clone(), self.rng.pick(&inner).clone());
        let condition = self.simple_condition(&scope);
        format!(
            "WITH RECURSIVE r(n, depth) AS (SELECT {}, 0 FROM {start} WHERE {condition} UNION SELECT {to}, depth + 1 FROM {next} \
             JOIN r ON {from} = r.n WHERE depth < 3) SELECT n AS k, depth FROM r",
            scope[0]
        )
    }

    fn over_json(&mut self) -> String {
        let (from, scope) = self.plain_table();
        let column = self.rng.pick(&scope).clone();
        let safe = format!("iif(json_valid({column}), {column}, '[]')");
        let json = if self.rng.chance(50) { column } else { safe };
        format!("SELECT {} AS k, j.value FROM {from}, json_each({json}) AS j", scope[0])
    }
}
