//! The shape of a statement that can be asked about some of its rows, recognised from its tokens.
//!
//! Only what is listed here is recognised. Everything else is no shape, and nothing of it is guessed: the statement is then run anew.

use std::ops::Range;

use sqlite3_parser::dialect::TokenType;
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::Tokenizer;

use super::Unscoped;

/// One SELECT over tables that are joined so that every row of the result comes from one row of each.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    /// What is between SELECT and FROM.
    pub(super) columns: &'a str,
    /// What is between FROM and WHERE.
    pub(super) from: &'a str,
    /// What is between WHERE and ORDER BY.
    pub(super) filter: Option<&'a str>,
    /// What is after ORDER BY, and its terms.
    pub(super) order: Option<(&'a str, Vec<Term<'a>>)>,
    pub(super) occurrences: Vec<Occurrence<'a>>,
}

/// A table in FROM.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Occurrence<'a> {
    /// By which its columns are named, as it is written.
    pub(super) qualifier: &'a str,
    /// Its name, without quotes.
    pub(super) table: String,
}

/// A term of ORDER BY, without its direction and collation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Term<'a> {
    /// A column of the result, counted from 1.
    Place(usize),
    /// A name alone, which may be that of a column of the result.
    Name { name: String, text: &'a str },
    /// Anything else that is computed from columns.
    Expression(&'a str),
}

#[derive(Clone, Debug)]
struct Token {
    kind: TokenType,
    at: Range<usize>,
}

/// Words that make a statement something else wherever they stand: rows of the result are then not those of the tables.
const NEVER: [(TokenType, Unscoped); 14] = [
    (TokenType::TK_WITH, Unscoped::CommonTable),
    (TokenType::TK_UNION, Unscoped::Compound),
    (TokenType::TK_EXCEPT, Unscoped::Compound),
    (TokenType::TK_INTERSECT, Unscoped::Compound),
    (TokenType::TK_VALUES, Unscoped::Compound),
    (TokenType::TK_DISTINCT, Unscoped::Distinct),
    (TokenType::TK_GROUP, Unscoped::Groups),
    (TokenType::TK_HAVING, Unscoped::Groups),
    (TokenType::TK_FILTER, Unscoped::Groups),
    (TokenType::TK_WINDOW, Unscoped::Window),
    (TokenType::TK_OVER, Unscoped::Window),
    (TokenType::TK_LIMIT, Unscoped::Limit),
    (TokenType::TK_EXISTS, Unscoped::Subquery),
    (TokenType::TK_RAISE, Unscoped::NotUnderstood),
];

/// Finds the shape of a statement that SQLite has understood.
pub(super) fn shape(sql: &str) -> Result<Shape<'_>, Unscoped> {
    let tokens = tokens(sql)?;
    let clauses = Clauses::find(&tokens)?;
    let text = |range: &Range<usize>| -> Result<&str, Unscoped> {
        let whole = tokens.get(range.clone()).filter(|tokens| !tokens.is_empty());
        let whole = whole.ok_or(Unscoped::NotUnderstood)?;
        sql.get(whole[0].at.start..whole[whole.len() - 1].at.end).ok_or(Unscoped::NotUnderstood)
    };
    let order = |range: &Range<usize>| -> Result<_, Unscoped> {
        Ok((text(range)?, terms(sql, tokens.get(range.clone()).ok_or(Unscoped::NotUnderstood)?)?))
    };
    let order = clauses.order.as_ref().map(order).transpose()?;
    let from = tokens.get(clauses.from.clone()).ok_or(Unscoped::NotUnderstood)?;
    let occurrences = From { sql, tokens: from, at: 0 }.occurrences()?;
    Ok(Shape {
        columns: text(&clauses.columns)?,
        from: text(&clauses.from)?,
        filter: clauses.filter.as_ref().map(text).transpose()?,
        order,
        occurrences,
    })
}

fn tokens(sql: &str) -> Result<Vec<Token>, Unscoped> {
    let mut scanner = Scanner::new(Tokenizer::new());
    let mut tokens = Vec::new();
    loop {
        match scanner.scan(sql.as_bytes()) {
            Ok((_, None, _)) => break,
            Ok((start, Some((_, kind)), end)) => tokens.push(Token { kind, at: start..end }),
            Err(_) => return Err(Unscoped::NotUnderstood),
        }
    }
    while tokens.last().is_some_and(|token| token.kind == TokenType::TK_SEMI) {
        tokens.pop();
    }
    Ok(tokens)
}

