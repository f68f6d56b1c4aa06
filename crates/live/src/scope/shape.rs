//! The shape of a statement that can be asked about some of its rows, recognised from its tokens.
//!
//! Only what is listed here is recognised. Everything else is no shape, and nothing of it is guessed: the statement is then run anew.

mod from;
mod group;
mod term;
mod token;

use std::collections::BTreeSet;
use std::ops::Range;

use sqlite3_parser::dialect::TokenType;

use super::Unscoped;
use from::From;
pub(super) use from::Occurrence;
use group::Grouped;
pub(super) use group::Groups;
pub(super) use term::Term;
use token::{Token, Tokens, unquoted};

/// One SELECT over tables that are joined so that every row that is met comes from one row of each, or of each on the left.
///
/// Parameters are written by their numbers everywhere but in `columns`.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    /// What is between SELECT and FROM.
    pub(super) columns: &'a str,
    /// What is after FROM.
    pub(super) from: String,
    /// As much of it as stands before the first LEFT JOIN, before the second, and so on to the end.
    pub(super) parts: Vec<String>,
    /// What is after WHERE.
    pub(super) filter: Option<String>,
    /// A name in WHERE or ON may be a text where there is no such column.
    pub(super) unsure_names: bool,
    /// What is after ORDER BY, and its terms.
    pub(super) order: Option<(&'a str, Vec<Term<'a>>)>,
    pub(super) occurrences: Vec<Occurrence<'a>>,
    pub(super) groups: Option<Groups>,
    pub(super) limit: Option<Limit>,
    /// The words in subqueries that may name a table, in lower case and without quotes; `None` when there is no subquery.
    pub(super) inner_words: Option<BTreeSet<String>>,
    /// The greatest number of a parameter.
    pub(super) parameters: usize,
}

/// Which rows LIMIT leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) rows: Bound,
    pub(super) skipped: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Number(i64),
    /// A parameter, counted from 1.
    Parameter(usize),
}

/// Words that make a statement something else wherever they stand outside of a subquery.
const NEVER: [(TokenType, Unscoped); 9] = [
    (TokenType::TK_WITH, Unscoped::CommonTable),
    (TokenType::TK_UNION, Unscoped::Compound),
    (TokenType::TK_EXCEPT, Unscoped::Compound),
    (TokenType::TK_INTERSECT, Unscoped::Compound),
    (TokenType::TK_VALUES, Unscoped::Compound),
    (TokenType::TK_WINDOW, Unscoped::Window),
    (TokenType::TK_OVER, Unscoped::Window),
    (TokenType::TK_RAISE, Unscoped::NotUnderstood),
    (TokenType::TK_SEMI, Unscoped::NotUnderstood),
];

/// Finds the shape of a statement that SQLite has understood. `is_column` tells whether a table may have a column of this name.
pub(super) fn shape<'a>(sql: &'a str, is_column: &dyn Fn(&str) -> bool) -> Result<Shape<'a>, Unscoped> {
    let tokens = Tokens::of(sql)?;
    let clauses = Clauses::find(&tokens.all)?;
    let columns = tokens.slice(&clauses.columns)?;
    let joined = From::new(&tokens, tokens.slice(&clauses.from)?).joined()?;
    let filter = clauses.filter.as_ref().map(|range| tokens.slice(range)).transpose()?;
    let order = clauses.order.as_ref().map(|range| tokens.slice(range)).transpose()?;
    let terms = order.map(|order| term::terms(&tokens, order)).transpose()?;
    let limit = clauses.limit.as_ref().map(|range| limit(&tokens, tokens.slice(range)?)).transpose()?;
    if limit.is_some() && order.is_none() {
        return Err(Unscoped::Limit);
    }
    let grouped = Grouped {
        tokens: &tokens,
        columns,
        distinct: clauses.distinct,
        by: clauses.group.as_ref().map(|range| tokens.slice(range)).transpose()?,
        having: clauses.having.as_ref().map(|range| tokens.slice(range)).transpose()?,
        order: order.zip(terms.as_deref()),
        is_column,
    };
    let is_grouped = clauses.distinct || clauses.group.is_some();
    if !is_grouped && clauses.of_groups {
        return Err(Unscoped::Groups);
    }
    let groups = is_grouped.then(|| grouped.groups()).transpose()?;
    Ok(Shape {
        columns: tokens.text(columns)?,
        from: tokens.numbered(tokens.slice(&clauses.from)?)?,
        parts: joined.parts.iter().map(|part| tokens.numbered(part)).collect::<Result<_, _>>()?,
        filter: filter.map(|filter| tokens.numbered(filter)).transpose()?,
        unsure_names: joined.unsure_names || filter.is_some_and(|filter| tokens.unsure_names(filter)),
        order: match (order, terms) {
            (Some(order), Some(terms)) => Some((tokens.text(order)?, terms)),
            _ => None,
        },
        occurrences: joined.occurrences,
        groups,
        limit,
        inner_words: clauses.subqueries.then(|| inner_words(&tokens)),
        parameters: tokens.parameters(),
    })
}

