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
    Scoped,
    /// The query is run anew.
    Run {
        /// Why nothing better can be done.
        because: String,
    },
}

impl Tier {
    fn of(plan: &Plan) -> Self {
        match &plan.scope {
            Ok(_) => Self::Scoped,
            Err(why) => Self::Run { because: why.to_string() },
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scoped => f.write_str("asks only about the rows that changed"),
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
}

impl Explanation {
    pub(crate) fn of(plan: &Plan) -> Self {
        let tables = plan.tables.iter();
        let tables =
            tables.map(|(table, columns)| TableDependency { table: table.to_string(), columns: *columns });
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
            match dependency.columns {
                ColumnMask::ALL => f.write_str(", any column")?,
                columns => {
                    let places: Vec<String> = (0..64)
                        .filter(|place| columns.contains(*place))
                        .map(|place| place.to_string())
                        .collect();
                    if places.is_empty() {
                        f.write_str(", no column")?;
                    } else {
                        write!(f, ", columns {}", places.join(", "))?;
                    }
                }
            }
        }
        write!(f, "\n{}", self.tier)
    }
}
