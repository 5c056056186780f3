//! The view service as one value: an event comes in, effects come out. Pure: `now` comes with the
//! event, and everything that reaches the outside is an effect.
//!
//! It owns the failure detector, which registration streams stand, and its own copy of the state of
//! the views. Every change of the state goes through `Leader::propose`: it is made to the leader's
//! copy at once, and is a commit of the step, to be kept.
//!
//! Its caller owes it a [`Event::Tick`] every 50 ms or so, numbers for streams that are never used
//! twice, that it performs effects in order, and above all that no effect of a step is performed
//! before all commits of the step are durable. A caller that cannot keep them throws the leader away.

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::registration::{Progress, RefusedReason, Registration, ToServer, Wish};
use kvproto::{Member, ServerName, Timestamp, View, ViewNumber};

use super::law::{Applied, Command, Kind, Mode, Refusal, ViewState};
use super::liveness::{Liveness, State};
use super::notice::Notice;
use super::plain::{self, Meaning};
use super::planner::{self, Waiting};
use super::requests::{self, Admission, Granted};

/// Changes of view that one event may lead to. One death leads to one; the bound is for a planner
/// that contradicts itself.
const CHANGES_PER_EVENT: usize = 8;

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
    /// Whether it is driven by plain pings.
    pub plain: bool,
}

/// The view service.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Written by `propose` only, and never ahead of the log by more than one step.
    pub(super) state: ViewState,
    /// Of the present step.
    commits: Vec<Command>,
    pub(super) liveness: Liveness,
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
            state,
            commits: Vec::new(),
            liveness,
            attending: BTreeMap::new(),
            waiting: None,
            mixing_noticed: false,
        }
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
            // From a stream that was replaced.
            Event::Ping(..) | Event::Wish(..) | Event::Broken(_) => {}
            Event::Gone(stream) => self.gone(&stream.member, now, out),
            Event::Force { server } => return self.force(&server, now, out),
        }
        self.settle(now, out);
    }

    /// The current record.
    #[must_use]
    pub fn view(&self) -> &View {
        self.state.view()
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
            plain: self.state.kind() == Some(Kind::Plain),
            member,
        };
        Report {
            view: self.view().clone(),
            mode: self.state.mode(),
            servers: self.state.servers().map(server).collect(),
            waiting: planner::waiting(&self.state, &self.liveness),
        }
    }

    fn plain_ping(
        &mut self,
        server: &ServerName,
        number: ViewNumber,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
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
                self.settle(now, out);
                out.push(Effect::Admitted(stream, Box::new(self.view().clone())));
            }
            Err((reason, message)) => {
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
        match requests::register(&self.state, &self.liveness, registration) {
            Admission::Resumes(member) => Ok(member),
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
        let message = format!(
            "{former} was silent, and a newer process stands under this name: stop this one"
        );
        let refused = ToServer::Refused { reason: RefusedReason::StaleIncarnation, message };
        out.push(Effect::Tell(stream.clone(), refused));
        out.push(Effect::Close(stream));
    }

    fn ping(&mut self, member: &Member, progress: Progress, now: Timestamp, out: &mut Vec<Effect>) {
        self.liveness.observe(member, Some(progress), now);
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
        if let Wish::Evict { server, reason, .. } = &wish {
            let (by, server, reason) = (member.clone(), server.clone(), reason.clone());
            out.push(Effect::Notice(Notice::AsksWithout { by, server, reason }));
        }
        match requests::wish(&self.state, &self.liveness, member, wish, now) {
            Granted::Propose(command) => {
                let _noticed = self.propose(command, out);
            }
            Granted::Evict(command, backup) => {
                if self.propose(command, out).is_ok() {
                    self.liveness.evicted(&backup, now);
                    out.push(Effect::Notice(Notice::Evicted(backup)));
                }
            }
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

    fn force(&mut self, server: &ServerName, now: Timestamp, out: &mut Vec<Effect>) {
        self.tick(now, out);
        let before = self.view().clone();
        let heard = self.state.committed_heard();
        let forced = requests::force(&self.state, &self.liveness, server, now)
            .and_then(|command| self.propose(command, out).map_err(|refusal| refusal.to_string()));
        if forced.is_ok() {
            out.push(Effect::Notice(Notice::Forced {
                generation: self.view().generation,
                server: server.clone(),
                given_up: before.eligible,
                heard,
            }));
        }
        self.settle(now, out);
        out.push(Effect::Forced(forced.map(|_| Box::new(self.view().clone()))));
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
            if self.propose(command, out).is_err() {
                break;
            }
            if let Some(server) = forgotten {
                self.liveness.forget(&server);
            }
        }
        self.notice_waiting(out);
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
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

    fn notice_waiting(&mut self, out: &mut Vec<Effect>) {
        let waiting = planner::waiting(&self.state, &self.liveness);
        if waiting == self.waiting {
            return;
        }
        // Before the first activation there is nothing yet to wait for.
        if self.state.ever_activated() {
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
