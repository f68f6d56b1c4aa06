//! Dialling and listening.

use std::collections::BTreeSet;
use std::pin::pin;

use opor_transport_traits::{CloseCode, CloseReason, Dialer, Received, TransportErrorKind as Kind};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::breach::{Outcome, breach, with_causes};
use crate::expect;
use crate::fixture::{Endpoint, Manner};
use crate::flood::QUIET;
use crate::payload::{number_of, numbered};
use crate::scene::{End, Scene, Way, exchange, give_up_after};

const LEN: usize = 32;

pub(crate) async fn nobody_is_unreachable(scene: Scene) -> Outcome {
    let dialer = scene.nobody().await?;
    // A dialer can be used again after it failed.
    for _ in 0..3 {
        unreachable(&*dialer).await?;
    }
    Ok(())
}

async fn unreachable(dialer: &dyn Dialer) -> Outcome {
    let error = expect::failed("a dial where nobody listens", dialer.dial().await)?;
    expect::of_kind(&error, Kind::Unreachable)?;
    if !error.worth_retry() {
        breach!("an error of kind Unreachable is not worth a retry: {error}");
    }
    Ok(())
}

pub(crate) async fn a_dial_is_an_accept(scene: Scene) -> Outcome {
    const DIALS: u32 = 8;
    let mut endpoint = scene.endpoint().await?;
    scene.step(format!("dialling {DIALS} times at once"));
    let mut tasks = JoinSet::new();
    for number in 0..DIALS {
        let dialer = endpoint.dialer.clone();
        tasks.spawn(async move {
            let mut end = End::from(dialer.dial().await?);
            end.sender.send(numbered(number, LEN)).await?;
            expect::numbers(&mut *end.receiver, number..number + 1).await?;
            Outcome::Ok(end)
        });
    }
    let mut seen = BTreeSet::new();
    for _ in 0..DIALS {
        let mut end = End::from(endpoint.listener.accept().await?);
        let frame = expect::frame(&mut *end.receiver).await?;
        let number = number_of(&frame)?;
        if !seen.insert(number) {
            breach!("two accepted links lead to the same dial");
        }
        end.sender.send(frame).await?;
        tasks.spawn(async move { Ok(end) });
    }
    // The ends stay until all are through.
    let mut ends = Vec::new();
    while let Some(end) = tasks.join_next().await {
        ends.push(end??);
    }
    if timeout(QUIET, endpoint.listener.accept()).await.is_ok() {
        breach!("accept returned a link that nobody dialled");
    }
    Ok(())
}

pub(crate) async fn listener_survives_a_failed_handshake(scene: Scene) -> Outcome {
    for manner in [Manner::Leaves, Manner::Babbles] {
        let mut endpoint = scene.endpoint().await?;
        let mut strangers = Vec::new();
        for _ in 0..3 {
            strangers.push(scene.stranger(&endpoint, manner).await?);
        }
        if strangers.iter().any(Option::is_none) {
            // Without a handshake, the nearest to a failed one is a dial that is given up.
            for _ in 0..3 {
                give_up_after(1, endpoint.dialer.dial()).await;
            }
            let (mut dialled, mut accepted) = meet(&mut endpoint).await?;
            return exchange(&mut dialled, &mut accepted).await;
        }
        let (mut dialled, mut accepted) = scene.connect(&mut endpoint, Way::FromDialer).await?;
        scene.step(format!("using a link that was dialled after handshakes failed: {manner:?}"));
        exchange(&mut dialled, &mut accepted).await?;
        if timeout(QUIET, endpoint.listener.accept()).await.is_ok() {
            breach!("accept returned a link for a handshake that failed: {manner:?}");
        }
    }
    Ok(())
}

pub(crate) async fn a_stalled_handshake_stops_no_other(scene: Scene) -> Outcome {
    let mut endpoint = scene.endpoint().await?;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(scene.stranger(&endpoint, Manner::Stalls).await?);
    }
    // Without a handshake, the nearest to a stalled one is a dial that nobody drives on.
    let dialer = endpoint.dialer.clone();
    let mut stalled = pin!(dialer.dial());
    if strangers.iter().any(Option::is_none) {
        give_up_after(1, stalled.as_mut()).await;
    }
    scene.step("dialling where others have stalled in the handshake");
    let (mut dialled, mut accepted) = meet(&mut endpoint).await?;
    exchange(&mut dialled, &mut accepted).await
}

pub(crate) async fn a_rule_breaker_ends_its_own_link(scene: Scene) -> Outcome {
    let mut endpoint = scene.endpoint().await?;
    let (mut one, mut other) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    // Without wrong bytes there is nobody to break rules, and only the rest can be seen.
    if let Some(_stranger) = scene.stranger(&endpoint, Manner::BreaksRules).await? {
        scene.step("receiving from a peer that breaks the rules");
        let mut end = End::from(endpoint.listener.accept().await?);
        match end.receiver.recv().await {
            Err(error) => expect::of_kind(&error, Kind::Incompatible)?,
            Ok(Received::Frame(frame)) => {
                breach!("a frame of {} bytes was given that breaks the rules", frame.len())
            }
            Ok(Received::Closed(reason)) => {
                breach!("recv gave Closed, {reason}, where the peer broke the rules")
            }
        }
    }
    scene.step("using a link where the peer of another broke the rules");
    exchange(&mut one, &mut other).await?;
    let (mut one, mut other) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    exchange(&mut one, &mut other).await
}

