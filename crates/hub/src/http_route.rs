//! `/http-sync/{room}`: sync sessions over plain HTTP requests, for networks that let no WebSocket through.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use opor_transport_http::{Caller, HttpServer, ServerOptions};
use opor_transport_traits::Link;
use tokio::time::{sleep, timeout};

use crate::access::{Access, bearer_hash, judge};
use crate::connection::Connection;
use crate::hub::Hub;
use crate::places::network;
use crate::seat::{Knock, Standing, hand_over};
use crate::{HubError, HubOptions, RoomName};

/// A busy link has three connections, and the server 768: a quarter of them stays free for others.
const LINKS_MAX: usize = 192;

/// Links of one address, for each session that it may have: one that lives, and one that still says goodbye.
const LINKS_PER_SESSION: usize = 2;

/// For so long a client that has opened a link may take to ask for its messages.
const CLAIM: Duration = Duration::from_secs(10);

/// The transport has given an unclaimed link up by then.
const CLAIM_MARGIN: Duration = Duration::from_secs(1);

/// So long the clients of a hub that closes have to fetch their goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// The links over HTTP.
#[derive(Clone)]
pub(crate) struct HttpLinks {
    server: HttpServer,
    /// What is kept for links that are open and not yet claimed, by their ids.
    reserved: Arc<Mutex<BTreeMap<Box<str>, Reserved>>>,
}

#[derive(Debug)]
struct Reserved {
    knock: Knock,
    standing: Standing,
}

impl fmt::Debug for HttpLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The ids are secrets of the clients.
        f.debug_struct("HttpLinks").field("server", &self.server).finish_non_exhaustive()
    }
}

impl HttpLinks {
    pub(crate) fn new(options: &HubOptions) -> Self {
        let per_peer = options.sessions_per_peer_max.saturating_mul(LINKS_PER_SESSION);
        let options = ServerOptions::default()
            .with_links_max(LINKS_MAX)
            .with_links_per_peer_max(per_peer)
            .with_claim(CLAIM);
        Self { server: HttpServer::new(options), reserved: Arc::default() }
    }

    /// Waits until the goodbyes have been fetched, and gives up the links of who does not.
    pub(crate) async fn farewell(&self) {
        self.lock().clear();
        let _left_without = timeout(FAREWELL, self.server.idle()).await;
        self.server.lose_all();
    }

    /// Keeps a place for a link that has been opened, as long as it may be claimed.
    fn reserve(&self, id: &str, reserved: Reserved) {
        self.lock().insert(id.into(), reserved);
        let (id, reserved) = (id.to_owned(), Arc::downgrade(&self.reserved));
        tokio::spawn(async move {
            sleep(CLAIM + CLAIM_MARGIN).await;
            if let Some(reserved) = reserved.upgrade() {
                lock(&reserved).remove(&*id);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Reserved>> {
        lock(&self.reserved)
    }
}

/// Answers one request of a link, or opens one. The rules are those of `/sync/{room}`, for each request.
pub(crate) async fn answer(
    State(hub): State<Hub>,
    room: RoomName,
    request: Request,
) -> Result<Response<Body>, HubError> {
    let access = judge(&hub.options().tokens, request.headers())?;
    let knock = Knock::new("http", request.extensions().get::<Connection>());
    let caller = caller(&hub, &room, &knock, request.headers());
    let links = hub.http_links();
    if HttpServer::is_open(&request) {
        return open(&hub, &room, access, knock, &caller, request).await;
    }
    let id: Option<Box<str>> = HttpServer::link_id(request.headers()).map(Into::into);
    let left = request.method() == Method::DELETE;
    let answered = links.server.answer(&caller, request).await;
    // Only the owner of a link gets this far with its id.
    let owned = answered.link.is_some() || (left && answered.response.status() == StatusCode::NO_CONTENT);
    let reserved = id.filter(|_| owned).and_then(|id| links.lock().remove(&id));
    if let Some(link) = answered.link {
        // A place that has been given up meanwhile: the link goes with it, and the client dials again.
        let Some(reserved) = reserved else { return Ok(HttpServer::nobody_listens().map(Body::new)) };
        tokio::spawn(welcome(hub.clone(), room, link, reserved));
    }
    Ok(answered.response.map(Body::new))
}

async fn open(
    hub: &Hub,
    room: &RoomName,
    access: Access,
    knock: Knock,
    caller: &Caller,
    request: Request,
) -> Result<Response<Body>, HubError> {
    let standing = hub.admit(room, access, &knock).await?;
    let links = hub.http_links();
    let answered = links.server.answer(caller, request).await;
    if answered.response.status() == StatusCode::CREATED
        && let Some(id) = HttpServer::link_id(answered.response.headers())
    {
        links.reserve(id, Reserved { knock, standing });
    }
    Ok(answered.response.map(Body::new))
}

/// Who asks: links belong to a room and a token, and where no token is shown, to an address. They are counted by address,
/// because many may share a token.
fn caller(hub: &Hub, room: &RoomName, knock: &Knock, headers: &HeaderMap) -> Caller {
    let from = knock.from.map(|from| network(from).to_string());
    let token = if hub.options().tokens.is_open() { None } else { bearer_hash(headers) };
    let who = match token {
        Some(token) => format!("token {}", token.to_hex()),
        None => format!("address {}", from.as_deref().unwrap_or("unknown")),
    };
    Caller::new(room.as_str(), who).counted_by(from.map(Into::into)).described(knock.peer.clone())
}

async fn welcome(hub: Hub, room: RoomName, link: Link, reserved: Reserved) {
    hand_over(&hub, &room, link, &reserved.knock, reserved.standing).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics with the lock held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
