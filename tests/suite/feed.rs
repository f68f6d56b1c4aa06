//! The feed of changed rows: whatever is written and however a snapshot falls, no change is left out.

mod several;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use opor_store::{
    Changes, ColumnMask, CommitSeq, Image, Interest, OpenOptions, Origin, RowFeed, Store, StoreHandle, Woken,
};
use opor_tests::Rng;

use crate::replicas::{Folder, site};

const SCHEMA: &str = "CREATE TABLE pears(id INTEGER PRIMARY KEY, name TEXT, weight REAL);
    CREATE TABLE plums(id INTEGER PRIMARY KEY, name TEXT, weight REAL);
    CREATE TABLE figs(id INTEGER PRIMARY KEY, name TEXT, weight REAL)";
/// One replicates, one does not; figs are watched by nobody.
const WATCHED: [&str; 2] = ["pears", "plums"];

type Rows = BTreeMap<i64, (Option<String>, Option<f64>)>;

/// A feed with its reader, and what its last snapshot saw.
struct Follower {
    feed: RowFeed,
    reader: Store,
    seen: [Rows; 2],
    seq: CommitSeq,
}

impl Follower {
    fn new(handle: &StoreHandle) -> Self {
        let feed = handle.row_feed();
        feed.watch(interests());
        let reader = OpenOptions::new().read_only(true).open(handle.path()).expect("a reader opens");
        Self { feed, reader, seen: Default::default(), seq: CommitSeq(0) }
    }

    /// Takes a snapshot, and checks that every row which is not what it was is told of.
    fn look(&mut self) -> Changes {
        let changes = self.feed.snapshot(&self.reader).expect("a snapshot");
        for (table, seen) in WATCHED.iter().zip(&mut self.seen) {
            let now = rows(&self.reader, table);
            let told = changes.tables.get(*table);
            let missed: Vec<_> =
                seen.keys().chain(now.keys()).filter(|id| seen.get(id) != now.get(id)).collect();
            for id in missed.into_iter().filter(|_| !changes.unknown) {
                let touched = told.is_some_and(|told| {
                    told.rows.iter().any(|row| row.old == Some(*id) || row.new == Some(*id))
                });
                let beyond = told.and_then(|told| told.beyond);
                let covered = beyond.is_some_and(|beyond| match (seen.get(id), now.get(id)) {
                    (Some(was), Some(is)) => {
                        (was.0 == is.0 || beyond.columns.contains(1))
                            && (was.1 == is.1 || beyond.columns.contains(2))
                    }
                    _ => beyond.rows,
                });
                assert!(touched || covered, "row {id} of {table} changed and is not in {told:?}");
            }
            *seen = now;
        }
        assert!(changes.seq >= self.seq, "commits are told in order");
        self.seq = changes.seq;
        self.reader.execute_batch("COMMIT").expect("the snapshot ends");
        changes
    }
}

fn interests() -> BTreeMap<Arc<str>, Interest> {
    let interest = Interest { columns: ColumnMask::ALL, images: vec![1] };
    WATCHED.iter().map(|table| (Arc::from(*table), interest.clone())).collect()
}

fn rows(store: &Store, table: &str) -> Rows {
    let mut rows = store.prepare(&format!("SELECT id, name, weight FROM {table}")).expect("it prepares");
    let rows = rows.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).expect("it runs");
    rows.collect::<Result<_, _>>().expect("rows")
}

fn open(folder: &Folder) -> StoreHandle {
    let handle =
        StoreHandle::open(folder.file("a.db"), &OpenOptions::new().site_id(site(1)), 1).expect("opens");
    write(&handle, SCHEMA);
    block_on(handle.write(|store| store.replicate("pears").expect("it replicates")))
        .expect("the writer runs");
    handle
}

/// Runs SQL, whether all of it succeeds or not.
fn write(handle: &StoreHandle, sql: &str) {
    let sql = sql.to_owned();
    block_on(handle.write(move |store| {
        let _ = store.execute_batch(&sql);
    }))
    .expect("the writer runs");
}

