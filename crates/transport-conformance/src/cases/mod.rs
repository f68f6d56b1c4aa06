//! The cases, in files by the headings of the contract. A function has the name of its sentence.

mod cancel;
mod close;
mod dial;
mod duplex;
mod frames;
mod loss;
mod pressure;

pub(crate) use cancel::*;
pub(crate) use close::*;
pub(crate) use dial::*;
pub(crate) use duplex::*;
pub(crate) use frames::*;
pub(crate) use loss::*;
pub(crate) use pressure::*;
