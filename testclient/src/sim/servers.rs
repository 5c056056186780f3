//! Processes of a simulation: a replica, its journal that finishes late, its registration, and the
//! performing of effects. A process may be paused anywhere, also between deciding and acting. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvproto::registration::{Held, Process as ServerProcess, RefusedReason};
use kvproto::{ClusterId, Member, NotDone, NotReady, OpNumber, Reply, ServerName, View};
use kvserver::journal::Work;
use kvserver::journal::pending::{Pending, SnapshotNumber, Ticket};
use kvserver::replica::effect::{Effect, Notice};
use kvserver::replica::event::{Event, Operation, Request, Token};
use kvserver::replica::{Reads, Replica, ReplicaOptions};
use kvserver::store::Items;
use kvserver::table::Table;

use super::draw::Clock;
use super::invariants::Shadow;
use super::network::Node;
use super::registration::Say;
use super::storage::{DiskJournal, Opened, Storage};
use super::views::ToViews;
use super::visits::Path;
use super::world::{Happening, MS, World};

const TICK: u64 = 10 * MS;

/// What reaches a process.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A ping is due.
    Ping,
    /// An attempt to register is due.
    Attend,
    /// For the replica.
    Event(Box<Event>),
    /// The view service accepts this life.
    Registered {
        /// The registration stream.
        stream: u64,
        /// Who this is.
        member: Member,
        /// The current record.
        view: Box<View>,
    },
    /// The view service refuses this life.
    Refused {
        /// Why.
        reason: RefusedReason,
    },
    /// The view service asks this server to meet another process at its address.
    Meet(ServerProcess),
    /// The registration stream broke.
    RegistrationBroken {
        /// Which.
        stream: u64,
    },
    /// The journal has come this far.
    Written(Ticket),
    /// A disk does what waits for it.
    DiskTurn,
}

impl Input {
    /// Whether it comes over the link from the view service.
    pub(super) fn is_from_views(&self) -> bool {
        match self {
            Input::Registered { .. } | Input::Refused { .. } | Input::Meet(_) => true,
            Input::Event(event) => matches!(**event, Event::View(_) | Event::NobodyToTakeOver),
            _ => false,
        }
    }
}

/// The journal of one process.
#[derive(Debug)]
pub enum Journal {
    /// Which keeps nothing.
    Memory(SlowJournal),
    /// Which writes to the machine's disk.
    Disk(Box<DiskJournal>),
}

/// The journal of one process, which finishes in order and late.
#[derive(Debug, Default)]
pub struct SlowJournal {
    pending: Pending,
    done_at: u64,
    finished: Ticket,
    /// By op, the call that wrote it.
    written: BTreeMap<OpNumber, Ticket>,
    /// Snapshot under way, and its chunks so far.
    snapshot: (SnapshotNumber, u64),
}

impl SlowJournal {
    /// The call that will be done later; `None` for what nobody waits for.
    fn take(&mut self, work: Work) -> Option<Ticket> {
        Some(match work {
            Work::Adopt(epoch) => self.pending.adopt(epoch),
            Work::Append(entries) => {
                let ticket = self.pending.append(&entries);
                self.written.extend(entries.iter().map(|entry| (entry.op(), ticket)));
                ticket
            }
            Work::Truncate { after } => {
                self.written.split_off(&after.next());
                self.pending.truncate(after)
            }
            Work::Reset { base } => {
                let ticket = self.pending.reset(base);
                self.written = BTreeMap::from([(base.op, ticket)]);
                ticket
            }
            Work::BeginSnapshot { .. } => {
                self.snapshot = (self.pending.begin_snapshot(), 0);
                self.pending.silent()
            }
            Work::SnapshotChunk(_) => {
                self.snapshot.1 += 1;
                let (number, chunks) = self.snapshot;
                self.pending.chunks_written(number, chunks);
                self.pending.silent()
            }
            Work::EndSnapshot(_) | Work::Read { .. } | Work::Committed { .. } => return None,
        })
    }
}

