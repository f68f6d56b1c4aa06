//! The tokens of a statement.

use std::collections::BTreeMap;
use std::ops::Range;

use sqlite3_parser::dialect::TokenType;
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::Tokenizer;

use super::Unscoped;

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: TokenType,
    pub(super) at: Range<usize>,
    /// Of a parameter.
    pub(super) number: usize,
}

impl Token {
    pub(super) fn is(&self, kind: TokenType) -> bool {
        self.kind == kind
    }
}

/// A statement and its tokens.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    pub(super) sql: &'a str,
    pub(super) all: Vec<Token>,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(sql: &'a str) -> Result<Self, Unscoped> {
        let mut scanner = Scanner::new(Tokenizer::new());
        let mut all = Vec::new();
        loop {
            match scanner.scan(sql.as_bytes()) {
                Ok((_, None, _)) => break,
                Ok((start, Some((_, kind)), end)) => all.push(Token { kind, at: start..end, number: 0 }),
                Err(_) => return Err(Unscoped::NotUnderstood),
            }
        }
        while all.last().is_some_and(|token| token.is(TokenType::TK_SEMI)) {
            all.pop();
        }
        let mut tokens = Self { sql, all };
        tokens.number()?;
        Ok(tokens)
    }

    /// Gives parameters the numbers that SQLite gives them: a name that was met has its number, and a mark alone the next one.
    fn number(&mut self) -> Result<(), Unscoped> {
        let mut last = 0;
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for token in self.all.iter_mut().filter(|token| token.is(TokenType::TK_VARIABLE)) {
            let text = self.sql.get(token.at.clone()).ok_or(Unscoped::NotUnderstood)?;
            let bare = text.strip_prefix('?');
            token.number = match bare {
                Some("") => last + 1,
                Some(number) => number.parse().map_err(|_| Unscoped::NotUnderstood)?,
                None => names.get(text).copied().unwrap_or(last + 1),
            };
            if bare.is_none() {
                names.insert(text, token.number);
            }
            last = last.max(token.number);
        }
        Ok(())
    }

    /// The greatest number of a parameter.
    pub(super) fn parameters(&self) -> usize {
        self.all.iter().map(|token| token.number).max().unwrap_or(0)
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> Result<&[Token], Unscoped> {
        self.all.get(range.clone()).ok_or(Unscoped::NotUnderstood)
    }

    pub(super) fn word(&self, token: &Token) -> &'a str {
        self.sql.get(token.at.clone()).unwrap_or_default()
    }

    /// What these tokens say, as it is written.
    pub(super) fn text(&self, tokens: &[Token]) -> Result<&'a str, Unscoped> {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
            return Err(Unscoped::NotUnderstood);
        };
        self.sql.get(first.at.start..last.at.end).ok_or(Unscoped::NotUnderstood)
    }

    /// What these tokens say, with the parameters by their numbers: it means the same in another place.
    pub(super) fn numbered(&self, tokens: &[Token]) -> Result<String, Unscoped> {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
            return Err(Unscoped::NotUnderstood);
        };
        let mut text = String::new();
        let mut at = first.at.start;
        for token in tokens.iter().filter(|token| token.is(TokenType::TK_VARIABLE)) {
            text.push_str(self.sql.get(at..token.at.start).ok_or(Unscoped::NotUnderstood)?);
            text.push_str(&format!("?{}", token.number));
            at = token.at.end;
        }
        text.push_str(self.sql.get(at..last.at.end).ok_or(Unscoped::NotUnderstood)?);
        Ok(text)
    }

    /// Whether a name stands alone in double quotes: where there is no such column it is a text.
    pub(super) fn unsure_names(&self, some: &[Token]) -> bool {
        let is_dot = |at: Option<usize>| {
            at.and_then(|at| some.get(at)).is_some_and(|token| token.is(TokenType::TK_DOT))
        };
        some.iter().enumerate().any(|(at, token)| {
            let alone = !is_dot(at.checked_sub(1)) && !is_dot(Some(at + 1));
            alone && token.is(TokenType::TK_ID) && self.word(token).starts_with('"')
        })
    }

    /// The places of commas, and so on, that stand in no parentheses.
    pub(super) fn split(tokens: &[Token], by: TokenType) -> impl Iterator<Item = &[Token]> {
        let mut depth = 0_usize;
        tokens.split(move |token| {
            match token.kind {
                TokenType::TK_LP => depth += 1,
                TokenType::TK_RP => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.kind == by
        })
    }
}

/// A name without its quotes.
pub(super) fn unquoted(name: &str) -> String {
    let inner = |open: char, close: char| name.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    for quote in ['"', '`', '\''] {
        if let Some(inner) = inner(quote, quote) {
            return inner.replace(&format!("{quote}{quote}"), &quote.to_string());
        }
    }
    inner('[', ']').unwrap_or(name).to_owned()
}
