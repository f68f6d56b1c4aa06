//! Links that come another way than over the endpoints: the same rooms, places and tokens.

use opor_hub::{Hub, HubError, RoomName, Timeouts};
use opor_sync_proto::{ByeCode, Decoded, Message, decode};
use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::{CloseCode, Dialer, Link, Listener, Received};

use crate::raw::hello;
use crate::scene::{Healthy, Served, within};

const BEARER: [(&str, &str); 1] = [("authorization", "Bearer secret")];

/// Both ends of a new link.
async fn link() -> (Link, Link) {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").expect("nobody listens there");
    let dialer = network.dialer("peer", "hub");
    let (dialled, accepted) = tokio::join!(dialer.dial(), listener.accept());
    (dialled.expect("it is accepted"), accepted.expect("it is dialled"))
}

fn room(name: &str) -> RoomName {
    RoomName::new(name).expect("a name")
}

/// Says hello over a new link; what the hub makes of it, the goodbye and the code of the close.
async fn knocks(hub: &Hub, name: &str, first: Option<Vec<u8>>) -> (HubError, ByeCode, CloseCode) {
    let (peer, link) = link().await;
    let (mut sender, mut receiver) = peer.split();
    let name = room(name);
    let speaks = async {
        if let Some(frame) = first {
            sender.send(frame.into()).await.expect("the link is up");
        }
        let mut goodbye = None;
        loop {
            match receiver.recv().await.expect("the link ends in order") {
                Received::Frame(frame) => match decode(&frame) {
                    Ok(Decoded::Message(Message::Bye(bye))) => goodbye = Some(bye.code),
                    other => panic!("{other:?}"),
                },
                Received::Closed(reason) => return (goodbye.expect("a goodbye"), reason.code()),
            }
        }
    };
    let (joined, (bye, close)) =
        within("a verdict", async { tokio::join!(hub.join(&name, link), speaks) }).await;
    (joined.expect_err("it is not let in"), bye, close)
}

/// A replica whose link is handed to the hub.
async fn joins(served: &Served, token: Option<&str>) -> Healthy {
    let network = MemoryNetwork::new();
    let mut listener = network.listen("hub").expect("nobody listens there");
    let healthy = Healthy::join_by(network.dialer("peer", "hub"), token).await;
    let link = within("a link", listener.accept()).await.expect("it is dialled");
    served.hub.join(&room("garden"), link).await.expect("it is let in");
    healthy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_are_tokens_the_hello_shows_one() {
    let timeouts = Timeouts { handshake_ms: 300, ..Timeouts::default() };
    let served = Served::new(|options| options.token("old").token("secret").timeouts(timeouts));
    served.make("garden", &BEARER).await;
    let frame = |token: &str| Some(hello(9, token).to_bytes(0));
    for name in ["garden", "nowhere"] {
        // A stranger does not learn which rooms there are.
        for wrong in [frame(""), frame("secre"), frame("secret2"), Some(vec![0xff; 500]), Some(Vec::new())] {
            let (error, bye, close) = knocks(&served.hub, name, wrong).await;
            assert!(matches!(error, HubError::Unauthorized), "{error:?}");
            assert_eq!((bye, close), (ByeCode::Token, CloseCode::REFUSED));
        }
        let (error, bye, close) = knocks(&served.hub, name, None).await;
        assert!(matches!(error, HubError::Unauthorized), "{error:?}");
        assert_eq!((bye, close), (ByeCode::Timeout, CloseCode::GOING_AWAY));
    }
    let (error, bye, _) = knocks(&served.hub, "nowhere", frame("secret")).await;
    assert!(matches!(error, HubError::UnknownRoom { .. }), "{error:?}");
    assert_eq!(bye, ByeCode::Room);
    assert!(!served.dir.path().join("rooms/nowhere.sqlite").exists(), "nothing was made");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_let_in_syncs_with_all_others() {
    let served = Served::new(|options| options.token("old").token("secret"));
    served.make("garden", &BEARER).await;
    let [a, b] = [joins(&served, Some("secret")).await, joins(&served, Some("old")).await];
    let c = Healthy::join(served.address, Some("secret")).await;
    for (id, from) in [(1, &a), (2, &b), (3, &c)] {
        from.write(format!("INSERT INTO todos VALUES ({id}, 'x')")).await;
        for to in [&a, &b, &c] {
            to.has(id).await;
        }
    }
    assert_eq!(served.get("/healthz").await.json()["sessions"], 3, "they are counted as all are");
    for healthy in [a, b, c] {
        healthy.syncing.stop().await;
    }
    served.stop().await;

    // Where there are no tokens, none is asked for.
    let open = Served::new(|options| options);
    let (error, bye, close) = knocks(&open.hub, "garden", None).await;
    assert!(matches!(error, HubError::UnknownRoom { .. }), "{error:?}");
    assert_eq!((bye, close), (ByeCode::Room, CloseCode::REFUSED));
    open.make("garden", &[]).await;
    let [d, e] = [joins(&open, None).await, joins(&open, Some("whatever")).await];
    d.write("INSERT INTO todos VALUES (1, 'x')").await;
    e.has(1).await;
    for healthy in [d, e] {
        healthy.syncing.stop().await;
    }
    open.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_hub_and_one_that_closes_say_so() {
    let served = Served::new(|options| options.token("secret").sessions_max(1));
    served.make("garden", &BEARER).await;
    let first = joins(&served, Some("secret")).await;
    let (error, bye, close) = knocks(&served.hub, "garden", Some(hello(9, "secret").to_bytes(0))).await;
    assert!(matches!(error, HubError::Full { .. }), "{error:?}");
    assert_eq!((bye, close), (ByeCode::Busy, CloseCode::OVERLOADED));
    first.syncing.stop().await;
    served.hub.close().await;
    let (error, bye, close) = knocks(&served.hub, "garden", Some(hello(9, "secret").to_bytes(0))).await;
    assert!(matches!(error, HubError::Closing), "{error:?}");
    assert_eq!((bye, close), (ByeCode::Shutdown, CloseCode::GOING_AWAY));
    served.stop().await;
}
