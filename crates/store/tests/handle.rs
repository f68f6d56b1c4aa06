//! The owning handle: writes in order, reads beside them, no runtime blocked.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use futures::executor::{LocalPool, block_on};
use futures::task::LocalSpawnExt;
use opor_store::{HandleError, OpenOptions, Store, StoreHandle};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("opor-handle-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn handle(&self, readers: usize) -> StoreHandle {
        let handle = StoreHandle::open(self.0.join("a.db"), &OpenOptions::new(), readers).expect("opened");
        block_on(handle.write(|store| {
            store
                .execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY NOT NULL, x)")
                .expect("made");
            store.replicate("t").expect("it replicates");
        }))
        .expect("written");
        handle
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn count(store: &opor_store::Store) -> i64 {
    store.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a count")
}

#[test]
fn reads_go_on_while_a_write_waits_and_the_runtime_is_free() {
    let folder = Folder::new("beside");
    let handle = folder.handle(2);
    let (release, released) = channel::<()>();
    let mut pool = LocalPool::new();
    let writer = handle.clone();
    let write = pool
        .spawner()
        .spawn_local_with_handle(async move {
            writer
                .write(move |store| {
                    let transaction = store.transaction().expect("begun");
                    transaction.execute("INSERT INTO t VALUES (1, 'a')", []).expect("inserted");
                    released.recv().expect("released");
                    transaction.commit().expect("committed");
                })
                .await
        })
        .expect("spawned");
    pool.run_until_stalled();
    // One thread runs all this: were it blocked by the write, nothing would ever release it.
    assert_eq!(pool.run_until(handle.read(count)), Ok(0), "a reader sees the last commit");
    release.send(()).expect("the write waits");
    assert_eq!(pool.run_until(write), Ok(()));
    assert_eq!(pool.run_until(handle.read(count)), Ok(1));
}

/// As many as may wait at once: those beyond are queued as room comes free, in no order.
#[test]
fn writes_keep_their_order_and_changes_are_captured() {
    let folder = Folder::new("order");
    let handle = folder.handle(1);
    let writes = (0..200).map(|n| {
        handle.write(move |store| store.execute("INSERT INTO t VALUES (?, ?)", [n, n]).expect("inserted"))
    });
    let done = block_on(futures::future::join_all(writes));
    assert_eq!(done, vec![Ok(1); 200]);
    let versions = block_on(handle.read(|store| {
        let changes = store.changes_since(0.into()).expect("changes");
        changes.changes().map(|change| (change.db_version.0, change.seq)).collect::<Vec<_>>()
    }));
    assert_eq!(versions, Ok((1..=200).map(|n| (n, 0)).collect()));
}

#[test]
fn a_job_that_panics_or_forgets_its_transaction_harms_no_other() {
    let folder = Folder::new("panic");
    let handle = folder.handle(1);
    let panicked = block_on(handle.write(|store| {
        store.execute_batch("BEGIN; INSERT INTO t VALUES (1, 1)").expect("inserted");
        std::panic::panic_any("on purpose");
    }));
    assert_eq!(panicked, Err(HandleError::Panicked));
    block_on(
        handle.write(|store| store.execute_batch("BEGIN; INSERT INTO t VALUES (2, 2)").expect("inserted")),
    )
    .expect("the handle goes on");
    block_on(handle.write(|store| store.execute("INSERT INTO t VALUES (3, 3)", []).expect("inserted")))
        .expect("written");
    assert_eq!(block_on(handle.read(count)), Ok(1), "only the job that committed left something");
    let refused = block_on(handle.read(|store| store.execute("DELETE FROM t", []).is_err()));
    assert_eq!(refused, Ok(true), "readers do not write");
}

#[test]
fn close_does_what_is_queued_and_then_refuses() {
    let folder = Folder::new("close");
    let handle = folder.handle(1);
    let other = handle.clone();
    block_on(handle.write(|store| store.execute("INSERT INTO t VALUES (1, 1)", []).expect("inserted")))
        .expect("written");
    handle.close();
    assert_eq!(block_on(other.write(count_mut)), Err(HandleError::Closed));
    let reopened = folder.handle(1);
    assert_eq!(block_on(reopened.read(count)), Ok(1));
}

fn count_mut(store: &mut opor_store::Store) -> i64 {
    count(store)
}

/// A snapshot is made beside readers and writer, by a connection that can only read.
#[test]
fn long_work_has_a_thread_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let handle = StoreHandle::open(folder.path().join("app.db"), &OpenOptions::new(), 1).unwrap();
    let images = tempfile::tempdir().unwrap();
    let chosen = images.path().to_owned();
    block_on(async {
        let write = |store: &mut Store| {
            store.execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title)").unwrap();
            store.replicate("todos").unwrap();
            store.execute_batch("INSERT INTO todos VALUES (1, 'milk')").unwrap();
        };
        handle.write(write).await.unwrap();
        // The only reader is busy all the while.
        let (free, held) = channel::<()>();
        let reader = handle.clone();
        let busy = std::thread::spawn(move || block_on(reader.read(move |_| held.recv().is_ok())));
        let make =
            move |store: &Store| store.snapshot_in(&chosen, &mut |_| std::ops::ControlFlow::Continue(()));
        let snapshot = handle.aside(make).await.unwrap().unwrap().unwrap();
        assert_eq!(snapshot.manifest().db_version.0, 1);
        assert_eq!(std::fs::read_dir(images.path()).unwrap().count(), 1);
        drop(snapshot);
        assert_eq!(std::fs::read_dir(images.path()).unwrap().count(), 0);
        free.send(()).unwrap();
        assert_eq!(busy.join().unwrap(), Ok(true));
        let panicked = handle.aside(|_: &Store| panic!("a job that fails")).await.unwrap();
        assert_eq!(panicked, Err::<(), _>(HandleError::Panicked));
    });
    handle.close();
}
