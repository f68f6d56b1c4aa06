//! GROUP BY and DISTINCT: what tells one group from another, and whether a group says the same in whatever order its rows are met.

use sqlite3_parser::dialect::TokenType;

use super::Unscoped;
use super::term::{Term, bare};
use super::token::{Token, Tokens, unquoted};

/// Functions of a whole group that do not depend on the order of its rows, but for the last digits of a sum of reals.
const AGGREGATES: [&str; 6] = ["count", "sum", "total", "avg", "min", "max"];

/// More terms than anybody groups by; their values are packed with a count of one byte.
const KEYS_MAX: usize = 32;

/// How rows are put together.
#[derive(Debug)]
pub(in super::super) struct Groups {
    /// The expressions that are the same for all rows of a group, with their collations.
    pub(in super::super) keys: Vec<String>,
    /// What is after GROUP BY.
    pub(in super::super) by: String,
    pub(in super::super) having: Option<String>,
    /// What a least or greatest is looked for of.
    pub(in super::super) compared: Vec<String>,
}

/// A column of the result.
struct Element<'t> {
    expression: &'t [Token],
    alias: Option<String>,
}

/// What is there to be read.
pub(super) struct Grouped<'a, 't> {
    pub(super) tokens: &'t Tokens<'a>,
    pub(super) columns: &'t [Token],
    pub(super) distinct: bool,
    /// What is after GROUP BY.
    pub(super) by: Option<&'t [Token]>,
    pub(super) having: Option<&'t [Token]>,
    /// What is after ORDER BY, and its terms.
    pub(super) order: Option<(&'t [Token], &'t [Term<'a>])>,
    /// Whether a table may have a column of this name.
    pub(super) is_column: &'t dyn Fn(&str) -> bool,
}

impl<'a, 't> Grouped<'a, 't> {
    pub(super) fn groups(&self) -> Result<Groups, Unscoped> {
        let elements = self.elements()?;
        let keys: Vec<&'t [Token]> = match self.by {
            Some(_) if self.distinct => return Err(Unscoped::Distinct),
            Some(by) => {
                let keys = Tokens::split(by, TokenType::TK_COMMA).map(|key| self.key(key, &elements));
                keys.collect::<Result<_, _>>()?
            }
            None => elements.iter().map(|element| element.expression).collect(),
        };
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(Unscoped::Bare);
        }
        keys.iter().try_for_each(|key| self.is_key(key))?;
        let mut reading = Reading { grouped: self, keys: &keys, elements: &elements, compared: Vec::new() };
        for element in &elements {
            reading.read(element.expression, false)?;
        }
        if let Some(having) = self.having {
            reading.read(having, true)?;
        }
        if let Some((order, terms)) = self.order {
            for (term, tokens) in terms.iter().zip(Tokens::split(order, TokenType::TK_COMMA)) {
                if !matches!(term, Term::Place(_)) {
                    reading.read(bare(tokens), true)?;
                }
            }
        }
        let compared = reading.compared;
        let texts = keys.iter().map(|key| Ok(self.tokens.text(key)?.to_owned()));
        let keys: Vec<String> = texts.collect::<Result<_, Unscoped>>()?;
        let by = self.by.map_or_else(|| Ok(keys.join(", ")), |by| self.tokens.numbered(by))?;
        let having = self.having.map(|having| self.tokens.numbered(having)).transpose()?;
        Ok(Groups { keys, by, having, compared })
    }

