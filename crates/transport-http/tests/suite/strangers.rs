//! What a server does with clients that are not ours, or no friends.

use std::time::Duration;

use opor_transport_http::{
    Caller, FRAME_MAX, HttpDialer, HttpListener, HttpServer, ListenOptions, ServerOptions,
};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Dialer as _, Link, LinkLimits, Listener as _, Received,
    TransportErrorKind as Kind,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Outcome, WATCHDOG};

/// What each end holds for a direction of a link.
const WINDOW: usize = 1024 * 1024;

const BATCH_MAX: usize = 512 * 1024;

fn listen(server: ServerOptions) -> HttpListener {
    let options = ListenOptions::default().with_server(server);
    HttpListener::bind(([127, 0, 0, 1], 0).into(), options).expect("a port")
}

/// A client that speaks HTTP by hand.
struct Raw(TcpStream);

/// The head of an answer, and its body.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn is(&self, status: &str, complaint: &str) {
        assert!(self.head.starts_with(&format!("HTTP/1.1 {status}")), "{status} was due: {}", self.head);
        assert_eq!(self.header("opor-complaint").unwrap_or_default(), complaint, "{}", self.head);
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn taken(&self) -> u64 {
        self.is("200", "");
        self.header("opor-taken").expect("a number").parse().expect("a number")
    }
}

impl Raw {
    async fn to(listener: &HttpListener) -> Self {
        let address = listener.address().split('/').nth(2).expect("an address");
        Self(TcpStream::connect(address).await.expect("it listens"))
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("it reads");
    }

    async fn ask(&mut self, method: &str, headers: &str, body: &[u8]) -> Answer {
        let len = body.len();
        let head = format!(
            "{method} / HTTP/1.1\r\nhost: x\r\nopor-http: 1\r\n{headers}content-length: {len}\r\n\r\n"
        );
        self.say(head.as_bytes()).await;
        self.say(body).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("an answer"));
        }
        let mut answer = Answer { head: String::from_utf8(head).expect("text"), body: Vec::new() };
        let len = answer.header("content-length").map_or(0, |len| len.parse().expect("a number"));
        answer.body.resize(len, 0);
        self.0.read_exact(&mut answer.body).await.expect("a body");
        answer
    }

    /// Opens a link; the header that names it.
    async fn open(&mut self) -> String {
        let answer = self.ask("POST", "", b"").await;
        answer.is("201", "");
        format!("opor-link: {}\r\n", answer.header("opor-link").expect("an id"))
    }

    /// Opens a link, and has it accepted.
    async fn link(&mut self, listener: &mut HttpListener) -> (String, Link) {
        let id = self.open().await;
        self.poll(&id, 0).await.is("204", "");
        (id, listener.accept().await.expect("a link"))
    }

    async fn poll(&mut self, id: &str, have: u64) -> Answer {
        self.ask("GET", &format!("{id}last-event-id: {have}\r\nprefer: wait=0\r\n"), b"").await
    }

    async fn post(&mut self, id: &str, batch: &[u8]) -> Answer {
        self.ask("POST", id, batch).await
    }
}

/// A batch of frames, by hand.
fn batch(first: u64, frames: &[&[u8]]) -> Vec<u8> {
    let mut batch = [&[0], &first.to_le_bytes()[..]].concat();
    for frame in frames {
        batch.push(1);
        batch.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        batch.extend_from_slice(frame);
    }
    batch
}

/// That others can still dial and use the listener.
async fn serves_others(listener: &mut HttpListener) -> Outcome {
    let dialer = HttpDialer::new(listener.address())?;
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
    let ((mut sender, _from_above), (_down, mut receiver)) = (dialled.split(), accepted.split());
    sender.send(Bytes::from_static(b"through")).await?;
    let received = timeout(WATCHDOG, receiver.recv()).await??;
    assert_eq!(received, Received::Frame(Bytes::from_static(b"through")));
    Ok(())
}

/// That the link is lost because its client broke the rules, and that nothing was given.
async fn is_broken(link: Link, how: &str) -> Outcome {
    let (mut sender, mut receiver) = link.split();
    for _ in 0..2 {
        let error = timeout(WATCHDOG, receiver.recv()).await?.expect_err("nothing is given");
        assert_eq!(
            (error.kind(), &*error.to_string()),
            (Kind::Incompatible, &*format!("peer speaks another language: http: {how}"))
        );
    }
    assert_eq!(sender.send(Bytes::new()).await.expect_err("it is lost").kind(), Kind::Incompatible);
    Ok(())
}

