//! The HTTP transport keeps the contract: by event streams, by long polls, and over TLS.

use std::io::Result as IoResult;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opor_transport_conformance::{Cut, Endpoint, Fixture, FixtureError, Manner, Stranger};
use opor_transport_http::{Downstream, HttpDialer, HttpListener, ListenOptions, ServerOptions, Verdict};
use opor_transport_traits::{Dialer, Listener as _, async_trait};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

const TOKEN: &str = "a-token-that-nobody-may-see";

/// After so long the ends give each other up when the wire is cut.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// How the two sides protect what they say.
trait Wire: Send + Sync + 'static {
    const SCHEME: &str;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn listens(&self, options: ListenOptions) -> ListenOptions;
    fn dials(&self, dialer: HttpDialer) -> HttpDialer;
    fn connect(&self, stream: TcpStream) -> impl Future<Output = IoResult<Self::Stream>> + Send;
}

struct Http<W> {
    wire: W,
    downstream: Downstream,
    /// Ports that are taken, so that nobody else listens there, and where nobody listens.
    silent: Mutex<Vec<TcpSocket>>,
}

impl<W: Wire> Http<W> {
    fn new(wire: W, downstream: Downstream) -> Self {
        Self { wire, downstream, silent: Mutex::default() }
    }

    fn listener(&self, server: ServerOptions) -> Result<HttpListener, FixtureError> {
        let options = ListenOptions::default().with_server(server).with_judge(|knock| match knock.bearer() {
            Some(TOKEN) => Verdict::Welcome,
            _ => Verdict::Unauthorized,
        });
        Ok(HttpListener::bind(([127, 0, 0, 1], 0).into(), self.wire.listens(options))?)
    }

    fn dialer(&self, url: &str) -> Result<HttpDialer, FixtureError> {
        let dialer = HttpDialer::new(url)?.with_bearer(TOKEN)?.with_downstream(self.downstream);
        Ok(self.wire.dials(dialer))
    }
}

#[async_trait]
impl<W: Wire> Fixture for Http<W> {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        let listener = self.listener(ServerOptions::default())?;
        let dialer = self.dialer(listener.address())?;
        Ok(Endpoint::new(listener, dialer))
    }

    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let address = socket.local_addr()?;
        self.silent.lock().expect("no panic").push(socket);
        Ok(Arc::new(self.dialer(&format!("{}://{address}/", W::SCHEME))?))
    }

    async fn cuttable(&self) -> Result<Option<(Endpoint, Cut)>, FixtureError> {
        if W::SCHEME == "https" {
            return Ok(None);
        }
        let listener = self.listener(ServerOptions::default().with_expiry(LOST_AFTER))?;
        let to = authority(listener.address()).to_owned();
        let wire = TcpListener::bind("127.0.0.1:0").await?;
        let dialer = self.dialer(&format!("{}://{}/", W::SCHEME, wire.local_addr()?))?;
        let dialer = dialer.with_retry_window(LOST_AFTER);
        let task = tokio::spawn(relay(wire, to));
        Ok(Some((Endpoint::new(listener, dialer), Cut::new(move || task.abort()))))
    }

    async fn stranger(&self, address: &str, manner: Manner) -> Result<Option<Stranger>, FixtureError> {
        let mut stream = TcpStream::connect(authority(address)).await?;
        match manner {
            Manner::Leaves => {
                stream.write_all(b"POST / HTTP/1.1\r\nHost: ").await?;
                return Ok(Some(Stranger::new(())));
            }
            Manner::Babbles => stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").await?,
            Manner::Stalls => {}
            Manner::BreaksRules => {
                let mut stream = self.wire.connect(stream).await?;
                let opened = ask(&mut stream, "POST", "", b"").await?;
                let link = opened.lines().find(|line| line.starts_with("opor-link: ")).ok_or("no link")?;
                ask(&mut stream, "GET", &format!("{link}\r\nprefer: wait=0\r\n"), b"").await?;
                // A frame that says it is 4 GiB.
                let babble = b"\0\x01\0\0\0\0\0\0\0\x01\xff\xff\xff\xff";
                let answer = ask(&mut stream, "POST", &format!("{link}\r\n"), babble).await?;
                assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
                return Ok(Some(Stranger::new(stream)));
            }
        }
        Ok(Some(Stranger::new(stream)))
    }

    /// A case fills the buffers with some ten thousand empty frames.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned()]
    }
}

/// Sends a request by hand; the head of the answer, which has no body.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    method: &str,
    headers: &str,
    body: &[u8],
) -> Result<String, FixtureError> {
    let head = format!(
        "{method} / HTTP/1.1\r\nhost: x\r\nopor-http: 1\r\nauthorization: Bearer {TOKEN}\r\n{headers}\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(answer)?)
}

fn authority(address: &str) -> &str {
    address.split('/').nth(2).expect("an address of a listener")
}

/// A wire that can be cut: what comes to one socket goes on to another. Aborted, it drops all it holds.
async fn relay(from: TcpListener, to: String) -> IoResult<()> {
    let mut wires = JoinSet::new();
    loop {
        let (mut near, _) = from.accept().await?;
        let mut far = TcpStream::connect(&to).await?;
        wires.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

struct Plain;

impl Wire for Plain {
    const SCHEME: &str = "http";
    type Stream = TcpStream;

    fn listens(&self, options: ListenOptions) -> ListenOptions {
        options
    }

    fn dials(&self, dialer: HttpDialer) -> HttpDialer {
        dialer
    }

    async fn connect(&self, stream: TcpStream) -> IoResult<TcpStream> {
        Ok(stream)
    }
}

mod http_events {
    use super::*;

    opor_transport_conformance::suite!(Http::new(Plain, Downstream::Events));
}

mod http_long_poll {
    use super::*;

    opor_transport_conformance::suite!(Http::new(Plain, Downstream::LongPoll));
}

#[cfg(feature = "tls")]
mod https {
    use opor_transport_http::rustls::pki_types::ServerName;
    use opor_transport_http::rustls::{ClientConfig, ServerConfig};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;

    struct Tls {
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
    }

    impl Tls {
        fn new() -> Self {
            let (server, client) = crate::certificate::for_this_machine();
            Self { server, client }
        }
    }

    impl Wire for Tls {
        const SCHEME: &str = "https";
        type Stream = TlsStream<TcpStream>;

        fn listens(&self, options: ListenOptions) -> ListenOptions {
            options.with_tls(self.server.clone())
        }

        fn dials(&self, dialer: HttpDialer) -> HttpDialer {
            dialer.with_tls(self.client.clone())
        }

        async fn connect(&self, stream: TcpStream) -> IoResult<TlsStream<TcpStream>> {
            let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
            TlsConnector::from(self.client.clone()).connect(name, stream).await
        }
    }

    // How frames come down makes no difference to TLS, and a cut wire neither.
    opor_transport_conformance::suite!(Http::new(Tls::new(), Downstream::Auto));
}