fn random_sql(rng: &mut Rng) -> String {
    let table = ["pears", "plums", "figs"][rng.below(3)];
    let id = rng.below(12);
    match rng.below(14) {
        0..3 => format!("INSERT INTO {table} VALUES ({id}, 'n{}', {}.5);", rng.below(3), rng.below(4)),
        3..5 => format!("INSERT OR REPLACE INTO {table} VALUES ({id}, 'n{}', 1);", rng.below(3)),
        5..7 => format!("UPDATE {table} SET name = 'n{}' WHERE id = {id};", rng.below(3)),
        7 => format!("UPDATE {table} SET weight = weight + 1 WHERE id > {id};"),
        8 => format!("UPDATE OR REPLACE {table} SET id = id + 1 WHERE id = {id};"),
        9 => format!("DELETE FROM {table} WHERE id = {id};"),
        10 => format!("DELETE FROM {table};"),
        11 => format!(
            "INSERT INTO {table} SELECT id + 20, name, weight FROM plums UNION ALL SELECT 3, 'n', 0 UNION ALL SELECT 3, 'n', 0;"
        ),
        12 => "SAVEPOINT s;".to_owned(),
        _ => ["ROLLBACK TO s;", "RELEASE s;"][rng.below(2)].to_owned(),
    }
}

#[test]
fn no_change_is_left_out_and_nothing_is_unknown_without_cause() {
    let folder = Folder::new();
    let handle = open(&folder);
    let mut rng = Rng::new(7);
    let mut follower = Follower::new(&handle);
    assert!(follower.look().unknown, "the first snapshot has nothing to count from");
    for _ in 0..600 {
        for _ in 0..rng.below(3) {
            let body: String = (0..1 + rng.below(5)).map(|_| random_sql(&mut rng)).collect();
            match rng.below(3) {
                0 => write(&handle, &body),
                1 => write(&handle, &format!("BEGIN;{body}COMMIT")),
                // Errors end the batch; the job's transaction is rolled back behind it.
                _ => write(&handle, &format!("BEGIN;{body}ROLLBACK")),
            }
        }
        let changes = follower.look();
        assert!(!changes.unknown, "nobody else writes: {changes:?}");
        assert!(!changes.tables.contains_key("figs"), "nobody watches it");
    }
    handle.close();
}

#[test]
fn what_was_taken_back_is_not_told() {
    let folder = Folder::new();
    let handle = open(&folder);
    let mut follower = Follower::new(&handle);
    follower.look();
    for table in WATCHED {
        write(&handle, &format!("BEGIN; INSERT INTO {table} VALUES (1, 'a', 0); ROLLBACK"));
        write(
            &handle,
            &format!("BEGIN; SAVEPOINT s; INSERT INTO {table} VALUES (1, 'a', 0); ROLLBACK TO s; COMMIT"),
        );
        write(&handle, &format!("INSERT INTO {table} VALUES (1, 'a', 0), (1, 'b', 0)"));
        write(&handle, &format!("UPDATE {table} SET name = name"));
        let changes = follower.look();
        assert!(changes.is_empty(), "{table}: {changes:?}");
        write(
            &handle,
            &format!(
                "BEGIN; INSERT INTO {table} VALUES (1, 'a', 0); SAVEPOINT s; DELETE FROM {table}; ROLLBACK TO s; COMMIT"
            ),
        );
        let changes = follower.look();
        let told = &changes.tables[table].rows;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].old, told[0].new), (None, Some(1)));
        assert_eq!(told[0].new_image, Image::Values(["a".into()].into()));
    }
    handle.close();
}

#[test]
fn images_columns_and_origins_are_told() {
    let folder = Folder::new();
    let handle = open(&folder);
    write(&handle, "INSERT INTO pears VALUES (1, 'a', 0)");
    let mut follower = Follower::new(&handle);
    follower.look();
    write(&handle, "UPDATE pears SET name = 'b', weight = 2");
    let changes = follower.look();
    assert_eq!(changes.origin, Some(Origin::Local));
    let row = &changes.tables["pears"].rows[0];
    let mut columns = ColumnMask::default();
    columns.insert(1);
    columns.insert(2);
    assert_eq!(row.columns, columns);
    assert_eq!(row.old_image, Image::Values(["a".into()].into()));
    assert_eq!(row.new_image, Image::Values(["b".into()].into()));

    let mut peer = OpenOptions::new().site_id(site(2)).open_in_memory().expect("a store in memory");
    peer.execute_batch(SCHEMA).expect("the schema");
    peer.replicate("pears").expect("it replicates");
    peer.execute("INSERT INTO pears VALUES (2, 'c', 0)", []).expect("it writes");
    let batch = peer.changes(&opor_store::Cursor::at(opor_core::DbVersion(0)), usize::MAX).expect("it reads");
    let options = opor_store::ApplyOptions { cursor: Some((site(2), batch.cursor)), ..Default::default() };
    let applied = block_on(handle.write(move |store| store.apply_with(&batch.changeset, &options)));
    assert_eq!(applied.expect("the writer runs").expect("it merges").rows_inserted, 1);
    let changes = follower.look();
    assert_eq!(changes.origin, Some(Origin::Peer(site(2))));
    assert_eq!(changes.tables["pears"].rows.len(), 1);
    assert!(!changes.unknown);
    handle.close();
}

