//! Every message survives the way there and back, and bytes that make no sense are refused.

use std::fmt::Debug;
use std::sync::Arc;

use super::*;
use crate::command::*;
use crate::ids::*;
use crate::message::*;
use crate::pb;
use crate::registration::*;
use crate::reply::{LogPoint, NotDone, Reply};
use crate::settings::Settings;
use crate::snapshot::SnapshotEnd;
use crate::time::{LogTime, Timestamp};
use crate::view::{Role, View, ViewOrder, ViewStatus};

/// Each test goes through this many worlds; a failure names its seed, and `Gen(seed)` replays it.
const SEEDS: u64 = 200;

/// SplitMix64 (Steele, Lea and Flood, 2014): a few lines that spread any seed well.
struct Gen(u64);

impl Gen {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }
    /// Any number, the ends more often than chance would have them.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => 0,
            1 => u64::MAX,
            _ => self.next(),
        }
    }
    fn small(&mut self) -> u32 {
        self.next() as u32
    }
    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| make(self))
    }
    fn several<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }
    fn bytes(&mut self) -> Bytes {
        (0..self.below(20)).map(|_| self.next() as u8).collect()
    }
    fn millis(&mut self) -> Duration {
        Duration::from_millis(self.below(1 << 40))
    }
    fn generation(&mut self) -> Generation {
        Generation(self.below(1 << 16))
    }
    fn op(&mut self) -> OpNumber {
        OpNumber(self.below(1 << 48))
    }
    fn epoch(&mut self) -> Epoch {
        Epoch { generation: self.generation(), primary_since: ViewNumber(self.number()) }
    }
    fn position(&mut self) -> Position {
        Position { epoch: self.epoch(), op: self.op() }
    }
    fn cluster(&mut self) -> ClusterId {
        ClusterId((u128::from(self.next()) | 1).to_be_bytes())
    }
    fn digest(&mut self) -> Digest {
        Digest(u128::from(self.next()) << 64 | u128::from(self.next()))
    }
    fn member(&mut self) -> Member {
        Member {
            name: format!("host-{}:80", self.below(9)).into(),
            incarnation: Incarnation(self.number()),
        }
    }
    fn settings(&mut self) -> Settings {
        Settings {
            ping_interval: self.millis(),
            dead_after: self.millis(),
            heartbeat_interval: self.millis(),
            lease: self.millis(),
            stall_after: self.millis(),
            session_lease: self.millis(),
            copies: self.small(),
            min_copies: self.small(),
            key_size_max: self.number(),
            value_size_max: self.number(),
            op_size_max: self.number(),
            sessions_max: self.number(),
        }
    }
    fn view(&mut self) -> View {
        View {
            cluster: self.maybe(Self::cluster).unwrap_or_default(),
            generation: self.generation(),
            number: ViewNumber(self.number()),
            revision: Revision(self.number()),
            status: if self.yes() { ViewStatus::Activated } else { ViewStatus::Proposed },
            primary_since: ViewNumber(self.number()),
            primary: self.maybe(Self::member),
            backups: self.several(Self::member),
            eligible: self.several(Self::member).into_iter().collect(),
            settings: self.settings(),
            history: History(self.cluster().0),
            began: History(self.cluster().0),
        }
    }
    fn epoch_start(&mut self) -> EpochStart {
        EpochStart::at(self.position(), History(self.cluster().0))
    }
    fn expect(&mut self) -> Expect {
        match self.below(4) {
            0 => Expect::Missing,
            1 => Expect::Value(self.bytes().into()),
            2 => Expect::Version(Version(self.number())),
            _ => {
                let (asked, now) = (Version(self.number()), Version(self.number()));
                Expect::Renamed(Box::new(Renamed { asked, now }))
            }
        }
    }
    fn change(&mut self) -> Change {
        Change {
            key: self.bytes(),
            action: match self.below(4) {
                0 => Action::Put(self.bytes()),
                1 => Action::Delete,
                2 => Action::Append(self.bytes()),
                _ => Action::CompareAndSet {
                    expect: self.expect(),
                    new_value: self.maybe(Self::bytes),
                },
            },
        }
    }
    fn session(&mut self) -> SessionId {
        SessionId(self.number())
    }
    fn command(&mut self) -> Command {
        match self.below(6) {
            0 => Command::Barrier(History(self.cluster().0)),
            1 => Command::Change(self.change()),
            2 => Command::Batch(self.several(Self::change)),
            3 => Command::OpenSession,
            4 => Command::CloseSession(self.session()),
            _ => Command::ExpireSession(self.session()),
        }
    }
    fn query(&mut self) -> Query {
        Query::Get(self.several(Self::bytes))
    }
    fn record(&mut self) -> Record {
        Record { value: self.bytes(), version: Version(self.number()) }
    }
    fn changed(&mut self) -> Changed {
        Changed { version: Version(self.number()), existed: self.yes(), length: self.number() }
    }
    fn refusal(&mut self) -> Refusal {
        match self.below(7) {
            0 => {
                Refusal::ConditionFailed { record: self.maybe(Self::record), change: self.small() }
            }
            1 => Refusal::TooLarge {
                size: self.number(),
                size_max: self.number(),
                change: self.small(),
            },
            2 => Refusal::SessionExpired,
            3 => Refusal::StaleRequest { floor: RequestNumber(self.number()) },
            4 => Refusal::RequestReused,
            5 => Refusal::WindowFull,
            _ => Refusal::TooManySessions { sessions_max: self.number() },
        }
    }
    fn outcome(&mut self) -> Outcome {
        match self.below(6) {
            0 => Outcome::Barrier,
            1 => Outcome::Changed(self.changed()),
            2 => Outcome::BatchChanged(self.several(Self::changed)),
            3 => Outcome::SessionOpened(self.session()),
            4 => Outcome::SessionClosed { existed: self.yes() },
            _ => Outcome::Refused(self.refusal()),
        }
    }
    fn request_id(&mut self) -> RequestId {
        RequestId {
            session: self.session(),
            number: RequestNumber(self.number()),
            first_open: RequestNumber(self.number()),
        }
    }
    fn client_request_id(&mut self) -> RequestId {
        let number = 1 + self.below(u64::MAX - SESSION_WINDOW);
        RequestId {
            session: self.session(),
            number: RequestNumber(number),
            first_open: RequestNumber(self.below(number + 1)),
        }
    }
    fn execute(&mut self) -> Execute {
        Execute {
            cluster: self.maybe(Self::cluster),
            operation: match self.below(3) {
                0 => ExecuteOperation::Query(self.query()),
                1 => ExecuteOperation::Command {
                    id: self.maybe(Self::client_request_id),
                    command: self.command(),
                },
                _ => ExecuteOperation::KeepAlive(self.session()),
            },
        }
    }
    fn answer(&mut self) -> Reply {
        let at = LogPoint { generation: self.generation(), op: self.op() };
        match self.below(3) {
            0 => Reply::Done { at, outcome: self.outcome() },
            1 => Reply::Records { at, records: self.several(|g| g.maybe(Self::record)) },
            _ => Reply::KeptAlive { at, lease: self.millis() },
        }
    }
    fn entry(&mut self) -> Entry {
        Entry {
            position: self.position(),
            at: LogTime::from_millis(self.number()),
            id: self.maybe(Self::request_id),
            command: self.command(),
        }
    }
    fn session_record(&mut self) -> SessionRecord {
        SessionRecord {
            id: self.session(),
            floor: RequestNumber(self.number()),
            answers: self.several(|g| {
                let answer = AnswerRecord { command_hash: g.number(), outcome: g.outcome() };
                (RequestNumber(g.number()), answer)
            }),
        }
    }
    fn body(&mut self) -> Body {
        match self.below(9) {
            0 => Body::Open { began: History(self.cluster().0) },
            1 => Body::Opened(Opened {
                epochs: self.several(Self::epoch_start),
                last: self.op(),
                committed: self.op(),
                complete: self.yes(),
                recorded: Revision(self.number()),
            }),
            2 => Body::Append(Append {
                previous: self.position(),
                entries: self.several(|g| Arc::new(g.entry())).into(),
                committed: self.op(),
                log_time: LogTime::from_millis(self.number()),
                nonce: Nonce(self.number()),
                sent_at: Timestamp::from_nanos(self.number()),
                lease: self.millis(),
                want_digest: self.yes(),
            }),
            3 => Body::Ack(Ack {
                matched: self.op(),
                applied: self.op(),
                nonce: Nonce(self.number()),
                sent_at: Timestamp::from_nanos(self.number()),
                digest: self.maybe(Self::digest),
                chunks: self.number(),
                disk_full: self.yes(),
                recorded: Revision(self.number()),
            }),
            4 => Body::Fenced,
            5 => Body::TransferStart { at: self.position(), keys: self.number() },
            6 => Body::TransferChunk { number: self.number(), records: self.bytes() },
            7 => Body::TransferEnd(SnapshotEnd {
                epochs: self.several(Self::epoch_start),
                log_time: LogTime::from_millis(self.number()),
                digest: self.digest(),
                chunks: self.number(),
            }),
            _ => Body::Released,
        }
    }
    fn message(&mut self) -> Message {
        Message {
            cluster: self.maybe(Self::cluster).unwrap_or_default(),
            epoch: self.epoch(),
            from: self.member(),
            to: self.member(),
            stream: StreamNumber(self.number()),
            body: self.body(),
        }
    }
    fn server_message(&mut self) -> FromServer {
        let (generation, number) = (self.generation(), ViewNumber(self.number()));
        FromServer::Wish(match self.below(7) {
            0 => {
                return FromServer::Register(Registration {
                    name: self.member().name,
                    life: LifeId(self.cluster().0),
                    incarnation: self.maybe(|g| Incarnation(g.number() | 1)),
                    cluster: self.maybe(Self::cluster),
                    protocol_level: self.small(),
                    held: self.maybe(|g| Held {
                        storage: StorageId(g.cluster().0),
                        last: g.position(),
                        epochs: g.several(Self::epoch_start),
                    }),
                    shown: self.maybe(Self::view).map(Box::new),
                });
            }
            1 => return FromServer::Ping(self.progress()),
            6 => return FromServer::Met(self.process()),
            2 => Wish::Activate { generation, number, reconciled: self.several(Self::member) },
            3 => Wish::Synced { generation, number, server: self.member() },
            4 => Wish::Evict {
                generation,
                number,
                server: self.member(),
                acknowledges: self.yes(),
                reason: "no progress".into(),
            },
            5 => Wish::Yield {
                generation,
                number,
                to: self.several(Self::member),
                reason: "it hangs".into(),
            },
            _ => Wish::Leave,
        })
    }
    fn process(&mut self) -> Process {
        Process { name: self.member().name, life: LifeId(self.cluster().0) }
    }
    fn progress(&mut self) -> Progress {
        let roles = [Role::Primary, Role::Backup, Role::Joining, Role::Spare];
        Progress {
            view: ViewOrder {
                generation: self.generation(),
                number: ViewNumber(self.number()),
                revision: Revision(self.number()),
            },
            history: History(self.cluster().0),
            appended: self.op(),
            committed: self.op(),
            applied: self.op(),
            steps: self.number(),
            role: roles[self.below(4) as usize],
            memory: Memory { used: self.number(), max: self.number() },
            disk_full: self.number() % 2 == 1,
            disk_waits: self.millis(),
            directory_gone: self.number() % 2 == 1,
        }
    }
    fn view_service_message(&mut self) -> ToServer {
        let reasons = [
            RefusedReason::WrongCluster,
            RefusedReason::NameInUse,
            RefusedReason::StaleIncarnation,
            RefusedReason::WrongKind,
            RefusedReason::Incompatible,
            RefusedReason::Doubt,
            RefusedReason::Listening,
            RefusedReason::OtherPast,
        ];
        match self.below(6) {
            0 => ToServer::Registered {
                incarnation: Incarnation(self.number()),
                view: Box::new(self.view()),
            },
            1 => ToServer::View(Box::new(self.view())),
            2 => ToServer::Refused {
                reason: reasons[self.below(5) as usize],
                message: "start it elsewhere".into(),
            },
            3 => ToServer::Meet(self.process()),
            4 => ToServer::NotMet { message: "check --advertise".into() },
            _ => ToServer::NobodyToTakeOver,
        }
    }
}

