//! What a peer is known to hold: what it says, and what it sent itself.

use std::time::Duration;

use opor_core::SiteId;
use opor_store::{ApplyError, ApplyOptions, CompactOptions, Cursor, OpenOptions, Store};

const DESK: [u8; 16] = [1; 16];
const PHONE: [u8; 16] = [2; 16];

fn open(site: [u8; 16]) -> Store {
    let mut store = OpenOptions::new().site_id(SiteId::from(site)).open_in_memory().expect("a store");
    store.execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title)").expect("a table");
    store.replicate("todos").expect("it replicates");
    store
}

fn insert(store: &Store, id: i64) {
    store.execute("INSERT INTO todos VALUES (?, 'todo')", [id]).expect("a row");
}

/// Applies what is new of the desk, as syncing does.
fn pull(phone: &mut Store, desk: &Store) {
    let cursor = phone.peer_cursor(desk.site_id()).expect("it reads").unwrap_or(Cursor::start());
    let batch = desk.changes(&cursor, 100).expect("changes");
    let options = ApplyOptions { cursor: Some((desk.site_id(), batch.cursor)), ..ApplyOptions::default() };
    phone.apply_with(&batch.changeset, &options).expect("it applies");
}

#[track_caller]
fn check(phone: &Store, version: u64, held: u64, acknowledged: u64) {
    let desk = SiteId::from(DESK);
    assert_eq!(phone.db_version().expect("it reads").0, version);
    assert_eq!(phone.held_by(desk).expect("it reads").0, held);
    // Compaction goes by what was pulled from here.
    assert_eq!(phone.acknowledged_by(desk).expect("it reads").0, acknowledged);
}

#[test]
fn what_a_peer_sent_it_holds() {
    let (desk, mut phone) = (open(DESK), open(PHONE));
    for id in 1..=3 {
        insert(&desk, id);
        pull(&mut phone, &desk);
        check(&phone, id as u64, id as u64, 0);
    }
    // Nothing new, nothing more to hold.
    pull(&mut phone, &desk);
    check(&phone, 3, 3, 0);
    // A write of which the desk knows nothing stands before what it sent later.
    insert(&phone, 10);
    insert(&desk, 4);
    pull(&mut phone, &desk);
    check(&phone, 5, 3, 0);
    phone.set_acknowledged_by(SiteId::from(DESK), 5.into()).expect("it is stored");
    insert(&desk, 5);
    pull(&mut phone, &desk);
    check(&phone, 6, 6, 5);
    insert(&phone, 11);
    phone.set_held_by(SiteId::from(DESK), 7.into()).expect("it is stored");
    phone.set_held_by(SiteId::from(DESK), 2.into()).expect("it is stored");
    check(&phone, 7, 7, 5);
}

/// In one transaction with writes of the application: the version is not the peer's alone.
#[test]
fn what_was_written_in_the_same_transaction_it_may_lack() {
    let (desk, mut phone) = (open(DESK), open(PHONE));
    insert(&desk, 1);
    phone.execute_batch("BEGIN").expect("a transaction");
    insert(&phone, 10);
    pull(&mut phone, &desk);
    phone.execute_batch("COMMIT").expect("a commit");
    check(&phone, 1, 0, 0);
}

fn forget_deletes(store: &mut Store) {
    // Notes the version and the time; what was there by then is old enough the next time.
    store.compact().expect("it compacts");
    let options = CompactOptions { retention: Some(Duration::ZERO) };
    let report = store.compact_with(&options).expect("it compacts");
    assert!(report.tombstones_dropped > 0, "there was something to forget");
}

/// What had waited here for its table came from somebody else: the peer whose merge lets it out may not hold it.
#[test]
fn what_a_merge_lets_out_of_quarantine_its_sender_may_lack() {
    let (desk, mut phone, other) = (open(DESK), open(PHONE), open([3; 16]));
    let notes = "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, text)";
    other.execute_batch(notes).expect("a table");
    let mut other = other;
    other.replicate("notes").expect("it replicates");
    other.execute("INSERT INTO notes VALUES (1, 'a')", []).expect("a row");
    other.execute_batch("ALTER TABLE todos ADD COLUMN done").expect("a column");
    other.execute("INSERT INTO todos VALUES (9, 'todo', 1)", []).expect("a row");
    let waits = other.changes(&Cursor::start(), 100).expect("changes").changeset;
    let report = phone.apply_with(&waits, &ApplyOptions::default()).expect("it applies");
    assert!(report.quarantined > 0, "{report:?}");
    let before = phone.db_version().expect("it reads");
    phone.set_acknowledged_by(desk.site_id(), before).expect("it is stored");
    phone.execute_batch("ALTER TABLE todos ADD COLUMN done").expect("a column");
    insert(&desk, 1);
    pull(&mut phone, &desk);
    assert_eq!(phone.query_row("SELECT done FROM todos WHERE id = 9", [], |row| row.get(0)), Ok(1));
    check(&phone, before.0 + 1, before.0, before.0);
}

/// A row that was deleted and forgotten would come back in part, by what the desk writes to it.
#[test]
fn nothing_is_taken_from_a_peer_that_has_not_learnt_of_forgotten_deletes() {
    let (desk, mut phone) = (open(DESK), open(PHONE));
    (1..=2).for_each(|id| insert(&desk, id));
    pull(&mut phone, &desk);
    phone.execute("DELETE FROM todos WHERE id = 1", []).expect("it is deleted");
    forget_deletes(&mut phone);
    desk.execute("UPDATE todos SET title = 'edited' WHERE id = 1", []).expect("an edit");
    let cursor = phone.peer_cursor(desk.site_id()).expect("it reads").expect("there is one");
    let batch = desk.changes(&cursor, 100).expect("changes");
    let options = ApplyOptions {
        cursor: Some((desk.site_id(), batch.cursor)),
        from_aware: true,
        ..ApplyOptions::default()
    };
    let refused = phone.apply_with(&batch.changeset, &options);
    let horizon = phone.horizon().expect("it reads");
    assert!(
        matches!(refused, Err(ApplyError::PeerBehind { acknowledged, horizon: at }) if acknowledged.0 == 0 && at == horizon),
        "{refused:?}"
    );
    assert_eq!(phone.peer_cursor(desk.site_id()).expect("it reads"), Some(cursor), "nothing is stored");
    assert_eq!(phone.query_row("SELECT count(*) FROM todos", [], |row| row.get(0)), Ok(1));
    // What has nothing in it brings nothing back.
    phone.apply_with(&opor_core::Changeset::new(), &options).expect("the cursor moves");
    phone.set_acknowledged_by(desk.site_id(), horizon).expect("it is stored");
    let options = ApplyOptions { cursor: None, ..options };
    phone.apply_with(&batch.changeset, &options).expect("it has learnt of them");
}
