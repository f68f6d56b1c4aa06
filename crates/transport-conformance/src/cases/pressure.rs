//! Back-pressure: what is on its way is bounded, and nothing is lost for it.

use opor_transport_traits::{CloseCode, CloseReason, LinkLimits};

use crate::breach::{Outcome, breach};
use crate::expect;
use crate::flood::Flood;
use crate::scene::{Scene, Way, exchange};

/// The largest frames that every link takes.
const LARGE: usize = LinkLimits::FRAME_MAX_LEAST;

pub(crate) async fn sends_wait_for_a_slow_receiver(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        // By bytes, by frames, and between: a bound on one of them alone is none.
        for len in [None, Some(LARGE), Some(0)] {
            let pair = scene.pair(way).await?;
            let len = len.unwrap_or(pair.from.limits.frame_max());
            scene.step(format!("sending frames of {len} bytes that nobody receives, {way}"));
            let most = pair.from.limits.in_flight_max();
            let cost = LinkLimits::cost(len);
            let mut flood = Flood::start(pair.from.sender, len, (most / cost) as u32 + 2);
            let sent = flood.until_quiet().await;
            let on_their_way = sent as usize * cost;
            if on_their_way > most {
                breach!(
                    "{sent} frames of {len} bytes were sent that nobody received: {on_their_way} bytes with what \
                     frames cost, and in_flight_max is {most}"
                );
            }
        }
    }
    Ok(())
}

pub(crate) async fn waiting_sends_go_on(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let frames = (pair.from.limits.in_flight_max() / LinkLimits::cost(LARGE)) as u32 + 8;
        let mut flood = Flood::start(pair.from.sender, LARGE, frames);
        let sent = flood.until_quiet().await;
        scene.step(format!(
            "receiving {frames} frames, of which {sent} were sent before a send waited, {way}"
        ));
        let closing = flood.then_close(CloseReason::new(CloseCode::DONE));
        let (flooded, (given, _)) = tokio::try_join!(closing, expect::all(&mut *pair.to.receiver))?;
        flooded.outcome?;
        if given != frames {
            breach!(
                "{given} frames were given of {frames} that were sent, some of them after they had waited"
            );
        }
    }
    Ok(())
}

pub(crate) async fn a_stalled_link_stops_no_other(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let (mut from, mut to) = scene.connect(&mut pair.endpoint, way).await?;
        let frames = (pair.from.limits.in_flight_max() / LARGE) as u32 + 1;
        let mut flood = Flood::start(pair.from.sender, LARGE, frames);
        flood.until_quiet().await;
        scene.step(format!("using a link beside one that is stalled {way}"));
        for _ in 0..10 {
            exchange(&mut from, &mut to).await?;
        }
        scene.step(format!("opening a link beside one that is stalled {way}"));
        let (mut from, mut to) = scene.connect(&mut pair.endpoint, way).await?;
        exchange(&mut from, &mut to).await?;
    }
    Ok(())
}
