//! From the text of a statement to its guards.

use std::fmt::Write as _;
use std::sync::Arc;

use opor_store::Store;
use opor_store::rusqlite::Error;
use sqlite3_parser::ast::{
    As, Cmd, Expr, FromClause, JoinConstraint, JoinOperator, JoinType, Name, OneSelect, SelectTable, Stmt,
};
use sqlite3_parser::dialect::TokenType;
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::{Parser, Tokenizer};
use sqlite3_parser::{Bump, FallibleIterator as _};

use super::clause::{Item, Scope};
use super::{Condition, Guards, Occurrence, Table, Unguarded};
use crate::access::Access;

/// Parentheses within parentheses: past it a statement is not looked into, since looking takes stack.
const DEPTH_MAX: usize = 100;
/// Words of a statement that is looked into.
const WORDS_MAX: usize = 20_000;
/// Schemas that a connection for live queries has.
const SCHEMAS: [&str; 2] = ["main", "temp"];
/// Functions that do not fail, whatever they are given. SQLite may call one for a row that another condition rejects: where a
/// function fails there, the query does.
const NEVER_FAIL: [&str; 36] = [
    "avg",
    "char",
    "coalesce",
    "concat",
    "count",
    "date",
    "datetime",
    "glob",
    "group_concat",
    "hex",
    "ifnull",
    "iif",
    "instr",
    "julianday",
    "length",
    "like",
    "lower",
    "ltrim",
    "max",
    "min",
    "nullif",
    "octet_length",
    "quote",
    "replace",
    "round",
    "rtrim",
    "sign",
    "strftime",
    "substr",
    "substring",
    "sum",
    "time",
    "total",
    "trim",
    "typeof",
    "upper",
];

/// The guards of a statement that SQLite has prepared, and that reads these tables.
///
/// # Errors
/// Of SQLite, when the schema cannot be read.
pub(crate) fn guards(
    store: &Store,
    sql: &str,
    access: &Access,
    tables: impl Iterator<Item = Arc<str>> + Clone,
    parameters: &[String],
) -> Result<Guards, Error> {
    let form = || Guards::none(tables.clone(), Unguarded::Form);
    let Some(text) = numbered(sql, parameters) else { return Ok(form()) };
    if !access.views.is_empty() || mentions_view(store, &text)? {
        return Ok(form());
    }
    let may_fail = |name: &&String| !NEVER_FAIL.contains(&name.as_str()) && text.mentions_behind_from(name);
    if access.functions.iter().any(|name| may_fail(&name)) {
        return Ok(Guards::none(tables, Unguarded::MayFail));
    }
    let bump = Bump::new();
    let mut parser = Parser::new(&bump, text.sql.as_bytes());
    let Ok(Some(Cmd::Stmt(Stmt::Select(select)))) = parser.next() else { return Ok(form()) };
    let OneSelect::Select { from: Some(from), where_clause, .. } = &select.body.select else {
        return Ok(form());
    };
    if select.with.is_some() || select.body.compounds.is_some() {
        return Ok(form());
    }
    let Some(mut joined) = joined(store, from)? else { return Ok(form()) };
    joined.clauses.extend(*where_clause);
    let scope = Scope { store, items: &joined.items };
    let conditions = scope.conditions(&joined.clauses);
    Ok(collect(&joined.items, conditions, &text, tables))
}

/// Guards of the tables whose every mention is an item with a condition.
fn collect(
    items: &[Item],
    conditions: Vec<Vec<Condition>>,
    text: &Numbered,
    tables: impl Iterator<Item = Arc<str>>,
) -> Guards {
    let mut guards = Guards::default();
    for table in tables {
        let is_it =
            |item: &Item| item.table.as_ref().is_some_and(|known| known.name.eq_ignore_ascii_case(&table));
        let count = items.iter().filter(|item| is_it(item)).count();
        if count == 0 || text.mentions(&table) != count {
            guards.without.insert(table, Unguarded::Elsewhere);
            continue;
        }
        let occurrence = |(item, conditions): (&Item, &Vec<Condition>)| {
            let condition = match &conditions[..] {
                [] => return None,
                [only] => only.clone(),
                _ => Condition::All(conditions.clone()),
            };
            Some(Occurrence { condition, optional: item.optional })
        };
        let occurrences = items.iter().zip(&conditions).filter(|(item, _)| is_it(item)).map(occurrence);
        match occurrences.collect::<Option<Vec<_>>>() {
            Some(occurrences) => {
                guards.tables.insert(table, occurrences);
            }
            None => {
                guards.without.insert(table, Unguarded::NoCondition);
            }
        }
    }
    guards
}

/// What FROM brings together.
struct Joined<'a, 'b> {
    items: Vec<Item>,
    /// Conditions that every row of the result meets.
    clauses: Vec<&'a Expr<'b>>,
}

/// `None` for forms that are not looked into.
fn joined<'a, 'b>(store: &Store, from: &'a FromClause<'b>) -> Result<Option<Joined<'a, 'b>>, Error> {
    let mut joined = Joined { items: Vec::new(), clauses: Vec::new() };
    let Some(first) = from.select else { return Ok(None) };
    let Some(first) = item(store, first, false)? else { return Ok(None) };
    joined.items.push(first);
    for join in from.joins.iter().flatten() {
        let kind = match join.operator {
            JoinOperator::TypedJoin(Some(kind)) => kind,
            JoinOperator::Comma | JoinOperator::TypedJoin(None) => JoinType::INNER,
        };
        if kind.contains(JoinType::RIGHT) {
            // Every item before may be filled with NULLs.
            return Ok(None);
        }
        let optional = kind.contains(JoinType::LEFT);
        let Some(item) = item(store, &join.table, optional)? else { return Ok(None) };
        joined.items.push(item);
        // In a LEFT JOIN rows of the left side stay that do not meet it.
        if let (Some(JoinConstraint::On(condition)), false) = (&join.constraint, optional) {
            joined.clauses.push(condition);
        }
    }
    Ok(Some(joined))
}

