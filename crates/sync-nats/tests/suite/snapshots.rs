//! Logs that have grown: snapshots, trimmed logs, newcomers, and who was away too long.

use std::path::Path;

use opor_sync_nats::{RoomEvent, RoomLog};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::replica::{LOG, Replica, STREAM, broker, event, rows, stranger};

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
