//! A link between two replicas: two halves, what they take, and who is at the other end.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::close::CloseReason;
use crate::error::TransportError;
use crate::peer::Peer;

/// The sending half of a link. The [`contract`](crate::contract) says what it promises.
///
/// Dropping it without a close ends the link, as a crash would.
#[async_trait]
pub trait Sender: fmt::Debug + Send {
    /// Takes a frame over. When it returns, the frame is on its way: no other call is needed to move it. That says
    /// nothing about its arrival; who needs to know lets the peer answer.
    ///
    /// Waits while as much is on its way as the link holds, which may be until the peer receives.
    ///
    /// # Errors
    /// - `FrameTooLarge`: nothing was sent, and the link goes on.
    /// - `Closed`: the link has been closed, here or by the peer. Nothing was sent.
    /// - `Lost`: the link is lost; whether this frame arrived is not known.
    ///
    /// # Cancel safety
    /// Whole or nothing: when the future is dropped before it is done, the peer gets the frame whole, in its place and
    /// once, or never. Which of the two is not known.
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError>;

    /// Closes the link in order, in both directions: no frame follows from here, and the peer learns why. When it
    /// returns, both halves may be dropped and everything sent before still arrives, as long as this process and its
    /// runtime go on. To be sure of that, receive until [`Received::Closed`], which is the peer's answer.
    ///
    /// Waits as [`send`](Self::send) does. On a link that is closed already it does nothing.
    ///
    /// # Errors
    /// `Lost`, when the link is lost.
    ///
    /// # Cancel safety
    /// Either the link is closed or nothing has happened. Call it again to be sure: the first reason stands.
    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError>;
}

/// The receiving half of a link. The [`contract`](crate::contract) says what it promises.
///
/// Dropping it before the link has ended or been closed from here ends the link, as a crash would.
#[async_trait]
pub trait Receiver: fmt::Debug + Send {
    /// The next frame, or the end of the link. Waits until there is one.
    ///
    /// # Errors
    /// - `Lost`: the link ended without a close.
    /// - `Incompatible`: the peer broke the rules of the transport, and the link is lost.
    ///
    /// # Cancel safety
    /// Safe: what has not been returned, a later call returns.
    async fn recv(&mut self) -> Result<Received, TransportError>;
}

/// For those who put something around the half of another transport: a meter, a fault.
#[async_trait]
impl<S: Sender + ?Sized> Sender for Box<S> {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        (**self).send(frame).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        (**self).close(reason).await
    }
}

/// As for [`Sender`].
#[async_trait]
impl<R: Receiver + ?Sized> Receiver for Box<R> {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        (**self).recv().await
    }
}

/// What [`Receiver::recv`] brings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Received {
    /// A frame, as it was sent.
    Frame(Bytes),
    /// The end: the peer closed the link with this reason, or it answers our close with ours. Nothing follows.
    Closed(CloseReason),
}

/// How large a frame may be, and how much may be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    frame_max: usize,
    in_flight_max: usize,
}

impl LinkLimits {
    /// The least that every link takes as one frame: whoever cuts data to this size can use any transport.
    pub const FRAME_MAX_LEAST: usize = 64 * 1024;

    /// What a frame costs beside its bytes when it is queued: the handle on them.
    pub const FRAME_COST: usize = size_of::<Bytes>();

    /// The most that a link may have on its way: what both ends of a TCP connection buffer at most by default, and some
    /// large frames. A peer that stalls costs no more than that.
    pub const IN_FLIGHT_CEILING: usize = 64 * 1024 * 1024;

    /// The limits of a link: the bytes of the largest frame that may be sent from this end, and the most that may be on
    /// its way from here. That counts each frame with its bytes and [`FRAME_COST`](Self::FRAME_COST), wherever it is
    /// between the `send` that took it and the `recv` that returns it.
    ///
    /// # Panics
    /// When `frame_max` is less than [`FRAME_MAX_LEAST`](Self::FRAME_MAX_LEAST), or `in_flight_max` is more than
    /// [`IN_FLIGHT_CEILING`](Self::IN_FLIGHT_CEILING) or has no room for the largest frame.
    #[must_use]
    pub const fn new(frame_max: usize, in_flight_max: usize) -> Self {
        assert!(frame_max >= Self::FRAME_MAX_LEAST, "a link takes frames of 64 KiB at least");
        assert!(in_flight_max <= Self::IN_FLIGHT_CEILING, "a link holds 64 MiB at most");
        assert!(in_flight_max >= frame_max + Self::FRAME_COST, "a link has room for its largest frame");
        Self { frame_max, in_flight_max }
    }

    /// The bytes of the largest frame that may be sent from this end.
    #[must_use]
    pub const fn frame_max(self) -> usize {
        self.frame_max
    }

    /// The most that may be on its way from this end.
    #[must_use]
    pub const fn in_flight_max(self) -> usize {
        self.in_flight_max
    }

    /// What a frame of `len` bytes counts against [`in_flight_max`](Self::in_flight_max).
    #[must_use]
    pub const fn cost(len: usize) -> usize {
        len.saturating_add(Self::FRAME_COST)
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    sender: Box<dyn Sender>,
    receiver: Box<dyn Receiver>,
    limits: LinkLimits,
    peer: Peer,
}

impl Link {
    /// Puts the halves together: for those who write a transport.
    #[must_use]
    pub fn new(
        sender: impl Sender + 'static,
        receiver: impl Receiver + 'static,
        limits: LinkLimits,
        peer: Peer,
    ) -> Self {
        Self { sender: Box::new(sender), receiver: Box::new(receiver), limits, peer }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What may be sent from this end.
    #[must_use]
    pub fn limits(&self) -> LinkLimits {
        self.limits
    }

    /// The halves, to be used side by side: a task that waits to send must not keep another from receiving.
    #[must_use]
    pub fn split(self) -> (Box<dyn Sender>, Box<dyn Receiver>) {
        (self.sender, self.receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_keep_what_they_are_told() {
        let limits = LinkLimits::new(LinkLimits::FRAME_MAX_LEAST, LinkLimits::IN_FLIGHT_CEILING);
        assert_eq!((limits.frame_max(), limits.in_flight_max()), (65_536, 67_108_864));
        assert_eq!(LinkLimits::cost(0), LinkLimits::FRAME_COST);
    }

    #[test]
    #[should_panic = "64 KiB at least"]
    fn a_link_for_tiny_frames_is_a_mistake() {
        let _ = LinkLimits::new(LinkLimits::FRAME_MAX_LEAST - 1, LinkLimits::IN_FLIGHT_CEILING);
    }

    #[test]
    #[should_panic = "64 MiB at most"]
    fn a_link_without_a_bound_is_a_mistake() {
        let _ = LinkLimits::new(LinkLimits::FRAME_MAX_LEAST, LinkLimits::IN_FLIGHT_CEILING + 1);
    }

    #[test]
    #[should_panic = "room for its largest frame"]
    fn a_link_holds_the_largest_frame() {
        let _ = LinkLimits::new(LinkLimits::FRAME_MAX_LEAST, LinkLimits::FRAME_MAX_LEAST);
    }
}
