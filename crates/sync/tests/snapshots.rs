//! Snapshots between real stores: taken without being asked for, gone on with after cuts and crashes, shared.

mod common;

use opor_store::Store;
use opor_sync::{CatchUp, Ended, SyncEvent, SyncEvents, SyncStatus, Timeouts};
use opor_sync_proto::Kind;
use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::Listener as _;
use opor_transport_websocket::{ListenOptions, WebSocketDialer, WebSocketListener};

use crate::common::tap::{Gate, Tap};
use crate::common::{Replica, becomes, event, is_live, within};

/// A desk with rows, and a phone that was in step and then missed deletes which the desk has forgotten.
async fn apart(network: &MemoryNetwork, rows: u32) -> (Replica, Replica) {
    let (desk, phone) = (Replica::new().await, Replica::new().await);
    desk.fill(1, rows).await;
    let at_desk = desk
        .sync()
        .listen(network.listen("desk").expect("the name is free"))
        .start()
        .await
        .expect("it starts");
    // The phone tells at once that it has nothing else.
    let timeouts = Timeouts { cursor_ms: 1, ..Timeouts::default() };
    let mut desk_events = at_desk.events();
    let at_phone = phone
        .sync()
        .timeouts(timeouts)
        .peer(network.dialer("phone", "desk"))
        .start()
        .await
        .expect("it starts");
    is_live(&at_phone.peers()[0]).await;
    let site = phone.site().await;
    let pulled =
        move |store: &Store| store.peer_cursor(site).expect("it reads").map_or(0, |cursor| cursor.base.0);
    while desk.store.read(pulled).await.expect("the handle is open") == 0 {
        event(&mut desk_events, |event| matches!(event, SyncEvent::Merged { .. }).then_some(())).await;
    }
    at_phone.stop().await;
    at_desk.stop().await;
    desk.write("DELETE FROM todos WHERE id <= 10; UPDATE todos SET title = 'changed' WHERE id = 11").await;
    desk.write("INSERT INTO todos(id, title) VALUES (70000, 'at the desk')").await;
    desk.forget_deletes().await;
    (desk, phone)
}

async fn begun(events: &mut SyncEvents) -> (u64, u64) {
    event(events, |event| match event {
        SyncEvent::SnapshotBegun { chunks, held, .. } => Some((*chunks, *held)),
        _ => None,
    })
    .await
}

async fn installed(events: &mut SyncEvents) {
    event(events, |event| matches!(event, SyncEvent::SnapshotInstalled { .. }).then_some(())).await;
}

/// Waits until so many chunks of a snapshot are on the disk.
async fn has_chunks(replicator: &opor_sync::Replicator, held: u64, chunks: u64) {
    let enough = |status: &SyncStatus| match status {
        SyncStatus::CatchingUp { by: CatchUp::Snapshot, done, total: Some(total) } => {
            *done >= total * held / chunks
        }
        _ => false,
    };
    becomes(&replicator.peers()[0], enough).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_the_horizon_is_brought_in_step_and_keeps_its_writes() {
    let network = MemoryNetwork::new();
    let (desk, phone) = apart(&network, 3_000).await;
    phone.write("INSERT INTO todos(id, title) VALUES (80000, 'on the way')").await;
    phone.write("UPDATE todos SET note = 'mine' WHERE id = 11").await;
    let tap = Tap::open();
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "desk"))).start().await.unwrap();
    let mut desk_events = at_desk.events();
    installed(&mut at_phone.events()).await;
    is_live(&at_phone.peers()[0]).await;
    desk.says("what the phone wrote", "SELECT count(*) = 2 FROM todos WHERE id = 80000 OR note = 'mine'")
        .await;
    desk.equals(&phone).await;
    assert_eq!(desk.rows().await.len(), 3_000 - 10 + 2);
    assert_eq!(tap.count(Kind::Offer), 1);

    // The row that is new here begins past the deletes that the desk has forgotten, in the commit of the snapshot. So what
    // was new in that goes back once, with the three cells that are the phone's own; and no more.
    let merged = |event: &SyncEvent| match event {
        SyncEvent::Merged { changes: changes @ 1.., unchanged, .. } => Some((*changes, *unchanged)),
        _ => None,
    };
    assert_eq!(event(&mut desk_events, merged).await, (17, 3));
    assert_eq!(phone.leftovers(), [""; 0]);
    desk.write("UPDATE todos SET title = 'live' WHERE id = 12").await;
    phone.says("a live edit", "SELECT title = 'live' FROM todos WHERE id = 12").await;
    becomes(&at_phone.peers()[0], |status| *status == SyncStatus::Live { lag: 0 }).await;
}

