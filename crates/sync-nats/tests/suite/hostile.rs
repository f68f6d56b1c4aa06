//! What others may put into a room: it is left out, told of, and stops nobody.

use async_nats::HeaderMap;
use opor_core::{
    Change, Changeset, Cid, ColVersion, EncodeOptions, Hlc, PackedKey, SiteId, Value, WallMillis,
};
use opor_sync_nats::{RoomEvent, RoomEvents, Skip};

use crate::replica::{LOG, PART, Replica, SNAPSHOT, broker, event, rows, stranger};

async fn skipped(events: &mut RoomEvents) -> Skip {
    event(events, |event| match event {
        RoomEvent::Skipped { why, .. } => Some(*why),
        _ => None,
    })
    .await
}

fn change(table: &str, cid: &str, col_version: u64) -> Change {
    Change {
        table: table.into(),
        pk: PackedKey::pack(&[Value::Integer(77)]),
        cid: Cid::from(cid),
        val: Value::Text("forged".into()),
        col_version: ColVersion(col_version),
        db_version: 1.into(),
        site_id: SiteId::from([9; 16]),
        cl: 1.into(),
        seq: 0,
    }
}

fn changeset(change: Change) -> Vec<u8> {
    [change].into_iter().collect::<Changeset>().to_bytes()
}

/// A stamp of so many milliseconds from now.
fn stamp(ahead_ms: u64) -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().expect("a time").as_millis() as u64;
    Hlc::from_millis(WallMillis(now + ahead_ms)).version().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_changeset_is_left_out() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let room = phone.join(&broker).await;
    let _laptop = laptop.join(&broker).await;
    let mut events = room.events();
    let stranger = stranger(&broker).await;
    let zeros = zstd_bomb();
    let mut damaged = changeset(change("todos", "title", 1));
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let hostile: Vec<(Vec<u8>, Skip)> = vec![
        (b"garbage".to_vec(), Skip::Malformed),
        (Vec::new(), Skip::Malformed),
        (b"opc\x01\x00".to_vec(), Skip::Malformed),
        (damaged, Skip::Malformed),
        (zeros, Skip::Malformed),
        (changeset(change("todos", "title", u64::MAX)), Skip::Malformed),
        (changeset(change("todos", "title", stamp(3_600_000))), Skip::Drift),
        (b"opp\x01".to_vec(), Skip::Malformed),
        // Parts that are not there, and parts that are something else.
        (
            [&b"opp\x01"[..], &5_u64.to_le_bytes(), &[0; 32], &999_u64.to_le_bytes()].concat(),
            Skip::PartsMissing,
        ),
        (
            [&b"opp\x01"[..], &5_u64.to_le_bytes(), &[0; 32], &1_u64.to_le_bytes()].concat(),
            Skip::PartsMissing,
        ),
        (b"ops\x01{\"id\":\"../../x\"}".to_vec(), Skip::Malformed),
        (notice("0a0b"), Skip::Malformed),
    ];
    let mut expected = Vec::new();
    for (number, (payload, why)) in (0..).zip(hostile) {
        stranger.publish(LOG, payload.into()).await.expect("sent").await.expect("stored");
        assert_eq!(skipped(&mut events).await, why, "message {number}");
        // Others are not affected, in either direction.
        laptop.insert(number..number + 1, "x").await;
        expected.extend(rows(number..number + 1, "x"));
        phone.holds(&expected).await;
    }
    laptop.holds(&expected).await;
    assert_eq!(room.counts().connects, 1, "nothing of it ended the connection");

    // Whoever comes later is not stopped by it either.
    let newcomer = Replica::new().await;
    let _newcomer = newcomer.join(&broker).await;
    newcomer.holds(&expected).await;
}

fn notice(id: &str) -> Vec<u8> {
    let site = "0a".repeat(16);
    let record = format!(
        "{{\"id\":\"{id}\",\"site\":\"{site}\",\"version\":1,\"covers\":1,\"floor\":1,\"pieces\":1,\"kept\":0,\
         \"previous\":null}}"
    );
    [&b"ops\x01"[..], record.as_bytes()].concat()
}

