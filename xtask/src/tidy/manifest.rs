//! Every package keeps the lints of the workspace, or stricter ones of its own.

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use super::Fault;

/// A crate that calls C states its own level for this one; its blocks need `// SAFETY:` comments all the same.
const OWN_CHOICE: &str = "unsafe_code";

/// The lints of the workspace: the least a package must have.
#[derive(Debug)]
pub(super) struct Floor(Table);

impl Floor {
    /// Reads `[workspace.lints]`.
    pub(super) fn of_workspace(manifest: &str) -> Result<Self> {
        let table: Table = manifest.parse().context("Cargo.toml is not TOML")?;
        let lints = table.get("workspace").and_then(|workspace| workspace.get("lints"));
        let lints = lints.and_then(Value::as_table).context("Cargo.toml has no [workspace.lints]")?;
        Ok(Self(lints.clone()))
    }
}

/// What is wrong with the lints of a package.
pub(super) fn faults(manifest: &str, floor: &Floor) -> Vec<Fault> {
    let Ok(table) = manifest.parse::<Table>() else {
        return vec![Fault::new(1, "is not TOML")];
    };
    if table.contains_key("workspace") {
        // The root holds the lints itself; the fuzz targets are a workspace of their own and cannot inherit.
        return Vec::new();
    }
    let Some(lints) = table.get("lints").and_then(Value::as_table) else {
        return vec![Fault::new(1, "has no [lints] table")];
    };
    if lints.get("workspace").and_then(Value::as_bool) == Some(true) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (tool, wanted) in &floor.0 {
        for (lint, least) in wanted.as_table().into_iter().flatten().filter(|(lint, _)| *lint != OWN_CHOICE) {
            let own = lints.get(tool).and_then(|own| own.get(lint));
            if own.map_or(0, strictness) < strictness(least) {
                faults.push(Fault::new(1, format!("lint {lint} is laxer than in the workspace")));
            }
        }
    }
    faults
}

/// The rank of a level, given as text or as a table with priority.
fn strictness(level: &Value) -> usize {
    let level = level.get("level").unwrap_or(level).as_str().unwrap_or_default();
    ["allow", "warn", "deny", "forbid"].iter().position(|known| *known == level).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[track_caller]
    fn check_manifest(manifest: &str, expected: &[&str]) {
        let workspace = "[workspace.lints.rust]\nmissing_docs = 'warn'\nunsafe_code = 'deny'\n\
                         [workspace.lints.clippy]\ntodo = { level = 'deny', priority = 1 }";
        check(faults(manifest, &Floor::of_workspace(workspace).unwrap()), expected);
    }

    #[test]
    fn inherited_or_stricter_lints_pass() {
        check_manifest("[lints]\nworkspace = true", &[]);
        check_manifest(
            "[lints.rust]\nmissing_docs = 'deny'\nunsafe_code = 'allow'\n[lints.clippy]\ntodo = 'forbid'",
            &[],
        );
    }

    #[test]
    fn the_root_of_a_workspace_has_nothing_to_inherit() {
        check_manifest("[package]\nname = 'fuzz'\n[workspace]", &[]);
    }

    #[test]
    fn missing_and_laxer_lints_are_named() {
        check_manifest("[package]\nname = 'a'", &["1: has no [lints] table"]);
        check_manifest(
            "[lints]\nworkspace = false",
            &[
                "1: lint todo is laxer than in the workspace",
                "1: lint missing_docs is laxer than in the workspace",
            ],
        );
        check_manifest(
            "[lints.rust]\nmissing_docs = 'warn'\n[lints.clippy]\ntodo = 'warn'",
            &["1: lint todo is laxer than in the workspace"],
        );
    }

    #[test]
    fn a_workspace_without_lints_is_an_error() {
        let error = Floor::of_workspace("[workspace]\nmembers = []").unwrap_err();
        assert_eq!(error.to_string(), "Cargo.toml has no [workspace.lints]");
    }
}
