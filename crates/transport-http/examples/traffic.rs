//! What travels when a replica catches up, with and without compression: `cargo run --release --example traffic`.
//!
//! The bytes are those of whole TCP connections, headers and all, through a relay that counts them.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opor_store::{OpenOptions, Store, StoreHandle};
use opor_sync::{Replicator, SyncStatus};
use opor_transport_http::{Downstream, HttpDialer, HttpListener, ListenOptions};
use opor_transport_traits::{Bytes, Dialer as _, Listener as _, Received};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How many rows each side brings.
const ROWS: usize = 5000;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes upwards and downwards.
#[derive(Debug, Default)]
struct Traffic([AtomicUsize; 2]);

impl Traffic {
    fn take(&self) -> [usize; 2] {
        [0, 1].map(|way| self.0[way].swap(0, Ordering::Relaxed))
    }
}

async fn relay(from: TcpListener, to: String, traffic: Arc<Traffic>) -> Outcome<()> {
    loop {
        let (near, _) = from.accept().await?;
        let far = TcpStream::connect(&to).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tokio::spawn(copy(near_read, far_write, traffic.clone(), 0));
        tokio::spawn(copy(far_read, near_write, traffic.clone(), 1));
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    traffic: Arc<Traffic>,
    way: usize,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        traffic.0[way].fetch_add(len, Ordering::Relaxed);
        to.write_all(&buffer[..len]).await?;
    }
}

async fn replica(folder: &std::path::Path, name: &str, from: usize) -> Outcome<StoreHandle> {
    let store = StoreHandle::open(folder.join(name), &OpenOptions::new(), 1)?;
    let fill = move |store: &mut Store| {
        store.execute_batch("CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER)")?;
        store.replicate("todos")?;
        store.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (VALUES ({from}) UNION ALL SELECT i + 1 FROM n WHERE i < {from} + {ROWS} - 1)
             INSERT INTO todos SELECT lower(hex(randomblob(16))), 'buy ' || i || ' oranges', i % 2 FROM n"
        ))?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    store.write(fill).await??;
    Ok(store)
}

/// Two replicas catch up with each other, then one edits a row a hundred times.
async fn replicas(dialer: HttpDialer, listener: HttpListener, traffic: &Traffic) -> Outcome<[[usize; 2]; 2]> {
    let folder = tempfile::tempdir()?;
    let (desk, phone) =
        (replica(folder.path(), "desk", 0).await?, replica(folder.path(), "phone", ROWS).await?);
    let at_desk = Replicator::builder(desk.clone(), "garden").listen(listener).start().await?;
    let at_phone = Replicator::builder(phone.clone(), "garden").peer(dialer).start().await?;
    at_phone.peers()[0].status().wait_for(SyncStatus::is_live).await?;
    let count = |store: &Store| store.query_row("SELECT count(*) FROM todos", [], |row| row.get::<_, u32>(0));
    for store in [&desk, &phone] {
        let mut commits = store.commits();
        while store.read(count).await?? < 2 * ROWS as u32 {
            commits.next().await;
        }
    }
    let caught_up = traffic.take();
    for number in 0..100 {
        let edit = format!("UPDATE todos SET title = 'edit {number}' WHERE rowid = 1");
        let mut commits = desk.commits();
        phone.write(move |store| store.execute_batch(&edit)).await??;
        commits.next().await;
    }
    let edited = traffic.take();
    at_phone.stop().await;
    at_desk.stop().await;
    Ok([caught_up, edited])
}

/// Text frames of 1 KiB, 2,000 each way: what something else than opor's protocol may send.
async fn texts(dialer: HttpDialer, mut listener: HttpListener, traffic: &Traffic) -> Outcome<[usize; 2]> {
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
    let ((mut up, mut from_above), (mut down, mut from_below)) = (dialled.split(), accepted.split());
    let frame = |number: usize| {
        let rows = (0..12).map(|row| {
            format!(
                "{{\"id\":\"{:032x}\",\"title\":\"buy {row} oranges\",\"done\":false}}",
                number * 7919 + row
            )
        });
        Bytes::from(rows.collect::<String>())
    };
    let send = async || {
        for number in 0..2000 {
            tokio::try_join!(up.send(frame(number)), down.send(frame(number)))?;
        }
        Outcome::Ok(())
    };
    let receive = async || {
        for _ in 0..2000 {
            let (Received::Frame(_), Received::Frame(_)) =
                tokio::try_join!(from_above.recv(), from_below.recv())?
            else {
                return Err("closed".into());
            };
        }
        Outcome::Ok(())
    };
    let (mut send, mut receive) = (send, receive);
    tokio::try_join!(send(), receive())?;
    Ok(traffic.take())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut out = std::io::stdout();
    writeln!(out, "KB up / down          catch-up         100 edits        text frames")?;
    for (name, downstream) in [("events", Downstream::Events), ("long poll", Downstream::LongPoll)] {
        for compress in [true, false] {
            let traffic = Arc::new(Traffic::default());
            let endpoint = async || {
                let listener = HttpListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default())?;
                let to = listener.address().split('/').nth(2).ok_or("no address")?.to_owned();
                let port = TcpListener::bind("127.0.0.1:0").await?;
                let dialer = HttpDialer::new(&format!("http://{}/", port.local_addr()?))?;
                let dialer = dialer.with_downstream(downstream);
                tokio::spawn(relay(port, to, traffic.clone()));
                Outcome::Ok((if compress { dialer } else { dialer.without_compression() }, listener))
            };
            let (dialer, listener) = endpoint().await?;
            let [caught_up, edited] = replicas(dialer, listener, &traffic).await?;
            let (dialer, listener) = endpoint().await?;
            let text = texts(dialer, listener, &traffic).await?;
            let name = format!("{name}, {}", if compress { "zstd" } else { "plain" });
            let kb = |[up, down]: [usize; 2]| format!("{:.0} / {:.0}", up as f64 / 1e3, down as f64 / 1e3);
            writeln!(out, "{name:<20}{:>16}{:>16}{:>18}", kb(caught_up), kb(edited), kb(text))?;
        }
    }
    Ok(())
}
