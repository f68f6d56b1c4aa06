//! Deletes that somebody has forgotten, and of which a replica learns from a snapshot: it has no record of them, so its other
//! peers are behind it like behind one that has forgotten them itself.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opor_core::{DbVersion, SiteId, WallMillis};
use opor_store::{
    ApplyError, ApplyOptions, ApplyReport, CompactOptions, Cursor, OpenOptions, ReadError, Store,
};

use crate::replicas::{Folder, exec, lines, site};
use crate::snapshots::{content, image, start_from};

const TODOS: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done)";
/// A later write: what was deleted before it is as old at least.
const DATES: &str = "INSERT OR REPLACE INTO todos VALUES ('dates the deletes', 0, 0)";
const DAY_MS: u64 = 86_400_000;

/// Replicas whose clocks the test winds.
struct Scene {
    folder: Folder,
    wall: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Self {
        Self { folder: Folder::new(), wall: Arc::new(AtomicU64::new(1_700_000_000_000)) }
    }

    fn options(&self) -> OpenOptions {
        let wall = self.wall.clone();
        OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))))
    }

    fn store(&self, byte: u8) -> Store {
        let options = self.options().site_id(site(byte));
        let mut store = options.open(self.folder.file(&format!("{byte}.db"))).expect("a store");
        exec(&store, TODOS);
        store.replicate("todos").expect("it replicates");
        store
    }

    /// Has a replica forget all deletes before its last write, whoever has heard of them.
    #[track_caller]
    fn forget(&self, store: &mut Store) {
        self.wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
        let options = CompactOptions { retention: Some(Duration::from_millis(30 * DAY_MS)) };
        assert!(store.compact_with(&options).expect("it compacts").tombstones_dropped > 0);
    }

    /// Merges a snapshot as a session does.
    #[track_caller]
    fn take(&self, target: &mut Store, source: &Store) -> ApplyReport {
        let snapshot = source.snapshot().expect("a snapshot");
        let image = image(&snapshot, &self.folder.file("image"), &self.options());
        let report = target.merge_snapshot_of_peer(&image, &mut |_| ControlFlow::Continue(()));
        image.discard().expect("the file goes");
        report.expect("it is merged")
    }

    /// Brings two in step, as a session does: who is behind takes a snapshot, and gives its log after that.
    #[track_caller]
    fn sync(&self, stores: &mut [Store], (one, other): (usize, usize)) {
        for _ in 0..3 {
            for (target, source) in [(one, other), (other, one)] {
                let [target, source] = stores.get_disjoint_mut([target, source]).expect("two stores");
                if !is_aware(target, source.site_id()) {
                    let own = target.site_id();
                    let cursor = source.peer_cursor(own).expect("it reads");
                    if cursor.is_none_or(|cursor| is_behind(target, source.site_id(), &cursor)) {
                        self.take(source, target);
                    }
                    let cursor = source.peer_cursor(own).expect("it reads").expect("there is one now");
                    target.set_acknowledged_by(source.site_id(), cursor.base).expect("it is stored");
                }
                let cursor = target.peer_cursor(source.site_id()).expect("it reads");
                if cursor.is_some_and(|cursor| is_behind(source, target.site_id(), &cursor)) {
                    self.take(target, source);
                }
                pull(target, source);
            }
        }
    }
}

fn is_aware(store: &Store, peer: SiteId) -> bool {
    store.acknowledged_by(peer).expect("it reads") >= store.horizon_for(peer).expect("it reads")
}

fn is_behind(store: &Store, peer: SiteId, cursor: &Cursor) -> bool {
    match store.changes_for(peer, cursor, 100) {
        Ok(_) => false,
        Err(ReadError::BehindHorizon { cursor: of }) => of == *cursor,
        Err(error) => panic!("{error}"),
    }
}

/// Pulls what is new, and acknowledges it.
#[track_caller]
fn pull(target: &mut Store, source: &mut Store) {
    let peer = source.site_id();
    let cursor = target.peer_cursor(peer).expect("a cursor").unwrap_or_else(Cursor::start);
    let batch = source.changes_for(target.site_id(), &cursor, usize::MAX).expect("the cursor holds");
    let options =
        ApplyOptions { cursor: Some((peer, batch.cursor)), from_aware: true, ..ApplyOptions::default() };
    target.apply_with(&batch.changeset, &options).expect("honest changes apply");
    source.set_acknowledged_by(target.site_id(), batch.cursor.base).expect("recorded");
}

/// Tables and logs are the same, but for tombstones: some have dropped them.
#[track_caller]
fn are_equal(stores: &[Store]) {
    let living = |store: &Store| {
        let is_tombstone = |line: &String| {
            let cl = line.strip_prefix("log ").and_then(|line| line.rsplit("cl").next()?.parse::<u64>().ok());
            cl.is_some_and(|cl| cl % 2 == 0)
        };
        let mut lines = content(store);
        lines.retain(|line| !is_tombstone(line));
        lines
    };
    let first = living(&stores[0]);
    stores[1..].iter().for_each(|store| assert_eq!(living(store), first));
}

