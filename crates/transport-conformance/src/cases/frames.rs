//! Frames: order, number, boundaries, contents, sizes.

use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, LinkLimits, Received, Sender, TransportErrorKind as Kind,
};

use crate::breach::{Outcome, breach};
use crate::expect;
use crate::payload::{NUMBERED_LEAST, filled, number_of, numbered};
use crate::scene::{Pair, Scene, Way};

/// Lengths around the places where the usual encodings of a length change, and around the sizes of usual buffers.
const LENS: &[usize] = &[
    0, 1, 2, 3, 124, 125, 126, 127, 128, 129, 254, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 4095,
    4096, 4097, 8191, 8192, 8193, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 65_534, 65_535, 65_536,
];

pub(crate) async fn frames_arrive_in_order(scene: Scene) -> Outcome {
    const FRAMES: u32 = 1_000;
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let sending = async {
            for number in 0..FRAMES {
                // Small ones after large ones, which could overtake.
                let len = NUMBERED_LEAST + (number as usize % 7) * 997;
                pair.from.sender.send(numbered(number, len)).await?;
            }
            Ok(())
        };
        tokio::try_join!(sending, expect::numbers(&mut *pair.to.receiver, 0..FRAMES))?;
    }
    Ok(())
}

pub(crate) async fn frames_arrive_once(scene: Scene) -> Outcome {
    const FRAMES: u32 = 500;
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let reason = CloseReason::new(CloseCode::DONE);
        let sending = async {
            for number in 0..FRAMES {
                pair.from.sender.send(numbered(number, 100)).await?;
            }
            Ok(pair.from.sender.close(reason).await?)
        };
        let receiving = async {
            // Whatever the order: that is for another case.
            let mut times = vec![0; FRAMES as usize];
            while let Received::Frame(frame) = pair.to.receiver.recv().await? {
                let number = number_of(&frame)?;
                let Some(count) = times.get_mut(number as usize) else {
                    breach!("frame {number} was given, and none of that number was sent");
                };
                *count += 1;
            }
            match times.iter().position(|count| *count != 1) {
                Some(number) => breach!("frame {number} was given {} times", times[number]),
                None => Ok(()),
            }
        };
        tokio::try_join!(sending, receiving)?;
    }
    Ok(())
}

pub(crate) async fn frames_stay_whole(scene: Scene) -> Outcome {
    let frames = LENS.iter().map(|len| Bytes::from(filled(*len as u32, *len)));
    carry_each(&scene, frames.collect()).await
}

pub(crate) async fn frames_are_opaque(scene: Scene) -> Outcome {
    let contents: Vec<Vec<u8>> = vec![
        (0..=255).collect(),
        // Line breaks, and what ends an event of an event stream, a header or a command elsewhere.
        b"\n".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"data: a\n\ndata: b\n\n".to_vec(),
        b" leading and trailing blanks ".to_vec(),
        vec![0; 100],
        vec![0xff; 100],
        // No UTF-8: a lone continuation byte, an overlong form, a surrogate.
        vec![0x80],
        vec![0xc0, 0x80],
        vec![0xed, 0xa0, 0x80],
        "text, grüße, 🌱".into(),
        b"{\"looks\":\"like JSON\"}".to_vec(),
        b"\xef\xbb\xbfbyte order mark".to_vec(),
    ];
    carry_each(&scene, contents.into_iter().map(Bytes::from).collect()).await
}

pub(crate) async fn empty_frames_are_frames(scene: Scene) -> Outcome {
    let full = Bytes::from_static(b"full");
    let none = Bytes::new();
    carry_each(&scene, vec![none.clone(), full.clone(), none.clone(), none.clone(), none, full]).await
}

pub(crate) async fn largest_frame_passes(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let pair = scene.pair(way).await?;
        let len = pair.from.limits.frame_max();
        scene.step(format!("sending frames of {len} bytes {way}"));
        let frames = [len, len - 1, 1, len].map(|len| Bytes::from(filled(1, len)));
        carry(pair, &frames).await?;
    }
    Ok(())
}

pub(crate) async fn oversize_is_refused(scene: Scene) -> Outcome {
    let reason = CloseReason::new(CloseCode::DONE);
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        let limits = pair.from.limits;
        let sending = async {
            let sender = &mut *pair.from.sender;
            sender.send(numbered(0, 100)).await?;
            refuse(sender, limits, limits.frame_max() + 1).await?;
            sender.send(numbered(1, 100)).await?;
            refuse(sender, limits, limits.frame_max() * 2).await?;
            refuse(sender, limits, limits.frame_max() + 1).await?;
            Ok(sender.close(reason.clone()).await?)
        };
        let ((), (given, _)) = tokio::try_join!(sending, expect::all(&mut *pair.to.receiver))?;
        if given != 2 {
            breach!("{given} frames were given, where 2 were sent and the others refused");
        }
    }
    Ok(())
}

async fn refuse(sender: &mut dyn Sender, limits: LinkLimits, len: usize) -> Outcome {
    let result = sender.send(vec![0; len].into()).await;
    let call = format!("send of {len} bytes, where frame_max is {},", limits.frame_max());
    expect::of_kind(&expect::failed(&call, result)?, Kind::FrameTooLarge)
}

pub(crate) async fn frames_leave_unasked(scene: Scene) -> Outcome {
    for way in Way::BOTH {
        let mut pair = scene.pair(way).await?;
        for number in 0..20 {
            scene.step(format!("waiting for frame {number}, {way}, with no later call at the sending end"));
            tokio::try_join!(
                async { Ok(pair.from.sender.send(numbered(number, 50)).await?) },
                expect::numbers(&mut *pair.to.receiver, number..number + 1)
            )?;
        }
    }
    Ok(())
}

/// That these frames are given as they are, each way.
async fn carry_each(scene: &Scene, frames: Vec<Bytes>) -> Outcome {
    for way in Way::BOTH {
        carry(scene.pair(way).await?, &frames).await?;
    }
    Ok(())
}

async fn carry(mut pair: Pair, frames: &[Bytes]) -> Outcome {
    let sending = async {
        for frame in frames {
            pair.from.sender.send(frame.clone()).await?;
        }
        Ok(pair.from.sender.close(CloseReason::new(CloseCode::DONE)).await?)
    };
    let receiving = async {
        for (index, due) in frames.iter().enumerate() {
            let frame = expect::frame(&mut *pair.to.receiver).await?;
            if frame.len() != due.len() {
                breach!("frame {index} was given with {} bytes, sent with {}", frame.len(), due.len());
            }
            if frame != *due {
                let at = frame.iter().zip(due).position(|(given, sent)| given != sent);
                breach!("frame {index} was given with another byte at {}", at.unwrap_or(0));
            }
        }
        expect::closed(&mut *pair.to.receiver, &CloseReason::new(CloseCode::DONE)).await
    };
    tokio::try_join!(sending, receiving)?;
    Ok(())
}
