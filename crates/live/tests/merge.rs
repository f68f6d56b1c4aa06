//! What a peer sends is one commit, however many rows it has: each query that it concerns is told once, and all of it.

use std::path::PathBuf;

use futures::executor::block_on;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use opor_core::SiteId;
use opor_live::{Diff, Edit, Live, LiveError};
use opor_store::{ApplyOptions, Cursor, OpenOptions, Origin, Store, StoreHandle};

const SCHEMA: &str = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, list INTEGER, title TEXT);
    CREATE INDEX of_list ON todos(list); CREATE TABLE other(id INTEGER PRIMARY KEY)";
const PEER: [u8; 16] = [2; 16];
/// Lists that there are queries for. The peer writes to half of them, and to as many for which there are none.
const QUERIES: i64 = 200;

type Todo = (i64, String);
type Diffs = BoxStream<'static, Result<Diff<Todo>, LiveError>>;

struct Place {
    folder: PathBuf,
    handle: StoreHandle,
    live: Live,
    peer: Store,
    held: Cursor,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.clone().close();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("opor-merge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let handle = StoreHandle::open(folder.join("a.db"), &OpenOptions::new(), 1).expect("it opens");
        let prepare = |store: &mut Store| {
            store.execute_batch(SCHEMA).expect("the schema");
            store.replicate("todos").expect("it replicates");
        };
        block_on(handle.write(prepare)).expect("it runs");
        let peer = OpenOptions::new().site_id(SiteId::from(PEER));
        let mut peer = peer.open_in_memory().expect("a peer");
        prepare(&mut peer);
        let live = Live::start(&handle).expect("it starts");
        Self { folder, handle, live, peer, held: Cursor::start() }
    }

    fn open(&self, sql: &str, list: Option<i64>) -> Diffs {
        let query =
            list.into_iter().fold(self.live.query::<Todo>(sql).key(["id"]), |query, list| query.bind(list));
        let mut diffs = block_on(query.subscribe()).expect("it subscribes").diffs();
        block_on(diffs.next()).expect("it goes on").expect("a first result");
        diffs
    }

    /// The peer writes, and all of it is merged at once.
    fn merge(&mut self, sql: &str) {
        self.peer.execute_batch(sql).expect("the peer writes");
        let batch = self.peer.changes(&self.held, usize::MAX).expect("it reads");
        self.held = batch.cursor;
        let cursor = Some((self.peer.site_id(), batch.cursor));
        let options = ApplyOptions { cursor, ..ApplyOptions::default() };
        block_on(
            self.handle.write(move |store| store.apply_with(&batch.changeset, &options).expect("it merges")),
        )
        .expect("it runs");
        block_on(self.live.settled()).expect("the database is open");
    }
}

/// The one diff that waits.
fn one(diffs: &mut Diffs) -> Diff<Todo> {
    let diff = diffs.next().now_or_never().flatten().expect("it was told").expect("a result");
    assert!(is_silent(diffs), "one changeset is one update");
    diff
}

fn is_silent(diffs: &mut Diffs) -> bool {
    diffs.next().now_or_never().is_none()
}

