//! A client that says what it likes, frame by frame.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use opor_core::SiteId;
use opor_sync_proto::{Bye, Capabilities, Cursor, Decoded, Hello, MAJOR, Message, Token, decode};
use opor_transport_websocket::SUBPROTOCOL;
use opor_transport_websocket::tokio_tungstenite::tungstenite::client::IntoClientRequest;
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::CloseFrame;
use opor_transport_websocket::tokio_tungstenite::tungstenite::{Error, Message as WsMessage};
use opor_transport_websocket::tokio_tungstenite::{WebSocketStream, client_async};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::scene::within;

/// A WebSocket, and the number of the next frame.
pub(crate) struct Raw {
    pub(crate) socket: WebSocketStream<TcpStream>,
    pub(crate) count: u8,
    /// Every frame that was sent, for a replay.
    pub(crate) sent: Vec<Vec<u8>>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    #[track_caller]
    pub(crate) fn is_refused(&self, status: u16, kind: &str) {
        assert_eq!((self.status, &self.json()["error"]["kind"]), (status, &kind.into()), "{self:?}");
    }
}

/// One request, with these headers besides.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let connection = if more.contains("upgrade") { "" } else { "connection: close\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: hub\r\n{connection}{more}content-length: {}\r\n\r\n{body}",
        body.len(),
    );
    let mut stream = TcpStream::connect(address).await.expect("the hub listens");
    stream.write_all(request.as_bytes()).await.expect("the hub reads");
    let mut bytes = Vec::new();
    if connection.is_empty() {
        // The connection stays; an error answer is short and comes at once.
        let mut buffer = [0; 4096];
        while !complete(&bytes) {
            let count = stream.read(&mut buffer).await.expect("the hub answers");
            assert!(count > 0, "the hub answers in full");
            bytes.extend_from_slice(&buffer[..count]);
        }
    } else {
        stream.read_to_end(&mut bytes).await.expect("the hub answers");
    }
    let text = String::from_utf8(bytes).expect("answers are text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: unchunked(head, body) }
}

fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// The body of an answer that came in chunks.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length in hex");
        whole.push_str(&after[..length]);
        rest = &after[length + 2..];
        if length == 0 {
            return whole;
        }
    }
    panic!("the last chunk is missing")
}

pub(crate) fn site(n: u8) -> SiteId {
    SiteId::from([n; 16])
}

pub(crate) fn cursor(text: &str) -> Cursor {
    Cursor::new(text.as_bytes()).expect("it is short enough")
}

/// What this client says of itself.
pub(crate) fn hello(by: u8, token: &str) -> Message<'static> {
    Message::Hello(Box::new(Hello {
        newest_major: MAJOR,
        site: site(by),
        room: "garden".into(),
        token: Token(token.into()),
        schema: Vec::new(),
        capabilities: Capabilities::BINARY.with(Capabilities::ZSTD),
        frame_max: 1 << 16,
        item_max: 64 << 20,
    }))
}

impl Raw {
    /// Connects; the status where the hub does not switch.
    pub(crate) async fn connect(address: SocketAddr, room: &str, token: Option<&str>) -> Result<Self, u16> {
        let mut request = format!("ws://{address}/sync/{room}").into_client_request().expect("an address");
        request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("a value"));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("a value");
            request.headers_mut().insert("authorization", value);
        }
        // Small, so that a hub is soon held up by who does not read.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a buffer");
        let stream = socket.connect(address).await.expect("the hub listens");
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self { socket, count: 0, sent: Vec::new() }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A session that both sides have let in, as a peer that takes everything.
    pub(crate) async fn open(address: SocketAddr, by: u8) -> Self {
        let mut raw = Self::connect(address, "garden", None).await.expect("the hub switches");
        raw.say(&hello(by, "")).await;
        // A pull before the hub has let us in would break the protocol.
        assert!(matches!(raw.hear().await, Some(Heard::Hello)), "the hub lets us in");
        raw.say(&Message::Pull { cursor: None, limit: u64::MAX }).await;
        assert!(matches!(raw.hear().await, Some(Heard::Pull)), "the hub asks for our log");
        raw
    }

    pub(crate) async fn send(&mut self, frame: Vec<u8>) {
        // The hub may have gone, and its reason is to be read.
        let _ = self.socket.send(WsMessage::binary(frame.clone())).await;
        self.sent.push(frame);
    }

    pub(crate) async fn say(&mut self, message: &Message<'_>) {
        let frame = message.to_bytes(self.count);
        self.count = self.count.wrapping_add(1);
        self.send(frame).await;
    }

    /// Sends a changeset as one item of one frame.
    pub(crate) async fn push(&mut self, number: u64, changeset: &[u8]) {
        let len = changeset.len() as u64;
        let at = cursor(&format!("{}@7", number + 1));
        self.say(&Message::Changes { number, len, cursor: at, done: true, delta: false, payload: changeset })
            .await;
    }

    /// What comes next; nothing when the connection has ended without a word.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        loop {
            let heard = within("a frame", self.socket.next()).await?;
            match heard {
                Ok(WsMessage::Binary(frame)) => {
                    return Some(match decode(&frame).expect("the hub speaks the protocol") {
                        Decoded::Message(Message::Hello(_)) => Heard::Hello,
                        Decoded::Message(Message::Pull { .. }) => Heard::Pull,
                        Decoded::Message(Message::Bye(bye)) => Heard::Bye(bye),
                        Decoded::Message(Message::Ack { items, .. }) => Heard::Ack(items),
                        _ => Heard::Other,
                    });
                }
                Ok(WsMessage::Close(frame)) => return Some(Heard::Closed(frame)),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Hears everything up to the end: the goodbye, and the code of the close.
    pub(crate) async fn end(&mut self) -> (Option<Bye>, Option<u16>) {
        let mut goodbye = None;
        while let Some(heard) = self.hear().await {
            match heard {
                Heard::Bye(bye) => goodbye = Some(bye),
                Heard::Closed(frame) => return (goodbye, frame.map(|frame| frame.code.into())),
                _ => {}
            }
        }
        (goodbye, None)
    }

    /// Waits until so many items are durable there.
    pub(crate) async fn is_acknowledged(&mut self, items: u64) {
        loop {
            match self.hear().await {
                Some(Heard::Ack(of)) if of >= items => return,
                Some(Heard::Ack(_) | Heard::Hello | Heard::Pull | Heard::Other) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// What the hub says.
#[derive(Debug)]
pub(crate) enum Heard {
    Hello,
    Pull,
    Ack(u64),
    Bye(Bye),
    Other,
    Closed(Option<CloseFrame>),
}
