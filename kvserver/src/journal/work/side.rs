//! What takes long, beside the log: snapshots of a log that goes on meanwhile, and files for segments to
//! come. Want of room or of access ends only what was begun. Pure: on any [`Disk`].

use std::collections::VecDeque;
use std::io;

use super::{LogJob, Report, SideJob, SnapshotJob};
use crate::journal::disk::{Disk, Trouble};
use crate::journal::engine::Engine;
use crate::journal::layout;
use crate::journal::log::prepare;
use crate::journal::pending::SnapshotNumber;
use crate::journal::snapshots::{ReadError, SnapshotWriter};

/// Does the work beside the log.
#[derive(Debug)]
pub struct SideWorker<D: Disk> {
    disk: D,
    /// Bytes of the disk that snapshots leave free.
    keep_free: u64,
    waiting: VecDeque<SideJob>,
    writer: Option<(SnapshotNumber, SnapshotWriter<D>)>,
}

impl<D: Disk> SideWorker<D> {
    /// Works for this engine, on its disk.
    #[must_use]
    pub fn new(engine: &Engine<D>) -> SideWorker<D> {
        let (disk, keep_free) = (engine.disk().clone(), engine.kept_for_the_log());
        SideWorker { disk, keep_free, waiting: VecDeque::new(), writer: None }
    }

    /// Takes a job.
    pub fn take(&mut self, job: SideJob) {
        if let SideJob::Snapshot(SnapshotJob::Begin(..) | SnapshotJob::Abandon) = job {
            self.waiting.retain(|job| matches!(job, SideJob::Prepare { .. }));
        }
        self.waiting.push_back(job);
    }

    /// Does one job. False when there is nothing to do.
    pub fn work(&mut self, reports: &mut Vec<Report>, log: &mut Vec<LogJob>) -> bool {
        let Some(job) = self.waiting.pop_front() else {
            return false;
        };
        let (doing, done) = match &job {
            SideJob::Snapshot(job) => {
                let done = self.snapshot(job, reports, log);
                let may_pass = done.as_ref().is_err_and(|error| Trouble::of(error).may_pass());
                ("write a snapshot", if may_pass { self.give_up(job, reports) } else { done })
            }
            SideJob::Prepare { path, size } => {
                let spare = match prepare(&self.disk, path.clone(), *size) {
                    // The log asks again when it wants one.
                    Err(error) if Trouble::of(&error).may_pass() => Ok(None),
                    spare => spare.map(Some),
                };
                ("prepare a segment", spare.map(|spare| log.push(LogJob::Spare(spare))))
            }
        };
        if let Err(error) = done {
            log.push(LogJob::Failed(doing, error));
        }
        true
    }

    fn snapshot(
        &mut self,
        job: &SnapshotJob,
        reports: &mut Vec<Report>,
        log: &mut Vec<LogJob>,
    ) -> io::Result<()> {
        match job {
            SnapshotJob::Begin(number, head) => {
                self.abandon()?;
                let path = layout::new_snapshot(*number);
                let writer = SnapshotWriter::begin(&self.disk, path, *head)?;
                self.writer = Some((*number, writer));
            }
            SnapshotJob::Chunk(number, records) => {
                if let Some((_, writer)) = self.writer.as_mut().filter(|(of, _)| of == number) {
                    let needed = self.keep_free + writer.grows_by(records);
                    if self.disk.space().is_ok_and(|space| space.free < needed) {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    writer.chunk(records)?;
                    reports.push(Report::Chunks(*number, writer.chunks()));
                }
            }
            SnapshotJob::End(number, end) => {
                if let Some((_, writer)) = self.writer.as_mut().filter(|(of, _)| of == number) {
                    let verified = writer.end(end.clone()).map_err(ReadError::into_io)?;
                    self.writer = None;
                    log.push(LogJob::Install(*number, Box::new(verified)));
                }
            }
            SnapshotJob::Abandon => self.abandon()?,
        }
        Ok(())
    }

    /// What was written would only take room that the log needs.
    fn give_up(&mut self, job: &SnapshotJob, reports: &mut Vec<Report>) -> io::Result<()> {
        if let SnapshotJob::Begin(number, _)
        | SnapshotJob::Chunk(number, _)
        | SnapshotJob::End(number, _) = job
        {
            reports.push(Report::GivenUp(*number));
        }
        self.abandon()
    }

    fn abandon(&mut self) -> io::Result<()> {
        match self.writer.take().map_or(Ok(()), |(_, writer)| writer.abandon()) {
            // It goes at the next start.
            Err(error) if Trouble::of(&error) == Trouble::NoAccess => Ok(()),
            abandoned => abandoned,
        }
    }
}
