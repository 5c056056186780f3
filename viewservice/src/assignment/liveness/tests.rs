//! Who counts as dead, when, and what that costs.

use super::*;
use kvproto::registration::Memory;
use kvproto::{History, Incarnation, Role, ViewOrder};

const TICK: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);

struct Watch {
    liveness: Liveness,
    now: Timestamp,
}

fn server(name: &str) -> Member {
    Member { name: name.into(), incarnation: Incarnation(1) }
}

fn progress(steps: u64) -> Progress {
    Progress {
        view: ViewOrder::default(),
        history: History::default(),
        appended: OpNumber(0),
        committed: OpNumber(0),
        applied: OpNumber(0),
        steps,
        role: Role::Spare,
        memory: Memory::default(),
        disk_full: false,
        disk_waits: Duration::ZERO,
        directory_gone: false,
    }
}

impl Watch {
    fn over(names: &[&str]) -> Watch {
        let now = Timestamp::from_nanos(5);
        let known = names.iter().map(|name| server(name));
        Watch { liveness: Liveness::new(&Settings::default(), known, now), now }
    }

    /// Time passes while these servers ping.
    fn pass(&mut self, duration: Duration, heard: &[&str]) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + TICK;
            for name in heard {
                self.liveness.observe(&server(name), None, self.now);
            }
            self.liveness.tick(self.now);
        }
    }

    fn dead(&self) -> Vec<String> {
        self.liveness.dead().iter().map(|member| member.name.to_string()).collect()
    }

    /// Dies and is back at once.
    fn fall_and_rise(&mut self, name: &str) {
        self.liveness.suspect(&server(name));
        self.liveness.refused(&server(name), self.now);
        self.liveness.attend(&server(name), self.now);
    }

    fn recruitable(&self, name: &str) -> bool {
        self.liveness.is_recruitable(&server(name))
            && !self.liveness.is_barred(&server(name), self.now)
    }
}

#[test]
fn silence_for_dead_after_is_death_and_a_sign_of_life_ends_it() {
    let mut watch = Watch::over(&["a", "b"]);
    watch.pass(Duration::from_millis(1450), &["b"]);
    assert!(watch.dead().is_empty());
    watch.pass(TICK, &["b"]);
    assert_eq!(watch.dead(), ["a"]);
    watch.pass(TICK, &["a", "b"]);
    assert!(watch.dead().is_empty());
}

#[test]
fn a_new_leader_gives_everybody_a_full_dead_after() {
    let mut watch = Watch::over(&["a"]);
    watch.pass(Duration::from_millis(1450), &[]);
    assert!(watch.dead().is_empty());
}

#[test]
fn a_paused_leader_gives_everybody_a_full_dead_after() {
    let mut watch = Watch::over(&["a", "b"]);
    watch.pass(SECOND, &["a", "b"]);
    watch.now = watch.now + SECOND * 60;
    watch.liveness.tick(watch.now);
    assert!(watch.dead().is_empty());
    watch.pass(Duration::from_millis(1450), &["b"]);
    assert!(watch.dead().is_empty());
    watch.pass(TICK, &["b"]);
    assert_eq!(watch.dead(), ["a"]);
}

#[test]
fn when_most_fall_silent_together_the_leader_suspects_itself_once() {
    let mut watch = Watch::over(&["a", "b", "c"]);
    watch.pass(SECOND, &["a", "b", "c"]);
    watch.pass(Duration::from_millis(2900), &["c"]);
    assert!(watch.dead().is_empty());
    watch.pass(TICK * 4, &["c"]);
    assert_eq!(watch.dead(), ["a", "b"]);
}

/// After a power cut of all machines people waited twice for nobody: the new processes stood at the door.
#[test]
fn a_silence_that_a_newer_process_explains_is_not_put_down_to_the_leader() {
    let mut watch = Watch::over(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        watch.liveness.succeeded(&server(name));
    }
    watch.pass(Duration::from_millis(1450), &[]);
    assert!(watch.dead().is_empty(), "asking for a name kills nobody");
    watch.pass(TICK, &[]);
    assert_eq!(watch.dead(), ["a", "b", "c"]);
}

