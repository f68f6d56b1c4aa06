//! Groups of rows: which of them rows leave and come to, and what SQLite says of these.

use std::cmp::Ordering;

use opor_core::{PackedKey, Value};
use opor_store::rusqlite::StatementStatus;
use rustc_hash::FxHashMap;

use super::Scope;
use super::order::Comparison;
use super::source::{Budget, Entry, Moves, Source, values};
use super::step::Asked;
use crate::error::LiveError;
use crate::run::bind;

/// The statements that ask about groups.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Groups {
    /// Asks about one group, by the values that its rows have in common.
    pub(super) sql: String,
    /// Gives the rows that groups are made of: their rowids, and what is grouped by.
    pub(super) members: String,
    /// How the values that are grouped by compare.
    pub(super) keys: Vec<Comparison>,
    /// Of the query; those of the values come after them.
    pub(super) parameters: usize,
}

type Key = Box<[Value]>;

/// The rows that groups are made of, and the group of each.
#[derive(Debug, Default)]
pub(super) struct Members {
    rowids: Vec<i64>,
    /// For each row the place of its key. Equal keys that are written differently have different places.
    keys: Vec<u32>,
    /// Each key, and how many rows have it.
    values: Vec<(Key, u32)>,
    places: FxHashMap<PackedKey, u32>,
    free: Vec<u32>,
}

impl Groups {
    /// Two lists of values that are grouped by.
    pub(super) fn compare(&self, a: &[Value], b: &[Value]) -> Ordering {
        let mut orders = self.keys.iter().zip(a.iter().zip(b)).map(|(key, (a, b))| key.compare(a, b));
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// All rows in the open snapshot; `None` when there are more than a result may have, or one cannot be kept.
    pub(super) fn members(&self, asked: Asked<'_>, source: &Source) -> Result<Option<Members>, LiveError> {
        let mut stmt = asked.store.prepare_cached(&self.members)?;
        let used = stmt.parameter_count().min(asked.parameters.len());
        bind(&mut stmt, &asked.parameters[..used])?;
        let mut rows = stmt.raw_query();
        let mut members = Members::default();
        while let Some(row) = rows.next()? {
            if members.keys.len() == asked.rows_max {
                return Ok(None);
            }
            source.rowids(row, &mut members.rowids)?;
            let key = values(row, source.tables.len(), self.keys.len())?;
            members.join(key.into());
        }
        Ok(Some(members))
    }

    /// The keys of the groups that rows leave and come to, each once and in their order.
    fn concerned(&self, members: &Members, moves: &Moves) -> Vec<Key> {
        let left = moves.gone.iter().map(|at| members.values[members.keys[*at] as usize].0.clone());
        let mut keys: Vec<Key> = left.chain(moves.comes.iter().map(|entry| entry.terms.clone())).collect();
        keys.sort_by(|a, b| self.compare(a, b));
        keys.dedup_by(|a, b| self.compare(a, b).is_eq());
        keys
    }
}

impl Members {
    /// The groups that go or change, as rows of the result by their places, and what they are then; `None` when it takes more steps than
    /// allowed, or when what a group says depends on the order of its rows.
    pub(super) fn moves(
        &mut self,
        asked: Asked<'_>,
        scope: &Scope,
        groups: &Groups,
        changed: &[Vec<i64>],
        held: &[Box<[Value]>],
        budget: &mut Budget,
    ) -> Result<Option<Moves>, LiveError> {
        let Some(moves) = scope.source.moves(asked, &self.rowids, changed, budget)? else { return Ok(None) };
        let keys = groups.concerned(self, &moves);
        let Some(comes) = scope.ask_groups(asked, groups, &keys, budget)? else { return Ok(None) };
        self.exchange(scope.source.tables.len(), moves);
        let is_asked = |terms: &[Value]| {
            keys.binary_search_by(|key| groups.compare(key, &terms[..groups.keys.len()])).is_ok()
        };
        let gone = held.iter().enumerate().filter(|(_, terms)| is_asked(terms)).map(|(at, _)| at);
        Ok(Some(Moves { gone: gone.collect(), comes }))
    }

    fn exchange(&mut self, arity: usize, moves: Moves) {
        // From the end, so that the last row can take the place of one that goes.
        for at in moves.gone.into_iter().rev() {
            let key = self.keys.swap_remove(at);
            self.leave(key);
            let last = self.rowids.len() - arity;
            self.rowids.copy_within(last.., at * arity);
            self.rowids.truncate(last);
        }
        for entry in moves.comes {
            self.rowids.extend(&entry.rowids);
            self.join(entry.terms);
        }
    }

    /// One more row with a key.
    fn join(&mut self, key: Key) {
        let packed = PackedKey::pack(&key);
        let place = *self.places.entry(packed).or_insert_with(|| match self.free.pop() {
            Some(place) => {
                self.values[place as usize] = (key, 0);
                place
            }
            None => {
                self.values.push((key, 0));
                // No more than rows, of which there are fewer.
                u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
            }
        });
        self.values[place as usize].1 += 1;
        self.keys.push(place);
    }

    fn leave(&mut self, place: u32) {
        let (key, rows) = &mut self.values[place as usize];
        *rows -= 1;
        if *rows == 0 {
            self.places.remove(&PackedKey::pack(key));
            *key = Box::default();
            self.free.push(place);
        }
    }
}

impl Scope {
    /// What SQLite says of groups; `None` when it takes more steps than allowed, or is not certain.
    fn ask_groups(
        &self,
        asked: Asked<'_>,
        groups: &Groups,
        keys: &[Key],
        budget: &mut Budget,
    ) -> Result<Option<Vec<Entry>>, LiveError> {
        let mut comes = Vec::new();
        if keys.is_empty() {
            return Ok(Some(comes));
        }
        let mut stmt = asked.store.prepare_cached(&groups.sql)?;
        bind(&mut stmt, asked.parameters)?;
        stmt.reset_status(StatementStatus::VmStep);
        for key in keys {
            let all: Vec<Value> = asked.parameters.iter().chain(key).cloned().collect();
            bind(&mut stmt, &all)?;
            let mut rows = stmt.raw_query();
            let mut found = None;
            while let Some(row) = rows.next()? {
                let terms = values(row, self.width, self.hidden_terms)?;
                let uniform: bool = row.get(self.width + self.hidden_terms)?;
                let is_it = groups.compare(&terms[..groups.keys.len()], key).is_eq();
                if !uniform || !is_it || found.is_some() {
                    return Ok(None);
                }
                let row = values(row, 0, self.width)?.into();
                found = Some(Entry { row, rowids: Box::default(), terms: terms.into() });
            }
            drop(rows);
            comes.extend(found);
            if budget.spend(&stmt).is_none() {
                return Ok(None);
            }
        }
        Ok(Some(comes))
    }
}
