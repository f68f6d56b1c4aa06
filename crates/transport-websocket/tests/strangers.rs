//! What the listener and the dialer do with those who speak something else.

use std::error::Error;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Dialer as _, Link, Listener as _, Peer, Received, TransportError,
    TransportErrorKind as Kind,
};
use opor_transport_websocket::tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use opor_transport_websocket::tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use opor_transport_websocket::tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use opor_transport_websocket::tokio_tungstenite::{WebSocketStream, accept_async, client_async};
use opor_transport_websocket::{
    FRAME_MAX, ListenOptions, SUBPROTOCOL, Verdict, WebSocketDialer, WebSocketListener, link, socket_config,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn listen(options: ListenOptions) -> Result<WebSocketListener, TransportError> {
    WebSocketListener::bind(([127, 0, 0, 1], 0).into(), options)
}

async fn connect(listener: &WebSocketListener) -> std::io::Result<TcpStream> {
    TcpStream::connect(listener.address().split('/').nth(2).expect("an address")).await
}

/// A peer that speaks WebSocket, but is not ours.
async fn raw(
    listener: &WebSocketListener,
) -> Result<WebSocketStream<TcpStream>, Box<dyn Error + Send + Sync>> {
    let request = ClientRequestBuilder::new(listener.address().parse()?).with_sub_protocol(SUBPROTOCOL);
    Ok(client_async(request, connect(listener).await?).await?.0)
}

/// That a link carries a frame.
async fn carries(one: Link, other: Link) -> Outcome {
    let (mut sender, _receiver) = one.split();
    let (_sender, mut receiver) = other.split();
    sender.send(Bytes::from_static(b"through")).await?;
    assert_eq!(receiver.recv().await?, Received::Frame(Bytes::from_static(b"through")));
    Ok(())
}

async fn dials(dialer: &WebSocketDialer, listener: &mut WebSocketListener) -> Outcome {
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
    carries(dialled, accepted).await
}

/// How a dial fails where this is the answer.
async fn answered(answer: &'static str) -> Result<TransportError, Box<dyn Error + Send + Sync>> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = WebSocketDialer::new(&format!("ws://{}/room?key=hidden", server.local_addr()?))?;
    let serving = async {
        let (mut stream, _) = server.accept().await?;
        let mut request = [0; 4096];
        let mut len = 0;
        while !request[..len].ends_with(b"\r\n\r\n") {
            len += stream.read(&mut request[len..]).await?;
        }
        stream.write_all(answer.as_bytes()).await
    };
    let (served, dialled) = tokio::join!(serving, dialer.dial());
    served?;
    let error = dialled.expect_err("no WebSocket answered");
    assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
    Ok(error)
}

#[tokio::test]
async fn answers_of_web_servers_have_kinds() -> Outcome {
    for (answer, kind) in [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", Kind::Refused),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", Kind::Refused),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Kind::Refused),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Kind::Incompatible),
        ("HTTP/1.1 308 Permanent Redirect\r\nlocation: /\r\n\r\n", Kind::Misconfigured),
        ("HTTP/1.1 429 Too Many Requests\r\n\r\n", Kind::Overloaded),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", Kind::Unreachable),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Kind::Overloaded),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", Kind::TimedOut),
        ("220 mail.example ESMTP\r\n\r\n", Kind::Incompatible),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Kind::Incompatible),
        ("HTTP/1.1 10", Kind::Unreachable),
    ] {
        assert_eq!(answered(answer).await?.kind(), kind, "{answer}");
    }
    let error = answered("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?;
    assert!(error.to_string().ends_with("/room answers 404 Not Found"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() -> Outcome {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = WebSocketDialer::new(&format!("ws://{}/", server.local_addr()?))?;
    let dialer = dialer.with_connect_timeout(Duration::from_millis(50));
    let error = dialer.dial().await.expect_err("nobody answers");
    assert_eq!(error.kind(), Kind::TimedOut);
    Ok(())
}

#[tokio::test]
async fn a_server_without_our_subprotocol_is_incompatible() -> Outcome {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = WebSocketDialer::new(&format!("ws://{}/", server.local_addr()?))?;
    let serving =
        async { Ok::<_, Box<dyn Error + Send + Sync>>(accept_async(server.accept().await?.0).await?) };
    let (served, dialled) = tokio::join!(serving, dialer.dial());
    let _socket = served?;
    assert_eq!(dialled.expect_err("it speaks something else").kind(), Kind::Incompatible);
    Ok(())
}

#[tokio::test]
async fn a_client_without_our_subprotocol_is_told_so() -> Outcome {
    let mut listener = listen(ListenOptions::default())?;
    for offer in [None, Some("chat, opor.v10"), Some("opor.v2")] {
        let mut request = listener.address().into_client_request()?;
        if let Some(offer) = offer {
            request.headers_mut().insert("sec-websocket-protocol", offer.parse()?);
        }
        match client_async(request, connect(&listener).await?).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 400),
            other => panic!("{offer:?} led to {other:?}"),
        }
    }
    // Ours may be one of several.
    let request = ClientRequestBuilder::new(listener.address().parse()?)
        .with_sub_protocol("chat")
        .with_sub_protocol(SUBPROTOCOL);
    let (_socket, response) = client_async(request, connect(&listener).await?).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
    listener.accept().await?;
    Ok(())
}

#[tokio::test]
async fn the_judge_decides_before_the_upgrade() -> Outcome {
    let mut listener =
        listen(ListenOptions::default().with_judge(|knock| match (knock.path(), knock.bearer()) {
            ("/closed", _) => Verdict::Forbidden,
            ("/garden", Some("right")) if knock.query() == Some("as=phone") => Verdict::Welcome,
            _ => Verdict::Unauthorized,
        }))?;
    let dialer = |path: &str, token: &str| {
        WebSocketDialer::new(&format!("{}{path}", listener.address()))?.with_bearer(token)
    };
    for (path, token, status) in
        [("garden?as=phone", "wrong", "401"), ("garden", "right", "401"), ("closed", "right", "403")]
    {
        let error = dialer(path, token)?.dial().await.expect_err("it is not let in");
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.to_string().contains(status) && !error.worth_retry(), "{error}");
        assert!(!format!("{error:?}").contains(token), "{error:?}");
    }
    let welcome = dialer("garden?as=phone", "right")?;
    dials(&welcome, &mut listener).await
}

