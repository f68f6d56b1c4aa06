//! What a dialer and its links do with servers that are not ours, or no friends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use opor_transport_http::{Downstream, HttpDialer};
use opor_transport_traits::{Bytes, Dialer as _, Received, TransportError, TransportErrorKind as Kind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::web::{Body, Web, streamed, whole};
use crate::{Fault, Outcome, WATCHDOG};

/// How a dial fails where these bytes are the answer.
async fn answered(answer: &'static str) -> Result<TransportError, Fault> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = HttpDialer::new(&format!("http://{}/room?key=hidden", server.local_addr()?))?;
    let dialer = dialer.with_bearer("secret")?;
    let serving = async {
        let (mut stream, _) = server.accept().await?;
        let mut request = [0; 4096];
        let mut len = 0;
        while !request[..len].ends_with(b"\r\n\r\n") {
            len += stream.read(&mut request[len..]).await?;
        }
        let head = String::from_utf8_lossy(&request[..len]).into_owned();
        assert!(head.starts_with("POST /room?key=hidden HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: Bearer secret\r\n"), "{head}");
        stream.write_all(answer.as_bytes()).await
    };
    let (served, dialled) = tokio::join!(serving, dialer.dial());
    served?;
    let error = dialled.expect_err("no server of ours answered");
    let text = format!("{error:?} {error}");
    assert!(!text.contains("hidden") && !text.contains("secret"), "{text}");
    Ok(error)
}

#[tokio::test]
async fn answers_of_web_servers_have_kinds() -> Outcome {
    for (answer, kind) in [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", Kind::Refused),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", Kind::Refused),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Kind::Refused),
        ("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<p>Log in here!", Kind::Incompatible),
        ("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", Kind::Incompatible),
        (
            "HTTP/1.1 201 Created\r\nopor-link: x\r\nopor-hold: soon\r\ncontent-length: 0\r\n\r\n",
            Kind::Incompatible,
        ),
        (
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nopor-complaint: version\r\n\r\n",
            Kind::Incompatible,
        ),
        ("HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n", Kind::Incompatible),
        ("HTTP/1.1 429 Too Many Requests\r\n\r\n", Kind::Overloaded),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", Kind::Unreachable),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Kind::Overloaded),
        ("HTTP/1.1 503 Service Unavailable\r\nopor-complaint: nobody-listens\r\n\r\n", Kind::Unreachable),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", Kind::TimedOut),
        ("220 mail.example ESMTP\r\n\r\n", Kind::Incompatible),
        ("HTTP/1.1 10", Kind::Unreachable),
    ] {
        assert_eq!(answered(answer).await?.kind(), kind, "{answer}");
    }
    let error = answered("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?;
    assert!(error.to_string().ends_with("/room answers 404 Not Found") && !error.worth_retry(), "{error}");
    let error = answered("HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n\r\n").await?;
    assert!(error.to_string().ends_with("again after 7 s") && error.worth_retry(), "{error}");
    Ok(())
}

/// A head without an end fills no memory.
#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() -> Outcome {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = HttpDialer::new(&format!("http://{}/", server.local_addr()?))?;
    let serving = async {
        let (mut stream, _) = server.accept().await?;
        stream.write_all(b"HTTP/1.1 201 Created\r\na: ").await?;
        while stream.write_all(&[b'x'; 10_000]).await.is_ok() {}
        Ok::<_, Fault>(())
    };
    let (served, dialled) = timeout(WATCHDOG, async { tokio::join!(serving, dialer.dial()) }).await?;
    served?;
    assert_eq!(dialled.expect_err("it is no answer").kind(), Kind::Incompatible);
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() -> Outcome {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let dialer = HttpDialer::new(&format!("http://{}/", server.local_addr()?))?;
    let dialer = dialer.with_connect_timeout(Duration::from_millis(50));
    let error = dialer.dial().await.expect_err("nobody answers");
    assert_eq!(error.kind(), Kind::TimedOut);
    Ok(())
}

