//! The steps of a plan, all of them chosen before the run begins.

use crate::event::{Event, Step};
use crate::plan::Plan;
use crate::rng::Rng;

/// Clocks are off by up to so much: four minutes, four times what stores put up with.
const SKEW_MS_MAX: u64 = 240_000;
/// A hang is long enough for some sessions to give up, and short enough for others to live on.
const HANG_MS_MAX: u64 = 20_000;
/// A crash comes within so many effects; a merge and what follows from it takes four.
const EFFECTS_MAX: u64 = 12;

/// What is out of order, so that it can be put in order again.
struct Planner<'p> {
    plan: &'p Plan,
    rng: Rng,
    links: u64,
    down: Vec<u64>,
    crashed: Vec<usize>,
    parted: bool,
}

impl Plan {
    /// The steps: writes, and faults as often as the plan says; what breaks is mostly mended some steps later.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let rng = Rng::at(self.seed, &[0x57e9]);
        let links = self.links().len() as u64;
        let down = self.late_links().map(|link| link as u64).collect();
        let mut planner = Planner { plan: self, rng, links, down, crashed: Vec::new(), parted: false };
        (0..self.steps).map(|_| planner.step()).collect()
    }
}

impl Planner<'_> {
    fn step(&mut self) -> Step {
        let after_ms = match self.rng.below(10) {
            0..4 => self.rng.below(20),
            4..9 => self.rng.below(400),
            _ => self.rng.below(4_000),
        };
        Step { after_ms, event: self.event() }
    }

    fn event(&mut self) -> Event {
        if let Some(mended) = self.mend() {
            return mended;
        }
        let mut lot = self.rng.below(1_000);
        for (kind, rate) in self.plan.faults.rates().into_iter().enumerate() {
            if lot < rate {
                return self.fault(kind);
            }
            lot -= rate;
        }
        let replica = self.replica();
        Event::Write { replica, seed: self.rng.bits() >> 1 }
    }

    fn mend(&mut self) -> Option<Event> {
        if !self.down.is_empty() && self.rng.chance(150) {
            let at = self.rng.below(self.down.len() as u64) as usize;
            return Some(Event::Heal { link: self.down.swap_remove(at) as usize });
        }
        if !self.crashed.is_empty() && self.rng.chance(200) {
            let at = self.rng.below(self.crashed.len() as u64) as usize;
            return Some(Event::Restart { replica: self.crashed.swap_remove(at) });
        }
        if self.parted && self.rng.chance(80) {
            self.parted = false;
            return Some(Event::Join);
        }
        None
    }

    fn fault(&mut self, kind: usize) -> Event {
        let (replica, link) = (self.replica(), self.rng.below(self.links));
        let (side, at) = (self.rng.below(2) as usize, link as usize);
        match kind {
            0 => {
                self.down.push(link);
                Event::Cut { link: at }
            }
            1 => {
                self.parted = true;
                Event::Partition { mask: self.rng.below(1 << self.plan.replicas) }
            }
            2 => {
                self.down.push(link);
                Event::Mute { link: at }
            }
            3 => Event::Hang { replica, millis: self.rng.below(HANG_MS_MAX) },
            4 => {
                self.crashed.push(replica);
                Event::Crash { replica, effects: self.rng.below(EFFECTS_MAX) }
            }
            5 => {
                let millis = self.rng.below(2 * SKEW_MS_MAX).cast_signed() - SKEW_MS_MAX.cast_signed();
                // Half of the clocks are off by no more than is put up with.
                Event::Skew { replica, millis: if self.rng.chance(500) { millis / 9 } else { millis } }
            }
            6 => Event::Drop { link: at, side },
            7 => Event::Duplicate { link: at, side },
            8 => Event::Swap { link: at, side },
            9 if self.plan.snapshots && self.rng.chance(400) => Event::Forget { replica },
            9 => Event::Compact { replica },
            _ => Event::Snapshot { link: at, side },
        }
    }

    fn replica(&mut self) -> usize {
        self.rng.below(self.plan.replicas as u64) as usize
    }
}
