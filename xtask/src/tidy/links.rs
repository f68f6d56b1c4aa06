//! Links between documents lead somewhere.

use super::Fault;

/// The links whose target `exists` denies; targets are relative to the folder of the document.
pub(super) fn faults(text: &str, exists: impl Fn(&str) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let dead = targets(line).filter(|target| !exists(target));
            faults
                .extend(dead.map(|target| Fault::new(index + 1, format!("link to {target} leads nowhere"))));
        }
    }
    faults
}

/// The files that a line links to, without the place inside them.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, open)| {
        let link = line[at + open.len()..].split(')').next()?;
        let file = link.split('#').next()?;
        let elsewhere = link.contains("://") || link.starts_with("mailto:") || file.is_empty();
        (!elsewhere).then_some(file)
    })
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[track_caller]
    fn check_links(text: &str, expected: &[&str]) {
        check(faults(text, |target| target == "there.md"), expected);
    }

    #[test]
    fn live_and_foreign_links_pass() {
        check_links("[a](there.md), [b](there.md#part), [c](#part), [d](https://example.com/x.md)", &[]);
    }

    #[test]
    fn a_dead_link_is_named_with_its_line() {
        check_links("one\n![a](there.md) [b](gone.md#x)", &["2: link to gone.md leads nowhere"]);
    }

    #[test]
    fn code_is_not_read_for_links() {
        check_links("```text\n[a](gone.md)\n```\n[b](lost.md)", &["4: link to lost.md leads nowhere"]);
    }
}
