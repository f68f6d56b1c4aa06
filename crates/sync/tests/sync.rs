//! Real stores over links in memory, and over a socket.

mod common;

use opor_core::Changeset;
use opor_store::{ApplyOptions, OpenOptions, Store};
use opor_sync::{Ended, Refusal, StartError, SyncEvent, SyncStatus};
use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::Listener as _;
use opor_transport_websocket::{ListenOptions, WebSocketDialer, WebSocketListener};

use crate::common::{Replica, becomes, event, is_live, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_follow_each_other() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    phone.write("INSERT INTO todos(id, title) VALUES (2, 'bread')").await;
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    desk.holds(&[(1, "milk"), (2, "bread")]).await;
    phone.holds(&[(1, "milk"), (2, "bread")]).await;

    desk.write("UPDATE todos SET title = 'oat milk' WHERE id = 1").await;
    phone.holds(&[(1, "oat milk"), (2, "bread")]).await;
    phone.write("DELETE FROM todos WHERE id = 2").await;
    desk.holds(&[(1, "oat milk")]).await;
    at_phone.stop().await;
    at_desk.stop().await;
}

/// The same over a real socket, with a catch-up of many frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_follow_each_other_over_a_websocket() {
    let (desk, phone) = (Replica::new().await, Replica::new().await);
    let numbers = "WITH RECURSIVE n(i) AS (VALUES (10) UNION ALL SELECT i + 1 FROM n WHERE i < 30009)";
    desk.write(&format!("INSERT INTO todos(id, title) {numbers} SELECT i, 'todo ' || i FROM n")).await;
    let listener = WebSocketListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
    let url = listener.address().to_owned();
    let at_desk = desk.sync().listen(listener).start().await.unwrap();
    let at_phone = phone.sync().peer(WebSocketDialer::new(&url).unwrap()).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    assert_eq!(phone.rows().await, desk.rows().await);
    assert_eq!(phone.rows().await.len(), 30_000);

    phone.write("DELETE FROM todos WHERE id > 10; UPDATE todos SET title = 'milk'").await;
    desk.holds(&[(10, "milk")]).await;
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'bread')").await;
    phone.holds(&[(1, "bread"), (10, "milk")]).await;
    at_phone.stop().await;
    at_desk.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_peer_brings_goes_on_to_the_others() {
    let network = MemoryNetwork::new();
    let (hub, desk, phone) = (Replica::new().await, Replica::new().await, Replica::new().await);
    let at_hub = hub.sync().listen(network.listen("hub").unwrap()).start().await.unwrap();
    let at_desk = desk.sync().peer(network.dialer("desk", "hub")).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "hub")).start().await.unwrap();
    is_live(&at_desk.peers()[0]).await;
    is_live(&at_phone.peers()[0]).await;
    let (mut desk_events, mut phone_events) = (at_desk.events(), at_phone.events());
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    phone.holds(&[(1, "milk")]).await;
    phone.write("INSERT INTO todos(id, title) VALUES (2, 'salt')").await;
    desk.holds(&[(1, "milk"), (2, "salt")]).await;

    // Each took in the two cells of a row, and got nothing of its own back.
    let merged = |event: &SyncEvent| match event {
        SyncEvent::Merged { changes: changes @ 1.., unchanged, .. } => Some((*changes, *unchanged)),
        _ => None,
    };
    assert_eq!(event(&mut desk_events, merged).await, (2, 0));
    assert_eq!(event(&mut phone_events, merged).await, (2, 0));
    at_hub.stop().await;
    becomes(&at_desk.peers()[0], |status| !status.is_live()).await;
}

