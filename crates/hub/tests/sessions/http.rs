//! Sessions over plain HTTP requests: the same rooms and the same rules.

use std::net::SocketAddr;
use std::time::Duration;

use opor_hub::{HubEvent, SyncEvent};
use opor_sync::SyncEvents;
use opor_transport_http::{Downstream, HttpDialer};
use opor_transport_traits::{Dialer as _, TransportErrorKind as Kind};

use crate::raw::{Answer, Raw, http};
use crate::scene::{Healthy, Served, within};

const GARDEN: &str = "/http-sync/garden";

fn dialer(address: SocketAddr, token: Option<&str>) -> HttpDialer {
    let dialer = HttpDialer::new(&format!("http://{address}{GARDEN}")).expect("an address");
    match token {
        Some(token) => dialer.with_bearer(token).expect("a token"),
        None => dialer,
    }
}

/// One request of the transport.
async fn ask(at: SocketAddr, method: &str, path: &str, token: &str, link: Option<&str>) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("opor-http", "1"), ("prefer", "wait=0")];
    if !token.is_empty() {
        headers.push(("authorization", &bearer));
    }
    if let Some(link) = link {
        headers.push(("opor-link", link));
    }
    http(at, method, path, &headers, "").await
}

fn link_of(opened: &Answer) -> String {
    assert_eq!(opened.status, 201, "{opened:?}");
    let id = opened.head.lines().find_map(|line| line.strip_prefix("opor-link: "));
    id.expect("an id").to_owned()
}

