//! Brokers and replicas that fail: nothing is lost, and all hold the same in the end.

use std::path::Path;

use opor_nats_server::Options;
use opor_sync_nats::{NatsOptions, ResetReason, RoomEvent, RoomEvents, RoomStatus};

use crate::replica::{Replica, STREAM, becomes, broker, event, is_live, rows, stranger};

async fn reset(events: &mut RoomEvents) -> ResetReason {
    event(events, |event| match event {
        RoomEvent::Reset { why } => Some(*why),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_is_gone_on_with() {
    let mut broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let rooms = [phone.join(&broker).await, laptop.join(&broker).await];
    phone.insert(0..10, "x").await;
    laptop.holds(&rows(0..10, "x")).await;
    broker.stop().expect("it stops");
    phone.insert(10..20, "x").await;
    laptop.insert(20..30, "x").await;
    let read = rooms[1].counts().read;
    broker.start().expect("it starts");
    for replica in [&phone, &laptop] {
        replica.holds(&rows(0..30, "x")).await;
    }
    let read = rooms[1].counts().read - read;
    assert!(read <= 20, "{read} messages were read, and 20 are new");
    assert!(rooms.iter().all(|room| room.counts().connects >= 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_while_it_is_published_to_loses_nothing() {
    let mut broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let rooms = [phone.join(&broker).await, laptop.join(&broker).await];
    let mut written = 0;
    for round in 0..3 {
        let mut events = rooms[0].events();
        let (before, until) = (written, written + 60);
        let writing = phone.insert(before..until, "x");
        let killing = async {
            // In the middle of it: some are published, the others are not.
            event(&mut events, |event| matches!(event, RoomEvent::Published { .. }).then_some(())).await;
            broker.kill().expect("it dies");
        };
        tokio::join!(writing, killing);
        written = until;
        broker.start().expect("it starts");
        laptop.holds(&rows(0..written, "x")).await;
        assert!(rooms[0].counts().connects > round, "the connection has broken");
    }
    assert_eq!(phone.rows().await, rows(0..written, "x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_wiped_is_filled_again() {
    let mut broker = broker();
    let [phone, laptop, tablet] = [Replica::new().await, Replica::new().await, Replica::new().await];
    let gone = Replica::new().await;
    let room = gone.join(&broker).await;
    let laptops = laptop.join(&broker).await;
    gone.insert(0..5, "from the dead").await;
    laptop.holds(&rows(0..5, "from the dead")).await;
    // One that is never seen again: only the laptop has what it wrote.
    room.stop().await;
    drop(gone);
    let phones = phone.joining(&broker).join().await.expect("it joins");
    phone.holds(&rows(0..5, "from the dead")).await;
    laptop.write("DELETE FROM todos WHERE id = 4").await;
    phone.holds(&rows(0..4, "from the dead")).await;

    let mut events = laptops.events();
    broker.kill().expect("it dies");
    broker.wipe().expect("it is wiped");
    phone.insert(10..12, "phone").await;
    laptop.insert(12..14, "laptop").await;
    broker.start().expect("it starts");
    assert_eq!(reset(&mut events).await, ResetReason::OtherStream);
    let all = [rows(0..4, "from the dead"), rows(10..12, "phone"), rows(12..14, "laptop")].concat();
    for replica in [&phone, &laptop] {
        replica.holds(&all).await;
    }
    // A newcomer finds all of it, from whomever.
    phones.stop().await;
    laptops.stop().await;
    let _tablet = tablet.join(&broker).await;
    tablet.holds(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_broker_gets_one_snapshot_of_what_is_large() {
    let mut broker = broker();
    let replicas = [Replica::new().await, Replica::new().await, Replica::new().await];
    replicas[0].insert_at_once(0..6_000, "x").await;
    let mut rooms = Vec::new();
    for replica in &replicas {
        rooms.push(replica.join(&broker).await);
    }
    let all = replicas[0].rows().await;
    for replica in &replicas {
        replica.holds(&all).await;
    }
    broker.kill().expect("it dies");
    broker.wipe().expect("it is wiped");
    let mut expected = all;
    for (number, replica) in (0..).zip(&replicas) {
        let id = 10_000 + number;
        replica.insert(id..id + 1, "news").await;
        expected.push((id, "news".into()));
    }
    broker.start().expect("it starts");
    for replica in &replicas {
        replica.holds(&expected).await;
    }
    for room in rooms {
        is_live(&room).await;
        room.stop().await;
    }
    let newcomer = Replica::new().await;
    let room = newcomer.join(&broker).await;
    newcomer.holds(&expected).await;
    let stream = stranger(&broker).await.get_stream(STREAM).await.expect("it was made");
    let bytes = stream.cached_info().state.bytes;
    assert!(bytes < 20_000, "the log has {bytes} bytes: the rest is in one snapshot");
    assert!(room.counts().read < 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_its_end_gets_it_back() {
    let mut broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let rooms = [phone.join(&broker).await, laptop.join(&broker).await];
    phone.insert(0..5, "x").await;
    laptop.holds(&rows(0..5, "x")).await;
    broker.stop().expect("it stops");
    let backup = tempfile::tempdir().expect("a folder");
    copy(&broker.store(), backup.path());
    broker.start().expect("it starts");
    phone.insert(5..10, "x").await;
    laptop.holds(&rows(0..10, "x")).await;
    let mut events = rooms[0].events();
    // What a power cut does to what was not flushed.
    broker.kill().expect("it dies");
    broker.wipe().expect("it is wiped");
    copy(backup.path(), &broker.store());
    broker.start().expect("it starts");
    assert_eq!(reset(&mut events).await, ResetReason::LostEnd);
    let newcomer = Replica::new().await;
    let _newcomer = newcomer.join(&broker).await;
    newcomer.holds(&rows(0..10, "x")).await;
    // Another message stands where a lost one stood: that is found out too.
    broker.kill().expect("it dies");
    broker.wipe().expect("it is wiped");
    copy(backup.path(), &broker.store());
    drop(rooms);
    broker.start().expect("it starts");
    let fresh = Replica::new().await;
    let _fresh = fresh.join(&broker).await;
    fresh.insert(20..40, "y").await;
    let room = phone.joining(&broker).join().await.expect("it joins");
    assert_eq!(reset(&mut room.events()).await, ResetReason::LostEnd);
    fresh.holds(&[rows(0..10, "x"), rows(20..40, "y")].concat()).await;
}

/// On one thread, so that a replica that is dropped at an event has not got further.
#[tokio::test]
async fn a_start_over_that_is_cut_short_is_taken_up_again() {
    let mut broker = broker();
    let (mut phone, laptop) = (Replica::new().await, Replica::new().await);
    let rooms = [phone.join(&broker).await, laptop.join(&broker).await];
    phone.publish(&rooms[0], 0..3, "x").await;
    laptop.holds(&rows(0..3, "x")).await;
    broker.stop().expect("it stops");
    let backup = tempfile::tempdir().expect("a folder");
    copy(&broker.store(), backup.path());
    broker.start().expect("it starts");
    is_live(&rooms[1]).await;
    laptop.insert(10..15, "from the dead").await;
    let all = [rows(0..3, "x"), rows(10..15, "from the dead")].concat();
    phone.holds(&all).await;
    // The end that is lost is the laptop's, and the laptop is never seen again: all that the phone published is still there.
    drop(rooms);
    drop(laptop);
    broker.kill().expect("it dies");
    broker.wipe().expect("it is wiped");
    copy(backup.path(), &broker.store());
    broker.start().expect("it starts");

    let room = phone.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    assert_eq!(reset(&mut events).await, ResetReason::LostEnd);
    // It reads from the beginning, so the new place has been noted; nothing has been published.
    event(&mut events, |event| matches!(event, RoomEvent::Merged { .. }).then_some(())).await;
    assert_eq!(room.counts().published, 0);
    drop(room);
    phone.reopen();

    let room = phone.joining(&broker).join().await.expect("it joins");
    assert_eq!(reset(&mut room.events()).await, ResetReason::Interrupted);
    is_live(&room).await;
    let newcomer = Replica::new().await;
    let _newcomer = newcomer.join(&broker).await;
    newcomer.holds(&all).await;
}

fn copy(source: &Path, target: &Path) {
    std::fs::create_dir_all(target).expect("a folder");
    for entry in std::fs::read_dir(source).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = target.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a file");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_while_it_catches_up_goes_on() {
    let broker = broker();
    let writer = Replica::new().await;
    let mut reader = Replica::new().await;
    let writers = writer.join(&broker).await;
    writer.publish(&writers, 0..300, "x").await;
    let mut rounds = 0;
    while reader.rows().await.len() < 300 {
        let room = reader.joining(&broker).join().await.expect("it joins");
        let mut events = room.events();
        for _ in 0..60 {
            let told = event(&mut events, |event| match event {
                RoomEvent::Merged { .. } => Some(true),
                RoomEvent::CaughtUp => Some(false),
                _ => None,
            });
            if !told.await {
                break;
            }
        }
        // As in a crash: whatever is under way is dropped, and the file is opened anew.
        drop(room);
        reader.reopen();
        rounds += 1;
    }
    assert!(rounds > 2, "it died in the middle");
    let room = reader.join(&broker).await;
    reader.holds(&rows(0..300, "x")).await;
    assert_eq!(writers.counts().published, 300);
    drop(room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_jetstream_is_refused() {
    let broker = Options::new().start().expect("a nats-server");
    let replica = Replica::new().await;
    let room = replica.joining(&broker).join().await.expect("it joins");
    let status = becomes(&room, |status| matches!(status, RoomStatus::Refused { .. })).await;
    let reason = format!("the broker at {} has no JetStream for this account", broker.url());
    assert_eq!(status, RoomStatus::Refused { reason });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_shown_and_those_that_are_wrong_refused() {
    let broker = Options::new().jetstream().arg("--user").arg("me").arg("--pass").arg("s3cret");
    let broker = broker.start().expect("a nats-server");
    let replica = Replica::new().await;
    let room = replica.joining(&broker).options(NatsOptions::new().with_user("me", "s3cret"));
    let room = room.join().await.expect("it joins");
    is_live(&room).await;
    room.stop().await;
    let room = replica.joining(&broker).options(NatsOptions::new().with_user("me", "another"));
    let room = room.join().await.expect("it joins");
    let status = becomes(&room, |status| matches!(status, RoomStatus::Refused { .. })).await;
    let RoomStatus::Refused { reason } = status else { unreachable!("it was waited for") };
    assert!(reason.starts_with("broker is not reached: peer refuses"), "{reason}");
    assert!(!reason.contains("another"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_would_lose_messages_is_refused() {
    use async_nats::jetstream::stream::Config;
    let broker = broker();
    let config = Config {
        name: STREAM.into(),
        subjects: vec!["opor.room.09.>".into()],
        max_messages_per_subject: 5,
        ..Config::default()
    };
    stranger(&broker).await.create_stream(config).await.expect("it is made");
    let replica = Replica::new().await;
    let room = replica.joining(&broker).join().await.expect("it joins");
    let status = becomes(&room, |status| matches!(status, RoomStatus::Refused { .. })).await;
    let reason = format!("stream {STREAM} limits the messages of a subject");
    assert_eq!(status, RoomStatus::Refused { reason });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_a_crash_is_not_published_after_it() {
    let broker = broker();
    let (phone, mut laptop) = (Replica::new().await, Replica::new().await);
    let phones = phone.join(&broker).await;
    laptop.join(&broker).await.stop().await;
    // Much to catch up with, message by message.
    phone.publish(&phones, 0..300, "x").await;
    let room = laptop.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    for _ in 0..150 {
        event(&mut events, |event| matches!(event, RoomEvent::Merged { .. }).then_some(())).await;
    }
    drop(room);
    laptop.reopen();

    let room = laptop.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    is_live(&room).await;
    let last = laptop.store.write(|store| {
        store.execute_batch("INSERT INTO todos VALUES (1000, 'x')").expect("it is SQL");
        store.db_version().expect("it has one")
    });
    let last = last.await.expect("the handle is open");
    let mut told = 0;
    loop {
        let published = |event: &RoomEvent| match event {
            RoomEvent::Published { rows, version, .. } => Some((*rows, *version)),
            _ => None,
        };
        let (rows, version) = event(&mut events, published).await;
        told += rows;
        if version >= last {
            break;
        }
    }
    // Its own row, and what was read since it was noted last.
    assert!((1..=64).contains(&told), "{told} rows were published");
    phone.holds(&[rows(0..300, "x"), rows(1000..1001, "x")].concat()).await;
    laptop.holds(&phone.rows().await).await;
}
