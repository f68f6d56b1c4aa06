//! What a run is made of: how many replicas, who is linked with whom, and how much goes wrong.

use std::fmt;
use std::str::FromStr;

use opor_store::ClockPolicy;

use crate::rng::Rng;

/// Who is linked with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// The first is a hub, and all others dial it.
    Star,
    /// Each dials the next, and the last the first.
    Ring,
    /// Everybody is linked with everybody.
    Mesh,
    /// Each dials the next: those between relay.
    Chain,
}

impl Topology {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Star, Self::Ring, Self::Mesh, Self::Chain];

    /// The links between so many replicas; the first of each pair dials.
    #[must_use]
    pub fn links(self, replicas: usize) -> Vec<(usize, usize)> {
        let chain = (1..replicas).map(|to| (to - 1, to));
        match self {
            Self::Star => (1..replicas).map(|leaf| (leaf, 0)).collect(),
            Self::Chain => chain.collect(),
            // Two replicas in a ring would be linked twice, which is a chain with a spare.
            Self::Ring => chain.chain((replicas > 2).then_some((replicas - 1, 0))).collect(),
            Self::Mesh => {
                let from = |to| (0..to).map(move |from| (from, to));
                (1..replicas).flat_map(from).collect()
            }
        }
    }
}

/// What clocks the replicas keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// All keep hybrid clocks.
    Hybrid,
    /// All count edits.
    Counted,
    /// They take turns.
    Mixed,
}

impl Clocks {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hybrid, Self::Counted, Self::Mixed];

    pub(crate) const fn of(self, replica: usize) -> ClockPolicy {
        match self {
            Self::Hybrid => ClockPolicy::Hlc,
            Self::Counted => ClockPolicy::Lamport,
            Self::Mixed if replica.is_multiple_of(2) => ClockPolicy::Hlc,
            Self::Mixed => ClockPolicy::Lamport,
        }
    }
}

/// How often each kind of fault is planned, in thousandths of the steps. The rest of the steps are writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A link is cut, which both ends notice.
    pub cut: u64,
    /// The links between two groups of replicas are cut.
    pub partition: u64,
    /// A link swallows every frame, and nobody is told.
    pub mute: u64,
    /// A replica does nothing for a while.
    pub hang: u64,
    /// A replica loses what is not durable, and is started again later.
    pub crash: u64,
    /// A wall clock steps, forwards or backwards, by up to minutes.
    pub skew: u64,
    /// A frame is lost.
    pub drop: u64,
    /// A frame arrives twice.
    pub duplicate: u64,
    /// Two frames change places.
    pub swap: u64,
    /// A replica drops tombstones, acknowledged ones or all.
    pub compact: u64,
    /// A replica merges a snapshot of a neighbour, past all links.
    pub snapshot: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        cut: 0,
        partition: 0,
        mute: 0,
        hang: 0,
        crash: 0,
        skew: 0,
        drop: 0,
        duplicate: 0,
        swap: 0,
        compact: 0,
        snapshot: 0,
    };
    /// Everything goes wrong, about once in five steps.
    pub const ALL: Self = Self {
        cut: 30,
        partition: 8,
        mute: 12,
        hang: 12,
        crash: 30,
        skew: 15,
        drop: 10,
        duplicate: 10,
        swap: 10,
        compact: 25,
        snapshot: 4,
    };

    const NAMES: [&'static str; 11] = [
        "cut",
        "partition",
        "mute",
        "hang",
        "crash",
        "skew",
        "drop",
        "duplicate",
        "swap",
        "compact",
        "snapshot",
    ];

    pub(crate) const fn rates(&self) -> [u64; 11] {
        let Self { cut, partition, mute, hang, crash, skew, drop, duplicate, swap, compact, snapshot } =
            *self;
        [cut, partition, mute, hang, crash, skew, drop, duplicate, swap, compact, snapshot]
    }

    const fn rates_mut(&mut self) -> [&mut u64; 11] {
        let Self { cut, partition, mute, hang, crash, skew, drop, duplicate, swap, compact, snapshot } = self;
        [cut, partition, mute, hang, crash, skew, drop, duplicate, swap, compact, snapshot]
    }
}

/// A run, but for its schema. The same plan makes the same steps, and the same steps the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What everything that is left to chance follows from.
    pub seed: u64,
    /// Who is linked with whom.
    pub topology: Topology,
    /// How many replicas there are, 2 to [`Plan::REPLICAS_MAX`].
    pub replicas: usize,
    /// What clocks they keep.
    pub clocks: Clocks,
    /// How many steps are planned.
    pub steps: usize,
    /// How many changes travel at once. With [`Plan::WHOLE`] or more every changeset is all that there is, so that whole
    /// transactions arrive; that is then checked at every moment.
    pub changes_max: usize,
    /// Whether sessions give and take snapshots.
    pub snapshots: bool,
    /// How many links, the last ones, are not there at first: those at their ends have not met when they drop deletes. Only
    /// where there are snapshots; a log alone does not tell a stranger of deletes that are gone.
    pub late: usize,
    /// The longest time that a frame is on its way, in milliseconds.
    pub delay_ms: u64,
    /// The longest time that a store takes for anything, in milliseconds.
    pub work_ms: u64,
    /// How much goes wrong.
    pub faults: Faults,
}

