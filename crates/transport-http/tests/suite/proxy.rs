//! A proxy that does what proxies do, and counts it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opor_transport_traits::Bytes;
use tokio::net::TcpStream;

use crate::Fault;
use crate::web::{Body, Web, streamed, whole};

/// What a proxy does to what goes through it, and how often it did so.
#[derive(Debug, Default)]
pub(crate) struct Manners {
    /// Every so many answers with messages, one is cut in its middle. 0 is never.
    pub(crate) cuts_every: usize,
    /// Every so many requests, one is passed on, and its answer is thrown away with the connection.
    pub(crate) swallows_every: usize,
    /// Every so many requests, one is passed on twice, one after the other.
    pub(crate) repeats_every: usize,
    /// Streams of events are kept until they end.
    pub(crate) buffers_events: bool,
    /// Streams of events begin, and nothing of them comes.
    pub(crate) starves_events: bool,
    /// Streams of events end after so many bytes. 0 is never.
    pub(crate) events_end_after: usize,
    pub(crate) requests: AtomicUsize,
    pub(crate) cut: AtomicUsize,
    pub(crate) swallowed: AtomicUsize,
    pub(crate) repeated: AtomicUsize,
    pub(crate) event_streams: AtomicUsize,
    pub(crate) polls: AtomicUsize,
    /// Bytes of bodies, upwards and downwards.
    pub(crate) carried: [AtomicUsize; 2],
}

fn count(counter: &AtomicUsize) -> usize {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

pub(crate) fn read(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

/// A proxy before a server.
pub(crate) async fn proxy(to: &str, manners: Manners) -> (Web, Arc<Manners>) {
    let manners = Arc::new(manners);
    let to: Arc<str> = to.split('/').nth(2).expect("an address").into();
    let kept = manners.clone();
    let web = Web::serve(move |request| pass(request, to.clone(), kept.clone())).await;
    (web, manners)
}

async fn pass(
    request: Request<Incoming>,
    to: Arc<str>,
    manners: Arc<Manners>,
) -> Result<Response<Body>, Fault> {
    let number = count(&manners.requests);
    let happens = |every: usize| every > 0 && number.is_multiple_of(every);
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    manners.carried[0].fetch_add(body.len(), Ordering::Relaxed);
    let wants_events = head.headers.get("accept").is_some_and(|accept| accept == "text/event-stream");
    let mut asked = 0;
    if head.method == Method::GET {
        count(if wants_events { &manners.event_streams } else { &manners.polls });
        asked = read(&manners.event_streams) + read(&manners.polls);
    }
    let mut answer = ask(&to, Request::from_parts(head.clone(), body.clone())).await?;
    // The open is not repeated by anybody: the link it makes would only wait for its end.
    if happens(manners.repeats_every) && head.headers.contains_key("opor-link") {
        if !wants_events {
            answer.into_body().collect().await?;
        }
        answer = ask(&to, Request::from_parts(head.clone(), body)).await?;
        count(&manners.repeated);
    }
    if happens(manners.swallows_every) && head.headers.contains_key("opor-link") {
        count(&manners.swallowed);
        return Err("swallowed".into());
    }
    let (answer_head, answer_body) = answer.into_parts();
    if wants_events && manners.buffers_events {
        let collected = answer_body.collect().await?.to_bytes();
        return Ok(Response::from_parts(answer_head, whole(collected)));
    }
    let kept = manners.clone();
    let pieces = BodyStream::new(answer_body).filter_map(move |frame| {
        let data = frame.map_err(Fault::from).map(|frame| frame.into_data().ok()).transpose();
        if let Some(Ok(data)) = &data {
            kept.carried[1].fetch_add(data.len(), Ordering::Relaxed);
        }
        std::future::ready(data)
    });
    let cuts = manners.cuts_every > 0 && asked > 0 && asked.is_multiple_of(manners.cuts_every);
    let body = if cuts && answer_head.status == StatusCode::OK {
        count(&manners.cut);
        // An event of the usual size gets through, and the next one does not.
        streamed(cut_after(pieces.boxed(), 100_000 + number * 37 % 3000))
    } else if wants_events && manners.starves_events {
        streamed(pieces.filter(|_| std::future::ready(false)).boxed())
    } else if wants_events && manners.events_end_after > 0 {
        streamed(end_after(pieces.boxed(), manners.events_end_after))
    } else {
        streamed(pieces.boxed())
    };
    Ok(Response::from_parts(answer_head, body))
}

async fn ask(to: &str, request: Request<Bytes>) -> Result<Response<Incoming>, Fault> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(requests
        .send_request(request.map(|body| Full::new(body).map_err(|never: Infallible| match never {})))
        .await?)
}

/// The beginning of a stream, then a broken connection.
fn cut_after(
    pieces: BoxStream<'static, Result<Bytes, Fault>>,
    len: usize,
) -> BoxStream<'static, Result<Bytes, Fault>> {
    let cut = async {
        // What is there is written before that.
        tokio::task::yield_now().await;
        Err("cut".into())
    };
    end_after(pieces, len).chain(stream::once(cut)).boxed()
}

/// The beginning of a stream.
fn end_after(
    pieces: BoxStream<'static, Result<Bytes, Fault>>,
    len: usize,
) -> BoxStream<'static, Result<Bytes, Fault>> {
    let shortened = stream::unfold((pieces, len), |(mut pieces, left)| async move {
        // It ends when it is used up, not when it is next asked for a piece that may not come.
        let piece = if left > 0 { pieces.next().await? } else { return None };
        let piece = piece.map(|piece| piece.slice(..piece.len().min(left)));
        let left = left - piece.as_ref().map_or(left, Bytes::len);
        Some((piece, (pieces, left)))
    });
    shortened.boxed()
}
