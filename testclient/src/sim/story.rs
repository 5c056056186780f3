//! Stories: a quiet world in which nothing goes wrong but what the story says, so that one trace of
//! the protocol can be told step by step. Delays and clocks still come from the seed. Every
//! invariant of the simulator is looked at after every event, as in a random run. Pure.
//!
//! ```
//! use std::time::Duration;
//! use testclient::sim::story::{Place::{Server, Views}, Story};
//!
//! let mut story = Story::new(7, 2);
//! story.start_and_wait(0);
//! story.start_and_wait(1);
//! let put = story.put(0, "k", "1");
//! story.done(put);
//! story.cut(Server(0), Views);
//! let patience = Duration::from_secs(5);
//! story.until("server 1 takes over", patience, |story| story.acting() == Some(1));
//! assert_eq!(story.get_now(0, "k").as_deref(), Some("1"));
//! story.end();
//! ```

use std::time::Duration;

use bytes::Bytes;
use kvclient::Error;
use kvclient::attempts::{Answer, Repeat};
use kvclient::caller::Operation;
use kvproto::{Action, Change, Command, Query, Reply, Settings, View};
use kvserver::replica::{Reads, ReplicaOptions, Tuning, event};

use super::clients::CallKey;
use super::draw::{Clock, Plan};
use super::faults::Faults;
use super::network::Node;
use super::world::{MS, World};
use super::{Path, Ran};
use crate::random::Random;

/// How long a call of a story may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody who sends and receives messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A server, from 0.
    Server(usize),
    /// The view service.
    Views,
    /// A client, from 0.
    Client(usize),
}

/// A request that was sent to one server, whoever is primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request(u64);

/// What a story begins with. The defaults are those of production.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Settings of the cluster.
    pub settings: Settings,
    /// How reads are proven.
    pub reads: Reads,
    /// Windows and budgets.
    pub tuning: Tuning,
    /// Machines for servers; nothing runs on them yet.
    pub servers: usize,
    /// Clients.
    pub clients: usize,
    /// Bytes that a link between two servers takes in a millisecond, if it is narrow.
    pub bytes_per_ms: Option<u64>,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage {
            settings: Settings::default(),
            reads: Reads::Lease,
            tuning: Tuning::default(),
            servers: 5,
            clients: 4,
            bytes_per_ms: None,
        }
    }
}

/// A world that does what a story says.
pub struct Story<'a> {
    world: World<'a>,
    seed: u64,
}

impl Story<'static> {
    /// A cluster that wants so many copies, and no server yet.
    #[must_use]
    pub fn new(seed: u64, copies: u32) -> Story<'static> {
        let settings = Settings { copies, ..Settings::default() };
        Story::on(seed, Stage { settings, ..Stage::default() })
    }

    /// On another stage.
    #[must_use]
    pub fn on(seed: u64, stage: Stage) -> Story<'static> {
        Story::traced(seed, stage, None)
    }
}