/// LIMIT with numbers and parameters alone.
fn limit(tokens: &Tokens<'_>, limit: &[Token]) -> Result<Limit, Unscoped> {
    let bound = |token: &Token| match token.kind {
        TokenType::TK_INTEGER => {
            tokens.word(token).parse().map(Bound::Number).map_err(|_| Unscoped::LimitNotKnown)
        }
        TokenType::TK_VARIABLE => Ok(Bound::Parameter(token.number)),
        _ => Err(Unscoped::LimitNotKnown),
    };
    match limit {
        [rows] => Ok(Limit { rows: bound(rows)?, skipped: Bound::Number(0) }),
        [rows, word, skipped] if word.is(TokenType::TK_OFFSET) => {
            Ok(Limit { rows: bound(rows)?, skipped: bound(skipped)? })
        }
        [skipped, comma, rows] if comma.is(TokenType::TK_COMMA) => {
            Ok(Limit { rows: bound(rows)?, skipped: bound(skipped)? })
        }
        _ => Err(Unscoped::LimitNotKnown),
    }
}

/// Every word in subqueries that may name a table: before a dot it only says of which table a column is, and behind one it is that column,
/// unless a schema is before it.
fn inner_words(tokens: &Tokens<'_>) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut within = Parens::default();
    let name = |at: usize| tokens.all.get(at).map(|token| unquoted(tokens.word(token)).to_ascii_lowercase());
    let kind = |at: Option<usize>| at.and_then(|at| tokens.all.get(at)).map(|token| token.kind);
    for at in 0..tokens.all.len() {
        within.step(&tokens.all, at);
        let before = at.checked_sub(1);
        let behind_dot = kind(before) == Some(TokenType::TK_DOT);
        let of_schema = behind_dot && at.checked_sub(2).and_then(name).is_some_and(|name| name == "main");
        let of_in = kind(if of_schema { at.checked_sub(3) } else { before }) == Some(TokenType::TK_IN);
        let inner = within.subqueries > 0 || of_in;
        if inner && kind(Some(at + 1)) != Some(TokenType::TK_DOT) && (!behind_dot || of_schema) {
            words.extend(name(at));
        }
    }
    words
}

/// Which parentheses are open, and how many of them hold a subquery.
#[derive(Debug, Default)]
struct Parens {
    open: Vec<bool>,
    subqueries: usize,
    unbalanced: bool,
}

impl Parens {
    fn step(&mut self, tokens: &[Token], at: usize) {
        match tokens[at].kind {
            TokenType::TK_LP => {
                let subquery = tokens.get(at + 1).is_some_and(|next| {
                    matches!(next.kind, TokenType::TK_SELECT | TokenType::TK_WITH | TokenType::TK_VALUES)
                });
                self.open.push(subquery);
                self.subqueries += usize::from(subquery);
            }
            TokenType::TK_RP => match self.open.pop() {
                Some(subquery) => self.subqueries -= usize::from(subquery),
                None => self.unbalanced = true,
            },
            _ => {}
        }
    }
}

/// Which tokens belong to which clause.
#[derive(Debug, Default)]
struct Clauses {
    columns: Range<usize>,
    from: Range<usize>,
    filter: Option<Range<usize>>,
    group: Option<Range<usize>>,
    having: Option<Range<usize>>,
    order: Option<Range<usize>>,
    limit: Option<Range<usize>>,
    distinct: bool,
    /// There are words that only have a meaning for groups.
    of_groups: bool,
    subqueries: bool,
}