fn item(store: &Store, table: &SelectTable<'_>, optional: bool) -> Result<Option<Item>, Error> {
    let called = |alias: &Option<As<'_>>, name: &Name<'_>| match alias {
        Some(As::As(alias) | As::Elided(alias)) => unquoted(alias.0),
        None => unquoted(name.0),
    };
    Ok(match table {
        SelectTable::Table(name, alias, _) => {
            let in_main =
                name.db_name.as_ref().is_none_or(|schema| unquoted(schema.0).eq_ignore_ascii_case("main"));
            let known = if in_main { Table::named(store, &unquoted(name.name.0))? } else { None };
            Some(Item { name: called(alias, &name.name), table: known, optional })
        }
        SelectTable::Select(_, alias) => {
            let name = match alias {
                Some(As::As(alias) | As::Elided(alias)) => unquoted(alias.0),
                None => String::new(),
            };
            Some(Item { name, table: None, optional })
        }
        // A function may fail.
        SelectTable::TableCall(..) | SelectTable::Sub(..) => None,
    })
}

/// A statement in which every parameter has its number.
struct Numbered {
    sql: String,
    /// Its words without quotes, and whether a dot follows.
    words: Vec<(String, bool)>,
    /// The first word behind FROM.
    from: usize,
}

impl Numbered {
    /// How often a table may be meant by a word: before a dot it stands for an item of FROM, and behind one for a column, unless
    /// the word before the dot may be a schema.
    fn mentions(&self, name: &str) -> usize {
        let meant = |at: usize| {
            let (word, dot) = &self.words[at];
            let behind =
                at.checked_sub(2).filter(|before| self.words[*before].1).map(|before| &*self.words[before].0);
            let schema =
                behind.is_none_or(|schema| SCHEMAS.iter().any(|known| known.eq_ignore_ascii_case(schema)));
            !dot && schema && word.eq_ignore_ascii_case(name)
        };
        (0..self.words.len()).filter(|at| meant(*at)).count()
    }

    /// Whether a function may be called for rows that are no part of the result.
    fn mentions_behind_from(&self, name: &str) -> bool {
        self.words[self.from..].iter().any(|(word, _)| word.eq_ignore_ascii_case(name))
    }
}

/// `None` when it is not clear what SQLite makes of it.
fn numbered(sql: &str, parameters: &[String]) -> Option<Numbered> {
    let mut scanner = Scanner::new(Tokenizer::new());
    let mut numbered = Numbered { sql: String::with_capacity(sql.len()), words: Vec::new(), from: 0 };
    let (mut written, mut depth, mut last) = (0, 0_usize, 0);
    let mut names: Vec<(&str, usize)> = Vec::new();
    while let (start, Some((token, kind)), end) = scanner.scan(sql.as_bytes()).ok()? {
        let token = std::str::from_utf8(token).ok()?;
        match kind {
            TokenType::TK_LP => depth += 1,
            TokenType::TK_FROM if depth == 0 => numbered.from = numbered.words.len(),
            TokenType::TK_RP => depth = depth.saturating_sub(1),
            TokenType::TK_VARIABLE => {
                let number = match (token.parse::<usize>(), names.iter().find(|(name, _)| *name == token)) {
                    (Ok(number), _) => number,
                    (_, Some((_, number))) if !token.is_empty() => *number,
                    _ => last + 1,
                };
                last = last.max(number);
                let name = parameters.get(number.checked_sub(1)?)?;
                if token.parse::<usize>().is_err() && !token.is_empty() {
                    if name != token {
                        return None;
                    }
                    names.push((token, number));
                }
                numbered.sql.push_str(sql.get(written..start)?);
                write!(numbered.sql, "?{number} ").ok()?;
                written = end;
            }
            _ => {}
        }
        if kind == TokenType::TK_DOT
            && let Some(word) = numbered.words.last_mut()
        {
            word.1 = true;
        }
        numbered.words.push((unquoted(token), false));
        if depth > DEPTH_MAX || numbered.words.len() > WORDS_MAX {
            return None;
        }
    }
    numbered.sql.push_str(sql.get(written..)?);
    (last == parameters.len()).then_some(numbered)
}

/// Whether a view may be read, and tables through it.
fn mentions_view(store: &Store, text: &Numbered) -> Result<bool, Error> {
    let mut views = store.prepare_cached("SELECT name FROM main.sqlite_schema WHERE type = 'view'")?;
    let mut views = views.query([])?;
    while let Some(view) = views.next()? {
        if text.mentions(&view.get::<_, String>(0)?) > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A name or a text without the quotes around it.
pub(super) fn unquoted(text: &str) -> String {
    let quote = match text.chars().next() {
        Some(quote @ ('"' | '\'' | '`')) => quote,
        Some('[') => {
            return text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).to_owned();
        }
        _ => return text.to_owned(),
    };
    let Some(inner) =
        text.get(1..text.len().saturating_sub(1)).filter(|_| text.len() > 1 && text.ends_with(quote))
    else {
        return text.to_owned();
    };
    inner.replace(&format!("{quote}{quote}"), &quote.to_string())
}
