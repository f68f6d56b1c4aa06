//! Short changesets, told as a difference from the last one of the same direction.
//!
//! An edit names the same site, table and column as the edit before, and a version near its own. So most of a changeset of
//! one cell has been said.

use opor_core::{apply_delta, delta};

use crate::violation::Violation;

/// Longer changesets are told as they are, and are nothing that others differ from: there the names are a small part.
const SHORT_MAX: usize = 1 << 10;

/// The last short changeset that went, or came.
#[derive(Debug, Default)]
pub(crate) struct LastShort(Vec<u8>);

impl LastShort {
    /// What to send in place of a changeset, and whether that is a difference.
    pub(crate) fn tell(&mut self, changeset: Vec<u8>) -> (Vec<u8>, bool) {
        if !is_short(&changeset) {
            return (changeset, false);
        }
        let difference = if self.0.is_empty() { None } else { delta(&self.0, &changeset) };
        let is_delta = difference.is_some();
        let told = difference.unwrap_or_else(|| changeset.clone());
        self.0 = changeset;
        (told, is_delta)
    }

    /// The changeset that was told.
    pub(crate) fn hear(&mut self, told: Vec<u8>, is_delta: bool) -> Result<Vec<u8>, Violation> {
        let changeset = if is_delta {
            apply_delta(&self.0, &told, SHORT_MAX).map_err(|_| Violation::Difference)?
        } else {
            told
        };
        if is_short(&changeset) {
            self.0.clone_from(&changeset);
        }
        Ok(changeset)
    }
}

const fn is_short(changeset: &[u8]) -> bool {
    !changeset.is_empty() && changeset.len() <= SHORT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no compressor makes shorter, but for the last four.
    fn changeset(len: u32, edit: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        bytes.extend(edit.to_le_bytes());
        bytes
    }

    #[test]
    fn both_sides_keep_step_whatever_is_told() {
        let (mut sender, mut receiver) = (LastShort::default(), LastShort::default());
        let empty = Vec::new();
        let said = [changeset(80, 1), changeset(80, 2), changeset(4_000, 3), empty, changeset(80, 4)];
        let mut differences = Vec::new();
        for changeset in said {
            let (told, is_delta) = sender.tell(changeset.clone());
            assert!(told.len() <= changeset.len());
            differences.push(is_delta);
            assert_eq!(receiver.hear(told, is_delta), Ok(changeset));
        }
        assert_eq!(differences, [false, true, false, false, true]);
    }

    #[test]
    fn what_is_no_difference_is_refused() {
        let mut receiver = LastShort::default();
        assert_eq!(receiver.hear(vec![1, 2, 3], true), Err(Violation::Difference));
        // A difference may not come to more than a short changeset, however it is made.
        let long = delta(&[], &vec![0; SHORT_MAX + 1]).expect("zeros are short");
        assert_eq!(receiver.hear(long, true), Err(Violation::Difference));
    }
}
