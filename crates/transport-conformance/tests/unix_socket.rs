//! A transport over Unix sockets that passes the suite. `docs/writing-a-transport.md` goes through it.
#![cfg(unix)]

use std::future::pending;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opor_transport_conformance::{Cut, Endpoint, Fixture, FixtureError, Manner, Stranger};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Dialer, Link, LinkLimits, Listener, Peer, Received, Receiver, Sender,
    TransportError, TransportErrorKind as Kind, async_trait,
};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, copy_bidirectional,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// The largest frame. More is not sent, and no memory is taken for what announces more.
const FRAME_MAX: usize = 1024 * 1024;

const FRAME: u8 = 1;
const CLOSE: u8 = 2;

/// What travels over the socket.
#[derive(Debug)]
enum Message {
    Frame(Bytes),
    Close(CloseReason),
}

async fn write(socket: &mut (impl AsyncWrite + Unpin), message: &Message) -> IoResult<()> {
    let code;
    let (tag, parts): (u8, [&[u8]; 2]) = match message {
        Message::Frame(frame) => (FRAME, [frame, &[]]),
        Message::Close(reason) => {
            code = reason.code().number().to_le_bytes();
            (CLOSE, [&code, reason.text().as_bytes()])
        }
    };
    let len = (parts[0].len() + parts[1].len()) as u32;
    socket.write_u8(tag).await?;
    socket.write_u32_le(len).await?;
    for part in parts {
        socket.write_all(part).await?;
    }
    Ok(())
}

async fn read(socket: &mut (impl AsyncRead + Unpin)) -> IoResult<Message> {
    let tag = socket.read_u8().await?;
    let len = socket.read_u32_le().await? as usize;
    let max = if tag == FRAME { FRAME_MAX } else { 2 + CloseReason::TEXT_MAX };
    if len > max {
        return Err(Error::new(ErrorKind::InvalidData, format!("a message of {len} bytes")));
    }
    let mut body = Vec::new();
    if socket.take(len as u64).read_to_end(&mut body).await? < len {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    match (tag, &*body) {
        (FRAME, _) => Ok(Message::Frame(body.into())),
        (CLOSE, [low, high, text @ ..]) => {
            let code = CloseCode::from_number(u16::from_le_bytes([*low, *high]));
            Ok(Message::Close(CloseReason::explained(code, String::from_utf8_lossy(text))))
        }
        _ => Err(Error::new(ErrorKind::InvalidData, format!("a message of kind {tag}"))),
    }
}

/// How many messages wait to be written, and how many frames wait to be received.
const QUEUED_MAX: usize = 4;

/// The most that the kernel holds for a socket: twenty times the default of Linux.
const KERNEL_MAX: usize = 4 * 1024 * 1024;

/// What may be on its way: both queues full, a frame in the hands of either task, and what the kernel holds.
const LIMITS: LinkLimits =
    LinkLimits::new(FRAME_MAX, (2 * QUEUED_MAX + 2) * LinkLimits::cost(FRAME_MAX) + KERNEL_MAX);

/// How the link ends. What has been set stays, and it is set before any queue ends.
#[derive(Debug, Default)]
struct Ending {
    /// We have closed.
    ours: OnceLock<CloseReason>,
    /// The peer has closed, or has answered. Tasks wait for it.
    theirs: watch::Sender<Option<CloseReason>>,
    lost: OnceLock<TransportError>,
}

impl Ending {
    /// Why nothing can be sent, if nothing can.
    fn of_sending(&self) -> Option<TransportError> {
        if let Some(reason) = self.ours.get() {
            return Some(TransportError::closed(reason.clone()));
        }
        self.lost.get().cloned().or_else(|| self.theirs.borrow().clone().map(TransportError::closed))
    }

    async fn peer_closed(&self) {
        // The other end of this channel is `self`, so waiting fails only when nobody waits any more.
        let _ = self.theirs.subscribe().wait_for(Option::is_some).await;
    }
}

/// The task has ended without a word: the runtime is shutting down.
fn gone() -> TransportError {
    TransportError::lost("unix: nobody carries the link any more")
}

#[derive(Debug)]
struct UnixSender {
    messages: mpsc::Sender<Message>,
    ending: Arc<Ending>,
}

#[async_trait]
impl Sender for UnixSender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        if frame.len() > FRAME_MAX {
            return Err(TransportError::frame_too_large(frame.len(), LIMITS));
        }
        if let Some(error) = self.ending.of_sending() {
            return Err(error);
        }
        let sent = tokio::select! {
            sent = self.messages.send(Message::Frame(frame)) => sent.is_ok(),
            () = self.ending.peer_closed() => false,
        };
        if sent { Ok(()) } else { Err(self.ending.of_sending().unwrap_or_else(gone)) }
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        if self.ending.of_sending().is_none() {
            let place = tokio::select! {
                place = self.messages.reserve() => place.ok(),
                () = self.ending.peer_closed() => None,
            };
            if let Some(place) = place {
                // Nothing is awaited here, so the close is noted and queued, or neither.
                self.ending.ours.get_or_init(|| reason.clone());
                place.send(Message::Close(reason));
                return Ok(());
            }
        }
        match self.ending.of_sending().unwrap_or_else(gone) {
            error if error.kind() == Kind::Closed => Ok(()),
            error => Err(error),
        }
    }
}