#[test]
fn a_large_commit_tells_its_tables_only() {
    let folder = Folder::new();
    let handle = open(&folder);
    let mut follower = Follower::new(&handle);
    follower.look();
    write(
        &handle,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO plums SELECT i, 'x', 0 FROM n",
    );
    let changes = follower.look();
    let told = &changes.tables["plums"];
    assert!(told.rows.is_empty() && told.beyond.is_some_and(|beyond| beyond.rows), "{:?}", told.beyond);
    assert!(!changes.tables.contains_key("pears"));
    write(&handle, "UPDATE plums SET weight = 5");
    let beyond = follower.look().tables["plums"].beyond.expect("it was too much");
    assert!(beyond.columns.contains(2) && !beyond.columns.contains(1) && !beyond.rows, "{beyond:?}");
    // What nobody takes does not grow.
    for round in 0..30 {
        write(&handle, &format!("UPDATE plums SET weight = {round} WHERE id < 1000"));
    }
    assert!(follower.look().tables["plums"].rows.len() <= opor_store::ROWS_WAITING_MAX);
    handle.close();
}

#[test]
fn nothing_is_lost_beside_what_is_too_large() {
    const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
        INSERT INTO plums SELECT i, 'x', 0 FROM n;";
    let folder = Folder::new();
    let handle = open(&folder);
    let mut follower = Follower::new(&handle);
    follower.look();
    let beyond = |changes: &Changes, table: &str| changes.tables.get(table).and_then(|told| told.beyond);
    // In one transaction.
    write(
        &handle,
        &format!(
            "BEGIN; INSERT INTO pears VALUES (1, 'a', 0); {MANY} INSERT INTO pears VALUES (2, 'b', 0); COMMIT"
        ),
    );
    let changes = follower.look();
    assert!(beyond(&changes, "pears").is_some_and(|beyond| beyond.rows) && !changes.unknown, "{changes:?}");
    // What comes behind is of another kind: updates of one column, and then a delete and an update of the other.
    write(
        &handle,
        "BEGIN; UPDATE plums SET name = 'w'; DELETE FROM plums WHERE id = 1; UPDATE plums SET weight = 3 WHERE id = 2; COMMIT",
    );
    let plums = beyond(&follower.look(), "plums").expect("they are too many");
    assert!(plums.rows && plums.columns.contains(1) && plums.columns.contains(2), "{plums:?}");
    // In several that nobody takes apart, whichever comes first.
    write(&handle, "UPDATE plums SET name = 'y'");
    write(&handle, "UPDATE pears SET name = 'c' WHERE id = 1");
    let changes = follower.look();
    assert_eq!(changes.tables["pears"].rows.len(), 1);
    assert!(beyond(&changes, "plums").is_some_and(|beyond| beyond.columns.contains(1) && !beyond.rows));
    write(&handle, "UPDATE pears SET name = 'd' WHERE id = 1; UPDATE plums SET weight = 1 WHERE id = 1");
    write(&handle, "DELETE FROM plums WHERE id > 5; DELETE FROM plums WHERE id = 5");
    write(&handle, "UPDATE pears SET weight = 7");
    let changes = follower.look();
    assert_eq!(changes.tables["pears"].rows.len(), 3);
    assert!(beyond(&changes, "plums").is_some_and(|beyond| beyond.rows && !beyond.columns.contains(1)));
    // Together they are too many.
    write(&handle, MANY.replace("9000", "5000").replace("INSERT", "INSERT OR REPLACE").as_str());
    follower.look();
    write(&handle, "UPDATE pears SET name = 'e'");
    write(&handle, "UPDATE plums SET name = 'f'");
    write(&handle, "UPDATE plums SET weight = 2");
    write(&handle, "INSERT INTO pears VALUES (3, 'c', 0)");
    let changes = follower.look();
    assert_eq!(changes.tables["pears"].rows.len(), 3, "they are not too many by themselves");
    let plums = beyond(&changes, "plums").expect("they are");
    assert!(plums.columns.contains(1) && plums.columns.contains(2) && !plums.rows, "{plums:?}");
    assert!(!changes.unknown);
    handle.close();
}