impl<'a> Story<'a> {
    /// The same, and every line of the trace goes to `trace`.
    #[must_use]
    pub fn traced(seed: u64, stage: Stage, trace: Option<&'a mut dyn FnMut(&str)>) -> Story<'a> {
        let mut random = Random::new(seed);
        let clocks = (0..stage.servers + 1 + stage.clients)
            .map(|_| Clock {
                offset: random.between(1, 1_000_000) * 1_000_000,
                ppm: random.between(995_000, 1_005_000),
            })
            .collect();
        let plan = Plan {
            settings: stage.settings,
            options: ReplicaOptions { reads: stage.reads, tuning: stage.tuning, durable: false },
            starts: vec![None; stage.servers],
            twins: Vec::new(),
            astray: false,
            clients: stage.clients,
            clocks,
            journal_delay: random.pick(&[1, 200, 2 * MS]).unwrap_or(1),
            delay_max: random.pick(&[200, 1000, 5 * MS]).unwrap_or(200),
            laggards: 0,
            bytes_per_ms: stage.bytes_per_ms,
            faults: Faults { over: true, ..Faults::default() },
            chaos_until: 0,
        };
        let mut world = World::new(plan, random, trace);
        world.is_quiet = true;
        Story { world, seed }
    }

    fn node(&self, place: Place) -> Node {
        match place {
            Place::Server(server) => server,
            Place::Views => self.world.views_node(),
            Place::Client(client) => self.world.client_node(client),
        }
    }

    // Time.

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.world.now + micros(time);
        while self.world.now < end && self.world.run_one_before(end) {}
        self.world.now = end;
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// When it takes longer than `patience`.
    pub fn until(&mut self, what: &str, patience: Duration, holds: impl Fn(&Self) -> bool) {
        let end = self.world.now + micros(patience);
        while !holds(self) {
            let going = self.world.now < end && self.world.run_one();
            assert!(
                going,
                "seed {}: waited {patience:?} in vain until {what}: {}",
                self.seed,
                self.world.describe()
            );
        }
    }

    /// Watches that something holds all the time.
    ///
    /// # Panics
    /// When it does not.
    pub fn always(&mut self, what: &str, time: Duration, holds: impl Fn(&Self) -> bool) {
        let end = self.world.now + micros(time);
        while self.world.now < end && self.world.run_one_before(end) {
            assert!(holds(self), "seed {}: not so: {what}: {}", self.seed, self.world.describe());
        }
        self.world.now = end;
    }

    /// How long the story has lasted.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.world.now)
    }

    // What goes wrong, and right again.

    /// Starts a process.
    pub fn start(&mut self, server: usize) {
        self.world.start(server);
    }

    /// Starts a process, and waits until it is a complete copy: the first one acts as primary, the
    /// others are backups that hold everything.
    pub fn start_and_wait(&mut self, server: usize) {
        self.start(server);
        self.until("the server that was started is complete", Duration::from_secs(20), |story| {
            story.complete().contains(&server) && story.acting().is_some()
        });
    }

    /// Ends a process, as a power cut would.
    pub fn crash(&mut self, server: usize) {
        self.world.crash(server);
    }

    /// Stops a process as it stands.
    pub fn pause(&mut self, server: usize) {
        self.world.machines[server].paused = true;
    }

    /// Lets it go on, with everything that came meanwhile.
    pub fn resume(&mut self, server: usize) {
        let process = self.world.machines[server].process.as_ref();
        if let Some(life) = process.map(|process| process.life) {
            self.world.resume(server, life);
        }
    }

    /// The disk of a server does nothing from now on, and tells no error.
    pub fn hang_disk(&mut self, server: usize) {
        self.world.hang_disk(server);
    }

    /// It goes on, with everything that it was given meanwhile.
    pub fn disk_answers(&mut self, server: usize) {
        self.world.disk_answers(server);
    }

    /// Asks a server to stop in good order.
    pub fn leave(&mut self, server: usize) {
        self.world.fault_leave(server);
    }

    /// The view service loses everything but its log, and is back after so long.
    pub fn restart_views(&mut self, down_for: Duration) {
        self.world.restart_views(micros(down_for));
    }

    /// The view service restarts with an older copy of its log: of that many changes of the record ago.
    pub fn put_back_views(&mut self, changes: usize, down_for: Duration) {
        self.world.put_back_views(changes, micros(down_for));
    }

    /// Whether the view service doubts its past.
    #[must_use]
    pub fn doubts(&self) -> bool {
        self.world.views.state().doubt().is_some()
    }

    /// What one sends to the other is lost from now on, and connections break for it.
    pub fn cut_one_way(&mut self, from: Place, to: Place) {
        let link = (self.node(from), self.node(to));
        self.world.network.cut(&[link]);
    }

    /// Both ways.
    pub fn cut(&mut self, one: Place, other: Place) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Undoes one `cut_one_way`.
    pub fn mend_one_way(&mut self, from: Place, to: Place) {
        let link = (self.node(from), self.node(to));
        self.world.network.mend(&[link]);
    }