/// An old hub among new replicas: it passes on what it cannot store, and catches up when its schema does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_an_older_schema_holds_nobody_up() {
    let network = MemoryNetwork::new();
    let (hub, desk, phone) = (Replica::new().await, Replica::new().await, Replica::new().await);
    let grow = "ALTER TABLE todos ADD COLUMN due; CREATE TABLE tags(id TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL)";
    for replica in [&desk, &phone] {
        replica.write(grow).await;
        replica.replicate("tags").await;
    }
    let at_hub = hub.sync().listen(network.listen("hub").unwrap()).start().await.unwrap();
    let at_desk = desk.sync().peer(network.dialer("desk", "hub")).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "hub")).start().await.unwrap();
    is_live(&at_desk.peers()[0]).await;
    is_live(&at_phone.peers()[0]).await;
    let mut hub_events = at_hub.events();
    desk.write(
        "INSERT INTO tags VALUES ('a', 1); INSERT INTO todos(id, title, due) VALUES (1, 'milk', 'today')",
    )
    .await;
    let kept = |event: &SyncEvent| match event {
        SyncEvent::Quarantined { changes, .. } => Some(*changes),
        _ => None,
    };
    // The tag, and when the todo is due; together or one after the other.
    let mut total = 0;
    while total < 2 {
        total += event(&mut hub_events, kept).await;
    }
    assert_eq!(total, 2);
    phone.answers("SELECT group_concat(id || n) FROM tags", "a1").await;
    phone.answers("SELECT title || ' ' || due FROM todos", "milk today").await;
    hub.holds(&[(1, "milk")]).await;

    hub.write("ALTER TABLE todos ADD COLUMN due").await;
    hub.answers("SELECT due FROM todos", "today").await;
    hub.write("CREATE TABLE tags(id TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL)").await;
    hub.replicate("tags").await;
    hub.answers("SELECT group_concat(id || n) FROM tags", "a1").await;
    phone.write("UPDATE tags SET n = 2").await;
    hub.answers("SELECT group_concat(id || n) FROM tags", "a2").await;
    desk.answers("SELECT group_concat(id || n) FROM tags", "a2").await;
    assert!(at_desk.peers()[0].status().borrow().is_live(), "nobody is refused");
    assert!(at_phone.peers()[0].status().borrow().is_live(), "nobody is refused");
}

