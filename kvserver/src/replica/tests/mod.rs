//! Stories of a few replicas on a wire that the test controls, with a view service made of one
//! record. Time moves only when a test says so.

mod durable;
mod failover;
mod forced_tail;
mod gone;
mod hanging;
mod joining;
mod leaving;
mod memory;
#[cfg(debug_assertions)]
mod mutants;
mod reads;
mod slow;
mod vouched;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kvproto::command::{Action, Change, Command, Outcome, Query, Record, RequestId};
use kvproto::ids::{ClusterId, Incarnation, Member, RequestNumber, Revision, SessionId};
use kvproto::message::{Body, Message};
use kvproto::registration::Wish;
use kvproto::reply::{NotDone, NotReady, Reply};
use kvproto::settings::Settings;
use kvproto::time::Timestamp;
use kvproto::view::{View, ViewStatus};

use super::effect::{Effect, Notice};
use super::event::{Event, Operation, Request, Token};
use crate::journal::{Completion, Journal, MemoryJournal, Work};
use crate::store::Items;
use crate::table::Table;

use super::{Reads, Replica, ReplicaOptions, Tuning};

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn member(name: &str, incarnation: u64) -> Member {
    Member { name: name.into(), incarnation: Incarnation(incarnation) }
}

/// First life of server A, B or C.
fn a() -> Member {
    member("a", 1)
}
fn b() -> Member {
    member("b", 1)
}
fn c() -> Member {
    member("c", 1)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

struct World {
    now: Timestamp,
    reads: Reads,
    tuning: Tuning,
    replicas: BTreeMap<Member, Replica>,
    /// The view service's record, and whether it grants wishes by itself.
    view: View,
    grants: bool,
    wishes: Vec<(Member, Wish)>,
    /// Messages under way, in order of sending.
    wire: VecDeque<Message>,
    /// Directed links that lose everything.
    cut: BTreeSet<(Member, Member)>,
    /// Servers whose journal takes entries on but does not finish them.
    slow_journal: BTreeSet<Member>,
    /// Servers whose journal takes records on but does not finish them, and those records.
    slow_record: BTreeSet<Member>,
    unrecorded: BTreeMap<Member, Vec<Work>>,
    /// Servers that hear of no record.
    deaf: BTreeSet<Member>,
    journals: BTreeMap<Member, MemoryJournal>,
    /// Everything that a journal was given, which is what a disk would hold.
    kept: BTreeMap<Member, Vec<Work>>,
    durable: bool,
    /// Journals can be read; otherwise they hold nothing that memory does not.
    journal_reads: bool,
    replies: BTreeMap<Token, Reply>,
    next_token: u64,
    notices: Vec<(Member, Notice)>,
    left: BTreeSet<Member>,
    tables: BTreeMap<Member, Table>,
    /// What a reader of the table finds under "k" at the moment at which a write is answered, or a
    /// former primary says that it stopped.
    sightings: Vec<(Member, Option<Reply>)>,
}

impl World {
    /// No servers, no view.
    fn new() -> World {
        World {
            now: Timestamp::from_nanos(1_000_000_000),
            reads: Reads::Lease,
            tuning: Tuning::default(),
            replicas: BTreeMap::new(),
            view: View::none(CLUSTER, Settings::default()),
            grants: true,
            wishes: Vec::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            slow_journal: BTreeSet::new(),
            slow_record: BTreeSet::new(),
            unrecorded: BTreeMap::new(),
            deaf: BTreeSet::new(),
            journals: BTreeMap::new(),
            kept: BTreeMap::new(),
            durable: false,
            journal_reads: false,
            replies: BTreeMap::new(),
            next_token: 0,
            notices: Vec::new(),
            left: BTreeSet::new(),
            tables: BTreeMap::new(),
            sightings: Vec::new(),
        }
    }

    /// A primary with synced backups, everything settled.
    fn with(primary: Member, backups: &[Member]) -> World {
        World::new().formed(primary, backups)
    }

    fn formed(mut self, primary: Member, backups: &[Member]) -> World {
        self.start(primary.clone());
        self.propose(primary.clone(), &[]);
        self.settle();
        if !backups.is_empty() {
            backups.iter().for_each(|backup| self.start(backup.clone()));
            self.propose(primary, backups);
            self.run(ms(300));
        }
        assert_eq!(self.view.eligible.len(), 1 + backups.len(), "all copies are synced");
        self
    }

    fn start(&mut self, me: Member) {
        let (reads, tuning) = (self.reads, self.tuning.clone());
        let options = ReplicaOptions { reads, tuning, durable: self.durable };
        let table = Table::new(Items::default());
        let items = table.items().clone();
        let replica = Replica::new(me.clone(), self.view.clone(), options, items, self.now);
        self.tables.insert(me.clone(), table);
        self.journals.insert(me.clone(), MemoryJournal::new());
        self.replicas.insert(me, replica);
    }

    /// The process dies; what it sent may still arrive.
    fn kill(&mut self, who: &Member) {
        self.replicas.remove(who);
    }

    /// VIEW-3, without VIEW-2: tests say whom they want.
    fn propose(&mut self, primary: Member, backups: &[Member]) {
        let view = &mut self.view;
        view.number = view.number.next();
        if view.primary.as_ref() != Some(&primary) {
            view.primary_since = view.number;
        }
        view.primary = Some(primary);
        view.backups = backups.to_vec();
        view.status = ViewStatus::Proposed;
        self.publish();
    }

    /// A newcomer stands in an activated view of `a`; from here on the view service grants nothing.
    fn name_ungranted(&mut self, newcomer: Member) {
        self.grants = false;
        self.propose(a(), &[newcomer]);
        let (generation, number) = (self.view.generation, self.view.number);
        self.grant(&a(), &Wish::Activate { generation, number, reconciled: vec![] });
    }

    /// VIEW-7.
    fn force(&mut self, server: Member) {
        self.view.generation = self.view.generation.next();
        self.view.eligible = BTreeSet::from([server.clone()]);
        self.view.primary = None;
        self.propose(server, &[]);
    }

    /// The record changed: everybody alive hears of it.
    fn publish(&mut self) {
        let view = &mut self.view;
        view.revision = Revision(view.revision.0 + 1);
        view.history = view.history.after(b"a change");
        if view.primary_since == view.number && !view.is_activated() {
            view.began = view.history;
        }
        let hears = |name: &&Member| !self.deaf.contains(*name);
        let names: Vec<_> = self.replicas.keys().filter(hears).cloned().collect();
        for name in names {
            self.hear_view(&name);
        }
    }

    fn hear_view(&mut self, who: &Member) {
        self.step(who, Event::View(Box::new(self.view.clone())));
    }

    /// VIEW-4 and VIEW-5.
    fn grant(&mut self, from: &Member, wish: &Wish) {
        let view = &mut self.view;
        match wish {
            Wish::Activate { number, reconciled, .. }
                if *number == view.number && view.is_primary(from) && !view.is_activated() =>
            {
                let kept = reconciled.iter().filter(|m| view.eligible.contains(m)).cloned();
                view.eligible = kept.chain([from.clone()]).collect();
                view.status = ViewStatus::Activated;
                self.publish();
            }
            Wish::Synced { number, server, .. }
                if *number == view.number
                    && view.is_primary(from)
                    && view.is_activated()
                    && view.backups.contains(server)
                    && !view.eligible.contains(server) =>
            {
                view.eligible.insert(server.clone());
                self.publish();
            }
            _ => {}
        }
    }

    fn step(&mut self, who: &Member, event: Event) {
        let Some(replica) = self.replicas.get_mut(who) else {
            return;
        };
        let mut effects = Vec::new();
        self.tables[who].step(&mut effects, |effects| replica.step(self.now, event, effects));
        let mut reads = Vec::new();
        for effect in effects {
            if let Effect::Reply { reply: Reply::Done { .. }, .. }
            | Effect::Send(Message { body: Body::Released, .. }) = &effect
            {
                let seen = self.read_table(who, "k");
                self.sightings.push((who.clone(), seen));
            }
            match effect {
                Effect::Publish(published) => self.tables[who].publish(published),
                Effect::Journal(work) => {
                    if let Work::Read { from, .. } = &work
                        && self.journal_reads
                    {
                        reads.push(*from);
                        continue;
                    }
                    if matches!(work, Work::Record(_)) && self.slow_record.contains(who) {
                        self.unrecorded.entry(who.clone()).or_default().push(work);
                        continue;
                    }
                    self.kept.entry(who.clone()).or_default().push(work.clone());
                    self.journals.get_mut(who).expect("each has one").take(work);
                }
                Effect::Send(message) => {
                    if !self.cut.contains(&(who.clone(), message.to.clone())) {
                        self.wire.push_back(message);
                    }
                }
                Effect::Reply { token, reply, valid_until } => {
                    let stale = valid_until.is_some_and(|until| self.now >= until);
                    let late = Reply::NotDone(NotDone::NotReady(NotReady::Unconfirmed));
                    let before = self.replies.insert(token, if stale { late } else { reply });
                    assert_eq!(before, None, "one answer to one request");
                }
                Effect::Wish(wish) => {
                    self.wishes.push((who.clone(), wish.clone()));
                    if self.grants {
                        self.grant(who, &wish);
                    }
                }
                Effect::Notice(notice) => self.notices.push((who.clone(), notice)),
                Effect::Left => {
                    self.left.insert(who.clone());
                }
                Effect::OpenStream { .. } | Effect::CloseStream { .. } => {}
            }
        }
        for from in reads {
            let appended = self.kept[who].iter().filter_map(|work| match work {
                Work::Append(entries) => Some(entries.clone()),
                _ => None,
            });
            let entries: Vec<_> = appended.flatten().filter(|e| e.op() >= from).take(9).collect();
            self.step(who, Event::Journal(Completion::Read { from, entries: Ok(entries) }));
        }
        self.hear_journal(who);
    }

    /// Lets a server know what its journal has done, unless that is slow.
    fn hear_journal(&mut self, who: &Member) {
        while !self.slow_journal.contains(who)
            && let Some(done) = self.journals.get_mut(who).and_then(MemoryJournal::poll)
        {
            self.step(who, Event::Journal(done));
        }
    }

    /// What a door of `who` answers without asking the replica.
    fn read_table(&self, who: &Member, key: &'static str) -> Option<Reply> {
        let query = Query::Get(vec![Bytes::from_static(key.as_bytes())]);
        self.tables.get(who)?.read(&query, || self.now)
    }

    /// The slow journal catches up.
    fn finish_journal(&mut self, who: &Member) {
        self.slow_journal.remove(who);
        self.hear_journal(who);
    }

    /// The records that a server was given are on its disk.
    fn finish_record(&mut self, who: &Member) {
        self.slow_record.remove(who);
        for work in self.unrecorded.remove(who).unwrap_or_default() {
            self.kept.entry(who.clone()).or_default().push(work.clone());
            self.journals.get_mut(who).expect("each has one").take(work);
        }
        self.hear_journal(who);
    }

    fn deliver(&mut self, message: Message) {
        let to = message.to.clone();
        self.step(&to, Event::Message(message));
    }

    /// Delivers everything under way, and what follows from it.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(message) = self.wire.pop_front() else {
                return;
            };
            self.deliver(message);
        }
        panic!("the replicas never stop talking");
    }

    /// Lets time pass: ticks everybody every 5 ms and delivers at once.
    fn run(&mut self, duration: Duration) {
        self.run_ticking(duration, |_| true);
    }

    /// The same with some servers paused.
    fn run_ticking(&mut self, duration: Duration, ticks: impl Fn(&Member) -> bool) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + ms(5);
            for who in self.replicas.keys().cloned().collect::<Vec<_>>() {
                if ticks(&who) {
                    self.step(&who, Event::Tick);
                }
            }
            self.settle();
        }
    }

    fn cut(&mut self, one: &Member, other: &Member) {
        self.cut.insert((one.clone(), other.clone()));
        self.cut.insert((other.clone(), one.clone()));
    }

    fn heal(&mut self) {
        self.cut.clear();
    }

    /// The connections between the two break, as TCP's would.
    fn break_streams(&mut self, one: &Member, other: &Member) {
        for (who, peer) in [(one, other), (other, one)] {
            let stream = self
                .replicas
                .get(who)
                .and_then(|replica| replica.primary.as_ref()?.stream_to(peer));
            if let Some(stream) = stream {
                self.step(who, Event::StreamBroken { peer: peer.clone(), stream });
            }
        }
    }

    fn ask(&mut self, who: &Member, operation: Operation) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.step(who, Event::Requests(vec![Request { token, operation }]));
        token
    }

    fn put(&mut self, who: &Member, key: &str, value: &str) -> Token {
        self.ask(who, Operation::Command { id: None, command: put(key, value) })
    }

    fn append_once(&mut self, who: &Member, id: RequestId, key: &str, suffix: &str) -> Token {
        let action = Action::Append(Bytes::copy_from_slice(suffix.as_bytes()));
        let command =
            Command::Change(Change { key: Bytes::copy_from_slice(key.as_bytes()), action });
        self.ask(who, Operation::Command { id: Some(id), command })
    }

    fn get(&mut self, who: &Member, key: &str) -> Token {
        let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
        self.ask(who, Operation::Query(Query::Get(keys)))
    }

    fn open_session(&mut self, who: &Member) -> SessionId {
        let command = Command::OpenSession;
        let token = self.ask(who, Operation::Command { id: None, command });
        self.settle();
        match self.outcome(token) {
            Outcome::SessionOpened(session) => session,
            other => panic!("no session but {other:?}"),
        }
    }

    fn answered(&self, token: Token) -> bool {
        self.replies.contains_key(&token)
    }

    fn reply(&self, token: Token) -> &Reply {
        self.replies.get(&token).expect("the request is answered")
    }

    fn outcome(&self, token: Token) -> Outcome {
        match self.reply(token) {
            Reply::Done { outcome, .. } => outcome.clone(),
            other => panic!("not done but {other:?}"),
        }
    }

    fn is_done(&self, token: Token) -> bool {
        matches!(self.replies.get(&token), Some(Reply::Done { .. }))
    }

    fn is_refused(&self, token: Token) -> bool {
        matches!(self.replies.get(&token), Some(Reply::NotDone(_)))
    }

    /// What a read of one key returned.
    fn value(&self, token: Token) -> Option<String> {
        match self.reply(token) {
            Reply::Records { records, .. } => records[0].as_ref().map(text),
            other => panic!("no records but {other:?}"),
        }
    }

    /// What a copy holds as committed.
    fn held(&self, who: &Member, key: &str) -> Option<String> {
        let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
        self.replicas[who].store().query(&Query::Get(keys))[0].as_ref().map(text)
    }

    fn acting(&self, who: &Member) -> bool {
        self.replicas[who].is_acting()
    }

    fn wished(&self, test: impl Fn(&Wish) -> bool) -> bool {
        self.wishes.iter().any(|(_, wish)| test(wish))
    }

    fn noticed(&self, test: impl Fn(&Notice) -> bool) -> bool {
        self.notices.iter().any(|(_, notice)| test(notice))
    }
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.value).into_owned()
}

fn put(key: &str, value: &str) -> Command {
    Command::Change(Change {
        key: Bytes::copy_from_slice(key.as_bytes()),
        action: Action::Put(Bytes::copy_from_slice(value.as_bytes())),
    })
}

fn id(session: SessionId, number: u64) -> RequestId {
    RequestId { session, number: RequestNumber(number), first_open: RequestNumber(1) }
}

fn is_append(message: &Message) -> bool {
    matches!(&message.body, Body::Append(append) if !append.entries.is_empty())
}