/// Which tokens belong to which clause.
#[derive(Debug, Default)]
struct Clauses {
    columns: Range<usize>,
    from: Range<usize>,
    filter: Option<Range<usize>>,
    order: Option<Range<usize>>,
}

impl Clauses {
    fn find(tokens: &[Token]) -> Result<Self, Unscoped> {
        if tokens.first().is_none_or(|first| first.kind != TokenType::TK_SELECT) {
            return Err(tokens.first().map_or(Unscoped::NotUnderstood, |first| never(first.kind)));
        }
        let (mut from, mut filter, mut order) = (None, None, None);
        let mut depth = 0_usize;
        for (at, token) in tokens.iter().enumerate().skip(1) {
            let slot = match token.kind {
                TokenType::TK_LP => {
                    depth += 1;
                    continue;
                }
                TokenType::TK_RP => {
                    depth = depth.checked_sub(1).ok_or(Unscoped::NotUnderstood)?;
                    continue;
                }
                TokenType::TK_SELECT => return Err(Unscoped::Subquery),
                TokenType::TK_IN if tokens.get(at + 1).is_none_or(|next| next.kind != TokenType::TK_LP) => {
                    // The rows of a table.
                    return Err(Unscoped::Subquery);
                }
                TokenType::TK_FROM => &mut from,
                TokenType::TK_WHERE => &mut filter,
                TokenType::TK_ORDER => &mut order,
                TokenType::TK_SEMI => return Err(Unscoped::NotUnderstood),
                kind => match NEVER.iter().find(|(never, _)| *never == kind) {
                    Some((_, why)) => return Err(*why),
                    None => continue,
                },
            };
            if depth > 0 || slot.replace(at).is_some() {
                return Err(Unscoped::NotUnderstood);
            }
        }
        let from = from.ok_or(Unscoped::NoTable)?;
        let end_of_filter = order.unwrap_or(tokens.len());
        let end_of_from = filter.unwrap_or(end_of_filter);
        if from > end_of_from || filter.is_some_and(|filter| filter > end_of_filter) {
            return Err(Unscoped::NotUnderstood);
        }
        if order.is_some_and(|at| tokens.get(at + 1).is_none_or(|by| by.kind != TokenType::TK_BY)) {
            return Err(Unscoped::NotUnderstood);
        }
        // SELECT ALL is said and means nothing.
        let all = usize::from(tokens.get(1).is_some_and(|token| token.kind == TokenType::TK_ALL));
        Ok(Self {
            columns: 1 + all..from,
            from: from + 1..end_of_from,
            filter: filter.map(|at| at + 1..end_of_filter),
            order: order.map(|at| at + 2..tokens.len()),
        })
    }
}

fn never(kind: TokenType) -> Unscoped {
    NEVER.iter().find(|(never, _)| *never == kind).map_or(Unscoped::NotUnderstood, |(_, why)| *why)
}

/// Reads what is after FROM.
struct From<'a, 't> {
    sql: &'a str,
    tokens: &'t [Token],
    at: usize,
}

