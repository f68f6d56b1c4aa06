//! Sync sessions with a hub over real sockets: healthy ones, hostile ones, and both at once.

mod access;
mod hostile;
mod http;
mod join;
mod raw;
mod rooms;
mod scene;
