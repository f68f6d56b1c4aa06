//! The switches for tests: names, latency, partitions, cut wires, links that break.

use std::num::NonZeroU32;
use std::task::Poll;
use std::time::Duration;

use opor_transport_memory::{MemoryListener, MemoryNetwork};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Dialer, Link, Listener, Received, Receiver, Sender, TransportError,
    TransportErrorKind as Kind,
};
use tokio::time::{Instant, timeout};

/// What a future brings when it is polled once; `None` when it waits.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Longer than anything here takes, in real time or in virtual.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a future brings, or a failed test where it hangs.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes to an end")
}

async fn connect(network: &MemoryNetwork, from: &str, listener: &mut MemoryListener) -> (Link, Link) {
    let dialer = network.dialer(from, listener.address());
    tokio::try_join!(dialer.dial(), listener.accept()).expect("the listener is there")
}

fn frame(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, TransportError>, kind: Kind, text: &str) {
    let error = result.expect_err("the call must fail");
    assert_eq!((error.kind(), error.to_string()), (kind, text.to_owned()));
}

#[tokio::test]
async fn a_name_is_taken_until_its_listener_is_dropped() {
    let network = MemoryNetwork::new();
    let listener = network.listen("hub").unwrap();
    check(
        network.clone().listen("hub"),
        Kind::Misconfigured,
        "transport is not set up right: memory:hub is taken",
    );
    drop(listener);
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    assert_eq!((phone.peer().as_str(), hub.peer().as_str()), ("memory:hub", "memory:phone"));
}

#[tokio::test]
async fn networks_do_not_know_each_other() {
    let _listener = MemoryNetwork::new().listen("hub").unwrap();
    let dialer = MemoryNetwork::new().dialer("phone", "hub");
    check(dialer.dial().await, Kind::Unreachable, "nobody answers: memory:hub");
}

#[tokio::test(start_paused = true)]
async fn frames_take_their_time_and_keep_their_order() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let ((mut sender, _back), (_forth, mut receiver)) = (phone.split(), hub.split());

    let start = Instant::now();
    network.set_latency(Duration::from_secs(5));
    sender.send(frame("slow")).await.unwrap();
    network.set_latency(Duration::from_secs(1));
    sender.send(frame("fast")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO, "sending does not wait");

    assert_eq!(soon(receiver.recv()).await.unwrap(), Received::Frame(frame("slow")));
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(soon(receiver.recv()).await.unwrap(), Received::Frame(frame("fast")));
    assert_eq!(start.elapsed(), Duration::from_secs(5), "it arrived behind the slow one");

    let (_phone, _hub) = connect(&network, "phone", &mut listener).await;
    assert_eq!(start.elapsed(), Duration::from_secs(6), "a dial takes as long");
}

#[tokio::test(start_paused = true)]
async fn a_cut_does_not_wait_for_what_is_under_way() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let ((mut sender, _back), (_forth, mut receiver)) = (phone.split(), hub.split());
    let start = Instant::now();
    network.set_latency(Duration::from_secs(20));
    sender.send(frame("never")).await.unwrap();
    let waiting = tokio::spawn(async move { soon(receiver.recv()).await });
    tokio::task::yield_now().await;
    network.cut("hub", "phone");
    check(waiting.await.unwrap(), Kind::Lost, "link is lost: memory: the wire was cut");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_partition_stalls_and_heals_without_loss() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let (tablet, other_hub) = connect(&network, "tablet", &mut listener).await;
    let ((mut phone, _back), (_forth, mut from_phone)) = (phone.split(), hub.split());
    let ((mut tablet, _tablet_back), (_tablet_forth, mut from_tablet)) = (tablet.split(), other_hub.split());

    phone.send(frame("before")).await.unwrap();
    network.partition("hub", "phone");
    phone.send(frame("during")).await.unwrap();
    assert!(at_once(from_phone.recv()).await.is_none(), "nothing arrives, and nobody is told");
    tablet.send(frame("beside")).await.unwrap();
    assert_eq!(soon(from_tablet.recv()).await.unwrap(), Received::Frame(frame("beside")));
    let dialer = network.dialer("phone", "hub");
    check(dialer.dial().await, Kind::Unreachable, "nobody answers: memory:hub");

    let waiting = tokio::spawn(async move {
        let both = (soon(from_phone.recv()).await.unwrap(), soon(from_phone.recv()).await.unwrap());
        (both, from_phone)
    });
    tokio::task::yield_now().await;
    network.heal("phone", "hub");
    let (both, _from_phone) = waiting.await.unwrap();
    assert_eq!(both, (Received::Frame(frame("before")), Received::Frame(frame("during"))));
    let (_phone, _hub) = connect(&network, "phone", &mut listener).await;
}

