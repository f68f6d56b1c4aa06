//! `cargo xtask deny`: licences and sources of dependencies against `deny.toml`.
//!
//! `deny.toml` is a file of cargo-deny and works with it. Building that tool takes longer than building this workspace,
//! so the two checks that need no network are made here.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Package;
use spdx::{Expression, ParseMode};
use toml::{Table, Value};

use crate::steps::{Ended, Steps};
use crate::workspace::Workspace;

/// Checks every dependency there is, those of other platforms included.
pub(crate) fn step(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    steps.step("deny", || {
        let text = std::fs::read_to_string(workspace.root().join("deny.toml"));
        let rules = Rules::parse(&text.context("could not read deny.toml")?)?;
        let packages = workspace.metadata.packages.iter().filter(|package| package.source.is_some());
        let packages: Vec<&Package> = packages.collect();
        let faults: Vec<String> = packages.iter().filter_map(|package| rules.fault(package)).collect();
        if !faults.is_empty() {
            bail!("deny.toml does not hold:\n  {}", faults.join("\n  "));
        }
        Ok(Ended::Passed(format!("{} dependencies", packages.len())))
    })
}

/// What `deny.toml` says, as far as it is checked here.
#[derive(Debug)]
struct Rules {
    licences: BTreeSet<String>,
    registries: BTreeSet<String>,
    banned: BTreeSet<String>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().context("deny.toml is not TOML")?;
        let banned = list(&table, "bans", "deny")?;
        Ok(Self {
            licences: strings(list(&table, "licenses", "allow")?)?,
            registries: strings(list(&table, "sources", "allow-registry")?)?,
            banned: strings(banned.iter().map(|entry| entry.get("crate").unwrap_or(entry)))?,
        })
    }

    /// What is wrong with a package, if anything.
    fn fault(&self, package: &Package) -> Option<String> {
        let source = package.source.as_ref()?.repr.as_str();
        self.judge(&package.name, package.license.as_deref(), source)
    }

    fn judge(&self, name: &str, licence: Option<&str>, source: &str) -> Option<String> {
        let registry = source.strip_prefix("registry+");
        if !registry.is_some_and(|registry| self.registries.contains(registry)) {
            return Some(format!("{name} comes from {source}"));
        }
        if self.banned.contains(name) {
            return Some(format!("{name} is banned"));
        }
        let Some(licence) = licence else {
            return Some(format!("{name} names no licence"));
        };
        // Older manifests write `MIT/Apache-2.0`, which the lax mode reads as OR.
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(expression) if expression.evaluate(|term| self.licences.contains(&term.to_string())) => None,
            Ok(_) => Some(format!("{name} is under {licence}, which the list does not allow")),
            Err(_) => Some(format!("{name} is under {licence:?}, which is not a licence expression")),
        }
    }
}

fn list<'a>(table: &'a Table, section: &str, key: &str) -> Result<&'a Vec<Value>> {
    let value = table.get(section).and_then(|section| section.get(key));
    value.and_then(Value::as_array).with_context(|| format!("deny.toml has no list {section}.{key}"))
}

fn strings<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<BTreeSet<String>> {
    let texts = values.into_iter().map(|value| value.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().context("deny.toml has a list entry that is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    #[track_caller]
    fn check(name: &str, licence: Option<&str>, source: &str, expected: Option<&str>) {
        let rules = Rules::parse(
            "[licenses]\nallow = ['MIT', 'Apache-2.0', 'Apache-2.0 WITH LLVM-exception', 'Unicode-3.0']\n\
             [bans]\ndeny = [{ crate = 'openssl' }]\n\
             [sources]\nallow-registry = ['https://github.com/rust-lang/crates.io-index']",
        );
        assert_eq!(rules.unwrap().judge(name, licence, source).as_deref(), expected);
    }

    #[test]
    fn one_allowed_choice_is_enough() {
        check("a", Some("MIT OR GPL-3.0-only"), CRATES_IO, None);
        check("a", Some("MIT/Apache-2.0"), CRATES_IO, None);
        check("a", Some("(MIT OR Apache-2.0) AND Unicode-3.0"), CRATES_IO, None);
        check("a", Some("Apache-2.0 WITH LLVM-exception"), CRATES_IO, None);
    }

    #[test]
    fn every_part_of_an_and_is_needed() {
        let fault = "a is under MIT AND MPL-2.0, which the list does not allow";
        check("a", Some("MIT AND MPL-2.0"), CRATES_IO, Some(fault));
    }

    #[test]
    fn a_missing_or_unreadable_licence_is_a_fault() {
        check("a", None, CRATES_IO, Some("a names no licence"));
        check("a", Some("as is"), CRATES_IO, Some("a is under \"as is\", which is not a licence expression"));
    }

    #[test]
    fn a_banned_crate_and_a_foreign_source_are_faults() {
        check("openssl", Some("MIT"), CRATES_IO, Some("openssl is banned"));
        check("a", Some("MIT"), "git+https://example.com/a", Some("a comes from git+https://example.com/a"));
    }

    #[test]
    fn a_file_without_the_lists_is_refused() {
        let error = Rules::parse("[licenses]\nallow = []").unwrap_err();
        assert_eq!(error.to_string(), "deny.toml has no list bans.deny");
    }
}
