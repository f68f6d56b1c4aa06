//! The stream that the rooms of a shard share, at one connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{Context, ContextBuilder};
use futures_util::TryStreamExt as _;
use opor_core::{DbVersion, SiteId};
use opor_transport_nats::{Broker, NatsOptions};
use opor_transport_traits::Bytes;
use tokio::time::{Instant, sleep};

use crate::entry::SITE_HEADER;
use crate::error::RoomError;
use crate::names::Names;

/// The first version with all that a room needs, and the oldest that the tests run with.
const VERSION_LEAST: (i64, i64, i64) = (2, 9, 0);
const VERSION_LEAST_TEXT: &str = "2.9.0";

/// How long an answer of the broker may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a publish is tried with the same id before the connection is given up. A group of brokers that lost its leader
/// takes four to nine seconds for a new one.
const PUBLISH_FOR: Duration = Duration::from_secs(15);

/// Between two tries.
const PUBLISH_AGAIN: Duration = Duration::from_millis(250);

/// How long the broker remembers ids of messages. It saves traffic; nothing depends on it.
const DUPLICATES_FOR: Duration = Duration::from_secs(120);

/// After so long without being asked, the broker forgets a consumer that nobody uses any more.
const CONSUMER_KEPT_FOR: Duration = Duration::from_secs(60);

/// How the stream is made, where it is not there yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) replicas: usize,
    pub(crate) bytes_max: Option<i64>,
    pub(crate) age_max: Option<Duration>,
}

/// A connection, and the stream of a room.
#[derive(Clone, Debug)]
pub(crate) struct RoomStream {
    pub(crate) broker: Broker,
    pub(crate) context: Context,
    pub(crate) stream: Stream,
    pub(crate) names: Arc<Names>,
    /// Which stream it is: when it was made, in microseconds since 1970.
    pub(crate) life: u64,
    /// Whether the broker removes messages by itself.
    pub(crate) forgets: bool,
    site: SiteId,
}

/// What there is in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl RoomStream {
    pub(crate) async fn open(
        address: &str,
        options: &NatsOptions,
        names: Arc<Names>,
        limits: Limits,
        site: SiteId,
    ) -> Result<Self, RoomError> {
        let broker = Broker::connect(address, options).await.map_err(RoomError::Broker)?;
        if !broker.is_at_least(VERSION_LEAST) {
            return Err(RoomError::TooOld { found: broker.info().version, least: VERSION_LEAST_TEXT });
        }
        let builder = ContextBuilder::new().timeout(ANSWER_TIMEOUT).ack_timeout(ANSWER_TIMEOUT);
        let context = builder.build(broker.client().clone());
        let made = context.get_or_create_stream(config(&names, limits)).await;
        let stream = made.map_err(|error| not_opened(&broker, error))?;
        let info = stream.cached_info();
        let life = life(info);
        let forgets = check_config(info)?;
        Ok(Self { broker, context, stream, names, life, forgets, site })
    }

    /// What there is now; fails when it is another stream by now.
    pub(crate) async fn extent(&self) -> Result<Extent, RoomError> {
        let info = self.stream.get_info().await;
        let info = info.map_err(|error| RoomError::request("asking for the stream")(error.into()))?;
        if life(&info) != self.life {
            return Err(RoomError::StreamChanged);
        }
        Ok(Extent { first: info.state.first_sequence, last: info.state.last_sequence })
    }

    /// Publishes, and waits until the broker has it; tries again with the same id for as long as brokers take to mend
    /// themselves.
    ///
    /// # Durability
    /// The broker has the message, on a disk that it may not have flushed.
    pub(crate) async fn publish(
        &self,
        subject: &str,
        id: &str,
        payload: Bytes,
    ) -> Result<PublishAck, RoomError> {
        let until = Instant::now() + PUBLISH_FOR;
        loop {
            let message = self.message_of(payload.clone()).message_id(id);
            let sent = self.context.send_publish(subject.to_owned(), message).await;
            let error = match sent {
                Ok(acked) => match acked.await {
                    Ok(ack) => return Ok(ack),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() >= until {
                return Err(RoomError::request("publishing")(error.into()));
            }
            sleep(PUBLISH_AGAIN).await;
        }
    }

    /// Publishes where the last message on the subject is the one of this number, 0 for none. The number of the new one, or
    /// nothing where another was quicker.
    pub(crate) async fn swap(
        &self,
        subject: &str,
        last: u64,
        payload: Vec<u8>,
    ) -> Result<Option<u64>, RoomError> {
        let message = self.message_of(payload.into()).expected_last_subject_sequence(last);
        let failed = |error: async_nats::jetstream::context::PublishError| match error.kind() {
            PublishErrorKind::WrongLastSequence => Ok(None),
            _ => Err(RoomError::request("publishing where nothing else is")(error.into())),
        };
        match self.context.send_publish(subject.to_owned(), message).await {
            Ok(acked) => acked.await.map_or_else(failed, |ack| Ok(Some(ack.sequence))),
            Err(error) => failed(error),
        }
    }

    fn message_of(&self, payload: Bytes) -> PublishMessage {
        let mut headers = HeaderMap::new();
        headers.insert(SITE_HEADER, self.site.to_string());
        PublishMessage::build().headers(headers).payload(payload).expected_stream(&self.names.stream)
    }

    /// The last message on a subject.
    pub(crate) async fn last_on(&self, subject: &str) -> Result<Option<StreamMessage>, RoomError> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(RoomError::request("reading the last message of a subject")(error.into())),
        }
    }

    /// A message by its number; nothing where it is gone.
    pub(crate) async fn message(&self, sequence: u64) -> Result<Option<StreamMessage>, RoomError> {
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(RoomError::request("reading a message")(error.into())),
        }
    }

    /// How many messages the room's log has.
    pub(crate) async fn log_len(&self) -> Result<u64, RoomError> {
        let asked = self.stream.info_with_subjects(&self.names.log).await;
        let mut subjects = asked.map_err(|error| RoomError::request("counting messages")(error.into()))?;
        let next = subjects.try_next().await;
        let count = next.map_err(|error| RoomError::request("counting messages")(error.into()))?;
        Ok(count.map_or(0, |(_, count)| count as u64))
    }

    /// Removes what a subject has up to this number.
    pub(crate) async fn trim(&self, subject: &str, up_to: u64) -> Result<u64, RoomError> {
        let purge = self.stream.purge().filter(subject).sequence(up_to + 1);
        let purged = purge.await.map_err(|error| RoomError::request("trimming the log")(error.into()))?;
        Ok(purged.purged)
    }

    /// Leaves only the last message of a subject.
    pub(crate) async fn keep_last(&self, subject: &str) -> Result<(), RoomError> {
        let purge = self.stream.purge().filter(subject).keep(1);
        purge.await.map(drop).map_err(|error| RoomError::request("tidying up")(error.into()))
    }

    /// A consumer of the log from this number on, which keeps nothing at the broker.
    pub(crate) async fn consumer(&self, from: u64) -> Result<Consumer<pull::Config>, RoomError> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            filter_subject: self.names.log.clone(),
            inactive_threshold: CONSUMER_KEPT_FOR,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let made = self.stream.create_consumer(config).await;
        made.map_err(|error| RoomError::request("opening the log")(error.into()))
    }
}

