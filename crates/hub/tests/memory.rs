//! What peers that never read can make a hub hold. Alone in its process, whose memory is what is measured.
#![cfg(target_os = "linux")]

use std::fs;

use futures::{SinkExt, StreamExt};
use opor_core::SiteId;
use opor_hub::{Hub, HubEvent, HubOptions, RoomSchema, SyncEvent, Timeouts, listen, serve};
use opor_store::OpenOptions;
use opor_sync_proto::{Capabilities, Hello, MAJOR, Message, Token};
use opor_transport_websocket::SUBPROTOCOL;
use opor_transport_websocket::tokio_tungstenite::client_async;
use opor_transport_websocket::tokio_tungstenite::tungstenite::Message as WsMessage;
use opor_transport_websocket::tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio::net::TcpSocket;

const PEERS: u8 = 20;
/// What a session may hold of a changeset.
const ITEM: usize = 1 << 20;
/// The room has much more than that.
const ROWS: usize = 4_000;
const ROW_BYTES: usize = 10_000;

/// The most memory that the process has had since the last reset.
fn peak_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    kib >> 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_peers_that_never_read_hold_a_little_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let schema = RoomSchema::parse_all(["CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, v BLOB)"]);
    let file = dir.path().join("garden.sqlite");
    {
        let mut store = OpenOptions::new().open(file).expect("a room");
        schema.expect("a schema").create_in(&mut store).expect("its tables");
        for id in 0..ROWS {
            let insert = format!("INSERT INTO t VALUES ({id}, randomblob({ROW_BYTES}))");
            store.execute_batch(&insert).expect("a row");
        }
    }
    let timeouts = Timeouts { stall_ms: 4_000, ..Timeouts::default() };
    let hub = Hub::new(HubOptions::new(dir.path()).item_bytes_max(ITEM).timeouts(timeouts));
    let mut events = hub.events();
    let listener = listen(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = tokio::spawn(serve(listener, hub.router(), std::future::pending()));
    // The kernel forgets the peak so far.
    fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    let before = peak_mib();

    let mut deaf = Vec::new();
    for peer in 1..=PEERS {
        let mut request = format!("ws://{address}/sync/garden").into_client_request().expect("an address");
        request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("a value"));
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a buffer");
        let stream = socket.connect(address).await.expect("the hub listens");
        let (mut socket, _) = client_async(request, stream).await.expect("the hub switches");
        let hello = Message::Hello(Box::new(Hello {
            newest_major: MAJOR,
            site: SiteId::from([peer; 16]),
            room: "garden".into(),
            token: Token::default(),
            schema: Vec::new(),
            capabilities: Capabilities::BINARY,
            frame_max: 1 << 16,
            item_max: 1 << 30,
        }));
        let pull = Message::Pull { cursor: None, limit: u64::MAX };
        socket.send(WsMessage::binary(hello.to_bytes(0))).await.expect("it is sent");
        // The hello of the hub, and nothing after it.
        socket.next().await.expect("a frame").expect("a sound one");
        socket.send(WsMessage::binary(pull.to_bytes(1))).await.expect("it is sent");
        deaf.push(socket);
    }
    let mut ended = 0;
    while ended < PEERS {
        match events.next().await.expect("the hub is there") {
            HubEvent::Session { event: SyncEvent::Ended { how, .. }, .. } => {
                let how = format!("{how:?}");
                assert!(how.contains("Stalled"), "{how}");
                ended += 1;
            }
            HubEvent::Missed(missed) => panic!("{missed} events are missed"),
            _ => {}
        }
    }
    let grown = peak_mib() - before;
    // One piece of the log is read at a time, by two readers, and each session holds an item and what its link buffers.
    // Without a bound it would be 40 MB for each of them.
    assert!(grown < 200, "the hub grew by {grown} MiB, from {before} MiB");
    hub.close().await;
    server.abort();
}
