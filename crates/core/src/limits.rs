//! Checks on a changeset from outside, made before anything is stored.

use std::sync::Arc;

use crate::{
    CausalLength, Changeset, ClockDrift, ColVersion, DbVersion, Hlc, HybridClock, PackedKey, RowChange,
    Value, WallMillis,
};

/// What a changeset from outside may hold at most.
///
/// The defaults are far above honest use and far below what wedges a peer or eats memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most changes in one changeset.
    pub changes_max: usize,
    /// The most bytes in one value.
    pub value_bytes_max: usize,
    /// The most bytes in the name of a table or column; cr-sqlite's 2048.
    pub name_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { changes_max: 50_000_000, value_bytes_max: 256 << 20, name_bytes_max: 2048 }
    }
}

/// A change that breaks a limit, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change to table {table:?}, key ({key}) is refused")]
pub struct InvalidChange {
    /// The table.
    pub table: Arc<str>,
    /// The key of the row.
    pub key: PackedKey,
    /// What is wrong.
    #[source]
    pub breach: Breach,
}

/// What is wrong with a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// More changes than [`Limits::changes_max`].
    #[error("changeset holds {count} changes, the limit is {max}")]
    TooManyChanges {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A name longer than [`Limits::name_bytes_max`], or empty.
    #[error("name of {len} bytes, the limit is 1 to {max}")]
    NameLength {
        /// How long it is.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A value longer than [`Limits::value_bytes_max`].
    #[error("value of {len} bytes, the limit is {max}")]
    ValueLength {
        /// How long it is.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A real that is not a number: SQLite stores NULL in its place, so no replica could hold it.
    #[error("value of column {column:?} is NaN, which SQLite cannot store")]
    NotANumber {
        /// The column.
        column: Arc<str>,
    },
    /// A counter past its cap.
    #[error("{counter} is {value}, the limit is {max}")]
    CounterRange {
        /// Which counter.
        counter: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// A causal length of 0.
    #[error("causal length is 0")]
    NoCausalLength,
    /// A deleted row that carries column values.
    #[error("causal length {cl} says deleted, yet the change carries column values")]
    CellsOfDeleted {
        /// The causal length.
        cl: CausalLength,
    },
    /// A stamp from the future.
    #[error(transparent)]
    Drift(#[from] ClockDrift),
}

impl Changeset {
    /// Checks every change against the limits and the caps of the counters, in one pass. Tells the largest version of
    /// any cell: what a hybrid clock moves to. It is 0 when there is no cell.
    ///
    /// # Errors
    /// A change that breaks one. Nothing else is looked at after it.
    pub fn validate(&self, limits: &Limits) -> Result<ColVersion, InvalidChange> {
        self.validation(limits)?.check(usize::MAX)
    }

    /// As [`validate`](Self::validate), a few rows at a time: for who takes them in while they are at hand, and can take
    /// all of it back. Only names are checked yet.
    ///
    /// # Errors
    /// A change with a name that breaks a limit.
    pub fn validation<'c>(&'c self, limits: &'c Limits) -> Result<Validation<'c>, InvalidChange> {
        self.check_names(limits)?;
        Ok(Validation { changeset: self, limits, left: self.rows(), count: 0, newest: ColVersion(0) })
    }

    /// Checks the names of tables and columns that changes mention.
    fn check_names(&self, limits: &Limits) -> Result<(), InvalidChange> {
        for (index, table) in self.tables().iter().enumerate() {
            for name in std::iter::once(&table.name).chain(&table.columns) {
                let named = |row: &&RowChange| {
                    let cells = row.cells.iter().map(|cell| &table.columns[cell.column as usize]);
                    row.table as usize == index
                        && (*name == table.name || cells.into_iter().any(|own| own == name))
                };
                if let (Err(breach), Some(row)) = (check_name(name, limits), self.rows().iter().find(named)) {
                    return Err(self.invalid(row, breach));
                }
            }
        }
        Ok(())
    }

    /// Checks that no stamp is further ahead of `wall` than `clock` accepts. Sentinels carry causal lengths, not
    /// stamps, and are not looked at.
    ///
    /// # Errors
    /// The first change that is too far ahead.
    pub fn check_drift(&self, clock: &HybridClock, wall: WallMillis) -> Result<(), InvalidChange> {
        for row in self.rows() {
            for cell in &row.cells {
                clock
                    .check(Hlc::from_version(cell.clock.col_version), wall)
                    .map_err(|drift| self.invalid(row, drift.into()))?;
            }
        }
        Ok(())
    }

    fn invalid(&self, row: &RowChange, breach: Breach) -> InvalidChange {
        InvalidChange { table: self.tables()[row.table as usize].name.clone(), key: row.key.clone(), breach }
    }

    /// Tells the largest version of the row's cells.
    fn check_row(&self, row: &RowChange, limits: &Limits) -> Result<ColVersion, Breach> {
        check_counter("cl", row.cl.0, CausalLength::MAX.0)?;
        if row.cl == CausalLength(0) {
            return Err(Breach::NoCausalLength);
        }
        if row.cl.is_deleted() && !row.cells.is_empty() {
            return Err(Breach::CellsOfDeleted { cl: row.cl });
        }
        let mut newest = ColVersion(0);
        for cell in &row.cells {
            newest = newest.max(cell.clock.col_version);
            match &cell.value {
                Value::Real(real) if real.is_nan() => {
                    let columns = &self.tables()[row.table as usize].columns;
                    return Err(Breach::NotANumber { column: columns[cell.column as usize].clone() });
                }
                value if value.payload_len() > limits.value_bytes_max => {
                    return Err(Breach::ValueLength {
                        len: value.payload_len(),
                        max: limits.value_bytes_max,
                    });
                }
                _ => {}
            }
        }
        for clock in row.sentinel.iter().chain(row.cells.iter().map(|cell| &cell.clock)) {
            check_counter("col_version", clock.col_version.0, ColVersion::MAX.0)?;
            check_counter("db_version", clock.db_version.0, DbVersion::MAX.0)?;
            check_counter("seq", clock.seq, DbVersion::MAX.0)?;
        }
        Ok(newest)
    }
}

/// A changeset that is being checked; see [`Changeset::validation`].
#[derive(Debug)]
pub struct Validation<'c> {
    changeset: &'c Changeset,
    limits: &'c Limits,
    left: &'c [RowChange],
    count: usize,
    newest: ColVersion,
}

impl Validation<'_> {
    /// Checks the next rows, so many or as many as there are. Tells the largest version of any cell so far.
    ///
    /// # Errors
    /// A change that breaks a limit. Nothing else is looked at after it.
    pub fn check(&mut self, rows: usize) -> Result<ColVersion, InvalidChange> {
        let (part, left) = self.left.split_at(rows.min(self.left.len()));
        for row in part {
            let invalid = |breach| self.changeset.invalid(row, breach);
            let of_row = self.changeset.check_row(row, self.limits).map_err(invalid)?;
            self.newest = self.newest.max(of_row);
            self.count += row.cells.len() + usize::from(row.sentinel.is_some());
            if self.count > self.limits.changes_max {
                let (count, max) = (self.changeset.len(), self.limits.changes_max);
                return Err(invalid(Breach::TooManyChanges { count, max }));
            }
        }
        self.left = left;
        Ok(self.newest)
    }
}

fn check_name(name: &str, limits: &Limits) -> Result<(), Breach> {
    let (len, max) = (name.len(), limits.name_bytes_max);
    if len == 0 || len > max { Err(Breach::NameLength { len, max }) } else { Ok(()) }
}

const fn check_counter(counter: &'static str, value: u64, max: u64) -> Result<(), Breach> {
    if value > max { Err(Breach::CounterRange { counter, value, max }) } else { Ok(()) }
}
