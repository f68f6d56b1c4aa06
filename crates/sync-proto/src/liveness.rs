//! Whether the peer is still there: pings, pongs, and the frame that the link has not taken yet.

use crate::close::Timeout;
use crate::config::Timeouts;
use crate::message::Message;
use crate::time::MonoMillis;
use crate::violation::Violation;

/// What is known of the link.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// Frames sent and received, wrapping.
    sent: u8,
    received: u8,
    heard: MonoMillis,
    /// When the last ping was due; not before something was heard.
    pinged: MonoMillis,
    ping_due: bool,
    /// Pings are numbered from 1.
    pings: u64,
    pongs: u64,
    pong_due: Option<u64>,
    /// Since when the link has not taken the last frame.
    unsent_since: Option<MonoMillis>,
}

impl Liveness {
    pub(crate) const fn new(now: MonoMillis) -> Self {
        Self {
            sent: 0,
            received: 0,
            heard: now,
            pinged: now,
            ping_due: false,
            pings: 0,
            pongs: 0,
            pong_due: None,
            unsent_since: None,
        }
    }

    pub(crate) const fn hear(&mut self, now: MonoMillis) {
        self.heard = now;
        self.ping_due = false;
    }

    /// Checks that a frame is the next one. A transport that loses, repeats or swaps frames is found out here, by the
    /// next frame, and that is a ping at the latest.
    pub(crate) const fn receive(&mut self, count: u8) -> Result<(), Violation> {
        if count != self.received {
            return Err(Violation::FrameOrder { expected: self.received, count });
        }
        self.received = count.wrapping_add(1);
        Ok(())
    }

    /// The number of the next frame to send.
    pub(crate) const fn count(&self) -> u8 {
        self.sent
    }

    /// Only the last of several pings is answered, so that many cost nothing.
    pub(crate) const fn ping(&mut self, nonce: u64) {
        self.pong_due = Some(nonce);
    }

    pub(crate) const fn pong(&mut self, nonce: u64) -> Result<(), Violation> {
        if nonce <= self.pongs || nonce > self.pings {
            return Err(Violation::Pong { nonce });
        }
        self.pongs = nonce;
        Ok(())
    }

    /// Whether the next frame may be sent.
    pub(crate) const fn is_writable(&self) -> bool {
        self.unsent_since.is_none()
    }

    pub(crate) const fn send(&mut self, now: MonoMillis) {
        self.unsent_since = Some(now);
        self.sent = self.sent.wrapping_add(1);
    }

    /// # Panics
    /// When no frame was to be sent.
    pub(crate) const fn taken(&mut self) {
        assert!(self.unsent_since.take().is_some(), "the link takes frames that were to be sent");
    }

    /// The next frame that is about the link itself.
    pub(crate) fn poll_send(&mut self) -> Option<Vec<u8>> {
        if let Some(nonce) = self.pong_due.take() {
            return Some(Message::Pong { nonce }.to_bytes(self.sent));
        }
        if std::mem::take(&mut self.ping_due) {
            self.pings += 1;
            return Some(Message::Ping { nonce: self.pings }.to_bytes(self.sent));
        }
        None
    }

    pub(crate) fn ping_at(&self, timeouts: &Timeouts) -> MonoMillis {
        self.heard.max(self.pinged) + timeouts.keepalive_ms
    }

    pub(crate) fn idle_at(&self, timeouts: &Timeouts) -> MonoMillis {
        self.heard + timeouts.idle_ms
    }

    pub(crate) fn unsent_at(&self, timeouts: &Timeouts) -> Option<MonoMillis> {
        self.unsent_since.map(|since| since + timeouts.stall_ms)
    }

    /// Asks for a ping when the peer was silent.
    ///
    /// # Errors
    /// [`Timeout::Idle`] when it was silent for too long.
    pub(crate) fn tick(&mut self, now: MonoMillis, timeouts: &Timeouts) -> Result<(), Timeout> {
        if now >= self.idle_at(timeouts) {
            return Err(Timeout::Idle { after_ms: timeouts.idle_ms });
        }
        if now >= self.ping_at(timeouts) {
            self.pinged = now;
            self.ping_due = true;
        }
        Ok(())
    }
}
