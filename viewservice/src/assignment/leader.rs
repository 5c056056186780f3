//! The view service as one value: an event comes in, effects come out. Pure: `now` comes with the
//! event, and everything that reaches the outside is an effect.
//!
//! It owns the failure detector, which registration streams stand, who knocks in vain, and its own copy
//! of the state of the views. Every change of the state goes through `Leader::propose`: it is made to the leader's
//! copy at once, and is a commit of the step, to be kept.
//!
//! Its caller owes it a [`Event::Tick`] every 50 ms or so, numbers for streams that are never used
//! twice, that it performs effects in order, and above all that no effect of a step is performed
//! before all commits of the step are durable. A caller that cannot keep them throws the leader away.

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::registration::{
    NotMet, Process, Progress, RefusedReason, Registration, ToServer, Wish,
};
use kvproto::{Member, ServerName, Timestamp, View, ViewNumber};

use super::door::{Door, Knock};
use super::law::{Applied, Command, Kind, Mode, Refusal, Shown, ViewState};
use super::liveness::{Liveness, State};
use super::notice::Notice;
use super::plain::{self, Meaning};
use super::planner::{self, Waiting};
use super::proof;
use super::requests::{self, Admission, Granted};

/// Changes of view that one event may lead to. One death leads to one; the bound is for a planner
/// that contradicts itself.
const CHANGES_PER_EVENT: usize = 8;
/// A meeting that fails once may have failed by accident, or succeed from elsewhere: from this failure
/// on people are told.
const FAILURES_TOLD: u32 = 2;

/// One registration stream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stream {
    /// Whose.
    pub member: Member,
    /// Which one; a life may need several, one after the other.
    pub number: u64,
}

/// What can happen to the view service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A ping of the lab.
    PlainPing {
        /// The server that it names.
        server: ServerName,
        /// The view that it names.
        number: ViewNumber,
    },
    /// A server wants to attend. Answered by [`Effect::Admitted`] or [`Effect::Rejected`].
    Register {
        /// The number of the stream, if it comes to stand.
        stream: u64,
        /// Who asks.
        registration: Registration,
    },
    /// A sign of life on a stream.
    Ping(Stream, Progress),
    /// A wish on a stream.
    Wish(Stream, Wish),
    /// A stream has ended.
    Broken(Stream),
    /// The address of the server on this broken stream refuses connections.
    Gone(Stream),
    /// This very process answered at its address.
    Met(Process),
    /// It did not.
    NotMet(Process, NotMet),
    /// The server on this stream met the process.
    MetBy(Stream, Process),
    /// The operator accepts the loss of what this server does not hold. Answered by
    /// [`Effect::Forced`].
    Force {
        /// The only server that the new generation starts from.
        server: ServerName,
    },
}

/// What is to be done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// There is a new record for everybody who attends or watches. One step may publish several;
    /// a reader may skip all but the last.
    Publish(Box<View>),
    /// The stream stands; this is the current record.
    Admitted(Stream, Box<View>),
    /// The registration is refused, and its stream ends.
    Rejected {
        /// The stream that it would have been.
        stream: u64,
        /// Why.
        reason: RefusedReason,
        /// What happened and what to do.
        message: String,
    },
    /// For the server on this stream; may be lost.
    Tell(Stream, ToServer),
    /// This stream no longer counts and is to be ended.
    Close(Stream),
    /// Ask the address of this server, until it refuses ([`Event::Gone`]) or for this long.
    Probe(Stream, Duration),
    /// Ask once who answers at the address of this process. Answered by [`Event::Met`] or
    /// [`Event::NotMet`].
    Meet(Process),
    /// The answer to the operator: the new record, or what to do first.
    Forced(Result<Box<View>, String>),
    /// For the log.
    Notice(Notice),
}

/// Everything that an operator wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The current record.
    pub view: View,
    /// Where the servers keep their data; `None` until the first has come.
    pub mode: Option<Mode>,
    /// The registered servers, by name.
    pub servers: Vec<ServerReport>,
    /// For whom or what the cluster waits.
    pub waiting: Option<Waiting>,
    /// The servers that were refused of late, by name, each with the age of its last attempt.
    pub refused: Vec<(ServerName, Knock, Duration)>,
    /// VIEW-8: the doubt that the view service is in.
    pub doubt: Option<DoubtReport>,
}

