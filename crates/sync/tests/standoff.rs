//! Two replicas that have both dropped deletes of which the other has not learnt: one gives way, and both get on.

mod common;

use opor_core::SiteId;
use opor_store::Store;
use opor_sync::{Replicator, SyncEvent, SyncEvents, Timeouts};
use opor_transport_memory::MemoryNetwork;

use crate::common::{Replica, event, is_live};

const ROWS: &str = "INSERT INTO todos VALUES (1, 'milk', 'two'), (2, 'bread', 'one'), (3, 'salt', 'none'), (4, 'tea', 'tin')";

async fn listening(at: &Replica, network: &MemoryNetwork, name: &str) -> Replicator {
    at.sync().listen(network.listen(name).expect("the name is free")).start().await.expect("it starts")
}

async fn linked(at: &Replica, network: &MemoryNetwork, name: &str, to: &str) -> Replicator {
    // It tells at once that it has nothing else.
    let timeouts = Timeouts { cursor_ms: 1, ..Timeouts::default() };
    at.sync().timeouts(timeouts).peer(network.dialer(name, to)).start().await.expect("it starts")
}

/// Of whom a snapshot is merged next.
async fn installed(events: &mut SyncEvents) -> SiteId {
    event(events, |event| match event {
        SyncEvent::SnapshotInstalled { site } => Some(*site),
        _ => None,
    })
    .await
}

/// The one with the lesser site id merges a snapshot first, of a replica that has merged none.
async fn check_order(desk: (&Replica, &mut SyncEvents), phone: (&Replica, &mut SyncEvents)) {
    let (desk_site, phone_site) = (desk.0.site().await, phone.0.site().await);
    let (lesser, greater) = if desk_site < phone_site { (desk, phone) } else { (phone, desk) };
    let (less, great) = (desk_site.min(phone_site), desk_site.max(phone_site));
    assert_eq!(installed(lesser.1).await, great);
    let told = event(greater.1, |event| match event {
        SyncEvent::Acknowledged { .. } => Some("it is acknowledged"),
        SyncEvent::SnapshotInstalled { .. } => Some("it has a snapshot"),
        _ => None,
    });
    assert_eq!(told.await, "it is acknowledged");
    assert_eq!(installed(greater.1).await, less);
}

/// Waits until one has pulled all that the other has committed. What is deleted after that was here; and a delete that is
/// forgotten after that does not come back, as it would with what the other was sending meanwhile.
async fn has_pulled_all(replica: &Replica, events: &mut SyncEvents, peer: &Replica) {
    let site = peer.site().await;
    let pulled =
        move |store: &Store| store.peer_cursor(site).expect("it reads").map_or(0, |cursor| cursor.base.0);
    loop {
        let version =
            peer.store.read(Store::db_version).await.expect("the handle is open").expect("it reads");
        if replica.store.read(pulled).await.expect("the handle is open") >= version.0 {
            return;
        }
        event(events, |event| matches!(event, SyncEvent::Merged { .. }).then_some(())).await;
    }
}

/// Neither has ever pulled from the other. A friend of the desk remembers a delete that the desk has forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_have_both_forgotten_deletes_meet() {
    let network = MemoryNetwork::new();
    let (desk, friend, phone) = (Replica::new().await, Replica::new().await, Replica::new().await);
    let at_desk = listening(&desk, &network, "desk").await;
    let at_friend = linked(&friend, &network, "friend", "desk").await;
    desk.write(ROWS).await;
    desk.write("DELETE FROM todos WHERE id < 3").await;
    friend.holds(&[(3, "salt"), (4, "tea")]).await;
    is_live(&at_friend.peers()[0]).await;
    let mut desk_events = at_desk.events();
    has_pulled_all(&desk, &mut desk_events, &friend).await;
    desk.forget_deletes().await;
    phone.write("INSERT INTO todos(id, title) VALUES (1, 'of the phone'), (8, 'gone'), (9, 'kept')").await;
    phone.write("DELETE FROM todos WHERE id = 8").await;
    phone.forget_deletes().await;

    let at_phone = linked(&phone, &network, "phone", "desk").await;
    check_order((&desk, &mut desk_events), (&phone, &mut at_phone.events())).await;
    let all = [(1, "of the phone"), (3, "salt"), (4, "tea"), (9, "kept")];
    for replica in [&desk, &phone, &friend] {
        replica.holds(&all).await;
    }
    desk.write("UPDATE todos SET title = 'live' WHERE id = 9").await;
    phone.holds(&[(1, "of the phone"), (3, "salt"), (4, "tea"), (9, "live")]).await;
    phone.write("DELETE FROM todos WHERE id = 9").await;
    for replica in [&desk, &friend] {
        replica.holds(&all[..3]).await;
    }
    desk.equals(&phone).await;
    friend.equals(&phone).await;
    for replicator in [at_phone, at_friend, at_desk] {
        replicator.stop().await;
    }
}

