//! The NATS transport keeps the contract, at a real broker.

use std::io::Result as IoResult;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use opor_nats_server::{NatsServer, Options};
use opor_transport_conformance::{Cut, Endpoint, Fixture, FixtureError, Manner, Stranger};
use opor_transport_nats::async_nats::{Client, ConnectOptions};
use opor_transport_nats::{NatsDialer, NatsListener, NatsOptions};
use opor_transport_traits::{Dialer, Listener as _, async_trait};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const TOKEN: &str = "a-token-that-nobody-may-see";

/// The head of a hello, and the message that opens a link, as `docs/nats.md` has them.
const HELLO: [u8; 2] = [1, 1];
const OPEN: &[u8] = b"\x03";

/// The only piece of a frame: number 1 where 0 is due would be a loss, so it says something that is no message at all.
const WRONG: &[u8] = b"\x2a";

struct Nats {
    server: NatsServer,
}

impl Nats {
    fn new() -> Self {
        let server = Options::new().arg("--auth").arg(TOKEN).start();
        Self { server: server.expect("a nats-server") }
    }

    fn options() -> NatsOptions {
        // Short, so that tests do not wait for it.
        NatsOptions::new().with_token(TOKEN).with_keepalive(Duration::from_millis(100))
    }

    async fn listener(&self) -> Result<NatsListener, FixtureError> {
        // Another name for each listener; it needs escaping.
        let mut name = [0; 4];
        getrandom::fill(&mut name)?;
        let address = format!("{}/the.garden {name:?}", self.server.url());
        Ok(NatsListener::listen(&address, Self::options()).await?)
    }

    async fn client(&self) -> Result<Client, FixtureError> {
        let options = ConnectOptions::new().token(TOKEN.to_owned());
        Ok(options.connect(self.server.url()).await?)
    }
}

fn subject(address: &str) -> String {
    let name = address.splitn(4, '/').nth(3).expect("an address of a listener");
    format!("opor.dial.{}", opor_transport_nats::token(name))
}

#[async_trait]
impl Fixture for Nats {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        let listener = self.listener().await?;
        let dialer = NatsDialer::new(listener.address(), Self::options())?;
        Ok(Endpoint::new(listener, dialer))
    }

    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
        Ok(Arc::new(NatsDialer::new(&format!("{}/nobody", self.server.url()), Self::options())?))
    }

    async fn cuttable(&self) -> Result<Option<(Endpoint, Cut)>, FixtureError> {
        let listener = self.listener().await?;
        let wire = TcpListener::bind("127.0.0.1:0").await?;
        let address =
            listener.address().replace(&self.server.url(), &format!("nats://{}", wire.local_addr()?));
        let dialer = NatsDialer::new(&address, Self::options())?;
        let task = tokio::spawn(relay(wire, self.server.port()));
        Ok(Some((Endpoint::new(listener, dialer), Cut::new(move || task.abort()))))
    }

    async fn stranger(&self, address: &str, manner: Manner) -> Result<Option<Stranger>, FixtureError> {
        let client = self.client().await?;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await?;
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let hello = match manner {
            Manner::Babbles => b"GET / HTTP/1.1\r\n".to_vec(),
            _ => [&HELLO[..], &id].concat(),
        };
        client.publish_with_reply(subject(address), inbox.clone(), hello.into()).await?;
        client.flush().await?;
        match manner {
            Manner::Leaves => {
                let _welcome = answers.next().await.ok_or("no welcome")?;
                return Ok(Some(Stranger::new(())));
            }
            Manner::Babbles | Manner::Stalls => {}
            Manner::BreaksRules => {
                let welcome = answers.next().await.ok_or("no welcome")?;
                let theirs = welcome.reply.ok_or("a welcome without a subject")?;
                for message in [OPEN, WRONG] {
                    client.publish_with_reply(theirs.clone(), inbox.clone(), message.into()).await?;
                }
                client.flush().await?;
            }
        }
        Ok(Some(Stranger::new((client, answers))))
    }

    /// Each case waits for a server to start, of which several may start at once.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned()]
    }
}

/// A wire that can be cut: what comes to one socket goes on to another. Aborted, it drops all it holds.
async fn relay(from: TcpListener, port: u16) -> IoResult<()> {
    let mut wires = JoinSet::new();
    loop {
        let (mut near, _) = from.accept().await?;
        let mut far = TcpStream::connect(("127.0.0.1", port)).await?;
        wires.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

opor_transport_conformance::suite!(Nats::new());