/// A doubt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DoubtReport {
    /// Who showed what.
    pub shown: Vec<Shown>,
    /// Those who showed it or may serve, each with the time since its last sign of life.
    pub may_serve: Vec<(ServerName, Duration)>,
}

/// One server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerReport {
    /// Its present life.
    pub member: Member,
    /// How it seems to be.
    pub state: State,
    /// What it said last.
    pub progress: Option<Progress>,
    /// Age of the last sign of life, if it was ever heard.
    pub unheard_for: Option<Duration>,
    /// That it was left out, and when it is tried again.
    pub left_out: Option<TriedAgain>,
    /// Whether it is driven by plain pings.
    pub plain: bool,
    /// Why it was not met at its address, which it needs for a part.
    pub not_met: Option<NotMet>,
}

/// Why a server was left out of the view, and when it is tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TriedAgain {
    /// How often it was left out since its record was clean.
    pub times: u32,
    /// What its primary saw the last time.
    pub because: String,
    /// Not before this time is over.
    pub after: Duration,
}

/// The view service.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Written by `propose` only, and never ahead of the log by more than one step.
    pub(super) state: ViewState,
    /// Of the present step.
    commits: Vec<Command>,
    pub(super) liveness: Liveness,
    pub(super) door: Door,
    /// The open stream of each server that has one.
    pub(super) attending: BTreeMap<ServerName, Stream>,
    /// As it was last noticed.
    waiting: Option<Waiting>,
    mixing_noticed: bool,
}

impl Leader {
    /// Begins to lead from this state: everybody in it has a full `dead-after` to be heard, and until
    /// its stream stands it is neither recruited nor promoted.
    #[must_use]
    pub fn new(state: ViewState, now: Timestamp) -> Leader {
        let known: Vec<_> = state.servers().collect();
        let mut liveness = Liveness::new(&state.view().settings, known.iter().cloned(), now);
        if state.kind() == Some(Kind::Full) {
            known.iter().for_each(|member| liveness.suspect(member));
        }
        Leader {
            door: Door::new(&state.view().settings, now),
            state,
            commits: Vec::new(),
            liveness,
            attending: BTreeMap::new(),
            waiting: None,
            mixing_noticed: false,
        }
    }

    /// VIEW-8: before an empty view service founds a cluster, it listens for the servers of another one.
    #[must_use]
    pub fn listening_first(mut self, now: Timestamp) -> Leader {
        self.door.listen(&self.state.view().settings, now);
        self
    }

    /// Takes in what happened, and says what is to be done. What is returned first of all: by these
    /// commands, which belong together, the state has changed, and they must outlive the process.
    #[must_use]
    pub fn step(&mut self, now: Timestamp, event: Event, out: &mut Vec<Effect>) -> Vec<Command> {
        self.take(now, event, out);
        std::mem::take(&mut self.commits)
    }

