//! Disks of the machines of a simulation: the journals that write to them, what a process finds when
//! it starts, and what a power cut leaves. The engine and its workers are those of production. Pure.
//!
//! Keeps **SafeIsKept**: whatever a journal has called safe is found by the next life, after any
//! power cut and after any operation that failed; and nothing is damaged that nobody damaged.

use kvproto::view::ViewOrder;
use kvproto::{Member, OpNumber, StorageId, View};
use kvserver::journal::engine::{Engine, Failed, Found, Options};
use kvserver::journal::log::Sizes;
use kvserver::journal::pending::Ticket;
use kvserver::journal::work::{
    Front, Left, LogJob, LogWorker, Report, SideJob, SideWorker, Workers,
};
use kvserver::journal::{Completion, Journal, Room, Work};
use kvserver::replica::recovery::{Begun, OwnData, Recovered};
use kvserver::store::Items;

use super::disk::{self, Loss, SimulatedDisk};
use super::network::Node;
use super::servers::Input;
use super::visits::Path;
use super::world::{Happening, MS, World};

/// Small, so that segments change often.
const SIZES: Sizes = Sizes { min: 1 << 10, max: 8 << 10 };
const RETAIN: u64 = 16 << 10;
const RESERVE: u64 = 4 << 10;
/// In so many of a thousand turns the log is still busy, while what is beside it goes on.
const SLOW_LOG_PERMILLE: u64 = 400;

/// The disk of a machine, which outlives its processes.
#[derive(Debug)]
pub struct Storage {
    pub(super) disk: SimulatedDisk,
    id: StorageId,
    /// Through here what is on the disk is safe: some life has said so, or found it and goes on with it.
    pub(super) safe: OpNumber,
    /// The newest record of the view service that some life has called safe.
    recorded: ViewOrder,
    /// What is there may be of use to the next life.
    may_return: bool,
    /// Some operation was made to fail since the log began.
    struck: bool,
}

/// What a process found, until it is registered.
pub type Opened = OwnData<SimulatedDisk>;

/// A journal that writes to a simulated disk, in turns.
#[derive(Debug)]
pub struct DiskJournal {
    front: Front<Queues>,
    log: LogWorker<SimulatedDisk>,
    side: SideWorker<SimulatedDisk>,
    turn_is_due: bool,
    /// Otherwise somebody has to look again.
    room: Room,
}

#[derive(Default, Debug)]
struct Queues {
    log: Vec<(Ticket, LogJob)>,
    side: Vec<SideJob>,
}

impl Workers for Queues {
    fn log(&mut self, ticket: Ticket, job: LogJob) {
        self.log.push((ticket, job));
    }

    fn side(&mut self, job: SideJob) {
        self.side.push(job);
    }
}

impl DiskJournal {
    fn new(engine: Engine<SimulatedDisk>, last: OpNumber) -> DiskJournal {
        let side = SideWorker::new(&engine);
        DiskJournal {
            front: Front::new(&engine, last, Queues::default()),
            log: LogWorker::new(engine),
            side,
            turn_is_due: false,
            room: Room::Enough,
        }
    }

    /// Takes a call. True when the next turn has to be arranged.
    pub(super) fn give(&mut self, work: Work) -> bool {
        self.front.take(work);
        !std::mem::replace(&mut self.turn_is_due, true)
    }

    /// Does what waits; the log's worker only if it `writes`, since the other does not wait for it. True
    /// if there is more to do later.
    fn turn(&mut self, writes: bool) -> Result<bool, Failed> {
        self.turn_is_due = false;
        let (mut reports, mut wanted, mut done) = (Vec::new(), Vec::new(), Vec::new());
        let queues = self.front.workers();
        let (log, side) = (std::mem::take(&mut queues.log), std::mem::take(&mut queues.side));
        log.into_iter().for_each(|(ticket, job)| self.log.take(ticket, job));
        side.into_iter().for_each(|job| self.side.take(job));
        let mut waits = !writes;
        if writes {
            waits = self.log.work(&mut reports) == Left::WaitsForRoom;
            self.log.rest(&mut reports);
            self.log.prepare(&mut wanted);
            self.log.look_for_room(&mut reports);
        }
        wanted.into_iter().for_each(|job| self.side.take(job));
        waits |= self.side.work(&mut reports, &mut done) || !done.is_empty();
        done.into_iter().for_each(|job| self.log.take_from_side(job));
        for report in reports {
            self.front.hear(&report);
            match report {
                Report::Room(room) => self.room = room,
                Report::Failed(failed) => return Err(failed),
                _ => {}
            }
        }
        Ok(waits || self.room == Room::Full)
    }

