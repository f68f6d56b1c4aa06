//! Reading the body of a request: bounded in size and in time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::Deserialize;

use crate::HubError;
use crate::hub::Hub;

/// A body of the largest size arrives in this time over 3 Mbit/s; slower ones hold memory for nothing.
const BODY_SECONDS_MAX: u64 = 60;

/// The whole body of a request, at most `HubOptions::body_bytes_max` of it.
#[derive(Debug)]
pub(crate) struct WholeBody(pub(crate) Bytes);

impl FromRequest<Hub> for WholeBody {
    type Rejection = HubError;

    async fn from_request(request: Request, hub: &Hub) -> Result<Self, HubError> {
        let limit = hub.options().body_bytes_max;
        let reading = Bytes::from_request(request, hub);
        let read = tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), reading).await;
        match read {
            Err(_) => Err(HubError::TooSlow { seconds: BODY_SECONDS_MAX }),
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(HubError::TooLarge { limit })
            }
            Ok(Err(rejection)) => Err(HubError::Malformed { reason: rejection.body_text() }),
        }
    }
}

/// Reads a small JSON document.
pub(crate) fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, HubError> {
    serde_json::from_slice(bytes).map_err(|error| HubError::Malformed { reason: error.to_string() })
}