    /// Undoes one `cut`.
    pub fn mend(&mut self, one: Place, other: Place) {
        self.mend_one_way(one, other);
        self.mend_one_way(other, one);
    }

    /// What one sends to the other waits from now on, in order.
    pub fn hold(&mut self, from: Place, to: Place) {
        let link = (self.node(from), self.node(to));
        self.world.network.hold(link);
    }

    /// How many messages wait there.
    #[must_use]
    pub fn held(&self, from: Place, to: Place) -> usize {
        self.world.network.waiting_on((self.node(from), self.node(to)))
    }

    /// Lets everything that waits arrive now, and holds nothing more.
    pub fn release(&mut self, from: Place, to: Place) {
        let link = (self.node(from), self.node(to));
        self.world.release(link);
    }

    /// The same, but the last that was sent arrives first, as if each message went its own way.
    pub fn release_reversed(&mut self, from: Place, to: Place) {
        let link = (self.node(from), self.node(to));
        self.world.network.reverse_held(link);
        self.world.release(link);
    }

    /// The first so many messages that wait there are lost, and nobody notices.
    pub fn lose_held(&mut self, from: Place, to: Place, count: usize) {
        let link = (self.node(from), self.node(to));
        self.world.network.lose_held(link, count);
    }

    /// So many requests of clients in a thousand are lost from now on, and as many replies.
    pub fn lose_requests(&mut self, permille: u64) {
        self.world.faults.lost_requests = permille;
    }

    /// An operator starts a new generation from what a server holds.
    ///
    /// # Errors
    /// What the view service says must be done first.
    pub fn force(&mut self, server: usize) -> Result<(), String> {
        let name = self.world.machines[server].name.clone();
        self.world.force(&name).map(drop)
    }

    // What clients want. A call goes through the client logic, which finds the primary by itself.

    /// A client begins a call; it is left open until somebody waits for it.
    pub fn call(&mut self, client: usize, operation: Operation) -> CallKey {
        self.call_within(client, operation, PATIENCE)
    }

    /// The same with another time for all its attempts together.
    pub fn call_within(
        &mut self,
        client: usize,
        operation: Operation,
        patience: Duration,
    ) -> CallKey {
        let repeat = match &operation {
            Operation::Command(Command::Change(_) | Command::Batch(_)) => Repeat::Named,
            _ => Repeat::Harmless,
        };
        self.world.begin(client, operation, repeat, patience)
    }

    /// Gives a key a value. Values of a story are written once each.
    pub fn put(&mut self, client: usize, key: &str, value: &str) -> CallKey {
        self.call(client, put(key, value))
    }

    /// Adds to the end of a value.
    pub fn append(&mut self, client: usize, key: &str, suffix: &str) -> CallKey {
        self.call(client, append(key, suffix))
    }

    /// Reads a key.
    pub fn get(&mut self, client: usize, key: &str) -> CallKey {
        self.call(client, get(key))
    }

    /// Reads a key and waits for the answer.
    ///
    /// # Panics
    /// When there is none within 30 s.
    pub fn get_now(&mut self, client: usize, key: &str) -> Option<String> {
        let call = self.get(client, key);
        let _ended = self.wait_for(call);
        self.value(call).expect("a read that is done has a value or none")
    }

    /// Waits until a call has ended, in whatever way.
    ///
    /// # Panics
    /// When that takes longer than a call may.
    pub fn wait_for(&mut self, call: CallKey) -> Result<Answer, Error> {
        self.until("a call ends", PATIENCE * 2, |story| story.result(call).is_some());
        self.result(call).expect("it has just ended").clone()
    }

    /// Waits until a call is done.
    ///
    /// # Panics
    /// When it ends in another way, or does not end.
    pub fn done(&mut self, call: CallKey) -> Answer {
        let seed = self.seed;
        self.wait_for(call).unwrap_or_else(|error| panic!("seed {seed}: a call failed: {error}"))
    }

