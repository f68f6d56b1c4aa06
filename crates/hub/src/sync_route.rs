//! `GET /sync/{room}`: a sync session over a WebSocket.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use opor_transport_websocket::tokio_tungstenite::WebSocketStream;
use opor_transport_websocket::tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::Role;
use opor_transport_websocket::{SUBPROTOCOL, link, socket_config};

use crate::access::judge;
use crate::connection::Connection;
use crate::hub::Hub;
use crate::seat::{Knock, Standing, hand_over};
use crate::{HubError, RoomName};

/// Switches to a WebSocket, and begins a session.
///
/// A peer that shows its token in the request is answered by status: 401, 404 for a room that does not exist, 503 where
/// no place is free. One that shows it only in its hello hears the same within the link.
pub(crate) async fn join(
    State(hub): State<Hub>,
    room: RoomName,
    mut request: Request,
) -> Result<Response<Body>, HubError> {
    let access = judge(&hub.options().tokens, request.headers())?;
    let accept = accept(request.headers())?;
    let connection = request.extensions().get::<Connection>().cloned();
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or(HubError::Upgrade { reason: "this connection cannot be upgraded" })?;
    let knock = Knock::new("ws", connection.as_ref());
    let state = hub.admit(&room, access, &knock).await?;
    if let Some(connection) = connection {
        connection.upgrade();
    }
    tokio::spawn(welcome(hub, room, knock, upgrade, state));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// The answer to the key of an upgrade.
fn accept(headers: &HeaderMap) -> Result<HeaderValue, HubError> {
    let wrong = |reason| HubError::Upgrade { reason };
    if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
        return Err(wrong("the request asks for none"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(wrong("version 13 is spoken here"));
    }
    if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(wrong("the subprotocol opor.v1 is spoken here"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(wrong("it has no key"))?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| wrong("its key is none"))
}

/// Whether a header, which is a list, has an entry.
fn lists(headers: &HeaderMap, name: &HeaderName, entry: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(entry))
}

/// Turns the connection into a link, and hands it to the room.
async fn welcome(hub: Hub, room: RoomName, knock: Knock, upgrade: OnUpgrade, standing: Standing) {
    // A client that goes away before the switch is its own affair.
    let Ok(connection) = upgrade.await else { return };
    let config = Some(socket_config());
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, config).await;
    let Ok(link) = link(socket, knock.peer.clone()) else { return };
    hand_over(&hub, &room, link, &knock, standing).await;
}