/// Domain, wire type, bytes and back.
fn round_trip<D, P>(make: impl Fn(&mut Gen) -> D)
where
    D: Clone + PartialEq + Debug + TryFrom<P, Error = Malformed>,
    P: TryFrom<D, Error: Debug> + prost::Message + Default,
{
    for seed in 0..SEEDS {
        let value = make(&mut Gen(seed));
        let wire = P::try_from(value.clone()).expect("it has a wire type");
        let decoded = P::decode(wire.encode_to_vec().as_slice()).expect("it was just encoded");
        assert_eq!(D::try_from(decoded).as_ref(), Ok(&value), "seed {seed}");
    }
}

#[test]
fn everything_comes_back_as_it_was_sent() {
    round_trip::<_, pb::viewservice::Member>(Gen::member);
    round_trip::<_, pb::viewservice::Settings>(Gen::settings);
    round_trip::<_, pb::viewservice::View>(Gen::view);
    round_trip::<_, pb::viewservice::ServerPing>(Gen::progress);
    round_trip::<_, pb::viewservice::FromServer>(Gen::server_message);
    round_trip::<_, pb::viewservice::ToServer>(Gen::view_service_message);
    round_trip::<_, pb::kvserver::RequestId>(Gen::request_id);
    round_trip::<_, pb::kvserver::Query>(Gen::query);
    round_trip::<_, pb::kvserver::Command>(Gen::command);
    round_trip::<_, pb::kvserver::Change>(Gen::change);
    round_trip::<_, pb::kvserver::Record>(Gen::record);
    round_trip::<_, pb::kvserver::Changed>(Gen::changed);
    round_trip::<_, pb::kvserver::Outcome>(Gen::outcome);
    round_trip::<_, pb::kvserver::Refusal>(Gen::refusal);
    round_trip::<_, pb::kvserver::ExecuteRequest>(Gen::execute);
    round_trip::<_, pb::kvserver::ExecuteResponse>(Gen::answer);
    round_trip::<_, pb::replication::Position>(Gen::position);
    round_trip::<_, pb::replication::Entry>(Gen::entry);
    round_trip::<_, pb::replication::SessionRecord>(Gen::session_record);
    round_trip::<_, pb::replication::Message>(Gen::message);
}