/// A token is shown to the server it is for, and to nobody that this one names.
#[tokio::test]
async fn redirects_are_not_followed() -> Outcome {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let elsewhere = Web::serve(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok(Response::new(whole(""))) }
    })
    .await;
    let location = format!("http://{}/", elsewhere.address);
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let web = Web::serve(move |_| {
            let answer = Response::builder().status(status).header("location", &location).body(whole(""));
            async { Ok(answer?) }
        })
        .await;
        let error =
            HttpDialer::new(&web.url())?.with_bearer("secret")?.dial().await.expect_err("it is elsewhere");
        assert_eq!((error.kind(), error.worth_retry()), (Kind::Misconfigured, false), "{status}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_server_without_tls_is_told_apart() -> Outcome {
    let web = Web::serve(|_| async { Ok(Response::new(whole(""))) }).await;
    let error = HttpDialer::new(&format!("https://{}/", web.address))?.dial().await.expect_err("no TLS");
    assert_eq!(error.kind(), Kind::Incompatible);
    Ok(())
}

#[test]
fn a_token_that_is_no_header_is_refused_unseen() {
    let dialer = HttpDialer::new("http://localhost/").expect("an address");
    let error = dialer.with_bearer("secret\r\nx: y").expect_err("no header holds it");
    assert_eq!(error.kind(), Kind::Misconfigured);
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

/// A server that opens links as it should, and answers the rest as the function does.
async fn opens<F>(answer: F) -> Web
where
    F: Fn(&Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
{
    Web::serve(move |request: Request<Incoming>| {
        let answer = match (request.method(), request.headers().get("opor-link")) {
            (&Method::POST, None) => {
                let opened = Response::builder().status(StatusCode::CREATED).header("opor-link", "its-id");
                let opened = opened.header("opor-hold", "100").header("opor-expiry", "60000");
                opened.header("opor-keep-alive", "1000").body(whole("")).expect("an answer")
            }
            _ => answer(&request),
        };
        async { Ok(answer) }
    })
    .await
}

fn events(pieces: Vec<Bytes>) -> Response<Body> {
    // It stays open after what is said.
    let pieces = stream::iter(pieces).map(Ok::<_, Fault>).chain(stream::pending());
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(streamed(pieces.boxed()))
        .expect("an answer")
}

fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(whole("")).expect("an answer")
}

const HELLO: &str = "event: hello\ndata\n\n";

/// How a link ends whose server sends this after its hello.
async fn says(event: Bytes) -> Result<TransportError, Fault> {
    let web = opens(move |request| match *request.method() {
        Method::GET => events(vec![HELLO.into(), event.clone()]),
        _ => status(200),
    })
    .await;
    let dialer = HttpDialer::new(&web.url())?.with_downstream(Downstream::Events);
    let (mut sender, mut receiver) = dialer.dial().await?.split();
    let error = timeout(WATCHDOG, receiver.recv()).await?.expect_err("nothing is given");
    assert_eq!(sender.send(Bytes::new()).await.expect_err("it is lost").kind(), error.kind());
    assert!(!format!("{error:?}").contains("its-id"), "{error:?}");
    Ok(error)
}

#[tokio::test]
async fn events_that_break_the_rules_end_the_link() -> Outcome {
    // Frame 1, "x".
    let good = "AAEAAAAAAAAAAQEAAAB4";
    for (event, due) in [
        ("x".repeat(1 << 20), "a line of the event stream is too long"),
        ("data: ".to_owned() + &"A".repeat(1 << 20) + "\n\n", "a line of the event stream is too long"),
        ("id: 1\ndata: ?\n\n".to_owned(), "an event that is not base64"),
        ("id: 1\ndata: AAAA\n\n".to_owned(), "a batch that is malformed"),
        (format!("id: 2\ndata: {good}\n\n"), "an event with a wrong id"),
        (format!("id: -1\ndata: {good}\n\n"), "an event with a wrong id"),
        // Frame 2, "x": number 1 is missing.
        ("id: 2\ndata: AAIAAAAAAAAAAQEAAAB4\n\n".to_owned(), "messages are missing"),
        ("a: b\n".repeat(2000), "an event that does not end"),
    ] {
        let error = says(event.into()).await?;
        assert_eq!(
            (error.kind(), &*error.to_string()),
            (Kind::Incompatible, &*format!("peer speaks another language: http: {due}"))
        );
    }
    let error = says("event: lost\ndata\n\n".into()).await?;
    assert_eq!(error.kind(), Kind::Lost);
    Ok(())
}

/// What the rules allow, though ours does not say it.
#[tokio::test]
async fn unknown_events_are_passed_over() -> Outcome {
    let said =
        ": a comment\r\n\r\nevent: news\r\ndata: x\r\n\r\nretry: 5\n\nid:1\ndata:AAEAAAAAAAAAAQEAAAB4\n\n";
    let web = opens(move |request| match *request.method() {
        Method::GET => events(vec![": padding\n".repeat(100).into(), HELLO.into(), said.into()]),
        _ => status(200),
    })
    .await;
    let (_sender, mut receiver) = HttpDialer::new(&web.url())?.dial().await?.split();
    let received = timeout(WATCHDOG, receiver.recv()).await??;
    assert_eq!(received, Received::Frame(Bytes::from_static(b"x")));
    Ok(())
}

/// How a link of long polls ends whose server answers like this after the first poll.
async fn polled(
    answer: impl Fn(&Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
) -> Result<TransportError, Fault> {
    let web = opens(move |request| match request.headers().get("prefer") {
        Some(_) => status(204),
        None => answer(request),
    })
    .await;
    let dialer = HttpDialer::new(&web.url())?.with_downstream(Downstream::LongPoll);
    let dialer = dialer.with_retry_window(Duration::from_millis(100));
    let (mut sender, mut receiver) = dialer.dial().await?.split();
    sender.send(Bytes::from_static(b"x")).await?;
    Ok(timeout(WATCHDOG, receiver.recv()).await?.expect_err("nothing is given"))
}

#[tokio::test]
async fn answers_that_break_the_rules_end_the_link() -> Outcome {
    let language = |due: &str| format!("peer speaks another language: http: {due}");
    let post = |request: &Request<Incoming>| *request.method() == Method::POST;
    let ok = || Response::builder().header("opor-taken", "0");

    let large = move |request: &Request<Incoming>| match post(request) {
        true => ok().body(whole("")).expect("an answer"),
        false => Response::new(whole(vec![0; 1 << 20])),
    };
    let error = polled(large).await?;
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Incompatible, language("an answer that is too large"))
    );

    let garbage = move |request: &Request<Incoming>| match post(request) {
        true => ok().body(whole("")).expect("an answer"),
        false => Response::new(whole("<p>Log in here!")),
    };
    let error = polled(garbage).await?;
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Incompatible, language("a batch of an unknown format"))
    );

    let taken = |_: &Request<Incoming>| {
        Response::builder().header("opor-taken", "99").body(whole("")).expect("an answer")
    };
    let error = polled(taken).await?;
    assert_eq!(error.kind(), Kind::Incompatible);

    // A token that is good no more, and a link that is gone: nothing to wait for.
    for (answer, due) in [(401, "answers 401 Unauthorized"), (404, "answers 404 Not Found")] {
        let error = polled(move |_| status(answer)).await?;
        assert_eq!(error.kind(), Kind::Lost);
        assert!(error.to_string().ends_with(due), "{error}");
    }
    // A proxy whose server is away: asked for a while.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let error = polled(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        status(502)
    })
    .await?;
    assert_eq!(error.kind(), Kind::Lost);
    assert!(asked.load(Ordering::Relaxed) > 2, "{asked:?}");
    Ok(())
}
