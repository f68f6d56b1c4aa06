//! The name of a room, which is also the name of its file.

use std::fmt;
use std::path::{Path, PathBuf};

/// The name of a room: 1 to 64 of `A-Z a-z 0-9 _ -`, so that it can never be a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(String);

/// Why a text is not the name of a room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomNameError {
    /// Too short or too long.
    #[error("room name has {len} bytes, the limit is 1 to {}", RoomName::LEN_MAX)]
    Length {
        /// How long it is.
        len: usize,
    },
    /// A character that is not allowed.
    #[error("room name holds {character:?}; letters, digits, _ and - are allowed")]
    Character {
        /// The first one.
        character: char,
    },
}

impl RoomName {
    /// The most bytes in a name: short enough for every file system, with the suffixes SQLite adds.
    pub const LEN_MAX: usize = 64;

    /// Checks a name.
    ///
    /// # Errors
    /// [`RoomNameError`].
    pub fn new(name: &str) -> Result<Self, RoomNameError> {
        if name.is_empty() || name.len() > Self::LEN_MAX {
            return Err(RoomNameError::Length { len: name.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match name.chars().find(|c| !allowed(*c)) {
            Some(character) => Err(RoomNameError::Character { character }),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The database file of the room under a data directory.
    #[must_use]
    pub fn file_in(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!("{}.sqlite", self.0))
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(name: &str, expected: RoomNameError) {
        assert_eq!(RoomName::new(name), Err(expected), "{name:?}");
    }

    #[test]
    fn names_are_never_paths() {
        refused("", RoomNameError::Length { len: 0 });
        refused(&"a".repeat(65), RoomNameError::Length { len: 65 });
        refused("..", RoomNameError::Character { character: '.' });
        refused("a/b", RoomNameError::Character { character: '/' });
        refused("a\\b", RoomNameError::Character { character: '\\' });
        refused("a\0", RoomNameError::Character { character: '\0' });
        refused("file:a", RoomNameError::Character { character: ':' });
        refused("żubr", RoomNameError::Character { character: 'ż' });
    }

    #[test]
    fn a_name_becomes_a_file_in_the_data_directory() {
        let longest = "Aa0_-".repeat(12) + "zzzz";
        let name = RoomName::new(&longest).expect("64 allowed characters");
        assert_eq!(name.file_in(Path::new("data")), Path::new("data").join(format!("{longest}.sqlite")));
    }
}
