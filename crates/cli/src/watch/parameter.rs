//! Parameters of a query, as they are written on the command line.

use std::collections::BTreeSet;

use opor_core::Value;

/// A value, and which parameter it is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameter {
    /// Its name; without one it is the next in order.
    pub(crate) name: Option<String>,
    pub(crate) value: Value,
}

/// Why a value is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParameterError {
    #[error("a blob is an even number of hex digits: x'00ff'")]
    Blob,
    #[error("the quote that begins the text does not end it; a quote within is written twice")]
    Quote,
    #[error("the number is larger than any that SQLite has")]
    TooLarge,
}

impl Parameter {
    /// `VALUE`, or `NAME=VALUE` where the name is one that SQL could have, with or without its sign; `?3=VALUE` as well.
    pub(crate) fn parse(text: &str) -> Result<Self, ParameterError> {
        match text.split_once('=') {
            Some((name, value)) if is_name(name) => {
                Ok(Self { name: Some(name.to_owned()), value: parse_value(value)? })
            }
            _ => Ok(Self { name: None, value: parse_value(text)? }),
        }
    }
}

/// A name that has more than one value.
pub(crate) fn given_twice(parameters: &[Parameter]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    let mut names = parameters.iter().filter_map(|parameter| parameter.name.as_deref());
    names.find(|name| !seen.insert(name.trim_start_matches([':', '@', '$'])))
}

fn is_name(text: &str) -> bool {
    if let Some(number) = text.strip_prefix('?') {
        return !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    }
    let bare = text.strip_prefix([':', '@', '$']).unwrap_or(text);
    let mut chars = bare.chars();
    chars.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
}

fn parse_value(text: &str) -> Result<Value, ParameterError> {
    if text.eq_ignore_ascii_case("null") {
        return Ok(Value::Null);
    }
    if let Some(hex) = text.strip_prefix(['x', 'X']).and_then(|rest| rest.strip_prefix('\'')) {
        return hex.strip_suffix('\'').and_then(bytes).map(Value::Blob).ok_or(ParameterError::Blob);
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        let inner = quoted.strip_suffix('\'').ok_or(ParameterError::Quote)?;
        if inner.replace("''", "").contains('\'') {
            return Err(ParameterError::Quote);
        }
        return Ok(Value::Text(inner.replace("''", "'")));
    }
    if let Ok(integer) = text.parse() {
        return Ok(Value::Integer(integer));
    }
    // Rust would take words such as `inf` for numbers as well.
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match text.parse::<f64>() {
        Ok(real) if numeric && real.is_finite() => Ok(Value::Real(real)),
        Ok(_) if numeric => Err(ParameterError::TooLarge),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|digit| digit.try_into().ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Value, ParameterError>) {
        assert_eq!(Parameter::parse(text), expected.map(|value| Parameter { name: None, value }), "{text}");
    }

    #[test]
    fn values_are_what_they_look_like() {
        check("3", Ok(3.into()));
        check("-3", Ok((-3).into()));
        check("007", Ok(7.into()));
        check("9223372036854775808", Ok(9_223_372_036_854_775_808.0.into()));
        check("2.5", Ok(2.5.into()));
        check("-1e3", Ok((-1000.0).into()));
        check("1e999", Err(ParameterError::TooLarge));
        check("null", Ok(Value::Null));
        check("x'00fF'", Ok(Value::Blob(vec![0, 255])));
        check("x''", Ok(Value::Blob(vec![])));
        for odd in ["x'0'", "x'0g'", "x'00", "x'é'"] {
            check(odd, Err(ParameterError::Blob));
        }
        for text in
            ["milk", "", "inf", "NaN", "infinity", "1_000", "0x10", "e", "x", "1 2", "=3", "a b=c", "-"]
        {
            check(text, Ok(text.into()));
        }
    }

    #[test]
    fn quotes_force_a_text() {
        check("'3'", Ok("3".into()));
        check("'NULL'", Ok("NULL".into()));
        check("'a=b'", Ok("a=b".into()));
        check("'it''s'", Ok("it's".into()));
        check("''", Ok("".into()));
        for torn in ["'", "'a", "'a'b'", "'a'b"] {
            check(torn, Err(ParameterError::Quote));
        }
    }

    #[test]
    fn names_stand_before_an_equals_sign() {
        for (text, name, value) in [
            ("id=3", "id", Value::from(3)),
            (":id='3'", ":id", "3".into()),
            ("$größe=a=b", "$größe", "a=b".into()),
            ("?2=", "?2", "".into()),
        ] {
            assert_eq!(Parameter::parse(text), Ok(Parameter { name: Some(name.into()), value }));
        }
        assert_eq!(Parameter::parse("id=x'0'"), Err(ParameterError::Blob));
        let both = [":id=1", "b=2", "id=3"].map(|text| Parameter::parse(text).expect("a parameter"));
        assert_eq!((given_twice(&both), given_twice(&both[..2])), (Some("id"), None));
    }
}
