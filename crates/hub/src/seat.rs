//! A place in a room: who knocks, how far they have come, and the way of their link to the room, whatever carries it.

use std::net::IpAddr;
use std::time::Duration;

use opor_transport_traits::{Link, Peer};
use tokio::sync::OwnedSemaphorePermit;

use crate::access::Access;
use crate::connection::Connection;
use crate::door::{self, Keeping};
use crate::event::HubEvent;
use crate::hub::Hub;
use crate::places::Place;
use crate::rooms::Visit;
use crate::{HubError, RoomName};

/// Who comes.
#[derive(Clone, Debug)]
pub(crate) struct Knock {
    pub(crate) peer: Peer,
    pub(crate) from: Option<IpAddr>,
}

impl Knock {
    /// Who comes over a connection; of one that somebody else accepted nothing is known.
    pub(crate) fn new(over: &str, connection: Option<&Connection>) -> Self {
        let from = connection.map(|connection| connection.peer);
        let shown = from.map(|from| from.to_string());
        Self {
            peer: Peer::new(format!("{over}:{}", shown.as_deref().unwrap_or("unknown"))),
            from: from.map(|from| from.ip()),
        }
    }
}

/// How far a peer has come.
#[derive(Debug)]
pub(crate) enum Standing {
    In(Seat),
    AtTheDoor(OwnedSemaphorePermit),
}

/// What a session keeps: its place, and the room open.
#[derive(Debug)]
pub(crate) struct Seat {
    room: Visit,
    _place: Place,
}

impl Hub {
    /// Lets a link in that came another way than over the endpoints, through a broker say: it gets a session like any other,
    /// under the same limits. Where the hub has tokens, the peer shows one in its hello.
    ///
    /// # Errors
    /// When the room does not exist, has no place left or is being closed, or the token is none; the peer has been told.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the link is gone.
    pub async fn join(&self, room: &RoomName, link: Link) -> Result<(), HubError> {
        let knock = Knock { peer: link.peer().clone(), from: None };
        let access = if self.options().tokens.is_open() { Access::Granted } else { Access::Due };
        match self.admit(room, access, &knock).await {
            Ok(standing) => try_hand_over(self, room, link, &knock, standing).await,
            Err(error) => {
                door::refuse(link, &error).await;
                Err(error)
            }
        }
    }

    /// Lets in who has shown a token, and the others as far as the door.
    ///
    /// # Errors
    /// Where there is no place, or no such room; for the door `Overloaded`.
    pub(crate) async fn admit(
        &self,
        room: &RoomName,
        access: Access,
        knock: &Knock,
    ) -> Result<Standing, HubError> {
        match access {
            Access::Granted => Ok(Standing::In(self.seat(room, knock.from).await?)),
            Access::Due => {
                let place = self.strangers().clone().try_acquire_owned();
                Ok(Standing::AtTheDoor(place.map_err(|_| HubError::Overloaded)?))
            }
        }
    }

    async fn seat(&self, room: &RoomName, from: Option<IpAddr>) -> Result<Seat, HubError> {
        if self.rooms().are_dismissed() {
            return Err(HubError::Closing);
        }
        let _place = self.places().take(room, from)?;
        let room = self.rooms().existing(room).await?;
        // It was opened while everybody was sent home.
        if self.rooms().are_dismissed() { Err(HubError::Closing) } else { Ok(Seat { room, _place }) }
    }
}

/// Hands a link to its room; tells who listens to the hub when that is refused.
pub(crate) async fn hand_over(hub: &Hub, room: &RoomName, link: Link, knock: &Knock, standing: Standing) {
    if let Err(error) = try_hand_over(hub, room, link, knock, standing).await {
        hub.rooms().teller().tell(HubEvent::Refused {
            peer: knock.peer.as_str().into(),
            room: room.clone(),
            why: error.message().into(),
        });
    }
}

async fn try_hand_over(
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