/// Flips, cuts and drops bytes of valid messages: whatever still decodes is converted or refused.
fn survives_damage<D, P>(make: impl Fn(&mut Gen) -> D)
where
    D: TryFrom<P, Error = Malformed>,
    P: TryFrom<D, Error: Debug> + prost::Message + Default,
{
    for seed in 0..SEEDS {
        let mut random = Gen(seed);
        let wire = P::try_from(make(&mut random)).expect("it has a wire type");
        let mut bytes = wire.encode_to_vec();
        for _ in 0..=random.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(damaged) = P::decode(bytes.as_slice()) {
            let _either_is_fine = D::try_from(damaged);
        }
    }
}

#[test]
fn damaged_messages_never_cause_a_panic() {
    survives_damage::<_, pb::viewservice::View>(Gen::view);
    survives_damage::<_, pb::viewservice::FromServer>(Gen::server_message);
    survives_damage::<_, pb::viewservice::ToServer>(Gen::view_service_message);
    survives_damage::<_, pb::kvserver::ExecuteRequest>(Gen::execute);
    survives_damage::<_, pb::kvserver::ExecuteResponse>(Gen::answer);
    survives_damage::<_, pb::replication::Message>(Gen::message);
    survives_damage::<_, pb::replication::SessionRecord>(Gen::session_record);
}

