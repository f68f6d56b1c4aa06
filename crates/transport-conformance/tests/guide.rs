//! `docs/writing-a-transport.md` shows the file `unix_socket.rs`, in order and in full.

use std::fs;
use std::path::Path;

/// What stands in the Rust blocks of a Markdown text, one after the other.
fn rust_blocks(text: &str) -> String {
    let blocks = text.split("\n```rust\n").skip(1);
    let blocks = blocks.map(|block| block.split("\n```\n").next().unwrap_or_default().trim_matches('\n'));
    blocks.collect::<Vec<_>>().join("\n\n") + "\n"
}

#[test]
fn the_guide_shows_what_the_suite_runs() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(here.join("../../docs/writing-a-transport.md")).unwrap();
    let code = fs::read_to_string(here.join("tests/unix_socket.rs")).unwrap();
    let shown = rust_blocks(&guide);
    // The first line that differs says more than two long texts.
    let differs = shown.lines().zip(code.lines()).enumerate().find(|(_, (shown, code))| shown != code);
    assert_eq!(differs, None, "the guide and unix_socket.rs differ");
    assert_eq!(shown.lines().count(), code.lines().count(), "the guide or unix_socket.rs has more lines");
}

#[test]
fn the_guide_quotes_the_contract_as_it_is() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(here.join("../../docs/writing-a-transport.md")).unwrap();
    let quoted: Vec<_> = guide.lines().filter_map(|line| line.strip_prefix("  the contract: ")).collect();
    let sentences: Vec<_> = opor_transport_traits::contract::clauses()
        .map(|clause| clause.text.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert!(!quoted.is_empty(), "the guide shows a failure");
    for quoted in quoted {
        assert!(sentences.iter().any(|sentence| sentence == quoted), "no sentence of the contract: {quoted}");
    }
}

#[test]
fn blocks_are_put_together() {
    let text = "# A\n\n```toml\nx = 1\n```\n\n```rust\nfn a() {}\n```\n\nWords.\n\n```rust\nfn b() {}\n\nfn c() {}\n```\n";
    assert_eq!(rust_blocks(text), "fn a() {}\n\nfn b() {}\n\nfn c() {}\n");
}
