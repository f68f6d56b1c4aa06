//! CPU time of a piece of work, and the marker by which callgrind finds it.

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

/// Runs `work` and tells the CPU seconds, user and system, that this process spent in it. What it returns is dropped by
/// the caller, after the clock has stopped.
pub(crate) fn cpu<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let mut work = Some(work);
    let mut outcome = None;
    let seconds = opor_bench_measured(&mut || outcome = work.take().map(|work| work()));
    let outcome = outcome.expect("the marker has run the work");
    Ok((seconds, outcome?))
}

/// CPU time of a piece of work that is interrupted: by making the rows that it takes, for one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stopwatch {
    seconds: f64,
    stopped: bool,
}

impl Stopwatch {
    /// One that never runs, for work that only prepares: it is not to be counted as instructions either.
    pub(crate) fn stopped() -> Self {
        Self { stopped: true, ..Self::default() }
    }

    /// Runs `work` and adds the time it took.
    pub(crate) fn run<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.stopped {
            return work();
        }
        let (seconds, outcome) = cpu(work)?;
        self.seconds += seconds;
        Ok(outcome)
    }

    /// CPU seconds, user and system, so far.
    pub(crate) const fn seconds(self) -> f64 {
        self.seconds
    }
}

/// Counting is switched on and off by the name of this function, so it is a call of its own: never inlined, and no tail
/// call, because the clock is read after the work.
#[inline(never)]
fn opor_bench_measured(work: &mut dyn FnMut()) -> f64 {
    let started = seconds_now();
    work();
    seconds_now() - started
}

/// What reading the clock twice costs by itself; for cases that measure many short calls one by one.
pub(crate) fn overhead() -> f64 {
    median((0..1_001).map(|_| opor_bench_measured(&mut || ())).collect())
}

/// The middle value.
///
/// # Panics
/// When there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn seconds_now() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn work_takes_time_and_hands_back_its_result() {
        let (seconds, sum) = cpu(|| Ok((0..1_000_000_u64).map(std::hint::black_box).sum::<u64>())).unwrap();
        assert_eq!(sum, 499_999_500_000);
        assert!(seconds > 0.0);
    }

    #[test]
    fn a_stopwatch_adds_up_and_stands_still_between() {
        let mut watch = Stopwatch::default();
        watch
            .run(|| Ok(std::hint::black_box((0..1_000_000_u64).map(std::hint::black_box).sum::<u64>())))
            .unwrap();
        let first = watch.seconds();
        assert_eq!(cpu(|| Ok(7)).unwrap().1, 7);
        assert!(first > 0.0 && watch.seconds() == first);
        watch
            .run(|| Ok(std::hint::black_box((0..1_000_000_u64).map(std::hint::black_box).sum::<u64>())))
            .unwrap();
        assert!(watch.seconds() > first);
    }

    #[test]
    fn a_watch_that_is_stopped_stays_so() {
        let mut watch = Stopwatch::stopped();
        let sum = watch.run(|| Ok((0..1_000_000_u64).map(std::hint::black_box).sum::<u64>())).unwrap();
        assert_eq!((sum, watch.seconds()), (499_999_500_000, 0.0));
    }

    #[test]
    fn a_failure_of_the_work_is_the_failure_of_the_measurement() {
        let error = cpu(|| anyhow::bail!("no such table")).map(|(_, ())| ()).unwrap_err();
        assert_eq!(error.to_string(), "no such table");
    }
}