#[track_caller]
fn check(name: &str, rows: i64, runs_of_others: u64) {
    let mut place = Place::new(name);
    let mut lists: Vec<Diffs> = (0..QUERIES)
        .map(|list| place.open("SELECT id, title FROM todos WHERE list = ? ORDER BY id", Some(list)))
        .collect();
    let mut all = place.open("SELECT 0 AS id, 'rows: ' || count(*) AS title FROM todos", None);
    let mut none = place.open("SELECT id, 'x' AS title FROM other", None);
    let concerned = QUERIES / 2;
    let before = place.live.stats();

    // Lists from half of the queries on to as many beyond.
    place.merge(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows} - 1)
        INSERT INTO todos SELECT i, {concerned} + i % {QUERIES}, 'to do ' || i FROM n"
    ));
    let after = place.live.stats();
    assert_eq!(after.updates - before.updates, concerned as u64 + 1, "one for each, and one for all");
    assert_eq!(after.runs - before.runs, concerned as u64 + 1 + runs_of_others);
    for (list, diffs) in lists.iter_mut().enumerate() {
        if (list as i64) < concerned {
            assert!(is_silent(diffs), "nothing has come to list {list}");
            continue;
        }
        let diff = one(diffs);
        let expected = (0..rows).filter(|row| concerned + row % QUERIES == list as i64).enumerate();
        let expected: Vec<Edit<Todo>> =
            expected.map(|(at, row)| Edit::Insert { at, row: (row, format!("to do {row}")) }).collect();
        assert!(!expected.is_empty() && told(diff.edits) == expected, "list {list}");
        assert_eq!(diff.origin, Some(Origin::Peer(SiteId::from(PEER))));
    }
    let total = Edit::Update { at: 0, row: (0, format!("rows: {rows}")) };
    assert_eq!(told(one(&mut all).edits), [total]);
    assert!(is_silent(&mut none));

    // Each row is changed and moved, and some are deleted, in several statements of one transaction.
    let (before, first) = (place.live.stats(), concerned);
    place.merge(&format!(
        "BEGIN; UPDATE todos SET title = 'done'; UPDATE todos SET title = title || ' ' || id;
        UPDATE todos SET list = {first} WHERE list = {first} + 1; DELETE FROM todos WHERE list = {first} + 2; COMMIT"
    ));
    assert_eq!(place.live.stats().updates - before.updates, concerned as u64 + 1);
    let [to, from, deleted] = [0, 1, 2].map(|more| one(&mut lists[(first + more) as usize]).edits);
    let of = |list: i64| (0..rows).filter(move |row| row % QUERIES == list).count();
    let changes = |edits: &[Edit<Todo>], is_it: fn(&Edit<Todo>) -> bool| {
        edits.iter().filter(|edit| is_it(edit)).count()
    };
    let is_removal = |edit: &Edit<Todo>| matches!(edit, Edit::Remove { .. });
    match &to[..] {
        // As many rows come as are there: it is told anew.
        [Edit::Reset { rows }] => assert_eq!(rows.len(), of(0) + of(1)),
        edits => {
            assert_eq!(changes(edits, |edit| matches!(edit, Edit::Insert { .. })), of(1));
            assert_eq!(changes(edits, |edit| matches!(edit, Edit::Update { .. })), of(0));
        }
    }
    assert!(from == [Edit::Reset { rows: Vec::new() }] || changes(&from, is_removal) == of(1));
    assert!(deleted == [Edit::Reset { rows: Vec::new() }] || changes(&deleted, is_removal) == of(2));
    assert!(lists[..concerned as usize].iter_mut().all(is_silent));
    for diffs in &mut lists[concerned as usize + 3..] {
        let edits = one(diffs).edits;
        assert!(
            edits
                .iter()
                .all(|edit| matches!(edit, Edit::Update { row, .. } if row.1 == format!("done {}", row.0)))
        );
    }
}

/// A reset of a list that was empty, as what it is.
fn told(edits: Vec<Edit<Todo>>) -> Vec<Edit<Todo>> {
    let insert = |(at, row)| Edit::Insert { at, row };
    edits
        .into_iter()
        .flat_map(|edit| match edit {
            Edit::Reset { rows } => rows.into_iter().enumerate().map(insert).collect(),
            edit => vec![edit],
        })
        .collect()
}

#[test]
fn a_changeset_of_few_rows_is_one_update_for_each_query_that_it_concerns() {
    check("few", 1_000, 0);
}

#[test]
fn a_changeset_of_more_rows_than_feeds_tell_is_one_update_too() {
    // Which rows there were is not told, so that all who read the table are run; and only those whose results are others are told.
    check("many", 20_000, QUERIES as u64 / 2);
}
