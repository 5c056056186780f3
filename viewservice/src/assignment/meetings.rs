//! Who was met at its address, and who is to be met next (VIEW-6): soft state of the leader. Pure.
//!
//! A process is known by its address and the random id that it drew at its start. To meet it is to ask
//! the address which process answers there. What is met once stays met: an address that leads elsewhere
//! later is a matter for the failure detector.
//!
//! Its caller owes it a `tick` before every decision, and of every attempt that [`Meetings::due`] gives
//! out how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::Timestamp;
use kvproto::registration::{NotMet, Process};

/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A process that has not come to the door for so long, and does not attend, is met no more.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Attempts under way at once.
const AT_ONCE: usize = 64;
/// Processes to be remembered: as many as there are places for servers, and as many that knock.
const MEETINGS_MAX: usize = 2048;

/// One process, as far as it was met.
#[derive(Clone, Debug)]
struct Meeting {
    met: bool,
    /// When it first came, and when it came last.
    first: Timestamp,
    last: Timestamp,
    /// Attempts that have failed, and why the last one did.
    failures: u32,
    why: Option<NotMet>,
    /// When it is tried again; `None` while an attempt is under way.
    next: Option<Timestamp>,
}

/// All who have come.
#[derive(Clone, Default, Debug)]
pub struct Meetings {
    meetings: BTreeMap<Process, Meeting>,
    ticked: Timestamp,
}

impl Meetings {
    /// Time has passed. Who does not `attend` and comes no more is forgotten.
    pub fn tick(&mut self, now: Timestamp, attends: impl Fn(&Process) -> bool) {
        self.ticked = now;
        self.meetings.retain(|process, it| now.since(it.last) < GONE_AFTER || attends(process));
    }

    /// A process has come to the door: it is met, if it was not yet.
    pub fn came(&mut self, process: &Process, now: Timestamp) {
        if let Some(meeting) = self.meetings.get_mut(process) {
            meeting.last = now;
        } else if self.meetings.len() < MEETINGS_MAX {
            let meeting = Meeting {
                met: false,
                first: now,
                last: now,
                failures: 0,
                why: None,
                next: Some(now),
            };
            self.meetings.insert(process.clone(), meeting);
        }
    }

    /// Whose turn it is. Their attempts are under way from now on.
    pub fn due(&mut self) -> Vec<Process> {
        let now = self.ticked;
        let under_way = self.meetings.values().filter(|it| !it.met && it.next.is_none());
        let room = AT_ONCE.saturating_sub(under_way.count());
        let is_due = |it: &Meeting| !it.met && it.next.is_some_and(|next| next <= now);
        let due = self.meetings.iter_mut().filter(|(_, meeting)| is_due(meeting)).take(room);
        due.map(|(process, meeting)| {
            meeting.next = None;
            process.clone()
        })
        .collect()
    }

    /// This very process has answered at its address. Returns how often that had failed, if it is news.
    pub fn met(&mut self, process: &Process) -> Option<u32> {
        let meeting = self.meetings.get_mut(process).filter(|meeting| !meeting.met)?;
        meeting.met = true;
        Some(meeting.failures)
    }

    /// An attempt has failed. Returns how often it did, unless somebody else has met it meanwhile.
    pub fn failed(&mut self, process: &Process, why: NotMet) -> Option<u32> {
        let meeting = self.meetings.get_mut(process).filter(|meeting| !meeting.met)?;
        let pause = PAUSES.0 * 2_u32.pow(meeting.failures.min(7));
        meeting.next = Some(self.ticked + pause.min(PAUSES.1));
        meeting.failures += 1;
        meeting.why = Some(why);
        Some(meeting.failures)
    }

    /// Whether it was met.
    #[must_use]
    pub fn is_met(&self, process: &Process) -> bool {
        self.meetings.get(process).is_some_and(|meeting| meeting.met)
    }

    /// Why it was not met the last time, if it was not.
    #[must_use]
    pub fn why_not(&self, process: &Process) -> Option<&NotMet> {
        self.meetings.get(process).filter(|meeting| !meeting.met)?.why.as_ref()
    }

    /// Whether it could not be met for so long.
    #[must_use]
    pub fn is_in_vain(&self, process: &Process, patience: Duration) -> bool {
        let meeting = self.meetings.get(process).filter(|meeting| !meeting.met);
        meeting.is_some_and(|meeting| self.ticked.since(meeting.first) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvproto::LifeId;

    fn process(life: u8) -> Process {
        Process { name: "s1:1".into(), life: LifeId([life; 16]) }
    }

    fn nobody() -> NotMet {
        NotMet::Nobody("connection refused".into())
    }

    #[test]
    fn a_failed_meeting_is_repeated_less_and_less_often() {
        let (mut meetings, s1) = (Meetings::default(), process(1));
        let start = Timestamp::from_nanos(7);
        let mut attempts = Vec::new();
        meetings.tick(start, |_| true);
        meetings.came(&s1, start);
        for tick in 0..1200 {
            let now = start + Duration::from_millis(50) * tick;
            meetings.tick(now, |_| true);
            for due in meetings.due() {
                assert_eq!(due, s1);
                assert_eq!(meetings.due(), [], "one attempt at a time");
                attempts.push(now);
                meetings.failed(&s1, nobody());
            }
        }
        let pauses: Vec<_> =
            attempts.windows(2).map(|pair| pair[1].since(pair[0]).as_millis()).collect();
        assert_eq!(pauses[..7], [100, 200, 400, 800, 1600, 3200, 5000]);
        assert!(pauses[7..].iter().all(|pause| *pause == 5000), "{pauses:?}");
        assert_eq!(meetings.why_not(&s1), Some(&nobody()));
    }

    #[test]
    fn who_is_met_is_this_very_process_and_no_later_one_at_its_address() {
        let (mut meetings, first, second) = (Meetings::default(), process(1), process(2));
        let now = Timestamp::from_nanos(7);
        meetings.tick(now, |_| true);
        meetings.came(&first, now);
        assert_eq!(meetings.met(&second), None, "it has not come");
        assert_eq!(meetings.met(&first), Some(0));
        assert_eq!(meetings.met(&first), None, "no news");
        assert_eq!(meetings.failed(&first, NotMet::Another), None, "an older attempt");
        meetings.came(&second, now);
        assert!(meetings.is_met(&first) && !meetings.is_met(&second));
        assert_eq!(meetings.due(), [second]);
    }

    #[test]
    fn who_neither_attends_nor_knocks_is_forgotten() {
        let (mut meetings, s1) = (Meetings::default(), process(1));
        let now = Timestamp::from_nanos(7);
        meetings.came(&s1, now);
        meetings.tick(now + GONE_AFTER, |_| true);
        assert!(meetings.is_in_vain(&s1, GONE_AFTER));
        meetings.tick(now + GONE_AFTER, |_| false);
        assert!(!meetings.is_in_vain(&s1, GONE_AFTER) && meetings.due().is_empty());
    }
}
