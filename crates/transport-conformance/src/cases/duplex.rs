//! Both directions at once.

use std::pin::pin;

use opor_transport_traits::Received;

use crate::breach::{Outcome, breach};
use crate::expect;
use crate::flood::Flood;
use crate::payload::numbered;
use crate::scene::{Scene, Way, give_up_after};

pub(crate) async fn halves_work_side_by_side(scene: Scene) -> Outcome {
    const FRAMES: u32 = 400;
    const LEN: usize = 4_096;
    let pair = scene.pair(Way::FromDialer).await?;
    scene.step("sending and receiving at both ends in four tasks");
    let mut receiving = [pair.from.receiver, pair.to.receiver].map(|mut receiver| {
        Box::pin(async move { expect::numbers(&mut *receiver, 0..FRAMES).await.map(|()| receiver) })
    });
    // They wait before anything is sent: who would keep a sender from its work for that does so now.
    for waiting in &mut receiving {
        if give_up_after(1, waiting.as_mut()).await.is_some() {
            breach!("recv returned where nothing was sent");
        }
    }
    let receiving = receiving.map(tokio::spawn);
    let floods = [pair.from.sender, pair.to.sender].map(|sender| Flood::start(sender, LEN, FRAMES));
    // What is done stays, so that nothing is dropped under the other end.
    let mut done = Vec::new();
    for task in receiving {
        done.push(task.await??);
    }
    for flood in floods {
        flood.finish().await?.outcome?;
    }
    Ok(())
}

pub(crate) async fn reading_goes_on_while_a_send_waits(scene: Scene) -> Outcome {
    const LEN: usize = 64 * 1024;
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        // One more than the link may hold: then the last send waits, however much it holds.
        let frames = (pair.from.limits.in_flight_max() / LEN) as u32 + 1;
        let mut flood = Flood::start(pair.from.sender, LEN, frames);
        let sent = flood.until_quiet().await;
        scene.step(format!("receiving where a send waits after {sent} frames; the link works {way}"));
        for number in 0..10 {
            tokio::try_join!(
                async { Ok(pair.to.sender.send(numbered(number, 100)).await?) },
                expect::numbers(&mut *pair.from.receiver, number..number + 1)
            )?;
        }
    }
    Ok(())
}

pub(crate) async fn sending_goes_on_while_a_receive_waits(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let mut waiting = pin!(pair.from.receiver.recv());
        if give_up_after(1, waiting.as_mut()).await.is_some() {
            breach!("recv returned something where nothing was sent");
        }
        scene.step(format!("sending where a receive waits, {way}"));
        tokio::try_join!(
            async { Ok(pair.from.sender.send(numbered(0, 100)).await?) },
            expect::numbers(&mut *pair.to.receiver, 0..1)
        )?;
        scene.step("waiting for the receive that waited");
        let ((), given) = tokio::try_join!(pair.to.sender.send(numbered(0, 100)), waiting)?;
        if given != Received::Frame(numbered(0, 100)) {
            breach!("recv gave something else than the one frame that was sent");
        }
    }
    Ok(())
}