    fn elements(&self) -> Result<Vec<Element<'t>>, Unscoped> {
        let ends = |token: &Token| {
            matches!(
                token.kind,
                TokenType::TK_RP
                    | TokenType::TK_ID
                    | TokenType::TK_INTEGER
                    | TokenType::TK_FLOAT
                    | TokenType::TK_STRING
                    | TokenType::TK_BLOB
                    | TokenType::TK_NULL
                    | TokenType::TK_END
                    | TokenType::TK_VARIABLE
            )
        };
        let element = |tokens: &'t [Token]| match tokens {
            [] => Err(Unscoped::NotUnderstood),
            [expression @ .., before, last]
                if before.is(TokenType::TK_AS) && last.is(TokenType::TK_ID) && !expression.is_empty() =>
            {
                Ok(Element { expression, alias: Some(unquoted(self.tokens.word(last))) })
            }
            [.., before, last] if last.is(TokenType::TK_ID) && ends(before) => {
                let expression = &tokens[..tokens.len() - 1];
                Ok(Element { expression, alias: Some(unquoted(self.tokens.word(last))) })
            }
            expression => Ok(Element { expression, alias: None }),
        };
        Tokens::split(self.columns, TokenType::TK_COMMA).map(element).collect()
    }

    /// What a term of GROUP BY stands for: a column of a table, before one of the result that has such a name.
    fn key(&self, key: &'t [Token], elements: &[Element<'t>]) -> Result<&'t [Token], Unscoped> {
        let [only] = key else { return Ok(key) };
        let word = self.tokens.word(only);
        match only.kind {
            TokenType::TK_INTEGER => {
                let is_star = |element: &Element<'t>| match element.expression {
                    [star] => star.is(TokenType::TK_STAR),
                    [.., dot, star] => dot.is(TokenType::TK_DOT) && star.is(TokenType::TK_STAR),
                    [] => false,
                };
                if elements.iter().any(is_star) {
                    // It may be several columns.
                    return Err(Unscoped::Bare);
                }
                let place = word.parse::<usize>().ok().and_then(|place| place.checked_sub(1));
                let element = place.and_then(|place| elements.get(place));
                element.map(|element| element.expression).ok_or(Unscoped::NotUnderstood)
            }
            TokenType::TK_ID if !(self.is_column)(&unquoted(word)) => {
                let is_it = |element: &&Element<'t>| {
                    element.alias.as_deref().is_some_and(|alias| alias.eq_ignore_ascii_case(&unquoted(word)))
                };
                let mut named = elements.iter().filter(is_it);
                match (named.next(), named.next()) {
                    (Some(element), None) => Ok(element.expression),
                    _ => Err(Unscoped::Bare),
                }
            }
            _ => Ok(key),
        }
    }

    /// That it can be compared with a value elsewhere in the statement, and means the same there.
    fn is_key(&self, key: &[Token]) -> Result<(), Unscoped> {
        let names = key.iter().enumerate().filter(|(_, token)| token.is(TokenType::TK_ID));
        let is_column =
            |at: usize| !precedes(key, at, TokenType::TK_LP) && !follows(key, at, TokenType::TK_COLLATE);
        if !names.clone().any(|(at, _)| is_column(at)) {
            // A constant may be the place of a column in disguise.
            return Err(Unscoped::Bare);
        }
        for (at, token) in names {
            // In double quotes it is a text where there is no such column.
            let alone = !follows(key, at, TokenType::TK_DOT) && !precedes(key, at, TokenType::TK_DOT);
            if alone && self.tokens.word(token).starts_with('"') {
                return Err(Unscoped::Bare);
            }
        }
        let never = |token: &Token| {
            matches!(token.kind, TokenType::TK_VARIABLE | TokenType::TK_SELECT | TokenType::TK_STAR)
                && !(token.is(TokenType::TK_STAR) && key.len() > 1)
        };
        if key.iter().any(never) { Err(Unscoped::Bare) } else { Ok(()) }
    }
}

fn follows(tokens: &[Token], at: usize, kind: TokenType) -> bool {
    at > 0 && tokens[at - 1].is(kind)
}

fn precedes(tokens: &[Token], at: usize, kind: TokenType) -> bool {
    tokens.get(at + 1).is_some_and(|next| next.is(kind))
}

/// Reads expressions of a group.
struct Reading<'a, 't, 'r> {
    grouped: &'r Grouped<'a, 't>,
    keys: &'r [&'t [Token]],
    elements: &'r [Element<'t>],
    compared: Vec<String>,
}

