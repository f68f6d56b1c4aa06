//! Peers that give snapshots which somebody made up: each is told apart, nothing of it stays, and the next is taken.

mod common;

use opor_core::SiteId;
use opor_store::{ManifestError, Store};
use opor_sync::{Ended, Rejection, SnapshotFault, SyncEvent};
use opor_sync_proto::{CloseReason, Cursor, SnapshotId};
use opor_transport_memory::MemoryNetwork;

use crate::common::giver::{Goods, give, is_untouched};
use crate::common::{Replica, becomes, event, is_live, within};

/// Takes from a giver of such goods; how both ends of the session saw it end. The replica is as before, and takes an
/// honest snapshot afterwards.
async fn end_of(change: impl FnOnce(&mut Goods)) -> (Ended, CloseReason) {
    let (network, phone) = (MemoryNetwork::new(), Replica::new().await);
    let mut listener = network.listen("giver").expect("the name is free");
    let mut goods = Goods::honest();
    let honest = Goods::honest();
    change(&mut goods);
    let at_phone = phone.sync().peer(network.dialer("phone", "giver")).start().await.expect("it starts");
    let mut events = at_phone.events();
    let closed = within("the giver", give(&mut listener, &goods)).await;
    let how = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    };
    let ended = event(&mut events, how).await;
    assert!(phone.store.read(is_untouched).await.expect("the handle is open"), "nothing is in the database");
    let version = phone.store.read(Store::db_version).await.expect("the handle is open");
    assert_eq!(version.expect("it reads").0, 0);
    assert!(at_phone.peers()[0].last_end().is_some());
    assert_eq!(phone.leftovers(), [""; 0], "nothing is beside it");

    let giver = tokio::spawn(async move { give(&mut listener, &honest).await });
    is_live(&at_phone.peers()[0]).await;
    phone.says("the rows", "SELECT count(*) = 9000 FROM todos").await;
    assert_eq!(phone.leftovers(), [""; 0]);
    at_phone.stop().await;
    within("the giver", giver).await.expect("no panic");
    ((*ended).clone(), closed)
}

