//! Snapshots for replicas that hear of each other through others: whoever merges one says how much of its log was in the image.

use opor_core::DbVersion;
use opor_store::{ApplyReport, Store};

use crate::replicas::{Folder, exec, file, full_dump, lines, options, pull, site};
use crate::snapshots::image;

const TODOS: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done)";

/// The desk has heard of the log of the other up to a version, has deleted two rows of it, and forgotten that. The other has
/// written on, to one of these rows too.
struct Scene {
    folder: Folder,
    desk: Store,
    late: Store,
    held: DbVersion,
}

impl Scene {
    fn new() -> Self {
        let folder = Folder::new();
        let mut desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
        let late = file(&folder.file("b.db"), 0xb, TODOS, &["todos"]);
        exec(&late, "INSERT INTO todos VALUES ('told', 1, 0), ('edited', 1, 0), ('kept', 1, 0)");
        let held = late.db_version().expect("a version");
        // As if it had come through others: no cursor is kept, on neither side.
        pull(&mut desk, &late);
        exec(&desk, "DELETE FROM todos WHERE id <> 'kept'");
        desk.set_acknowledged_by(site(0xc), desk.db_version().expect("a version")).expect("recorded");
        assert_eq!(desk.compact().expect("compacted").tombstones_dropped, 2);
        exec(&late, "UPDATE todos SET title = 2 WHERE id = 'edited'");
        exec(&late, "INSERT INTO todos VALUES ('new', 1, 0)");
        Self { folder, desk, late, held }
    }

    fn merge(&mut self, held: DbVersion) -> ApplyReport {
        let snapshot = self.desk.snapshot().expect("a snapshot");
        let image = image(&snapshot, &self.folder.file("b.db"), &options(0xb));
        self.late.merge_snapshot_holding(&image, held).expect("merged")
    }

    #[track_caller]
    fn has(&self, expected: &[&str]) {
        assert_eq!(lines(&self.late, "SELECT id, title FROM todos ORDER BY id"), expected);
    }
}

#[test]
fn a_row_that_the_maker_held_and_has_no_more_is_deleted() {
    let mut scene = Scene::new();
    let report = scene.merge(scene.held);
    assert_eq!((report.rows_deleted, report.rows_brought_back), (1, 2), "{report:?}");
    scene.has(&["edited|2", "kept|1", "new|1"]);
    // Those that stay are whole, and news to the desk.
    pull(&mut scene.desk, &scene.late);
    assert_eq!(lines(&scene.desk, "SELECT * FROM todos ORDER BY id"), ["edited|2|0", "kept|1|0", "new|1|0"]);
    let before = full_dump(&scene.late);
    pull(&mut scene.late, &scene.desk);
    assert!(full_dump(&scene.late) == before, "both are in step");
}

#[test]
fn what_the_maker_is_not_known_to_have_held_is_kept() {
    let mut scene = Scene::new();
    let report = scene.merge(DbVersion(0));
    assert_eq!((report.rows_deleted, report.rows_brought_back), (0, 3), "{report:?}");
    scene.has(&["edited|2", "kept|1", "new|1", "told|1"]);
}

#[test]
fn all_that_was_written_may_have_been_held() {
    let mut scene = Scene::new();
    let all = scene.late.db_version().expect("a version");
    let report = scene.merge(all);
    assert_eq!((report.rows_deleted, report.rows_brought_back), (3, 0), "{report:?}");
    scene.has(&["kept|1"]);
}
