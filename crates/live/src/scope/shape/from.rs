//! The tables in FROM.

use sqlite3_parser::dialect::TokenType;

use super::Unscoped;
use super::token::{Token, Tokens, unquoted};

/// A table in FROM.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Occurrence<'a> {
    /// By which its columns are named, as it is written.
    pub(in super::super) qualifier: &'a str,
    /// Its name, without quotes.
    pub(in super::super) table: String,
    /// It stands on the right of a LEFT JOIN: a row may be there without one of it.
    pub(in super::super) optional: bool,
}

/// Reads what is after FROM.
pub(super) struct From<'a, 't> {
    tokens: &'t Tokens<'a>,
    from: &'t [Token],
    at: usize,
    /// How many tokens there are before the first LEFT JOIN.
    required: Option<usize>,
    /// A name in ON may be a text where there is no such column.
    unsure_names: bool,
}

/// What is in FROM.
pub(super) struct Joined<'a, 't> {
    pub(super) occurrences: Vec<Occurrence<'a>>,
    /// Before the first LEFT JOIN, before the second, and so on to the end.
    pub(super) parts: Vec<&'t [Token]>,
    pub(super) unsure_names: bool,
}

impl<'a, 't> From<'a, 't> {
    pub(super) fn new(tokens: &'t Tokens<'a>, from: &'t [Token]) -> Self {
        Self { tokens, from, at: 0, required: None, unsure_names: false }
    }

    pub(super) fn joined(mut self) -> Result<Joined<'a, 't>, Unscoped> {
        let mut occurrences: Vec<Occurrence<'a>> = Vec::new();
        let mut parts = Vec::new();
        loop {
            let occurrence = self.occurrence()?;
            let name = unquoted(occurrence.qualifier);
            if occurrences.iter().any(|other| unquoted(other.qualifier).eq_ignore_ascii_case(&name)) {
                return Err(Unscoped::SameName);
            }
            occurrences.push(occurrence);
            self.constraint()?;
            let part = &self.from[..self.at];
            let ends = self.at == self.from.len();
            if !ends {
                self.operator()?;
            }
            if ends || self.required.is_some() {
                parts.push(part);
            }
            if ends {
                return Ok(Joined { occurrences, parts, unsure_names: self.unsure_names });
            }
        }
    }

    fn next_is(&mut self, kind: TokenType) -> Option<&'a str> {
        let token = self.from.get(self.at).filter(|token| token.is(kind))?;
        self.at += 1;
        Some(self.tokens.word(token))
    }

    fn occurrence(&mut self) -> Result<Occurrence<'a>, Unscoped> {
        let opens = |at: usize, kind| self.from.get(at).is_some_and(|token| token.is(kind));
        if opens(self.at, TokenType::TK_LP) && opens(self.at + 1, TokenType::TK_SELECT) {
            return Err(Unscoped::Subquery);
        }
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
        let optional = self.required.is_some();
        Ok(Occurrence { qualifier: alias.unwrap_or(name), table: unquoted(name), optional })
    }

    /// ON and USING, up to the next table. In inner joins they say the same as WHERE does.
    fn constraint(&mut self) -> Result<(), Unscoped> {
        if self.next_is(TokenType::TK_ON).is_none() && self.next_is(TokenType::TK_USING).is_none() {
            return Ok(());
        }
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(token) = self.from.get(self.at) {
            match token.kind {
                TokenType::TK_LP => depth += 1,
                TokenType::TK_RP => depth = depth.checked_sub(1).ok_or(Unscoped::NotUnderstood)?,
                TokenType::TK_COMMA | TokenType::TK_JOIN | TokenType::TK_JOIN_KW if depth == 0 => break,
                TokenType::TK_ON | TokenType::TK_USING => return Err(Unscoped::NotUnderstood),
                _ => {}
            }
            self.at += 1;
        }
        self.unsure_names |= self.tokens.unsure_names(&self.from[start..self.at]);
        Ok(())
    }

    /// After the first LEFT JOIN there may only be more of these: an inner one would throw out rows that have no partner.
    fn operator(&mut self) -> Result<(), Unscoped> {
        let start = self.at;
        let (mut inner, mut left) = (false, false);
        if self.next_is(TokenType::TK_COMMA).is_some() || self.next_is(TokenType::TK_JOIN).is_some() {
            inner = true;
        } else {
            let word = self.next_is(TokenType::TK_JOIN_KW).ok_or(Unscoped::NoTable)?;
            inner |= word.eq_ignore_ascii_case("inner");
            left |= word.eq_ignore_ascii_case("left");
            let outer = left
                && self
                    .next_is(TokenType::TK_JOIN_KW)
                    .is_some_and(|word| !word.eq_ignore_ascii_case("outer"));
            if outer || !(inner || left) {
                return Err(Unscoped::OtherJoin);
            }
            self.next_is(TokenType::TK_JOIN).ok_or(Unscoped::OtherJoin)?;
        }
        if left {
            self.required.get_or_insert(start);
        } else if inner && self.required.is_some() {
            return Err(Unscoped::OtherJoin);
        }
        Ok(())
    }
}