#[track_caller]
fn fault((ended, closed): (Ended, CloseReason)) -> SnapshotFault {
    let Ended::Snapshot(fault) = ended else { panic!("{ended:?}") };
    // The giver is told, and nothing else of it.
    let CloseReason::Peer(bye) = closed else { panic!("{closed:?}") };
    assert!(bye.detail.starts_with("snapshot is damaged"), "{bye:?}");
    fault
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_is_not_what_the_manifest_says_is_refused() {
    let damaged = end_of(|goods| {
        let at = goods.chunks[1].len() / 2;
        goods.chunks[1][at] ^= 1;
    });
    assert_eq!(fault(damaged.await), SnapshotFault::Chunk { index: 1 });
    let swapped = end_of(|goods| goods.chunks.swap(0, 1));
    assert_eq!(fault(swapped.await), SnapshotFault::Chunk { index: 0 });
    let short = end_of(|goods| goods.chunks[1].truncate(9));
    assert_eq!(fault(short.await), SnapshotFault::Chunk { index: 1 });
    // A frame of zstd that becomes much more than a chunk.
    let bomb = end_of(|goods| {
        let zeros = vec![0; 200 << 20];
        goods.chunks[0] = zstd::bulk::compress(&zeros, 1).unwrap();
        assert!(goods.chunks[0].len() < 32 << 10);
    });
    assert_eq!(fault(bomb.await), SnapshotFault::Chunk { index: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_lies_is_refused() {
    let none = end_of(|goods| goods.manifest = b"manifest".to_vec());
    assert_eq!(fault(none.await), SnapshotFault::Manifest(ManifestError::Damaged));
    let name = end_of(|goods| goods.offer.id = SnapshotId(vec![7; 32]));
    assert_eq!(fault(name.await), SnapshotFault::Offer("name"));
    let more = end_of(|goods| goods.offer.chunks += 1_000_000);
    assert_eq!(fault(more.await), SnapshotFault::Offer("number of chunks"));
    let size = end_of(|goods| goods.offer.bytes -= 1);
    assert_eq!(fault(size.await), SnapshotFault::Offer("size"));
    let cursor = end_of(|goods| goods.offer.cursor = Cursor::new(b"9@9").unwrap());
    assert_eq!(fault(cursor.await), SnapshotFault::Offer("cursor"));
    let other = end_of(|goods| {
        goods.forge(|manifest| manifest[9..25].fill(7), |bytes| *blake3::hash(bytes).as_bytes());
    });
    assert_eq!(fault(other.await), SnapshotFault::OtherSite { site: SiteId::from([7; 16]) });
}

/// The hashes are right, for whoever makes up an image can hash it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_none_is_refused() {
    let made_up = end_of(|goods| {
        let mut image = Vec::new();
        for (index, chunk) in goods.chunks.iter_mut().enumerate() {
            let mut bytes = zstd::bulk::decompress(chunk, 1 << 20).unwrap();
            if index == 0 {
                bytes[100..4_000].fill(0xa5);
            }
            *chunk = zstd::bulk::compress(&bytes, 1).unwrap();
            image.push(*blake3::hash(&bytes).as_bytes());
        }
        let hashes = 32 * goods.chunks.len();
        let place = |manifest: &Vec<u8>| manifest.len() - hashes;
        goods.forge(
            |manifest| {
                let at = place(manifest);
                manifest.truncate(at);
                manifest.extend(image.iter().flatten());
            },
            |bytes| *blake3::hash(bytes).as_bytes(),
        );
    });
    let SnapshotFault::Image(why) = fault(made_up.await) else { panic!("the image is to blame") };
    assert!(why.contains("not a sound database"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_is_taken_is_refused_before_a_byte_of_it_is_written() {
    let (network, phone) = (MemoryNetwork::new(), Replica::new().await);
    let mut listener = network.listen("giver").unwrap();
    let goods = Goods::honest();
    let at_phone = phone.sync().snapshot_bytes_max(100_000).peer(network.dialer("phone", "giver"));
    let at_phone = at_phone.start().await.unwrap();
    within("the giver", give(&mut listener, &goods)).await;
    becomes(&at_phone.peers()[0], |_| at_phone.peers()[0].last_end().is_some()).await;
    let Some(Ended::Snapshot(fault)) = at_phone.peers()[0].last_end().as_deref().cloned() else {
        panic!("it is refused")
    };
    assert_eq!(fault, SnapshotFault::TooLarge { bytes: goods.offer.bytes, max: 100_000 });
    at_phone.stop().await;
    assert_eq!(phone.leftovers(), [""; 0]);
}

/// Chunks that go on after the last one are a breach of the protocol; what came before is good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_without_end_end_the_session() {
    let (network, phone) = (MemoryNetwork::new(), Replica::new().await);
    let mut listener = network.listen("giver").unwrap();
    let mut goods = Goods::honest();
    goods.endless = true;
    let at_phone = phone.sync().peer(network.dialer("phone", "giver")).start().await.unwrap();
    let mut events = at_phone.events();
    let closed = within("the giver", give(&mut listener, &goods)).await;
    let CloseReason::Peer(bye) = &closed else { panic!("{closed:?}") };
    assert!(bye.detail.contains("Chunk cannot come"), "{bye:?}");
    let how = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    };
    let ended = event(&mut events, how).await;
    assert!(matches!(&*ended, Ended::Session(CloseReason::Violation(_))), "{ended:?}");
    at_phone.stop().await;
}

/// A snapshot that is taken back again and again: the session asks three times, then later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_vanishes_is_asked_for_anew_and_not_for_ever() {
    let (network, phone) = (MemoryNetwork::new(), Replica::new().await);
    let mut listener = network.listen("giver").unwrap();
    let at_phone = phone.sync().peer(network.dialer("phone", "giver")).start().await.unwrap();
    let mut events = at_phone.events();
    let mut goods = Goods::honest();
    goods.vanishes = 99;
    within("the giver", give(&mut listener, &goods)).await;
    let how = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    };
    assert!(matches!(*event(&mut events, how).await, Ended::NoSnapshot));
    goods.vanishes = 2;
    let giver = tokio::spawn(async move { give(&mut listener, &goods).await });
    is_live(&at_phone.peers()[0]).await;
    phone.says("the rows", "SELECT count(*) = 9000 FROM todos").await;
    at_phone.stop().await;
    within("the giver", giver).await.unwrap();
}

/// An honest snapshot of tables that do not fit, and one from the future: said in full, and kept to be tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_here_is_said_in_full() {
    use std::sync::Arc;

    use opor_core::WallMillis;
    use opor_store::{OpenOptions, QuarantineLimits};

    let network = MemoryNetwork::new();
    let mut listener = network.listen("giver").unwrap();
    let goods = Goods::honest();
    let pairs = "CREATE TABLE todos(a NOT NULL, b NOT NULL, title TEXT, note TEXT, PRIMARY KEY (a, b))";
    let nothing_waits = OpenOptions::new().quarantine(QuarantineLimits::NONE);
    let other = Replica::of(pairs, &nothing_waits).await;
    let at_other = other.sync().peer(network.dialer("other", "giver")).start().await.unwrap();
    within("the giver", give(&mut listener, &goods)).await;
    becomes(&at_other.peers()[0], |status| matches!(status, opor_sync::SyncStatus::Refused { .. })).await;
    let Some(Ended::Rejected { rejection, why }) = at_other.peers()[0].last_end().as_deref().cloned() else {
        panic!("it is refused")
    };
    assert_eq!(rejection, Rejection::Schema);
    assert!(why.contains("todos"), "{why}");
    assert!(other.store.read(is_untouched).await.unwrap());
    at_other.stop().await;

    let past = OpenOptions::new().wall_clock(Arc::new(|| WallMillis(1_600_000_000_000)));
    let todos = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT, note TEXT)";
    let slow = Replica::of(todos, &past).await;
    let at_slow = slow.sync().peer(network.dialer("slow", "giver")).start().await.unwrap();
    let mut events = at_slow.events();
    within("the giver", give(&mut listener, &goods)).await;
    let how = |event: &SyncEvent| match event {
        SyncEvent::Ended { how, .. } => Some(how.clone()),
        _ => None,
    };
    let ended = event(&mut events, how).await;
    let Ended::Rejected { rejection, why } = &*ended else { panic!("{ended:?}") };
    assert_eq!(*rejection, Rejection::Drift);
    assert!(why.contains("ahead"), "{why}");
    assert!(slow.store.read(is_untouched).await.unwrap());
    at_slow.stop().await;
    // When the clock is right, what comes again is here already.
    let slow = slow.reopened();
    let at_slow = slow.sync().peer(network.dialer("slow", "giver")).start().await.unwrap();
    let mut events = at_slow.events();
    let giver = tokio::spawn(async move { give(&mut listener, &goods).await });
    let held = |event: &SyncEvent| match event {
        SyncEvent::SnapshotBegun { held, chunks, .. } => Some(held == chunks),
        _ => None,
    };
    assert!(event(&mut events, held).await, "all chunks are here");
    is_live(&at_slow.peers()[0]).await;
    slow.says("the rows", "SELECT count(*) = 9000 FROM todos").await;
    at_slow.stop().await;
    within("the giver", giver).await.unwrap();
}
