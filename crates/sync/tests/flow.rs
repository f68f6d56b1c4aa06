//! Edits while much else is under way, sessions that end and begin in turn, and peers that are turned away.

mod common;

use std::sync::Arc;

use opor_core::WallMillis;
use opor_store::{OpenOptions, QuarantineLimits, Store};
use opor_sync::{Ended, Rejection, SyncEvent, SyncStatus};
use opor_sync_proto::{ByeCode, CloseReason, Kind};
use opor_transport_memory::MemoryNetwork;
use tokio::sync::watch;

use crate::common::tap::{Gate, Tap};
use crate::common::{Replica, becomes, event, is_live, within};

fn ended(event: &SyncEvent) -> Option<Arc<Ended>> {
    match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    }
}

/// A catch-up of 100,000 rows that is in the middle: edits of either side reach whoever is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_flow_while_much_is_caught_up_with() {
    let network = MemoryNetwork::new();
    let (desk, phone, tablet) = (Replica::new().await, Replica::new().await, Replica::new().await);
    let at_desk =
        desk.sync().changes_max(10_000).listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_tablet = tablet.sync().peer(network.dialer("tablet", "desk")).start().await.unwrap();
    is_live(&at_tablet.peers()[0]).await;
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)";
    desk.write(&format!("INSERT INTO todos(id, title) {numbers} SELECT i, 'todo' FROM n")).await;

    // The fifth piece waits; so what happens now happens in the middle.
    let tap = Tap::at(Kind::Changes, 5);
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "desk"))).start().await.unwrap();
    tap.reached().await;
    for id in 0..20 {
        phone.write(&format!("INSERT INTO todos(id, title) VALUES ({}, 'phone')", 200_000 + id)).await;
        tablet.write(&format!("INSERT INTO todos(id, title) VALUES ({}, 'tablet')", 300_000 + id)).await;
        desk.write(&format!("UPDATE todos SET note = 'desk' WHERE id = {}", 1 + id)).await;
    }
    let all = "SELECT sum(title = 'phone') = 20 AND sum(title = 'tablet') = 20 AND sum(note = 'desk') = 20 FROM todos";
    desk.says("the edits of all", all).await;
    tablet.says("the edits of all", all).await;
    let rows = phone.rows().await.len();
    assert!((20..60_000).contains(&rows), "{rows} rows are here in the middle");
    let status = at_phone.peers()[0].status().borrow().clone();
    assert!(matches!(status, SyncStatus::CatchingUp { done: 1.., total: None, .. }), "{status:?}");

    tap.set(Gate::Open);
    phone.says("the edits of all", all).await;
    is_live(&at_phone.peers()[0]).await;
    tablet.says("all rows", "SELECT count(*) = 100040 FROM todos").await;
    phone.says("all rows", "SELECT count(*) = 100040 FROM todos").await;
    phone.equals(&desk).await;
    tablet.equals(&desk).await;
    for replicator in [at_phone, at_tablet, at_desk] {
        within("the end", replicator.stop()).await;
    }
}