#[test]
fn a_message_with_nothing_in_it_is_malformed() {
    assert!(Member::try_from(pb::viewservice::Member::default()).is_err());
    assert!(View::try_from(pb::viewservice::View::default()).is_err());
    assert!(Progress::try_from(pb::viewservice::ServerPing::default()).is_err());
    assert!(FromServer::try_from(pb::viewservice::FromServer::default()).is_err());
    assert!(Registration::try_from(pb::viewservice::Register::default()).is_err());
    assert!(ToServer::try_from(pb::viewservice::ToServer::default()).is_err());
    assert!(Query::try_from(pb::kvserver::Query::default()).is_err());
    assert!(Command::try_from(pb::kvserver::Command::default()).is_err());
    assert!(Change::try_from(pb::kvserver::Change::default()).is_err());
    assert!(Outcome::try_from(pb::kvserver::Outcome::default()).is_err());
    assert!(Refusal::try_from(pb::kvserver::Refusal::default()).is_err());
    assert!(Execute::try_from(pb::kvserver::ExecuteRequest::default()).is_err());
    assert!(Reply::try_from(pb::kvserver::ExecuteResponse::default()).is_err());
    assert!(Entry::try_from(pb::replication::Entry::default()).is_err());
    assert!(Append::try_from(pb::replication::Append::default()).is_err());
    assert!(SnapshotEnd::try_from(pb::replication::TransferEnd::default()).is_err());
    assert!(Message::try_from(pb::replication::Message::default()).is_err());
}

#[test]
fn digests_and_cluster_ids_have_sixteen_bytes_or_none() {
    for length in [1, 15, 17, 32] {
        let bytes = Bytes::from(vec![7; length]);
        let ack = pb::replication::Ack { digest: bytes.clone(), ..Default::default() };
        assert!(Ack::try_from(ack).is_err(), "{length} bytes");
        let mut view: pb::viewservice::View = Gen(1).view().into();
        view.cluster_id = bytes;
        assert!(View::try_from(view).is_err(), "{length} bytes");
    }
    let no_digest = Ack::try_from(pb::replication::Ack::default()).unwrap();
    assert_eq!(no_digest.digest, None);
}

