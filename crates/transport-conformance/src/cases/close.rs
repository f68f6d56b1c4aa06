//! Closing: an orderly end, in both directions.

use opor_transport_traits::{CloseCode, CloseReason, TransportErrorKind as Kind};
use tokio::time::timeout;

use crate::breach::{Outcome, breach};
use crate::expect;
use crate::flood::{Flood, Flooded, QUIET};
use crate::payload::numbered;
use crate::scene::{Scene, Way};

const LEN: usize = 64;
const FRAMES: u32 = 50;

pub(crate) async fn close_delivers_what_was_sent(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        for len in [LEN, 60_000] {
            // The close comes when everything is as far on its way as it gets, and when it is not.
            for at_once in [false, true] {
                let mut pair = scene.pair(way).await?;
                scene.step(format!("closing after {FRAMES} frames of {len} bytes, {way}"));
                let reason = CloseReason::explained(CloseCode::DONE, "all said");
                let mut flood = Flood::start(pair.from.sender, len, FRAMES);
                if !at_once {
                    flood.until_quiet().await;
                }
                let closing = flood.then_close(reason.clone());
                let (flooded, (given, given_reason)) =
                    tokio::try_join!(closing, expect::all(&mut *pair.to.receiver))?;
                flooded.outcome?;
                if given != FRAMES {
                    breach!("{given} frames were given of {FRAMES} that were sent before the close");
                }
                expect::same_reason(&given_reason, &reason)?;
            }
        }
    }
    Ok(())
}

pub(crate) async fn close_gives_its_reason(scene: Scene) -> Outcome {
    let longest = "x".repeat(CloseReason::TEXT_MAX);
    for reason in [
        CloseReason::new(CloseCode::DONE),
        CloseReason::explained(CloseCode::GOING_AWAY, "the hub restarts"),
        CloseReason::explained(CloseCode::REFUSED, "room \"grüße\" is closed 🌱\nsecond line"),
        CloseReason::explained(CloseCode::VIOLATION, "a"),
        CloseReason::explained(CloseCode::INTERNAL, "disk is full"),
        CloseReason::new(CloseCode::RESTART),
        CloseReason::explained(CloseCode::OVERLOADED, longest),
        CloseReason::new(CloseCode::private(*CloseCode::PRIVATE.start())),
        CloseReason::explained(CloseCode::private(*CloseCode::PRIVATE.end()), "the protocol's own"),
    ] {
        for way in Way::BOTH {
            let mut pair = scene.pair(way).await?;
            scene.step(format!("closing with {reason:?}, {way}"));
            tokio::try_join!(
                async { Ok(pair.from.sender.close(reason.clone()).await?) },
                expect::closed(&mut *pair.to.receiver, &reason)
            )?;
        }
    }
    Ok(())
}

pub(crate) async fn close_is_answered(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::explained(CloseCode::GOING_AWAY, "enough");
        let mut flood = Flood::start(pair.to.sender, LEN, FRAMES);
        let sent = flood.until_quiet().await;
        scene.step(format!("closing {way}, where {sent} frames have been sent against it"));
        let closing = async { Ok(pair.from.sender.close(reason.clone()).await?) };
        let ((), (given, given_reason), ()) = tokio::try_join!(
            closing,
            expect::all(&mut *pair.from.receiver),
            expect::closed(&mut *pair.to.receiver, &reason)
        )?;
        expect::same_reason(&given_reason, &reason)?;
        delivered_despite(&flood.finish().await?, given)?;
    }
    Ok(())
}

/// That everything sent was given, where the link may have been closed under the sends.
fn delivered_despite(flooded: &Flooded, given: u32) -> Outcome {
    if let Err(error) = &flooded.outcome {
        expect::of_kind(error, Kind::Closed)?;
    }
    if given < flooded.sent {
        breach!(
            "{given} frames were given of {} that were sent before the end that sent them was closed",
            flooded.sent
        );
    }
    Ok(())
}

pub(crate) async fn close_ends_both_directions(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::explained(CloseCode::private(4100), "both ways");
        let closing = async {
            pair.from.sender.close(reason.clone()).await?;
            let result = pair.from.sender.send(numbered(0, LEN)).await;
            expect::failed_closed("send after close", result, &reason)
        };
        tokio::try_join!(closing, expect::closed(&mut *pair.to.receiver, &reason))?;
        let result = pair.to.sender.send(numbered(0, LEN)).await;
        expect::failed_closed("send after the peer's close was given", result, &reason)?;
        // Nothing of what was refused has been sent.
        expect::closed(&mut *pair.from.receiver, &reason).await?;
        close_ends_a_waiting_send(&scene, way, &reason).await?;
    }
    Ok(())
}

