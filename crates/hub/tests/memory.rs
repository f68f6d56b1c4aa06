//! What peers that never read, and clients with large bodies, can make a hub hold. Alone in its process, whose memory is what
//! is measured: so there is one test, which takes one after the other.
#![cfg(target_os = "linux")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use opor_core::SiteId;
use opor_hub::{Hub, HubEvent, HubOptions, RoomSchema, SyncEvent, Timeouts, listen, serve};
use opor_store::OpenOptions;
use opor_sync_proto::{Capabilities, Hello, MAJOR, Message, Token};
use opor_transport_http::{Downstream, HttpDialer};
use opor_transport_traits::{Dialer, Received, Receiver, Sender};
use opor_transport_websocket::SUBPROTOCOL;
use opor_transport_websocket::tokio_tungstenite::tungstenite::Message as WsMessage;
use opor_transport_websocket::tokio_tungstenite::tungstenite::client::IntoClientRequest;
use opor_transport_websocket::tokio_tungstenite::{WebSocketStream, client_async};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;

/// Peers over WebSocket, and as many over HTTP.
const PEERS: u8 = 20;
/// What a session may hold of a changeset.
const ITEM: usize = 1 << 20;
/// The room has much more than that.
const ROWS: usize = 1_500;
const ROW_BYTES: usize = 10_000;

/// Clients that send a large body at the same time.
const UPLOADS: usize = 32;
/// The bodies that the hub holds at once.
const UPLOADS_AT_ONCE: usize = 8;
const BODY: usize = 8 << 20;

/// The memory that a figure is about: the peak since the last reset.
fn peak_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    kib >> 10
}

/// Has the kernel forget the peak so far; what is held now.
fn reset_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    peak_mib()
}

fn make_room(file: &Path) {
    let schema = RoomSchema::parse_all(["CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, v BLOB)"]);
    let mut store = OpenOptions::new().open(file).expect("a room");
    schema.expect("a schema").create_in(&mut store).expect("its tables");
    let insert = format!(
        "WITH n(id) AS (VALUES(1) UNION ALL SELECT id + 1 FROM n WHERE id < {ROWS}) \
         INSERT INTO t SELECT id, randomblob({ROW_BYTES}) FROM n"
    );
    store.execute_batch(&insert).expect("its rows");
}

fn hello(peer: u8) -> Vec<u8> {
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
    hello.to_bytes(0)
}

/// Asks for everything, with credit for everything.
fn pull() -> Vec<u8> {
    Message::Pull { cursor: None, limit: u64::MAX }.to_bytes(1)
}

/// A peer over WebSocket that reads the hello of the hub, and nothing after it.
async fn deaf_websocket(address: SocketAddr, peer: u8) -> WebSocketStream<TcpStream> {
    let mut request = format!("ws://{address}/sync/garden").into_client_request().expect("an address");
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("a value"));
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a buffer");
    let stream = socket.connect(address).await.expect("the hub listens");
    let (mut socket, _) = client_async(request, stream).await.expect("the hub switches");
    socket.send(WsMessage::binary(hello(peer))).await.expect("it is sent");
    socket.next().await.expect("a frame").expect("a sound one");
    socket.send(WsMessage::binary(pull())).await.expect("it is sent");
    socket
}

/// The same over HTTP. Its end of the link is in this process too, and holds what the transport says.
async fn deaf_http(address: SocketAddr, peer: u8) -> (Box<dyn Sender>, Box<dyn Receiver>) {
    let way = if peer.is_multiple_of(2) { Downstream::Events } else { Downstream::LongPoll };
    let dialer = HttpDialer::new(&format!("http://{address}/http-sync/garden")).expect("an address");
    let link = dialer.with_downstream(way).dial().await.expect("the hub listens");
    let (mut sender, mut receiver) = link.split();
    sender.send(hello(peer).into()).await.expect("it is sent");
    assert!(matches!(receiver.recv().await, Ok(Received::Frame(_))), "the hello of the hub");
    sender.send(pull().into()).await.expect("it is sent");
    (sender, receiver)
}

/// Sends a body of the largest size, and says how it was answered. All but its last byte is there before it goes on, together
/// with as many others as the hub reads at once.
async fn upload(address: SocketAddr, number: usize, body: &[u8], together: &Barrier) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the hub listens");
    // Most of them do not say how much will come.
    let length = match number % 4 {
        0 => format!("content-length: {BODY}\r\n\r\n"),
        _ => format!("transfer-encoding: chunked\r\n\r\n{BODY:x}\r\n"),
    };
    let head = format!("POST /changes/garden HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n{length}");
    stream.write_all(head.as_bytes()).await.expect("the hub reads");
    let (last, most) = body.split_last().expect("it is large");
    stream.write_all(most).await.expect("the hub reads");
    together.wait().await;
    stream.write_all(&[*last]).await.expect("the hub reads");
    if !number.is_multiple_of(4) {
        stream.write_all(b"\r\n0\r\n\r\n").await.expect("the hub reads");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the hub answers");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_and_who_sends_much_makes_a_hub_hold_a_little() {
    let dir = tempfile::tempdir().expect("a directory");
    make_room(&dir.path().join("garden.sqlite"));
    let timeouts = Timeouts { stall_ms: 4_000, ..Timeouts::default() };
    let options = HubOptions::new(dir.path()).item_bytes_max(ITEM).timeouts(timeouts);
    let hub = Hub::new(options.sessions_per_peer_max(2 * usize::from(PEERS)).body_bytes_max(BODY));
    let mut events = hub.events();
    let listener = listen(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = tokio::spawn(serve(listener, hub.router(), std::future::pending()));

    let before = reset_peak();
    let websockets = join_all((1..=PEERS).map(|peer| deaf_websocket(address, peer))).await;
    let requests = join_all((1..=PEERS).map(|peer| deaf_http(address, 100 + peer))).await;
    let mut ended = 0;
    while ended < 2 * PEERS {
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
    // Two readers read the log at a time, the whole room at first, which costs twice its 15 MB. Each session holds an item and
    // what its link buffers. Without a bound it would be 15 MB for each of them.
    assert!(grown < 260, "the hub grew by {grown} MiB, from {before} MiB, with peers that never read");
    drop((websockets, requests));

    let body = vec![b' '; BODY];
    let together = Barrier::new(UPLOADS_AT_ONCE);
    let before = reset_peak();
    let answers = join_all((0..UPLOADS).map(|number| upload(address, number, &body, &together))).await;
    for answer in answers {
        assert_eq!(answer, "HTTP/1.1 400 Bad Request", "a body of spaces is no JSON");
    }
    let grown = peak_mib() - before;
    // A body that grows as it comes takes up to twice its size. Without a share for each it would be all of them at once.
    assert!(grown < 170, "the hub grew by {grown} MiB, from {before} MiB, with large bodies");
    hub.close().await;
    server.abort();
}
