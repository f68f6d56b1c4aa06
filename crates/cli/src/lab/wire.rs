//! How the peers of the lab reach the hub: asked to push and pull, or linked all the time.

use std::net::SocketAddr;

use clap::ValueEnum;
use opor_transport_traits::Dialer;
use opor_transport_websocket::WebSocketDialer;

use super::peer::ROOM;

/// How changes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Over HTTP, when a peer is asked to push or to pull.
    #[default]
    Http,
    /// Over WebSockets, as they happen.
    Ws,
}

impl Transport {
    /// Reaches the room of the lab; none where peers push and pull instead. Another transport is a variant and a line
    /// here.
    pub(crate) fn dialer(self, hub: SocketAddr) -> anyhow::Result<Option<Box<dyn Dialer>>> {
        match self {
            Self::Http => Ok(None),
            Self::Ws => Ok(Some(Box::new(WebSocketDialer::new(&format!("ws://{hub}/sync/{ROOM}"))?))),
        }
    }

    /// Whether peers are linked, and edits travel by themselves.
    pub(crate) const fn is_live(self) -> bool {
        !matches!(self, Self::Http)
    }
}