/// The clauses in their order, by the words they begin with.
const CLAUSES: [TokenType; 6] = [
    TokenType::TK_FROM,
    TokenType::TK_WHERE,
    TokenType::TK_GROUP,
    TokenType::TK_HAVING,
    TokenType::TK_ORDER,
    TokenType::TK_LIMIT,
];

impl Clauses {
    fn find(tokens: &[Token]) -> Result<Self, Unscoped> {
        if tokens.first().is_none_or(|first| !first.is(TokenType::TK_SELECT)) {
            return Err(tokens.first().map_or(Unscoped::NotUnderstood, |first| never(first.kind)));
        }
        let mut clauses = Self::default();
        let mut starts: [Option<usize>; CLAUSES.len()] = [None; CLAUSES.len()];
        let mut within = Parens::default();
        for (at, token) in tokens.iter().enumerate().skip(1) {
            within.step(tokens, at);
            if within.unbalanced {
                return Err(Unscoped::NotUnderstood);
            }
            if within.subqueries > 0 {
                clauses.subqueries = true;
                // Names of common tables are not those of tables.
                if token.is(TokenType::TK_WITH) {
                    return Err(Unscoped::CommonTable);
                }
                continue;
            }
            clauses.meets(tokens, at, within.open.len(), &mut starts)?;
        }
        clauses.cut(tokens, &starts)?;
        Ok(clauses)
    }

    fn meets(
        &mut self,
        tokens: &[Token],
        at: usize,
        depth: usize,
        starts: &mut [Option<usize>; CLAUSES.len()],
    ) -> Result<(), Unscoped> {
        let kind = tokens[at].kind;
        let before = tokens[at - 1].kind;
        match kind {
            TokenType::TK_IN if tokens.get(at + 1).is_none_or(|next| !next.is(TokenType::TK_LP)) => {
                // The rows of a table.
                self.subqueries = true;
            }
            TokenType::TK_FILTER => self.of_groups = true,
            // What FILTER has in its parentheses.
            TokenType::TK_WHERE if depth > 0 && before == TokenType::TK_LP => self.of_groups = true,
            TokenType::TK_DISTINCT if depth > 0 && before == TokenType::TK_LP => self.of_groups = true,
            TokenType::TK_DISTINCT if at == 1 => self.distinct = true,
            TokenType::TK_DISTINCT => return Err(Unscoped::Distinct),
            _ => {
                if let Some((_, why)) = NEVER.iter().find(|(never, _)| *never == kind) {
                    return Err(*why);
                }
                if let Some(clause) = CLAUSES.iter().position(|clause| *clause == kind)
                    && (depth > 0 || starts[clause].replace(at).is_some())
                {
                    return Err(Unscoped::NotUnderstood);
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, tokens: &[Token], starts: &[Option<usize>; CLAUSES.len()]) -> Result<(), Unscoped> {
        let end_of =
            |clause: usize| starts[clause + 1..].iter().flatten().next().copied().unwrap_or(tokens.len());
        let range = |clause: usize, words: usize| -> Result<Option<Range<usize>>, Unscoped> {
            let Some(start) = starts[clause] else { return Ok(None) };
            let by = words == 1 || tokens.get(start + 1).is_some_and(|by| by.is(TokenType::TK_BY));
            let range = start + words..end_of(clause);
            if by && range.start <= range.end { Ok(Some(range)) } else { Err(Unscoped::NotUnderstood) }
        };
        let from = starts[0].ok_or(Unscoped::NoTable)?;
        if !starts.iter().flatten().is_sorted() {
            return Err(Unscoped::NotUnderstood);
        }
        // SELECT ALL is said and means nothing.
        let word =
            tokens.get(1).filter(|token| matches!(token.kind, TokenType::TK_ALL | TokenType::TK_DISTINCT));
        self.columns = 1 + usize::from(word.is_some())..from;
        self.from = from + 1..end_of(0);
        self.filter = range(1, 1)?;
        self.group = range(2, 2)?;
        self.having = range(3, 1)?;
        self.order = range(4, 2)?;
        self.limit = range(5, 1)?;
        self.of_groups |= self.having.is_some();
        Ok(())
    }
}

fn never(kind: TokenType) -> Unscoped {
    NEVER.iter().find(|(never, _)| *never == kind).map_or(Unscoped::NotUnderstood, |(_, why)| *why)
}

#[cfg(test)]
mod tests;
