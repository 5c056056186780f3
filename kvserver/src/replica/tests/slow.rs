//! Copies that are slow, and links that are narrow: what is progress, and who keeps whom waiting
//! (REP-9).

use super::*;

impl World {
    /// Lets time pass for everybody but `still`. What is `under_way` stays so, and its sender hears all
    /// the time that more of it has arrived; everything else is delivered at once, but to `still`.
    fn run_apart(
        &mut self,
        duration: Duration,
        still: Option<&Member>,
        under_way: impl Fn(&Message) -> bool,
    ) {
        let end = self.now + duration;
        let mut later = VecDeque::new();
        while self.now < end {
            self.now = self.now + ms(5);
            for who in self.replicas.keys().cloned().collect::<Vec<_>>() {
                if still != Some(&who) {
                    self.step(&who, Event::Tick);
                }
            }
            while let Some(message) = self.wire.pop_front() {
                if under_way(&message) || still == Some(&message.to) {
                    later.push_back(message);
                } else {
                    self.deliver(message);
                }
            }
            let arriving = later.iter().find(|message| under_way(message)).cloned();
            if let Some(Message { from, to: peer, stream, .. }) = arriving {
                self.step(&from, Event::Confirmed { peer, stream });
            }
        }
        self.wire = later;
    }

    /// Lets a server stand still for so long, then run for so long, so often, with a write each time
    /// and one between. Returns the writes.
    fn flap(&mut self, who: &Member, still: u64, running: u64, times: usize) -> Vec<Token> {
        let mut writes = Vec::new();
        for n in 0..times {
            writes.push(self.put(&a(), "k", &n.to_string()));
            self.run_apart(ms(still), Some(who), |_| false);
            writes.push(self.put(&a(), "k", &n.to_string()));
            self.run(ms(running));
        }
        writes
    }
}

fn evicted(who: Member, slow: bool) -> impl Fn(&Wish) -> bool {
    move |wish| {
        matches!(wish, Wish::Evict { server, acknowledges, .. }
            if *server == who && *acknowledges == slow)
    }
}

/// A value of 8 MiB on a link of 8 Mbit/s: eight seconds without an acknowledgement.
#[test]
pub(super) fn what_arrives_piece_by_piece_is_not_silence() {
    let mut world = World::with(a(), &[b()]);
    world.wishes.clear();
    let write = world.put(&a(), "k", "large");
    world.run_apart(ms(8000), None, is_append);
    assert_eq!(world.wishes, []);
    assert!(!world.answered(write), "b does not have it");
    world.run(ms(50));
    assert!(world.is_done(write));
}

#[test]
pub(super) fn a_piece_that_has_arrived_acknowledges_nothing() {
    let mut world = World::with(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    world.run_apart(ms(300), None, is_append);
    assert!(!world.answered(write), "b does not have it");
    world.kill(&a());
    world.wire.clear();
    world.propose(b(), &[]);
    world.run(ms(1000));
    assert_eq!(world.held(&b(), "k"), None);
}

/// A chunk of a full copy, too.
#[test]
fn a_chunk_that_arrives_piece_by_piece_is_not_silence() {
    let mut world = World::new();
    world.tuning.retain_bytes = 0;
    let mut world = world.formed(a(), &[]);
    for n in 0..20 {
        world.put(&a(), "k", &"v".repeat(n));
    }
    world.settle();
    world.start(b());
    world.propose(a(), &[b()]);
    world.wishes.clear();
    world.run_apart(ms(5000), None, |message| {
        matches!(message.body, Body::TransferChunk { .. } | Body::TransferEnd(_))
    });
    assert!(!world.wished(evicted(b(), false)) && !world.wished(evicted(b(), true)));
    world.run(ms(300));
    assert!(world.view.eligible.contains(&b()));
}

/// Holes 17: a heartbeat that named the last op sent was refused, and with it went the lease.
#[test]
pub(super) fn reads_go_on_while_a_large_entry_is_under_way() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "old");
    world.run(ms(200));
    world.put(&a(), "k", "large");
    world.run_apart(ms(1000), None, is_append);
    let large = std::mem::take(&mut world.wire);
    let read = world.get(&a(), "k");
    world.settle();
    assert_eq!(world.value(read).as_deref(), Some("old"));
    assert!(!world.noticed(|notice| matches!(notice, Notice::Nonsense { .. })));
    world.wire = large;
    world.run(ms(50));
    assert_eq!(world.held(&a(), "k").as_deref(), Some("large"));
}