#[tokio::test]
async fn a_cut_reaches_the_links_of_two_names_only() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let (tablet, other_hub) = connect(&network, "tablet", &mut listener).await;
    network.partition("phone", "hub");
    network.cut("phone", "hub");
    let lost = "link is lost: memory: the wire was cut";
    for mut half in [phone.split(), hub.split()] {
        check(soon(half.1.recv()).await, Kind::Lost, lost);
        check(half.0.send(frame("late")).await, Kind::Lost, lost);
    }
    let ((mut tablet, _back), (_forth, mut from_tablet)) = (tablet.split(), other_hub.split());
    tablet.send(frame("alive")).await.unwrap();
    assert_eq!(soon(from_tablet.recv()).await.unwrap(), Received::Frame(frame("alive")));
    network.heal("phone", "hub");
    let (_phone, _hub) = connect(&network, "phone", &mut listener).await;
}

/// How many frames each of some links carries before it breaks.
async fn carried(seed: u64) -> Vec<u32> {
    const LINKS: usize = 8;
    let network = MemoryNetwork::new();
    network.break_links(seed, NonZeroU32::new(20).expect("it is not zero"));
    let mut listener = network.listen("hub").expect("the name is free");
    let mut counts = Vec::new();
    for _ in 0..LINKS {
        let (phone, hub) = connect(&network, "phone", &mut listener).await;
        let ((mut sender, _back), (_forth, mut receiver)) = (phone.split(), hub.split());
        let mut count = 0;
        counts.push(loop {
            sender.send(frame("perhaps")).await.expect("a send that breaks the link cannot know it");
            match soon(receiver.recv()).await {
                Ok(received) => assert_eq!(received, Received::Frame(frame("perhaps"))),
                Err(error) => {
                    assert_eq!(error.to_string(), "link is lost: memory: the link broke under a frame");
                    break count;
                }
            }
            count += 1;
        });
    }
    network.mend_links();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let ((mut sender, _back), (_forth, mut receiver)) = (phone.split(), hub.split());
    for _ in 0..200 {
        sender.send(frame("surely")).await.expect("links no longer break");
        assert_eq!(
            soon(receiver.recv()).await.expect("links no longer break"),
            Received::Frame(frame("surely"))
        );
    }
    counts
}

#[tokio::test]
async fn links_break_the_same_way_for_the_same_seed() {
    let counts = carried(1).await;
    assert_eq!(carried(1).await, counts);
    assert_ne!(carried(2).await, counts);
    // About one in twenty: 160 frames for eight links, give or take.
    let total: u32 = counts.iter().sum();
    assert!((40..640).contains(&total), "{counts:?}");
}

/// The ends of a link are let go of with it, also in the address book.
#[tokio::test]
async fn what_is_dropped_is_gone() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    for _ in 0..1_000 {
        let (_phone, _hub) = connect(&network, "phone", &mut listener).await;
    }
    let book = format!("{network:?}");
    assert!(book.matches("(Weak)").count() < 50, "{} links are remembered", book.matches("(Weak)").count());
}

/// The halves are usable through the boxes they come in.
#[tokio::test]
async fn halves_can_be_put_together_anew() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let (limits, peer) = (phone.limits(), phone.peer().clone());
    let (sender, receiver): (Box<dyn Sender>, Box<dyn Receiver>) = phone.split();
    let (mut sender, _receiver) = Link::new(sender, receiver, limits, peer).split();
    sender.send(frame("through")).await.unwrap();
    let (_hub, mut from_phone) = hub.split();
    assert_eq!(soon(from_phone.recv()).await.unwrap(), Received::Frame(frame("through")));
}

/// Nothing piles up for an end that has closed and gone.
#[tokio::test]
async fn an_end_that_closed_and_left_takes_no_more() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").unwrap();
    let (phone, hub) = connect(&network, "phone", &mut listener).await;
    let ((mut phone, phone_receiver), (mut hub, mut from_phone)) = (phone.split(), hub.split());
    let reason = CloseReason::new(CloseCode::GOING_AWAY);
    phone.close(reason.clone()).await.unwrap();
    hub.send(frame("in time")).await.unwrap();
    drop((phone, phone_receiver));
    check(hub.send(frame("late")).await, Kind::Closed, "link is closed: going away");
    assert_eq!(soon(from_phone.recv()).await.unwrap(), Received::Closed(reason));
}