impl Reading<'_, '_, '_> {
    /// Checks that every column stands in a function of the group, or is what is grouped by. `named`: the columns of the result may be meant
    /// by their names.
    fn read(&mut self, tokens: &[Token], named: bool) -> Result<(), Unscoped> {
        let mut at = 0;
        let mut cases = 0_usize;
        while let Some(token) = tokens.get(at) {
            if let Some(len) = self.key_at(tokens, at) {
                at += len;
                continue;
            }
            at = match token.kind {
                TokenType::TK_ID if precedes(tokens, at, TokenType::TK_LP) => self.call(tokens, at)?,
                TokenType::TK_ID => {
                    let name = unquoted(self.grouped.tokens.word(token));
                    let alone =
                        !precedes(tokens, at, TokenType::TK_DOT) && !follows(tokens, at, TokenType::TK_DOT);
                    if !(named && alone && self.is_alias(&name)) {
                        return Err(Unscoped::Bare);
                    }
                    at + 1
                }
                TokenType::TK_FILTER
                    if precedes(tokens, at, TokenType::TK_LP) && follows(tokens, at, TokenType::TK_RP) =>
                {
                    end_of(tokens, at + 1)?
                }
                TokenType::TK_COLLATE if precedes(tokens, at, TokenType::TK_ID) => at + 2,
                TokenType::TK_AS => {
                    // The type of a CAST.
                    let words = tokens[at + 1..].iter().take_while(|token| token.is(TokenType::TK_ID));
                    at + 1 + words.count()
                }
                TokenType::TK_CAST if precedes(tokens, at, TokenType::TK_LP) => at + 1,
                TokenType::TK_CASE => {
                    cases += 1;
                    at + 1
                }
                TokenType::TK_END => {
                    cases = cases.checked_sub(1).ok_or(Unscoped::Bare)?;
                    at + 1
                }
                TokenType::TK_WHEN | TokenType::TK_THEN | TokenType::TK_ELSE if cases > 0 => at + 1,
                TokenType::TK_LIKE_KW | TokenType::TK_STAR if at > 0 && is_operand(&tokens[at - 1]) => at + 1,
                kind if is_plain(kind) => at + 1,
                // A name that is also a keyword, or what is not understood.
                _ => return Err(Unscoped::Bare),
            };
        }
        if cases == 0 { Ok(()) } else { Err(Unscoped::Bare) }
    }

    fn is_alias(&self, name: &str) -> bool {
        let is_it = |element: &Element<'_>| {
            element.alias.as_deref().is_some_and(|alias| alias.eq_ignore_ascii_case(name))
        };
        !(self.grouped.is_column)(name) && self.elements.iter().filter(|element| is_it(element)).count() == 1
    }

    /// How many tokens there are of a key that stands here, as a whole.
    fn key_at(&self, tokens: &[Token], at: usize) -> Option<usize> {
        let fits = |key: &[Token]| {
            let here = tokens.get(at..at + key.len()).filter(|_| !key.is_empty())?;
            let all = self.grouped.tokens;
            let same = |(a, b): (&Token, &Token)| {
                a.kind == b.kind
                    && if a.is(TokenType::TK_ID) {
                        unquoted(all.word(a)).eq_ignore_ascii_case(&unquoted(all.word(b)))
                    } else {
                        all.word(a).eq_ignore_ascii_case(all.word(b)) && !a.is(TokenType::TK_STRING)
                            || all.word(a) == all.word(b)
                    }
            };
            if !here.iter().zip(key).all(same) {
                return None;
            }
            let before = at.checked_sub(1).map(|at| tokens[at].kind);
            let after = tokens.get(at + key.len()).map(|token| token.kind);
            let column = matches!(key, [name] if name.is(TokenType::TK_ID))
                || matches!(key, [table, dot, name] if table.is(TokenType::TK_ID) && dot.is(TokenType::TK_DOT) && name.is(TokenType::TK_ID));
            let call = matches!(key, [name, open, ..] if name.is(TokenType::TK_ID) && open.is(TokenType::TK_LP))
                && end_of(key, 1) == Ok(key.len());
            let whole = if column || call {
                before != Some(TokenType::TK_DOT)
                    && !matches!(after, Some(TokenType::TK_DOT | TokenType::TK_LP))
            } else {
                // More than one operand: what stands beside it may bind closer.
                matches!(before, None | Some(TokenType::TK_COMMA | TokenType::TK_LP))
                    && matches!(after, None | Some(TokenType::TK_COMMA | TokenType::TK_RP))
            };
            whole.then_some(key.len())
        };
        let without_collation = |key: &&[Token]| fits(key).or_else(|| fits(bare(key)));
        self.keys.iter().find_map(without_collation)
    }

    /// A function: if it is one of the group, what is in it may be any column.
    fn call(&mut self, tokens: &[Token], at: usize) -> Result<usize, Unscoped> {
        let name = self.grouped.tokens.word(&tokens[at]).to_ascii_lowercase();
        let end = end_of(tokens, at + 1)?;
        let inside = &tokens[at + 2..end - 1];
        let arguments = Tokens::split(inside, TokenType::TK_COMMA).count();
        let least = matches!(&*name, "min" | "max");
        if !AGGREGATES.contains(&&*name) || (least && arguments > 1) {
            return Ok(at + 1);
        }
        if inside.iter().any(|token| token.is(TokenType::TK_SELECT)) {
            return Err(Unscoped::Subquery);
        }
        let (distinct, of) = match inside {
            [distinct, of @ ..] if distinct.is(TokenType::TK_DISTINCT) => (true, of),
            of => (false, of),
        };
        if least {
            self.compared.push(self.grouped.tokens.numbered(of)?);
        } else if distinct && name != "count" {
            // Of 1 and 1.0 it takes the first.
            return Err(Unscoped::Bare);
        }
        Ok(end)
    }
}