/// A changeset that says to be small and is 128 MiB and more.
fn zstd_bomb() -> Vec<u8> {
    let table = "t".repeat(100);
    let mut changes = Changeset::new();
    for id in 0..150 {
        let mut change = change(&table, "title", 1);
        change.pk = PackedKey::pack(&[Value::Integer(id)]);
        // Each another, so that no dictionary makes it small.
        change.val = Value::Text(format!("{id}{}", "0".repeat(1_000_000)));
        changes.push(change);
    }
    let bytes = changes.to_bytes_with(&EncodeOptions::default());
    assert!(bytes.len() < 900_000, "{} bytes", bytes.len());
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_twice_changes_nothing_the_second_time() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let room = phone.join(&broker).await;
    let _laptop = laptop.join(&broker).await;
    let mut events = room.events();
    laptop.insert(0..1, "x").await;
    let sequence = event(&mut events, |event| match event {
        RoomEvent::Merged { sequence, version: Some(_), .. } => Some(*sequence),
        _ => None,
    })
    .await;
    let context = stranger(&broker).await;
    let stream = context.get_stream(crate::replica::STREAM).await.expect("it is there");
    let message = stream.get_raw_message(sequence).await.expect("it is there");
    // Without its id, so that the broker does not notice.
    context
        .publish_with_headers(LOG, HeaderMap::new(), message.payload)
        .await
        .expect("sent")
        .await
        .expect("stored");
    let (changes, unchanged, version) = event(&mut events, |event| match event {
        RoomEvent::Merged { sequence: later, changes, unchanged, version, .. } if *later > sequence => {
            Some((*changes, *unchanged, *version))
        }
        _ => None,
    })
    .await;
    assert_eq!((changes, version), (unchanged, None));
    assert_eq!(phone.rows().await, rows(0..1, "x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_fit_is_taken_once_the_table_is_there() {
    let broker = broker();
    let laptop = Replica::new().await;
    let phone = Replica::without_table();
    let _laptop = laptop.join(&broker).await;
    let room = phone.join(&broker).await;
    let mut events = room.events();
    laptop.insert(0..3, "x").await;
    // The store keeps it aside, and the place in the log moves on.
    event(&mut events, |event| matches!(event, RoomEvent::Merged { .. }).then_some(())).await;
    room.stop().await;
    phone.create().await;
    let _room = phone.join(&broker).await;
    phone.holds(&rows(0..3, "x")).await;
    laptop.insert(3..4, "x").await;
    phone.holds(&rows(0..4, "x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_snapshot_is_replaced_by_a_true_one() {
    let broker = broker();
    let laptop = Replica::new().await;
    let _laptop = laptop.join(&broker).await;
    laptop.insert(0..3, "x").await;
    let context = stranger(&broker).await;
    let record = notice("0a0b")[4..].to_vec();
    context.publish(SNAPSHOT, record.into()).await.expect("sent").await.expect("stored");
    let phone = Replica::new().await;
    let room = phone.joining(&broker).join().await.expect("it joins");
    let mut events = room.events();
    // It is behind the forged floor, and the snapshot is not there: it asks, and the laptop makes one.
    event(&mut events, |event| matches!(event, RoomEvent::SnapshotWanted { .. }).then_some(())).await;
    phone.holds(&rows(0..3, "x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_snapshot_stops_nobody_who_reads() {
    let broker = broker();
    let (phone, laptop) = (Replica::new().await, Replica::new().await);
    let rooms = [phone.join(&broker).await, laptop.join(&broker).await];
    phone.publish(&rooms[0], 0..5, "x").await;
    laptop.holds(&rows(0..5, "x")).await;
    let context = stranger(&broker).await;
    // It says that a message has been removed that nobody has looked for yet.
    let record = notice("0a0b")[4..].to_vec();
    let forged = context.publish(SNAPSHOT, record.into()).await.expect("sent").await.expect("stored");
    let mut events = rooms[1].events();
    // More than is read without a look at what was removed.
    phone.publish(&rooms[0], 5..130, "x").await;
    laptop.holds(&rows(0..130, "x")).await;
    let made = |event: &RoomEvent| matches!(event, RoomEvent::SnapshotTaken { .. }).then_some(());
    let wanted = |event: &RoomEvent| matches!(event, RoomEvent::SnapshotWanted { .. }).then_some(());
    event(&mut events, wanted).await;
    // Somebody replaces it by a true one.
    let newcomer = Replica::new().await;
    let room = newcomer.joining(&broker).join().await.expect("it joins");
    event(&mut room.events(), made).await;
    newcomer.holds(&rows(0..130, "x")).await;
    assert!(
        rooms.iter().all(|room| room.counts().connects == 1),
        "the others went on; forged was {}",
        forged.sequence
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_those_that_were_announced_or_none() {
    let broker = broker();
    let phone = Replica::new().await;
    let room = phone.join(&broker).await;
    let mut events = room.events();
    let stranger = stranger(&broker).await;
    let whole = changeset(change("todos", "title", stamp(0)));
    let (one, two) = whole.split_at(whole.len() / 2);
    let mut sequences = Vec::new();
    for part in [one, two] {
        let sent = stranger.publish(PART, part.to_vec().into()).await.expect("it is sent");
        sequences.push(sent.await.expect("it is stored").sequence);
    }
    let entry = |len: usize, hash: [u8; 32], sequences: &[u64]| {
        let sequences: Vec<u8> = sequences.iter().flat_map(|sequence| sequence.to_le_bytes()).collect();
        [&b"opp\x01"[..], &(len as u64).to_le_bytes(), &hash, &sequences].concat()
    };
    let hash = *blake3::hash(&whole).as_bytes();
    for wrong in [
        entry(whole.len(), [7; 32], &sequences),
        entry(whole.len() + 1, hash, &sequences),
        entry(whole.len() - 1, hash, &sequences),
        entry(whole.len(), hash, &sequences[..1]),
        // The announcement itself is no part.
        entry(whole.len(), hash, &[sequences[0], sequences[1], sequences[1] + 1]),
    ] {
        let sent = stranger.publish(LOG, wrong.into()).await.expect("it is sent");
        sent.await.expect("it is stored");
        assert_eq!(skipped(&mut events).await, Skip::PartsMissing);
    }
    assert_eq!(phone.rows().await, []);
    let right = entry(whole.len(), hash, &sequences);
    stranger.publish(LOG, right.into()).await.expect("it is sent").await.expect("it is stored");
    phone.holds(&rows(77..78, "forged")).await;
}
