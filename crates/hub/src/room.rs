//! The open rooms: one file and one writer thread each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use opor_store::{OpenOptions, Store};
use tokio::sync::oneshot;

use crate::{HubError, HubOptions, RoomName, RoomSchema};

/// A request holds its decoded changes while it waits; more than these and the room is not keeping up.
const QUEUE_MAX: usize = 32;

/// The rooms that are open.
#[derive(Debug)]
pub(crate) struct Rooms {
    options: HubOptions,
    /// `None` once closed.
    open: Mutex<Option<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    rooms: BTreeMap<RoomName, (u64, Arc<Room>)>,
    /// Counts uses, so that the room used longest ago is known.
    uses: u64,
}

/// One room: the way to its thread.
#[derive(Debug)]
pub(crate) struct Room {
    name: RoomName,
    jobs: SyncSender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Job(Box<dyn FnOnce(&mut RoomFile) + Send>),
    Close,
}

/// The database of a room, owned by the room's thread.
#[derive(Debug)]
pub(crate) struct RoomFile {
    name: RoomName,
    path: PathBuf,
    options: OpenOptions,
    schema: Option<RoomSchema>,
    store: Option<Store>,
}

impl Rooms {
    pub(crate) const fn new(options: HubOptions) -> Self {
        Self { options, open: Mutex::new(Some(Open { rooms: BTreeMap::new(), uses: 0 })) }
    }

    pub(crate) const fn options(&self) -> &HubOptions {
        &self.options
    }

    /// The room of this name, when it exists or new rooms have a schema.
    pub(crate) fn existing(&self, name: &RoomName) -> Result<Arc<Room>, HubError> {
        // Checked before a thread is started: names that do not exist must not cost anything.
        let path = name.file_in(&self.options.data_dir);
        if self.options.schema.is_none() && !path.try_exists().map_err(HubError::Directory)? {
            return Err(HubError::UnknownRoom { room: name.to_string() });
        }
        self.room(name)
    }

    /// The room of this name, which may not exist as a file yet.
    pub(crate) fn room(&self, name: &RoomName) -> Result<Arc<Room>, HubError> {
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = guard.as_mut().ok_or(HubError::Closing)?;
        open.uses += 1;
        let uses = open.uses;
        if let Some((used, room)) = open.rooms.get_mut(name).filter(|(_, room)| room.is_running()) {
            *used = uses;
            return Ok(room.clone());
        }
        if !open.has_space(self.options.rooms_open_max) {
            return Err(HubError::Busy { room: name.to_string() });
        }
        let room = Arc::new(Room::start(name, &self.options)?);
        open.rooms.insert(name.clone(), (uses, room.clone()));
        Ok(room)
    }

    pub(crate) fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (_, room) in open.into_iter().flat_map(|open| open.rooms.into_values()) {
            room.close();
        }
    }
}

impl Open {
    /// Whether another room may be opened. When all places are taken, the room that was used longest ago and that
    /// nobody is using gives up its place; its thread ends by itself.
    fn has_space(&mut self, rooms_max: usize) -> bool {
        if self.rooms.len() < rooms_max {
            return true;
        }
        let idle = self.rooms.iter().filter(|(_, (_, room))| Arc::strong_count(room) == 1);
        let oldest = idle.min_by_key(|(_, (used, _))| *used).map(|(name, _)| name.clone());
        oldest.is_some_and(|name| self.rooms.remove(&name).is_some())
    }
}

impl Room {
    fn start(name: &RoomName, options: &HubOptions) -> Result<Self, HubError> {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let mut file = RoomFile {
            name: name.clone(),
            path: name.file_in(&options.data_dir),
            options: options.open.clone(),
            schema: options.schema.clone(),
            store: None,
        };
        let thread = thread::Builder::new()
            .name(format!("room {name}"))
            .spawn(move || file.work(&queue))
            .map_err(HubError::Directory)?;
        Ok(Self { name: name.clone(), jobs, thread: Mutex::new(Some(thread)) })
    }

    /// Does `work` on the room's thread.
    ///
    /// # Cancel safety
    /// Work that has been queued is done even when nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut RoomFile) -> Result<T, HubError> + Send + 'static,
    ) -> Result<T, HubError> {
        let (reply, answer) = oneshot::channel();
        let job = Message::Job(Box::new(move |file| {
            // Nobody waits when the client has gone.
            let _ = reply.send(work(file));
        }));
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => HubError::Busy { room: self.name.to_string() },
            TrySendError::Disconnected(_) => HubError::Closing,
        })?;
        answer.await.map_err(|_| HubError::Closing)?
    }

    fn is_running(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn close(&self) {
        // An error means that the thread has ended already.
        let _ = self.jobs.send(Message::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked has nothing left to close.
            let _ = thread.join();
        }
    }
}

impl RoomFile {
    fn work(&mut self, queue: &Receiver<Message>) {
        while let Ok(Message::Job(job)) = queue.recv() {
            job(self);
        }
    }

    /// The store of a room that exists, or that the schema for new rooms creates.
    pub(crate) fn store(&mut self) -> Result<&mut Store, HubError> {
        if self.store.is_some() {
            return self.opened();
        }
        let schema = self.schema.clone();
        if schema.is_none() && !self.path.try_exists().map_err(HubError::Directory)? {
            return Err(HubError::UnknownRoom { room: self.name.to_string() });
        }
        let store = self.opened()?;
        // A file that a crash left empty is as new as one that was not there.
        if let (Some(schema), true) = (schema, store.replicated_tables()?.is_empty()) {
            schema.create_in(store)?;
        }
        Ok(store)
    }

    /// The store, created if need be, with this schema in it.
    pub(crate) fn store_with(&mut self, schema: &RoomSchema) -> Result<&mut Store, HubError> {
        let store = self.opened()?;
        schema.create_in(store)?;
        Ok(store)
    }

    fn opened(&mut self) -> Result<&mut Store, HubError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => {
                let parent = self.path.parent().expect("a room's file is in the data directory");
                std::fs::create_dir_all(parent).map_err(HubError::Directory)?;
                self.options.open(&self.path)?
            }
        };
        Ok(self.store.insert(store))
    }
}
