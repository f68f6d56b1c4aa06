//! What a peer is known to hold: what it says, and what it sent itself.

use opor_core::SiteId;
use opor_store::{ApplyOptions, Cursor, OpenOptions, Store};

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