    fn take(&mut self, now: Timestamp, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::PlainPing { server, number } => self.plain_ping(&server, number, now, out),
            Event::Register { stream, registration } => {
                return self.register(stream, &registration, now, out);
            }
            Event::Ping(stream, progress) if self.is_open(&stream) => {
                self.ping(&stream.member, progress, now, out);
            }
            Event::Wish(stream, wish) if self.is_open(&stream) => {
                self.wish(&stream, wish, now, out);
            }
            Event::Broken(stream) if self.is_open(&stream) => self.broken(stream, out),
            Event::MetBy(stream, process) if self.is_open(&stream) => self.met(&process, out),
            // From a stream that was replaced.
            Event::Ping(..) | Event::Wish(..) | Event::Broken(_) | Event::MetBy(..) => {}
            Event::Gone(stream) => self.gone(&stream.member, now, out),
            Event::Met(process) => self.met(&process, out),
            Event::NotMet(process, why) => self.not_met(&process, &why, out),
            Event::Force { server } => return self.force(&server, now, out),
        }
        self.settle(now, out);
    }

    /// The current record.
    #[must_use]
    pub fn view(&self) -> &View {
        self.state.view()
    }

    /// What the world is shown: the current record, or in doubt the newest one that anybody has.
    #[must_use]
    pub fn public_view(&self) -> &View {
        proof::public_view(&self.state)
    }

    /// Everything that must never be forgotten.
    #[must_use]
    pub fn state(&self) -> &ViewState {
        &self.state
    }

    /// Everything that an operator wants to know.
    #[must_use]
    pub fn report(&self, now: Timestamp) -> Report {
        let server = |member: Member| ServerReport {
            state: self.liveness.state(&member),
            progress: self.liveness.progress(&member),
            unheard_for: self.liveness.unheard_for(&member, now),
            left_out: self.liveness.left_out(&member.name, now).map(|it| TriedAgain {
                times: it.times,
                because: it.because.clone(),
                after: it.tried_again_in(now),
            }),
            plain: self.state.kind() == Some(Kind::Plain),
            not_met: self.why_not_met(&member),
            member,
        };
        Report {
            view: self.view().clone(),
            mode: self.state.mode(),
            servers: self.state.servers().map(server).collect(),
            waiting: self.waits_for(now),
            refused: self
                .door
                .knocks()
                .map(|(name, knock)| (name.clone(), knock.clone(), now.since(knock.at)))
                .collect(),
            doubt: self.state.doubt().map(|doubt| DoubtReport {
                shown: doubt.shown().cloned().collect(),
                may_serve: proof::may_serve(&self.state, &self.liveness, &self.door, now),
            }),
        }
    }

    fn waits_for(&self, now: Timestamp) -> Option<Waiting> {
        proof::waiting(&self.state, &self.door, now)
            .or_else(|| planner::waiting(&self.state, &self.liveness))
    }

    fn plain_ping(
        &mut self,
        server: &ServerName,
        number: ViewNumber,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let founding = self.state.is_untouched();
        if self.state.doubt().is_some() || founding && self.door.has_full() {
            // Whoever speaks like this proves nothing.
            return;
        }
        match plain::ping(&self.state, server, number) {
            Meaning::Inert => self.notice_mixing(
                format!(
                    "a plain ping for {server}: the cluster is made of full servers, so plain \
                     pings are answered and change nothing"
                ),
                out,
            ),
            Meaning::Begins { former, command } => {
                if let Some(former) = former {
                    self.liveness.ended(&former, now);
                    out.push(Effect::Notice(Notice::RestartedEmpty(former)));
                }
                if let Ok(Applied::Registered(member)) = self.propose(command, out) {
                    self.liveness.observe(&member, None, now);
                }
            }
            Meaning::Lives { member, commands } => {
                self.liveness.observe(&member, None, now);
                for command in commands {
                    let _noticed = self.propose(command, out);
                }
            }
        }
    }

    fn register(
        &mut self,
        number: u64,
        registration: &Registration,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        self.tick(now, out);
        match self.admit(registration, now, out) {
            Ok(member) => {
                self.liveness.attend(&member, now);
                let stream = Stream { member, number };
                let older = self.attending.insert(stream.member.name.clone(), stream.clone());
                out.extend(older.map(Effect::Close));
                self.door.admitted(&registration.name);
                self.settle(now, out);
                out.push(Effect::Admitted(stream, Box::new(self.view().clone())));
            }
            Err((reason, message)) => {
                self.door.refused(registration, reason, &message, now);
                out.push(Effect::Rejected { stream: number, reason, message });
                self.settle(now, out);
            }
        }
    }

    /// The life that the server may begin or go on with.
    fn admit(
        &mut self,
        registration: &Registration,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> Result<Member, (RefusedReason, String)> {
        let (state, liveness, door) = (&self.state, &self.liveness, &self.door);
        let admission = requests::register(state, liveness, door, registration, now);
        if !matches!(admission, Admission::Refused(..) | Admission::Doubts(_)) {
            self.liveness.meetings.came(&registration.process(), now);
        }
        match admission {
            Admission::Resumes(member) => Ok(member),
            Admission::Doubts(shown) => match self.doubt(*shown, out) {
                Ok(()) => {
                    let why = proof::waiting(&self.state, &self.door, now).map(|it| it.advice);
                    Err((RefusedReason::Doubt, why.unwrap_or_default()))
                }
                Err(refusal) => Err((RefusedReason::Incompatible, refusal.to_string())),
            },
            Admission::Refused(reason, message) => {
                if reason == RefusedReason::WrongKind {
                    self.notice_mixing(message.clone(), out);
                }
                Err((reason, message))
            }
            Admission::InUse(older, message) => {
                self.liveness.succeeded(&older);
                Err((RefusedReason::NameInUse, message))
            }
            Admission::Begins { former, command } => match self.propose(command, out) {
                Ok(Applied::Registered(member)) => {
                    if let Some(former) = former {
                        self.end(&former, now, out);
                    }
                    out.push(Effect::Notice(Notice::Registered(member.clone())));
                    Ok(member)
                }
                Ok(_) => unreachable!("a registration that was applied names the member"),
                Err(refusal) => {
                    Err((RefusedReason::Incompatible, format!("{}: {refusal}", registration.name)))
                }
            },
        }
    }

    /// A life is over because a newer one is registered.
    fn end(&mut self, former: &Member, now: Timestamp, out: &mut Vec<Effect>) {
        self.liveness.ended(former, now);
        let Some(stream) = self.attending.remove(&former.name) else {
            return;
        };
        let message =
            format!("a newer process than {former} stands under this name: stop this one");
        let refused = ToServer::Refused { reason: RefusedReason::StaleIncarnation, message };
        out.push(Effect::Tell(stream.clone(), refused));
        out.push(Effect::Close(stream));
    }

    /// VIEW-8: somebody shows what this state does not descend from.
    fn doubt(&mut self, shown: Shown, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let applied = self.propose(Command::Doubt { shown: shown.clone() }, out)?;
        if applied == Applied::Changed {
            out.push(Effect::Notice(Notice::Doubts(shown)));
        }
        Ok(())
    }

    fn ping(&mut self, member: &Member, progress: Progress, now: Timestamp, out: &mut Vec<Effect>) {
        let hung = self.liveness.disk_hangs(member);
        self.liveness.observe(member, Some(progress), now);
        let shown = proof::shown_by_ping(&self.state, member, progress.view, progress.history);
        if let Some(shown) = shown {
            let _noticed = self.doubt(shown, out);
            return;
        }
        let hangs = self.liveness.disk_hangs(member);
        if hangs != hung {
            out.push(Effect::Notice(Notice::Disk { member: member.clone(), hangs }));
        }
        let view = self.state.view();
        if view.is_primary(member)
            && view.is_activated()
            && progress.committed > self.state.committed_heard()
        {
            let heard = Command::Heard {
                by: member.clone(),
                view: self.state.view_id(),
                committed: progress.committed,
            };
            let _noticed = self.propose(heard, out);
        }
    }

    fn wish(&mut self, stream: &Stream, wish: Wish, now: Timestamp, out: &mut Vec<Effect>) {
        let member = &stream.member;
        let granted = requests::wish(&self.state, &self.liveness, member, wish.clone(), now);
        let mut because = String::new();
        if let Wish::Yield { reason, .. } = &wish {
            let (by, reason) = (member.clone(), reason.clone());
            because.clone_from(&reason);
            out.push(Effect::Notice(Notice::Yields { by, reason }));
        }
        if let Wish::Evict { server, reason, acknowledges, .. } = wish {
            // Who still acknowledges is spoken of once, and all the time until something comes of it.
            let is_news = match &granted {
                Granted::Slow(backup) => !self.liveness.is_slow(backup, now),
                Granted::Nothing => !acknowledges,
                _ => true,
            };
            if is_news {
                let (by, reason) = (member.clone(), reason.clone());
                out.push(Effect::Notice(Notice::AsksWithout { by, server, reason }));
            }
            because = reason;
        }
        match granted {
            Granted::Propose(command) => {
                let _noticed = self.propose(command, out);
            }
            Granted::Evict(command, backup) => {
                if self.propose(command, out).is_ok() {
                    self.left_out(&backup, because, now, out);
                }
            }
            Granted::Slow(backup) => self.liveness.slow(&backup, because, now),
            Granted::Leaving => {
                // The wish is repeated until it is granted.
                if self.liveness.state(member) != State::Leaving {
                    let leads = self.view().is_primary(member);
                    let member = member.clone();
                    out.push(Effect::Notice(Notice::WantsToStop { member, leads }));
                }
                self.liveness.leaving(member, now);
            }
            Granted::NobodyToTakeOver => {
                out.push(Effect::Notice(Notice::NobodyToTakeOver(member.clone())));
                out.push(Effect::Tell(stream.clone(), ToServer::NobodyToTakeOver));
            }
            Granted::Nothing => {}
        }
    }

    fn left_out(&mut self, backup: &Member, why: String, now: Timestamp, out: &mut Vec<Effect>) {
        self.liveness.evicted(backup, why, now);
        out.push(Effect::Notice(Notice::Evicted(backup.clone())));
    }

    /// A suspicion, which becomes death when the address of the server refuses a connection.
    fn broken(&mut self, stream: Stream, out: &mut Vec<Effect>) {
        self.attending.remove(&stream.member.name);
        self.liveness.suspect(&stream.member);
        out.push(Effect::Notice(Notice::Broken(stream.member.clone())));
        out.push(Effect::Probe(stream, self.view().settings.dead_after));
    }

    fn gone(&mut self, member: &Member, now: Timestamp, out: &mut Vec<Effect>) {
        let back = self.attending.contains_key(&member.name);
        if !back && self.state.is_present(member) && self.liveness.refused(member, now) {
            out.push(Effect::Notice(Notice::Gone(member.clone())));
        }
    }

    fn met(&mut self, process: &Process, out: &mut Vec<Effect>) {
        let failures = self.liveness.meetings.met(process);
        if failures.is_some_and(|failures| failures >= FAILURES_TOLD) {
            out.push(Effect::Notice(Notice::Met(process.name.clone())));
        }
    }

    /// Tried again, later each time. Where nobody answers this process, a server may get an answer.
    fn not_met(&mut self, process: &Process, why: &NotMet, out: &mut Vec<Effect>) {
        let Some(failures) = self.liveness.meetings.failed(process, why.clone()) else {
            return;
        };
        if let (NotMet::Nobody(_), Some(peer)) = (why, self.peer_of(process, failures)) {
            out.push(Effect::Tell(peer, ToServer::Meet(process.clone())));
        }
        if failures == FAILURES_TOLD {
            let name = process.name.clone();
            out.push(Effect::Notice(Notice::NotMet(name, why.clone())));
        }
        let attending = self.attending.get(&process.name);
        let stream =
            attending.filter(|it| self.state.process(&it.member).as_ref() == Some(process));
        if let Some(stream) = stream.filter(|_| failures >= FAILURES_TOLD) {
            let message = requests::not_met(&process.name, why);
            out.push(Effect::Tell(stream.clone(), ToServer::NotMet { message }));
        }
    }

    /// Another server, to be asked to meet this process: the primary first, which has most to do with
    /// it, then each of the others.
    fn peer_of(&self, process: &Process, failures: u32) -> Option<Stream> {
        let mut others: Vec<_> =
            self.attending.values().filter(|other| other.member.name != process.name).collect();
        others.sort_by_key(|other| !self.view().is_primary(&other.member));
        let turn = (failures as usize).checked_sub(1)?.checked_rem(others.len())?;
        others.get(turn).copied().cloned()
    }

    fn why_not_met(&self, member: &Member) -> Option<NotMet> {
        self.liveness.meetings.why_not(&self.state.process(member)?).cloned()
    }

    fn force(&mut self, server: &ServerName, now: Timestamp, out: &mut Vec<Effect>) {
        self.tick(now, out);
        let before = self.view().clone();
        let heard = self.state.committed_heard();
        let doubted = self.state.doubt().is_some();
        let asked = requests::force(&self.state, &self.liveness, &self.door, server, now);
        let forced = asked
            .and_then(|command| self.propose(command, out).map_err(|refusal| refusal.to_string()));
        if forced.is_ok() {
            out.push(Effect::Notice(Notice::Forced {
                generation: self.view().generation,
                server: server.clone(),
                given_up: before.eligible,
                heard,
            }));
            if doubted {
                self.end_the_replaced(now, out);
            }
        }
        self.settle(now, out);
        out.push(Effect::Forced(forced.map(|_| Box::new(self.view().clone()))));
    }

    /// After a doubt: lives that are over attend no longer, and the one that was believed has
    /// `dead-after` to come.
    fn end_the_replaced(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let attending: Vec<_> =
            self.attending.values().map(|stream| stream.member.clone()).collect();
        for member in attending {
            if !self.state.is_present(&member) {
                self.end(&member, now, out);
            }
        }
        let primary = self.view().primary.clone();
        if let Some(primary) = primary.filter(|it| !self.attending.contains_key(&it.name)) {
            self.liveness.observe(&primary, None, now);
            self.liveness.suspect(&primary);
        }
    }

    /// Lets time pass, and does what the planner wants.
    fn settle(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.tick(now, out);
        for _ in 0..CHANGES_PER_EVENT {
            let Some(command) = planner::next(&self.state, &self.liveness, now) else {
                break;
            };
            let forgotten = match &command {
                Command::Forget { server } => Some(server.clone()),
                _ => None,
            };
            let before = self.view().clone();
            if self.propose(command, out).is_err() {
                break;
            }
            self.note_replaced(&before, now, out);
            if let Some(server) = forgotten {
                self.liveness.forget(&server);
            }
        }
        out.extend(self.liveness.meetings.due().into_iter().map(Effect::Meet));
        self.notice_waiting(now, out);
    }

    /// A slow backup that lives and makes room for another was left out; one that takes over, dies or
    /// wants to stop was not.
    fn note_replaced(&mut self, before: &View, now: Timestamp, out: &mut Vec<Effect>) {
        if self.view().primary != before.primary {
            return;
        }
        for backup in &before.backups {
            let goes = !self.view().backups.contains(backup)
                && self.liveness.state(backup) == State::Alive;
            if let Some(because) = self.liveness.slow_because(backup, now).filter(|_| goes) {
                self.left_out(backup, because, now, out);
            }
        }
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.door.tick(now);
        let (state, attending) = (&self.state, &self.attending);
        self.liveness.meetings.tick(now, |process| {
            let stream = attending.get(&process.name);
            stream.and_then(|stream| state.process(&stream.member)).as_ref() == Some(process)
        });
        let died = self.liveness.tick(now);
        out.extend(died.into_iter().map(|(member, how)| Effect::Notice(Notice::Died(member, how))));
    }

    /// The one place where the state changes.
    fn propose(&mut self, command: Command, out: &mut Vec<Effect>) -> Result<Applied, Refusal> {
        let before = self.view().clone();
        let applied = self.state.apply(command.clone());
        match &applied {
            Ok(Applied::Unchanged) => {}
            Ok(Applied::Changed | Applied::Registered(_)) => {
                self.commits.push(command);
                self.publish(&before, out);
            }
            Err(refusal) => {
                let refusal = refusal.clone();
                out.push(Effect::Notice(Notice::Refused(command, refusal)));
            }
        }
        applied
    }

    fn publish(&self, before: &View, out: &mut Vec<Effect>) {
        let view = self.view();
        if view.revision == before.revision {
            return;
        }
        out.extend(Notice::of_change(before, view).into_iter().map(Effect::Notice));
        out.push(Effect::Publish(Box::new(view.clone())));
    }

    fn notice_waiting(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let waiting = self.waits_for(now);
        if waiting == self.waiting {
            return;
        }
        // Before the first activation there is nothing yet to wait for, but who holds it up.
        let held_up = proof::waiting(&self.state, &self.door, now).is_some();
        if self.state.ever_activated() || held_up {
            match (&waiting, &self.waiting) {
                (Some(waiting), _) => out.push(Effect::Notice(Notice::Waiting(waiting.clone()))),
                (None, Some(_)) => out.push(Effect::Notice(Notice::NoLongerWaiting)),
                (None, None) => {}
            }
        }
        self.waiting = waiting;
    }

    fn notice_mixing(&mut self, what: String, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.mixing_noticed, true) {
            out.push(Effect::Notice(Notice::Mixing(what)));
        }
    }

    fn is_open(&self, stream: &Stream) -> bool {
        self.attending.get(&stream.member.name) == Some(stream)
    }
}
