//! Links through proxies that cut, swallow, repeat and hold up.

use std::time::Duration;

use opor_transport_http::{Downstream, HttpDialer, HttpListener, ListenOptions, ServerOptions};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Dialer as _, Link, Listener as _, Received, Receiver, Sender,
    TransportErrorKind as Kind,
};
use tokio::time::timeout;

use crate::proxy::{Manners, proxy, read};
use crate::{Fault, Outcome, WATCHDOG};

/// Never reached: an event stream that is held up is noticed by this, and the test waits for it.
const HELLO: Duration = Duration::from_millis(200);

fn listen(server: ServerOptions) -> HttpListener {
    let options = ListenOptions::default().with_server(server);
    HttpListener::bind(([127, 0, 0, 1], 0).into(), options).expect("a port")
}

/// Frames that differ in size and content, and cannot be compressed.
fn frame(number: u32) -> Bytes {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    number.to_le_bytes().into_iter().chain(noise.take((number as usize * 31) % 1800)).collect()
}

async fn send(sender: &mut dyn Sender, frames: u32) -> Outcome {
    for number in 0..frames {
        sender.send(frame(number)).await?;
    }
    Ok(())
}

async fn expect(receiver: &mut dyn Receiver, frames: u32) -> Outcome {
    for number in 0..frames {
        assert_eq!(receiver.recv().await?, Received::Frame(frame(number)), "frame {number}");
    }
    Ok(())
}

/// That a link carries frames both ways at once, each once and in order, and closes.
async fn carries(dialled: Link, accepted: Link, frames: u32) -> Outcome {
    let ((mut up, mut from_above), (mut down, mut from_below)) = (dialled.split(), accepted.split());
    let reason = CloseReason::explained(CloseCode::DONE, "all said");
    let carrying = async {
        tokio::try_join!(
            send(&mut *up, frames),
            send(&mut *down, frames),
            expect(&mut *from_above, frames),
            expect(&mut *from_below, frames)
        )?;
        up.close(reason.clone()).await?;
        assert_eq!(from_below.recv().await?, Received::Closed(reason.clone()));
        assert_eq!(from_above.recv().await?, Received::Closed(reason));
        Outcome::Ok(())
    };
    timeout(WATCHDOG, carrying).await?
}

/// A link through such a proxy; what has become of the proxy.
async fn through(
    manners: Manners,
    downstream: Downstream,
    frames: u32,
) -> Result<std::sync::Arc<Manners>, Fault> {
    let mut listener = listen(ServerOptions::default());
    let (web, manners) = proxy(listener.address(), manners).await;
    let dialer = HttpDialer::new(&web.url())?.with_downstream(downstream).with_hello_timeout(HELLO);
    // A dial may be what the proxy cuts; it is then dialled anew, as sessions do.
    let dialling = async {
        loop {
            match dialer.dial().await {
                Ok(link) => return link,
                Err(error) => assert!(error.worth_retry(), "{error}"),
            }
        }
    };
    let (dialled, accepted) = timeout(WATCHDOG, async { tokio::join!(dialling, listener.accept()) }).await?;
    carries(dialled, accepted?, frames).await?;
    Ok(manners)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clear_way_needs_one_stream() -> Outcome {
    let manners = through(Manners::default(), Downstream::Auto, 300).await?;
    assert_eq!((read(&manners.event_streams), read(&manners.polls)), (1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_cut_or_swallowed_lose_nothing() -> Outcome {
    for (downstream, cuts_every) in [(Downstream::Events, 1), (Downstream::LongPoll, 3)] {
        let manners = Manners { cuts_every, swallows_every: 5, ..Manners::default() };
        let manners = through(manners, downstream, 5000).await?;
        assert!(read(&manners.swallowed) > 1, "{downstream:?}: {manners:?}");
        assert!(read(&manners.cut) > 1, "{downstream:?}: {manners:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_repeated_are_taken_once() -> Outcome {
    for downstream in [Downstream::Events, Downstream::LongPoll] {
        let manners = Manners { repeats_every: 1, ..Manners::default() };
        let manners = through(manners, downstream, 2000).await?;
        assert!(read(&manners.repeated) > 3, "{downstream:?}: {manners:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_held_up_give_way_to_long_polls() -> Outcome {
    for (buffers_events, starves_events) in [(true, false), (false, true)] {
        let manners = Manners { buffers_events, starves_events, ..Manners::default() };
        let manners = through(manners, Downstream::Auto, 300).await?;
        assert_eq!(read(&manners.event_streams), 1);
        assert!(read(&manners.polls) > 1, "{manners:?}");
    }
    Ok(())
}

#[tokio::test]
async fn events_that_are_held_up_are_told_where_nothing_else_is_wanted() -> Outcome {
    let listener = listen(ServerOptions::default());
    let (web, manners) =
        proxy(listener.address(), Manners { buffers_events: true, ..Manners::default() }).await;
    let dialer = HttpDialer::new(&web.url())?.with_downstream(Downstream::Events).with_hello_timeout(HELLO);
    let error = dialer.dial().await.expect_err("no event gets through");
    assert_eq!(error.kind(), Kind::TimedOut);
    assert_eq!(read(&manners.polls), 0);
    Ok(())
}

/// The first event gets through, and then each stream is cut off: the link itself changes to long polls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_end_too_early_give_way_to_long_polls() -> Outcome {
    let hello = "event: hello\ndata\n\n".len();
    let manners = Manners { events_end_after: hello, ..Manners::default() };
    let manners = through(manners, Downstream::Auto, 300).await?;
    assert!(read(&manners.polls) > 1, "{manners:?}");
    assert!(read(&manners.event_streams) <= 4, "{manners:?}");
    Ok(())
}

/// Nothing is repeated for ever: a server that is gone is given up.
#[tokio::test]
async fn a_link_is_lost_when_the_way_stays_cut() -> Outcome {
    let mut listener = listen(ServerOptions::default().with_expiry(Duration::from_millis(400)));
    let (web, _) = proxy(listener.address(), Manners::default()).await;
    let dialer = HttpDialer::new(&web.url())?.with_retry_window(Duration::from_millis(200));
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
    drop(web);
    let ((mut up, mut from_above), (_down, mut from_below)) = (dialled.split(), accepted.split());
    let error = timeout(WATCHDOG, from_above.recv()).await?.expect_err("the way is cut");
    assert_eq!(error.kind(), Kind::Lost);
    assert_eq!(up.send(Bytes::new()).await.expect_err("the link is lost").kind(), Kind::Lost);
    let error = timeout(WATCHDOG, from_below.recv()).await?.expect_err("the way is cut");
    assert_eq!(error.kind(), Kind::Lost);
    assert_eq!(error.to_string(), "link is lost: http: no sign of life from the client in time");
    Ok(())
}
