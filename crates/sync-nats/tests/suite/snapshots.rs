//! Logs that have grown: snapshots, trimmed logs, newcomers, and who was away too long.

use std::path::Path;

use opor_nats_server::NatsServer;
use opor_sync_nats::{RoomEvent, RoomLog};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::replica::{LOG, Replica, STREAM, broker, event, rows, stranger, within};

/// The floors of the snapshots that are made in these rooms.
fn made_by(rooms: &[RoomLog]) -> UnboundedReceiver<u64> {
    let (tell, told) = unbounded_channel();
    for room in rooms {
        let (mut events, tell) = (room.events(), tell.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let RoomEvent::SnapshotMade { floor, .. } = event {
                    // The test may be over.
                    let _ = tell.send(floor);
                }
            }
        });
    }
    told
}

async fn taken(room: &RoomLog) -> u64 {
    let mut events = room.events();
    event(&mut events, |event| match event {
        RoomEvent::SnapshotTaken { covers, .. } => Some(*covers),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_grown_is_trimmed_and_a_newcomer_takes_the_snapshot() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let joining = |replica: &Replica| replica.joining(&broker).snapshot_after(20);
    let rooms =
        [joining(&phone).join().await.expect("it joins"), joining(&laptop).join().await.expect("it joins")];
    let mut made = made_by(&rooms);
    let (mut written, mut floor) = (0, 0);
    // Two snapshots at least, by whichever of the two: the second trims.
    while floor == 0 {
        assert!(written < 2_000, "no snapshot trims the log");
        phone.publish(&rooms[0], written..written + 5, "x").await;
        written += 5;
        laptop.holds(&rows(0..written, "x")).await;
        floor = made.try_recv().unwrap_or(0);
    }
    let mut stream = stranger(&broker).await.get_stream(STREAM).await.expect("it is there");
    let first = stream.get_first_raw_message_by_subject(LOG, 1).await.expect("a log");
    assert!(first.sequence > floor, "message {} is still there, the floor is {floor}", first.sequence);
    assert!(stream.info().await.expect("a stream").state.messages < written as u64 + 10);

    let newcomer = Replica::new().await;
    let room = joining(&newcomer).join().await.expect("it joins");
    let covers = taken(&room).await;
    newcomer.holds(&rows(0..written, "x")).await;
    assert!(covers >= floor);
    assert!(room.counts().read < written as u64, "the snapshot has most of it");
    // And it goes on as all others do.
    newcomer.insert(1000..1001, "new").await;
    let all = [rows(0..written, "x"), rows(1000..1001, "new")].concat();
    phone.holds(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_too_long_learns_of_deletes_that_nobody_remembers() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let away = laptop.join(&broker).await;
    let rooms = [phone.joining(&broker).snapshot_after(10).join().await.expect("it joins")];
    let mut made = made_by(&rooms);
    laptop.publish(&away, 0..4, "x").await;
    phone.holds(&rows(0..4, "x")).await;
    let place = away.counts().read;
    away.stop().await;

    // Meanwhile a row is deleted, the delete is forgotten, and the log trimmed.
    phone.write("DELETE FROM todos WHERE id = 2").await;
    let (mut written, mut floor) = (10, 0);
    while floor <= place {
        assert!(written < 2_000, "no snapshot trims the log");
        phone.publish(&rooms[0], written..written + 5, "y").await;
        written += 5;
        phone.store.write(|store| store.compact()).await.expect("open").expect("it compacts");
        floor = made.try_recv().unwrap_or(0);
    }

    // The laptop has written something in between, which is not lost.
    laptop.insert(500..501, "z").await;
    let room = laptop.joining(&broker).join().await.expect("it joins");
    taken(&room).await;
    let mut all: Vec<_> = rows(0..4, "x").into_iter().filter(|(id, _)| *id != 2).collect();
    all.extend(rows(10..written, "y"));
    all.extend(rows(500..501, "z"));
    laptop.holds(&all).await;
    phone.holds(&all).await;
}

/// Messages that a reader has asked for at most, as `docs/nats.md` has it.
const ASKED_MAX: u64 = 64;

/// Publishes rows from 0 on, until the log is trimmed beyond all that somebody who stood still from now on has been given,
/// and then more than makes it look for that. How many rows there are then, and from where on the log was there for it.
async fn outrun(broker: &NatsServer, writer: &Replica, room: &[RoomLog; 1]) -> (i64, u64) {
    let mut made = made_by(room);
    let mut stream = stranger(broker).await.get_stream(STREAM).await.expect("it is there");
    let begin = stream.info().await.expect("a stream").state.last_sequence;
    let (mut written, mut floor) = (0, 0);
    while floor < begin + 2 * ASKED_MAX {
        assert!(written < 2_000, "no snapshot trims the log");
        writer.publish(&room[0], written..written + 10, "x").await;
        written += 10;
        floor = floor.max(made.try_recv().unwrap_or(0));
    }
    let more = written + 2 * ASKED_MAX as i64;
    writer.publish(&room[0], written..more, "x").await;
    (more, floor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_the_log_was_trimmed_past_notices_and_takes_the_snapshot() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let phones = [phone.joining(&broker).snapshot_after(40).join().await.expect("it joins")];
    let room = laptop.join(&broker).await;
    let stall = laptop.stall().await;
    let (written, _) = outrun(&broker, &phone, &phones).await;
    let mut events = room.events();
    drop(stall);
    event(&mut events, |event| matches!(event, RoomEvent::SnapshotTaken { .. }).then_some(())).await;
    laptop.holds(&rows(0..written, "x")).await;
    let read = room.counts().read;
    assert!(read < written as u64, "{read} of {written} messages were read: nothing was trimmed before");
    assert_eq!(room.counts().connects, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_before_it_was_read_is_looked_for_after_a_crash_as_well() {
    let broker = broker();
    let (phone, mut laptop) = (Replica::new().await, Replica::new().await);
    laptop.join(&broker).await.stop().await;
    let before = 2 * ASKED_MAX as i64;
    let room = phone.join(&broker).await;
    phone.publish(&room, 10_000..10_000 + before, "x").await;
    room.stop().await;
    // It stands still in the middle of a catch-up.
    let room = laptop.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    event(&mut events, |event| matches!(event, RoomEvent::Merged { .. }).then_some(())).await;
    let stall = laptop.stall().await;
    let phones = [phone.joining(&broker).snapshot_after(40).join().await.expect("it joins")];
    let (written, floor) = outrun(&broker, &phone, &phones).await;
    drop(stall);
    // What comes behind the hole is being merged: now it dies, before it has looked.
    event(&mut events, |event| match event {
        RoomEvent::Merged { sequence, .. } => (*sequence > floor).then_some(()),
        RoomEvent::SnapshotTaken { .. } => panic!("it has looked already"),
        _ => None,
    })
    .await;
    let stall = laptop.stall().await;
    drop(room);
    drop(stall);
    laptop.reopen();
    let held = laptop.rows().await;
    assert_ne!(held.first(), Some(&(0, "x".into())), "nothing is missing");

    let room = laptop.joining(&broker).join().await.expect("it joins");
    taken(&room).await;
    laptop.holds(&[rows(0..written, "x"), rows(10_000..10_000 + before, "x")].concat()).await;
}

/// A request for a snapshot, as `docs/nats.md` has it.
const WANT: &[u8] = b"opw\x01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_a_snapshot_first_takes_what_may_be_in_the_one_before_alone() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let laptops = laptop.join(&broker).await;
    let rooms = [phone.joining(&broker).snapshot_after(8).join().await.expect("it joins")];
    let mut made = made_by(&rooms);
    let (mut written, mut floor) = (0, 0);
    while floor == 0 {
        phone.publish(&rooms[0], written..written + 10, "x").await;
        written += 10;
        floor = within("a snapshot", made.recv()).await.expect("the phone is there");
    }
    assert!(written < ASKED_MAX as i64, "the laptop has looked what was removed");
    laptop.holds(&rows(0..written, "x")).await;
    let [room] = rooms;
    room.stop().await;
    // Nobody else is there to make one.
    let mut events = laptops.events();
    stranger(&broker).await.publish(LOG, WANT.into()).await.expect("sent").await.expect("stored");
    let is_taken = |event: &RoomEvent| match event {
        RoomEvent::SnapshotTaken { .. } => Some(true),
        RoomEvent::SnapshotMade { .. } => Some(false),
        _ => None,
    };
    assert!(event(&mut events, is_taken).await, "something may be missing in it");
    assert!(!event(&mut events, is_taken).await, "and then it is made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_restored_from_a_backup_gets_back_what_it_wrote_itself() {
    let broker = broker();
    let (mut phone, laptop) = (Replica::new().await, Replica::new().await);
    let _laptop = laptop.join(&broker).await;
    let joining = |phone: &Replica| phone.joining(&broker).snapshot_after(4);
    let room = joining(&phone).join().await.expect("it joins");
    phone.publish(&room, 0..3, "x").await;
    laptop.holds(&rows(0..3, "x")).await;
    room.stop().await;
    phone.store.clone().close();
    let backup = tempfile::tempdir().expect("a folder");
    copy_files(phone.folder.path(), backup.path());

    phone.reopen();
    let rooms = [joining(&phone).join().await.expect("it joins")];
    let mut made = made_by(&rooms);
    let (mut written, mut floor) = (3, 0);
    while floor <= 4 {
        assert!(written < 2_000, "no snapshot trims the log");
        phone.publish(&rooms[0], written..written + 2, "x").await;
        written += 2;
        floor = made.try_recv().unwrap_or(0);
    }
    laptop.holds(&rows(0..written, "x")).await;
    let [room] = rooms;
    room.stop().await;
    phone.store.clone().close();

    // The disk is gone; the only snapshot in the room is its own.
    for file in std::fs::read_dir(phone.folder.path()).expect("a folder") {
        std::fs::remove_file(file.expect("a file").path()).expect("removed");
    }
    copy_files(backup.path(), phone.folder.path());
    phone.reopen();
    assert_eq!(phone.rows().await, rows(0..3, "x"));
    let room = joining(&phone).join().await.expect("it joins");
    phone.holds(&rows(0..written, "x")).await;
    // Other content under versions that were used before.
    phone.publish(&room, written..written + 3, "x").await;
    laptop.holds(&rows(0..written + 3, "x")).await;
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}
