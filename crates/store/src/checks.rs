//! The CHECK constraints of a table, from its definition: SQLite says that one failed, but does not list them.

/// The expressions of all CHECK constraints in a CREATE TABLE statement that SQLite has accepted.
pub(crate) fn checks_of(sql: &str) -> Vec<String> {
    let (mut checks, mut depth, mut at) = (Vec::new(), 0_usize, 0);
    while at < sql.len() {
        let end = token_end(sql, at);
        match &sql[at..end] {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            // CHECK is a keyword that cannot be a name unquoted, and constraints stand directly within the table's brackets.
            word if depth == 1 && word.eq_ignore_ascii_case("check") => {
                if let Some((open, close)) = brackets(sql, end) {
                    checks.push(sql[open + 1..close].trim().to_owned());
                    at = close + 1;
                    continue;
                }
            }
            _ => {}
        }
        at = end;
    }
    checks
}

/// The next pair of brackets from `at` on, which nothing but space and comments stand before.
fn brackets(sql: &str, mut at: usize) -> Option<(usize, usize)> {
    let (mut open, mut depth) = (None, 0_usize);
    while at < sql.len() {
        let end = token_end(sql, at);
        match (&sql[at..end], open) {
            ("(", None) => {
                open = Some(at);
                depth = 1;
            }
            ("(", Some(_)) => depth += 1,
            (")", Some(open)) => {
                depth -= 1;
                if depth == 0 {
                    return Some((open, at));
                }
            }
            _ => {}
        }
        at = end;
    }
    None
}

/// Where the token that begins at `at` ends: a quoted name or text, a comment, a word, or one character.
fn token_end(sql: &str, at: usize) -> usize {
    let rest = &sql[at..];
    let first = rest.chars().next().map_or(1, char::len_utf8);
    let until = |close: &str, from: usize| {
        rest[from..].find(close).map_or(sql.len(), |place| at + from + place + close.len())
    };
    match rest.as_bytes()[0] {
        quote @ (b'\'' | b'"' | b'`') => quoted_end(sql, at, quote),
        b'[' => until("]", 1),
        b'-' if rest.starts_with("--") => until("\n", 2),
        b'/' if rest.starts_with("/*") => until("*/", 2),
        byte if is_word(byte) => at + rest.bytes().take_while(|byte| is_word(*byte)).count(),
        _ => at + first,
    }
}

/// A doubled quote stands for one.
fn quoted_end(sql: &str, at: usize, quote: u8) -> usize {
    let bytes = sql.as_bytes();
    let mut place = at + 1;
    while place < bytes.len() {
        if bytes[place] == quote {
            if bytes.get(place + 1) != Some(&quote) {
                return place + 1;
            }
            place += 1;
        }
        place += 1;
    }
    sql.len()
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: &[&str]) {
        rusqlite::Connection::open_in_memory()
            .and_then(|conn| conn.execute_batch(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(checks_of(sql), expected, "{sql}");
    }

    #[test]
    fn checks_are_found_and_nothing_else() {
        check("CREATE TABLE t(a)", &[]);
        check(
            "CREATE TABLE t(a CHECK (a > 1), b check(b<>')'), CHECK (a + (b) > 0))",
            &["a > 1", "b<>')'", "a + (b) > 0"],
        );
        check("CREATE TABLE t(a CONSTRAINT c CHECK/* ( */ ( a IN (1, 2) ) NOT NULL)", &["a IN (1, 2)"]);
        check(
            "CREATE TABLE \"check (1)\"(\"check\" TEXT DEFAULT 'check (2)', [check (3)], `a` CHECK (`a` > 0))",
            &["`a` > 0"],
        );
        check(
            "CREATE TABLE t(a DEFAULT ('check (1)'), b AS (a || ')') -- CHECK (a)\n, c CHECK (c <> 'it''s ('))",
            &["c <> 'it''s ('"],
        );
    }

    #[test]
    fn text_that_is_no_definition_does_no_harm() {
        for sql in
            ["", "(", "check", "(check", "(check (", "('", "(check('", "/*", "(é check (ü", ")))check(1)"]
        {
            assert_eq!(checks_of(sql), Vec::<String>::new(), "{sql}");
        }
    }
}