#[derive(Debug)]
struct UnixReceiver {
    given: mpsc::Receiver<Received>,
    closed: Option<CloseReason>,
    ending: Arc<Ending>,
    /// Dropped with the receiver, which the task notices.
    _alive: oneshot::Sender<()>,
}

#[async_trait]
impl Receiver for UnixReceiver {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        if let Some(reason) = &self.closed {
            return Ok(Received::Closed(reason.clone()));
        }
        let Some(received) = self.given.recv().await else {
            return Err(self.ending.lost.get().cloned().unwrap_or_else(gone));
        };
        if let Received::Closed(reason) = &received {
            self.closed = Some(reason.clone());
        }
        Ok(received)
    }
}

fn link(socket: UnixStream, peer: Peer) -> Link {
    let (messages, to_write) = mpsc::channel(QUEUED_MAX);
    let (give, given) = mpsc::channel(QUEUED_MAX);
    let (alive, dropped) = oneshot::channel();
    let ending = Arc::new(Ending::default());
    tokio::spawn(carry(socket, to_write, give, dropped, ending.clone()));
    let sender = UnixSender { messages, ending: ending.clone() };
    let receiver = UnixReceiver { given, closed: None, ending, _alive: alive };
    Link::new(sender, receiver, LIMITS, peer)
}

/// How long a link that was closed and dropped here waits for the peer to answer.
const LINGER: Duration = Duration::from_secs(10);

/// Reads and writes side by side until both sides have closed, or something goes wrong.
async fn carry(
    socket: UnixStream,
    mut to_write: mpsc::Receiver<Message>,
    give: mpsc::Sender<Received>,
    dropped: oneshot::Receiver<()>,
    ending: Arc<Ending>,
) {
    let (read_half, write_half) = socket.into_split();
    let reading = read_all(BufReader::new(read_half), &give, &ending);
    let writing = write_all(write_half, &mut to_write, &ending);
    let carrying = async { tokio::try_join!(reading, writing).map(|_| ()) };
    let result = tokio::select! {
        result = carrying => result,
        error = left(dropped, &ending) => Err(error),
    };
    if let Err(error) = result {
        let kind = if error.kind() == ErrorKind::InvalidData { Kind::Incompatible } else { Kind::Lost };
        let _ = ending.lost.set(TransportError::new(kind, "unix").with_source(error));
    }
    // Only now: who finds a queue at its end looks up why.
    drop((give, to_write));
}

