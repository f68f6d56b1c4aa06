//! What happens in a run, as a list that can be printed, read again, and made shorter.
//!
//! Every event holds all it needs. So an event means the same when others are taken out of the list.

use std::fmt;
use std::str::FromStr;

/// Something that is done to the replicas and their links. One that makes no sense when its turn comes, such as a restart
/// of a replica that runs, does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The application runs a transaction; the seed says which.
    Write {
        /// Where.
        replica: usize,
        /// What.
        seed: u64,
    },
    /// A link is lost, which both ends notice. It stays down.
    Cut {
        /// Which.
        link: usize,
    },
    /// A link is cut no more, and carries frames again.
    Heal {
        /// Which.
        link: usize,
    },
    /// All links are cut between the replicas whose bit is set and the others.
    Partition {
        /// The bits.
        mask: u64,
    },
    /// All links are cut no more.
    Join,
    /// A link takes frames and brings none, until it heals.
    Mute {
        /// Which.
        link: usize,
    },
    /// A replica does nothing for a while; then it does what it missed.
    Hang {
        /// Which.
        replica: usize,
        /// How long.
        millis: u64,
    },
    /// A replica goes on for so many effects, and then loses all that is not durable.
    Crash {
        /// Which.
        replica: usize,
        /// An effect is a transaction of the store, an answer of it that the session hears, a frame that is sent.
        effects: u64,
    },
    /// A replica that crashed is started again, with what its database holds.
    Restart {
        /// Which.
        replica: usize,
    },
    /// A wall clock is set to so much ahead of the true time, or behind it.
    Skew {
        /// Whose.
        replica: usize,
        /// How much.
        millis: i64,
    },
    /// The next frame to an end of a link is lost.
    Drop {
        /// Which link.
        link: usize,
        /// Which end: 0 is the one that dials.
        side: usize,
    },
    /// The next frame to an end of a link arrives twice.
    Duplicate {
        /// Which link.
        link: usize,
        /// Which end.
        side: usize,
    },
    /// The next frame that is sent to an end while another is on its way overtakes that.
    Swap {
        /// Which link.
        link: usize,
        /// Which end.
        side: usize,
    },
    /// A replica drops the tombstones that all its neighbours have acknowledged.
    Compact {
        /// Which.
        replica: usize,
    },
    /// A replica drops all tombstones, whoever has acknowledged them.
    Forget {
        /// Which.
        replica: usize,
    },
    /// A snapshot of the other end is merged at this end of a link, as if somebody had carried it there.
    Snapshot {
        /// Which link.
        link: usize,
        /// Which end.
        side: usize,
    },
}

/// An event, and how much time passes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// So many milliseconds after the one before.
    pub after_ms: u64,
    /// The event.
    pub event: Event,
}

/// Text that is not a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a step")]
pub struct StepError {
    text: String,
}

impl Event {
    /// Its name, as it is counted.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Cut { .. } => "cut",
            Self::Heal { .. } => "heal",
            Self::Partition { .. } => "partition",
            Self::Join => "join",
            Self::Mute { .. } => "mute",
            Self::Hang { .. } => "hang",
            Self::Crash { .. } => "crash",
            Self::Restart { .. } => "restart",
            Self::Skew { .. } => "skew",
            Self::Drop { .. } => "drop",
            Self::Duplicate { .. } => "duplicate",
            Self::Swap { .. } => "swap",
            Self::Compact { .. } => "compact",
            Self::Forget { .. } => "forget",
            Self::Snapshot { .. } => "snapshot",
        }
    }
}

/// Such as `+120 crash 3 7`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} {}", self.after_ms, self.event.name())?;
        match self.event {
            Event::Write { replica, seed } => write!(f, " {replica} {seed}"),
            Event::Cut { link } | Event::Heal { link } | Event::Mute { link } => write!(f, " {link}"),
            Event::Partition { mask } => write!(f, " {mask}"),
            Event::Join => Ok(()),
            Event::Hang { replica, millis } => write!(f, " {replica} {millis}"),
            Event::Crash { replica, effects } => write!(f, " {replica} {effects}"),
            Event::Skew { replica, millis } => write!(f, " {replica} {millis}"),
            Event::Restart { replica } | Event::Compact { replica } | Event::Forget { replica } => {
                write!(f, " {replica}")
            }
            Event::Drop { link, side }
            | Event::Duplicate { link, side }
            | Event::Swap { link, side }
            | Event::Snapshot { link, side } => write!(f, " {link} {side}"),
        }
    }
}

impl FromStr for Step {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Self, StepError> {
        parse(text).ok_or_else(|| StepError { text: text.chars().take(80).collect() })
    }
}

fn parse(text: &str) -> Option<Step> {
    let mut words = text.split_whitespace();
    let after_ms = words.next()?.strip_prefix('+')?.parse().ok()?;
    let name = words.next()?;
    let numbers = words.map(str::parse).collect::<Result<Vec<i128>, _>>().ok()?;
    let event = event(name, &numbers)?;
    Some(Step { after_ms, event })
}

fn event(name: &str, numbers: &[i128]) -> Option<Event> {
    let index = |at: usize| numbers.get(at).copied().and_then(|number| usize::try_from(number).ok());
    let number = |at: usize| numbers.get(at).copied().and_then(|number| u64::try_from(number).ok());
    let side = || index(1).filter(|side| *side < 2);
    let (count, event) = match name {
        "write" => (2, Event::Write { replica: index(0)?, seed: number(1)? }),
        "cut" => (1, Event::Cut { link: index(0)? }),
        "heal" => (1, Event::Heal { link: index(0)? }),
        "partition" => (1, Event::Partition { mask: number(0)? }),
        "join" => (0, Event::Join),
        "mute" => (1, Event::Mute { link: index(0)? }),
        "hang" => (2, Event::Hang { replica: index(0)?, millis: number(1)? }),
        "crash" => (2, Event::Crash { replica: index(0)?, effects: number(1)? }),
        "restart" => (1, Event::Restart { replica: index(0)? }),
        "skew" => (2, Event::Skew { replica: index(0)?, millis: numbers.get(1).copied()?.try_into().ok()? }),
        "drop" => (2, Event::Drop { link: index(0)?, side: side()? }),
        "duplicate" => (2, Event::Duplicate { link: index(0)?, side: side()? }),
        "swap" => (2, Event::Swap { link: index(0)?, side: side()? }),
        "compact" => (1, Event::Compact { replica: index(0)? }),
        "forget" => (1, Event::Forget { replica: index(0)? }),
        "snapshot" => (2, Event::Snapshot { link: index(0)?, side: side()? }),
        _ => return None,
    };
    (numbers.len() == count).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn steps_are_read_as_they_were_written() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..50 {
            for step in Plan::from_seed(seed).steps() {
                assert_eq!(step.to_string().parse(), Ok(step));
                kinds.insert(step.event.name());
            }
        }
        assert_eq!(kinds.len(), 16, "{kinds:?}");
    }

    #[test]
    fn what_is_no_step_is_named() {
        for bad in ["", "write 1 2", "+1 write 1", "+1 write 1 2 3", "+x join", "+1 dance", "+1 drop 0 2"] {
            assert_eq!(bad.parse::<Step>(), Err(StepError { text: bad.to_owned() }));
        }
    }
}
