//! Rooms: opened when they are asked for, closed when nobody is in them, and read while they are written.

use std::time::Duration;

use opor_core::{Change, Changeset, Cid, PackedKey, Value};
use opor_hub::HubEvent;
use opor_store::OpenOptions;
use opor_sync_proto::ByeCode;

use crate::raw::{Answer, Raw, http, site};
use crate::scene::{Healthy, Scene, Served};

fn closed(event: &HubEvent) -> Option<String> {
    match event {
        HubEvent::RoomClosed { room } => Some(room.to_string()),
        _ => None,
    }
}

fn rows(count: i64) -> String {
    let change = |id: i64| Change {
        table: "todos".into(),
        pk: PackedKey::pack(&[Value::Integer(id)]),
        cid: Cid::from("title"),
        val: Value::Text(format!("todo {id}")),
        col_version: 1.into(),
        db_version: 1.into(),
        site_id: site(5),
        cl: 1.into(),
        seq: 0,
    };
    (1..=count).map(change).collect::<Changeset>().to_json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_room_is_closed_and_one_with_a_session_is_not() {
    let mut served = Served::new(|options| options.room_idle(Duration::from_millis(40)));
    served.make("garden", &[]).await;
    let session = Healthy::join(served.address, None).await;
    session.write("INSERT INTO todos VALUES (1, 'milk')").await;
    served.event(|event| matches!(event, HubEvent::Session { .. }).then_some(())).await;
    for _ in 0..3 {
        served.make("yard", &[]).await;
        assert_eq!(served.event(closed).await, "yard", "the garden is in use");
    }
    session.syncing.stop().await;
    assert_eq!(served.event(closed).await, "garden");
    assert_eq!(served.get("/healthz").await.json()["rooms_open"], 0);
    let kept = served.get("/changes/garden").await.json();
    assert_eq!(kept[0]["val"], "milk", "{kept}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_pressure_the_room_that_nobody_is_in_makes_place() {
    let mut served = Served::new(|options| options.rooms_open_max(1).rooms_max(2));
    served.make("garden", &[]).await;
    let raw = Raw::open(served.address, 1).await;
    let address = served.address;
    let put = |room: &'static str| {
        let body = r#"{"schema": ["CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL)"]}"#;
        http(address, "PUT", room, &[], body)
    };
    put("/rooms/yard/schema").await.is_refused(503, "busy");
    drop(raw);
    served.ended().await;
    let made = put("/rooms/yard/schema").await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(served.event(closed).await, "garden");
    // There may be two rooms, and there are.
    let put = |room: &'static str| http(served.address, "PUT", room, &[], r#"{"schema": []}"#);
    put("/rooms/third/schema").await.is_refused(507, "too_many_rooms");
    served.get("/changes/third").await.is_refused(404, "unknown_room");
    assert_eq!(served.get("/changes/garden").await.status, 200);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_reads_waits_for_no_writer() {
    let served = Served::new(|options| options);
    served.make("garden", &[]).await;
    let file = served.dir.path().join("rooms/garden.sqlite");
    let other = OpenOptions::new().open(file).expect("another connection");
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO todos VALUES (1, 'mine')").expect("the lock");
    let address = served.address;
    let post = tokio::spawn(async move { http(address, "POST", "/changes/garden", &[], &rows(3)).await });
    let read = served.get("/changes/garden").await;
    assert_eq!((read.status, &*read.body), (200, "[]"), "what is committed, and at once");
    assert!(!post.is_finished(), "the write waits");
    other.execute_batch("ROLLBACK").expect("the lock is let go");
    let posted = post.await.expect("no panic");
    assert_eq!((posted.status, &posted.json()["rows_inserted"]), (200, &3.into()), "{posted:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_comes_in_pieces_and_is_whole() {
    let served = Served::new(|options| options);
    served.make("garden", &[]).await;
    let count = 25_000_usize;
    let posted = http(served.address, "POST", "/changes/garden", &[], &rows(count as i64)).await;
    assert_eq!(posted.status, 200, "{posted:?}");
    let whole = served.get("/changes/garden?since=0").await;
    assert!(whole.head.contains("transfer-encoding: chunked"), "{}", whole.head);
    assert_eq!(ids(&whole), (1..=count as u64).collect::<Vec<_>>());
    assert!(whole.head.contains("opor-more: false"), "{}", whole.head);
    assert!(
        whole.head.contains(&format!("opor-db-version: {}", posted.json()["db_version"])),
        "{}",
        whole.head
    );
    let none = served.get(&format!("/changes/garden?since=0&exclude={}", site(5))).await;
    assert_eq!(none.json(), serde_json::json!([]), "pieces without rows leave no commas");

    // Whoever asks for more than a piece gets a piece.
    let piece = served.get("/changes/garden?since=0&limit=1000000").await;
    assert!(piece.head.contains("opor-more: true"), "{}", piece.head);
    let length = ids(&piece).len();
    assert!((10_000..11_000).contains(&length), "{length}");
    served.stop().await;
}

/// The keys, in order.
fn ids(answer: &Answer) -> Vec<u64> {
    let rows = answer.json();
    let title = |row: &serde_json::Value| row["val"].as_str()?.strip_prefix("todo ")?.parse().ok();
    let mut ids: Vec<u64> = rows.as_array().expect("an array").iter().filter_map(title).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_can_ask_what_tables_there_are() {
    let served = Served::new(|options| options);
    served.get("/rooms/garden/schema").await.is_refused(404, "unknown_room");
    let schema = ["CREATE TABLE a (id INTEGER PRIMARY KEY NOT NULL, v TEXT)", "CREATE INDEX a_v ON a (v)"];
    let local = "CREATE TABLE local (x)";
    let body = serde_json::json!({ "schema": [schema[0], local, schema[1]], "tables": ["a"] }).to_string();
    http(served.address, "PUT", "/rooms/garden/schema", &[], &body).await;
    let answer = served.get("/rooms/garden/schema").await.json();
    assert_eq!(answer["schema"], serde_json::json!(schema), "what does not replicate is not told: {answer}");
    assert_eq!(answer["tables"], serde_json::json!(["a"]));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_closes_says_goodbye_and_keeps_what_it_acknowledged() {
    let scene = Scene::new(|options| options).await;
    let mut raw = Raw::open(scene.served.address, 9).await;
    let changes = Changeset::from_json(rows(5), &opor_core::DecodeLimits::default()).expect("changes");
    raw.push(0, &changes.to_bytes()).await;
    raw.is_acknowledged(1).await;
    let room = scene.served.dir.path().join("rooms/garden.sqlite");
    scene.served.hub.close().await;
    let (bye, close) = raw.end().await;
    assert_eq!((bye.map(|bye| bye.code), close), (Some(ByeCode::Shutdown), Some(1001)));
    assert_eq!(Raw::connect(scene.served.address, "garden", None).await.err(), Some(503), "closing");
    let wal = room.with_extension("sqlite-wal");
    assert!(!wal.exists(), "the file is closed");
    let store = OpenOptions::new().open(room).expect("the room opens");
    let count: i64 =
        store.query_row("SELECT count(*) FROM todos WHERE id <= 5", [], |row| row.get(0)).expect("a number");
    assert_eq!(count, 5);
    scene.stop().await;
}
