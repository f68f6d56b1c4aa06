//! The phases of a session, and what each message means in each of them.

use crate::close::{CloseReason, Refusal};
use crate::codec::{DecodeError, Decoded, count_of, decode};
use crate::cursor::Cursor;
use crate::event::Ask;
use crate::handshake;
use crate::inbound::Inbound;
use crate::message::{Hello, Kind, Message, Resume};
use crate::outbound::Outbound;
use crate::session::Session;
use crate::time::MonoMillis;
use crate::violation::Violation;

/// Whether this side has said who it is. It says nothing else before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnHello {
    Withheld,
    Due,
    Said,
}

/// How far the session is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The peer has not said who it is.
    Greeting,
    /// The driver judges the peer.
    Admitting { peer: Box<Hello>, asked: bool, first: Option<First> },
    /// The peer is let in here, and has not let this side in.
    Joining { halves: Box<Halves> },
    /// Both are let in.
    Open { event_due: bool, halves: Box<Halves> },
    /// The end is still to be told to the driver.
    Closing(CloseReason),
    /// The end.
    Closed,
}

/// What both sides do once the other is let in.
#[derive(Debug)]
pub(crate) struct Halves {
    pub(crate) peer: Hello,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
}

/// What a peer asks for first, which says that it lets this side in.
#[derive(Debug)]
pub(crate) enum First {
    Pull(Option<Cursor>, u64),
    Fetch(Option<Resume>, u64),
}

impl Session {
    pub(crate) fn admitted(&mut self, ask: Ask) -> Result<(), CloseReason> {
        let Phase::Admitting { peer, asked: true, first } = std::mem::replace(&mut self.phase, Phase::Closed)
        else {
            panic!("only a peer that the driver was asked about can be let in");
        };
        // A responder greets whom it lets in.
        if self.hello == OwnHello::Withheld {
            self.hello = OwnHello::Due;
        }
        let inbound = Inbound::new(&self.config, &peer, ask);
        let outbound = Outbound::new(&self.config, &peer);
        // Silence is counted from here: before, the handshake had its own time.
        self.liveness.hear(self.now);
        let mut halves = Box::new(Halves { peer: *peer, inbound, outbound });
        self.phase = match first {
            None => Phase::Joining { halves },
            Some(first) => {
                halves.first(first)?;
                Phase::Open { event_due: true, halves }
            }
        };
        Ok(())
    }

