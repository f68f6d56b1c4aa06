//! Peers that speak the transport's own messages, and break its rules: nothing of it is given, and others go on.

use std::time::Duration;

use futures_util::StreamExt as _;
use opor_nats_server::{NatsServer, Options};
use opor_transport_nats::async_nats::{Client, Subject, Subscriber};
use opor_transport_nats::{NatsDialer, NatsListener, NatsOptions, token};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Dialer, Link, Listener, Received, TransportError,
    TransportErrorKind as Kind,
};

/// The largest frame, and the most that one piece carries, as `docs/nats.md` has them.
const FRAME_MAX: usize = 1024 * 1024;
const PIECE_MAX: usize = 448 * 1024;

/// The least that is too much for a frame.
const PIECES: u32 = (FRAME_MAX / PIECE_MAX) as u32 + 1;

/// Far more frames than may be on their way.
const FLOOD: u32 = 2_000;

/// A peer without our code, linked to a listener of ours.
struct Stranger {
    client: Client,
    inbox: Subject,
    answers: Subscriber,
    theirs: Subject,
}

impl Stranger {
    async fn meets(server: &NatsServer, listener: &mut NatsListener) -> (Self, Link) {
        let client =
            opor_transport_nats::async_nats::connect(server.url()).await.expect("the broker is there");
        let inbox = Subject::from(client.new_inbox());
        let mut answers = client.subscribe(inbox.clone()).await.expect("it subscribes");
        let hello = [&[1, 1], &[7; 16][..]].concat();
        let dial = format!("opor.dial.{}", token("garden"));
        client.publish_with_reply(dial, inbox.clone(), hello.into()).await.expect("it is said");
        let welcome = answers.next().await.expect("a welcome");
        let theirs = welcome.reply.expect("where the other end receives");
        let stranger = Self { client, inbox, answers, theirs };
        stranger.says(vec![3]).await;
        (stranger, listener.accept().await.expect("a link"))
    }

    async fn says(&self, message: Vec<u8>) {
        let (to, from) = (self.theirs.clone(), self.inbox.clone());
        self.client.publish_with_reply(to, from, message.into()).await.expect("it is said");
    }

    async fn piece(&self, number: u32, is_last: bool, bytes: &[u8]) {
        let head = [&[5, u8::from(is_last)], &number.to_le_bytes()[..]].concat();
        self.says([&head, bytes].concat()).await;
    }

    async fn close(&self, number: u32, reason: &CloseReason) {
        let head = [&[7], &number.to_le_bytes()[..], &reason.code().number().to_le_bytes()].concat();
        self.says([&head, reason.text().as_bytes()].concat()).await;
    }

    async fn credit(&self, bytes: u64, frames: u64) {
        self.says([&[6], &bytes.to_le_bytes()[..], &frames.to_le_bytes()].concat()).await;
    }

    /// The next message that is neither a ping nor credit.
    async fn hears(&mut self) -> Bytes {
        loop {
            let message = self.answers.next().await.expect("a message").payload;
            if !matches!(message.first(), Some(6 | 9)) {
                return message;
            }
        }
    }
}

async fn scene() -> (NatsServer, NatsListener) {
    let server = Options::new().start().expect("a nats-server");
    let options = NatsOptions::new().with_keepalive(Duration::from_millis(100));
    let listener = NatsListener::listen(&format!("{}/garden", server.url()), options).await;
    (server, listener.expect("it listens"))
}

/// What the link ends with, once all that was said before has been given.
async fn ends_with(link: Link, before: &[&[u8]]) -> TransportError {
    let (_sender, mut receiver) = link.split();
    for due in before {
        let given = receiver.recv().await.expect("a frame");
        assert_eq!(given, Received::Frame(Bytes::copy_from_slice(due)));
    }
    receiver.recv().await.expect_err("it has ended")
}

#[tokio::test]
async fn a_gap_is_a_loss_and_nothing_behind_it_is_given() {
    let (server, mut listener) = scene().await;
    // A number left out, one said twice, and a close that comes too early.
    for second in [2, 0] {
        let (stranger, link) = Stranger::meets(&server, &mut listener).await;
        stranger.piece(0, true, b"first").await;
        stranger.piece(second, true, b"other").await;
        assert_eq!(ends_with(link, &[b"first"]).await.kind(), Kind::Lost);
    }
    let (stranger, link) = Stranger::meets(&server, &mut listener).await;
    stranger.piece(0, true, b"first").await;
    stranger.close(2, &CloseReason::new(CloseCode::DONE)).await;
    assert_eq!(ends_with(link, &[b"first"]).await.kind(), Kind::Lost);
    // In the middle of a frame.
    let (stranger, link) = Stranger::meets(&server, &mut listener).await;
    stranger.piece(0, false, b"one half").await;
    stranger.piece(2, true, b"the other").await;
    assert_eq!(ends_with(link, &[]).await.kind(), Kind::Lost);
}

