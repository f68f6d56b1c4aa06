//! Functions whose results change although the database does not.

use opor_store::Store;
use opor_store::rusqlite::Error;
use sqlite3_parser::dialect::TokenType;
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::Tokenizer;

use crate::access::Access;
use crate::error::LiveError;

/// Functions that never give the same twice, or that tell of the connection rather than of the database.
const VOLATILE: [&str; 9] = [
    "random",
    "randomblob",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "current_timestamp",
    "current_date",
    "current_time",
    "load_extension",
];
/// Functions of dates: the time that it is, when they are asked for `'now'` or for nothing.
const DATES: [&str; 7] = ["date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"];

/// Refuses statements that are not deterministic. Tells whether functions of dates are among those it calls, which must not be
/// given `'now'` as a parameter either. (A *column* in which there is the word now is not noticed.)
pub(crate) fn check(store: &Store, sql: &str, access: &Access) -> Result<bool, LiveError> {
    let refused = |name: &str| LiveError::NonDeterministic { function: name.to_owned() };
    // What opor tells about the connection moves with commits of its own.
    let volatile = |name: &&String| VOLATILE.contains(&name.as_str()) || name.starts_with("crsql_");
    if let Some(name) = access.functions.iter().find(volatile) {
        return Err(refused(name));
    }
    let Some(date) = access.functions.iter().find(|name| DATES.contains(&name.as_str())) else {
        return Ok(false);
    };
    let texts = texts(store, sql, access)?;
    match texts.iter().find_map(|text| now(text)) {
        Some(function) => Err(refused(&function)),
        None if says_now(store, sql)? => Err(refused(date)),
        None => Ok(true),
    }
}

/// The statement, and the views that it sees through.
pub(crate) fn texts(store: &Store, sql: &str, access: &Access) -> Result<Vec<String>, Error> {
    let mut texts = vec![sql.to_owned()];
    for view in &access.views {
        let mut found =
            store.prepare_cached("SELECT sql FROM main.sqlite_schema WHERE name = ? AND sql IS NOT NULL")?;
        let found = found.query_map([view], |row| row.get(0))?;
        texts.extend(found.collect::<Result<Vec<String>, _>>()?);
    }
    Ok(texts)
}

/// Whether the word is among the constants of the program that SQLite makes of a statement.
fn says_now(store: &Store, sql: &str) -> Result<bool, LiveError> {
    let mut program = store.prepare(&format!("EXPLAIN {sql}"))?;
    let mut steps = program.raw_query();
    while let Some(step) = steps.next()? {
        let opcode: String = step.get("opcode")?;
        let constant: Option<String> = step.get("p4")?;
        if opcode.starts_with("String")
            && constant.is_some_and(|text| text.trim().eq_ignore_ascii_case("now"))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A function of dates that is called without saying for which.
fn now(sql: &str) -> Option<String> {
    let mut tokens = tokens(sql);
    // What cannot be read as SQL is not known to be harmless.
    let Some(tokens) = &mut tokens else { return Some("a function of dates".to_owned()) };
    for (at, (_, word)) in tokens.iter().enumerate() {
        let name = word.trim_matches(['"', '`', '[', ']']).to_ascii_lowercase();
        if !DATES.contains(&name.as_str())
            || tokens.get(at + 1).is_none_or(|(kind, _)| *kind != TokenType::TK_LP)
        {
            continue;
        }
        let (mut depth, mut commas, mut words) = (0, 0, 0);
        for (kind, _) in &tokens[at + 1..] {
            match kind {
                TokenType::TK_LP => depth += 1,
                TokenType::TK_RP => depth -= 1,
                TokenType::TK_COMMA if depth == 1 => commas += 1,
                _ => words += 1,
            }
            if depth == 0 {
                break;
            }
        }
        let least = usize::from(name == "strftime");
        if words == 0 || commas < least {
            return Some(name);
        }
    }
    None
}

pub(crate) fn tokens(sql: &str) -> Option<Vec<(TokenType, String)>> {
    let mut scanner = Scanner::new(Tokenizer::new());
    let mut tokens = Vec::new();
    loop {
        match scanner.scan(sql.as_bytes()) {
            Ok((_, None, _)) => return Some(tokens),
            Ok((_, Some((text, kind)), _)) => tokens.push((kind, String::from_utf8_lossy(text).into_owned())),
            Err(_) => return None,
        }
    }
}