/// A link of the endpoint where `accept` may return others before: for dials that were given up.
pub(crate) async fn meet(endpoint: &mut Endpoint) -> Outcome<(End, End)> {
    let dialing = async {
        let mut end = End::from(endpoint.dialer.dial().await?);
        end.sender.send(numbered(0, LEN)).await?;
        Ok(end)
    };
    let accepting = async {
        let mut greetings = JoinSet::new();
        loop {
            tokio::select! {
                link = endpoint.listener.accept() => {
                    let mut end = End::from(link?);
                    greetings.spawn(async move { (expect::number(&mut *end.receiver).await, end) });
                }
                // Links of dials that were given up bring an error, or nothing.
                Some(greeting) = greetings.join_next() => {
                    if let (Ok(_), end) = greeting? {
                        return Outcome::Ok(end);
                    }
                }
            }
        }
    };
    tokio::try_join!(dialing, accepting)
}

pub(crate) async fn a_dropped_listener_stops_listening(scene: Scene) -> Outcome {
    let Endpoint { listener, dialer } = scene.endpoint().await?;
    let waiting = dialer.clone();
    let waiting = tokio::spawn(async move {
        let Ok(link) = waiting.dial().await else { return Ok(0) };
        expect::lost(&mut *End::from(link).receiver).await
    });
    tokio::task::yield_now().await;
    drop(listener);
    scene.step("dialling where a listener has been dropped");
    unreachable(&*dialer).await?;
    scene.step("waiting for a dial that was under way when the listener was dropped");
    waiting.await??;
    unreachable(&*dialer).await
}

pub(crate) async fn links_outlive_their_endpoints(scene: Scene) -> Outcome {
    let mut pair = scene.pair(Way::FromDialer).await?;
    drop(pair.endpoint);
    scene.step("using a link whose listener and dialer have been dropped");
    for _ in 0..5 {
        exchange(&mut pair.from, &mut pair.to).await?;
    }
    let reason = CloseReason::new(CloseCode::DONE);
    tokio::try_join!(
        async { Ok(pair.from.sender.close(reason.clone()).await?) },
        expect::closed(&mut *pair.to.receiver, &reason)
    )?;
    Ok(())
}

pub(crate) async fn links_end_alone(scene: Scene) -> Outcome {
    let mut endpoint = scene.endpoint().await?;
    let (mut one, mut other) = scene.connect(&mut endpoint, Way::FromDialer).await?;

    let (mut from, mut to) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    let reason = CloseReason::new(CloseCode::DONE);
    tokio::try_join!(
        async { Ok(from.sender.close(reason.clone()).await?) },
        expect::closed(&mut *to.receiver, &reason)
    )?;
    scene.step("using a link where another was closed");
    exchange(&mut one, &mut other).await?;

    let (from, mut to) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    drop(from);
    expect::lost(&mut *to.receiver).await?;
    let (mut from, to) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    drop(to);
    expect::lost(&mut *from.receiver).await?;
    scene.step("using a link where others were lost");
    exchange(&mut one, &mut other).await?;
    scene.step("opening a link where others were lost");
    let (mut from, mut to) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    exchange(&mut from, &mut to).await
}

pub(crate) async fn descriptions_are_public(scene: Scene) -> Outcome {
    let mut texts = Vec::new();
    let nobody = scene.nobody().await?;
    let error = expect::failed("a dial where nobody listens", nobody.dial().await)?;
    texts.push(("an error", with_causes(&error)));
    texts.push(("an error's Debug", format!("{error:?}")));

    let mut endpoint = scene.endpoint().await?;
    texts.push(("an address", endpoint.listener.address().to_owned()));
    texts.push(("a target", endpoint.dialer.target().to_string()));
    texts.push(("a dialer's Debug", format!("{:?}", endpoint.dialer)));
    let (dialled, accepted) = scene.connect(&mut endpoint, Way::FromDialer).await?;
    texts.push(("a listener's Debug", format!("{:?}", endpoint.listener)));
    for end in [dialled, accepted] {
        texts.push(("a peer", end.peer.to_string()));
        texts.push(("a sender's Debug", format!("{:?}", end.sender)));
        texts.push(("a receiver's Debug", format!("{:?}", end.receiver)));
    }
    let secrets = scene.fixture().secrets();
    for (what, text) in texts {
        if text.is_empty() || text == "unknown" {
            breach!("{what} says nothing");
        }
        if secrets.iter().any(|secret| text.contains(secret)) {
            breach!("{what} shows a secret");
        }
    }
    Ok(())
}