#[tokio::test]
async fn nobody_gets_at_a_link_without_its_id() -> Outcome {
    let mut listener = listen(ServerOptions::default());
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    for stranger in [
        "opor-link: \r\n",
        "opor-link: 0\r\n",
        &format!("opor-link: {}\r\n", "0".repeat(32)),
        "opor-link: \u{fc}\r\n",
    ] {
        raw.poll(stranger, 0).await.is("410", "unknown-link");
        raw.ask("DELETE", stranger, b"").await.is("410", "unknown-link");
        // A body that nobody wants is not read: the connection ends.
        Raw::to(&listener).await.post(stranger, &batch(1, &[b"x"])).await.is("410", "unknown-link");
    }
    // An id is good only where it was given.
    raw.say(format!("DELETE /elsewhere HTTP/1.1\r\nhost: x\r\nopor-http: 1\r\n{id}\r\n").as_bytes()).await;
    raw.answer().await.is("410", "unknown-link");
    assert_eq!(raw.post(&id, &batch(1, &[b"x"])).await.taken(), 1);
    let (_sender, mut receiver) = link.split();
    assert_eq!(receiver.recv().await?, Received::Frame(Bytes::from_static(b"x")));

    raw.ask("DELETE", &id, b"").await.is("204", "");
    assert_eq!(receiver.recv().await.expect_err("the client has left").kind(), Kind::Lost);
    raw.poll(&id, 0).await.is("410", "unknown-link");
    Ok(())
}

/// The embedding server decides who asks: ids of one caller are nothing to another.
#[tokio::test]
async fn a_link_belongs_to_who_opened_it() -> Outcome {
    let server = HttpServer::new(ServerOptions::default());
    let request = |method: &str, id: Option<&str>| {
        let mut request =
            hyper::Request::builder().method(method).header("opor-http", "1").header("prefer", "wait=0");
        if let Some(id) = id {
            request = request.header("opor-link", id);
        }
        request.body(http_body_util::Full::new(Bytes::new())).expect("a request")
    };
    let anna = Caller::new("garden", "anna");
    let opened = server.answer(&anna, request("POST", None)).await;
    assert!(opened.link.is_none(), "nobody has shown that the id has arrived");
    let id = opened.response.headers()["opor-link"].to_str()?.to_owned();
    for caller in [Caller::new("garden", "bert"), Caller::new("kitchen", "anna")] {
        let answered = server.answer(&caller, request("GET", Some(&id))).await;
        assert_eq!(answered.response.headers()["opor-complaint"], "unknown-link");
        assert!(answered.link.is_none());
    }
    let claimed = server.answer(&anna, request("GET", Some(&id))).await;
    assert!(claimed.link.is_some() && claimed.response.status() == 204);
    assert!(server.answer(&anna, request("GET", Some(&id))).await.link.is_none(), "it was handed out");
    let text = format!("{server:?} {:?} {:?}", claimed.link, opened.response);
    assert!(!text.contains(&id), "{text}");
    Ok(())
}

#[tokio::test]
async fn what_is_said_twice_is_taken_once() -> Outcome {
    let mut listener = listen(ServerOptions::default());
    let (mut raw, mut other) = (Raw::to(&listener).await, Raw::to(&listener).await);
    let (id, link) = raw.link(&mut listener).await;
    let (_sender, mut receiver) = link.split();
    for due in [2, 3, 3] {
        assert_eq!(raw.post(&id, &batch(1, &[b"a", b"b"])).await.taken(), due);
        assert_eq!(other.post(&id, &batch(2, &[b"b", b"c"])).await.taken(), 3);
        assert_eq!(other.post(&id, b"").await.taken(), 3);
    }
    // The close ends it.
    let close = [&batch(4, &[])[..], &[2, 2, 0, 0, 0, 0xe8, 3]].concat();
    for _ in 0..2 {
        assert_eq!(raw.post(&id, &close).await.taken(), 4);
    }
    for due in ["a", "b", "c"] {
        assert_eq!(receiver.recv().await?, Received::Frame(due.into()));
    }
    assert_eq!(receiver.recv().await?, Received::Closed(CloseReason::new(CloseCode::DONE)));
    Ok(())
}

