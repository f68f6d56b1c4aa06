//! Peers that break every rule, beside healthy ones that must not notice.

use futures::SinkExt;
use opor_core::{Change, Changeset, Cid, EncodeOptions, PackedKey, Value};
use opor_hub::{HubOptions, Timeouts};
use opor_sync_proto::{ByeCode, Message};
use opor_transport_websocket::FRAME_MAX;
use opor_transport_websocket::tokio_tungstenite::tungstenite::Message as WsMessage;

use crate::raw::{Heard, Raw, cursor, hello, site};
use crate::scene::Scene;

/// What a changeset may have: 256 KiB, and 4 MiB unpacked.
const ITEM: usize = 256 << 10;

fn small(options: HubOptions) -> HubOptions {
    options.item_bytes_max(ITEM)
}

fn impatient(options: HubOptions) -> HubOptions {
    options.timeouts(Timeouts { stall_ms: 1500, ..Timeouts::default() })
}

fn change(table: &str, title: &str, col_version: u64) -> Changeset {
    let change = Change {
        table: table.into(),
        pk: PackedKey::pack(&[Value::Integer(7)]),
        cid: Cid::from("title"),
        val: Value::Text(title.into()),
        col_version: col_version.into(),
        db_version: 1.into(),
        site_id: site(9),
        cl: 1.into(),
        seq: 0,
    };
    [change].into_iter().collect()
}

