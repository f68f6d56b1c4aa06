//! Who is let in: the checks on a hello, before the driver has its say.

use crate::close::{CloseReason, Refusal};
use crate::config::Config;
use crate::message::{Capabilities, Hello, MAJOR, Message};

/// What this side says of itself to be let into a room.
pub(crate) fn hello(config: &Config, room: &str, count: u8) -> Vec<u8> {
    let hello = Hello {
        newest_major: MAJOR,
        site: config.site,
        room: room.to_owned(),
        token: config.token.clone(),
        schema: config.schema.clone(),
        capabilities: config.capabilities,
        frame_max: config.frame_max as u64,
        item_max: config.item_max as u64,
    };
    Message::Hello(Box::new(hello)).to_bytes(count)
}

/// Whether a peer could be let in, as far as can be told without the driver.
pub(crate) fn check(config: &Config, peer: &Hello) -> Result<(), CloseReason> {
    if peer.site == config.site {
        return Err(Refusal::OwnSite { site: peer.site }.into());
    }
    if config.room.as_ref().is_some_and(|room| *room != peer.room) {
        return Err(Refusal::Room.into());
    }
    if !config.capabilities.common(peer.capabilities).has(Capabilities::BINARY) {
        return Err(Refusal::Encoding.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use opor_core::SiteId;

    use super::*;
    use crate::message::Token;

    const OWN: [u8; 16] = [1; 16];

    #[track_caller]
    fn check_hello(change: impl FnOnce(&mut Hello), expected: Result<(), Refusal>) {
        let mut peer = Hello {
            newest_major: MAJOR,
            site: SiteId::from([2; 16]),
            room: "todos".into(),
            token: Token::default(),
            schema: Vec::new(),
            capabilities: Capabilities::BINARY,
            frame_max: 1 << 16,
            item_max: 1 << 20,
        };
        change(&mut peer);
        let config = Config::new(SiteId::from(OWN), "todos");
        assert_eq!(check(&config, &peer), expected.map_err(CloseReason::Refused));
    }

    #[test]
    fn a_peer_has_to_fit() {
        check_hello(|_| {}, Ok(()));
        check_hello(|peer| peer.newest_major = 9, Ok(()));
        check_hello(|peer| peer.site = OWN.into(), Err(Refusal::OwnSite { site: OWN.into() }));
        check_hello(|peer| peer.room = "other".into(), Err(Refusal::Room));
        check_hello(|peer| peer.capabilities = Capabilities::ZSTD, Err(Refusal::Encoding));
        check_hello(|peer| peer.capabilities = Capabilities(u64::MAX), Ok(()));
    }

    #[test]
    fn a_responder_without_a_room_takes_any() {
        let config = Config::responder(SiteId::from(OWN));
        let frame = hello(&Config::new(SiteId::from([2; 16]), "todos"), "todos", 0);
        let Ok(crate::Decoded::Message(Message::Hello(peer))) = crate::decode(&frame) else {
            panic!("{frame:?}")
        };
        assert_eq!((check(&config, &peer), &*peer.room), (Ok(()), "todos"));
    }
}