/// What it means that the stream could not be opened.
fn not_opened(broker: &Broker, error: CreateStreamError) -> RoomError {
    let is_off = match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => true,
        CreateStreamErrorKind::JetStream(error) => matches!(
            error.error_code(),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        ),
        // A broker without JetStream has nobody to answer; one beside it may.
        _ => !broker.info().jetstream,
    };
    match is_off {
        true => RoomError::NoJetStream { address: broker.address().to_owned() },
        false => RoomError::request("opening the stream")(error.into()),
    }
}

fn config(names: &Names, limits: Limits) -> Config {
    Config {
        name: names.stream.clone(),
        subjects: vec![names.all.clone()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        num_replicas: limits.replicas,
        max_bytes: limits.bytes_max.unwrap_or(-1),
        max_age: limits.age_max.unwrap_or_default(),
        // A stream that is full says so, and what is not published stays with whoever wrote it.
        discard: DiscardPolicy::New,
        duplicate_window: limits.age_max.map_or(DUPLICATES_FOR, |age| age.min(DUPLICATES_FOR)),
        allow_direct: false,
        ..Config::default()
    }
}

/// Whether the broker removes messages by itself.
///
/// # Errors
/// When it does so in a way that nobody would notice.
fn check_config(info: &Info) -> Result<bool, RoomError> {
    let config = &info.config;
    let unfit = |what| Err(RoomError::UnfitStream { stream: config.name.clone(), what });
    if config.retention != RetentionPolicy::Limits {
        return unfit("removes messages that were read");
    }
    if config.max_messages_per_subject > 0 {
        return unfit("limits the messages of a subject");
    }
    if config.sealed || config.no_ack {
        return unfit("takes no messages, or does not say so");
    }
    if config.deny_purge {
        return unfit("can not be trimmed");
    }
    let is_bounded = config.max_bytes > 0 || config.max_messages > 0;
    Ok(!config.max_age.is_zero() || (is_bounded && config.discard == DiscardPolicy::Old))
}

fn life(info: &Info) -> u64 {
    // In the database it is an epoch, and manifests of snapshots carry epochs of 53 bits at most: nanoseconds have more.
    let micros = u64::try_from(info.created.unix_timestamp_nanos() / 1000).unwrap_or_default();
    micros.min(DbVersion::MAX.0)
}
