//! Reading the body of a request: bounded in size and in time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::HubError;
use crate::hub::{BODIES_KIB, Hub};

/// A body of the largest size arrives in this time over 3 Mbit/s; slower ones hold memory for nothing.
const BODY_SECONDS_MAX: u64 = 60;

/// So long a body waits for its share of the memory that all bodies have.
const TURN_SECONDS_MAX: u64 = 20;

/// The whole body of a request, at most `HubOptions::body_bytes_max` of it, and its share of the memory for bodies; keep
/// that until what was read has been dealt with.
#[derive(Debug)]
pub(crate) struct WholeBody(pub(crate) Bytes, pub(crate) OwnedSemaphorePermit);

impl FromRequest<Hub> for WholeBody {
    type Rejection = HubError;

    async fn from_request(request: Request, hub: &Hub) -> Result<Self, HubError> {
        let limit = hub.options().body_bytes_max;
        let share = share(&request, limit)?;
        let turn = hub.bodies().clone().acquire_many_owned(share);
        let turn = tokio::time::timeout(Duration::from_secs(TURN_SECONDS_MAX), turn).await;
        let Ok(Ok(turn)) = turn else { return Err(HubError::Overloaded) };
        let reading = Bytes::from_request(request, hub);
        let read = tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), reading).await;
        match read {
            Err(_) => Err(HubError::TooSlow { seconds: BODY_SECONDS_MAX }),
            Ok(Ok(bytes)) => Ok(Self(bytes, turn)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(HubError::TooLarge { limit })
            }
            Ok(Err(rejection)) => Err(HubError::Malformed { reason: rejection.body_text() }),
        }
    }
}

/// The KiB that a body may need: what it declares, or as much as it may have.
fn share(request: &Request, limit: usize) -> Result<u32, HubError> {
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let bytes = declared.unwrap_or(limit);
    if bytes > limit {
        return Err(HubError::TooLarge { limit });
    }
    let kib = bytes.div_ceil(1024).clamp(1, BODIES_KIB);
    Ok(u32::try_from(kib).expect("the budget of bodies is a small number"))
}

/// Reads a small JSON document.
pub(crate) fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, HubError> {
    serde_json::from_slice(bytes).map_err(|error| HubError::Malformed { reason: error.to_string() })
}
