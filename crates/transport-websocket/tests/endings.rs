//! How long a link goes on for a peer that does not do its part, in virtual time.

use std::error::Error;
use std::time::Duration;

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Link, Peer, Received, TransportErrorKind as Kind,
};
use opor_transport_websocket::tokio_tungstenite::WebSocketStream;
use opor_transport_websocket::tokio_tungstenite::tungstenite::Message;
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::Role;
use opor_transport_websocket::{FRAME_MAX, LINGER, link, socket_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, timeout};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// What fits between both ends: less than a frame.
const WIRE: usize = 1024;

/// A link of a server, and the peer that speaks WebSocket to it.
async fn scene() -> Result<(Link, WebSocketStream<DuplexStream>), Box<dyn Error + Send + Sync>> {
    between(Role::Server, Role::Client).await
}

async fn between(
    near_is: Role,
    far_is: Role,
) -> Result<(Link, WebSocketStream<DuplexStream>), Box<dyn Error + Send + Sync>> {
    let (near, far) = tokio::io::duplex(WIRE);
    let near = WebSocketStream::from_raw_socket(near, near_is, Some(socket_config())).await;
    let far = WebSocketStream::from_raw_socket(far, far_is, Some(socket_config())).await;
    Ok((link(near, Peer::new("far"))?, far))
}

/// Waits until the link has let go of the connection, without reading: what is written finds nobody then.
async fn is_let_go(wire: &mut DuplexStream) {
    let written = timeout(10 * LINGER, wire.write_all(&[0; 16 * WIRE])).await;
    assert_eq!(
        written.expect("it is held for ever").expect_err("nobody is there").kind(),
        std::io::ErrorKind::BrokenPipe
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_a_close_is_waited_for_so_long() -> Outcome {
    let (link, mut peer) = scene().await?;
    let (mut sender, receiver) = link.split();
    sender.send(Bytes::from_static(b"last")).await?;
    sender.close(CloseReason::new(CloseCode::DONE)).await?;
    let begun = Instant::now();
    drop((sender, receiver));
    // What was sent still comes, and then nothing but the end.
    let wire = peer.get_mut();
    let mut heard = Vec::new();
    timeout(10 * LINGER, wire.read_to_end(&mut heard)).await??;
    assert_eq!(begun.elapsed(), LINGER);
    assert!(heard.windows(4).any(|four| four == b"last"), "{heard:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_closed_and_kept_waits_for_its_peer() -> Outcome {
    let (link, mut peer) = scene().await?;
    let (mut sender, mut receiver) = link.split();
    sender.close(CloseReason::new(CloseCode::DONE)).await?;
    tokio::time::advance(10 * LINGER).await;
    peer.send(Message::Binary(Bytes::from_static(b"late"))).await?;
    assert_eq!(receiver.recv().await?, Received::Frame(Bytes::from_static(b"late")));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_rules_is_told_why() -> Outcome {
    let (link, mut peer) = scene().await?;
    let (_sender, mut receiver) = link.split();
    peer.send(Message::Text("hello".into())).await?;
    assert_eq!(receiver.recv().await.expect_err("a text").kind(), Kind::Incompatible);
    match peer.next().await.transpose()? {
        Some(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), CloseCode::VIOLATION.number()),
        other => panic!("it was told {other:?}"),
    }
    assert_eq!(peer.get_mut().read(&mut [0; 16]).await?, 0, "the connection ends");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_rules_and_does_not_listen_is_soon_left() -> Outcome {
    let (link, mut peer) = scene().await?;
    let (mut sender, mut receiver) = link.split();
    // Taken over, and stuck: the peer does not read.
    sender.send(vec![7; FRAME_MAX].into()).await?;
    peer.send(Message::Text("hello".into())).await?;
    assert_eq!(receiver.recv().await.expect_err("a text").kind(), Kind::Incompatible);
    let begun = Instant::now();
    is_let_go(peer.get_mut()).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_send_that_waits_for_room_hears_of_the_peers_close() -> Outcome {
    let (link, mut peer) = scene().await?;
    let (mut sender, mut receiver) = link.split();
    sender.send(vec![7; FRAME_MAX].into()).await?;
    let frame = Bytes::from(vec![8; FRAME_MAX]);
    let (sent, closed) = tokio::join!(sender.send(frame), async {
        peer.send(Message::Close(None)).await?;
        receiver.recv().await.map_err(Box::<dyn Error + Send + Sync>::from)
    });
    assert!(matches!(closed?, Received::Closed(_)));
    assert_eq!(sent.expect_err("the peer has closed").kind(), Kind::Closed);
    // What had been taken over comes before the answer.
    assert_eq!(peer.next().await.transpose()?, Some(Message::Binary(vec![7; FRAME_MAX].into())));
    assert!(matches!(peer.next().await.transpose()?, Some(Message::Close(_))));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_close_that_nobody_receives_is_read_away() -> Outcome {
    let (link, mut peer) = scene().await?;
    let (mut sender, receiver) = link.split();
    sender.close(CloseReason::new(CloseCode::DONE)).await?;
    drop((sender, receiver));
    let begun = Instant::now();
    for _ in 0..64 {
        timeout(10 * LINGER, peer.send(Message::Binary(vec![7; 512].into()))).await??;
    }
    // The peer hears of the close, its library answers, and the server ends the connection at once.
    while let Some(message) = timeout(10 * LINGER, peer.next()).await? {
        assert!(matches!(message?, Message::Close(_)));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_client_lets_the_server_end_the_connection() -> Outcome {
    let (link, mut peer) = between(Role::Client, Role::Client).await?;
    let (mut sender, mut receiver) = link.split();
    sender.close(CloseReason::new(CloseCode::DONE)).await?;
    // By hand, because the library of a server would end the connection: an answer with the same code.
    let wire = peer.get_mut();
    let mut heard = [0; 64];
    assert!(wire.read(&mut heard).await? > 0, "the close");
    wire.write_all(&[0x88, 0x02, 0x03, 0xe8]).await?;
    assert!(matches!(receiver.recv().await?, Received::Closed(_)));
    tokio::time::advance(LINGER / 2).await;
    assert!(wire.read(&mut heard).now_or_never().is_none(), "the client has ended the connection");
    Ok(())
}