impl<'a> From<'a, '_> {
    fn occurrences(mut self) -> Result<Vec<Occurrence<'a>>, Unscoped> {
        let mut found: Vec<Occurrence<'a>> = Vec::new();
        loop {
            let occurrence = self.occurrence()?;
            let name = unquoted(occurrence.qualifier);
            if found.iter().any(|other| unquoted(other.qualifier).eq_ignore_ascii_case(&name)) {
                return Err(Unscoped::SameName);
            }
            found.push(occurrence);
            self.constraint()?;
            if self.at == self.tokens.len() {
                return Ok(found);
            }
            self.operator()?;
        }
    }

    fn next_is(&mut self, kind: TokenType) -> Option<&'a str> {
        let token = self.tokens.get(self.at).filter(|token| token.kind == kind)?;
        self.at += 1;
        self.sql.get(token.at.clone())
    }

    fn occurrence(&mut self) -> Result<Occurrence<'a>, Unscoped> {
        let mut name = self.next_is(TokenType::TK_ID).ok_or(Unscoped::NoTable)?;
        if self.next_is(TokenType::TK_DOT).is_some() {
            if !unquoted(name).eq_ignore_ascii_case("main") {
                return Err(Unscoped::NoTable);
            }
            name = self.next_is(TokenType::TK_ID).ok_or(Unscoped::NotUnderstood)?;
        }
        let alias = match self.next_is(TokenType::TK_AS) {
            Some(_) => Some(self.next_is(TokenType::TK_ID).ok_or(Unscoped::NotUnderstood)?),
            None => self.next_is(TokenType::TK_ID),
        };
        Ok(Occurrence { qualifier: alias.unwrap_or(name), table: unquoted(name) })
    }

    /// ON and USING, up to the next table. In the joins that are allowed they say the same as WHERE does.
    fn constraint(&mut self) -> Result<(), Unscoped> {
        if self.next_is(TokenType::TK_ON).is_none() && self.next_is(TokenType::TK_USING).is_none() {
            return Ok(());
        }
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(self.at) {
            match token.kind {
                TokenType::TK_LP => depth += 1,
                TokenType::TK_RP => depth = depth.checked_sub(1).ok_or(Unscoped::NotUnderstood)?,
                TokenType::TK_COMMA | TokenType::TK_JOIN | TokenType::TK_JOIN_KW if depth == 0 => break,
                TokenType::TK_ON | TokenType::TK_USING => return Err(Unscoped::NotUnderstood),
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    fn operator(&mut self) -> Result<(), Unscoped> {
        if self.next_is(TokenType::TK_COMMA).is_some() || self.next_is(TokenType::TK_JOIN).is_some() {
            return Ok(());
        }
        match self.next_is(TokenType::TK_JOIN_KW) {
            Some(word) if word.eq_ignore_ascii_case("inner") => {
                self.next_is(TokenType::TK_JOIN).map(|_| ()).ok_or(Unscoped::NotUnderstood)
            }
            Some(_) => Err(Unscoped::OtherJoin),
            None => Err(Unscoped::NoTable),
        }
    }
}

/// The terms after ORDER BY.
fn terms<'a>(sql: &'a str, tokens: &[Token]) -> Result<Vec<Term<'a>>, Unscoped> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenType::TK_LP => depth += 1,
            TokenType::TK_RP => depth = depth.saturating_sub(1),
            // The same parameter could not be named twice.
            TokenType::TK_VARIABLE => return Err(Unscoped::Order),
            TokenType::TK_COMMA if depth == 0 => {
                terms.push(term(sql, &tokens[start..at])?);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(term(sql, &tokens[start..])?);
    Ok(terms)
}

fn term<'a>(sql: &'a str, mut tokens: &[Token]) -> Result<Term<'a>, Unscoped> {
    loop {
        tokens = match tokens {
            [inner @ .., last] if matches!(last.kind, TokenType::TK_ASC | TokenType::TK_DESC) => inner,
            [inner @ .., nulls, last]
                if nulls.kind == TokenType::TK_NULLS
                    && matches!(last.kind, TokenType::TK_FIRST | TokenType::TK_LAST) =>
            {
                inner
            }
            [inner @ .., collate, name]
                if collate.kind == TokenType::TK_COLLATE && name.kind == TokenType::TK_ID =>
            {
                inner
            }
            _ => break,
        };
    }
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Err(Unscoped::NotUnderstood);
    };
    let text = sql.get(first.at.start..last.at.end).ok_or(Unscoped::NotUnderstood)?;
    let is_paren = |token: &&Token| matches!(token.kind, TokenType::TK_LP | TokenType::TK_RP);
    let bare: Vec<&Token> = tokens.iter().filter(|token| !is_paren(token)).collect();
    match bare[..] {
        // SQLite looks through parentheses here, and takes a number for a place and a name for that of a column of the result.
        [only] if tokens.len() > 1 => Err(match only.kind {
            TokenType::TK_INTEGER | TokenType::TK_ID => Unscoped::Order,
            _ => Unscoped::NotUnderstood,
        }),
        [only] if only.kind == TokenType::TK_INTEGER => {
            text.parse().map(Term::Place).map_err(|_| Unscoped::Order)
        }
        [only] if only.kind == TokenType::TK_ID => Ok(Term::Name { name: unquoted(text), text }),
        _ => {
            // A constant is nothing to sort by, unless it is a place in disguise. And SQLite looks through hints to the planner.
            let names = bare.iter().filter(|token| token.kind == TokenType::TK_ID);
            let mut names = names.filter_map(|token| sql.get(token.at.clone())).peekable();
            let hint = |name: &str| {
                ["likely", "unlikely", "likelihood"].iter().any(|hint| hint.eq_ignore_ascii_case(name))
            };
            if names.peek().is_none() || names.any(|name| hint(&unquoted(name))) {
                return Err(Unscoped::Order);
            }
            Ok(Term::Expression(text))
        }
    }
}