fn ids(store: &Store) -> Vec<String> {
    lines(store, "SELECT id FROM todos WHERE id <> 'dates the deletes' ORDER BY id")
}

/// A chain: the first remembers a delete that the second has forgotten, the third learns of it from a snapshot, and the fourth has
/// a row of the same key.
fn chain(scene: &Scene) -> [Store; 4] {
    let mut stores = [0xa, 0xb, 0xc, 0xd].map(|byte| scene.store(byte));
    exec(&stores[0], "INSERT INTO todos VALUES ('kept', 1, 0)");
    for link in [(0, 1), (1, 2), (2, 3)] {
        scene.sync(&mut stores, link);
    }
    exec(&stores[1], "INSERT INTO todos VALUES ('again', 2, 0); DELETE FROM todos WHERE id = 'again'");
    exec(&stores[1], DATES);
    scene.sync(&mut stores, (0, 1));
    exec(&stores[3], "INSERT INTO todos VALUES ('again', 3, 0)");
    scene.forget(&mut stores[1]);
    stores
}

#[test]
fn rows_of_one_that_missed_what_was_learnt_come_back_for_everybody() {
    let scene = Scene::new();
    let mut stores = chain(&scene);
    let [_, second, third, fourth] = &mut stores;
    let (of_second, of_fourth) = (second.site_id(), fourth.site_id());
    let before = fourth.peer_cursor(third.site_id()).expect("it reads").expect("it has pulled");
    assert!(is_aware(third, of_fourth));
    let report = scene.take(third, second);
    let version = third.db_version().expect("a version");
    assert_eq!(report.db_version, Some(version), "what is learnt takes a version");

    assert_eq!(third.horizon().expect("it reads"), DbVersion(0), "nothing was forgotten here");
    assert_eq!(third.horizon_for(of_second).expect("it reads"), DbVersion(0), "who told of it knows");
    assert_eq!(third.horizon_for(of_fourth).expect("it reads"), version);
    assert!(is_aware(third, of_second) && !is_aware(third, of_fourth));
    assert!(is_behind(third, of_fourth, &before), "its cursor says that it has not heard");
    let cursor = second.peer_cursor(third.site_id()).expect("it reads").expect("it has pulled");
    assert!(!is_behind(third, of_second, &cursor), "of who knows the log goes on");
    // Nothing is taken from the fourth before it has learnt.
    let batch = fourth.changes(&Cursor::start(), 100).expect("the start holds");
    let options =
        ApplyOptions { cursor: Some((of_fourth, batch.cursor)), from_aware: true, ..ApplyOptions::default() };
    let refused = third.apply_with(&batch.changeset, &options);
    assert!(
        matches!(refused, Err(ApplyError::PeerBehind { horizon, .. }) if horizon == version),
        "{refused:?}"
    );
    assert_eq!(ids(third), ["kept"]);

    for link in [(2, 3), (1, 2), (0, 1), (1, 2), (2, 3)] {
        scene.sync(&mut stores, link);
    }
    stores.iter().for_each(|store| assert_eq!(ids(store), ["again", "kept"]));
    are_equal(&stores);
}

/// A tombstone of an earlier life does not tell of the deletes that only the first remembers.
#[test]
fn a_row_past_its_tombstone_is_left_out_until_its_peer_has_learnt() {
    for by_hand in [false, true] {
        let scene = Scene::new();
        let mut stores = [0xa, 0xb, 0xc, 0xd].map(|byte| scene.store(byte));
        exec(&stores[1], "INSERT INTO todos VALUES ('again', 1, 0), ('kept', 2, 0), ('other', 3, 0)");
        for link in [(0, 1), (1, 2), (2, 3)] {
            scene.sync(&mut stores, link);
        }
        let [_, second, _, fourth] = &mut stores;
        exec(second, "DELETE FROM todos WHERE id = 'again'");
        exec(second, "INSERT INTO todos VALUES ('again', 'twice', 0)");
        exec(second, "DELETE FROM todos WHERE id = 'again'");
        exec(second, DATES);
        exec(fourth, "DELETE FROM todos WHERE id IN ('again', 'other')");
        exec(fourth, DATES);
        scene.sync(&mut stores, (0, 1));
        let [_, second, third, fourth] = &mut stores;
        scene.forget(second);
        scene.forget(fourth);
        exec(fourth, "INSERT INTO todos VALUES ('again', 'of the fourth', 0)");
        assert_eq!(scene.take(third, second).rows_deleted, 1, "of a first life");
        if by_hand {
            let snapshot = fourth.snapshot().expect("a snapshot");
            let image = image(&snapshot, &scene.folder.file("image"), &scene.options());
            assert_eq!(third.merge_snapshot(&image).expect("it is merged").rows_brought_back, 1);
            image.discard().expect("the file goes");
        } else {
            assert!(scene.take(third, fourth).rows_left_out > 0);
            assert_eq!(ids(third), ["kept"]);
            assert_eq!(scene.take(fourth, third).rows_brought_back, 1);
        }
        for link in [(2, 3), (1, 2), (0, 1), (1, 2), (2, 3)] {
            scene.sync(&mut stores, link);
        }
        stores.iter().for_each(|store| assert_eq!(ids(store), ["again", "kept"], "{by_hand}"));
        are_equal(&stores);
    }
}

