//! Rooms over a real broker: started, stopped, killed and wiped.

mod hostile;
mod replica;
mod rooms;
mod snapshots;
mod trouble;