#[tokio::test]
async fn a_token_that_is_no_header_is_refused_unseen() {
    let dialer = WebSocketDialer::new("ws://localhost/").expect("an address");
    let error = dialer.with_bearer("secret\r\nx: y").expect_err("no header holds it");
    assert_eq!(error.kind(), Kind::Misconfigured);
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn garbage_and_silence_stop_no_other() -> Outcome {
    let mut listener = listen(ListenOptions::default())?;
    let mut strangers = Vec::new();
    for number in 0..100_usize {
        let mut stream = connect(&listener).await?;
        match number % 4 {
            0 => stream.write_all(&[0x16, 0x03, 0x01, 0xff, 0xff, 0x00]).await?,
            1 => stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await?,
            2 => stream.write_all(b"POST / HTTP/1.1\r\n\r\n").await?,
            _ => {}
        }
        strangers.push(stream);
    }
    let dialer = WebSocketDialer::new(listener.address())?;
    for _ in 0..3 {
        dials(&dialer, &mut listener).await?;
    }
    drop(strangers);
    dials(&dialer, &mut listener).await
}

#[tokio::test]
async fn a_handshake_has_its_time() -> Outcome {
    let options = ListenOptions::default().with_handshake_timeout(Duration::from_millis(50));
    let listener = listen(options)?;
    let mut silent = connect(&listener).await?;
    let mut slow = connect(&listener).await?;
    slow.write_all(b"GET / HTTP/1.1\r\n").await?;
    // The listener hangs up; it has said nothing.
    assert_eq!(silent.read(&mut [0; 16]).await?, 0);
    assert!(matches!(slow.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    Ok(())
}

#[tokio::test]
async fn so_many_handshakes_are_under_way_and_no_more() -> Outcome {
    let options = ListenOptions::default().with_handshakes_max(3);
    let mut listener = listen(options.with_handshake_timeout(Duration::from_secs(1)))?;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect(&listener).await?);
    }
    let dialer = WebSocketDialer::new(listener.address())?;
    dials(&dialer, &mut listener).await?;
    // There was a place for it only because one of them had run out of time.
    let hung_up = silent.iter().filter(|stream| matches!(stream.try_read(&mut [0; 16]), Ok(0))).count();
    assert!(hung_up >= 1, "it did not wait for a place");
    Ok(())
}

#[tokio::test]
async fn links_that_nobody_accepts_do_not_pile_up() -> Outcome {
    let mut listener = listen(ListenOptions::default().with_handshakes_max(1))?;
    let dialer = WebSocketDialer::new(listener.address())?;
    let patient = dialer.clone();
    let dialer = dialer.with_connect_timeout(Duration::from_secs(1));
    let mut links = Vec::new();
    // Those that are ready, and one whose handshake is over and that has no place among them.
    for _ in 0..65 {
        links.push(patient.dial().await?);
    }
    assert_eq!(dialer.dial().await.expect_err("there is no place").kind(), Kind::TimedOut);
    for link in links {
        carries(link, listener.accept().await?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn handshakes_end_with_their_listener() -> Outcome {
    let listener = listen(ListenOptions::default().with_handshake_timeout(Duration::from_secs(3600)))?;
    let mut silent = connect(&listener).await?;
    let mut slow = connect(&listener).await?;
    slow.write_all(b"GET / HTTP/1.1\r\n").await?;
    // One that came later has been let in, so these are under way.
    let _link = WebSocketDialer::new(listener.address())?.dial().await?;
    drop(listener);
    for stream in [&mut silent, &mut slow] {
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut [0; 16])).await;
        assert!(matches!(read.expect("it hangs"), Ok(0) | Err(_)));
    }
    Ok(())
}

#[tokio::test]
async fn a_listener_that_is_dropped_gives_its_port_back() -> Outcome {
    let listener = listen(ListenOptions::default())?;
    let address: std::net::SocketAddr =
        listener.address().split('/').nth(2).expect("an address").parse().expect("an address");
    drop(listener);
    let again = async {
        // Its task ends in the background.
        while WebSocketListener::bind(address, ListenOptions::default()).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await?;
    Ok(())
}

#[tokio::test]
async fn who_shows_nothing_is_told_what_to_show() -> Outcome {
    let listener = listen(ListenOptions::default().with_judge(|_| Verdict::Unauthorized))?;
    let request = ClientRequestBuilder::new(listener.address().parse()?).with_sub_protocol(SUBPROTOCOL);
    match client_async(request, connect(&listener).await?).await {
        Err(tungstenite::Error::Http(response)) => {
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            assert_eq!(response.headers()["content-length"], "0");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// That a peer that sends this breaks the rules, and is told so.
async fn breaks_the_rules(messages: Vec<Message>) -> Outcome {
    let mut listener = listen(ListenOptions::default())?;
    let mut socket = raw(&listener).await?;
    let (mut sender, mut receiver) = listener.accept().await?.split();
    for message in messages {
        socket.send(message).await?;
    }
    for _ in 0..2 {
        assert_eq!(receiver.recv().await.expect_err("nothing is given of it").kind(), Kind::Incompatible);
    }
    assert_eq!(sender.send(Bytes::new()).await.expect_err("the link is lost").kind(), Kind::Incompatible);
    match socket.next().await {
        Some(Ok(Message::Close(Some(frame)))) => {
            assert_eq!(u16::from(frame.code), CloseCode::VIOLATION.number())
        }
        // What it had sent and was not read may take the answer with it.
        Some(Err(_)) => {}
        other => panic!("the peer was told {other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn text_breaks_the_rules() -> Outcome {
    breaks_the_rules(vec![Message::Text("hello".into())]).await
}

#[tokio::test]
async fn a_message_beyond_the_limit_breaks_the_rules() -> Outcome {
    breaks_the_rules(vec![Message::Binary(vec![0; FRAME_MAX + 1].into())]).await
}

fn fragment(len: usize, opcode: Data, is_final: bool) -> Message {
    Message::Frame(Frame::message(vec![7; len], OpCode::Data(opcode), is_final))
}

#[tokio::test]
async fn fragments_beyond_the_limit_break_the_rules() -> Outcome {
    breaks_the_rules(vec![fragment(FRAME_MAX, Data::Binary, false), fragment(1, Data::Continue, true)]).await
}

#[tokio::test]
async fn fragments_become_one_frame_and_pings_are_answered() -> Outcome {
    let mut listener = listen(ListenOptions::default())?;
    let mut socket = raw(&listener).await?;
    let (_sender, mut receiver) = listener.accept().await?.split();
    socket.send(fragment(3, Data::Binary, false)).await?;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await?;
    socket.send(fragment(FRAME_MAX - 3, Data::Continue, true)).await?;
    assert_eq!(receiver.recv().await?, Received::Frame(vec![7; FRAME_MAX].into()));
    assert_eq!(socket.next().await.transpose()?, Some(Message::Pong(Bytes::from_static(b"there?"))));
    Ok(())
}

#[tokio::test]
async fn closes_of_other_libraries_are_understood() -> Outcome {
    for (frame, due) in [
        (None, CloseReason::new(CloseCode::from_number(1005))),
        (
            Some(CloseFrame { code: 4003.into(), reason: "later".into() }),
            CloseReason::explained(CloseCode::private(4003), "later"),
        ),
    ] {
        let mut listener = listen(ListenOptions::default())?;
        let mut socket = raw(&listener).await?;
        let (mut sender, mut receiver) = listener.accept().await?.split();
        sender.send(Bytes::from_static(b"before")).await?;
        socket.send(Message::Close(frame.clone())).await?;
        assert_eq!(receiver.recv().await?, Received::Closed(due));
        assert_eq!(socket.next().await.transpose()?, Some(Message::Binary(Bytes::from_static(b"before"))));
        assert_eq!(socket.next().await.transpose()?, Some(Message::Close(frame)));
        assert!(socket.next().await.is_none(), "the connection ends in order");
    }
    Ok(())
}

#[tokio::test]
async fn an_end_without_a_close_is_a_loss() -> Outcome {
    let mut listener = listen(ListenOptions::default())?;
    // An orderly end of TCP is none of WebSocket; a reset is none of either.
    for reset in [false, true] {
        let socket = raw(&listener).await?;
        let (_sender, mut receiver) = listener.accept().await?.split();
        if reset {
            socket.get_ref().set_zero_linger()?;
        }
        drop(socket);
        assert_eq!(receiver.recv().await.expect_err("a loss").kind(), Kind::Lost);
    }
    Ok(())
}

#[tokio::test]
async fn sockets_that_are_upgraded_already_become_links() -> Outcome {
    let (near, far) = tokio::io::duplex(4096);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, Some(socket_config())).await;
    let far = WebSocketStream::from_raw_socket(far, Role::Server, Some(socket_config())).await;
    let (one, other) = (link(near, Peer::new("near"))?, link(far, Peer::new("far"))?);
    assert_eq!(other.peer().as_str(), "far");
    carries(one, other).await
}

#[tokio::test]
async fn a_socket_without_bounds_is_no_link() -> Outcome {
    let ours = socket_config();
    for config in [
        WebSocketConfig::default(),
        ours.max_message_size(None),
        ours.max_frame_size(Some(FRAME_MAX + 1)),
        ours.max_write_buffer_size(usize::MAX),
        ours.write_buffer_size(1),
        ours.read_buffer_size(1 << 30),
        ours.accept_unmasked_frames(true),
    ] {
        let (io, _peer) = tokio::io::duplex(64);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let error = link(socket, Peer::new("peer")).expect_err("it has no bounds");
        assert_eq!(error.kind(), Kind::Misconfigured);
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_cannot_be_had() -> Outcome {
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let error = WebSocketListener::bind(taken.local_addr()?, ListenOptions::default());
    assert_eq!(error.expect_err("it is taken").kind(), Kind::Misconfigured);
    Ok(())
}

#[cfg(feature = "tls")]
mod certificate;

#[cfg(feature = "tls")]
#[tokio::test]
async fn who_cannot_be_trusted_is_not_spoken_to() -> Outcome {
    let (server, client) = certificate::for_this_machine();
    let mut secure = listen(ListenOptions::default().with_tls(server))?;
    let dialer = WebSocketDialer::new(secure.address())?;
    // A certificate of its own, where one of the web's authorities is due.
    let error = dialer.dial().await.expect_err("nobody vouches for it");
    assert_eq!(error.kind(), Kind::Misconfigured, "{error:?}");
    dials(&dialer.with_tls(client.clone()), &mut secure).await?;

    // TLS to a listener without it, and the other way round.
    let plain = listen(ListenOptions::default())?;
    let dialer = WebSocketDialer::new(&plain.address().replace("ws:", "wss:"))?.with_tls(client);
    assert!(matches!(
        dialer.dial().await.expect_err("no TLS there").kind(),
        Kind::Incompatible | Kind::Unreachable
    ));
    let dialer = WebSocketDialer::new(&secure.address().replace("wss:", "ws:"))?;
    assert!(matches!(
        dialer.dial().await.expect_err("TLS there").kind(),
        Kind::Incompatible | Kind::Unreachable
    ));
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn who_has_no_certificate_where_one_is_due_is_refused() -> Outcome {
    use std::sync::Arc;

    use opor_transport_websocket::rustls::server::WebPkiClientVerifier;
    use opor_transport_websocket::rustls::{RootCertStore, ServerConfig, crypto, version};

    let (certificate, key, client) = certificate::make();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    // With TLS 1.2 the client learns of it before it says anything.
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS12])?;
    let server = server.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key)?;
    let secure = listen(ListenOptions::default().with_tls(Arc::new(server)))?;
    let dialer = WebSocketDialer::new(secure.address())?.with_tls(client);
    let error = dialer.dial().await.expect_err("it shows no certificate");
    assert_eq!(error.kind(), Kind::Refused, "{error:?}");
    Ok(())
}

/// TLS tells an end in order from a connection that somebody cut.
#[cfg(feature = "tls")]
#[tokio::test]
async fn over_tls_the_connection_ends_in_order() -> Outcome {
    use opor_transport_websocket::rustls::pki_types::ServerName;

    let (server, client) = certificate::for_this_machine();
    let mut secure = listen(ListenOptions::default().with_tls(server))?;
    let stream = tokio_rustls::TlsConnector::from(client)
        .connect(ServerName::try_from("127.0.0.1")?, connect(&secure).await?)
        .await?;
    let request = ClientRequestBuilder::new(secure.address().parse()?).with_sub_protocol(SUBPROTOCOL);
    let (mut socket, _) = client_async(request, stream).await?;
    let (mut sender, mut receiver) = secure.accept().await?.split();
    sender.send(Bytes::from_static(b"last")).await?;
    socket.send(Message::Close(None)).await?;
    assert!(matches!(receiver.recv().await?, Received::Closed(_)));
    assert_eq!(socket.next().await.transpose()?, Some(Message::Binary(Bytes::from_static(b"last"))));
    assert!(matches!(socket.next().await.transpose()?, Some(Message::Close(_))));
    // Without the farewell of TLS this would be an error.
    assert_eq!(socket.get_mut().read(&mut [0; 16]).await?, 0);
    Ok(())
}