    pub(crate) fn frame(&mut self, frame: &[u8]) -> Result<(), CloseReason> {
        let (len, max) = (frame.len(), self.config.frame_max);
        if len > max {
            return Err(Violation::FrameTooLarge { len, max }.into());
        }
        self.liveness.hear(self.now);
        match decode(frame) {
            // A goodbye is sent past frames that the link did not take.
            Ok(Decoded::Message(message @ Message::Bye(_))) => self.message(message),
            Ok(Decoded::Message(message)) => {
                self.liveness.receive(count_of(frame))?;
                self.message(message)
            }
            Ok(Decoded::Newer { .. }) => Ok(self.liveness.receive(count_of(frame))?),
            Err(DecodeError::Major { major }) if matches!(self.phase, Phase::Greeting) => {
                Err(Refusal::Version { major }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a message means depends on the phase; every pair is listed.
    fn message(&mut self, message: Message<'_>) -> Result<(), CloseReason> {
        let (kind, now) = (message.kind(), self.now);
        match (&mut self.phase, message) {
            (Phase::Closing(_) | Phase::Closed, _) => unreachable!("nothing is taken in after the end"),
            (_, Message::Bye(bye)) => Err(CloseReason::Peer(bye)),
            (Phase::Greeting, Message::Hello(peer)) => self.greeted(peer),
            (
                Phase::Greeting,
                Message::Pull { .. }
                | Message::Fetch { .. }
                | Message::Changes { .. }
                | Message::Chunk { .. }
                | Message::Part { .. }
                | Message::Ack { .. }
                | Message::Behind { .. }
                | Message::Offer { .. }
                | Message::Ping { .. }
                | Message::Pong { .. },
            ) => out_of_phase(kind, "before a hello"),
            (Phase::Admitting { .. } | Phase::Joining { .. } | Phase::Open { .. }, Message::Hello(_)) => {
                out_of_phase(kind, "after a hello")
            }
            (
                Phase::Admitting { .. } | Phase::Joining { .. } | Phase::Open { .. },
                Message::Ping { nonce },
            ) => {
                self.liveness.ping(nonce);
                Ok(())
            }
            (
                Phase::Admitting { .. } | Phase::Joining { .. } | Phase::Open { .. },
                Message::Pong { nonce },
            ) => Ok(self.liveness.pong(nonce)?),
            (Phase::Admitting { .. } | Phase::Joining { .. }, Message::Pull { cursor, limit }) => {
                self.asked(First::Pull(cursor, limit))
            }
            (Phase::Admitting { .. } | Phase::Joining { .. }, Message::Fetch { resume, limit }) => {
                self.asked(First::Fetch(resume, limit))
            }
            (
                Phase::Admitting { .. } | Phase::Joining { .. },
                Message::Changes { .. }
                | Message::Chunk { .. }
                | Message::Part { .. }
                | Message::Ack { .. }
                | Message::Behind { .. }
                | Message::Offer { .. },
            ) => out_of_phase(kind, "before the peer lets this side in"),
            (Phase::Open { halves, .. }, message) => halves.message(message, now),
        }
    }

    fn greeted(&mut self, peer: Box<Hello>) -> Result<(), CloseReason> {
        handshake::check(&self.config, &peer)?;
        self.phase = Phase::Admitting { peer, asked: false, first: None };
        Ok(())
    }

    /// The peer asks for the first time: it lets this side in.
    fn asked(&mut self, asked: First) -> Result<(), CloseReason> {
        if self.hello != OwnHello::Said {
            // A side that has said nothing of itself yet cannot have been let in.
            return out_of_phase(asked.kind(), "before this side said hello");
        }
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Admitting { first: Some(_), .. } => out_of_phase(asked.kind(), "twice"),
            Phase::Admitting { peer, asked: told, first: None } => {
                self.phase = Phase::Admitting { peer, asked: told, first: Some(asked) };
                Ok(())
            }
            Phase::Joining { mut halves } => {
                halves.first(asked)?;
                self.phase = Phase::Open { event_due: true, halves };
                Ok(())
            }
            Phase::Greeting | Phase::Open { .. } | Phase::Closing(_) | Phase::Closed => {
                unreachable!("what is asked first is asked while one is let in")
            }
        }
    }
}

impl Halves {
    /// A message between sides that have let each other in.
    fn message(&mut self, message: Message<'_>, now: MonoMillis) -> Result<(), CloseReason> {
        match message {
            Message::Pull { cursor, limit } => self.outbound.pull(cursor, limit),
            Message::Fetch { resume, limit } => self.outbound.fetch(resume, limit),
            Message::Ack { items, limit } => self.outbound.ack(items, limit, now),
            Message::Changes { number, len, cursor, done, delta, payload } => {
                self.inbound.changes((number, len), cursor, (done, delta), payload, now)
            }
            Message::Chunk { number, len, index, payload } => {
                self.inbound.chunk((number, len), index, payload, now)
            }
            Message::Part { number, offset, payload } => self.inbound.part(number, offset, payload, now),
            Message::Behind { snapshot } => self.inbound.behind(snapshot),
            Message::Offer { number, len, offer, payload } => {
                self.inbound.offer((number, len), offer, payload, now)
            }
            Message::Hello(_) | Message::Bye(_) | Message::Ping { .. } | Message::Pong { .. } => {
                unreachable!("these are the session's")
            }
        }
    }

    fn first(&mut self, first: First) -> Result<(), CloseReason> {
        match first {
            First::Pull(cursor, limit) => self.outbound.pull(cursor, limit),
            First::Fetch(resume, limit) => self.outbound.fetch(resume, limit),
        }
    }
}

impl First {
    const fn kind(&self) -> Kind {
        match self {
            Self::Pull(..) => Kind::Pull,
            Self::Fetch(..) => Kind::Fetch,
        }
    }
}

fn out_of_phase(kind: Kind, during: &'static str) -> Result<(), CloseReason> {
    Err(Violation::OutOfPhase { kind, during }.into())
}