/// Reads until the peer closes. Where the receiver has been dropped after a close, nobody misses what is read.
async fn read_all(
    mut socket: impl AsyncRead + Unpin,
    give: &mpsc::Sender<Received>,
    ending: &Ending,
) -> IoResult<()> {
    loop {
        match read(&mut socket).await? {
            Message::Frame(frame) => drop(give.send(Received::Frame(frame)).await),
            Message::Close(reason) => {
                ending.theirs.send_replace(Some(reason.clone()));
                drop(give.send(Received::Closed(reason)).await);
                return Ok(());
            }
        }
    }
}

/// Writes what is sent until we close, or until the peer has: then what has been sent so far, and the answer.
async fn write_all(
    mut socket: impl AsyncWrite + Unpin,
    to_write: &mut mpsc::Receiver<Message>,
    ending: &Ending,
) -> IoResult<()> {
    loop {
        let message = tokio::select! {
            message = to_write.recv() => message,
            () = ending.peer_closed(), if !to_write.is_closed() => {
                to_write.close();
                continue;
            }
        };
        let theirs = ending.theirs.borrow().clone();
        match (message, theirs) {
            (Some(message), _) => {
                write(&mut socket, &message).await?;
                if let Message::Close(_) = message {
                    return Ok(());
                }
            }
            (None, Some(reason)) => return write(&mut socket, &Message::Close(reason)).await,
            (None, None) => return Err(Error::other("the sender was dropped")),
        }
    }
}

/// Waits until the receiver is dropped where that is a loss; after a close it waits for the peer, but not for ever.
async fn left(dropped: oneshot::Receiver<()>, ending: &Ending) -> Error {
    let _ = dropped.await;
    if ending.ours.get().is_none() && ending.theirs.borrow().is_none() {
        return Error::other("the receiver was dropped");
    }
    let _ = timeout(LINGER, pending::<()>()).await;
    Error::new(ErrorKind::TimedOut, "the peer did not answer the close")
}

/// What both sides say first.
const GREETING: &[u8; 12] = b"opor-unix/1\n";

/// How long the other side has to say it.
const GREETING_TIME: Duration = Duration::from_secs(10);

async fn greet(socket: &mut UnixStream) -> IoResult<()> {
    let mut theirs = [0; GREETING.len()];
    socket.write_all(GREETING).await?;
    socket.read_exact(&mut theirs).await?;
    if theirs == *GREETING { Ok(()) } else { Err(Error::new(ErrorKind::InvalidData, "another greeting")) }
}

#[derive(Debug)]
struct UnixDialer {
    path: PathBuf,
    target: Peer,
}

impl UnixDialer {
    fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { target: Peer::new(format!("unix:{}", path.display())), path }
    }
}

#[async_trait]
impl Dialer for UnixDialer {
    fn target(&self) -> &Peer {
        &self.target
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let failed = |kind, error: Error| TransportError::new(kind, self.target.as_str()).with_source(error);
        let connecting = UnixStream::connect(&self.path).await;
        let mut socket = connecting.map_err(|error| failed(kind_of(&error), error))?;
        match timeout(GREETING_TIME, greet(&mut socket)).await {
            Ok(Ok(())) => Ok(link(socket, self.target.clone())),
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                Err(failed(Kind::Incompatible, error))
            }
            // It was there, and went away before it answered.
            Ok(Err(error)) => Err(failed(Kind::Unreachable, error)),
            Err(elapsed) => Err(failed(Kind::TimedOut, elapsed.into())),
        }
    }
}

fn kind_of(error: &Error) -> Kind {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Kind::Unreachable,
        // The listener's queue of connections is full.
        ErrorKind::WouldBlock => Kind::Overloaded,
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Kind::Misconfigured,
        _ => Kind::Exhausted,
    }
}

/// How many handshakes are under way at once, and how many links wait to be accepted.
const WAITING_MAX: usize = 64;

