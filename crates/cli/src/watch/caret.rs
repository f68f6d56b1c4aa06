//! Errors of SQL that point at the place at fault.

use opor_live::LiveError;
use unicode_width::UnicodeWidthStr;

use crate::table::printable;

/// So much of the statement is shown on each side of the place.
const CHARS_AROUND: usize = 60;

/// The error; below it the line of the statement with a caret, where SQLite says the place.
pub(crate) fn pointed(error: &LiveError, sql: &str) -> String {
    let message = printable(&error.to_string());
    let LiveError::Sql { offset: Some(offset), .. } = error else { return message };
    let Some((before, after)) = sql.split_at_checked(*offset) else { return message };
    let before = before.rsplit('\n').next().unwrap_or_default();
    let after = after.split('\n').next().unwrap_or_default();
    let skipped = before.chars().count().saturating_sub(CHARS_AROUND);
    let mut left: String = before.chars().skip(skipped).collect();
    if skipped > 0 {
        left.insert(0, '…');
    }
    let mut right: String = after.chars().take(CHARS_AROUND).collect();
    if right.len() < after.len() {
        right.push('…');
    }
    let (left, right) = (printable(&left), printable(&right));
    format!("{message}\n  {left}{right}\n  {:1$}^", "", left.width())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, offset: usize, expected: &str) {
        let error = LiveError::Sql { message: "no".into(), offset: Some(offset) };
        assert_eq!(pointed(&error, sql), expected);
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        check("SELECT x", 7, "no\n  SELECT x\n         ^");
        check("SELECT '日本', x", 17, "no\n  SELECT '日本', x\n                 ^");
        check("SELECT 1,\n\tx\nFROM t", 11, "no\n  \\tx\n    ^");
        check("SELECT", 6, "no\n  SELECT\n        ^");
        check("x", 7, "no");
        let long = format!("{}x{}", "a".repeat(200), "b".repeat(200));
        let shown = format!("no\n  …{}x{}…\n  {}^", "a".repeat(60), "b".repeat(59), " ".repeat(61));
        check(&long, 200, &shown);
    }
}