/// A name without its quotes.
fn unquoted(name: &str) -> String {
    let inner = |open: char, close: char| name.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    for quote in ['"', '`'] {
        if let Some(inner) = inner(quote, quote) {
            return inner.replace(&format!("{quote}{quote}"), &quote.to_string());
        }
    }
    inner('[', ']').unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn occurrences(sql: &str) -> Vec<(String, String)> {
        let shape = shape(sql).expect("it has the shape");
        shape.occurrences.into_iter().map(|one| (one.qualifier.to_owned(), one.table)).collect()
    }

    fn pair(qualifier: &str, table: &str) -> (String, String) {
        (qualifier.to_owned(), table.to_owned())
    }

    #[test]
    fn tables_are_found_with_their_names() {
        assert_eq!(occurrences("select * from t"), [pair("t", "t")]);
        let sql = r#"SELECT a.x -- FROM nothing
            FROM main."a b" a INNER JOIN [c] AS "d""e" ON (a.x = "d""e".y) AND 1, c /* WHERE */ JOIN f USING (x);"#;
        let expected = [pair("a", "a b"), pair("\"d\"\"e\"", "c"), pair("c", "c"), pair("f", "f")];
        assert_eq!(occurrences(sql), expected);
    }

    #[test]
    fn clauses_are_cut_where_they_end() {
        let sql = "SELECT ALL a, trim(b) FROM t WHERE a IN (1, 2) OR b = 'ORDER BY' ORDER BY 2 DESC, \
            a COLLATE nocase NULLS LAST, (a + b) * 2 ; ";
        let shape = shape(sql).expect("it has the shape");
        assert_eq!((shape.columns, shape.from), ("a, trim(b)", "t"));
        assert_eq!(shape.filter, Some("a IN (1, 2) OR b = 'ORDER BY'"));
        let (order, terms) = shape.order.expect("it has an order");
        assert_eq!(order, "2 DESC, a COLLATE nocase NULLS LAST, (a + b) * 2");
        let name = Term::Name { name: "a".to_owned(), text: "a" };
        assert_eq!(terms, [Term::Place(2), name, Term::Expression("(a + b) * 2")]);
    }

    #[test]
    fn other_shapes_are_refused_with_the_reason() {
        for (sql, why) in [
            ("WITH x AS (SELECT 1) SELECT * FROM t", Unscoped::CommonTable),
            ("VALUES (1)", Unscoped::Compound),
            ("SELECT 1", Unscoped::NoTable),
            ("SELECT a FROM t UNION SELECT a FROM u", Unscoped::Compound),
            ("SELECT DISTINCT a FROM t", Unscoped::Distinct),
            ("SELECT a FROM t WHERE a IS DISTINCT FROM 1", Unscoped::Distinct),
            ("SELECT a FROM t GROUP BY a", Unscoped::Groups),
            ("SELECT a FROM t LIMIT 1", Unscoped::Limit),
            ("SELECT row_number() OVER () FROM t", Unscoped::Window),
            ("SELECT a FROM (SELECT 1)", Unscoped::Subquery),
            ("SELECT a FROM t WHERE EXISTS (SELECT 1)", Unscoped::Subquery),
            ("SELECT a FROM t WHERE a IN u", Unscoped::Subquery),
            ("SELECT a FROM t LEFT JOIN u", Unscoped::OtherJoin),
            ("SELECT a FROM t CROSS JOIN u", Unscoped::OtherJoin),
            ("SELECT a FROM t NATURAL JOIN u", Unscoped::OtherJoin),
            ("SELECT a FROM json_each(1)", Unscoped::NoTable),
            ("SELECT a FROM temp.t", Unscoped::NoTable),
            ("SELECT a FROM t INDEXED BY i", Unscoped::NoTable),
            ("SELECT a FROM (t JOIN u)", Unscoped::NoTable),
            ("SELECT 1 FROM t, T", Unscoped::SameName),
            ("SELECT a FROM t ORDER BY (2)", Unscoped::Order),
            ("SELECT a FROM t ORDER BY +2", Unscoped::Order),
            ("SELECT a FROM t ORDER BY (a)", Unscoped::Order),
            ("SELECT a FROM t ORDER BY likely(a)", Unscoped::Order),
            ("SELECT a FROM t ORDER BY a + ?", Unscoped::Order),
            ("SELECT a FROM t WHERE 'x", Unscoped::NotUnderstood),
        ] {
            assert_eq!(shape(sql).map(|_| ()), Err(why), "{sql}");
        }
    }
}
