//! One case on one side in a process of its own: this program again, under valgrind or by itself.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::case::Case;
use crate::database::{Setting, Side};

/// What a new process measured.
pub(crate) fn measure(case: &Case, setting: &Setting<'_>, side: Side) -> Result<f64> {
    let program = std::env::current_exe().context("could not find this program")?;
    let output = run(with_case(&mut Command::new(program), case, setting, side), case)?;
    output.trim().parse().with_context(|| format!("{output:?} is not what was measured"))
}

/// The instructions between entering and leaving the marker of [`crate::clock`].
pub(crate) fn instructions(case: &Case, setting: &Setting<'_>, side: Side) -> Result<f64> {
    // Filling a database would take valgrind long; this leaves it filled.
    (case.measure)(setting, side)?;
    let counts = setting.folder.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind", "--collect-atstart=no"]);
    command.arg("--toggle-collect=*opor_bench_measured*");
    command.arg(format!("--callgrind-out-file={}", counts.display()));
    command.arg(std::env::current_exe().context("could not find this program")?);
    run(with_case(&mut command, case, setting, side), case)?;
    let text = std::fs::read_to_string(&counts).context("valgrind wrote no counts")?;
    std::fs::remove_file(&counts).context("could not remove the counts")?;
    let total = total(&text).context("valgrind's counts have no total")?;
    ensure!(total > 0.0, "valgrind did not see the marker of the measured part");
    Ok(total)
}

/// Whether valgrind can be run.
pub(crate) fn has_valgrind() -> bool {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn with_case<'c>(
    command: &'c mut Command,
    case: &Case,
    setting: &Setting<'_>,
    side: Side,
) -> &'c mut Command {
    command.args(["one", case.slug, setting.shape.letter, &name(side), &name(setting.medium)]);
    command.args([setting.rows.to_string(), setting.tables.to_string()]).arg(setting.folder);
    command.args(setting.crsqlite).stdin(Stdio::null())
}

fn run(command: &mut Command, case: &Case) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("could not run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} in a process of its own: {}", case.slug, said.trim());
    String::from_utf8(output.stdout).context("what was measured is not text")
}

/// The value as it is given on the command line.
fn name(value: impl ValueEnum) -> String {
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
        assert_eq!(
            (name(Side::CrSqlite), name(Medium::Memory)),
            ("cr-sqlite".to_owned(), "memory".to_owned())
        );
    }
}