/// The phone edited one column of a row that was deleted and forgotten. Pulled before it has the snapshot, that one
/// column would come back alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_and_forgotten_comes_back_whole_or_not_at_all() {
    let network = MemoryNetwork::new();
    let (desk, phone) = (Replica::new().await, Replica::new().await);
    desk.write("INSERT INTO todos VALUES (1, 'milk', 'two'), (2, 'bread', 'one'), (3, 'salt', 'none')").await;
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    at_phone.stop().await;
    desk.write("DELETE FROM todos WHERE id < 3").await;
    desk.forget_deletes().await;
    phone.write("UPDATE todos SET title = 'oat milk' WHERE id = 1").await;
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    let whole = "SELECT title = 'oat milk' AND note = 'two' FROM todos WHERE id = 1 UNION ALL SELECT 0";
    desk.says("the row", whole).await;
    desk.equals(&phone).await;
    assert_eq!(desk.rows().await, [(1, "oat milk".to_owned()), (3, "salt".to_owned())]);
    at_phone.stop().await;
    at_desk.stop().await;
}

/// The same, where the phone was connected when the desk forgot: it had been allowed to send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_in_the_middle_of_a_session_does_not_come_back_in_part() {
    let network = MemoryNetwork::new();
    let (desk, phone) = (Replica::new().await, Replica::new().await);
    desk.write("INSERT INTO todos VALUES (1, 'milk', 'two'), (2, 'bread', 'one'), (3, 'salt', 'none')").await;
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    // The first brings the rows. The second would bring the deletes, and is lost.
    let tap = Tap::at(Kind::Changes, 2);
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "desk"))).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    let mut desk_events = at_desk.events();
    desk.write("DELETE FROM todos WHERE id < 3").await;
    tap.reached().await;
    desk.forget_deletes().await;
    phone.write("UPDATE todos SET title = 'oat milk' WHERE id = 1").await;
    let behind = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(matches!(**how, Ended::PeerBehind { .. })),
        _ => None,
    };
    assert!(event(&mut desk_events, behind).await, "nothing is taken that was allowed before");
    assert_eq!(desk.rows().await, [(3, "salt".to_owned())]);
    tap.set(Gate::Lost);
    let whole = "SELECT title = 'oat milk' AND note = 'two' FROM todos WHERE id = 1 UNION ALL SELECT 0";
    desk.says("the row", whole).await;
    phone.holds(&[(1, "oat milk"), (3, "salt")]).await;
    desk.equals(&phone).await;
    at_phone.stop().await;
    at_desk.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_in_the_middle_costs_no_chunk() {
    let network = MemoryNetwork::new();
    let (desk, phone) = apart(&network, 20_000).await;
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let tap = Tap::at(Kind::Chunk, 4);
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "desk"))).start().await.unwrap();
    let mut events = at_phone.events();
    let (chunks, held) = begun(&mut events).await;
    assert!(chunks > 5 && held == 0, "{chunks} chunks, {held} held");
    has_chunks(&at_phone, 3, chunks).await;
    tap.set(Gate::Lost);
    assert_eq!(begun(&mut events).await, (chunks, 3));
    installed(&mut events).await;
    is_live(&at_phone.peers()[0]).await;
    assert_eq!((tap.count(Kind::Chunk), tap.count(Kind::Offer)), (chunks, 2), "each chunk came once");
    desk.equals(&phone).await;
    assert_eq!(phone.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_goes_on_where_the_old_one_died() {
    let network = MemoryNetwork::new();
    let (desk, phone) = apart(&network, 20_000).await;
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let mut desk_events = at_desk.events();
    let tap = Tap::at(Kind::Chunk, 4);
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "desk"))).start().await.unwrap();
    let (chunks, _) = begun(&mut at_phone.events()).await;
    has_chunks(&at_phone, 3, chunks).await;
    drop(at_phone);
    let phone = phone.reopened();
    phone.write("INSERT INTO todos(id, title) VALUES (80000, 'between')").await;
    assert_eq!(phone.leftovers(), ["app.db.opor-incoming", "app.db.opor-incoming-manifest"]);

    let tap = Tap::open();
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "desk"))).start().await.unwrap();
    let mut events = at_phone.events();
    let (chunks, held) = begun(&mut events).await;
    assert_eq!(held, 3);
    installed(&mut events).await;
    is_live(&at_phone.peers()[0]).await;
    assert_eq!(tap.count(Kind::Chunk), chunks - 3);
    desk.says("what was written between", "SELECT count(*) FROM todos WHERE id = 80000").await;
    desk.equals(&phone).await;
    assert_eq!(phone.leftovers(), [""; 0]);
    // One image was made for both attempts.
    at_desk.stop().await;
    let mut made = 0;
    while let Some(event) = desk_events.next().await {
        made += u32::from(matches!(event, SyncEvent::ImageMade { .. }));
    }
    assert_eq!(made, 1);
    assert_eq!(desk.leftovers(), [""; 0], "images go with the replicator");
}

