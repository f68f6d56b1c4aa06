//! The few colours of the output. They are left out when it is not a terminal, or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// Headings.
pub(crate) const HEADING: Style = Style::new().bold();
/// What is there for reference only.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What deserves a look: cells that differ.
pub(crate) const MARK: Style = AnsiColor::Yellow.on_default();
/// No style at all.
pub(crate) const PLAIN: Style = Style::new();

/// The colour of a name in the lab.
pub(crate) fn of_name(name: &str) -> Style {
    match name {
        "alice" => AnsiColor::Cyan.on_default().bold(),
        "bob" => AnsiColor::Magenta.on_default().bold(),
        "hub" => AnsiColor::Blue.on_default().bold(),
        _ => HEADING,
    }
}