#[test]
fn who_is_heard_after_a_newer_process_asked_for_its_name_is_cut_off_like_anybody() {
    let mut watch = Watch::over(&["a", "b", "c"]);
    for name in ["a", "b"] {
        watch.liveness.succeeded(&server(name));
    }
    watch.pass(SECOND, &["a", "b", "c"]);
    watch.pass(Duration::from_millis(2900), &["c"]);
    assert!(watch.dead().is_empty());
}

#[test]
fn a_refused_connection_is_proof_and_needs_no_second_thought() {
    let mut watch = Watch::over(&["a", "b", "c"]);
    for name in ["a", "b"] {
        watch.liveness.suspect(&server(name));
        watch.liveness.refused(&server(name), watch.now);
    }
    assert_eq!(watch.dead(), ["a", "b"]);
}

#[test]
fn a_refused_connection_without_a_broken_stream_proves_nothing() {
    let mut watch = Watch::over(&["a"]);
    watch.liveness.refused(&server("a"), watch.now);
    assert!(watch.dead().is_empty());
}

#[test]
fn a_server_that_pings_but_does_not_move_is_dead_until_it_moves() {
    let mut watch = Watch::over(&["a"]);
    for _ in 0..40 {
        watch.liveness.observe(&server("a"), Some(progress(7)), watch.now);
        watch.pass(TICK, &[]);
    }
    assert_eq!(watch.dead(), ["a"]);
    watch.liveness.observe(&server("a"), Some(progress(7)), watch.now);
    assert_eq!(watch.dead(), ["a"]);
    watch.liveness.observe(&server("a"), Some(progress(8)), watch.now);
    assert!(watch.dead().is_empty());
}

#[test]
fn the_first_deaths_cost_nothing_and_the_fourth_within_a_minute_costs_five_seconds() {
    let mut watch = Watch::over(&["a"]);
    for _ in 0..3 {
        watch.fall_and_rise("a");
        assert!(watch.recruitable("a"));
    }
    watch.fall_and_rise("a");
    assert!(!watch.recruitable("a"));
    watch.pass(SECOND * 5, &["a"]);
    assert!(watch.recruitable("a"));
    watch.fall_and_rise("a");
    watch.pass(SECOND * 9, &["a"]);
    assert!(!watch.recruitable("a"), "the pause doubles");
    watch.pass(SECOND, &["a"]);
    assert!(watch.recruitable("a"));
}

#[test]
fn the_pause_ends_at_ten_minutes_and_ten_stable_minutes_wipe_the_record() {
    let mut watch = Watch::over(&["a"]);
    for _ in 0..40 {
        watch.fall_and_rise("a");
    }
    watch.pass(Duration::from_secs(599), &["a"]);
    assert!(!watch.recruitable("a"));
    watch.pass(SECOND * 2, &["a"]);
    assert!(watch.recruitable("a"));
    watch.fall_and_rise("a");
    assert!(watch.recruitable("a"));
}

#[test]
fn four_deaths_spread_over_hours_cost_nothing() {
    let mut watch = Watch::over(&["a"]);
    for _ in 0..4 {
        watch.fall_and_rise("a");
        watch.pass(Duration::from_secs(61), &["a"]);
        assert!(watch.recruitable("a"));
    }
}

#[test]
fn suspected_leaving_and_dead_servers_are_not_recruited() {
    let mut watch = Watch::over(&["a", "b"]);
    watch.liveness.suspect(&server("a"));
    watch.liveness.leaving(&server("b"), watch.now);
    assert!(!watch.recruitable("a") && !watch.recruitable("b"));
    assert!(!watch.recruitable("never heard of"));
}

/// A rolling restart, again and again: nobody is to be kept out of the view for stopping politely.
#[test]
fn who_stops_in_good_order_is_not_flapping() {
    let mut watch = Watch::over(&["a", "b"]);
    for _ in 0..10 {
        watch.pass(SECOND, &["a", "b"]);
        watch.liveness.leaving(&server("a"), watch.now);
        watch.fall_and_rise("a");
    }
    watch.pass(SECOND * 3, &["a", "b"]);
    assert!(watch.recruitable("a"));
    for _ in 0..10 {
        watch.pass(SECOND, &["a", "b"]);
        watch.fall_and_rise("a");
    }
    assert!(!watch.recruitable("a"), "crashes are another matter");
}