/// One life of a process.
#[derive(Debug)]
pub struct Process {
    pub(super) life: u64,
    pub(super) member: Option<Member>,
    pub(super) replica: Option<Replica>,
    /// What doors read without asking the replica.
    pub(super) table: Table,
    pub(super) shadow: Shadow,
    pub(super) registration: Option<u64>,
    /// The latest registration stream that has ended.
    pub(super) ended: u64,
    pub(super) journal: Journal,
    /// What it found on its disk.
    pub(super) found: Option<(Held, Option<ClusterId>)>,
    pub(super) opened: Option<Opened>,
    /// Reads that wait for a round.
    reads_waiting: BTreeSet<Token>,
}

/// What a step must have decided for a pause to come between it and its doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decides {
    /// To answer or to send.
    Anything,
    /// To answer a read by a lease.
    LeaseRead,
}

impl Decides {
    fn is(self, effect: &Effect) -> bool {
        match (self, effect) {
            (Decides::Anything, Effect::Reply { .. } | Effect::Send(_)) => true,
            (Decides::LeaseRead, Effect::Reply { valid_until, .. }) => valid_until.is_some(),
            _ => false,
        }
    }
}

/// One machine and what runs on it.
#[derive(Debug)]
pub struct Machine {
    pub(super) name: ServerName,
    /// The machine that has the same address by somebody's mistake.
    pub(super) twin_of: Option<Node>,
    /// It only says so: the address does not lead here.
    pub(super) is_astray: bool,
    /// Nothing is started here any more.
    pub(super) gone: bool,
    pub(super) clock: Clock,
    pub(super) process: Option<Process>,
    pub(super) paused: bool,
    /// Somebody wants this process to stop.
    pub(super) leaving: bool,
    /// The next step that wants something done is followed by a pause of this length.
    pub(super) pause_after_step: Option<(u64, Decides)>,
    pub(super) held: Vec<Effect>,
    pub(super) door: Vec<Request>,
    pub(super) inbox: VecDeque<Input>,
    pub(super) journal_delay: u64,
    /// While its disk hangs, what that would have done, and for which life.
    pub(super) hung: Option<Vec<(u64, Input)>>,
    /// Its disk, where data is not kept in memory only.
    pub(super) storage: Option<Storage>,
    pub(super) options: ReplicaOptions,
}

