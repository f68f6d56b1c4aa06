//! What a link holds at most.

use opor_transport_traits::LinkLimits;

/// What errors begin with.
pub(crate) const NAME: &str = "http";

/// The bytes of the largest frame: four of the protocol's own, and little enough to hold twice for each link.
pub const FRAME_MAX: usize = 256 * 1024;

/// What either end of a link holds for one direction: frames that the peer has not confirmed, or that have not been
/// received. It bounds what one round trip carries.
pub(crate) const WINDOW: usize = 1024 * 1024;

/// The largest batch, on the wire and decompressed. It is what one request costs while it is read.
pub(crate) const BATCH_MAX: usize = 512 * 1024;

/// What the batch of one event holds, unless a single frame is larger: text streams are handed on in small pieces.
pub(crate) const EVENT_BATCH: usize = 64 * 1024;

/// The longest line of an event stream: the largest frame alone in a batch, in base64, and some room.
pub(crate) const LINE_MAX: usize = (FRAME_MAX + 64) / 3 * 4 + 256;

/// Both windows, and a frame at the hands of either end.
pub(crate) const LIMITS: LinkLimits = LinkLimits::new(FRAME_MAX, 2 * (WINDOW + LinkLimits::cost(FRAME_MAX)));
