//! Why a query is kept current the way it is.

use std::fmt;

use opor_store::ColumnMask;

use crate::plan::Plan;

/// What a query depends on; see [`Live::explain`](crate::Live::explain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The tables it reads, in alphabetical order.
    pub tables: Vec<TableDependency>,
    /// Something it reads that does not tell when it changes, such as a virtual table: it is run after every commit.
    pub unwatched: Option<String>,
    /// How its result is brought to a commit that concerns it.
    pub tier: Tier,
}

/// How the result of a query is brought to a commit that concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// SQLite is asked only about the rows that changed. When many did, or it is not known which, the query is run anew.
    Scoped {
        /// What it is asked about: more than these rows where one row of a table decides on others of the result.
        about: String,
    },
    /// The query is run anew.
    Run {
        /// Why nothing better can be done.
        because: String,
    },
}

impl Tier {
    fn of(plan: &Plan) -> Self {
        match &plan.scope {
            Ok(scope) => Self::Scoped { about: scope.about() },
            Err(why) => Self::Run { because: why.to_string() },
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scoped { about } => write!(f, "asks only about {about}"),
            Self::Run { because } => write!(f, "is run as a whole: {because}"),
        }
    }
}

/// How a query depends on a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDependency {
    /// The table.
    pub table: String,
    /// Updates of these columns concern the query, by their places in the table; inserts and deletes always do.
    pub columns: ColumnMask,
    /// The names of these columns; `None` when it is any column.
    pub column_names: Option<Vec<String>>,
    /// What a row has to meet for the query to be run because of it, as it was or as it is, in words: one condition for each time
    /// that the table is joined. Any row will do when there is none.
    pub guards: Vec<String>,
    /// Why there is no such condition.
    pub unguarded: Option<String>,
}

impl Explanation {
    pub(crate) fn of(plan: &Plan) -> Self {
        let tables = plan.tables.iter().map(|(table, columns)| {
            let names = plan.names.get(table).filter(|_| *columns != ColumnMask::ALL);
            let named = |names: &Vec<String>| {
                let read = names.iter().enumerate().filter(|(place, _)| columns.contains(*place));
                read.map(|(_, name)| name.clone()).collect()
            };
            let guards = plan.guards.tables.get(table).into_iter().flatten();
            TableDependency {
                table: table.to_string(),
                columns: *columns,
                column_names: names.map(named),
                guards: guards.map(|guard| guard.words(&plan.parameters)).collect(),
                unguarded: plan.guards.without.get(table).map(ToString::to_string),
            }
        });
        Self { tables: tables.collect(), unwatched: plan.unwatched.clone(), tier: Tier::of(plan) }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(unwatched) = &self.unwatched {
            return write!(f, "runs after every commit: {unwatched} does not tell when it changes");
        }
        if self.tables.is_empty() {
            return f.write_str("never runs again: it reads no table");
        }
        f.write_str("runs again when rows come or go, or columns change, in:")?;
        for dependency in &self.tables {
            write!(f, "\n  {}", dependency.table)?;
            match dependency.column_names.as_deref() {
                None => f.write_str(", any column")?,
                Some([]) => f.write_str(", no column")?,
                Some(names) => write!(f, ", columns {}", names.join(", "))?,
            }
            match (&dependency.guards[..], &dependency.unguarded) {
                ([], None) => {}
                ([], Some(why)) => write!(f, "; any row: {why}")?,
                (guards, _) => write!(f, "; rows with {}", guards.join(", or rows with "))?,
            }
        }
        write!(f, "\n{}", self.tier)
    }
}
