//! Loss: a link that ends without a close.

use opor_transport_traits::{CloseCode, CloseReason, TransportErrorKind as Kind};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::breach::{Outcome, breach};
use crate::expect;
use crate::fixture::Cut;
use crate::flood::{Flood, QUIET};
use crate::payload::numbered;
use crate::scene::{End, Scene, Way, exchange};

const LEN: usize = 64;

pub(crate) async fn drop_is_a_loss_not_a_close(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        scene.step(format!("dropping an end after some frames, {way}"));
        let mut sender = pair.from.sender;
        let receiver = pair.from.receiver;
        let leaving = async {
            for number in 0..3 {
                sender.send(numbered(number, LEN)).await?;
            }
            drop((sender, receiver));
            Ok(())
        };
        tokio::try_join!(leaving, expect::lost(&mut *pair.to.receiver))?;
    }
    Ok(())
}

pub(crate) async fn dropping_one_half_ends_the_link(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        scene.step(format!("dropping the sender of an end; the link works {way}"));
        exchange(&mut pair.from, &mut pair.to).await?;
        drop(pair.from.sender);
        tokio::try_join!(expect::lost(&mut *pair.from.receiver), expect::lost(&mut *pair.to.receiver))?;

        let mut pair = scene.pair(way).await?;
        scene.step(format!("dropping the receiver of an end; the link works {way}"));
        exchange(&mut pair.from, &mut pair.to).await?;
        drop(pair.from.receiver);
        expect::lost(&mut *pair.to.receiver).await?;
        // The end that dropped it may learn a little later that its own link is gone.
        loop {
            match pair.from.sender.send(numbered(0, LEN)).await {
                Ok(()) => yield_now().await,
                Err(error) => break expect::of_kind(&error, Kind::Lost)?,
            }
        }
        halves_of_a_closed_link(&scene, way).await?;
    }
    Ok(())
}

/// That after a close one half can be dropped, and the other still learns how it ended.
async fn halves_of_a_closed_link(scene: &Scene, way: Way) -> Outcome {
    let reason = CloseReason::explained(CloseCode::DONE, "one half at a time");
    let mut pair = scene.pair(way).await?;
    scene.step(format!("dropping the sender of an end that closed {way}"));
    let mut sender = pair.from.sender;
    let closing = async {
        sender.close(reason.clone()).await?;
        drop(sender);
        Ok(())
    };
    tokio::try_join!(closing, expect::closed(&mut *pair.to.receiver, &reason))?;
    drop(pair.to.sender);
    expect::closed(&mut *pair.from.receiver, &reason).await?;
    expect::closed(&mut *pair.to.receiver, &reason).await?;

    let mut pair = scene.pair(way).await?;
    scene.step(format!("dropping the receiver of an end that closed {way}"));
    let receiver = pair.from.receiver;
    let closing = async {
        pair.from.sender.close(reason.clone()).await?;
        drop(receiver);
        Ok(())
    };
    tokio::try_join!(closing, expect::closed(&mut *pair.to.receiver, &reason))?;
    drop(pair.to.receiver);
    for end in [&mut pair.from.sender, &mut pair.to.sender] {
        expect::failed_closed("send after a close", end.send(numbered(0, LEN)).await, &reason)?;
    }
    Ok(())
}

pub(crate) async fn loss_is_told_to_both_ends(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let (mut pair, cut) = scene.cuttable(way).await?;
        exchange(&mut pair.from, &mut pair.to).await?;
        scene.step(format!("waiting for a frame when the wire is cut, {way}"));
        match cut {
            Some(cut) => {
                let both = tokio::spawn(async move {
                    let [from, to] = [&mut pair.from.receiver, &mut pair.to.receiver];
                    tokio::try_join!(expect::lost(&mut **from), expect::lost(&mut **to))
                });
                yield_now().await;
                cut.now();
                both.await??;
            }
            None => {
                drop(pair.from);
                expect::lost(&mut *pair.to.receiver).await?;
            }
        }
    }
    Ok(())
}

pub(crate) async fn what_came_before_a_loss_is_a_prefix(scene: Scene) -> Outcome {
    const FRAMES: u32 = 300;
    const GIVEN: u32 = 20;
    for way in Way::BOTH {
        let (mut pair, cut) = scene.cuttable(way).await?;
        let mut flood = Flood::start(pair.from.sender, 2_000, FRAMES);
        expect::numbers(&mut *pair.to.receiver, 0..GIVEN).await?;
        flood.until_quiet().await;
        scene.step(format!("receiving what is left after the link was lost, {way}"));
        match cut {
            Some(cut) => cut.now(),
            None => {
                flood.abandon().await;
                drop(pair.from.receiver);
            }
        }
        expect::lost_after(&mut *pair.to.receiver, GIVEN).await?;
    }
    Ok(())
}

pub(crate) async fn loss_wakes_a_waiting_send(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let (pair, cut) = scene.cuttable(way).await?;
        let len = pair.from.limits.frame_max();
        // Whatever stands between the ends so that it can be cut holds some frames of its own.
        let frames = 2 * (pair.from.limits.in_flight_max() / len) as u32 + 2;
        let mut flood = Flood::start(pair.from.sender, len, frames);
        let sent = flood.until_quiet().await;
        scene.step(format!("losing the link where a send waits after {sent} frames, {way}"));
        lose(cut, pair.to);
        let flooded = flood.finish().await?;
        expect::failed_lost("a send that waited when the link was lost", flooded.outcome)?;

        let (mut pair, cut) = scene.cuttable(way).await?;
        for number in 0..frames {
            if timeout(QUIET, pair.from.sender.send(numbered(number, len))).await.is_err() {
                break;
            }
        }
        scene.step(format!("losing the link where a close may wait, {way}"));
        let mut sender = pair.from.sender;
        let mut closing = tokio::spawn(async move { sender.close(CloseReason::new(CloseCode::DONE)).await });
        let closed = timeout(QUIET, &mut closing).await;
        lose(cut, pair.to);
        // A close that found room was done before the loss; one that waited fails.
        if closed.is_err() {
            expect::failed_lost("a close that waited when the link was lost", closing.await?)?;
        }
    }
    Ok(())
}

/// Loses the link of which this is an end: by the cut, or by dropping the end.
fn lose(cut: Option<Cut>, end: End) {
    match cut {
        Some(cut) => {
            cut.now();
            // The end must not be what the other one notices.
            std::mem::forget(end);
        }
        None => drop(end),
    }
}

pub(crate) async fn errors_stay(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let (mut pair, cut) = scene.cuttable(way).await?;
        exchange(&mut pair.from, &mut pair.to).await?;
        match cut {
            Some(cut) => {
                cut.now();
                stays_lost(&scene, &mut pair.from).await?;
            }
            None => drop(pair.from),
        }
        stays_lost(&scene, &mut pair.to).await?;
    }
    Ok(())
}

async fn stays_lost(scene: &Scene, end: &mut End) -> Outcome {
    scene.step("waiting for the loss");
    expect::lost(&mut *end.receiver).await?;
    scene.step("calling an end that has reported its loss");
    for _ in 0..3 {
        if expect::lost(&mut *end.receiver).await? > 0 {
            breach!("a frame was given after the loss");
        }
        expect::failed_lost("send after the loss", end.sender.send(numbered(0, LEN)).await)?;
        expect::failed_lost(
            "close after the loss",
            end.sender.close(CloseReason::new(CloseCode::DONE)).await,
        )?;
    }
    Ok(())
}
