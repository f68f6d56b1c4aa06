//! How the peers of the lab reach the hub: asked to push and pull, or linked all the time.

use std::net::SocketAddr;

#[cfg(feature = "nats")]
use anyhow::Context;
use clap::ValueEnum;
#[cfg(feature = "nats")]
use opor_transport_nats::{NatsDialer, NatsOptions};
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
    /// Over a NATS broker, as they happen.
    #[cfg(feature = "nats")]
    Nats,
}

impl Transport {
    /// Reaches the room of the lab; none where peers push and pull instead. Another transport is a variant and a line
    /// here.
    pub(crate) fn dialer(
        self,
        hub: SocketAddr,
        broker: Option<&str>,
    ) -> anyhow::Result<Option<Box<dyn Dialer>>> {
        #[cfg(not(feature = "nats"))]
        let _none = broker;
        match self {
            Self::Http => Ok(None),
            #[cfg(feature = "nats")]
            Self::Nats => {
                let broker = broker.context("the lab has no broker")?;
                Ok(Some(Box::new(NatsDialer::new(broker, NatsOptions::new())?)))
            }
            Self::Ws => Ok(Some(Box::new(WebSocketDialer::new(&format!("ws://{hub}/sync/{ROOM}"))?))),
        }
    }

    /// Whether peers are linked, and edits travel by themselves.
    pub(crate) const fn is_live(self) -> bool {
        !matches!(self, Self::Http)
    }
}