/// What a server sends is given again until it is confirmed, and not after that.
#[tokio::test]
async fn what_was_not_confirmed_is_sent_again() -> Outcome {
    let mut listener = listen(ServerOptions::default());
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    let (mut sender, _receiver) = link.split();
    for frame in ["a", "b", "c"] {
        sender.send(frame.into()).await?;
    }
    for _ in 0..2 {
        assert_eq!(raw.poll(&id, 0).await.body, batch(1, &[b"a", b"b", b"c"]));
    }
    assert_eq!(raw.poll(&id, 2).await.body, batch(3, &[b"c"]));
    // A request that was overtaken on its way.
    raw.poll(&id, 1).await.is("409", "stale");
    assert_eq!(raw.poll(&id, 2).await.body, batch(3, &[b"c"]));
    raw.poll(&id, 3).await.is("204", "");
    assert_eq!(listener.load().held, 0);
    Ok(())
}

/// A client that asks anew has given the older request up: it is answered at once with what has been done so far.
#[tokio::test]
async fn a_newer_request_ends_an_older_one() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_hold(Duration::from_secs(3600)));
    let (mut older, mut newer) = (Raw::to(&listener).await, Raw::to(&listener).await);
    let (id, link) = older.link(&mut listener).await;
    // Nothing comes down.
    let answer = ended_by(&mut older, &mut newer, "GET", &id, b"").await?;
    answer.is("204", "");

    // Nobody takes what goes up: of these there is room for ten.
    let (mut older, mut newer) = (Raw::to(&listener).await, Raw::to(&listener).await);
    assert_eq!(older.post(&id, &batch(1, &[&[7; 100_000][..]; 5])).await.taken(), 5);
    assert_eq!(older.post(&id, &batch(6, &[&[7; 100_000][..]; 4])).await.taken(), 9);
    let answer = ended_by(&mut older, &mut newer, "POST", &id, &batch(10, &[&[7; 100_000][..]; 5])).await?;
    assert_eq!(answer.taken(), 10);
    drop(link);
    Ok(())
}

/// The answer to a request that waits, when the same has been asked again.
async fn ended_by(
    older: &mut Raw,
    newer: &mut Raw,
    method: &str,
    id: &str,
    body: &[u8],
) -> Result<Answer, crate::Fault> {
    let mut asking = std::pin::pin!(older.ask(method, id, body));
    // It has been sent when this is over, unless the machine is very slow: then it is the newer one.
    if let Ok(answer) = timeout(Duration::from_millis(200), &mut asking).await {
        return Err(format!("nothing was there to answer: {}", answer.head).into());
    }
    let again = newer.ask(method, id, body);
    timeout(WATCHDOG, async {
        tokio::select! {
            answer = asking => Ok(answer),
            answer = again => Ok(answer),
        }
    })
    .await?
}

/// A client that says this breaks the rules: of its own link, and of no other.
async fn breaks(how: &str, say: impl AsyncFn(&mut Raw, &str) -> Answer) -> Outcome {
    let mut listener = listen(ServerOptions::default());
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    say(&mut raw, &id).await.is("400", "broken-rules");
    is_broken(link, how).await?;
    serves_others(&mut listener).await
}

#[tokio::test]
async fn rule_breakers_end_their_own_links() -> Outcome {
    breaks("messages are missing", async |raw, id| raw.post(id, &batch(2, &[b"x"])).await).await?;
    breaks("a batch that is malformed", async |raw, id| raw.post(id, &batch(0, &[b"x"])).await).await?;
    breaks("a batch that is malformed", async |raw, id| raw.post(id, &batch(1, &[b"x"])[..14]).await).await?;
    breaks("a batch of an unknown format", async |raw, id| raw.post(id, b"hello").await).await?;
    breaks("what was never sent is confirmed", async |raw, id| raw.poll(id, 1).await).await?;
    breaks("what was never sent is confirmed", async |raw, id| {
        raw.post(&format!("{id}last-event-id: 7\r\n"), b"").await
    })
    .await?;
    breaks("a batch or a frame that is too large", async |raw, id| {
        raw.post(id, &batch(1, &[&vec![0; FRAME_MAX + 1]])).await
    })
    .await?;
    // It is refused by what it announces: nothing of it is read.
    breaks("a body that is too large", async |raw, id| {
        let head =
            format!("POST / HTTP/1.1\r\nhost: x\r\nopor-http: 1\r\n{id}content-length: 10000000000\r\n\r\n");
        raw.say(head.as_bytes()).await;
        raw.answer().await
    })
    .await
}

