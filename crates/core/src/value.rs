//! A SQLite value, owned and borrowed, with the order that decides ties.

use std::cmp::Ordering;

/// A value as SQLite stores it.
///
/// Equality is type-strict and bit-exact: `1` is not `1.0`, `0.0` is not `-0.0`, and a NaN equals itself.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// SQL NULL.
    #[default]
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A 64-bit float. SQLite itself cannot store NaN.
    Real(f64),
    /// UTF-8 text; NUL bytes are allowed.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A borrowed [`Value`].
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// SQL NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A 64-bit float.
    Real(f64),
    /// UTF-8 text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Value {
    /// The same value, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(v) => ValueRef::Integer(*v),
            Self::Real(v) => ValueRef::Real(*v),
            Self::Text(v) => ValueRef::Text(v),
            Self::Blob(v) => ValueRef::Blob(v),
        }
    }

    /// How many bytes of memory or wire the payload takes, roughly.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(v) => v.len(),
            Self::Blob(v) => v.len(),
        }
    }
}

impl ValueRef<'_> {
    /// An owned copy.
    #[must_use]
    pub fn to_owned(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Integer(v) => Value::Integer(v),
            Self::Real(v) => Value::Real(v),
            Self::Text(v) => Value::Text(v.to_owned()),
            Self::Blob(v) => Value::Blob(v.to_owned()),
        }
    }

    /// Which of two values wins a tie of versions: the greater one.
    ///
    /// The type decides first, INTEGER > REAL > TEXT > BLOB > NULL, so that integer -5 beats real 1e300; then the
    /// number, or the bytes (no collation; a shorter prefix is smaller). The rule is cr-sqlite's. Floats that compare
    /// equal as numbers, or not at all, are told apart by their bits, so that the order is total.
    #[must_use]
    pub fn merge_cmp(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
            (Self::Real(a), ValueRef::Real(b)) => a.total_cmp(&b),
            (Self::Text(a), ValueRef::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
            (a, b) => a.type_rank().cmp(&b.type_rank()),
        }
    }

    const fn type_rank(self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Blob(_) => 1,
            Self::Text(_) => 2,
            Self::Real(_) => 3,
            Self::Integer(_) => 4,
        }
    }
}

impl PartialEq for ValueRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.merge_cmp(*other) == Ordering::Equal
    }
}

impl Eq for ValueRef<'_> {}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Value {}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> Self {
        value.as_ref()
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}