    pub(super) fn poll(&mut self) -> Option<Completion> {
        self.front.poll()
    }
}

impl Storage {
    pub(super) fn new(node: Node) -> Storage {
        let id = u8::try_from(node + 1).expect("few machines");
        Storage {
            disk: SimulatedDisk::default(),
            id: StorageId([id; 16]),
            safe: OpNumber(0),
            recorded: ViewOrder::default(),
            may_return: true,
            struck: false,
        }
    }

    fn open(&mut self, seed: u64, items: Items, retain_bytes: usize) -> Result<Opened, String> {
        let storage = self.id;
        let options = Options { storage, seed, sizes: SIZES, retain: RETAIN, reserve: RESERVE };
        let (engine, found) =
            Engine::find(self.disk.clone(), options).map_err(|refused| refused.to_string())?;
        if let Found::Damaged(damage) = &found {
            assert!(self.struck, "SafeIsKept: {damage}, and nobody did that");
            self.may_return = false;
        }
        let data = OwnData::read(engine, &found, items, retain_bytes)
            .map_err(|unreadable| unreadable.to_string())?;
        let record = data.shown().map(View::order).unwrap_or_default();
        assert!(
            record >= self.recorded,
            "SafeIsKept: record {:?} was safe, and {record:?} is there",
            self.recorded
        );
        let last = data.recovered().last().0.op;
        assert!(
            last >= self.safe || !self.may_return,
            "SafeIsKept: op {} was safe, and the log ends with {last}",
            self.safe
        );
        Ok(data)
    }
}