#[tokio::test]
async fn a_body_that_does_not_say_its_length_is_cut_off() -> Outcome {
    let mut listener = listen(ServerOptions::default());
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    let head =
        format!("POST / HTTP/1.1\r\nhost: x\r\nopor-http: 1\r\n{id}transfer-encoding: chunked\r\n\r\n");
    raw.say(head.as_bytes()).await;
    let chunk = [&b"10000\r\n"[..], &[0; 0x10000], b"\r\n"].concat();
    // One chunk more than the server takes. It may hang up before the end.
    for piece in [&chunk[..]; BATCH_MAX / 0x10000 + 1].into_iter().chain([&b"0\r\n\r\n"[..]]) {
        if raw.0.write_all(piece).await.is_err() {
            break;
        }
    }
    is_broken(link, "a body that is too large").await?;
    let load = listener.load();
    assert!(load.held_most > BATCH_MAX / 2 && load.held_most <= BATCH_MAX, "{load:?}");
    serves_others(&mut listener).await
}

#[cfg(feature = "zstd")]
#[tokio::test]
async fn a_bomb_ends_its_link_and_nothing_else() -> Outcome {
    let bomb = zstd::bulk::compress(&vec![0; 1 << 28], 3)?;
    breaks("a batch or a frame that is too large", async |raw, id| {
        raw.post(id, &[&[1], &bomb[..]].concat()).await
    })
    .await
}

#[tokio::test]
async fn a_slow_body_is_given_up_and_the_link_goes_on() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_body(Duration::from_millis(50)));
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nopor-http: 1\r\n{id}content-length: 100\r\n\r\n");
    raw.say(head.as_bytes()).await;
    raw.say(&[0; 10]).await;
    raw.answer().await.is("408", "too-slow");
    let mut raw = Raw::to(&listener).await;
    assert_eq!(raw.post(&id, &batch(1, &[b"x"])).await.taken(), 1);
    let (_sender, mut receiver) = link.split();
    assert_eq!(receiver.recv().await?, Received::Frame(Bytes::from_static(b"x")));
    Ok(())
}

#[tokio::test]
async fn floods_of_headers_are_refused() -> Outcome {
    let mut listener = listen(ServerOptions::default());
    for headers in ["a: b\r\n".repeat(100), format!("a: {}\r\n", "b".repeat(100_000)), "x".repeat(100_000)] {
        let mut raw = Raw::to(&listener).await;
        raw.say(format!("POST / HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes()).await;
        raw.answer().await.is("431", "");
    }
    serves_others(&mut listener).await
}

#[tokio::test]
async fn other_versions_and_methods_are_told() -> Outcome {
    let listener = listen(ServerOptions::default());
    let mut raw = Raw::to(&listener).await;
    for version in ["", "opor-http: 2\r\n"] {
        raw.say(format!("POST / HTTP/1.1\r\nhost: x\r\n{version}content-length: 0\r\n\r\n").as_bytes()).await;
        raw.answer().await.is("400", "version");
    }
    let id = raw.open().await;
    let answer = raw.ask("PUT", &id, b"").await;
    answer.is("405", "method");
    assert_eq!(answer.header("allow"), Some("GET, POST, DELETE"));
    raw.ask("GET", "", b"").await.is("410", "unknown-link");
    Ok(())
}

#[tokio::test]
async fn there_is_room_for_so_many_links() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_links_max(2));
    let dialer = HttpDialer::new(listener.address())?;
    let (first, _accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
    let _second = tokio::try_join!(dialer.dial(), listener.accept())?;
    let error = dialer.dial().await.expect_err("there are two");
    assert_eq!((error.kind(), error.worth_retry()), (Kind::Overloaded, true));
    assert!(error.to_string().ends_with("answers 503 Service Unavailable, again after 5 s"), "{error}");
    assert_eq!(listener.load().links, 2);
    // The place of one that ends can be had.
    drop(first);
    timeout(WATCHDOG, async { while dialer.dial().await.is_err() {} }).await?;

    let listener = listen(ServerOptions::default().with_links_per_peer_max(1));
    let mut raw = Raw::to(&listener).await;
    raw.open().await;
    let answer = raw.ask("POST", "", b"").await;
    answer.is("429", "too-many-links");
    assert_eq!(answer.header("retry-after"), Some("5"));
    let error = HttpDialer::new(listener.address())?.dial().await.expect_err("there is one");
    assert_eq!(error.kind(), Kind::Overloaded);
    Ok(())
}

#[tokio::test]
async fn no_link_is_opened_while_too_much_is_held() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_held_max(10_000));
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    let (mut sender, _receiver) = link.split();
    sender.send(vec![0; 10_000].into()).await?;
    raw.ask("POST", "", b"").await.is("503", "full");
    raw.poll(&id, 1).await.is("204", "");
    raw.open().await;
    Ok(())
}

