//! The terms of ORDER BY.

use sqlite3_parser::dialect::TokenType;

use super::Unscoped;
use super::token::{Token, Tokens, unquoted};

/// A term of ORDER BY, without its direction and collation.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Term<'a> {
    /// A column of the result, counted from 1.
    Place(usize),
    /// A name alone, which may be that of a column of the result.
    Name { name: String, text: &'a str },
    /// Anything else that is computed from columns.
    Expression(&'a str),
}

/// The terms after ORDER BY.
pub(super) fn terms<'a>(tokens: &Tokens<'a>, order: &[Token]) -> Result<Vec<Term<'a>>, Unscoped> {
    // A parameter may have no value to sort by, and a subquery changes by itself.
    let never = |token: &Token| matches!(token.kind, TokenType::TK_VARIABLE | TokenType::TK_SELECT);
    if order.iter().any(never) {
        return Err(Unscoped::Order);
    }
    Tokens::split(order, TokenType::TK_COMMA).map(|one| term(tokens, bare(one))).collect()
}

/// A term without its direction and collation.
pub(super) fn bare(mut tokens: &[Token]) -> &[Token] {
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
            _ => return tokens,
        };
    }
}

fn term<'a>(all: &Tokens<'a>, tokens: &[Token]) -> Result<Term<'a>, Unscoped> {
    let text = all.text(tokens)?;
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
            let mut names = names.map(|token| all.word(token)).peekable();
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
