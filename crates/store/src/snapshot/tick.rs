//! Long statements of SQLite, during which somebody watches.
#![expect(unsafe_code, reason = "SQLite's progress callback is a C interface")]

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use rusqlite::{Error, ErrorCode, ffi};

use crate::progress::{Cancelled, Halt};
use crate::sqlite::Db;

/// Instructions of SQLite between two ticks: some milliseconds of work.
const TICK: c_int = 50_000;

struct Tick<'t> {
    look: &'t mut dyn FnMut() -> Result<(), Cancelled>,
    cancelled: bool,
    panic: Option<Box<dyn Any + Send>>,
}

/// Runs statements, and looks up from them now and then: `look` may cancel. A statement that writes within a transaction
/// is then undone with all of the transaction. The progress callback of the connection is replaced.
pub(super) fn ticking<T>(
    db: Db,
    look: &mut dyn FnMut() -> Result<(), Cancelled>,
    run: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Halt> {
    let mut tick = Tick { look, cancelled: false, panic: None };
    let data = &raw mut tick;
    // SAFETY: the handle is open; `tick` lives until the callback is taken out again, below.
    unsafe { ffi::sqlite3_progress_handler(db.0, TICK, Some(on_tick), data.cast::<c_void>()) };
    let done = catch_unwind(AssertUnwindSafe(run));
    // SAFETY: the handle is open.
    unsafe { ffi::sqlite3_progress_handler(db.0, 0, None, ptr::null_mut()) };
    let done = done.unwrap_or_else(|panic| resume_unwind(panic));
    if let Some(panic) = tick.panic.take() {
        resume_unwind(panic);
    }
    match done {
        Err(error) if tick.cancelled && is_interrupt(&error) => Err(Halt::Cancelled),
        done => Ok(done?),
    }
}

fn is_interrupt(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

unsafe extern "C" fn on_tick(data: *mut c_void) -> c_int {
    // SAFETY: `ticking` hands over a tick that outlives the callback, and nobody else uses it meanwhile.
    let tick = unsafe { &mut *data.cast::<Tick<'_>>() };
    // A panic must not pass through SQLite's frames; it goes on once they are left.
    let told = catch_unwind(AssertUnwindSafe(|| (tick.look)()));
    tick.cancelled = !matches!(told, Ok(Ok(())));
    if let Err(panic) = told {
        tick.panic = Some(panic);
    }
    c_int::from(tick.cancelled)
}