/// A backup whose disk hangs answers every heartbeat. It stopped the writes for four times `stall-after`.
#[test]
pub(super) fn an_answered_heartbeat_is_no_progress_while_an_entry_is_owed() {
    let mut world = World::with(a(), &[b()]);
    world.run(ms(77));
    world.slow_journal.insert(b());
    world.wishes.clear();
    world.put(&a(), "k", "v");
    world.run(ms(730));
    assert_eq!(world.wishes, []);
    world.run(ms(40));
    assert!(world.wished(evicted(b(), false)));
}

/// It comes back with what it has, and gets the rest from the log.
#[test]
fn a_copy_whose_disk_hung_needs_no_full_copy() {
    let mut world = World::with(a(), &[b()]);
    world.slow_journal.insert(b());
    world.put(&a(), "k", "1");
    world.run(ms(800));
    assert!(world.wished(evicted(b(), false)));
    world.propose(a(), &[]);
    let alone = world.put(&a(), "k", "2");
    world.run(ms(2000));
    assert!(world.is_done(alone));
    world.propose(a(), &[b()]);
    world.run(ms(500));
    world.finish_journal(&b());
    world.run(ms(8000));
    assert!(world.view.eligible.contains(&b()));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("2"));
    assert!(!world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. })));
}

#[test]
pub(super) fn a_copy_that_stands_still_by_turns_is_asked_to_be_replaced() {
    let mut world = World::with(a(), &[b()]);
    world.wishes.clear();
    world.flap(&b(), 500, 300, 2);
    assert_eq!(world.wishes, [], "once is chance");
    world.flap(&b(), 500, 300, 3);
    assert!(world.wished(evicted(b(), true)));
    assert!(!world.wished(evicted(b(), false)), "it still acknowledges");
}

#[test]
fn a_copy_that_stumbles_now_and_then_stays() {
    let mut world = World::with(a(), &[b()]);
    world.wishes.clear();
    world.flap(&b(), 140, 100, 50);
    world.flap(&b(), 500, 5000, 10);
    assert_eq!(world.wishes, []);
}

/// Nothing is known against a copy that is not sent anything.
#[test]
fn a_copy_that_stands_still_while_nobody_waits_stays() {
    let mut world = World::with(a(), &[b()]);
    world.wishes.clear();
    for _ in 0..20 {
        world.run_apart(ms(600), Some(&b()), |_| false);
        world.run(ms(300));
    }
    assert_eq!(world.wishes, []);
}

/// What was left out comes back, and would keep everybody waiting once more.
#[test]
pub(super) fn commits_do_not_wait_for_a_newcomer_that_still_stands_still_by_turns() {
    let mut world = World::with(a(), &[b()]);
    world.flap(&b(), 600, 300, 5);
    world.propose(a(), &[]);
    world.run(ms(100));
    world.propose(a(), &[b()]);
    world.run(ms(20));
    let before = world.replies.len();
    for n in 0..10 {
        let write = world.put(&a(), "k", &n.to_string());
        world.run_apart(ms(600), Some(&b()), |_| false);
        assert!(world.is_done(write), "write {n}");
        world.run(ms(300));
    }
    assert_eq!(world.replies.len(), before + 10);
    assert!(!world.view.eligible.contains(&b()));
    world.put(&a(), "k", "last");
    world.run(ms(8000));
    assert!(world.view.eligible.contains(&b()), "it is counted in once it keeps up");
}

/// REP-5: nobody is served meanwhile, so that a long tail on a narrow link is no excuse.
#[test]
pub(super) fn a_backup_that_does_not_take_over_the_log_in_time_is_left_out() {
    let mut world = World::with(a(), &[b(), c()]);
    world.kill(&a());
    world.propose(b(), &[c()]);
    world.wishes.clear();
    world.run_apart(ms(700), None, is_append);
    assert!(!world.wished(evicted(c(), false)));
    world.run_apart(ms(100), None, is_append);
    assert!(world.wished(evicted(c(), false)));
}