/// Whether the next session of a replica to end does so with a goodbye.
async fn is_sent_home(mut events: SyncEvents) -> bool {
    loop {
        if let SyncEvent::Ended { how, .. } = within("a goodbye", events.next()).await.expect("it syncs") {
            return how.is_goodbye();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_converge_live_and_hear_goodbye() {
    let idle = Duration::from_millis(40);
    let mut served = Served::new(|options| options.token("old").token("new").room_idle(idle));
    let bearer = [("authorization", "Bearer new")];
    served.make("garden", &bearer).await;
    let streams = dialer(served.address, Some("old")).with_downstream(Downstream::Events);
    let polls = dialer(served.address, Some("new")).with_downstream(Downstream::LongPoll);
    let a = Healthy::join_by(streams, None).await;
    let b = Healthy::join_by(polls, None).await;
    let c = Healthy::join(served.address, Some("new")).await;
    for (id, from) in [(1, &a), (2, &b), (3, &c)] {
        from.write(format!("INSERT INTO todos VALUES ({id}, 'x')")).await;
        for to in [&a, &b, &c] {
            to.has(id).await;
        }
    }
    // Rooms that nobody is in are closed meanwhile, and this one is not.
    c.syncing.stop().await;
    // Before they came it may have been idle for so long.
    served.events = served.hub.events();
    for _ in 0..3 {
        served.make("yard", &bearer).await;
        let closed = served.event(|event| match event {
            HubEvent::RoomClosed { room } => Some(room.to_string()),
            _ => None,
        });
        assert_eq!(closed.await, "yard");
    }
    assert_eq!(served.get("/healthz").await.json()["sessions"], 2);

    let told = [a.syncing.events(), b.syncing.events()].map(|events| tokio::spawn(is_sent_home(events)));
    within("all to leave", served.hub.dismiss()).await;
    for told in told {
        assert!(told.await.expect("no panic"), "the session ends with a goodbye");
    }
    // No session begins any more, and requests are answered on.
    assert_eq!(ask(served.address, "POST", GARDEN, "old", None).await.status, 503);
    let changes = http(served.address, "GET", "/changes/garden", &bearer, "").await;
    assert_eq!((changes.status, changes.json().as_array().map(Vec::len)), (200, Some(3)), "{changes:?}");
    assert_eq!(served.get("/healthz").await.json()["sessions"], 0);
    a.syncing.stop().await;
    b.syncing.stop().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_are_those_of_every_session() {
    let served = Served::new(|options| options.token("secret"));
    let at = served.address;
    for method in ["GET", "POST", "DELETE"] {
        ask(at, method, GARDEN, "secre", None).await.is_refused(401, "unauthorized");
        ask(at, method, GARDEN, "secre", Some(&"0".repeat(32))).await.is_refused(401, "unauthorized");
    }
    ask(at, "PUT", GARDEN, "secret", None).await.is_refused(405, "method");
    ask(at, "POST", "/http-sync/a.sqlite", "secret", None).await.is_refused(400, "room_name");
    ask(at, "POST", GARDEN, "secret", None).await.is_refused(404, "unknown_room");
    assert_eq!(served.get("/healthz").await.json()["rooms_open"], 0, "nothing was opened");
    let error = dialer(at, Some("wrong")).dial().await.expect_err("a wrong token");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    served.stop().await;

    let open = Served::new(|options| options);
    let page = [("opor-http", "1"), ("origin", "http://evil.example")];
    http(open.address, "POST", GARDEN, &page, "").await.is_refused(403, "origin");
    open.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_come_in_the_hello() {
    let mut served = Served::new(|options| options.token("secret"));
    served.make("garden", &[("authorization", "Bearer secret")]).await;
    let wrong = Healthy::join_by(dialer(served.address, None), Some("secre")).await;
    let why = served.event(|event| match event {
        HubEvent::Refused { peer, why, .. } => Some((peer.to_string(), why.to_string())),
        _ => None,
    });
    let (peer, why) = why.await;
    assert!(peer.starts_with("http:127.0.0.1:"), "{peer}");
    assert_eq!(why, "token is missing or not valid");
    let right = Healthy::join_by(dialer(served.address, None), Some("secret")).await;
    let other = Healthy::join(served.address, Some("secret")).await;
    right.write("INSERT INTO todos VALUES (1, 'milk')").await;
    other.has(1).await;
    assert_eq!(wrong.count().await, 0);
    for healthy in [wrong, right, other] {
        healthy.syncing.stop().await;
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_belongs_to_its_room_and_its_token() {
    let served = Served::new(|options| options.token("old").token("new"));
    let at = served.address;
    for room in ["garden", "yard"] {
        served.make(room, &[("authorization", "Bearer old")]).await;
    }
    let link = link_of(&ask(at, "POST", GARDEN, "old", None).await);
    for (path, token) in [("/http-sync/yard", "old"), (GARDEN, "new"), (GARDEN, "")] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = ask(at, method, path, token, Some(&link)).await;
            assert_eq!(answer.status, 410, "{method} {path} {token}: {answer:?}");
        }
    }
    // The others have not harmed it.
    let polled = ask(at, "GET", GARDEN, "old", Some(&link)).await;
    assert!(matches!(polled.status, 200 | 204), "{polled:?}");
    assert_eq!(ask(at, "DELETE", GARDEN, "old", Some(&link)).await.status, 204);
    assert_eq!(ask(at, "GET", GARDEN, "old", Some(&link)).await.status, 410);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_counted_from_the_open_on_and_given_back() {
    let mut served = Served::new(|options| options.sessions_per_room_max(2));
    served.make("garden", &[]).await;
    let at = served.address;
    let websocket = Raw::open(at, 1).await;
    let link = link_of(&ask(at, "POST", GARDEN, "", None).await);
    ask(at, "POST", GARDEN, "", None).await.is_refused(503, "full");
    let error = dialer(at, None).dial().await.expect_err("there is no place");
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    // One that was never claimed gives its place back, and one that was.
    assert_eq!(ask(at, "DELETE", GARDEN, "", Some(&link)).await.status, 204);
    let again = link_of(&ask(at, "POST", GARDEN, "", None).await);
    let claimed = ask(at, "GET", GARDEN, "", Some(&again)).await;
    assert!(matches!(claimed.status, 200 | 204), "{claimed:?}");
    assert_eq!(ask(at, "DELETE", GARDEN, "", Some(&again)).await.status, 204);
    let ended = served.ended().await;
    assert!(ended.contains("the client has left"), "{ended}");
    assert_eq!(served.get("/healthz").await.json()["sessions"], 1, "the other one");
    // What opens no link keeps no place.
    assert_eq!(http(at, "POST", GARDEN, &[], "").await.status, 400, "no version");
    assert_eq!(served.get("/healthz").await.json()["sessions"], 1);
    drop(websocket);
    served.stop().await;
}
