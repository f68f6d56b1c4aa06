//! Rules for Rust files: they say what they hold, stay short, and are finished.

use std::str::FromStr as _;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Fault;

/// A file of more lines is more than one thing.
const LINES_MAX: usize = 1_000;

/// Macros that mark unfinished work or leftovers of debugging.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// The faults of a file; `is_test` says whether all of it is test code.
pub(super) fn faults(text: &str, is_test: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(Fault::new(1, "does not begin with a `//!` line"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(Fault::new(lines, format!("has {lines} lines, the limit is {LINES_MAX}")));
    }
    // Looking at tokens, not at text, keeps comments and strings out of it.
    match TokenStream::from_str(text) {
        Ok(tokens) => walk(tokens, is_test, &mut faults),
        Err(error) => faults.push(Fault::new(error.span().start().line, "is not Rust")),
    }
    faults
}

fn walk(tokens: TokenStream, mut in_test: bool, faults: &mut Vec<Fault>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut item_is_test = false;
    for (index, tree) in trees.iter().enumerate() {
        let rest = &trees[index..];
        if let Some(what) = mark(rest, in_test) {
            faults.push(Fault::new(tree.span().start().line, what));
        }
        match attribute(rest) {
            Some(Attribute::Test { inner: true }) => in_test = true,
            Some(Attribute::Test { inner: false }) => item_is_test = true,
            None => {}
        }
        match tree {
            TokenTree::Group(group) => {
                let body = group.delimiter() == Delimiter::Brace;
                walk(group.stream(), in_test || (item_is_test && body), faults);
                item_is_test &= !body;
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => item_is_test = false,
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The forbidden thing that begins here, if one does.
fn mark(trees: &[TokenTree], in_test: bool) -> Option<String> {
    match trees {
        [TokenTree::Ident(name), TokenTree::Punct(bang), ..] if bang.as_char() == '!' => {
            let name = UNFINISHED.iter().find(|unfinished| name == *unfinished)?;
            Some(format!("{name}! is not for committed code"))
        }
        [TokenTree::Punct(hash), TokenTree::Group(group), ..] if hash.as_char() == '#' => {
            let first = group.stream().into_iter().next()?;
            (first.to_string() == "ignore").then(|| "an ignored test tests nothing".to_owned())
        }
        [TokenTree::Ident(module), TokenTree::Punct(_), TokenTree::Punct(_), TokenTree::Ident(name), ..]
            if in_test && name == "sleep" && (module == "thread" || module == "time") =>
        {
            Some(format!("{module}::sleep in a test: wait for the event instead"))
        }
        _ => None,
    }
}

enum Attribute {
    /// `#[cfg(test)]`, or `#![cfg(test)]` when `inner`.
    Test { inner: bool },
}

/// The attribute that begins here, when it says that what follows is test code.
fn attribute(trees: &[TokenTree]) -> Option<Attribute> {
    let is = |tree: &TokenTree, c: char| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == c);
    let (group, inner) = match trees {
        [hash, TokenTree::Group(group), ..] if is(hash, '#') => (group, false),
        [hash, bang, TokenTree::Group(group), ..] if is(hash, '#') && is(bang, '!') => (group, true),
        _ => return None,
    };
    let text: String = group.stream().to_string().split_whitespace().collect();
    (text == "cfg(test)" || text.starts_with("cfg(all(test,")).then_some(Attribute::Test { inner })
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn the_first_line_says_what_the_file_holds() {
        check(faults("//! A file.\nmod a;\n", false), &[]);
        check(faults("mod a;\n", false), &["1: does not begin with a `//!` line"]);
        check(faults("", false), &["1: does not begin with a `//!` line"]);
    }

    #[test]
    fn a_thousand_lines_are_the_most() {
        let lines = |count: usize| format!("//! A file.{}\n", "\n//".repeat(count - 1));
        check(faults(&lines(1_000), false), &[]);
        check(faults(&lines(1_001), false), &["1001: has 1001 lines, the limit is 1000"]);
    }

    #[test]
    fn unfinished_work_is_found_in_code_only() {
        for name in UNFINISHED {
            let code = format!("//! A file.\nfn f() {{\n    {name}!(1)\n}}\n");
            check(faults(&code, false), &[&format!("3: {name}! is not for committed code")]);
            let words =
                format!("//! A file.\n// {name}!()\nconst A: &str = \"{name}!()\";\nfn {name}() {{}}\n");
            check(faults(&words, false), &[]);
        }
    }

    #[test]
    fn an_ignored_test_is_found() {
        let with = |attribute: &str| format!("//! A file.\n#[test]\n# [{attribute}]\nfn f() {{}}\n");
        check(faults(&with("ignore"), true), &["3: an ignored test tests nothing"]);
        check(faults(&with("ignore = \"slow\""), true), &["3: an ignored test tests nothing"]);
        check(faults(&with("must_use"), true), &[]);
    }

    #[test]
    fn sleeping_is_a_fault_in_tests_only() {
        let sleeps =
            "//! A file.\nfn f() {\n    std::thread :: sleep(A);\n    tokio::time :: sleep(A).await;\n}\n";
        check(faults(sleeps, false), &[]);
        let expected = [
            "3: thread::sleep in a test: wait for the event instead",
            "4: time::sleep in a test: wait for the event instead",
        ];
        check(faults(sleeps, true), &expected);
    }

    #[test]
    fn a_test_module_is_test_code_and_what_follows_it_is_not() {
        let code = "//! A file.\n#[cfg(test)]\nmod tests {\n    fn f() { thread :: sleep(A) }\n}\n\
                    fn g() { thread :: sleep(A) }\n#[cfg(test)]\nuse a;\nfn h() { thread :: sleep(A) }\n";
        check(faults(code, false), &["4: thread::sleep in a test: wait for the event instead"]);
    }

    #[test]
    fn what_is_not_rust_is_a_fault() {
        check(faults("//! A file.\nfn f() {\n", false), &["2: is not Rust"]);
    }
}