/// A new replica and a log that is long, over a socket; and a second one that shares the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_replicas_of_a_large_one_share_an_image_over_a_websocket() {
    let desk = Replica::new().await;
    desk.fill(1, 20_000).await;
    let images = tempfile::tempdir().unwrap();
    let listener = WebSocketListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
    let url = listener.address().to_owned();
    let at_desk = desk.sync().snapshot_rows(5_000).image_folder(images.path()).listen(listener);
    let at_desk = at_desk.start().await.unwrap();
    let mut desk_events = at_desk.events();
    let (one, other) = (Replica::new().await, Replica::new().await);
    let at_one = one.sync().peer(WebSocketDialer::new(&url).unwrap()).start().await.unwrap();
    let at_other = other.sync().peer(WebSocketDialer::new(&url).unwrap()).start().await.unwrap();
    let (mut events, mut other_events) = (at_one.events(), at_other.events());
    installed(&mut events).await;
    installed(&mut other_events).await;
    is_live(&at_one.peers()[0]).await;
    is_live(&at_other.peers()[0]).await;
    desk.equals(&one).await;
    desk.equals(&other).await;
    assert_eq!(std::fs::read_dir(images.path()).unwrap().count(), 1);

    // A small gap is closed by the log, also of one who comes back.
    at_one.stop().await;
    desk.write("UPDATE todos SET title = 'later' WHERE id < 100").await;
    let at_one = one.sync().peer(WebSocketDialer::new(&url).unwrap()).start().await.unwrap();
    let mut events = at_one.events();
    is_live(&at_one.peers()[0]).await;
    desk.equals(&one).await;
    at_one.stop().await;
    while let Some(event) = events.next().await {
        assert!(!matches!(event, SyncEvent::SnapshotBegun { .. }), "{event:?}");
    }
    at_other.stop().await;
    at_desk.stop().await;
    let mut made = 0;
    while let Some(event) = desk_events.next().await {
        made += u32::from(matches!(event, SyncEvent::ImageMade { .. }));
    }
    assert_eq!((made, std::fs::read_dir(images.path()).unwrap().count()), (1, 0));
}

