//! Keys of values: two values that SQLite may hold equal have one key. Others may have one too.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use opor_core::Value;
use rustc_hash::FxHasher;

use super::column::Affinity;

/// Which conversions there are between the values of columns that are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// None: '5' is not 5.
    AsIs,
    /// To text.
    Text,
    /// Texts to numbers, where they look like some.
    Numeric,
    /// Texts to numbers, and numbers to text.
    Mixed,
}

/// What stands for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// It is equal to nothing, and IS itself.
    Null,
    /// A hash. That two values have one by chance costs a look, no more.
    Hash(u64),
    /// It may be equal to anything.
    Unsure,
}

/// Reals from here on are not shown by SQLite with all their digits.
const SHOWN_WHOLE: f64 = 1e15;
/// Numbers of this many digits fit into 64 bits.
const DIGITS_MAX: usize = 18;

impl Mode {
    /// How values of columns of these affinities are compared, with each other and with values of none.
    pub(crate) fn of(affinities: impl Iterator<Item = Affinity>) -> Self {
        affinities
            .map(|affinity| match affinity {
                Affinity::Blob => Self::AsIs,
                Affinity::Text => Self::Text,
                Affinity::Numeric => Self::Numeric,
            })
            .reduce(|a, b| match (a, b) {
                (a, b) if a == b => a,
                (Self::AsIs | Self::Numeric, Self::AsIs | Self::Numeric) => Self::Numeric,
                _ => Self::Mixed,
            })
            .unwrap_or(Self::AsIs)
    }

    /// The key of a value.
    pub(crate) fn key(self, value: &Value) -> Key {
        match (self, value) {
            (_, Value::Null) => Key::Null,
            (_, Value::Blob(bytes)) => hash(&(2_u8, &bytes[..])),
            (Self::AsIs | Self::Numeric | Self::Mixed, Value::Integer(number)) => whole(*number),
            (Self::AsIs | Self::Numeric, Value::Real(number)) => real(*number),
            (Self::AsIs, Value::Text(text)) => folded(text),
            (Self::Numeric | Self::Mixed, Value::Text(text)) => match number(text) {
                Looks::Other => folded(text),
                Looks::Whole(number) => whole(number),
                Looks::Maybe => Key::Unsure,
            },
            (Self::Text, Value::Text(text)) => folded(text),
            (Self::Text, Value::Integer(number)) => folded(&number.to_string()),
            (Self::Text, Value::Real(number)) if number.fract() == 0.0 && number.abs() < SHOWN_WHOLE => {
                folded(&format!("{:.1}", number + 0.0))
            }
            (Self::Mixed, Value::Real(number)) if number.fract() == 0.0 && number.abs() < SHOWN_WHOLE => {
                real(*number)
            }
            // SQLite shows 15 digits, of which nobody else should say how they are rounded.
            (Self::Text | Self::Mixed, Value::Real(_)) => Key::Unsure,
        }
    }
}

fn hash<T: Hash>(value: &T) -> Key {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    Key::Hash(hasher.finish())
}

fn whole(number: i64) -> Key {
    hash(&(0_u8, number))
}

/// 5.0 is 5, and -0.0 is 0.
fn real(number: f64) -> Key {
    // The first real above the integers; the last below is one of them.
    let in_range = (i64::MIN as f64..-(i64::MIN as f64)).contains(&number);
    if number.fract() == 0.0 && in_range { whole(number as i64) } else { hash(&(1_u8, number.to_bits())) }
}

/// Without case and trailing spaces, so that it holds for NOCASE and RTRIM as well.
fn folded(text: &str) -> Key {
    let mut hasher = FxHasher::default();
    3_u8.hash(&mut hasher);
    let text = text.trim_end_matches(' ');
    let mut chunk = [0_u8; 8];
    // Eight at a time: one by one takes longer than everything else.
    for bytes in text.as_bytes().chunks(8) {
        chunk[..bytes.len()].copy_from_slice(bytes);
        chunk[bytes.len()..].fill(0);
        chunk.make_ascii_lowercase();
        u64::from_ne_bytes(chunk).hash(&mut hasher);
    }
    text.len().hash(&mut hasher);
    Key::Hash(hasher.finish())
}

/// What SQLite would make of a text where it wants a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    /// A text.
    Other,
    Whole(i64),
    /// A number that SQLite would round, or no number after all.
    Maybe,
}

fn number(text: &str) -> Looks {
    let text = text.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Looks::Other;
    }
    if digits.len() <= DIGITS_MAX && digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().map_or(Looks::Maybe, Looks::Whole);
    }
    let of_numbers = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    if digits.bytes().all(of_numbers) { Looks::Maybe } else { Looks::Other }
}