/// How long to wait when the system cannot give us a connection, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct UnixSocketListener {
    path: PathBuf,
    address: String,
    links: mpsc::Receiver<Link>,
    task: JoinHandle<()>,
}

impl UnixSocketListener {
    fn bind(path: impl Into<PathBuf>) -> Result<Self, TransportError> {
        let path = path.into();
        let address = path.display().to_string();
        let failed =
            |error| TransportError::new(Kind::Misconfigured, format!("unix:{address}")).with_source(error);
        let socket = UnixListener::bind(&path).map_err(failed)?;
        let (ready, links) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(welcome_all(socket, ready, Peer::new(format!("unix:{address}"))));
        Ok(Self { path, address, links, task })
    }
}

#[async_trait]
impl Listener for UnixSocketListener {
    fn address(&self) -> &str {
        &self.address
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::new(Kind::Exhausted, "unix: nobody listens any more");
        self.links.recv().await.ok_or_else(gone)
    }
}

impl Drop for UnixSocketListener {
    fn drop(&mut self) {
        self.task.abort();
        // From here on nobody finds it. If it is gone already, so much the better.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn welcome_all(listener: UnixListener, ready: mpsc::Sender<Link>, peer: Peer) {
    let places = Arc::new(Semaphore::new(WAITING_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is not closed");
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(welcome(socket, ready.clone(), peer.clone(), place))),
            Err(_) => drop(timeout(ACCEPT_PAUSE, pending::<()>()).await),
        }
    }
}

/// One handshake, in a task of its own: who is slow here is slow alone, and who fails here fails alone.
async fn welcome(
    mut socket: UnixStream,
    ready: mpsc::Sender<Link>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
) {
    tokio::select! {
        greeted = timeout(GREETING_TIME, greet(&mut socket)) => {
            if let Ok(Ok(())) = greeted {
                // Where the listener has been dropped meanwhile, the link is dropped too, and the dialer sees it lost.
                let _ = ready.send(link(socket, peer)).await;
            }
        }
        () = ready.closed() => {}
    }
}

struct UnixSockets {
    folder: tempfile::TempDir,
    count: AtomicU32,
}

impl UnixSockets {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder for sockets"), count: AtomicU32::new(0) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.count.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

#[async_trait]
impl Fixture for UnixSockets {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        let path = self.path();
        Ok(Endpoint::new(UnixSocketListener::bind(&path)?, UnixDialer::new(&path)))
    }

    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
        Ok(Arc::new(UnixDialer::new(self.path())))
    }

    async fn cuttable(&self) -> Result<Option<(Endpoint, Cut)>, FixtureError> {
        let (path, wire) = (self.path(), self.path());
        let listener = UnixSocketListener::bind(&path)?;
        let task = tokio::spawn(relay(UnixListener::bind(&wire)?, path));
        Ok(Some((Endpoint::new(listener, UnixDialer::new(&wire)), Cut::new(move || task.abort()))))
    }

    async fn stranger(&self, address: &str, manner: Manner) -> Result<Option<Stranger>, FixtureError> {
        let mut socket = UnixStream::connect(Path::new(address)).await?;
        match manner {
            Manner::Leaves => {
                socket.write_all(&GREETING[..5]).await?;
                return Ok(Some(Stranger::new(())));
            }
            Manner::Babbles => socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await?,
            Manner::Stalls => {}
            Manner::BreaksRules => {
                greet(&mut socket).await?;
                socket.write_all(&[FRAME, 0xff, 0xff, 0xff, 0xff]).await?;
            }
        }
        Ok(Some(Stranger::new(socket)))
    }
}

/// A wire that can be cut: what comes to one socket goes on to another. Aborted, it drops all it holds.
async fn relay(from: UnixListener, to: PathBuf) -> IoResult<()> {
    let mut wires = JoinSet::new();
    loop {
        let (mut near, _) = from.accept().await?;
        let mut far = UnixStream::connect(&to).await?;
        wires.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

opor_transport_conformance::suite!(UnixSockets::new());