/// The link is lost while the writer is busy, and with a piece of the log still to be stored. The peer is back at once; it
/// is asked for what comes after that piece.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_session_asks_for_what_the_last_one_leaves() {
    let network = MemoryNetwork::new();
    let (desk, phone) = (Replica::new().await, Replica::new().await);
    desk.fill(1, 5_000).await;
    let (hellos, mut heard) = watch::channel(0);
    let admit = move |_: &opor_sync::Hello| {
        hellos.send_modify(|hellos| *hellos += 1);
        Ok(())
    };
    let at_phone = phone.sync().admit(admit).listen(network.listen("phone").unwrap()).start().await.unwrap();
    let mut events = at_phone.events();
    let mut commits = phone.store.commits();
    let at_desk = desk.sync().changes_max(500).peer(network.dialer("desk", "phone")).start().await.unwrap();
    within("the first rows", commits.next()).await.unwrap();
    let (free, held) = std::sync::mpsc::channel::<()>();
    let (waits, is_waiting) = tokio::sync::oneshot::channel();
    let busy = phone.store.clone();
    let busy = tokio::spawn(async move {
        busy.write(move |_: &mut Store| {
            waits.send(()).unwrap();
            held.recv().unwrap();
        })
        .await
    });
    within("the writer to wait", is_waiting).await.unwrap();
    assert!(phone.rows().await.len() < 5_000);
    network.cut("desk", "phone");
    within("the desk to be back", heard.wait_for(|hellos| *hellos == 2)).await.unwrap();
    free.send(()).unwrap();
    within("the writer", busy).await.unwrap().unwrap();
    phone.says("all rows", "SELECT count(*) = 5000 FROM todos").await;
    is_live(&at_desk.peers()[0]).await;
    phone.equals(&desk).await;
    at_desk.stop().await;
    at_phone.stop().await;
    let (mut changes, mut known) = (0, 0);
    while let Some(event) = events.next().await {
        if let SyncEvent::Merged { changes: came, unchanged, .. } = event {
            (changes, known) = (changes + came, known + unchanged);
        }
    }
    assert_eq!((changes, known), (10_000, 0), "nothing came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_peers_are_told_and_come_again() {
    let network = MemoryNetwork::new();
    let (desk, one, other) = (Replica::new().await, Replica::new().await, Replica::new().await);
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    let at_desk = desk.sync().sessions_max(1).listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_one = one.sync().peer(network.dialer("one", "desk")).start().await.unwrap();
    is_live(&at_one.peers()[0]).await;
    let at_other = other.sync().peer(network.dialer("other", "desk")).start().await.unwrap();
    let mut events = at_other.events();
    let how = event(&mut events, ended).await;
    let Ended::Session(CloseReason::Peer(bye)) = &*how else { panic!("{how:?}") };
    assert_eq!(bye.code, ByeCode::Busy);
    assert_eq!(other.rows().await, []);
    // Who is let in goes on, and makes room in the end.
    desk.write("INSERT INTO todos(id, title) VALUES (2, 'bread')").await;
    one.holds(&[(1, "milk"), (2, "bread")]).await;
    at_one.stop().await;
    is_live(&at_other.peers()[0]).await;
    other.holds(&[(1, "milk"), (2, "bread")]).await;
    at_desk.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_does_not_fit_is_named_and_final() {
    let network = MemoryNetwork::new();
    let pairs = "CREATE TABLE todos(a NOT NULL, b NOT NULL, title TEXT, note TEXT, PRIMARY KEY (a, b))";
    let nothing_waits = OpenOptions::new().quarantine(QuarantineLimits::NONE);
    let (desk, phone) = (Replica::new().await, Replica::of(pairs, &nothing_waits).await);
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    let refused = |status: &SyncStatus| matches!(status, SyncStatus::Refused { .. });
    let SyncStatus::Refused { reason } = becomes(&at_phone.peers()[0], refused).await else {
        panic!("it is refused")
    };
    assert!(reason.contains("does not fit table \"todos\""), "{reason}");
    let end = at_phone.peers()[0].last_end();
    assert!(matches!(end.as_deref(), Some(Ended::Rejected { rejection: Rejection::Schema, .. })), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_from_the_future_is_named_and_tried_again_later() {
    let network = MemoryNetwork::new();
    let past = OpenOptions::new().wall_clock(Arc::new(|| WallMillis(1_600_000_000_000)));
    let todos = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT, note TEXT)";
    let (desk, slow) = (Replica::new().await, Replica::of(todos, &past).await);
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_slow = slow.sync().peer(network.dialer("slow", "desk")).start().await.unwrap();
    let mut events = at_slow.events();
    for _ in 0..2 {
        let how = event(&mut events, ended).await;
        let Ended::Rejected { rejection: Rejection::Drift, why } = &*how else { panic!("{how:?}") };
        assert!(why.contains("ahead"), "{why}");
    }
    assert_eq!(slow.rows().await, []);
    // What it wrote itself is old, and taken.
    slow.write("INSERT INTO todos(id, title) VALUES (2, 'bread')").await;
    desk.holds(&[(1, "milk"), (2, "bread")]).await;
    within("the end", at_slow.stop()).await;
}