/// What two replicas wrote apart breaks a rule together: both are told, and go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rule_holds_nobody_up() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    for replica in [&desk, &phone] {
        replica.write("CREATE TABLE spans(id INTEGER PRIMARY KEY NOT NULL, lo, hi, CHECK (lo <= hi))").await;
        replica.replicate("spans").await;
    }
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    desk.write("INSERT INTO spans VALUES (1, 10, 20)").await;
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    let mut events = at_phone.events();
    is_live(&at_phone.peers()[0]).await;
    phone.answers("SELECT lo || ' ' || hi FROM spans", "10 20").await;
    network.partition("phone", "desk");
    network.cut("phone", "desk");
    desk.write("UPDATE spans SET hi = 12").await;
    phone.write("UPDATE spans SET lo = 18").await;
    network.heal("phone", "desk");
    let told = |event: &SyncEvent| match event {
        SyncEvent::Conflict { violations, .. } => Some(*violations),
        _ => None,
    };
    assert_eq!(event(&mut events, told).await, 1);
    for replica in [&desk, &phone] {
        replica.answers("SELECT lo || ' ' || hi FROM spans", "18 12").await;
        replica.answers("SELECT \"table\" || ' ' || detail FROM opor_conflicts", "spans lo <= hi").await;
    }
    phone.write("UPDATE spans SET lo = 1").await;
    desk.answers("SELECT lo || ' ' || hi FROM spans", "1 12").await;
    desk.answers("SELECT count(*) || '' FROM opor_conflicts", "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_offline_travels_after_the_link_is_back() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;

    let mut events = at_phone.events();
    network.partition("phone", "desk");
    network.cut("phone", "desk");
    let ended = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.to_string()),
        _ => None,
    };
    // The link, and a dial that nobody answers.
    assert_eq!(event(&mut events, ended).await, "link failed");
    assert_eq!(event(&mut events, ended).await, "link failed");
    assert!(!at_phone.peers()[0].status().borrow().is_live());
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    phone.write("INSERT INTO todos(id, title) VALUES (2, 'bread')").await;

    network.heal("phone", "desk");
    is_live(&at_phone.peers()[0]).await;
    desk.holds(&[(1, "milk"), (2, "bread")]).await;
    phone.holds(&[(1, "milk"), (2, "bread")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_is_told_and_stays_away() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    let rule = |hello: &opor_sync::Hello| {
        if hello.token.0 == b"key" { Ok(()) } else { Err(Refusal::Token) }
    };
    let at_desk = desk.sync().admit(rule).listen(network.listen("desk").unwrap()).start().await.unwrap();
    let mut desk_events = at_desk.events();
    let without = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    let refused = |status: &SyncStatus| matches!(status, SyncStatus::Refused { .. });
    let SyncStatus::Refused { reason } = becomes(&without.peers()[0], refused).await else {
        panic!("it is refused")
    };
    assert!(reason.contains("token is not valid"), "{reason}");
    let how = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    };
    let Ended::Session(how) = &*event(&mut desk_events, how).await else { panic!("the session ended") };
    assert_eq!(how.to_string(), "peer is refused");
    assert_eq!(phone.rows().await, []);
    without.stop().await;

    let other = opor_sync::Replicator::builder(phone.store.clone(), "attic").token("key");
    let other = other.peer(network.dialer("phone", "desk")).start().await.unwrap();
    let SyncStatus::Refused { reason } = becomes(&other.peers()[0], refused).await else {
        panic!("it is refused")
    };
    assert!(reason.contains("another room"), "{reason}");
    other.stop().await;

    let with = phone.sync().token("key").peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&with.peers()[0]).await;
    phone.holds(&[(1, "milk")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_loses_nothing_that_was_acknowledged() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    let mut events = at_phone.events();
    for id in 0..50 {
        phone.write(&format!("INSERT INTO todos(id, title) VALUES ({id}, 'todo')")).await;
    }
    // Some are acknowledged, and others may be on their way.
    let acknowledged = |event: &SyncEvent| match event {
        SyncEvent::Acknowledged { version, .. } if version.0 > 0 => Some(version.0),
        _ => None,
    };
    let acknowledged = event(&mut events, acknowledged).await;
    within("the desk to stop", at_desk.stop()).await;
    within("the phone to stop", at_phone.stop()).await;
    let rows = desk.rows().await.len() as u64;
    assert!(rows >= acknowledged, "{rows} rows, and {acknowledged} were acknowledged");

    // And the rest travels the next time.
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let _at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    let all: Vec<_> = (0..50).map(|id| (id, "todo")).collect();
    desk.holds(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_says_goodbye() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    let mut events = at_phone.events();
    within("the desk to stop", at_desk.stop()).await;
    let how = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    };
    let Ended::Session(reason) = &*event(&mut events, how).await else { panic!("it was told") };
    assert!(reason.to_string().starts_with("peer left (Shutdown)"), "{reason}");
    // It comes back when the desk does.
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
}

/// The link is cut while a large catch-up is in the middle; what was stored does not come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catch_up_goes_on_where_it_was_cut() {
    const ROWS: usize = 20_000;
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)";
    desk.write(&format!("{numbers} INSERT INTO todos(id, title) SELECT i, 'todo' FROM n")).await;
    let at_desk = desk.sync().changes_max(500);
    let _at_desk = at_desk.listen(network.listen("desk").unwrap()).start().await.unwrap();
    // The writer of the phone takes part of it, and then waits for the cut.
    let (cut, is_cut) = std::sync::mpsc::channel::<()>();
    let held = phone.store.clone();
    let mut commits = phone.store.commits();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    let mut events = at_phone.events();
    within("the first rows", commits.next()).await.expect("the handle is open");
    let (waits, is_waiting) = tokio::sync::oneshot::channel();
    let wait = tokio::spawn(async move {
        held.write(move |_: &mut Store| {
            waits.send(()).expect("the test is there");
            is_cut.recv().expect("the test is there");
        })
        .await
    });
    within("the writer to wait", is_waiting).await.expect("the job runs");
    let before = phone.rows().await.len();
    assert!((1..ROWS).contains(&before), "{before} rows came before the cut");
    network.cut("phone", "desk");
    cut.send(()).expect("the job waits");
    within("the writer", wait).await.expect("no panic").expect("the handle is open");

    let (mut came, mut lost) = (0, 0);
    within("all rows", async {
        while phone.rows().await.len() < ROWS {
            match events.next().await.expect("it is synced") {
                SyncEvent::Merged { changes, unchanged, .. } => {
                    assert_eq!(unchanged, 0, "nothing comes twice");
                    came += changes;
                }
                SyncEvent::Ended { .. } => lost += 1,
                SyncEvent::Missed(missed) => panic!("{missed} events are missed"),
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(lost, 1, "the link was lost once");
    assert!(came <= ROWS, "{came} changes for {ROWS} rows");
    is_live(&at_phone.peers()[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_handle_ends_the_tasks() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    let at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    let mut events = at_phone.events();
    let mut status = at_phone.peers()[0].status();
    drop(at_phone);
    within("the task of the phone to end", async { while status.changed().await.is_ok() {} }).await;
    within("the events to end", async { while events.next().await.is_some() {} }).await;
    let mut desk_events = at_desk.events();
    drop(at_desk);
    within("the tasks of the desk to end", async { while desk_events.next().await.is_some() {} }).await;
    // The listener is gone too.
    drop(network.listen("desk").expect("the name is free"));
}

/// Another connection, as another process has, is noticed without being told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_writes_travels_too() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    let at_desk = desk.sync().look_every(std::time::Duration::from_millis(5));
    let _at_desk = at_desk.listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "desk")).start().await.unwrap();
    is_live(&at_phone.peers()[0]).await;
    let other = OpenOptions::new().open(desk.folder.path().join("app.db")).unwrap();
    other.execute_batch("INSERT INTO todos(id, title) VALUES (1, 'milk')").unwrap();
    phone.holds(&[(1, "milk")]).await;
}

#[tokio::test]
async fn what_cannot_work_does_not_start() {
    let replica = Replica::new().await;
    let started = opor_sync::Replicator::builder(replica.store.clone(), "").start().await;
    assert!(matches!(started, Err(StartError::Config(_))), "{started:?}");
    replica.store.clone().close();
    let started = replica.sync().start().await;
    assert!(matches!(started, Err(StartError::Store(_))), "{started:?}");
}

/// A cursor of a history that the peer does not have any more: starting over would not bring its deletes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_needs_a_snapshot_is_told_and_does_not_start_over() {
    let (network, desk, phone) = (MemoryNetwork::new(), Replica::new().await, Replica::new().await);
    desk.write("INSERT INTO todos(id, title) VALUES (1, 'milk')").await;
    let of_desk = desk.store.read(Store::site_id).await.unwrap();
    let stale = move |store: &mut Store| {
        let cursor = Some((of_desk, "1@77".parse().expect("a cursor")));
        let options = ApplyOptions { cursor, ..ApplyOptions::default() };
        store.apply_with(&Changeset::new(), &options).expect("a cursor is stored");
    };
    phone.store.write(stale).await.unwrap();
    let _at_desk = desk.sync().listen(network.listen("desk").unwrap()).start().await.unwrap();
    let at_phone = phone.sync().without_snapshots();
    let at_phone = at_phone.peer(network.dialer("phone", "desk")).start().await.unwrap();
    let refused = |status: &SyncStatus| matches!(status, SyncStatus::Refused { .. });
    let SyncStatus::Refused { reason } = becomes(&at_phone.peers()[0], refused).await else {
        panic!("it is refused")
    };
    assert_eq!(reason, Ended::SnapshotNeeded.to_string());
    assert_eq!(phone.rows().await, []);
}
