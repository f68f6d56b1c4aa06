//! The sending half of a link, used while the other half is read.

use futures::future::BoxFuture;
use opor_transport_traits::{Bytes, CloseReason, Received, Receiver, Sender, TransportError};

type Sending = BoxFuture<'static, (Box<dyn Sender>, Result<(), TransportError>)>;

/// The sending half, and the one frame that it is given.
pub(crate) struct Outgoing {
    /// There while nothing is being sent.
    sender: Option<Box<dyn Sender>>,
    sending: Option<Sending>,
}

impl Outgoing {
    pub(crate) fn new(sender: Box<dyn Sender>) -> Self {
        Self { sender: Some(sender), sending: None }
    }

    /// Begins to send; [`taken`](Self::taken) moves it on. The session gives one frame at a time, so none is waiting.
    pub(crate) fn send(&mut self, frame: Bytes) {
        if let Some(mut sender) = self.sender.take() {
            self.sending = Some(Box::pin(async move {
                let sent = sender.send(frame).await;
                (sender, sent)
            }));
        }
    }

    /// Waits until the link has taken the frame; for ever, when there is none.
    ///
    /// # Cancel safety
    /// Safe: the sending stays where it is, and a later call goes on.
    pub(crate) async fn taken(&mut self) -> Result<(), TransportError> {
        let Some(sending) = &mut self.sending else { return std::future::pending().await };
        let (sender, sent) = sending.await;
        (self.sender, self.sending) = (Some(sender), None);
        sent
    }

    /// Sends the last frame, closes the link, and reads until the peer has answered: what it still sends is not wanted,
    /// but it may have to be rid of it before it hears.
    ///
    /// # Cancel safety
    /// When it is dropped the link is lost; nothing is left to be done on it.
    pub(crate) async fn say_goodbye(
        mut self,
        mut receiver: Box<dyn Receiver>,
        farewell: Option<Vec<u8>>,
        reason: CloseReason,
    ) {
        let speak = async {
            // Whatever fails here has ended the link, which is what is wanted.
            if self.sending.is_some() {
                let _gone = self.taken().await;
            }
            if let Some(mut sender) = self.sender.take() {
                if let Some(frame) = farewell {
                    let _gone = sender.send(frame.into()).await;
                }
                let _gone = sender.close(reason).await;
            }
        };
        let listen = async { while let Ok(Received::Frame(_)) = receiver.recv().await {} };
        tokio::join!(speak, listen);
    }
}