/// Behind two peers at once: one snapshot after the other, and a third peer is in step all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_snapshot_is_taken_at_a_time_and_others_go_on() {
    let network = MemoryNetwork::new();
    let (one, phone) = apart(&network, 2_000).await;
    let (other, tablet) = (Replica::new().await, Replica::new().await);
    let at_other = other.sync().listen(network.listen("other").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "other")).start().await.unwrap();
    other.says("the rows", "SELECT count(*) = 2000 FROM todos").await;
    at_phone.stop().await;
    other.write("DELETE FROM todos WHERE id BETWEEN 20 AND 30").await;
    other.forget_deletes().await;

    let at_one = one.sync().listen(network.listen("one").unwrap()).start().await.unwrap();
    let at_tablet = tablet.sync().listen(network.listen("tablet").unwrap()).start().await.unwrap();
    let tap = Tap::at(Kind::Chunk, 1);
    let at_phone = phone.sync().peer(tap.on(network.dialer("phone", "one")));
    let at_phone = at_phone.peer(network.dialer("phone", "tablet")).start().await.unwrap();
    let mut events = at_phone.events();
    tap.reached().await;
    // The second session that needs one waits for the first.
    let late = phone.sync().peer(network.dialer("phone", "other")).start().await.unwrap();
    is_live(&at_phone.peers()[1]).await;
    phone.write("INSERT INTO todos(id, title) VALUES (80000, 'meanwhile')").await;
    tablet.says("an edit of the phone", "SELECT count(*) FROM todos WHERE id = 80000").await;
    tablet.write("INSERT INTO todos(id, title) VALUES (80001, 'back')").await;
    phone.says("an edit of the tablet", "SELECT count(*) FROM todos WHERE id = 80001").await;
    // Two replicators on one file, as two processes: the files of the snapshot are in use.
    let busy = |status: &SyncStatus| *status == SyncStatus::Offline;
    becomes(&late.peers()[0], busy).await;
    assert!(matches!(late.peers()[0].last_end().as_deref(), Some(Ended::SnapshotBusy)));
    tap.set(Gate::Open);
    installed(&mut events).await;
    is_live(&at_phone.peers()[0]).await;
    is_live(&late.peers()[0]).await;
    for replica in [&one, &other, &tablet] {
        replica.says("all rows", "SELECT count(*) = 2000 - 10 - 11 + 1 + 2 FROM todos").await;
        replica.equals(&phone).await;
    }
    for replicator in [late, at_phone, at_one, at_other, at_tablet] {
        within("the end", replicator.stop()).await;
    }
}

/// Two sessions of one replicator that both need a snapshot: the second begins when the first has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_snapshots_are_taken_one_after_the_other() {
    let network = MemoryNetwork::new();
    let (one, other, phone) = (Replica::new().await, Replica::new().await, Replica::new().await);
    one.fill(1, 6_000).await;
    other.fill(10_001, 16_000).await;
    let at_one = one.sync().snapshot_rows(100).listen(network.listen("one").unwrap()).start().await.unwrap();
    let at_other = other.sync().snapshot_rows(100).listen(network.listen("other").unwrap());
    let at_other = at_other.start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "one")).peer(network.dialer("phone", "other"));
    let at_phone = at_phone.start().await.unwrap();
    let mut events = at_phone.events();
    let mut order = Vec::new();
    while order.len() < 4 {
        let what = |event: &SyncEvent| match event {
            SyncEvent::SnapshotBegun { site, .. } => Some(("begun", *site)),
            SyncEvent::SnapshotInstalled { site } => Some(("installed", *site)),
            SyncEvent::Ended { how, .. } => panic!("no session ends: {how}"),
            _ => None,
        };
        order.push(event(&mut events, what).await);
    }
    let (first, second) = (order[0].1, order[2].1);
    assert_ne!(first, second);
    assert_eq!(order, [("begun", first), ("installed", first), ("begun", second), ("installed", second)]);
    is_live(&at_phone.peers()[0]).await;
    is_live(&at_phone.peers()[1]).await;
    for replica in [&one, &other] {
        replica.says("all rows", "SELECT count(*) = 12000 FROM todos").await;
        replica.equals(&phone).await;
    }
    drop((at_phone, at_one, at_other));
}

/// Whoever deletes and forgets while its image is given makes a new one for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_behind_the_horizon_is_not_given_again() {
    let network = MemoryNetwork::new();
    let (desk, phone) = apart(&network, 2_000).await;
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let mut desk_events = at_desk.events();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    installed(&mut at_phone.events()).await;
    is_live(&at_phone.peers()[0]).await;
    let (tablet, made) = (Replica::new().await, |event: &SyncEvent| {
        matches!(event, SyncEvent::ImageMade { .. }).then_some(())
    });
    event(&mut desk_events, made).await;
    desk.write("DELETE FROM todos WHERE id = 50").await;
    phone.says("the delete", "SELECT count(*) = 0 FROM todos WHERE id = 50").await;
    desk.forget_deletes().await;
    // A replica with nothing starts from a snapshot where deletes were forgotten, however short the log is.
    let at_tablet = tablet.sync().peer(network.dialer("tablet", "desk")).start().await.unwrap();
    installed(&mut at_tablet.events()).await;
    is_live(&at_tablet.peers()[0]).await;
    event(&mut desk_events, made).await;
    desk.equals(&tablet).await;
    assert_eq!(tablet.store.read(Store::db_version).await.unwrap().unwrap().0, 1, "one commit");
}