impl Plan {
    /// As many replicas as a plan can have.
    pub const REPLICAS_MAX: usize = 8;
    /// No run has so many changes.
    pub const WHOLE: usize = 1_000_000;

    /// A plan whose every choice follows from the seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::at(seed, &[0x91a7]);
        let topology = Topology::ALL[rng.below(4) as usize];
        let clocks = Clocks::ALL[[0, 0, 0, 1, 2][rng.below(5) as usize]];
        // Most runs are small: what two or three replicas can get wrong is found soonest there.
        let replicas = [2, 3, 3, 4, 4, 5, 6, 8][rng.below(8) as usize];
        let changes_max = if rng.chance(500) { Self::WHOLE } else { 1 + rng.below(40) as usize };
        let mut faults = Faults::ALL;
        for rate in faults.rates_mut() {
            *rate = match rng.below(4) {
                0 => 0,
                1 => *rate * 2,
                _ => *rate,
            };
        }
        let mut plan = Self {
            seed,
            topology,
            replicas,
            clocks,
            steps: 60 + rng.below(240) as usize,
            changes_max,
            snapshots: rng.chance(900),
            late: 0,
            delay_ms: 1 + rng.below(200),
            work_ms: 1 + rng.below(60),
            faults,
        };
        if plan.snapshots && rng.chance(250) {
            plan.late = 1 + rng.below(plan.links().len() as u64) as usize;
        }
        plan
    }

    /// The links that are not there at first.
    pub(crate) fn late_links(&self) -> std::ops::Range<usize> {
        let (links, late) = (self.links().len(), if self.snapshots { self.late } else { 0 });
        links.saturating_sub(late)..links
    }

    /// Whether every changeset is a consistent state of its sender.
    pub(crate) const fn is_whole(&self) -> bool {
        self.changes_max >= Self::WHOLE
    }

    pub(crate) fn links(&self) -> Vec<(usize, usize)> {
        self.topology.links(self.replicas)
    }
}

/// Text that is not a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field:?} is not part of a plan")]
pub struct PlanError {
    /// The words at fault.
    pub(crate) field: String,
}

/// Words like `seed=7`, which [`Plan::from_str`] reads.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, replicas, steps, changes_max, snapshots, late, delay_ms, work_ms, .. } = self;
        let (topology, clocks) = (format!("{:?}", self.topology), format!("{:?}", self.clocks));
        write!(
            f,
            "seed={seed} topology={} replicas={replicas} clocks={} steps={steps} changes_max={changes_max} \
             snapshots={snapshots} late={late} delay_ms={delay_ms} work_ms={work_ms}",
            topology.to_lowercase(),
            clocks.to_lowercase(),
        )?;
        for (name, rate) in Faults::NAMES.iter().zip(self.faults.rates()) {
            write!(f, " {name}={rate}")?;
        }
        Ok(())
    }
}

impl FromStr for Topology {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let named = |of: &Self| format!("{of:?}").eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or_else(|| PlanError { field: text.to_owned() })
    }
}

impl FromStr for Clocks {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let named = |of: &Self| format!("{of:?}").eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or_else(|| PlanError { field: text.to_owned() })
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let mut plan = Self { late: 0, ..Self::from_seed(0) };
        for field in text.split_whitespace() {
            plan.set(field).ok_or_else(|| PlanError { field: field.to_owned() })?;
        }
        Ok(plan)
    }
}

impl Plan {
    fn set(&mut self, field: &str) -> Option<()> {
        let (name, value) = field.split_once('=')?;
        let number = || value.parse::<u64>().ok();
        match name {
            "seed" => self.seed = number()?,
            "topology" => self.topology = value.parse().ok()?,
            "replicas" => {
                self.replicas =
                    value.parse().ok().filter(|count| (2..=Self::REPLICAS_MAX).contains(count))?;
            }
            "clocks" => self.clocks = value.parse().ok()?,
            "steps" => self.steps = value.parse().ok()?,
            "changes_max" => self.changes_max = value.parse().ok().filter(|max| *max > 0)?,
            "snapshots" => self.snapshots = value.parse().ok()?,
            "late" => self.late = value.parse().ok()?,
            "delay_ms" => self.delay_ms = number()?,
            "work_ms" => self.work_ms = number()?,
            _ => {
                let index = Faults::NAMES.iter().position(|of| *of == name)?;
                *self.faults.rates_mut()[index] = number()?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_as_the_shape_says() {
        assert_eq!(Topology::Star.links(4), [(1, 0), (2, 0), (3, 0)]);
        assert_eq!(Topology::Chain.links(4), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(Topology::Ring.links(3), [(0, 1), (1, 2), (2, 0)]);
        assert_eq!(Topology::Ring.links(2), [(0, 1)]);
        assert_eq!(Topology::Mesh.links(3), [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        for seed in 0..200 {
            let plan = Plan::from_seed(seed);
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn what_is_no_plan_is_named() {
        for bad in ["seed", "seed=x", "replicas=1", "replicas=9", "topology=tree", "luck=3", "changes_max=0"]
        {
            assert_eq!(bad.parse::<Plan>(), Err(PlanError { field: bad.to_owned() }));
        }
    }
}
