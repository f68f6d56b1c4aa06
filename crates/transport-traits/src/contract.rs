//! The contract, as `CONTRACT.md` has it, and its sentences as values.
//!
#![doc = include_str!("../CONTRACT.md")]

/// The contract as it stands in `CONTRACT.md`.
pub const TEXT: &str = include_str!("../CONTRACT.md");

/// One sentence of the contract, with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clause<'a> {
    /// Its name, which is also that of its case in the conformance kit.
    pub name: &'a str,
    /// What it says, in Markdown; lines are broken as in the source.
    pub text: &'a str,
}

/// Every clause, in the order of the text.
pub fn clauses() -> impl Iterator<Item = Clause<'static>> {
    parse(TEXT)
}

/// A clause is a list item that begins with its name: "- `name`: text", up to the next item or empty line.
fn parse(text: &str) -> impl Iterator<Item = Clause<'_>> {
    text.split("\n- `").skip(1).filter_map(|item| {
        let (name, rest) = item.split_once("`: ")?;
        let text = rest.split("\n\n").next().unwrap_or(rest).trim_end();
        Some(Clause { name, text })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn clauses_end_where_the_next_begins() {
        let text = "# Title\n\nSome words.\n\n- `a_b`: First\n  goes on.\n- `c`: Second.\n\n## More\n\n- `d`: Third.\n";
        let clause = |name, text| Clause { name, text };
        assert_eq!(
            parse(text).collect::<Vec<_>>(),
            [clause("a_b", "First\n  goes on."), clause("c", "Second."), clause("d", "Third.")]
        );
    }

    #[test]
    fn every_clause_has_a_name_of_its_own() {
        let names: Vec<_> = clauses().map(|clause| clause.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(names.len(), TEXT.lines().filter(|line| line.starts_with("- `")).count());
        let is_plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        assert_eq!(names.iter().find(|name| !is_plain(name)), None, "a name is that of a function");
    }
}
