//! Cancelling: what is left when a future is dropped before it is done.

use opor_transport_traits::{CloseCode, CloseReason, Received};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::breach::{Outcome, breach};
use crate::cases::dial::meet;
use crate::expect;
use crate::flood::QUIET;
use crate::payload::{number_of, numbered};
use crate::scene::{End, Scene, Way, exchange, give_up_after};

/// Sizes from a few bytes to more than a socket buffer takes at once.
const LENS: [usize; 5] = [8, 700, 65_536, 20_000, 100];

/// After how many polls calls are given up, in turn.
const POLLS: [u32; 4] = [1, 2, 1, 3];

pub(crate) async fn cancelled_receive_loses_nothing(scene: Scene) -> Outcome {
    const FRAMES: u32 = 300;
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let sending = async {
            for number in 0..FRAMES {
                pair.from.sender.send(numbered(number, LENS[number as usize % LENS.len()])).await?;
            }
            Ok(())
        };
        let receiving = async {
            let mut due = 0;
            let mut polls = POLLS.iter().cycle();
            while due < FRAMES {
                let polls = polls.next().copied().unwrap_or(1);
                match give_up_after(polls, expect::number(&mut *pair.to.receiver)).await {
                    Some(number) => {
                        let number = number?;
                        if number != due {
                            breach!(
                                "frame {number} was given where frame {due} was due, after cancelled receives"
                            );
                        }
                        due += 1;
                    }
                    None => yield_now().await,
                }
            }
            Ok(())
        };
        tokio::try_join!(sending, receiving)?;
    }
    Ok(())
}

pub(crate) async fn cancelled_send_is_whole_or_nothing(scene: Scene) -> Outcome {
    const FRAMES: u32 = 300;
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::new(CloseCode::DONE);
        let mut sent = Vec::new();
        let sending = async {
            for number in 0..FRAMES {
                let send = pair.from.sender.send(numbered(number, LENS[number as usize % LENS.len()]));
                // Every other one is given up when it waits.
                let done = match number % 2 {
                    0 => Some(send.await),
                    _ => give_up_after(POLLS[number as usize / 2 % POLLS.len()], send).await,
                };
                sent.push(done.transpose()?.is_some());
            }
            Outcome::Ok(pair.from.sender.close(reason.clone()).await?)
        };
        let receiving = async {
            let mut given = Vec::new();
            loop {
                match pair.to.receiver.recv().await? {
                    Received::Frame(frame) => given.push(number_of(&frame)?),
                    Received::Closed(_) => return Ok(given),
                }
                // Slow enough that sends have to wait.
                yield_now().await;
            }
        };
        let ((), given) = tokio::try_join!(sending, receiving)?;
        whole_or_nothing(&sent, &given)?;
    }
    Ok(())
}

/// Each frame at most once and in order; those that were sent exactly once.
fn whole_or_nothing(sent: &[bool], given: &[u32]) -> Outcome {
    if let Some(pair) = given.windows(2).find(|pair| pair[0] >= pair[1]) {
        breach!("frame {} was given after frame {}", pair[1], pair[0]);
    }
    let missing = (0..sent.len() as u32).find(|number| sent[*number as usize] && !given.contains(number));
    if let Some(number) = missing {
        breach!("frame {number} was sent and never given; sends around it were cancelled");
    }
    Ok(())
}

pub(crate) async fn cancelled_close_can_be_repeated(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::explained(CloseCode::GOING_AWAY, "again");
        // Until a send waits: then a close waits too, if it waits at all. One that was given up may have been sent.
        let limits = pair.from.limits;
        let most = (limits.in_flight_max() / limits.frame_max()) as u32 + 1;
        let mut taken = 0;
        while taken < most {
            match timeout(QUIET, pair.from.sender.send(numbered(taken, limits.frame_max()))).await {
                Ok(result) => result?,
                Err(_) => break,
            }
            taken += 1;
        }
        scene.step(format!("closing several times after {taken} frames, {way}"));
        for _ in 0..3 {
            if let Some(result) = give_up_after(1, pair.from.sender.close(reason.clone())).await {
                result?;
            }
        }
        let closing = async { Ok(pair.from.sender.close(reason.clone()).await?) };
        let ((), (given, given_reason)) = tokio::try_join!(closing, expect::all(&mut *pair.to.receiver))?;
        if given < taken {
            breach!("{given} frames were given of {taken} that were sent before the close");
        }
        expect::same_reason(&given_reason, &reason)?;
    }
    Ok(())
}

pub(crate) async fn cancelled_accept_loses_no_link(scene: Scene) -> Outcome {
    const DIALS: usize = 12;
    let mut endpoint = scene.endpoint().await?;
    for index in 0..DIALS {
        scene.step(format!("dial {index}, answered by accepts that are cancelled"));
        let dialer = endpoint.dialer.clone();
        let mut polls = POLLS.iter().cycle().skip(index);
        let accepting = async {
            loop {
                let polls = polls.next().copied().unwrap_or(1);
                match give_up_after(polls, endpoint.listener.accept()).await {
                    Some(link) => return link,
                    None => yield_now().await,
                }
            }
        };
        let (dialled, accepted) = tokio::try_join!(dialer.dial(), accepting)?;
        exchange(&mut dialled.into(), &mut accepted.into()).await?;
    }
    Ok(())
}

pub(crate) async fn cancelled_dial_leaves_no_trace(scene: Scene) -> Outcome {
    let mut endpoint = scene.endpoint().await?;
    for polls in POLLS {
        scene.step(format!("giving a dial up after {polls} polls"));
        let dialer = endpoint.dialer.clone();
        // Nobody accepts, so a dial that waits for that waits until it is given up.
        if let Ok(Some(Err(error))) = timeout(QUIET, give_up_after(polls, dialer.dial())).await {
            return Err(error.into());
        }
    }
    scene.step("accepting links of cancelled dials, which must be lost");
    while let Ok(link) = timeout(QUIET, endpoint.listener.accept()).await {
        expect::lost(&mut *End::from(link?).receiver).await?;
    }
    scene.step("dialling after dials were cancelled");
    let (mut dialled, mut accepted) = meet(&mut endpoint).await?;
    exchange(&mut dialled, &mut accepted).await
}
