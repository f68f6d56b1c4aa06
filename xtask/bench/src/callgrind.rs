//! Instruction counts: this program again, one case on one side, under valgrind.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::case::Case;
use crate::database::{Setting, Side};

/// The instructions between entering and leaving the marker of [`crate::clock`].
pub(crate) fn instructions(case: &Case, setting: &Setting<'_>, side: Side) -> Result<f64> {
    let counts = setting.folder.join("callgrind.out");
    let program = std::env::current_exe().context("could not find this program")?;
    let mut command = Command::new("valgrind");
    command.args([
        "--quiet",
        "--tool=callgrind",
        "--collect-atstart=no",
        "--toggle-collect=*opor_bench_measured*",
    ]);
    command.arg(format!("--callgrind-out-file={}", counts.display()));
    command.arg(program).args(["one", case.slug, setting.shape.letter, &name(side), &name(setting.medium)]);
    command.arg(setting.rows.to_string()).stdin(Stdio::null());
    let output = command.output().context("could not run valgrind; install it (apt-get install valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} under valgrind: {}", case.slug, said.trim());
    let text = std::fs::read_to_string(&counts).context("valgrind wrote no counts")?;
    std::fs::remove_file(&counts).context("could not remove the counts")?;
    let total = total(&text).context("valgrind's counts have no total")?;
    ensure!(total > 0.0, "valgrind did not see the marker of the measured part");
    Ok(total)
}

/// The value as it is given on the command line.
fn name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The sum that a callgrind file ends or begins with.
fn total(counts: &str) -> Option<f64> {
    let of = |label: &str| counts.lines().find_map(|line| line.strip_prefix(label)?.trim().parse().ok());
    of("totals:").or_else(|| of("summary:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Medium;

    #[test]
    fn the_total_is_found_where_versions_put_it() {
        assert_eq!(total("events: Ir\nsummary: 12\nfn=(1) f\n1 12\n"), Some(12.0));
        assert_eq!(total("events: Ir\nfn=(1) f\n1 12\ntotals: 34\n"), Some(34.0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn sides_and_media_have_names() {
        assert_eq!((name(Side::Plain), name(Medium::Memory)), ("plain".to_owned(), "memory".to_owned()));
    }
}