/// Behind the parenthesis that closes the one at a place.
fn end_of(tokens: &[Token], open: usize) -> Result<usize, Unscoped> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            TokenType::TK_LP => depth += 1,
            TokenType::TK_RP => depth = depth.checked_sub(1).ok_or(Unscoped::NotUnderstood)?,
            _ => {}
        }
        if depth == 0 {
            return Ok(at + 1);
        }
    }
    Err(Unscoped::NotUnderstood)
}

fn is_operand(token: &Token) -> bool {
    matches!(
        token.kind,
        TokenType::TK_ID
            | TokenType::TK_RP
            | TokenType::TK_STRING
            | TokenType::TK_INTEGER
            | TokenType::TK_FLOAT
            | TokenType::TK_VARIABLE
            | TokenType::TK_NOT
    )
}

/// Operators and literals.
fn is_plain(kind: TokenType) -> bool {
    matches!(
        kind,
        TokenType::TK_LP
            | TokenType::TK_RP
            | TokenType::TK_COMMA
            | TokenType::TK_STRING
            | TokenType::TK_INTEGER
            | TokenType::TK_FLOAT
            | TokenType::TK_BLOB
            | TokenType::TK_NULL
            | TokenType::TK_VARIABLE
            | TokenType::TK_PLUS
            | TokenType::TK_MINUS
            | TokenType::TK_SLASH
            | TokenType::TK_REM
            | TokenType::TK_CONCAT
            | TokenType::TK_BITAND
            | TokenType::TK_BITOR
            | TokenType::TK_BITNOT
            | TokenType::TK_LSHIFT
            | TokenType::TK_RSHIFT
            | TokenType::TK_EQ
            | TokenType::TK_NE
            | TokenType::TK_LT
            | TokenType::TK_LE
            | TokenType::TK_GT
            | TokenType::TK_GE
            | TokenType::TK_AND
            | TokenType::TK_OR
            | TokenType::TK_NOT
            | TokenType::TK_IS
            | TokenType::TK_IN
            | TokenType::TK_BETWEEN
            | TokenType::TK_ISNULL
            | TokenType::TK_NOTNULL
    )
}