#[test]
fn numbers_that_would_not_fit_a_version_are_malformed() {
    let position = |generation, op_number| pb::replication::Position {
        generation,
        primary_since: 1,
        op_number,
    };
    assert!(Position::try_from(position((1 << 16) - 1, (1 << 48) - 1)).is_ok());
    assert!(Position::try_from(position(1 << 16, 1)).is_err());
    assert!(Position::try_from(position(1, 1 << 48)).is_err());
}

#[test]
fn a_client_cannot_name_a_request_that_makes_no_sense() {
    let request = |number, first_open| pb::kvserver::ExecuteRequest {
        id: Some(pb::kvserver::RequestId { session: 1, number, first_open }),
        operation: Some(pb::kvserver::execute_request::Operation::Command(
            Command::OpenSession.into(),
        )),
        cluster_id: Bytes::new(),
    };
    assert!(Execute::try_from(request(1, 1)).is_ok());
    assert!(Execute::try_from(request(0, 0)).is_err());
    assert!(Execute::try_from(request(1, 2)).is_err());
    assert!(Execute::try_from(request(u64::MAX, 1)).is_err());
}

#[test]
fn a_lease_asked_for_is_never_shortened_on_the_way() {
    let append = Append {
        previous: Position::default(),
        entries: crate::Batch::default(),
        committed: OpNumber(0),
        log_time: LogTime::default(),
        nonce: Nonce(1),
        sent_at: Timestamp::default(),
        lease: Duration::from_micros(1500),
        want_digest: false,
    };
    let wire = pb::replication::Append::from(append);
    assert_eq!(wire.lease_ms, 2);
}

#[test]
fn a_lab_client_finds_primary_and_first_backup_where_it_looks() {
    let mut view = Gen(3).view();
    view.number = ViewNumber(4);
    view.primary = Some(Member { name: "a:1".into(), incarnation: Incarnation(1) });
    view.backups =
        ["b:1", "c:1"].map(|name| Member { name: name.into(), incarnation: Incarnation(1) }).into();
    let wire = pb::viewservice::View::from(view);
    assert_eq!((wire.view_number, wire.primary.as_str(), wire.backup.as_str()), (4, "a:1", "b:1"));
}

#[test]
fn a_value_keeps_its_buffer_on_the_way_in_and_out() {
    let value = Bytes::from(vec![1; 1000]);
    let change = Change { key: Bytes::from_static(b"k"), action: Action::Put(value.clone()) };
    let back = Change::try_from(pb::kvserver::Change::from(change)).unwrap();
    let Action::Put(kept) = back.action else {
        panic!("a put became something else");
    };
    assert_eq!(kept.as_ptr(), value.as_ptr());
}

#[test]
fn a_refusal_does_not_travel_as_an_answer() {
    let refused = Reply::NotDone(NotDone::Overloaded);
    assert!(pb::kvserver::ExecuteResponse::try_from(refused).is_err());
    assert!(pb::kvserver::ExecuteResponse::try_from(Reply::Unknown).is_err());
}

/// A log of so many bytes holds so many entries: what few of them need must not be in all.
#[test]
fn an_entry_of_a_small_put_weighs_what_it_takes() {
    assert!(size_of::<Entry>() <= 144, "{}", size_of::<Entry>());
    let change = Change { key: vec![1; 16].into(), action: Action::Put(vec![2; 100].into()) };
    assert_eq!(Command::Change(change).weight(), 160 + 128 + 32);
    assert_eq!(Command::Barrier(History::default()).weight(), 160);
}

/// The log kept whole network buffers alive for entries of a hundred bytes: gigabytes where its
/// budget said 32 MiB.
#[test]
fn a_small_command_leaves_its_network_buffer_and_a_large_one_stays() {
    for (size, stays) in [(100, false), (100_000, true)] {
        let buffer = Bytes::from(vec![7; size + 1]);
        let change = Change { key: buffer.slice(..1), action: Action::Put(buffer.slice(1..)) };
        let before = Command::Change(change);
        let after = before.clone().in_own_memory();
        assert_eq!(after, before);
        assert_eq!(after.changes()[0].key.as_ptr() == buffer.as_ptr(), stays, "{size} bytes");
    }
    let all = Gen(11).several(Gen::change);
    let batch = Command::Batch(all.clone()).in_own_memory();
    assert_eq!(batch, Command::Batch(all));
}