    /// How a call ended, if it has.
    #[must_use]
    pub fn result(&self, call: CallKey) -> Option<&Result<Answer, Error>> {
        self.world.clients.calls.get(&call)?.end.as_ref()?.result.as_ref()
    }

    /// What a read of one key that is done has found; `None` while it is not done.
    #[must_use]
    pub fn value(&self, call: CallKey) -> Option<Option<String>> {
        match self.result(call)? {
            Ok(Answer::Records(records)) => Some(text(records.first()?.as_ref())),
            _ => None,
        }
    }

    /// Nobody waits for this call any more.
    pub fn cancel(&mut self, call: CallKey) {
        self.world.cancel(call);
    }

    // Single requests, past the client logic.

    /// Sends one request to one server, whoever is primary.
    pub fn ask(&mut self, client: usize, server: usize, operation: Operation) -> Request {
        let operation = match operation {
            Operation::Query(query) => event::Operation::Query(query),
            Operation::Command(command) => event::Operation::Command { id: None, command },
            Operation::KeepAlive(session) => event::Operation::KeepAlive(session),
        };
        Request(self.world.ask_directly(client, server, operation))
    }

    /// What the server has answered, even if the answer did not arrive.
    #[must_use]
    pub fn answer(&self, request: Request) -> Option<&Reply> {
        self.world.doors.direct.get(&request.0)?.as_ref()
    }

    /// The value that a server answered to a direct read of one key. `None`: it did not.
    #[must_use]
    pub fn answered_value(&self, request: Request) -> Option<Option<String>> {
        match self.answer(request)? {
            Reply::Records { records, .. } => Some(text(records.first()?.as_ref())),
            _ => None,
        }
    }

    // How things stand.

    /// The present record of the view service.
    #[must_use]
    pub fn view(&self) -> &View {
        self.world.views.state().view()
    }

    /// The server that the view names primary.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        self.world.primary_node()
    }

    /// The server that acts as primary of the present epoch: its view is activated and its barrier
    /// committed.
    #[must_use]
    pub fn acting(&self) -> Option<usize> {
        self.primary().filter(|server| {
            let replica = self.world.replica(*server);
            replica.is_some_and(|it| it.is_acting() && it.epoch() == self.view().epoch())
        })
    }

    /// The servers that the view service calls complete, and that live.
    #[must_use]
    pub fn complete(&self) -> Vec<usize> {
        self.world.eligible_nodes()
    }

    /// Members of the view, the primary first.
    #[must_use]
    pub fn members(&self) -> Vec<usize> {
        self.view().members().filter_map(|member| self.world.host_of(member)).collect()
    }

    /// The committed op of a server.
    #[must_use]
    pub fn committed(&self, server: usize) -> u64 {
        self.world.replica(server).map_or(0, |replica| replica.committed().0)
    }

    /// How often a rare path was taken.
    #[must_use]
    pub fn visited(&self, path: Path) -> u64 {
        self.world.visits.count(path)
    }

    /// Ends the story: what all clients saw is judged.
    pub fn end(self) -> Ran {
        self.world.end()
    }
}

/// To give a key a value.
#[must_use]
pub fn put(key: &str, value: &str) -> Operation {
    change(key, Action::Put(bytes(value)))
}

/// To add to the end of a value.
#[must_use]
pub fn append(key: &str, suffix: &str) -> Operation {
    change(key, Action::Append(bytes(suffix)))
}

/// To read a key.
#[must_use]
pub fn get(key: &str) -> Operation {
    Operation::Query(Query::Get(vec![bytes(key)]))
}

fn change(key: &str, action: Action) -> Operation {
    Operation::Command(Command::Change(Change { key: bytes(key), action }))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn text(record: Option<&kvproto::Record>) -> Option<String> {
    record.map(|record| String::from_utf8_lossy(&record.value).into_owned())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