/// Both were in step, and then missed what the other deleted and forgot. What one has edited and the other deleted comes back
/// whole, everywhere; what nobody has edited stays gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_behind_each_other_get_in_step() {
    let network = MemoryNetwork::new();
    let (desk, friend, phone) = (Replica::new().await, Replica::new().await, Replica::new().await);
    let at_desk = listening(&desk, &network, "desk").await;
    let at_friend = linked(&friend, &network, "friend", "desk").await;
    let (at_phone, mut desk_events) = (linked(&phone, &network, "phone", "desk").await, at_desk.events());
    desk.write(ROWS).await;
    phone.write("INSERT INTO todos(id, title) VALUES (5, 'of the phone'), (6, 'too'), (7, 'more')").await;
    let all =
        [(1, "milk"), (2, "bread"), (3, "salt"), (4, "tea"), (5, "of the phone"), (6, "too"), (7, "more")];
    for replica in [&desk, &phone, &friend] {
        replica.holds(&all).await;
    }
    has_pulled_all(&desk, &mut desk_events, &phone).await;
    at_phone.stop().await;

    desk.write("DELETE FROM todos WHERE id IN (1, 2, 5)").await;
    desk.write(
        "UPDATE todos SET title = 'black tea' WHERE id = 4; UPDATE todos SET title = 'two' WHERE id = 6",
    )
    .await;
    friend.holds(&[(3, "salt"), (4, "black tea"), (6, "two"), (7, "more")]).await;
    has_pulled_all(&desk, &mut desk_events, &friend).await;
    desk.forget_deletes().await;
    phone.write("DELETE FROM todos WHERE id IN (3, 6)").await;
    phone.write("UPDATE todos SET title = 'oat milk' WHERE id = 1").await;
    phone.forget_deletes().await;

    let at_phone = linked(&phone, &network, "phone", "desk").await;
    check_order((&desk, &mut desk_events), (&phone, &mut at_phone.events())).await;
    let expected = [(1, "oat milk"), (4, "black tea"), (6, "two"), (7, "more")];
    for replica in [&desk, &phone, &friend] {
        replica.holds(&expected).await;
        replica.says("the row as a whole", "SELECT note = 'two' FROM todos WHERE id = 1").await;
    }
    is_live(&at_phone.peers()[0]).await;
    desk.equals(&phone).await;
    friend.equals(&phone).await;
    for replicator in [at_phone, at_friend, at_desk] {
        replicator.stop().await;
    }
}

/// Four in a chain. The first remembers a delete that the second has forgotten, and of which the third learns from a snapshot; so
/// the third holds the fourth, which has a row of that key. It comes back for all of them, or would be refused by the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_learnt_of_forgotten_deletes_holds_those_who_have_not() {
    let network = MemoryNetwork::new();
    let (first, second) = (Replica::new().await, Replica::new().await);
    let (third, fourth) = (Replica::new().await, Replica::new().await);
    let (at_second, at_third) =
        (listening(&second, &network, "second").await, listening(&third, &network, "third").await);
    let (at_first, mut second_events) =
        (linked(&first, &network, "first", "second").await, at_second.events());
    let from_third = linked(&third, &network, "from third", "second").await;
    let at_fourth = linked(&fourth, &network, "fourth", "third").await;
    second.write("INSERT INTO todos(id, title) VALUES (3, 'salt')").await;
    for replica in [&first, &third, &fourth] {
        replica.holds(&[(3, "salt")]).await;
    }
    from_third.stop().await;
    at_fourth.stop().await;
    second.write("INSERT INTO todos(id, title) VALUES (1, 'gone')").await;
    second.write("DELETE FROM todos WHERE id = 1").await;
    second.write("INSERT INTO todos(id, title) VALUES (4, 'tea')").await;
    first.holds(&[(3, "salt"), (4, "tea")]).await;
    has_pulled_all(&second, &mut second_events, &first).await;
    second.forget_deletes().await;
    fourth.write("INSERT INTO todos(id, title) VALUES (1, 'of the fourth')").await;

    let from_third = linked(&third, &network, "from third", "second").await;
    assert_eq!(installed(&mut from_third.events()).await, second.site().await);
    let at_fourth = linked(&fourth, &network, "fourth", "third").await;
    assert_eq!(installed(&mut at_fourth.events()).await, third.site().await);
    let all = [(1, "of the fourth"), (3, "salt"), (4, "tea")];
    for replica in [&first, &second, &third, &fourth] {
        replica.holds(&all).await;
    }
    first.write("UPDATE todos SET title = 'live' WHERE id = 1").await;
    let all = [(1, "live"), (3, "salt"), (4, "tea")];
    for replica in [&second, &third, &fourth] {
        replica.holds(&all).await;
        replica.equals(&first).await;
    }
    for replicator in [at_first, from_third, at_fourth, at_third, at_second] {
        replicator.stop().await;
    }
}
