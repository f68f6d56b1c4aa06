//! The rooms that are open: opened when they are asked for, closed when nobody uses them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::event::Teller;
use crate::room::Room;
use crate::{HubError, HubOptions, RoomName};

/// Merges at once in all rooms: each unpacks a changeset, and more than the machine has cores gain nothing.
const MERGES_AT_ONCE: usize = 4;

/// Rooms that are idle are looked for at least as often.
const SWEEP_MAX: Duration = Duration::from_secs(30);

/// The rooms.
#[derive(Debug)]
pub(crate) struct Rooms {
    options: HubOptions,
    /// `None` once closed.
    open: Mutex<Option<BTreeMap<RoomName, Slot>>>,
    /// Rooms that are being closed.
    closing: Mutex<JoinSet<()>>,
    merges: Arc<Semaphore>,
    teller: Teller,
    sweeping: AtomicBool,
    dismissed: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    used: Instant,
    place: Arc<OnceCell<Room>>,
}

/// A room in use: it is not closed while this is there.
#[derive(Clone, Debug)]
pub(crate) struct Visit(Arc<OnceCell<Room>>);

impl Deref for Visit {
    type Target = Room;

    fn deref(&self) -> &Room {
        self.0.get().expect("a visit is made once the room is open")
    }
}

impl Rooms {
    pub(crate) fn new(options: HubOptions) -> Self {
        Self {
            options,
            open: Mutex::new(Some(BTreeMap::new())),
            closing: Mutex::default(),
            merges: Arc::new(Semaphore::new(MERGES_AT_ONCE)),
            teller: Teller::new(),
            sweeping: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
        }
    }

    pub(crate) const fn options(&self) -> &HubOptions {
        &self.options
    }

    pub(crate) const fn teller(&self) -> &Teller {
        &self.teller
    }

    /// How many rooms are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().as_ref().map_or(0, BTreeMap::len)
    }

    /// The room of this name, when it exists or new rooms have a schema.
    pub(crate) async fn existing(self: &Arc<Self>, name: &RoomName) -> Result<Visit, HubError> {
        // Checked before anything is opened: names that do not exist must not cost anything.
        if self.options.schema.is_none() && !self.exists(name)? {
            return Err(HubError::UnknownRoom { room: name.to_string() });
        }
        self.room(name).await
    }

    /// The room of this name, which is made when it does not exist.
    pub(crate) async fn room(self: &Arc<Self>, name: &RoomName) -> Result<Visit, HubError> {
        if !self.exists(name)? && count_rooms(&self.options.data_dir)? >= self.options.rooms_max {
            return Err(HubError::TooManyRooms { max: self.options.rooms_max });
        }
        let visit = Visit(self.slot(name)?);
        let open = || Room::open(name, &self.options, &self.merges, &self.teller);
        if let Err(error) = visit.0.get_or_try_init(open).await {
            self.forget(name);
            return Err(error);
        }
        if self.lock().is_none() {
            // It was opened while the hub closed.
            visit.close().await;
            return Err(HubError::Closing);
        }
        Ok(visit)
    }

    /// Whether no session begins any more.
    pub(crate) fn are_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::SeqCst)
    }

    /// Says goodbye to all sessions. The rooms stay open for requests, and no session begins any more.
    pub(crate) async fn dismiss(&self) {
        self.dismissed.store(true, Ordering::SeqCst);
        let rooms: Vec<_> = self.lock().iter().flatten().map(|(_, slot)| slot.place.clone()).collect();
        let mut leaving = JoinSet::new();
        for place in rooms {
            leaving.spawn(async move {
                if let Some(room) = place.get() {
                    room.dismiss().await;
                }
            });
        }
        while leaving.join_next().await.is_some() {}
    }

    /// Says goodbye everywhere, and closes all files. Later requests are answered "closing".
    pub(crate) async fn close(&self) {
        let rooms = self.lock().take().unwrap_or_default();
        let mut closing = std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in rooms.into_values() {
            closing.spawn(close(slot.place));
        }
        while closing.join_next().await.is_some() {}
    }

    fn exists(&self, name: &RoomName) -> Result<bool, HubError> {
        name.file_in(&self.options.data_dir).try_exists().map_err(HubError::Directory)
    }

    /// The place of a room, which may not be open yet.
    fn slot(self: &Arc<Self>, name: &RoomName) -> Result<Arc<OnceCell<Room>>, HubError> {
        let mut guard = self.lock();
        let open = guard.as_mut().ok_or(HubError::Closing)?;
        if let Some(slot) = open.get_mut(name) {
            slot.used = Instant::now();
            return Ok(slot.place.clone());
        }
        if open.len() >= self.options.rooms_open_max {
            let idle = open.iter().filter(|(_, slot)| slot.is_idle());
            let oldest = idle.min_by_key(|(_, slot)| slot.used).map(|(name, _)| name.clone());
            let oldest = oldest.ok_or_else(|| HubError::Busy { room: name.to_string() })?;
            self.close_aside(open.remove(&oldest).into_iter());
        }
        let place = Arc::new(OnceCell::new());
        open.insert(name.clone(), Slot { used: Instant::now(), place: place.clone() });
        if !self.sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self), self.options.room_idle));
        }
        Ok(place)
    }

    /// Gives up the place of a room that did not open.
    fn forget(&self, name: &RoomName) {
        let mut guard = self.lock();
        if let Some(open) = guard.as_mut()
            && open.get(name).is_some_and(|slot| !slot.place.initialized())
        {
            open.remove(name);
        }
    }

    fn close_idle(&self) {
        let now = Instant::now();
        let mut guard = self.lock();
        let Some(open) = guard.as_mut() else { return };
        for slot in open.values_mut().filter(|slot| !slot.is_idle()) {
            slot.used = now;
        }
        let idle =
            open.iter().filter(|(_, slot)| slot.is_idle() && now - slot.used >= self.options.room_idle);
        let idle: Vec<RoomName> = idle.map(|(name, _)| name.clone()).collect();
        self.close_aside(idle.iter().filter_map(|name| open.remove(name)));
    }

    fn close_aside(&self, slots: impl Iterator<Item = Slot>) {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        while closing.try_join_next().is_some() {}
        for slot in slots {
            closing.spawn(close(slot.place));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<RoomName, Slot>>> {
        // Nothing under the lock panics halfway through a change.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Whether nobody uses it; under the lock nobody can begin to.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.place) == 1
    }
}

async fn close(place: Arc<OnceCell<Room>>) {
    if let Some(room) = place.get() {
        room.close().await;
    }
}

/// Closes rooms that are idle, as long as the hub is there.
async fn sweep(rooms: Weak<Rooms>, idle: Duration) {
    let pause = (idle / 2).clamp(Duration::from_millis(10), SWEEP_MAX);
    loop {
        sleep(pause).await;
        let Some(rooms) = rooms.upgrade() else { return };
        rooms.close_idle();
    }
}

fn count_rooms(data_dir: &Path) -> Result<usize, HubError> {
    match std::fs::read_dir(data_dir) {
        Ok(entries) => {
            let is_room = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.is_ok_and(|entry| entry.path().extension().is_some_and(|of| of == "sqlite"))
            };
            Ok(entries.map(is_room).filter(|is| *is).count())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(HubError::Directory(error)),
    }
}
