//! The WebSocket transport keeps the contract, over plain TCP and over TLS.

use std::io::Result as IoResult;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opor_transport_conformance::{Cut, Endpoint, Fixture, FixtureError, Manner, Stranger};
use opor_transport_traits::{Dialer, Listener as _, async_trait};
use opor_transport_websocket::tokio_tungstenite::client_async;
use opor_transport_websocket::tokio_tungstenite::tungstenite::ClientRequestBuilder;
use opor_transport_websocket::{ListenOptions, SUBPROTOCOL, Verdict, WebSocketDialer, WebSocketListener};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

#[cfg(feature = "tls")]
mod certificate;

const TOKEN: &str = "a-token-that-nobody-may-see";

/// The head of a masked binary message of 2^40 bytes.
const TOO_LARGE: [u8; 14] = [0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4];

/// How the two sides protect what they say.
trait Wire: Send + Sync + 'static {
    const SCHEME: &str;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn listens(&self, options: ListenOptions) -> ListenOptions;
    fn dials(&self, dialer: WebSocketDialer) -> WebSocketDialer;
    fn connect(&self, stream: TcpStream) -> impl Future<Output = IoResult<Self::Stream>> + Send;
}

struct WebSockets<W> {
    wire: W,
    /// Ports that are taken, so that nobody else listens there, and where nobody listens.
    silent: Mutex<Vec<TcpSocket>>,
}

impl<W: Wire> WebSockets<W> {
    fn new(wire: W) -> Self {
        Self { wire, silent: Mutex::default() }
    }

    fn listener(&self) -> Result<WebSocketListener, FixtureError> {
        let options = ListenOptions::default().with_judge(|knock| match knock.bearer() {
            Some(TOKEN) => Verdict::Welcome,
            _ => Verdict::Unauthorized,
        });
        Ok(WebSocketListener::bind(([127, 0, 0, 1], 0).into(), self.wire.listens(options))?)
    }

    fn dialer(&self, url: &str) -> Result<WebSocketDialer, FixtureError> {
        Ok(self.wire.dials(WebSocketDialer::new(url)?.with_bearer(TOKEN)?))
    }
}

#[async_trait]
impl<W: Wire> Fixture for WebSockets<W> {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        let listener = self.listener()?;
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
        let listener = self.listener()?;
        let to = authority(listener.address()).to_owned();
        let wire = TcpListener::bind("127.0.0.1:0").await?;
        let dialer = self.dialer(&format!("{}://{}/", W::SCHEME, wire.local_addr()?))?;
        let task = tokio::spawn(relay(wire, to));
        Ok(Some((Endpoint::new(listener, dialer), Cut::new(move || task.abort()))))
    }

    async fn stranger(&self, address: &str, manner: Manner) -> Result<Option<Stranger>, FixtureError> {
        let mut stream = TcpStream::connect(authority(address)).await?;
        match manner {
            Manner::Leaves => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await?;
                return Ok(Some(Stranger::new(())));
            }
            Manner::Babbles => stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").await?,
            Manner::Stalls => {}
            Manner::BreaksRules => {
                let request = ClientRequestBuilder::new(address.parse()?)
                    .with_sub_protocol(SUBPROTOCOL)
                    .with_header("Authorization", format!("Bearer {TOKEN}"));
                let (mut socket, _) = client_async(request, self.wire.connect(stream).await?).await?;
                socket.get_mut().write_all(&TOO_LARGE).await?;
                socket.get_mut().flush().await?;
                return Ok(Some(Stranger::new(socket)));
            }
        }
        Ok(Some(Stranger::new(stream)))
    }

    /// Some hundred thousand empty frames fit into the buffers of the kernel, and a case fills them.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned()]
    }
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

mod ws {
    use super::*;

    struct Plain;

    impl Wire for Plain {
        const SCHEME: &str = "ws";
        type Stream = TcpStream;

        fn listens(&self, options: ListenOptions) -> ListenOptions {
            options
        }

        fn dials(&self, dialer: WebSocketDialer) -> WebSocketDialer {
            dialer
        }

        async fn connect(&self, stream: TcpStream) -> IoResult<TcpStream> {
            Ok(stream)
        }
    }

    opor_transport_conformance::suite!(WebSockets::new(Plain));
}

#[cfg(feature = "tls")]
mod wss {
    use opor_transport_websocket::rustls::pki_types::ServerName;
    use opor_transport_websocket::rustls::{ClientConfig, ServerConfig};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;

    struct Tls {
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
    }

    impl Tls {
        fn new() -> Self {
            let (server, client) = certificate::for_this_machine();
            Self { server, client }
        }
    }

    impl Wire for Tls {
        const SCHEME: &str = "wss";
        type Stream = TlsStream<TcpStream>;

        fn listens(&self, options: ListenOptions) -> ListenOptions {
            options.with_tls(self.server.clone())
        }

        fn dials(&self, dialer: WebSocketDialer) -> WebSocketDialer {
            dialer.with_tls(self.client.clone())
        }

        async fn connect(&self, stream: TcpStream) -> IoResult<TlsStream<TcpStream>> {
            let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
            TlsConnector::from(self.client.clone()).connect(name, stream).await
        }
    }

    opor_transport_conformance::suite!(WebSockets::new(Tls::new()));
}
