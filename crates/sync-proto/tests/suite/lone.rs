//! One session against a peer that the test plays, message by message.

use opor_core::SiteId;
use opor_sync_proto::{
    Ask, Capabilities, CloseReason, Config, Cursor, Decoded, Event, Found, Hello, Input, MAJOR, Message,
    MonoMillis, Output, RequestId, Session, Token, Violation, Work, decode,
};

pub(crate) const OWN: [u8; 16] = [1; 16];
pub(crate) const PEER: [u8; 16] = [2; 16];

pub(crate) struct Lone {
    pub(crate) session: Session,
    pub(crate) now: MonoMillis,
    /// Frames that the peer has sent.
    count: u8,
}

pub(crate) fn config() -> Config {
    let mut config = Config::new(SiteId::from(OWN), "room");
    config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
    config.frame_max = 16 << 10;
    config.item_max = 64 << 10;
    config.window = 100 << 10;
    config
}

/// What an honest peer says of itself.
pub(crate) fn hello() -> Hello {
    Hello {
        newest_major: MAJOR,
        site: SiteId::from(PEER),
        room: "room".into(),
        token: Token(b"secret".to_vec()),
        schema: vec![7],
        capabilities: Capabilities::BINARY.with(Capabilities::SNAPSHOT),
        frame_max: 16 << 10,
        item_max: 64 << 10,
    }
}

pub(crate) fn cursor(text: &str) -> Cursor {
    Cursor::new(text.as_bytes()).unwrap()
}

impl Lone {
    /// A session that has said nothing yet.
    pub(crate) fn new(config: Config) -> Self {
        let now = MonoMillis(0);
        Self { session: Session::new(config, now).unwrap(), now, count: 0 }
    }

    /// A session whose peer is let in, and has asked for its whole log; nothing has been polled since.
    pub(crate) fn open() -> Self {
        Self::open_with(config(), hello(), 1 << 20)
    }

    pub(crate) fn open_with(config: Config, hello: Hello, limit: u64) -> Self {
        let mut lone = Self::admitted(config, hello, Ask::Log(None));
        lone.say(Message::Pull { cursor: None, limit });
        assert_eq!(lone.poll(), Output::Event(Event::Open));
        lone
    }

    /// A session that has let its peer in, and asked.
    pub(crate) fn admitted(config: Config, hello: Hello, ask: Ask) -> Self {
        let mut lone = Self::new(config);
        let own = lone.frame();
        assert!(matches!(decode(&own), Ok(Decoded::Message(Message::Hello(_)))), "{own:?}");
        lone.say(Message::Hello(Box::new(hello.clone())));
        assert_eq!(lone.poll(), Output::Admit(Box::new(hello)));
        lone.input(Input::Admitted(ask));
        let asked = lone.frame();
        let decoded = decode(&asked);
        assert!(
            matches!(decoded, Ok(Decoded::Message(Message::Pull { .. } | Message::Fetch { .. }))),
            "{decoded:?}"
        );
        lone
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        self.session.handle_input(input, self.now);
    }

    /// The peer says something.
    pub(crate) fn say(&mut self, message: Message<'_>) {
        self.hear(&message.to_bytes(0));
    }

    /// The peer sends a frame, which gets its number.
    pub(crate) fn hear(&mut self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        if let Some(count) = frame.get_mut(2) {
            *count = self.count;
            self.count = self.count.wrapping_add(1);
        }
        self.input(Input::Message(&frame));
    }

    #[track_caller]
    pub(crate) fn poll(&mut self) -> Output {
        self.session.poll_output().expect("there is something to do")
    }

    /// The next output is a frame; the link takes it.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        let Output::Send(frame) = self.poll() else { panic!("no frame") };
        self.input(Input::Sent);
        frame
    }

    /// The next output is this message.
    #[track_caller]
    pub(crate) fn check_said(&mut self, expected: Message<'_>) {
        let frame = self.frame();
        assert_eq!(decode(&frame), Ok(Decoded::Message(expected)));
    }

    /// The next output is a read, and this was found.
    #[track_caller]
    pub(crate) fn find(&mut self, found: Found) {
        let Output::Read { req, .. } = self.poll() else { panic!("nothing is read") };
        self.input(Input::Read { req, found });
    }

    /// The next output is a read, and it finds so many bytes that lead to a cursor.
    #[track_caller]
    pub(crate) fn find_batch(&mut self, len: usize, at: &str, done: bool) {
        self.find(Found::Batch { changeset: vec![7; len], cursor: cursor(at), done });
    }

    /// The next output stores something.
    #[track_caller]
    pub(crate) fn apply(&mut self) -> (RequestId, Work) {
        match self.poll() {
            Output::Apply { req, work } => (req, work),
            other => panic!("nothing is stored: {other:?}"),
        }
    }

    /// What is there to do, until nothing is. Frames are taken.
    pub(crate) fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.session.poll_output() {
            if matches!(output, Output::Send(_)) {
                self.input(Input::Sent);
            }
            outputs.push(output);
            assert!(outputs.len() < 1000, "it comes to rest");
        }
        outputs
    }

    /// The session ends for this reason, says goodbye if it should, and is silent from then on.
    #[track_caller]
    pub(crate) fn check_closed(&mut self, expected: CloseReason) {
        let says = !matches!(expected, CloseReason::LinkClosed | CloseReason::Peer(_));
        match self.poll() {
            Output::Close { reason, farewell } => {
                assert_eq!((reason, farewell.is_some()), (expected, says));
            }
            other => panic!("still open: {other:?}"),
        }
        self.input(Input::LocalCommit);
        self.say(Message::Ping { nonce: 9 });
        self.session.handle_timeout(self.now + 1_000_000_000);
        assert_eq!((self.session.poll_output(), self.session.poll_timeout()), (None, None));
        assert_eq!((self.session.held(), self.session.is_open(), self.session.peer()), ((0, 0), false, None));
    }

    #[track_caller]
    pub(crate) fn check_violation(&mut self, expected: Violation) {
        self.check_closed(CloseReason::Violation(expected));
    }
}

/// A changeset, or its beginning.
pub(crate) fn changes(number: u64, len: u64, payload: &[u8]) -> Message<'_> {
    Message::Changes { number, len, cursor: cursor("5@1"), done: true, delta: false, payload }
}