impl World<'_> {
    /// The machine on which a life of a server runs.
    pub(super) fn host_of(&self, member: &Member) -> Option<Node> {
        self.machines.iter().position(|machine| {
            let process = machine.process.as_ref();
            process.is_some_and(|process| process.member.as_ref() == Some(member))
        })
    }

    pub(super) fn start(&mut self, node: Node) {
        if self.machines[node].process.is_some() || self.machines[node].gone {
            return;
        }
        if self.machines[node].hung.is_some() && self.machines[node].storage.is_some() {
            // It reads its data first.
            return self.later(100 * MS, Happening::Start(node));
        }
        let table = Table::new(Items::default());
        let Some(opened) = self.open_storage(node, table.items()) else {
            return;
        };
        self.lives += 1;
        let life = self.lives;
        let found = opened.as_ref().map(Opened::held);
        self.note(|| format!("s{node}: starts as life {life}, finds {found:?}"));
        let machine = &mut self.machines[node];
        machine.process = Some(Process {
            life,
            member: None,
            replica: None,
            shadow: Shadow::default(),
            registration: None,
            ended: 0,
            journal: Journal::Memory(SlowJournal::default()),
            found,
            opened,
            reads_waiting: BTreeSet::new(),
            table,
        });
        machine.paused = false;
        machine.leaving = false;
        machine.pause_after_step = None;
        machine.held.clear();
        machine.door.clear();
        machine.inbox.clear();
        for input in [Input::Attend, Input::Tick, Input::Ping] {
            let at = self.random.between(0, TICK);
            self.later(at, Happening::ToServer { to: node, life, input });
        }
    }

    /// A process ends, and in half of the worlds with disks the power of its machine with it.
    pub(super) fn crash(&mut self, node: Node) {
        if self.machines[node].storage.is_some() && self.random.chance(500) {
            self.cut_power(node);
        } else {
            self.crash_process(node);
        }
    }

    pub(super) fn crash_process(&mut self, node: Node) {
        let Some(process) = self.machines[node].process.take() else {
            return;
        };
        let life = process.life;
        self.note(|| format!("s{node}: life {life} ends"));
        self.machines[node].paused = false;
        self.machines[node].leaving = false;
        self.machines[node].inbox.clear();
        self.machines[node].held.clear();
        self.break_channels_of(node, life);
        self.break_requests_at(node, life);
        if let (Some(stream), Some(member)) = (process.registration, process.member) {
            let at = if self.network.is_cut(node, self.views_node()) {
                self.random.between(200, 2500) * MS
            } else {
                self.random.between(1, 20) * MS
            };
            self.later_to_views(at, node, ToViews::Broken(stream, member));
        }
    }

    pub(super) fn input(&mut self, node: Node, life: u64, input: Input) {
        let machine = &mut self.machines[node];
        if let (Input::Written(_) | Input::DiskTurn, Some(hung)) = (&input, &mut machine.hung) {
            return hung.push((life, input));
        }
        match &mut machine.process {
            Some(process) if process.life == life => {
                if let (Input::Written(ticket), Journal::Memory(journal)) =
                    (&input, &mut process.journal)
                {
                    journal.finished = *ticket;
                }
            }
            _ => return,
        }
        if machine.paused {
            machine.inbox.push_back(input);
        } else {
            self.take(node, life, input);
        }
    }

    pub(super) fn resume(&mut self, node: Node, life: u64) {
        let same =
            |world: &Self| world.machines[node].process.as_ref().is_some_and(|p| p.life == life);
        if !same(self) || !self.machines[node].paused {
            return;
        }
        self.note(|| format!("s{node}: resumes"));
        self.machines[node].paused = false;
        let held = std::mem::take(&mut self.machines[node].held);
        self.perform(node, life, held);
        if self.random.chance(500) {
            // A node has a queue for requests, one for other events, and a clock, and takes from
            // them as it likes.
            let requests = |input: &Input| matches!(input, Input::Event(event) if matches!(**event, Event::Requests(_)));
            let rank = |input: &Input| match input {
                Input::Tick => 2,
                _ => u8::from(!requests(input)),
            };
            self.machines[node].inbox.make_contiguous().sort_by_key(rank);
        }
        while same(self) && !self.machines[node].paused {
            let Some(input) = self.machines[node].inbox.pop_front() else {
                break;
            };
            self.take(node, life, input);
        }
        if same(self) {
            self.hear_journal(node);
        }
    }

    fn take(&mut self, node: Node, life: u64, input: Input) {
        match input {
            Input::Tick => {
                self.later(TICK, Happening::ToServer { to: node, life, input });
                self.step(node, Event::Tick);
            }
            Input::Ping => {
                let at = self.settings.ping_interval.as_micros() as u64;
                self.later(at, Happening::ToServer { to: node, life, input });
                let process = self.machines[node].process.as_ref();
                let progress = process.and_then(|p| Some(p.replica.as_ref()?.progress()));
                if let Some(progress) = progress {
                    self.tell_views(node, life, Say::Ping(progress));
                }
            }
            Input::Attend => self.attend(node, life),
            // Records come after the answer to the registration.
            Input::Event(event)
                if matches!(*event, Event::View(_)) && !self.is_registered(node) =>
            {
                let input = Input::Event(event);
                self.later(5 * MS, Happening::ToServer { to: node, life, input });
            }
            Input::Event(event) => self.step(node, *event),
            Input::Registered { stream, member, view } => {
                self.on_registered(node, stream, member, *view)
            }
            // It tries again by itself.
            // It tries again, and serves as it stands if it does.
            Input::Refused {
                reason: RefusedReason::NameInUse | RefusedReason::Doubt | RefusedReason::Listening,
            } => {}
            Input::Refused { reason } => {
                if reason == RefusedReason::StaleIncarnation {
                    self.visits.note(Path::StaleLifeEnded);
                }
                self.crash(node);
                if self.machines[node].twin_of.is_none() {
                    self.later(100 * MS, Happening::Start(node));
                }
            }
            Input::Meet(process) => {
                if self.who_answers(node, &process).is_ok() {
                    self.tell_views(node, life, Say::Met(process));
                }
            }
            Input::RegistrationBroken { stream } => {
                if let Some(process) = &mut self.machines[node].process {
                    process.ended = process.ended.max(stream);
                    if process.registration == Some(stream) {
                        process.registration = None;
                        self.attend(node, life);
                    }
                }
            }
            Input::Written(ticket) => {
                if let Some(process) = &mut self.machines[node].process
                    && let Journal::Memory(journal) = &mut process.journal
                {
                    journal.pending.finished(ticket);
                }
                self.hear_journal(node);
            }
            Input::DiskTurn => self.disk_turn(node),
        }
    }

    pub(super) fn step(&mut self, node: Node, event: Event) {
        let now = self.machines[node].clock.at(self.now);
        if self.is_traced() && event != Event::Tick {
            let told = format!("s{node} <- {event:?}");
            self.note(|| told);
        }
        let machine = &mut self.machines[node];
        let Some(process) = &mut machine.process else {
            return;
        };
        let life = process.life;
        let Some(replica) = &mut process.replica else {
            return;
        };
        let asked: Vec<Token> = match &event {
            Event::Requests(requests) if replica.is_acting() => {
                let reads = requests.iter().filter(|r| matches!(r.operation, Operation::Query(_)));
                reads.map(|request| request.token).collect()
            }
            _ => Vec::new(),
        };
        let mut effects = Vec::new();
        process.table.step(&mut effects, |effects| replica.step(now, event, effects));
        self.note_rounds(node, asked, &effects);
        if self.is_traced() {
            for effect in &effects {
                self.note(|| format!("s{node} -> {effect:?}"));
            }
        }
        self.observe(node, &effects);
        let wants_pause = !effects.is_empty() && !self.machines[node].held.is_empty();
        assert!(!wants_pause, "the simulator steps a paused process");
        if let Some((pause, what)) = self.machines[node].pause_after_step
            && effects.iter().any(|effect| what.is(effect))
        {
            self.machines[node].pause_after_step = None;
            self.visits.note(Path::PauseInStep);
            self.machines[node].paused = true;
            self.machines[node].held = effects;
            self.note(|| format!("s{node}: pauses in the middle of a step"));
            self.later(pause, Happening::Resume(node, life));
            return;
        }
        self.perform(node, life, effects);
    }

    /// Counts reads that were asked for in this step and have to wait for a round.
    fn note_rounds(&mut self, node: Node, asked: Vec<Token>, effects: &[Effect]) {
        let leases = self.machines[node].options.reads == Reads::Lease;
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        for effect in effects {
            if let Effect::Reply { token, .. } = effect {
                process.reads_waiting.remove(token);
            }
        }
        for token in asked {
            let answered =
                |effect: &Effect| matches!(effect, Effect::Reply { token: of, .. } if *of == token);
            if effects.iter().any(answered) {
                continue;
            }
            if leases {
                self.visits.note(Path::LeaseFallback);
            }
            if !process.reads_waiting.is_empty() {
                self.visits.note(Path::RoundJoined);
            }
            process.reads_waiting.insert(token);
        }
    }

    fn perform(&mut self, node: Node, life: u64, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(published) => {
                    if let Some(process) = &self.machines[node].process {
                        process.table.publish(published);
                    }
                }
                Effect::Journal(work) => self.write(node, life, work),
                Effect::OpenStream { to, stream } => self.open_channel(node, life, to, stream),
                Effect::CloseStream { to, stream } => self.close_channel(node, life, &to, stream),
                Effect::Send(message) => {
                    if let kvproto::message::Body::Ack(ack) = &message.body {
                        self.check_ack_is_safe(node, ack.matched);
                    }
                    if matches!(message.body, kvproto::message::Body::Released) {
                        self.check_shows_nothing(node);
                    }
                    self.send(node, life, message);
                }
                Effect::Reply { token, reply, valid_until } => {
                    let now = self.machines[node].clock.at(self.now);
                    let reply = if valid_until.is_some_and(|until| now >= until) {
                        self.visits.note(Path::LeaseRanOut);
                        Reply::NotDone(NotDone::NotReady(NotReady::Unconfirmed))
                    } else {
                        reply
                    };
                    if let Reply::Done { at, .. } = &reply {
                        self.check_ack_is_safe(node, at.op);
                        self.check_shows(node, token, *at);
                    }
                    self.on_reply(node, token, reply);
                }
                Effect::Wish(wish) => self.tell_views(node, life, Say::Wish(wish)),
                Effect::Notice(notice) => self.on_notice(node, life, &notice),
                Effect::Left => {
                    self.crash(node);
                    if self.machines[node].twin_of.is_none() {
                        let at = self.random.between(50, 1500) * MS;
                        self.later(at, Happening::Start(node));
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn disk_journal(&mut self, node: Node) -> Option<&mut DiskJournal> {
        match &mut self.machines[node].process.as_mut()?.journal {
            Journal::Disk(journal) => Some(journal),
            Journal::Memory(_) => None,
        }
    }

    fn write(&mut self, node: Node, life: u64, work: Work) {
        self.note_work(node, &work);
        let now = self.now;
        let delay_max = self.machines[node].journal_delay;
        let delay = self.random.between(1, delay_max.max(1));
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        let journal = match &mut process.journal {
            Journal::Memory(journal) => journal,
            Journal::Disk(journal) => {
                if journal.give(work) {
                    self.arrange_turn(node, delay);
                }
                return;
            }
        };
        let Some(ticket) = journal.take(work) else {
            return;
        };
        journal.done_at = (journal.done_at + 1).max(now + delay);
        let at = journal.done_at - now;
        let input = Input::Written(ticket);
        self.later(at, Happening::ToServer { to: node, life, input });
    }

    /// Tells a replica what its journal has done.
    pub(super) fn hear_journal(&mut self, node: Node) {
        loop {
            let machine = &mut self.machines[node];
            let Some(process) = machine.process.as_mut().filter(|_| !machine.paused) else {
                return;
            };
            let done = match &mut process.journal {
                Journal::Memory(journal) => journal.pending.poll(),
                Journal::Disk(journal) => journal.poll(),
            };
            let Some(done) = done else {
                return;
            };
            self.note_on_disk(node, &done);
            self.step(node, Event::Journal(done));
        }
    }

    /// Whether the journal has finished everything through an op.
    pub(super) fn is_safe(&self, node: Node, op: OpNumber) -> bool {
        let machine = &self.machines[node];
        let Some(process) = &machine.process else {
            return false;
        };
        let journal = match &process.journal {
            Journal::Memory(journal) => journal,
            Journal::Disk(_) => {
                return machine.storage.as_ref().is_some_and(|storage| op <= storage.safe);
            }
        };
        let wrote = journal.written.range(OpNumber(1)..=op.max(OpNumber(1))).next_back();
        op == OpNumber(0) || wrote.is_none_or(|(_, ticket)| *ticket <= journal.finished)
    }

    fn check_ack_is_safe(&self, node: Node, matched: OpNumber) {
        assert!(
            self.is_safe(node, matched),
            "AckedIsSafe: s{node} acknowledged op {matched} before its journal had it"
        );
    }

    fn on_notice(&mut self, node: Node, life: u64, notice: &Notice) {
        match notice {
            // Whoever wants it to stop asks again, until somebody can take over.
            Notice::OnlyCopy { .. } => {
                let input = Input::Event(Box::new(Event::Leave));
                self.later(2000 * MS, Happening::ToServer { to: node, life, input });
            }
            Notice::TransferStarted { to, .. } => {
                let before = self.transfers.insert(to.clone(), false);
                let cut_short = u64::from(before == Some(false));
                self.visits.note_times(Path::TransferCutShort, cut_short);
            }
            Notice::TransferReceived { .. } => {
                let process = self.machines[node].process.as_ref();
                if let Some(me) = process.and_then(|process| process.member.clone()) {
                    self.transfers.insert(me, true);
                }
            }
            Notice::CopySynced { copy, .. } => {
                let transfer = self.transfers.remove(copy).is_some();
                self.visits.note(if transfer { Path::JoinByTransfer } else { Path::JoinByLog });
            }
            Notice::Outrun { copy } => {
                let transfer = self.transfers.remove(copy).is_some();
                self.visits.note_times(Path::TransferOutrun, u64::from(transfer));
            }
            Notice::TailDropped { .. } => self.visits.note(Path::TailDropped),
            Notice::Deposed { .. } => self.visits.note(Path::Deposed),
            // Of what arrives twice, or in another order, some may make no sense.
            Notice::Nonsense { from, what } => assert!(
                self.network.is_tampered || self.visits.count(Path::DoubledMessage) > 0,
                "NoNonsense: s{node} is told nonsense by {from}: {what}"
            ),
            Notice::Diverged { copy, at } => {
                panic!("CopiesAgree: {copy} is said to differ at op {at}")
            }
            _ => {}
        }
    }
}