/// The order of two numbers, exactly; `None` when one is none.
pub(crate) fn compare_numbers(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
        (Value::Real(a), Value::Real(b)) => a.partial_cmp(b),
        (Value::Integer(a), Value::Real(b)) => mixed(*a, *b),
        (Value::Real(a), Value::Integer(b)) => mixed(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

fn mixed(a: i64, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    if b < i64::MIN as f64 {
        return Some(Ordering::Greater);
    }
    if b >= -(i64::MIN as f64) {
        return Some(Ordering::Less);
    }
    // In range now, so that only the fraction is lost.
    let fraction = 0.0.partial_cmp(&b.fract()).unwrap_or(Ordering::Equal);
    Some(a.cmp(&(b as i64)).then(fraction))
}

/// A place on a line, in the order of numbers; two numbers that are close may have one place.
pub(crate) fn number_place(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Integer(number) => *number as f64,
        Value::Real(number) => *number + 0.0,
        _ => return None,
    };
    let bits = number.to_bits();
    // Negative ones are in reverse order, and below the others.
    Some(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
}

/// A place on a line, in the order of bytes; texts that begin alike have one place.
pub(crate) fn text_place(text: &str) -> u64 {
    let mut place = [0; 8];
    let length = text.len().min(8);
    place[..length].copy_from_slice(&text.as_bytes()[..length]);
    u64::from_be_bytes(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mode: Mode, a: impl Into<Value>, b: impl Into<Value>, equal: bool) {
        let (a, b) = (a.into(), b.into());
        assert_eq!(mode.key(&a) == mode.key(&b), equal, "{mode:?}: {a:?} and {b:?}");
    }

    #[test]
    fn what_sqlite_may_hold_equal_has_one_key() {
        for mode in [Mode::AsIs, Mode::Numeric] {
            check(mode, 5, 5.0, true);
            check(mode, 0, -0.0, true);
            check(mode, 5, 5.5, false);
            check(mode, 9_007_199_254_740_993, 9_007_199_254_740_992.0, false);
            check(mode, 9_007_199_254_740_992, 9_007_199_254_740_992.0, true);
            check(mode, i64::MIN, -9_223_372_036_854_775_808.0, true);
            check(mode, i64::MAX, 9_223_372_036_854_775_808.0, false);
        }
        check(Mode::AsIs, "5", 5, false);
        check(Mode::Numeric, "5", 5, true);
        check(Mode::Numeric, " +05\n", 5.0, true);
        check(Mode::Numeric, "5a", 5, false);
        check(Mode::Text, "5", 5, true);
        check(Mode::Text, "5.0", 5.0, true);
        check(Mode::Text, "0.0", -0.0, true);
        check(Mode::Text, "5", 5.0, false);
        check(Mode::Text, "05", 5, false);
        for mode in [Mode::AsIs, Mode::Numeric, Mode::Text] {
            check(mode, "Straße", "sTRAße", true);
            check(mode, "É", "é", false);
            check(mode, "a longer text  ", "A LONGER TEXT", true);
            check(mode, "a longer text\t", "a longer text", false);
            check(mode, "", "\0", false);
            check(mode, Value::Blob(vec![b'a']), "a", false);
        }
    }

    #[test]
    fn what_only_sqlite_can_tell_is_unsure() {
        for text in ["5.5", "1e3", ".5", "9223372036854775808", "-0.0", "5."] {
            assert_eq!(Mode::Numeric.key(&text.into()), Key::Unsure, "{text}");
            assert_ne!(Mode::Text.key(&text.into()), Key::Unsure, "{text}");
        }
        for number in [0.1 + 0.2, 1e15, f64::INFINITY] {
            assert_eq!(Mode::Text.key(&number.into()), Key::Unsure, "{number}");
            assert_eq!(Mode::Mixed.key(&number.into()), Key::Unsure, "{number}");
        }
        check(Mode::Mixed, "5", 5.0, true);
    }

    #[test]
    fn places_are_in_the_order_of_numbers_and_of_bytes() {
        let numbers: [Value; 9] = [
            f64::NEG_INFINITY.into(),
            i64::MIN.into(),
            (-2.5).into(),
            (-1).into(),
            (-0.0).into(),
            1e-300.into(),
            1.into(),
            9_007_199_254_740_993.into(),
            f64::INFINITY.into(),
        ];
        for pair in numbers.windows(2) {
            assert!(number_place(&pair[0]) < number_place(&pair[1]), "{pair:?}");
            assert_eq!(compare_numbers(&pair[0], &pair[1]), Some(Ordering::Less), "{pair:?}");
        }
        assert_eq!(number_place(&0.into()), number_place(&(-0.0).into()));
        let close = (Value::Integer(9_007_199_254_740_993), Value::Real(9_007_199_254_740_992.0));
        assert_eq!(compare_numbers(&close.0, &close.1), Some(Ordering::Greater));
        assert_eq!(compare_numbers(&(-3).into(), &(-3.5).into()), Some(Ordering::Greater));
        let texts = ["", "\0a", "A", "a", "a\0", "ab", "abcdefgh", "b", "é"];
        assert!(texts.windows(2).all(|pair| text_place(pair[0]) <= text_place(pair[1])));
        assert_eq!(text_place("abcdefghi"), text_place("abcdefgh"));
    }
}
