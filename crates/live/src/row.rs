//! Rows read as values of the application, through serde.

use opor_core::Value;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::LiveError;
use crate::result::Row;

/// Reads the row at a place of the result.
///
/// # Errors
/// [`LiveError::Row`].
pub(crate) fn read<T: DeserializeOwned>(at: usize, row: &Row, columns: &[String]) -> Result<T, LiveError> {
    T::deserialize(Whole { row, columns })
        .map_err(|error| LiveError::Row { row: at, message: error.to_string() })
}

type Fault = serde::de::value::Error;

/// A row: a map for structs, a sequence for tuples, its only value for anything else.
#[derive(Clone, Copy)]
struct Whole<'a> {
    row: &'a [Value],
    columns: &'a [String],
}

impl<'de> Whole<'de> {
    fn single(self) -> Result<Cell<'de>, Fault> {
        match self.row {
            [value] => Ok(Cell(value)),
            _ => Err(serde::de::Error::custom(format_args!(
                "one column is wanted, and there are {}",
                self.row.len()
            ))),
        }
    }

    fn map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let entries = self.columns.iter().map(String::as_str).zip(self.row.iter().map(Cell));
        visitor.visit_map(MapDeserializer::new(entries))
    }

    fn sequence<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let mut values = SeqDeserializer::new(self.row.iter().map(Cell));
        let read = visitor.visit_seq(&mut values)?;
        values.end()?;
        Ok(read)
    }
}

macro_rules! from_the_only_value {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.single()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Whole<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.sequence(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.sequence(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.sequence(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.single()?.deserialize_enum(name, variants, visitor)
    }

    from_the_only_value! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_identifier
    }
}

/// One value.
#[derive(Clone, Copy)]
struct Cell<'a>(&'a Value);

impl<'de> IntoDeserializer<'de, Fault> for Cell<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Cell<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Real(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Blob(bytes) => visitor.visit_borrowed_bytes(bytes),
        }
    }

    /// SQLite has no truth values: 0 is false, 1 is true.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Integer(value @ (0 | 1)) => visitor.visit_bool(*value == 1),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// Bytes may be read as a list of numbers, which is what `Vec<u8>` asks for.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Blob(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            // The name of a variant.
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple_struct map
        struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Todo {
        id: i64,
        title: Option<String>,
        done: bool,
        state: State,
        #[serde(default)]
        picture: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum State {
        Open,
        Shut,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Id(i64);

    #[track_caller]
    fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(row: &[Value], expected: Result<T, &str>) {
        let columns: Vec<String> = ["id", "title", "done", "state", "picture"].map(str::to_owned).into();
        let row: Row = Arc::from(row);
        let read = read::<T>(4, &row, &columns[..row.len()]);
        let expected = expected.map_err(|message| LiveError::Row { row: 4, message: message.to_owned() });
        assert_eq!(read, expected);
    }

    #[test]
    fn rows_are_read_by_name_by_order_or_as_one_value() {
        let row = [1.into(), Value::Null, 1.into(), "shut".into(), Value::Blob(vec![1, 2])];
        let todo = Todo { id: 1, title: None, done: true, state: State::Shut, picture: vec![1, 2] };
        check(&row, Ok(todo));
        check(&[7.into(), "a".into()], Ok((7u8, "a".to_owned())));
        check(&[7.into()], Ok(7i64));
        check(&[7.into()], Ok(Id(7)));
        check(&[Value::Null], Ok(None::<i64>));
        check(&[2.5.into()], Ok(2.5f64));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        check::<i64>(&[7.into(), 8.into()], Err("one column is wanted, and there are 2"));
        check::<u8>(&[300.into()], Err("invalid value: integer `300`, expected u8"));
        check::<(i64,)>(&[7.into(), 8.into()], Err("invalid length 2, expected 1 element in sequence"));
        check::<bool>(&[7.into()], Err("invalid type: integer `7`, expected a boolean"));
        check::<Todo>(&[7.into()], Err("missing field `done`"));
    }
}
