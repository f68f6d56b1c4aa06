//! What the store answers, told to the session.

use opor_core::DbVersion;
use opor_sync_proto::{Ask, Found, Input, Rejection, RequestId};

use crate::intake::Intake;
use crate::session::Driver;
use crate::status::{CatchUp, SyncEvent, SyncStatus};
use crate::verdict::Ended;
use crate::work::{Failed, Known, Merged, Size};

/// An answer of the store.
pub(crate) enum Done {
    LookedUp(Result<Known, Failed>),
    /// A piece of the log; whether the cursor is of a history that is gone; and how much it is.
    ReadLog(RequestId, Result<(Found, bool, Size), Failed>),
    ReadSnapshot(RequestId, Result<Found, Failed>),
    Applied(RequestId, Result<Merged, Failed>),
    /// A part of a snapshot is on the disk; the files come back.
    Taken(RequestId, Option<Box<Intake>>, Result<(), Failed>),
    Installed(RequestId, Result<Merged, Failed>),
    Acknowledged(Result<(DbVersion, bool), Failed>),
}

impl Driver<'_> {
    pub(crate) fn done(&mut self, done: Done) {
        match done {
            Done::LookedUp(Ok(known)) => self.known(known),
            Done::ReadLog(req, Ok((found, is_gone, size))) => {
                if let Some(site) = self.site.filter(|_| size.changes > 0) {
                    self.tell(SyncEvent::Sending { site, rows: size.rows, changes: size.changes });
                }
                self.feed(Input::Read { req, found });
                if is_gone {
                    // History was cut while it was away, or just now. What it still holds must not come back.
                    self.feed(Input::Hold);
                }
            }
            Done::ReadSnapshot(req, Ok(found)) => self.feed(Input::Read { req, found }),
            Done::Applied(req, Ok(merged)) => {
                self.merging = false;
                self.changes += merged.changes as u64;
                if !self.is_live {
                    let (by, done) = (CatchUp::Log, self.changes);
                    (self.status)(SyncStatus::CatchingUp { by, done, total: None });
                }
                self.merged(req, &merged);
            }
            Done::Taken(req, intake, Ok(())) => self.taken(req, intake.map(|intake| *intake)),
            Done::Installed(req, Ok(merged)) => {
                self.merging = false;
                self.installed(req, &merged);
            }
            Done::Acknowledged(Ok((version, is_aware))) => {
                self.acknowledging = false;
                if let Some(site) = self.site {
                    if is_aware {
                        self.feed(Input::Release);
                    }
                    self.tell(SyncEvent::Acknowledged { site, version });
                }
                self.acknowledge();
            }
            Done::Applied(req, Err(failed))
            | Done::Taken(req, _, Err(failed))
            | Done::Installed(req, Err(failed)) => {
                self.merging = false;
                self.refuse(req, failed);
            }
            Done::LookedUp(Err(failed))
            | Done::ReadLog(_, Err(failed))
            | Done::ReadSnapshot(_, Err(failed))
            | Done::Acknowledged(Err(failed)) => {
                if let Failed::Here(ended) = failed {
                    self.store_failed(ended);
                }
            }
        }
    }

    fn known(&mut self, known: Known) {
        let Known { cursor, held, is_aware } = known;
        self.lag = crate::lag::Lag::new(self.shared.commits.borrow().0, held.0);
        self.taking.asked_log(cursor.clone());
        self.feed(Input::Admitted(Ask::Log(cursor)));
        if !is_aware {
            self.feed(Input::Hold);
        }
    }

    /// Tells what a merge did.
    pub(crate) fn merged(&mut self, req: RequestId, merged: &Merged) {
        let Merged { rows, changes, unchanged, quarantined, violations, version, echo } = *merged;
        if let Some(echo) = echo {
            self.lag.merged(echo.0);
        }
        self.got_on = true;
        self.feed(Input::Applied { req, version: echo });
        if let Some(site) = self.site {
            self.tell(SyncEvent::Merged { site, rows, changes, unchanged, version });
            if quarantined > 0 {
                self.tell(SyncEvent::Quarantined { site, changes: quarantined });
            }
            if violations > 0 {
                self.tell(SyncEvent::Conflict { site, violations });
            }
        }
    }

    fn refuse(&mut self, req: RequestId, failed: Failed) {
        let (rejection, ended) = match failed {
            Failed::Rejected(rejection, why) => (rejection, Ended::Rejected { rejection, why }),
            Failed::Fault(fault) => (Rejection::Snapshot, Ended::Snapshot(fault)),
            Failed::Behind(why) => {
                self.ended = Some(Ended::PeerBehind { why });
                return self.feed(Input::Shutdown);
            }
            Failed::Here(ended) => return self.store_failed(ended),
        };
        self.got_on = false;
        self.ended = Some(ended);
        self.feed(Input::Rejected { req, rejection });
    }

    pub(crate) fn store_failed(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
        self.feed(Input::StoreFailed);
    }
}
