//! How a case says that the contract is broken.

use std::error::Error;
use std::fmt::Write as _;

use opor_transport_traits::TransportError;

use crate::run::FailureKind;

/// What a transport did that the contract forbids, as a sentence.
#[derive(Debug)]
pub(crate) struct Breach {
    pub(crate) kind: FailureKind,
    pub(crate) what: String,
}

impl Breach {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { kind: FailureKind::Breach, what: what.into() }
    }
}

/// What a case comes to.
pub(crate) type Outcome<T = ()> = Result<T, Breach>;

/// A call failed that should not have.
impl From<TransportError> for Breach {
    fn from(error: TransportError) -> Self {
        Self::new(format!("a call failed: {}", with_causes(&error)))
    }
}

/// A task of the case did not end by itself.
impl From<tokio::task::JoinError> for Breach {
    fn from(error: tokio::task::JoinError) -> Self {
        let kind = if error.is_panic() { FailureKind::Panicked } else { FailureKind::Breach };
        Self { kind, what: format!("a task of the case ended: {error}") }
    }
}

/// An error and what caused it, on one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a String does not fail");
        cause = error.source();
    }
    text
}

/// Returns a breach, with this sentence.
macro_rules! breach {
    ($($sentence:tt)*) => {
        return Err($crate::breach::Breach::new(format!($($sentence)*)))
    };
}
pub(crate) use breach;