#[tokio::test]
async fn who_never_asks_for_messages_has_no_link() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_claim(Duration::from_millis(50)));
    let mut raw = Raw::to(&listener).await;
    let id = raw.open().await;
    assert_eq!(listener.load().links, 1);
    timeout(WATCHDOG, async {
        while listener.load().links > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    raw.poll(&id, 0).await.is("410", "unknown-link");
    serves_others(&mut listener).await
}

#[tokio::test]
async fn a_silent_client_is_given_up() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_expiry(Duration::from_millis(50)));
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    let (_sender, mut receiver) = link.split();
    let error = timeout(WATCHDOG, receiver.recv()).await?.expect_err("it is silent");
    assert_eq!(error.kind(), Kind::Lost);
    assert_eq!(error.to_string(), "link is lost: http: no sign of life from the client in time");
    raw.poll(&id, 0).await.is("410", "unknown-link");
    Ok(())
}

/// One of ours shows that it is there though nothing is said.
#[tokio::test]
async fn an_idle_link_does_not_expire() -> Outcome {
    let expiry = Duration::from_millis(300);
    let mut listener = listen(ServerOptions::default().with_expiry(expiry));
    let dialer = HttpDialer::new(listener.address())?;
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
    let ((mut sender, _from_above), (_down, mut receiver)) = (dialled.split(), accepted.split());
    // Nothing comes for some times the expiry: neither a frame nor a loss.
    let nothing = timeout(expiry * 5, receiver.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    sender.send(Bytes::from_static(b"still here")).await?;
    assert_eq!(receiver.recv().await?, Received::Frame(Bytes::from_static(b"still here")));
    Ok(())
}

/// A client that sends and never reads, from many connections at once, costs what is stated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_costs_is_bounded() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_hold(Duration::from_millis(50)));
    let mut raw = Raw::to(&listener).await;
    let (id, link) = raw.link(&mut listener).await;
    let (mut sender, _receiver) = link.split();
    // Downwards: nobody asks for it.
    let frame = Bytes::from(vec![7; 60_000]);
    while let Ok(sent) = timeout(Duration::from_millis(200), sender.send(frame.clone())).await {
        sent?;
    }
    let downwards = listener.load().held;
    assert!(downwards <= WINDOW && downwards + LinkLimits::cost(frame.len()) > WINDOW, "{downwards}");
    // Upwards: nobody receives it, and each request is there several times.
    let mut next = 1;
    loop {
        let mut connections = Vec::new();
        for _ in 0..8 {
            connections.push(Raw::to(&listener).await);
        }
        let body = batch(next, &[&[1; 60_000][..]; 8]);
        let posts = connections.iter_mut().map(|raw| raw.post(&id, &body));
        let answers = futures_util::future::join_all(posts).await;
        let taken = answers.iter().map(Answer::taken).max().unwrap_or(0);
        let load = listener.load();
        assert!(load.held <= 2 * WINDOW + 8 * BATCH_MAX, "{load:?}");
        if taken + 1 == next {
            break;
        }
        next = taken + 1;
    }
    let load = listener.load();
    assert!(load.held_most <= 2 * WINDOW + 8 * BATCH_MAX, "{load:?}");
    raw.ask("DELETE", &id, b"").await.is("204", "");
    drop((sender, _receiver));
    timeout(WATCHDOG, async {
        while listener.load().held > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    Ok(())
}
