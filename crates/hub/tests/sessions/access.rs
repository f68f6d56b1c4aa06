//! Who is let in: tokens, names of rooms, and how many there are already.

use opor_hub::{HubEvent, SyncEvent, Timeouts};
use opor_sync_proto::ByeCode;

use crate::raw::{Heard, Raw, hello, http};
use crate::scene::{Healthy, Served};

const UPGRADE: [(&str, &str); 5] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "opor.v1"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_in_the_request() {
    let served = Served::new(|options| options.token("old").token("new"));
    for path in ["/changes/garden", "/rooms/garden/schema"] {
        served.get(path).await.is_refused(401, "unauthorized");
        let wrong = http(served.address, "GET", path, &[("authorization", "Bearer ne")], "").await;
        wrong.is_refused(401, "unauthorized");
        assert!(wrong.head.contains("www-authenticate: bearer"), "{wrong:?}");
        // Who is let in learns what there is.
        let right = http(served.address, "GET", path, &[("authorization", "Bearer new")], "").await;
        right.is_refused(404, "unknown_room");
    }
    assert_eq!(served.get("/healthz").await.json()["status"], "ok");
    assert_eq!(Raw::connect(served.address, "garden", Some("wrong")).await.err(), Some(401));
    assert_eq!(Raw::connect(served.address, "garden", Some("old")).await.err(), Some(404));

    served.make("garden", &[("authorization", "Bearer old")]).await;
    let (a, b) =
        (Healthy::join(served.address, Some("old")).await, Healthy::join(served.address, Some("new")).await);
    a.write("INSERT INTO todos VALUES (1, 'milk')").await;
    b.has(1).await;
    a.syncing.stop().await;
    b.syncing.stop().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn or_in_the_hello_before_any_room_is_touched() {
    let timeouts = Timeouts { handshake_ms: 300, ..Timeouts::default() };
    let mut served = Served::new(|options| options.token("secret").timeouts(timeouts));

    // A stranger learns nothing: not even whether there is such a room.
    for token in ["", "secre", "secret2"] {
        let mut stranger = Raw::connect(served.address, "garden", None).await.expect("the hub switches");
        stranger.say(&hello(9, token)).await;
        let (bye, code) = stranger.end().await;
        let bye = bye.expect("a goodbye");
        assert_eq!((bye.code, &*bye.detail, code), (ByeCode::Token, "token is not valid", Some(1008)));
    }
    let mut silent = Raw::connect(served.address, "garden", None).await.expect("the hub switches");
    let (bye, code) = silent.end().await;
    assert_eq!((bye.map(|bye| bye.code), code), (Some(ByeCode::Timeout), Some(1001)));
    let mut garbage = Raw::connect(served.address, "garden", None).await.expect("the hub switches");
    garbage.send(vec![0xff; 500]).await;
    assert_eq!(garbage.end().await.1, Some(1008));
    let mut nobody = Raw::connect(served.address, "garden", None).await.expect("the hub switches");
    nobody.say(&hello(9, "secret")).await;
    let (bye, code) = nobody.end().await;
    assert_eq!((bye.map(|bye| bye.code), code), (Some(ByeCode::Room), Some(1008)));
    assert_eq!(served.get("/healthz").await.json()["rooms_open"], 0);
    let refused = served.event(|event| match event {
        HubEvent::Refused { room, why, .. } => Some((room.to_string(), why.to_string())),
        _ => None,
    });
    assert_eq!(refused.await, ("garden".into(), "token is missing or not valid".into()));

    served.make("garden", &[("authorization", "Bearer secret")]).await;
    let mut known = Raw::connect(served.address, "garden", None).await.expect("the hub switches");
    known.say(&hello(9, "secret")).await;
    assert!(matches!(known.hear().await, Some(Heard::Hello)), "the hello was passed on to the session");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_rooms_are_never_paths() {
    let served = Served::new(|options| options);
    let upgrade = |path: &'static str| http(served.address, "GET", path, &UPGRADE, "");
    for path in [
        "/sync/..%2f..%2fetc%2fpasswd",
        "/sync/%2e%2e",
        "/sync/a%00b",
        "/sync/file:garden",
        "/sync/a%5cb",
        "/sync/a.sqlite",
        "/sync/%ff%fe",
    ] {
        let answer = upgrade(path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    upgrade("/sync/../garden").await.is_refused(404, "unknown_endpoint");
    upgrade("/sync/garden").await.is_refused(404, "unknown_room");
    let made: Vec<_> = std::fs::read_dir(served.dir.path()).expect("the directory").collect();
    assert!(made.is_empty(), "nothing was made: {made:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_upgrade_is_told_so() {
    let served = Served::new(|options| options);
    served.make("garden", &[]).await;
    let path = "/sync/garden";
    let plain = served.get(path).await;
    plain.is_refused(426, "upgrade");
    assert!(plain.head.contains("upgrade: websocket"), "{plain:?}");
    for (left_out, name) in UPGRADE.iter().map(|(name, _)| *name).enumerate().skip(1) {
        let mut headers = UPGRADE.to_vec();
        headers.remove(left_out);
        let answer = http(served.address, "GET", path, &headers, "").await;
        assert_eq!(answer.status, 426, "without {name}: {answer:?}");
    }
    let mut page = UPGRADE.to_vec();
    page.push(("origin", "http://evil.example"));
    http(served.address, "GET", path, &page, "").await.is_refused(403, "origin");
    let right = http(served.address, "GET", path, &UPGRADE, "").await;
    assert_eq!(right.status, 101, "{right:?}");
    // The example of RFC 6455, section 1.3.
    assert!(right.head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{right:?}");
    assert!(right.head.contains("sec-websocket-protocol: opor.v1"), "{right:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_counted_and_given_back() {
    let mut served = Served::new(|options| options.sessions_per_room_max(2).sessions_max(3));
    served.make("garden", &[]).await;
    served.make("yard", &[]).await;
    let mut first = Raw::open(served.address, 1).await;
    let second = Raw::open(served.address, 2).await;
    assert_eq!(Raw::connect(served.address, "garden", None).await.err(), Some(503));
    let third = Raw::connect(served.address, "yard", None).await.expect("the yard has a place");
    assert_eq!(Raw::connect(served.address, "yard", None).await.err(), Some(503));
    assert_eq!(served.get("/healthz").await.json()["sessions"], 3);

    // One in the other room leaves no place in this one; one in this room does.
    drop(third);
    served.ended().await;
    assert_eq!(Raw::connect(served.address, "garden", None).await.err(), Some(503));
    first.push(0, b"no changeset").await;
    first.end().await;
    served.ended().await;
    let mut again = Raw::open(served.address, 3).await;
    again.say(&opor_sync_proto::Message::Ping { nonce: 1 }).await;
    assert!(matches!(again.hear().await, Some(Heard::Other)), "it is served");
    drop(second);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_take_all_places() {
    let mut served = Served::new(|options| options.sessions_per_peer_max(1));
    served.make("garden", &[]).await;
    let first = Raw::open(served.address, 1).await;
    assert_eq!(Raw::connect(served.address, "garden", None).await.err(), Some(503));
    drop(first);
    let peer = served.event(|event| match event {
        HubEvent::Session { event: SyncEvent::Ended { peer, .. }, .. } => Some(peer.to_string()),
        _ => None,
    });
    assert!(peer.await.starts_with("ws:127.0.0.1:"), "events name the address");
    Raw::open(served.address, 2).await;
    served.stop().await;
}
