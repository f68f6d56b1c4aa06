//! What a receiver must give next, and how a call must fail.

use std::ops::Range;

use opor_transport_traits::{
    Bytes, CloseReason, Received, Receiver, TransportError, TransportErrorKind as Kind,
};

use crate::breach::{Breach, Outcome, breach, with_causes};
use crate::payload::number_of;

/// A frame.
pub(crate) async fn frame(receiver: &mut dyn Receiver) -> Outcome<Bytes> {
    match receiver.recv().await {
        Ok(Received::Frame(frame)) => Ok(frame),
        Ok(Received::Closed(reason)) => breach!("recv gave Closed, {reason}, where a frame was due"),
        Err(error) => breach!("recv failed where a frame was due: {}", with_causes(&error)),
    }
}

/// A numbered frame.
pub(crate) async fn number(receiver: &mut dyn Receiver) -> Outcome<u32> {
    number_of(&frame(receiver).await?)
}

/// Numbered frames in this order.
pub(crate) async fn numbers(receiver: &mut dyn Receiver, due: Range<u32>) -> Outcome {
    for due in due {
        let number = number(receiver).await?;
        if number != due {
            breach!("frame {number} was given where frame {due} was due");
        }
    }
    Ok(())
}

/// Numbered frames from 0 in order, then `Closed`: how many, and with which reason.
pub(crate) async fn all(receiver: &mut dyn Receiver) -> Outcome<(u32, CloseReason)> {
    let mut due = 0;
    loop {
        match receiver.recv().await {
            Ok(Received::Frame(frame)) => {
                let number = number_of(&frame)?;
                if number != due {
                    breach!("frame {number} was given where frame {due} was due");
                }
                due += 1;
            }
            Ok(Received::Closed(reason)) => return Ok((due, reason)),
            Err(error) => breach!("recv failed where frame {due} or Closed was due: {}", with_causes(&error)),
        }
    }
}

/// `Closed` with this reason.
pub(crate) async fn closed(receiver: &mut dyn Receiver, due: &CloseReason) -> Outcome {
    match receiver.recv().await {
        Ok(Received::Closed(reason)) => same_reason(&reason, due),
        Ok(Received::Frame(frame)) => breach!("a frame of {} bytes was given after the close", frame.len()),
        Err(error) => breach!("recv failed where Closed was due: {}", with_causes(&error)),
    }
}

pub(crate) fn same_reason(reason: &CloseReason, due: &CloseReason) -> Outcome {
    if reason != due {
        breach!("Closed gave the reason {reason:?} where {due:?} was due");
    }
    Ok(())
}

/// Numbered frames from 0 in order, then `Lost`: how many.
pub(crate) async fn lost(receiver: &mut dyn Receiver) -> Outcome<u32> {
    lost_after(receiver, 0).await
}

/// Numbered frames from `due` in order, then `Lost`: the number of the first that did not come.
pub(crate) async fn lost_after(receiver: &mut dyn Receiver, mut due: u32) -> Outcome<u32> {
    loop {
        match receiver.recv().await {
            Ok(Received::Frame(frame)) => {
                let number = number_of(&frame)?;
                if number != due {
                    breach!("frame {number} was given where frame {due} or Lost was due");
                }
                due += 1;
            }
            Ok(Received::Closed(reason)) => {
                breach!("recv gave Closed, {reason}, where Lost was due: nobody closed the link")
            }
            Err(error) => {
                of_kind(&error, Kind::Lost)?;
                return Ok(due);
            }
        }
    }
}

/// That a call failed with `Lost`.
pub(crate) fn failed_lost<T>(call: &str, result: Result<T, TransportError>) -> Outcome {
    of_kind(&failed(call, result)?, Kind::Lost)
}

/// That a call failed with `Closed` and this reason.
pub(crate) fn failed_closed<T>(call: &str, result: Result<T, TransportError>, due: &CloseReason) -> Outcome {
    let error = failed(call, result)?;
    of_kind(&error, Kind::Closed)?;
    match error.close_reason() {
        Some(reason) => same_reason(reason, due),
        None => breach!("{call} failed with Closed, but the error has no close reason"),
    }
}

/// The error with which a call failed.
pub(crate) fn failed<T>(call: &str, result: Result<T, TransportError>) -> Outcome<TransportError> {
    result.err().ok_or_else(|| Breach::new(format!("{call} returned Ok where it must fail")))
}

/// That an error is of this kind.
pub(crate) fn of_kind(error: &TransportError, due: Kind) -> Outcome {
    if error.kind() != due {
        breach!("a call failed with {:?} where {due:?} was due: {}", error.kind(), with_causes(error));
    }
    Ok(())
}
