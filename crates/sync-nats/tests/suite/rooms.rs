//! What a room is for: all hold the same in the end, whoever was there when.

use opor_nats_server::NatsServer;
use opor_sync_nats::{JoinError, ResetReason, RoomCatchUp, RoomEvent, RoomStatus};

use crate::replica::{Replica, STREAM, becomes, broker, event, is_live, rows, stranger, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_converge_live() {
    let broker = broker();
    let replicas = [Replica::new().await, Replica::new().await, Replica::new().await];
    let mut rooms = Vec::new();
    for replica in &replicas {
        rooms.push(replica.join(&broker).await);
    }
    for (number, replica) in (0..).zip(&replicas) {
        replica.insert(number * 10..number * 10 + 10, "x").await;
    }
    for replica in &replicas {
        replica.holds(&rows(0..30, "x")).await;
    }
    replicas[1].write("UPDATE todos SET title = 'y' WHERE id = 3").await;
    replicas[2].write("DELETE FROM todos WHERE id > 9").await;
    let mut expected = rows(0..10, "x");
    expected[3].1 = "y".into();
    for replica in &replicas {
        replica.holds(&expected).await;
    }
    // What came from the room is not published again: of all that follows, only its own row.
    replicas[1].publish(&rooms[1], 50..51, "y").await;
    let before = rooms[1].counts().published;
    replicas[0].publish(&rooms[0], 100..130, "z").await;
    expected.extend([rows(50..51, "y"), rows(100..130, "z")].concat());
    replicas[1].holds(&expected).await;
    replicas[1].publish(&rooms[1], 200..201, "y").await;
    assert_eq!(rooms[1].counts().published, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_reads_what_is_new_and_nothing_else() {
    let broker = broker();
    let mut phone = Replica::new().await;
    let laptop = Replica::new().await;
    let room = phone.join(&broker).await;
    let _laptop = laptop.join(&broker).await;
    laptop.insert(0..40, "x").await;
    phone.holds(&rows(0..40, "x")).await;
    room.stop().await;

    // Both write while the phone is away, and its file is opened anew.
    phone.insert(40..45, "x").await;
    phone.reopen();
    laptop.insert(45..50, "x").await;
    let room = phone.join(&broker).await;
    phone.holds(&rows(0..50, "x")).await;
    laptop.holds(&rows(0..50, "x")).await;
    let read = room.counts().read;
    assert!(read <= 10, "{read} messages were read, and 10 are new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_read_before_anything_is_published() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let phones = phone.join(&broker).await;
    laptop.join(&broker).await.stop().await;
    phone.publish(&phones, 0..100, "x").await;
    laptop.insert(200..201, "x").await;
    let room = laptop.joining(&broker).join().await.expect("it joins");
    let (mut events, mut merged) = (room.events(), 0);
    loop {
        let told = event(&mut events, |event| match event {
            RoomEvent::Merged { .. } => Some(true),
            RoomEvent::Published { .. } => Some(false),
            _ => None,
        });
        match told.await {
            true => merged += 1,
            false => break,
        }
    }
    assert_eq!(merged, 100, "it may have been told of deletes of what it publishes");
    phone.holds(&[rows(0..100, "x"), rows(200..201, "x")].concat()).await;
}

/// Catches up with 200 messages, and commits three rows of this title in the middle; `known` rows of it were there before. That
/// they are published, once, and nothing else.
async fn writes_while_it_catches_up(
    laptop: &Replica,
    title: &str,
    broker: &NatsServer,
    phone: &Replica,
    known: usize,
) {
    let room = laptop.joining(broker).join().await.expect("it joins");
    let mut events = room.events();
    let merged = |event: &RoomEvent| match event {
        RoomEvent::Merged { .. } => Some(true),
        RoomEvent::CaughtUp | RoomEvent::Published { .. } => Some(false),
        _ => None,
    };
    let changes = [
        format!("INSERT INTO todos SELECT max(id) + 1000, '{title}' FROM todos"),
        // One that has come.
        format!(
            "UPDATE todos SET title = '{title}' WHERE id = (SELECT min(id) FROM todos WHERE title = 'x')"
        ),
        // One that is still to come, and was written earlier.
        format!("INSERT INTO todos VALUES (199 - {}, '{title}')", title.len()),
    ];
    let written = known + changes.len();
    for change in changes {
        for _ in 0..30 {
            assert!(event(&mut events, merged).await, "this is not the middle any more");
        }
        laptop.write(change).await;
    }
    let last = laptop.store.read(|store| store.db_version().expect("it has one")).await.expect("it is open");
    let (mut told, mut total) = (Vec::new(), 0);
    loop {
        let published = |event: &RoomEvent| match event {
            RoomEvent::Published { rows, version, .. } => Some((*rows, *version)),
            _ => None,
        };
        let (rows, version) = event(&mut events, published).await;
        told.push((rows, version));
        total += rows;
        if version >= last {
            break;
        }
    }
    assert_eq!(total, written, "{told:?}");
    is_live(&room).await;
    phone.holds(&laptop.rows().await).await;
    let rows = phone.rows().await;
    assert_eq!(rows.iter().filter(|row| row.1 == title).count(), written, "{rows:?}");
    // Neither is anything left for the next time.
    room.stop().await;
    let room = laptop.join(broker).await;
    let last = laptop.store.read(|store| store.db_version().expect("it has one")).await.expect("it is open");
    within("all to be noted", room.published().wait_for(|version| *version >= last)).await.expect("joined");
    assert_eq!(room.counts().published, 0);
    room.stop().await;
}

/// On one thread, so that what is written at an event is written in the middle.
#[tokio::test]
async fn what_is_committed_in_the_middle_of_a_catch_up_is_published_once() {
    let broker = broker();
    let [phone, tablet, laptop] = [Replica::new().await, Replica::new().await, Replica::new().await];
    let room = phone.join(&broker).await;
    // One that was here before, and one that comes for the first time with something of its own.
    tablet.join(&broker).await.stop().await;
    phone.publish(&room, 0..200, "x").await;
    writes_while_it_catches_up(&tablet, "tablet", &broker, &phone, 0).await;
    laptop.insert(5000..5002, "a laptop").await;
    writes_while_it_catches_up(&laptop, "a laptop", &broker, &phone, 2).await;
}

#[tokio::test]
async fn how_far_a_catch_up_is_and_how_far_it_goes_is_told() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let room = phone.join(&broker).await;
    phone.publish(&room, 0..50, "x").await;
    let room = laptop.joining(&broker).join().await.expect("it joins");
    let mut status = room.status();
    let mut seen = Vec::new();
    loop {
        within("a status", status.changed()).await.expect("it is joined");
        match status.borrow_and_update().clone() {
            RoomStatus::CatchingUp { by: RoomCatchUp::Log, done, total } => seen.push((done, total)),
            RoomStatus::Live => break,
            RoomStatus::Connecting => {}
            other => panic!("{other:?}"),
        }
    }
    let known: Vec<_> = seen.iter().filter_map(|(done, total)| total.map(|total| (*done, total))).collect();
    assert!(known.iter().all(|(_, total)| *total == 50), "{known:?}");
    assert!(known.is_sorted(), "{known:?}");
    assert!(known.len() > 10, "it goes step by step: {known:?}");
    assert_eq!(known.last(), Some(&(50, 50)));
    laptop.holds(&rows(0..50, "x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_need_not_be_there() {
    let mut broker = broker();
    broker.stop().expect("it stops");
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    phone.insert(0..5, "x").await;
    let room = phone.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    event(&mut events, |event| matches!(event, RoomEvent::Ended { .. }).then_some(())).await;
    assert_ne!(*room.status().borrow(), RoomStatus::Live);
    broker.start().expect("it starts");
    is_live(&room).await;
    let _laptop = laptop.join(&broker).await;
    laptop.holds(&rows(0..5, "x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rooms_do_not_mix() {
    let broker = broker();
    let [one, two, both] = [Replica::new().await, Replica::new().await, Replica::new().await];
    // Of one shard, so that they share a stream.
    let names = ["garden", "meadow-11"];
    let _rooms = [
        one.joining_room(&broker, names[0]).join().await.expect("it joins"),
        two.joining_room(&broker, names[1]).join().await.expect("it joins"),
    ];
    one.insert(0..5, "one").await;
    two.insert(5..9, "two").await;
    let room = both.joining_room(&broker, names[0]).join().await.expect("it joins");
    is_live(&room).await;
    both.holds(&rows(0..5, "one")).await;
    one.holds(&rows(0..5, "one")).await;
    two.holds(&rows(5..9, "two")).await;
    room.stop().await;
    // Who goes on in the other room carries over what it has.
    let _room = both.joining_room(&broker, names[1]).join().await.expect("it joins");
    let all = [rows(0..5, "one"), rows(5..9, "two")].concat();
    two.holds(&all).await;
    one.holds(&rows(0..5, "one")).await;
    let stream = stranger(&broker).await.get_stream(STREAM).await.expect("both share it");
    let subjects = stream.cached_info().state.subjects_count;
    assert_eq!(subjects, 2, "a log for each room, and no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_row_travels_in_parts() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let _rooms = [phone.join(&broker).await, laptop.join(&broker).await];
    // Random, so that it does not get small: some parts and a bit.
    phone.write("INSERT INTO todos VALUES (1, hex(randomblob(900000)))").await;
    let written = phone.rows().await;
    laptop.holds(&written).await;
    assert_eq!(written[0].1.len(), 1_800_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_visit_brings_along_what_was_there() {
    let broker = broker();
    let (old, new) = (Replica::new().await, Replica::new().await);
    old.insert_at_once(0..500, "x").await;
    let held = old.rows().await;
    let _new = new.join(&broker).await;
    let room = old.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    let why = event(&mut events, |event| match event {
        RoomEvent::Reset { why } => Some(*why),
        _ => None,
    });
    assert_eq!(why.await, ResetReason::FirstVisit);
    new.holds(&held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_has_a_name() {
    let broker = broker();
    let replica = Replica::new().await;
    for name in [String::new(), "x".repeat(129)] {
        let refused = replica.joining_room(&broker, &name).join().await;
        let Err(JoinError::RoomName { len }) = refused else { panic!("{refused:?}") };
        assert_eq!(len, name.len());
    }
    // Whatever else it is made of.
    let room = replica.joining_room(&broker, "a.b > * ü\r\nPUB").join().await.expect("it joins");
    is_live(&room).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_is_left_is_left() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let room = phone.join(&broker).await;
    let _laptop = laptop.join(&broker).await;
    let mut events = room.events();
    let status = room.status();
    within("the end", room.stop()).await;
    assert_eq!(*status.borrow(), RoomStatus::Offline);
    while events.next().await.is_some() {}
    laptop.insert(0..1, "x").await;
    laptop.holds(&rows(0..1, "x")).await;
    assert_eq!(phone.rows().await, []);
    let again = phone.joining(&broker).join().await.expect("it joins");
    becomes(&again, |status| *status == RoomStatus::Live).await;
    phone.holds(&rows(0..1, "x")).await;
}
