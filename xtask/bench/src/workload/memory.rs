//! The most memory that something takes, beyond what the process had before: MB of resident memory.
//!
//! Each of these is measured in a process of its own, which is new and has little else in memory.

use anyhow::{Context as _, Result};

use crate::clock::Stopwatch;
use crate::database::{Database, Setting, Side};
use crate::log::{PIECE, Reader};

/// How many rows are read and merged at once where a log goes in pieces.
const SMALL_PIECE: usize = PIECE / 10;

/// Reading the whole log as one changeset and merging it.
pub(crate) fn merge_at_once(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let (source, mut target) = (setting.filled(side)?, Database::open(setting, side)?);
    peak(|| {
        let piece = Reader::new(&source)?.since(0)?;
        source.let_go_of_pages()?;
        target.merge(&piece).map(drop)
    })
}

/// Reading the whole log in pieces.
pub(crate) fn read_in_pieces(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let source = setting.filled(side)?;
    peak(|| Reader::new(&source)?.pieces(SMALL_PIECE, &mut Stopwatch::stopped(), |_| Ok(())))
}

/// Reading the whole log in pieces, each merged before the next is read.
pub(crate) fn merge_in_pieces(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let (source, mut target) = (setting.filled(side)?, Database::open(setting, side)?);
    peak(|| {
        let merge = |piece| {
            source.let_go_of_pages()?;
            target.merge(&piece).map(drop)
        };
        Reader::new(&source)?.pieces(SMALL_PIECE, &mut Stopwatch::stopped(), merge)
    })
}

/// Linux keeps the peak, and forgets it when asked to.
pub(crate) fn peak(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    std::fs::write("/proc/self/clear_refs", "5").context("peak memory is measured only on Linux")?;
    let before = status_kb("VmRSS:")?;
    work()?;
    Ok((status_kb("VmHWM:")? - before) / 1024.0)
}

fn status_kb(label: &str) -> Result<f64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("peak memory is measured only on Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix(label));
    let kb = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kb.with_context(|| format!("the system does not tell {label}"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_and_given_back_is_in_the_peak() {
        let megabytes = peak(|| {
            let block = std::hint::black_box(vec![1_u8; 64 << 20]);
            anyhow::ensure!(block.iter().step_by(4_096).all(|byte| *byte == 1), "the block is full");
            Ok(())
        });
        let megabytes = megabytes.unwrap();
        assert!((60.0..200.0).contains(&megabytes), "{megabytes} MB");
    }
}
