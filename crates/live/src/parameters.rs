//! Values for the parameters of a statement: as they are asked for, and as they are kept.

use std::hash::{Hash, Hasher};
use std::slice;

use opor_core::Value;
use rustc_hash::FxHasher;

use crate::error::LiveError;
use crate::plan::Plan;
use crate::result::Cell;

/// Values for parameters, by name or in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(String, Value)>,
}

/// One value for each parameter of a statement. Most have one or none, which takes no more than the value itself.
#[derive(Debug, PartialEq)]
pub(crate) enum Bound {
    One(Value),
    Several(Box<[Value]>),
}

impl From<Vec<Value>> for Bound {
    fn from(mut values: Vec<Value>) -> Self {
        match (values.pop(), values.is_empty()) {
            (Some(mut only), true) => {
                // As it was built by the caller, a text may have room for more.
                match &mut only {
                    Value::Text(text) => text.shrink_to_fit(),
                    Value::Blob(bytes) => bytes.shrink_to_fit(),
                    Value::Null | Value::Integer(_) | Value::Real(_) => {}
                }
                Self::One(only)
            }
            (last, _) => {
                values.extend(last);
                Self::Several(values.into())
            }
        }
    }
}

impl Bound {
    pub(crate) fn values(&self) -> &[Value] {
        match self {
            Self::One(value) => slice::from_ref(value),
            Self::Several(values) => values,
        }
    }

    /// Hashes of values that are equal are equal; `of` is what they are the parameters of.
    pub(crate) fn hash(&self, of: u32) -> u64 {
        let mut hasher = FxHasher::default();
        of.hash(&mut hasher);
        self.values().iter().for_each(|value| Cell::from(value).hash(&mut hasher));
        hasher.finish()
    }
}

impl Parameters {
    /// One value for each parameter of a statement.
    ///
    /// # Errors
    /// [`LiveError`] when there are too few, too many, or one that makes the statement another every time.
    pub(crate) fn resolve(self, plan: &Plan) -> Result<Bound, LiveError> {
        if self.positional.len() > plan.parameters.len() {
            let parameter = format!("?{}", plan.parameters.len() + 1);
            return Err(LiveError::UnknownParameter { parameter });
        }
        let mut values: Vec<Option<Value>> = self.positional.into_iter().map(Some).collect();
        values.resize(plan.parameters.len(), None);
        for (name, value) in self.named {
            let bare = name.trim_start_matches([':', '@', '$']);
            let is_it = |parameter: &String| {
                *parameter == name || (!parameter.starts_with('?') && &parameter[1..] == bare)
            };
            match plan.parameters.iter().position(is_it) {
                Some(at) => values[at] = Some(value),
                None => return Err(LiveError::UnknownParameter { parameter: name }),
            }
        }
        let missing = values.iter().position(Option::is_none);
        if let Some(at) = missing {
            return Err(LiveError::MissingParameter { parameter: plan.parameters[at].clone() });
        }
        let values: Vec<Value> = values.into_iter().flatten().collect();
        let says_now =
            |value: &Value| matches!(value, Value::Text(text) if text.trim().eq_ignore_ascii_case("now"));
        if plan.dates && values.iter().any(says_now) {
            return Err(LiveError::NonDeterministic { function: "a function of dates".to_owned() });
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_takes_no_more_than_itself() {
        assert_eq!(size_of::<Bound>(), size_of::<Value>());
        for count in 0..4 {
            let values: Vec<Value> = (0..count).map(|at| Value::Text(format!("value {at}"))).collect();
            assert_eq!(Bound::from(values.clone()).values(), values);
        }
    }

    #[test]
    fn hashes_tell_types_and_statements_apart() {
        let hash = |value: Value, of| Bound::from(vec![value]).hash(of);
        let differ = [
            hash(1.into(), 0),
            hash(1.into(), 1),
            hash(1.0.into(), 0),
            hash("1".into(), 0),
            hash(Value::Null, 0),
            hash(Value::Blob(b"1".to_vec()), 0),
            hash(0.0.into(), 0),
            hash((-0.0).into(), 0),
        ];
        let unequal = |(at, hash): (usize, &u64)| !differ[..at].contains(hash);
        assert!(differ.iter().enumerate().all(unequal), "{differ:?}");
        assert_eq!(hash("a".into(), 3), hash(Value::Text(String::from("a")), 3));
    }
}
