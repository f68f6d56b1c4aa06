//! The identity of a replica.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes_text::{self, Hex};

/// The identity of a replica: 16 random bytes (a UUIDv4) in everything opor makes.
///
/// 1 to 16 bytes are accepted from outside, because cr-sqlite accepts them. Ordered bytewise, a shorter prefix first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SiteId {
    bytes: [u8; Self::LEN],
    len: u8,
}

/// Why bytes or text are not a site id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteIdError {
    /// No bytes at all.
    #[error("site id is empty")]
    Empty,
    /// More than 16 bytes.
    #[error("site id has {len} bytes, the limit is 16")]
    TooLong {
        /// How many bytes there were.
        len: usize,
    },
    /// The text is neither hex nor base64.
    #[error("site id is neither hex nor base64")]
    Text,
}

impl SiteId {
    /// The most bytes a site id can have.
    pub const LEN: usize = 16;

    /// A site id from 1 to 16 bytes.
    ///
    /// # Errors
    /// [`SiteIdError::Empty`] or [`SiteIdError::TooLong`].
    pub fn new(bytes: &[u8]) -> Result<Self, SiteIdError> {
        match bytes.len() {
            0 => Err(SiteIdError::Empty),
            len if len > Self::LEN => Err(SiteIdError::TooLong { len }),
            len => {
                let mut padded = [0; Self::LEN];
                padded[..len].copy_from_slice(bytes);
                Ok(Self { bytes: padded, len: len as u8 })
            }
        }
    }

    /// The bytes, 1 to 16 of them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// A site id from hex of either case, the form it is shown in.
    ///
    /// # Errors
    /// [`SiteIdError`].
    pub fn from_hex(text: &str) -> Result<Self, SiteIdError> {
        Self::new(&bytes_text::decode_hex(text).ok_or(SiteIdError::Text)?)
    }

    /// Base64 of the standard alphabet, padded.
    #[must_use]
    pub fn to_base64(&self) -> String {
        bytes_text::encode_base64(self.as_bytes())
    }

    /// A site id from base64 of either alphabet, padded or not.
    ///
    /// # Errors
    /// [`SiteIdError`].
    pub fn from_base64(text: &str) -> Result<Self, SiteIdError> {
        Self::new(&bytes_text::decode_base64(text).ok_or(SiteIdError::Text)?)
    }
}

/// Hex, or base64 of either alphabet, padded or not; text that is both is hex.
///
/// ```
/// use opor_core::SiteId;
///
/// let site: SiteId = "0a0b0c0d0e0f1011".parse()?;
/// assert_eq!(site.to_base64(), "CgsMDQ4PEBE=");
/// assert_eq!("CgsMDQ4PEBE".parse(), Ok(site));
/// # Ok::<(), opor_core::SiteIdError>(())
/// ```
impl FromStr for SiteId {
    type Err = SiteIdError;

    fn from_str(text: &str) -> Result<Self, SiteIdError> {
        Self::new(&bytes_text::decode(text).ok_or(SiteIdError::Text)?)
    }
}

/// Hex.
impl Serialize for SiteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Hex or base64.
impl<'de> Deserialize<'de> for SiteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl From<[u8; 16]> for SiteId {
    fn from(bytes: [u8; 16]) -> Self {
        Self { bytes, len: 16 }
    }
}

impl PartialOrd for SiteId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SiteId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// Lower-case hex.
impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteId({self})")
    }
}