#[test]
fn commits_of_others_are_noticed_and_not_known() {
    let folder = Folder::new();
    let handle = open(&folder);
    let mut follower = Follower::new(&handle);
    follower.look();
    let look = Duration::from_millis(5);
    assert_eq!(follower.feed.wait(&follower.reader, look, Some(Duration::ZERO)), Woken::TimedOut);
    let other = OpenOptions::new().open(folder.file("a.db")).expect("another connection");
    for round in 0..20 {
        other.execute("INSERT INTO plums VALUES (?, 'x', 0)", [round]).expect("it writes");
        if round % 2 == 0 {
            write(&handle, &format!("INSERT INTO pears VALUES ({round}, 'x', 0)"));
        }
        assert_eq!(follower.feed.wait(&follower.reader, look, None), Woken::Called);
        assert!(follower.look().unknown);
        write(&handle, &format!("UPDATE pears SET name = 'y{round}'"));
        let changes = follower.look();
        assert!(!changes.unknown, "the next is counted from there: {changes:?}");
    }
    drop(other);
    handle.close();
    assert_eq!(follower.feed.wait(&follower.reader, look, None), Woken::Closed);
}

#[test]
fn files_without_a_write_ahead_log_are_followed_too() {
    let folder = Folder::new();
    open(&folder).close();
    let store = Store::open(folder.file("a.db")).expect("it opens");
    store.execute_batch("PRAGMA journal_mode = DELETE").expect("nobody else has it open");
    drop(store);
    let handle = StoreHandle::open(folder.file("a.db"), &OpenOptions::new(), 1).expect("it opens");
    let mut follower = Follower::new(&handle);
    follower.look();
    let look = Duration::from_millis(5);
    assert_eq!(follower.feed.wait(&follower.reader, look, Some(Duration::ZERO)), Woken::TimedOut);
    let other = Store::open(folder.file("a.db")).expect("another connection");
    for round in 0..10usize {
        other.execute("INSERT INTO plums VALUES (?, 'x', 0)", [round as i64]).expect("it writes");
        assert_eq!(follower.feed.wait(&follower.reader, look, None), Woken::Called);
        assert!(follower.look().unknown);
        write(&handle, &format!("INSERT INTO pears VALUES ({round}, 'x', 0)"));
        assert_eq!(follower.feed.wait(&follower.reader, look, None), Woken::Called);
        follower.look();
        assert_eq!(follower.seen.each_ref().map(Rows::len), [round + 1, round + 1]);
    }
    assert_eq!(follower.feed.wait(&follower.reader, look, Some(Duration::ZERO)), Woken::TimedOut);
    handle.close();
}

#[test]
fn snapshots_are_exact_while_others_write() {
    let folder = Folder::new();
    let handle = open(&folder);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (handle, stop, path) = (handle.clone(), stop.clone(), folder.file("a.db"));
            std::thread::spawn(move || {
                let mut rng = Rng::new(writer);
                let foreign = OpenOptions::new().open(path).expect("another connection");
                while !stop.load(Ordering::Relaxed) {
                    let body: String = (0..1 + rng.below(3)).map(|_| random_sql(&mut rng)).collect();
                    if writer == 1 && rng.chance(10) {
                        let _ = foreign.execute_batch(&format!("BEGIN IMMEDIATE;{body}COMMIT"));
                        let _ = foreign.execute_batch("ROLLBACK");
                    } else {
                        write(&handle, &format!("BEGIN;{body}COMMIT"));
                    }
                }
            })
        })
        .collect();
    let mut follower = Follower::new(&handle);
    let (mut exact, mut unknown) = (0, 0);
    // Both must have happened for this to show anything.
    while exact < 300 || unknown < 20 {
        let changes = follower.look();
        if changes.unknown {
            unknown += 1;
        } else if !changes.is_empty() {
            exact += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
    follower.look();
    assert!(follower.look().is_empty());
    handle.close();
}