impl World<'_> {
    /// What a process finds when it starts; `None` if it can't, and tries again later.
    pub(super) fn open_storage(&mut self, node: Node, items: &Items) -> Option<Option<Opened>> {
        let seed = self.random.draw();
        let machine = &mut self.machines[node];
        let Some(storage) = &mut machine.storage else {
            return Some(None);
        };
        let retain = machine.options.tuning.retain_bytes;
        match storage.open(seed, items.clone(), retain) {
            Ok(opened) => {
                let may_return = storage.may_return;
                if opened.recovered().last().0.op > OpNumber(0) {
                    self.visits.note(Path::FoundItsData);
                }
                if !may_return {
                    self.visits.note(Path::FoundDamage);
                }
                Some(Some(opened))
            }
            Err(why) => {
                self.note(|| format!("s{node}: cannot start: {why}"));
                self.after_a_failure(node);
                None
            }
        }
    }

    /// Takes up what was found, in the cluster that it belongs to.
    pub(super) fn take_up(
        &mut self,
        node: Node,
        opened: Opened,
        view: &View,
        me: &Member,
    ) -> Option<(Recovered, DiskJournal)> {
        match opened.begin(view, me) {
            Ok(Begun { engine, recovered, was_given_up }) => {
                self.visits.note_times(Path::SetAside, u64::from(was_given_up));
                let last = recovered.last().0.op;
                if let Some(storage) = &mut self.machines[node].storage {
                    storage.safe = last;
                }
                Some((recovered, DiskJournal::new(engine, last)))
            }
            Err(refused) => {
                self.note(|| format!("s{node}: {refused}"));
                None
            }
        }
    }

    /// A disk does what waits for it.
    pub(super) fn disk_turn(&mut self, node: Node) {
        let writes = !self.random.chance(SLOW_LOG_PERMILLE);
        let Some(journal) = self.disk_journal(node) else {
            return;
        };
        match journal.turn(writes) {
            Ok(true) => {
                journal.turn_is_due = true;
                let at = self.random.between(1, 3) * MS;
                self.arrange_turn(node, at);
            }
            Ok(false) => {}
            Err(failed) => {
                self.note(|| format!("s{node}: {failed}"));
                self.crash_process(node);
                self.after_a_failure(node);
                return;
            }
        }
        self.hear_journal(node);
    }

    pub(super) fn arrange_turn(&mut self, node: Node, after: u64) {
        if let Some(process) = &self.machines[node].process {
            let life = process.life;
            self.later(after, Happening::ToServer { to: node, life, input: Input::DiskTurn });
        }
    }

    /// Something is safe on the disk of a machine, or what was there is void.
    pub(super) fn note_on_disk(&mut self, node: Node, done: &Completion) {
        let Some(storage) = &mut self.machines[node].storage else {
            return;
        };
        match done {
            Completion::Safe(position) => {
                storage.safe = position.op;
                if position.op > OpNumber(0) {
                    storage.may_return = true;
                }
            }
            Completion::Read { entries: Ok(entries), .. } if !entries.is_empty() => {
                self.visits.note(Path::ReadFromDisk);
            }
            Completion::Recorded(order) => storage.recorded = *order,
            Completion::Snapshot(_) => self.visits.note(Path::OwnSnapshot),
            Completion::Room(Room::Full) => self.visits.note(Path::DiskWasFull),
            _ => {}
        }
    }

    /// The log of a machine is cut back, or begins anew.
    pub(super) fn note_work(&mut self, node: Node, work: &Work) {
        let Some(storage) = &mut self.machines[node].storage else {
            return;
        };
        match work {
            Work::Truncate { after } => storage.safe = storage.safe.min(*after),
            Work::Reset { .. } => storage.safe = OpNumber(0),
            _ => {}
        }
    }

    /// A disk failed a process, which is gone: it comes back, when the power does.
    pub(super) fn after_a_failure(&mut self, node: Node) {
        let seed = self.random.draw();
        if let Some(storage) = &mut self.machines[node].storage
            && storage.disk.is_off()
        {
            storage.disk.power_cycle(Loss::Some(seed));
        }
        self.visits.note(Path::DiskFailed);
        let at = self.random.between(1, 2000) * MS;
        self.later(at, Happening::Start(node));
    }

    /// The power of a machine goes, and with it what was not synced.
    pub(super) fn cut_power(&mut self, node: Node) {
        self.crash_process(node);
        let loss = match self.random.below(4) {
            0 => Loss::Everything,
            _ => Loss::Some(self.random.draw()),
        };
        if let Some(storage) = &mut self.machines[node].storage {
            storage.disk.power_cycle(loss);
        }
    }

    /// The power goes everywhere.
    pub(super) fn cut_all_power(&mut self) {
        self.visits.note(Path::PowerCutOfAll);
        for node in 0..self.machines.len() {
            let runs = self.machines[node].process.is_some();
            self.cut_power(node);
            if runs && self.machines[node].twin_of.is_none() {
                let at = self.random.between(1, 2000) * MS;
                self.later(at, Happening::Start(node));
            }
        }
        let down_for = self.random.between(5, 2000) * MS;
        self.restart_views(down_for);
    }

    /// One of the next operations of a disk goes wrong.
    pub(super) fn strike_disk(&mut self, node: Node) {
        let after = self.random.between(1, 40);
        let fault = match self.random.below(10) {
            0..=5 => disk::Fault::PowerCut,
            6..=8 => disk::Fault::Fails,
            _ => disk::Fault::Full,
        };
        if let Some(storage) = &mut self.machines[node].storage {
            storage.struck |= fault != disk::Fault::PowerCut;
            storage.disk.go_wrong(storage.disk.operations() + after, fault);
            self.note(|| format!("s{node}: operation {after} of its disk: {fault:?}"));
        }
    }

    /// Hardly any room is left on a disk, for a while.
    pub(super) fn fill_disk(&mut self, node: Node) {
        let spare = self.random.between(0, 2 * RESERVE);
        if let Some(storage) = &mut self.machines[node].storage {
            storage.disk.set_capacity(storage.disk.used() + spare);
            self.note(|| format!("s{node}: {spare} bytes are left on its disk"));
            let at = self.random.between(100, 3000) * MS;
            self.later(at, Happening::DiskEmptied(node));
        }
    }

    /// From now on a disk does nothing, and tells no error. Whoever waits for it waits.
    pub(super) fn hang_disk(&mut self, node: Node) {
        if self.machines[node].hung.is_none() {
            self.note(|| format!("s{node}: its disk hangs"));
            self.machines[node].hung = Some(Vec::new());
        }
    }

    /// It goes on, with everything that it was given meanwhile.
    pub(super) fn disk_answers(&mut self, node: Node) {
        let Some(hung) = self.machines[node].hung.take() else {
            return;
        };
        self.note(|| format!("s{node}: its disk answers again"));
        for (life, input) in hung {
            self.input(node, life, input);
        }
    }

    pub(super) fn empty_disk(&mut self, node: Node) {
        if let Some(storage) = &mut self.machines[node].storage {
            storage.disk.set_capacity(u64::MAX);
        }
    }

    /// Nothing goes wrong with a disk any more.
    pub(super) fn calm_disk(&mut self, node: Node) {
        if let Some(storage) = &mut self.machines[node].storage {
            storage.disk.go_right();
        }
    }

    /// No disk that may still come back holds everything.
    pub(super) fn disks_are_lost(&self) -> bool {
        let law = self.views.state();
        let eligible = law.eligible_storages();
        !self.machines.iter().any(|machine| {
            let of_use = |storage: &Storage| storage.may_return && eligible.contains(&storage.id);
            !machine.gone && machine.storage.as_ref().is_some_and(of_use)
        })
    }
}