/// The goodbye that comes of a hostile deed, and the code of the close after it.
async fn reply(scene: &mut Scene, deed: impl AsyncFnOnce(&mut Raw)) -> (ByeCode, String, u16) {
    let mut raw = Raw::open(scene.served.address, 9).await;
    deed(&mut raw).await;
    let (bye, code) = raw.end().await;
    let bye = bye.expect("a goodbye that says why");
    (bye.code, bye.detail, code.expect("a close that says why"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_the_protocol_end_their_session_alone() {
    let mut scene = Scene::new(small).await;
    let lying = |number, len| Message::Changes {
        number,
        len,
        cursor: cursor("1@7"),
        done: true,
        delta: false,
        payload: b"opc",
    };
    let deeds: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("nothing at all", vec![Vec::new()], "ends too early"),
        ("garbage", vec![vec![0x10, 0x77, 2, 3, 4]], "kind"),
        ("random bytes", vec![(0..=255).map(|byte: u8| byte.wrapping_mul(151)).collect()], ""),
        ("a huge length in a string", vec![[&[0x10, 5, 2, 0, 3], &[0xff; 9][..], &[1]].concat()], ""),
        ("more than a frame may have", vec![vec![0x10; (64 << 10) + 1]], "limit is 65536"),
        ("an item larger than allowed", vec![lying(0, ITEM as u64 + 1).to_bytes(2)], "limit is 262144"),
        ("the largest number", vec![lying(0, u64::MAX).to_bytes(2)], "limit is 262144"),
        ("an item out of order", vec![lying(1, 3).to_bytes(2)], "item 1 came, 0 was due"),
        ("more than announced", vec![lying(0, 2).to_bytes(2)], "payload out of range"),
        (
            "a part that does not continue",
            vec![
                lying(0, 100).to_bytes(2),
                Message::Part { number: 0, offset: 50, payload: b"x" }.to_bytes(3),
            ],
            "does not continue",
        ),
        (
            "an acknowledgement of the future",
            vec![Message::Ack { items: 9, limit: u64::MAX }.to_bytes(2)],
            "9 items",
        ),
        ("credit taken back", vec![Message::Ack { items: 0, limit: 5 }.to_bytes(2)], "goes back"),
        ("a second hello", vec![hello(9, "").to_bytes(2)], "Hello cannot come"),
        ("a pong that nobody asked for", vec![Message::Pong { nonce: 3 }.to_bytes(2)], "answers no ping"),
    ];
    let mut wrong = Vec::new();
    for (what, frames, due) in deeds {
        let (code, detail, close) = reply(&mut scene, async |raw| {
            for frame in frames {
                raw.send(frame).await;
            }
        })
        .await;
        if (code, close) != (ByeCode::Violation, 1011) || !detail.contains(due) {
            wrong.push(format!("{what}: {code:?} {close} {detail}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_of_ours_ends_the_link() {
    let mut scene = Scene::new(small).await;
    let mut text = Raw::open(scene.served.address, 9).await;
    text.socket.send(WsMessage::text("{}")).await.expect("it is sent");
    assert_eq!(text.end().await.1, Some(1002), "a text is none of ours");
    let mut oversize = Raw::open(scene.served.address, 9).await;
    oversize.send(vec![0; FRAME_MAX + 1]).await;
    let (bye, _) = oversize.end().await;
    assert_eq!(bye, None, "nothing is read of it");
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_from_the_future_is_refused_in_words() {
    let mut scene = Scene::new(small).await;
    let mut raw = Raw::connect(scene.served.address, "garden", None).await.expect("the hub switches");
    let mut frame = hello(9, "").to_bytes(0);
    frame[0] = 0x20;
    raw.send(frame).await;
    let (bye, close) = raw.end().await;
    assert_eq!((bye.map(|bye| bye.code), close), (Some(ByeCode::Version), Some(1008)));

    // A newer minor version is welcome, with messages that are not known here.
    let mut raw = Raw::open(scene.served.address, 9).await;
    raw.send(vec![0x1f, 99, 2, 1, 2, 3]).await;
    raw.count = 3;
    raw.say(&Message::Ping { nonce: 5 }).await;
    assert!(matches!(raw.hear().await, Some(Heard::Other)), "it goes on");
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changesets_that_cannot_be_stored_are_refused_whole() {
    let mut scene = Scene::new(small).await;
    let bomb = change("todos", &"a".repeat(20 << 20), 1).to_bytes_with(&EncodeOptions::default());
    assert!(bomb.len() < 8 << 10, "20 MiB in {} bytes", bomb.len());
    let mut flipped = change("todos", "flipped", 1).to_bytes();
    *flipped.last_mut().expect("a byte") ^= 1;
    let far = (1_u64 << 52) + (1 << 51);
    for (what, changeset, code, close) in [
        ("a bomb", bomb, ByeCode::Malformed, 1011),
        ("no changeset", b"opc is what it is not".to_vec(), ByeCode::Malformed, 1011),
        ("a flipped bit", flipped, ByeCode::Malformed, 1011),
        ("a stamp of the year 2300", change("todos", "late", far).to_bytes(), ByeCode::Drift, 1011),
        ("a clock at its end", change("todos", "end", u64::MAX >> 1).to_bytes(), ByeCode::Malformed, 1011),
    ] {
        let replied = reply(&mut scene, async |raw| raw.push(0, &changeset).await).await;
        assert_eq!((replied.0, replied.2), (code, close), "{what}: {}", replied.1);
    }
    scene.is_unharmed().await;
    scene.stop().await;
}

/// What there is no table for waits aside, is passed on, and touches nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_tables_that_are_not_there_wait_aside() {
    let mut scene = Scene::new(small).await;
    for table in ["secrets", "opor_meta", "sqlite_schema"] {
        let mut raw = Raw::open(scene.served.address, 9).await;
        raw.push(0, &change(table, "x", 1).to_bytes()).await;
        raw.is_acknowledged(1).await;
    }
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_never_ends_stores_nothing() {
    let mut scene = Scene::new(|options| impatient(small(options))).await;
    let whole = change("todos", "half", 1).to_bytes();
    let half = &whole[..whole.len() / 2];
    let begin = |len: usize| Message::Changes {
        number: 0,
        len: len as u64,
        cursor: cursor("1@7"),
        done: true,
        delta: false,
        payload: half,
    };
    let (code, detail, close) = reply(&mut scene, async |raw| raw.say(&begin(whole.len())).await).await;
    assert_eq!((code, close), (ByeCode::Timeout, 1001), "{detail}");
    let mut gone = Raw::open(scene.served.address, 9).await;
    gone.say(&begin(whole.len())).await;
    drop(gone);
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replayed_changes_nothing() {
    let mut scene = Scene::new(small).await;
    let mut raw = Raw::open(scene.served.address, 9).await;
    raw.push(0, &change("todos", "once", 1).to_bytes()).await;
    raw.is_acknowledged(1).await;
    scene.healthy[0].has(7).await;
    let recorded = raw.sent.clone();
    drop(raw);

    // The whole session again: it is let in, and what it brings is known.
    let before = scene.served.get("/rooms/garden/schema").await.json()["db_version"].clone();
    let mut again = Raw::connect(scene.served.address, "garden", None).await.expect("the hub switches");
    for (number, frame) in recorded.iter().enumerate() {
        again.send(frame.clone()).await;
        if number == 0 {
            assert!(matches!(again.hear().await, Some(Heard::Hello)), "it is let in");
        }
    }
    again.is_acknowledged(1).await;
    let after = scene.served.get("/rooms/garden/schema").await.json()["db_version"].clone();
    assert_eq!(before, after, "nothing was committed");

    // A frame again within a session is not the next one.
    again.send(recorded.last().expect("a frame").clone()).await;
    let (bye, _) = again.end().await;
    let bye = bye.expect("a goodbye");
    assert_eq!((bye.code, &*bye.detail), (ByeCode::Violation, "frame 2 came, 3 was due (counted up to 255)"));
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_let_go() {
    let mut scene = Scene::new(impatient).await;
    for id in 1..=48 {
        scene.healthy[0].write(format!("INSERT INTO todos VALUES ({id}, hex(randomblob(65536)))")).await;
    }
    scene.healthy[1].has(48).await;
    // 6 MiB are waiting, and the link holds less; nothing is read from here on.
    let _deaf = Raw::open(scene.served.address, 9).await;
    let ended = scene.served.ended().await;
    assert!(ended.contains("was waited for for 1500 ms"), "{ended}");
    scene.is_unharmed().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_acknowledges_is_told_and_let_go() {
    let mut scene = Scene::new(impatient).await;
    let mut raw = Raw::open(scene.served.address, 9).await;
    // It hears everything, and answers nothing.
    let (bye, close) = raw.end().await;
    let bye = bye.expect("a goodbye");
    assert_eq!((bye.code, close), (ByeCode::Timeout, Some(1001)), "{}", bye.detail);
    assert!(bye.detail.contains("acknowledgement"), "{}", bye.detail);
    scene.is_unharmed().await;
    scene.stop().await;
}