#[tokio::test]
async fn pieces_become_one_frame_and_a_close_is_answered_with_its_reason() {
    let (server, mut listener) = scene().await;
    let (mut stranger, link) = Stranger::meets(&server, &mut listener).await;
    let (_sender, mut receiver) = link.split();
    stranger.piece(0, false, b"one half, ").await;
    stranger.piece(1, true, b"the other").await;
    stranger.piece(2, true, b"").await;
    let reason = CloseReason::explained(CloseCode::private(4321), "grüße");
    stranger.close(3, &reason).await;
    for due in ["one half, the other", ""] {
        let given = receiver.recv().await.expect("a frame");
        assert_eq!(given, Received::Frame(Bytes::from_static(due.as_bytes())));
    }
    assert_eq!(receiver.recv().await.expect("a close"), Received::Closed(reason.clone()));
    let answer = [&[7, 0, 0, 0, 0][..], &4321_u16.to_le_bytes(), "grüße".as_bytes()].concat();
    assert_eq!(stranger.hears().await, answer);
}

#[tokio::test]
async fn a_frame_beyond_the_limit_breaks_the_rules() {
    let (server, mut listener) = scene().await;
    let (stranger, link) = Stranger::meets(&server, &mut listener).await;
    let piece = vec![7; PIECE_MAX];
    for number in 0..PIECES {
        stranger.piece(number, number + 1 == PIECES, &piece).await;
    }
    let error = ends_with(link, &[]).await;
    assert_eq!(error.kind(), Kind::Incompatible);
    assert!(error.to_string().contains("a frame beyond the limit"), "{error}");
}

#[tokio::test]
async fn who_sends_more_than_it_has_credit_for_breaks_the_rules() {
    let (server, mut listener) = scene().await;
    let (stranger, link) = Stranger::meets(&server, &mut listener).await;
    for number in 0..FLOOD {
        stranger.piece(number, true, b"flood").await;
    }
    // Nothing is received until it has ended: the sender hears of that.
    let (mut sender, mut receiver) = link.split();
    let error = loop {
        match sender.send(Bytes::from_static(b"are you there?")).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Incompatible);
    let mut given = 0;
    while receiver.recv().await.is_ok() {
        given += 1;
    }
    assert_eq!(given, 1024, "what it had credit for");
}

#[tokio::test]
async fn credit_for_what_was_not_sent_breaks_the_rules() {
    let (server, mut listener) = scene().await;
    for (bytes, frames) in [(1, 0), (0, 1), (u64::MAX, u64::MAX)] {
        let (stranger, link) = Stranger::meets(&server, &mut listener).await;
        stranger.credit(bytes, frames).await;
        assert_eq!(ends_with(link, &[]).await.kind(), Kind::Incompatible);
    }
}

#[tokio::test]
async fn what_has_no_place_on_an_open_link_breaks_its_rules_alone() {
    let (server, mut listener) = scene().await;
    let options = NatsOptions::new().with_keepalive(Duration::from_millis(100));
    let dialer = NatsDialer::new(listener.address(), options).expect("an address");
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept()).expect("a link");
    let greeting = [&[1, 1], &[8; 16][..]].concat();
    for message in [vec![], vec![42], vec![5, 2, 0, 0, 0, 0], vec![6, 1], greeting] {
        let (stranger, link) = Stranger::meets(&server, &mut listener).await;
        stranger.piece(0, true, b"first").await;
        stranger.says(message.clone()).await;
        assert_eq!(ends_with(link, &[b"first"]).await.kind(), Kind::Incompatible, "{message:?}");
    }
    let ((mut sender, _from_b), (_b, mut receiver)) = (dialled.split(), accepted.split());
    sender.send(Bytes::from_static(b"hello")).await.expect("sent");
    assert_eq!(receiver.recv().await.expect("given"), Received::Frame(Bytes::from_static(b"hello")));
}

#[tokio::test]
async fn whoever_drops_its_end_says_so() {
    let (server, mut listener) = scene().await;
    let (mut stranger, link) = Stranger::meets(&server, &mut listener).await;
    drop(link);
    assert_eq!(stranger.hears().await, [8][..]);
    // And is believed at once.
    let (stranger, link) = Stranger::meets(&server, &mut listener).await;
    stranger.says(vec![8]).await;
    let error = ends_with(link, &[]).await;
    assert!(error.to_string().contains("dropped its end"), "{error}");
}

#[tokio::test]
async fn what_comes_for_a_receiver_that_is_gone_after_a_close_is_credited() {
    let (server, mut listener) = scene().await;
    let (mut stranger, link) = Stranger::meets(&server, &mut listener).await;
    let (mut sender, receiver) = link.split();
    sender.close(CloseReason::new(CloseCode::DONE)).await.expect("closed");
    drop(receiver);
    // A quarter of what may be on its way, which is when credit is due.
    for number in 0..256 {
        stranger.piece(number, true, b"late").await;
    }
    loop {
        let message = stranger.answers.next().await.expect("a message").payload;
        if message.first() == Some(&6) {
            let frames = 256_u64.to_le_bytes();
            assert_eq!(message[message.len() - 8..], frames, "{message:?}");
            break;
        }
    }
    stranger.close(256, &CloseReason::new(CloseCode::DONE)).await;
    drop(sender);
}
