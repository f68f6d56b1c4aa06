//! Logs that have grown: snapshots, trimmed logs, newcomers, and who was away too long.

use std::time::Duration;

use opor_sync_nats::{RoomEvent, RoomEvents, RoomLog};

use crate::replica::{LOG, Replica, STREAM, broker, event, rows, stranger};

async fn made(events: &mut RoomEvents) -> (u64, u64) {
    event(events, |event| match event {
        RoomEvent::SnapshotMade { covers, floor } => Some((*covers, *floor)),
        _ => None,
    })
    .await
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
    let rooms = [
        joining(&phone).join().await.expect("it joins"),
        joining(&laptop).join().await.expect("it joins"),
    ];
    let (mut phones, mut laptops) = (rooms[0].events(), rooms[1].events());
    let mut written = 0;
    let mut floor = 0;
    // Two snapshots at least, by whichever of the two: the second trims.
    while floor == 0 {
        phone.insert(written..written + 25, "x").await;
        written += 25;
        laptop.holds(&rows(0..written, "x")).await;
        (_, floor) = tokio::select! {
            made = made(&mut phones) => made,
            made = made(&mut laptops) => made,
        };
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
    let room = phone.joining(&broker).snapshot_after(10).join().await.expect("it joins");
    let mut events = room.events();
    laptop.insert(0..4, "x").await;
    phone.holds(&rows(0..4, "x")).await;
    // Its place is noted once it is idle.
    event(&mut away.events(), |event| matches!(event, RoomEvent::CaughtUp).then_some(())).await_or_stop(away).await;

    // Meanwhile a row is deleted, the delete is forgotten, and the log trimmed.
    phone.write("DELETE FROM todos WHERE id = 2").await;
    let mut written = 10;
    let mut floor = 0;
    while floor == 0 {
        phone.insert(written..written + 12, "y").await;
        written += 12;
        (_, floor) = made(&mut events).await;
        phone.write("SELECT 1").await;
        phone.store.write(|store| store.compact()).await.expect("open").expect("it compacts");
    }
    phone.insert(written..written + 12, "y").await;
    written += 12;
    made(&mut events).await;

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

trait AwaitOrStop {
    async fn await_or_stop(self, room: RoomLog);
}

impl<F: Future<Output = ()>> AwaitOrStop for F {
    async fn await_or_stop(self, room: RoomLog) {
        let _ = tokio::time::timeout(Duration::from_millis(1), self).await;
        room.stop().await;
    }
}
