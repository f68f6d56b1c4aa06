//! `GET /sync/{room}`: a sync session over a WebSocket.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use opor_transport_traits::{Link, Peer};
use opor_transport_websocket::tokio_tungstenite::WebSocketStream;
use opor_transport_websocket::tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::Role;
use opor_transport_websocket::{SUBPROTOCOL, link, socket_config};
use tokio::sync::OwnedSemaphorePermit;

use crate::access::{Access, judge};
use crate::connection::Connection;
use crate::door::{self, Keeping};
use crate::event::HubEvent;
use crate::hub::Hub;
use crate::places::Place;
use crate::rooms::Visit;
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
    let from = connection.as_ref().map(|connection| connection.peer);
    let knock = Knock { peer: describe(from.map(|from| from.to_string())), from: from.map(|from| from.ip()) };
    let state = match access {
        Access::Granted => Standing::In(hub.seat(&room, knock.from).await?),
        Access::Due => {
            let strangers = hub.strangers().clone();
            Standing::AtTheDoor(strangers.try_acquire_owned().map_err(|_| HubError::Overloaded)?)
        }
    };
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

/// Who comes.
struct Knock {
    peer: Peer,
    from: Option<IpAddr>,
}

/// How far a peer has come.
enum Standing {
    In(Seat),
    AtTheDoor(OwnedSemaphorePermit),
}

/// What a session keeps: its place, and the room open.
#[derive(Debug)]
struct Seat {
    room: Visit,
    _place: Place,
}

impl Hub {
    /// Lets a link in that came another way than over the endpoint, through a broker say: it gets a session like any other,
    /// under the same limits. Where the hub has tokens, the peer shows one in its hello.
    ///
    /// # Errors
    /// When the room does not exist, has no place left or is being closed, or the token is none; the peer has been told.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the link is gone.
    pub async fn join(&self, room: &RoomName, link: Link) -> Result<(), HubError> {
        let knock = Knock { peer: link.peer().clone(), from: None };
        let standing = if self.options().tokens.is_open() {
            match self.seat(room, None).await {
                Ok(seat) => Standing::In(seat),
                Err(error) => {
                    door::refuse(link, &error).await;
                    return Err(error);
                }
            }
        } else {
            match self.strangers().clone().try_acquire_owned() {
                Ok(stranger) => Standing::AtTheDoor(stranger),
                Err(_) => {
                    door::refuse(link, &HubError::Overloaded).await;
                    return Err(HubError::Overloaded);
                }
            }
        };
        hand_over(self, room, link, &knock, standing).await
    }

    async fn seat(&self, room: &RoomName, from: Option<IpAddr>) -> Result<Seat, HubError> {
        let _place = self.places().take(room, from)?;
        Ok(Seat { room: self.rooms().existing(room).await?, _place })
    }
}

fn describe(from: Option<String>) -> Peer {
    Peer::new(format!("ws:{}", from.as_deref().unwrap_or("unknown")))
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
    if let Err(error) = hand_over(&hub, &room, link, &knock, standing).await {
        hub.rooms().teller().tell(HubEvent::Refused {
            peer: knock.peer.as_str().into(),
            room,
            why: error.message().into(),
        });
    }
}

async fn hand_over(
    hub: &Hub,
    room: &RoomName,
    link: Link,
    knock: &Knock,
    standing: Standing,
) -> Result<(), HubError> {
    let options = hub.options();
    let (link, seat) = match standing {
        Standing::In(seat) => (link, seat),
        Standing::AtTheDoor(_stranger) => {
            let wait = Duration::from_millis(options.timeouts.handshake_ms);
            let link = door::let_in(link, &options.tokens, wait).await?;
            match hub.seat(room, knock.from).await {
                Ok(seat) => (link, seat),
                Err(error) => {
                    door::refuse(link, &error).await;
                    return Err(error);
                }
            }
        }
    };
    let visit = seat.room.clone();
    let (limits, peer) = (link.limits(), link.peer().clone());
    let (sender, receiver) = link.split();
    match visit.join(Link::new(sender, Keeping::new(receiver, seat), limits, peer)).await {
        Ok(()) => Ok(()),
        Err(link) => {
            door::refuse(link, &HubError::Closing).await;
            Err(HubError::Closing)
        }
    }
}