/// Files of before there was a table for what is learnt get it when they need it.
#[test]
fn files_that_have_no_place_for_it_get_one() {
    let scene = Scene::new();
    let [_, mut second, mut third, fourth] = chain(&scene);
    exec(&third, "DELETE FROM todos WHERE id = 'kept'");
    exec(&third, DATES);
    scene.forget(&mut third);
    for (store, file) in [(&mut second, "11.db"), (&mut third, "12.db")] {
        exec(store, "DROP TABLE opor_learnt");
        *store = scene.options().open(scene.folder.file(file)).expect("it opens");
    }
    let own = third.horizon().expect("it reads");
    assert_eq!(third.horizon_for(fourth.site_id()).expect("it reads"), own);
    scene.take(&mut third, &second);
    assert!(third.horizon_for(fourth.site_id()).expect("it reads") > own);
    assert_eq!(third.horizon_for(second.site_id()).expect("it reads"), own);
}

/// What is learnt once is known: replicas in a ring do not send each other snapshots for ever.
#[test]
fn what_is_known_is_not_learnt_anew() {
    let scene = Scene::new();
    let mut stores = chain(&scene);
    let [first, second, third, fourth] = &mut stores;
    scene.take(third, second);
    scene.take(fourth, third);
    let marks = |stores: &[&Store]| {
        let of = |store: &&Store| store.horizon_for(site(0x1)).expect("it reads");
        stores.iter().map(of).collect::<Vec<_>>()
    };
    let before = marks(&[first, second, third, fourth]);
    assert!(before[2] > DbVersion(0) && before[3] > DbVersion(0), "{before:?}");
    // The one that has forgotten, one that has the deletes on record, and those that have learnt of them.
    scene.take(second, fourth);
    scene.take(first, fourth);
    scene.take(third, fourth);
    scene.take(fourth, second);
    scene.take(third, second);
    assert_eq!(marks(&[first, second, third, fourth]), before);
    // What was forgotten since is news.
    exec(second, "DELETE FROM todos WHERE id = 'kept'");
    exec(second, DATES);
    scene.forget(second);
    scene.take(third, second);
    assert!(third.horizon_for(site(0x1)).expect("it reads") > before[2]);
}

/// Whoever has one peer alone forgets nothing that others could remember: a hub that learns of it does not hold its other leaves.
#[test]
fn what_one_with_a_single_peer_forgets_is_no_news() {
    let scene = Scene::new();
    let mut stores = [0xa, 0xb, 0xc].map(|byte| scene.store(byte));
    exec(&stores[0], "INSERT INTO todos VALUES ('gone', 1, 0), ('kept', 2, 0)");
    for link in [(0, 1), (0, 2)] {
        scene.sync(&mut stores, link);
    }
    let [hub, leaf, other] = &mut stores;
    exec(leaf, "DELETE FROM todos WHERE id = 'gone'");
    exec(leaf, DATES);
    scene.forget(leaf);
    assert_eq!(scene.take(hub, leaf).rows_deleted, 1);
    assert_eq!(hub.horizon_for(other.site_id()).expect("it reads"), DbVersion(0));
    // A stranger cannot tell that the hub is the only one.
    let mut stranger = scene.store(0xe);
    scene.take(&mut stranger, leaf);
    assert!(stranger.horizon_for(site(0x1)).expect("it reads") > DbVersion(0));
    for link in [(0, 2), (0, 1)] {
        scene.sync(&mut stores, link);
    }
    are_equal(&stores);
}

/// It is kept with the database, and goes with its snapshots.
#[test]
fn what_was_learnt_outlives_the_process_and_travels() {
    let scene = Scene::new();
    let [_, second, mut third, fourth] = chain(&scene);
    scene.take(&mut third, &second);
    let (horizon, own) = (third.horizon_for(fourth.site_id()).expect("it reads"), third.site_id());
    drop(third);
    let third = scene.options().open(scene.folder.file("12.db")).expect("it opens");
    assert_eq!((third.site_id(), third.horizon_for(fourth.site_id()).expect("it reads")), (own, horizon));

    let new = start_from(&third, &scene.folder.file("new.db"), 0xe);
    assert_eq!(new.horizon_for(fourth.site_id()).expect("it reads"), horizon);
    assert_eq!(new.horizon_for(second.site_id()).expect("it reads"), DbVersion(0), "it knows");
    let at_start = new.is_far_behind(&Cursor::at(DbVersion(horizon.0 - 1)), 1_000);
    assert!(matches!(at_start, Err(ReadError::BehindHorizon { .. })), "{at_start:?}");
}
