//! `cargo xtask tidy`: the house rules for files, each a function from text to faults.

mod links;
mod manifest;
mod paths;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::steps::{Ended, Steps};
use crate::workspace::Workspace;

/// What the README must tell a newcomer to type.
const README_COMMANDS: &[&str] = &["cargo xtask test", "cargo xtask lab"];

/// A breach of a rule at a line of a file, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    what: String,
}

impl Fault {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// Checks every file of the repository.
pub(crate) fn step(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    steps.step("tidy", || {
        let root = workspace.root();
        let files = workspace.files()?;
        let manifest = read_text(&root.join("Cargo.toml"))?.context("Cargo.toml is not text")?;
        let floor = manifest::Floor::of_workspace(&manifest)?;
        let mut faults = Vec::new();
        for file in &files {
            let Some(text) = read_text(&root.join(file))? else { continue };
            let found = file_faults(root, file, &text, &floor);
            faults.extend(found.iter().map(|fault| format!("{}:{fault}", file.display())));
        }
        if !faults.is_empty() {
            bail!("the house rules do not hold:\n  {}", faults.join("\n  "));
        }
        Ok(Ended::Passed(format!("{} files", files.len())))
    })
}

/// The text of a file; `None` when it is binary.
fn read_text(path: &Path) -> Result<Option<String>> {
    let bytes = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
}

/// The rules that apply to a file of this name.
fn file_faults(root: &Path, file: &Path, text: &str, floor: &manifest::Floor) -> Vec<Fault> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut faults = paths::faults(text);
    if name.ends_with(".rs") {
        faults.extend(source::faults(text, is_test(file)));
    }
    if name == "Cargo.toml" {
        faults.extend(manifest::faults(text, floor));
    }
    let is_readme = file == Path::new("README.md");
    if is_readme || (file.starts_with("docs") && name.ends_with(".md")) {
        let folder: PathBuf = root.join(file.parent().unwrap_or(file));
        faults.extend(links::faults(text, |target| folder.join(target).exists()));
    }
    if is_readme {
        faults.extend(missing_commands(text));
    }
    faults
}

/// Whether everything in the file is test code.
fn is_test(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs")
}

fn missing_commands(readme: &str) -> impl Iterator<Item = Fault> {
    let missing = README_COMMANDS.iter().filter(|command| !readme.contains(**command));
    missing.map(|command| Fault::new(1, format!("does not name `{command}`")))
}

/// For the tests of the rules: the faults as text, in order.
#[cfg(test)]
#[track_caller]
fn check(found: Vec<Fault>, expected: &[&str]) {
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_its_commands() {
        check(missing_commands("Run `cargo xtask test` or `cargo xtask lab`.").collect(), &[]);
        check(missing_commands("Run cargo xtask lab.").collect(), &["1: does not name `cargo xtask test`"]);
    }

    #[test]
    fn test_code_is_known_by_its_place() {
        for file in ["tests/merge/laws.rs", "crates/core/tests/golden.rs", "crates/store/src/tests.rs"] {
            assert!(is_test(Path::new(file)), "{file}");
        }
        for file in ["crates/testkit/src/lib.rs", "xtask/src/test.rs"] {
            assert!(!is_test(Path::new(file)), "{file}");
        }
    }

    #[test]
    fn rules_follow_the_name_of_the_file() {
        let floor = manifest::Floor::of_workspace("[workspace.lints.rust]\nmissing_docs = 'warn'").unwrap();
        let faults = |file: &str, text: &str| file_faults(Path::new("."), Path::new(file), text, &floor);
        check(faults("crates/a/src/lib.rs", "mod a;\n"), &["1: does not begin with a `//!` line"]);
        check(faults("crates/a/Cargo.toml", "[package]\n"), &["1: has no [lints] table"]);
        check(faults("docs/a.md", "[b](no-such-file.md)\n"), &["1: link to no-such-file.md leads nowhere"]);
        check(faults("tests/golden/a.json", "mod a;\n"), &[]);
    }
}
