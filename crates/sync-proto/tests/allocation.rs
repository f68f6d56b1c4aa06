//! A session takes no memory on the word of a peer. Alone in its process, because it counts every allocation.
#![expect(unsafe_code, reason = "an allocator that counts is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use opor_core::SiteId;
use opor_sync_proto::{Ask, Config, Cursor, Input, Message, MonoMillis, Output, Session};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does something and says how much memory that took at most.
fn peak_of(run: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    run();
    PEAK.load(Relaxed) - before
}

/// A session whose peer is let in.
fn open() -> Session {
    let (now, mut frames) = (MonoMillis(0), Vec::new());
    let sessions = [1, 2].map(|site| Session::new(Config::new(SiteId::from([site; 16]), "room"), now));
    let [mut session, mut peer] = sessions.map(|session| session.expect("a configuration that works"));
    if let Some(Output::Send(hello)) = peer.poll_output() {
        frames.push(hello);
    }
    frames.push(Message::Pull { cursor: None, limit: 1 << 30 }.to_bytes(1));
    for frame in &frames {
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(_) => session.handle_input(Input::Sent, now),
                Output::Admit(_) => session.handle_input(Input::Admitted(Ask::Log(None)), now),
                _ => {}
            }
        }
        session.handle_input(Input::Message(frame), now);
    }
    session
}

#[test]
fn memory_follows_the_bytes_that_are_there() {
    let now = MonoMillis(0);
    let cursor = Cursor::new(b"1@1").expect("short enough");

    // Strings that are said to be long, in every place where a message has one.
    for head in
        [&[0x10, 1, 0, 1][..], &[0x10, 1, 0, 1, 1, 7], &[0x10, 2, 0, 0], &[0x10, 3, 0], &[0x10, 7, 0, 0, 0]]
    {
        for len in [&[0xff, 0xff, 0xff, 0x7f][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]]
        {
            let frame = [head, len, b"few"].concat();
            let mut read = None;
            let peak = peak_of(|| read = Some(opor_sync_proto::decode(&frame)));
            assert!(matches!(read, Some(Err(_))), "{read:?}");
            assert!(peak < 1_000, "{peak} bytes for {frame:?}");
        }
    }

    // A changeset that is said to have 64 MiB, of which come a few bytes, a part at a time.
    let mut session = open();
    let begin =
        Message::Changes { number: 0, len: 64 << 20, cursor, done: true, delta: false, payload: b"x" }
            .to_bytes(2);
    let peak = peak_of(|| {
        session.handle_input(Input::Message(&begin), now);
        for offset in 1..100 {
            let part = Message::Part { number: 0, offset, payload: b"y" }.to_bytes(2 + offset as u8);
            session.handle_input(Input::Message(&part), now);
        }
    });
    assert_eq!((session.held(), session.is_open()), ((100, 0), true));
    assert!(peak < 10_000, "{peak} bytes for a hundred");

    // Pings without end, to a session whose link takes no frame.
    let mut session = open();
    let peak = peak_of(|| {
        for count in 0..10_000_u64 {
            let ping = Message::Ping { nonce: count }.to_bytes((2 + count) as u8);
            session.handle_input(Input::Message(&ping), now);
        }
    });
    assert!(session.is_open());
    assert!(peak < 10_000, "{peak} bytes for ten thousand pings");
}
