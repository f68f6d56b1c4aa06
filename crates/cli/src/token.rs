//! Bearer tokens: from a file or from the environment, never from the command line, which other users can see.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// The environment variable.
const VARIABLE: &str = "OPOR_TOKEN";

/// What a hello has room for.
const LEN_MAX: usize = 8 << 10;

/// A file with so many bytes holds something else.
const FILE_MAX: u64 = 64 << 10;

/// The tokens of a file, one a line, or the one of the environment; none where neither is given.
///
/// # Errors
/// For a file that cannot be read or holds none, and for a token that no header can carry.
pub(crate) fn all(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let (text, from) = match file {
        Some(file) => (read(file)?, file.display().to_string()),
        None => match std::env::var(VARIABLE) {
            Ok(text) => (text, VARIABLE.to_owned()),
            Err(std::env::VarError::NotPresent) => return Ok(Vec::new()),
            Err(std::env::VarError::NotUnicode(_)) => bail!("{VARIABLE} is not text"),
        },
    };
    let tokens: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    // An empty variable is a mistake, and not a wish to let everybody in.
    ensure!(!tokens.is_empty(), "{from} holds no token");
    for token in &tokens {
        ensure!(
            token.len() <= LEN_MAX && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "{from} holds a token with characters that a header cannot carry, or a very long one",
        );
    }
    Ok(tokens)
}

/// The one token to show.
///
/// # Errors
/// As [`all`], and when there are several.
pub(crate) fn one(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let mut tokens = all(file)?;
    ensure!(tokens.len() <= 1, "there are {} tokens to choose from, one is needed", tokens.len());
    Ok(tokens.pop())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let read = opened.take(FILE_MAX).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}
