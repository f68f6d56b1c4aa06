//! No path of the machine it was written on stands in a file.

use super::Fault;

/// Where people's and build machines' files live. Written so that this list is no such path itself.
const PLACES: &[&str] = &[concat!("/", "home/"), concat!("/", "root/"), concat!("/", "work/")];

/// The lines with a machine path.
pub(super) fn faults(text: &str) -> Vec<Fault> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(index, line)| {
            let place = PLACES.iter().find(|place| names(line, place))?;
            Some(Fault::new(index + 1, format!("a path of some machine: {place}")))
        })
        .collect()
}

/// Whether the line names a path that begins here, rather than one that has this folder in the middle.
fn names(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~}$".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn a_machine_path_is_named_with_its_line() {
        let text = format!("one\nsee {}me/notes.txt", PLACES[0]);
        check(faults(&text), &[&format!("2: a path of some machine: {}", PLACES[0])]);
        let url = format!("file://{}x", PLACES[2]);
        check(faults(&url), &[&format!("1: a path of some machine: {}", PLACES[2])]);
    }

    #[test]
    fn a_folder_in_the_middle_of_a_path_is_fine() {
        for place in PLACES {
            check(faults(&format!("target{place}x and https://example.com{place}")), &[]);
        }
    }
}