async fn close_ends_a_waiting_send(scene: &Scene, way: Way, reason: &CloseReason) -> Outcome {
    let mut pair = scene.pair(way).await?;
    let limits = pair.to.limits;
    let frames = (limits.in_flight_max() / limits.frame_max()) as u32 + 2;
    let mut flood = Flood::start(pair.to.sender, limits.frame_max(), frames);
    let sent = flood.until_quiet().await;
    scene.step(format!("closing {way}, where a send against it waits after {sent} frames"));
    tokio::try_join!(
        async { Ok(pair.from.sender.close(reason.clone()).await?) },
        expect::closed(&mut *pair.to.receiver, reason)
    )?;
    let flooded = flood.finish().await?;
    expect::failed_closed("a send that waited when Closed was given", flooded.outcome, reason)?;
    scene.step(format!("receiving what was sent before the close {way} was given"));
    let (given, given_reason) = expect::all(&mut *pair.from.receiver).await?;
    if given < flooded.sent {
        breach!("{given} frames were given of {} that were sent before Closed was given", flooded.sent);
    }
    expect::same_reason(&given_reason, reason)
}

pub(crate) async fn closed_stays_closed(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::explained(CloseCode::DONE, "the first reason");
        let closing = async {
            pair.from.sender.send(numbered(0, LEN)).await?;
            Ok(pair.from.sender.close(reason.clone()).await?)
        };
        let ((), (given, given_reason)) = tokio::try_join!(closing, expect::all(&mut *pair.to.receiver))?;
        if given != 1 {
            breach!("{given} frames were given where 1 was sent");
        }
        expect::same_reason(&given_reason, &reason)?;
        scene.step(format!("receiving and closing at ends that are closed, {way}"));
        for _ in 0..3 {
            for end in [&mut pair.from, &mut pair.to] {
                expect::closed(&mut *end.receiver, &reason).await?;
                end.sender.close(CloseReason::explained(CloseCode::VIOLATION, "another reason")).await?;
                expect::failed_closed("send after close", end.sender.send(numbered(9, LEN)).await, &reason)?;
            }
        }
    }
    Ok(())
}

pub(crate) async fn crossing_closes_agree(scene: Scene) -> Outcome {
    let mut pair = scene.pair(Way::FromDialer).await?;
    let reasons = ["of the end that dialled", "of the end that accepted"]
        .map(|text| CloseReason::explained(CloseCode::DONE, text));
    let mut floods = [pair.from.sender, pair.to.sender].map(|sender| Flood::start(sender, LEN, FRAMES));
    for flood in &mut floods {
        flood.until_quiet().await;
    }
    scene.step("closing at both ends at once");
    let [one, other] = floods;
    let (one, other, given_to_one, given_to_other) = tokio::try_join!(
        one.then_close(reasons[0].clone()),
        other.then_close(reasons[1].clone()),
        expect::all(&mut *pair.from.receiver),
        expect::all(&mut *pair.to.receiver)
    )?;
    delivered_despite(&one, given_to_other.0)?;
    delivered_despite(&other, given_to_one.0)?;
    let given = [given_to_one.1, given_to_other.1];
    let [own, others] = &reasons;
    let crossed = given == [others.clone(), own.clone()];
    let one_came_first = given[0] == given[1] && reasons.contains(&given[0]);
    if !crossed && !one_came_first {
        breach!("the ends closed with {own:?} and {others:?}, and were given {given:?}");
    }
    Ok(())
}

pub(crate) async fn close_survives_drop(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::explained(CloseCode::GOING_AWAY, "gone");
        let mut flood = Flood::start(pair.from.sender, LEN, FRAMES);
        flood.until_quiet().await;
        let (close_reason, receiver) = (reason.clone(), pair.from.receiver);
        let mut leaving = tokio::spawn(async move {
            let Flooded { mut sender, outcome, .. } = flood.finish().await?;
            outcome?;
            sender.close(close_reason).await?;
            drop((sender, receiver));
            Outcome::Ok(())
        });
        // Let it be gone, unless its close waits for the peer to receive.
        let gone = timeout(QUIET, &mut leaving).await;
        scene.step(format!("receiving what an end sent that was closed and dropped, {way}"));
        let (given, given_reason) = expect::all(&mut *pair.to.receiver).await?;
        if given != FRAMES {
            breach!("{given} frames were given of {FRAMES} that were sent before the close");
        }
        expect::same_reason(&given_reason, &reason)?;
        match gone {
            Ok(result) => result??,
            Err(_) => leaving.await??,
        }
    }
    Ok(())
}
