//! Who is counted in and who is left out: newcomers that hold everything, copies that fall silent
//! or behind, copies whose data differs, and this server itself when its disk hangs.

use std::collections::BTreeSet;

use kvproto::ids::{Member, OpNumber};
use kvproto::message::Digest;
use kvproto::registration::Wish;
use kvproto::rules::{Rule, keeps};
use kvproto::time::Timestamp;

use super::Primary;
use super::copies::close;
use crate::replica::WISH_AGAIN;
use crate::replica::copy::Copy;
use crate::replica::divergence::Verdict;
use crate::replica::effect::{Effect, Notice};
use crate::replica::progress::{CopyProgress, Phase, Slowness, grain};

/// So often a newcomer is filled anew because the log went on faster than it could follow.
const OUTRUN_MAX: u32 = 2;

/// Commits begin to wait for a newcomer when little separates it from the end of the log: so small a
/// part of a window that it never takes long, or a larger part if it was quick with what came before,
/// which is reached under any load that the newcomer can follow.
const REACH: usize = 64;
const REACH_IF_QUICK: usize = 8;

/// Copies that disagree about the data (REP-8). It stands until the differing ones are out of an
/// activated view, or another primary has taken over.
#[derive(Clone, Hash, Debug)]
pub(super) struct Disagreement {
    pub(super) at: OpNumber,
    differing: BTreeSet<Member>,
    /// The majority is elsewhere: this server must go, and answers nothing.
    pub(super) own: bool,
    wished_at: Option<Timestamp>,
}

impl Primary {
    /// REP-6: a joining copy that has been sent everything is counted on; once it holds everything
    /// committed and its digest is right, the view service is asked to declare it synced. The
    /// asking is the point of no return.
    pub(super) fn count_in(&mut self, copy: &Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let view = &copy.view;
        if !self.is_acting(copy) || !view.is_activated() || self.disagreement.is_some() {
            return;
        }
        let (generation, number) = (view.generation, view.number);
        let joining = view.backups.iter().filter(|backup| !view.eligible.contains(*backup));
        for member in joining {
            let Some(progress) = self.copies.get_mut(member) else { continue };
            let Phase::Streaming { next } = progress.phase else { continue };
            if progress.counted_from.is_none() && keeps(Rule::SyncedHoldsEverything) {
                let (bytes_under_way, _) = progress.in_flight();
                let window = copy.options.tuning.window_bytes;
                let patience = view.settings.stall_after;
                let near = bytes_under_way <= window / REACH
                    || bytes_under_way <= window / REACH_IF_QUICK
                        && progress.is_within(now, grain(patience));
                let doubtful = self.slowness.get(member).is_some_and(|it| it.is_doubtful(patience))
                    && keeps(Rule::CountedOnceItKeepsUp);
                let in_reach = next > copy.log.last().op && near && !doubtful;
                if in_reach || self.asked.contains_key(member) {
                    progress.counted_from = Some(copy.committed);
                }
                continue;
            }
            let verified =
                progress.verified.is_some() && progress.verified >= progress.counted_from;
            let whole = progress.matched >= copy.committed
                && (verified || !keeps(Rule::SyncedIsVerified))
                || !keeps(Rule::SyncedHoldsEverything);
            // VIEW-8: whoever holds what is acknowledged from now on can prove that there was more.
            let proves = progress.recorded >= view.revision || !keeps(Rule::SyncedHasTheRecord);
            let due = progress.synced_wished_at.is_none_or(|at| now.since(at) >= WISH_AGAIN);
            if whole && proves && due {
                if !self.asked.contains_key(member) {
                    let (copy, through) = (member.clone(), progress.matched);
                    let sent = progress.sent;
                    out.push(Effect::Notice(Notice::CopySynced { copy, through, sent }));
                }
                self.asked.insert(member.clone(), number);
                progress.synced_wished_at = Some(now);
                let server = member.clone();
                out.push(Effect::Wish(Wish::Synced { generation, number, server }));
            }
        }
    }

    /// REP-9: asks for a view without a copy that makes no progress for `stall-after` with anything
    /// unanswered, that keeps commits waiting by many shorter silences, that holds up the activation of
    /// a view (REP-5), that is eligible but cannot be reconciled from the log, or that joins and is
    /// outrun again and again: each time costs a look at all of the data.
    pub(super) fn leave_out(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        self.judge_slowness(copy, now);
        let stall_after = copy.view.settings.stall_after;
        // Without them writes would wait for this server's own disk all the same, and they could no
        // longer lead in its place.
        let blames_nobody =
            copy.own_disk.waits(now) >= stall_after / 2 && keeps(Rule::HangingBlamesNobody);
        let (_, proposed_at) = self.proposed;
        let mut wishes = Vec::new();
        for (member, progress) in &mut self.copies {
            let silent_for = progress.silent_for(now);
            let eligible = copy.view.eligible.contains(member);
            // Nobody is served meanwhile, so that progress does not count.
            let unreconciled = eligible
                && !copy.view.is_activated()
                && progress.matched < self.barrier
                && progress
                    .met_at
                    .is_some_and(|met| now.since(met.max(proposed_at)) >= stall_after)
                && keeps(Rule::ReconciledInTime);
            let slow = self.slowness.get(member).is_some_and(|it| it.is_too_much(stall_after));
            let mut acknowledges = false;
            let reason = if silent_for >= stall_after {
                if progress.is_connected() && now.since(progress.opened_at) >= stall_after {
                    // A fresh stream is the only other remedy for a stuck one.
                    out.extend(close(copy, member, progress, now));
                }
                format!("it made no progress for {silent_for:?} with what it was sent")
            } else if unreconciled {
                format!("it did not take over the log of this primary within {stall_after:?}")
            } else if matches!(progress.phase, Phase::NeedsTransfer) && eligible {
                "the log no longer reaches back to what it holds".to_owned()
            } else if progress.outrun >= OUTRUN_MAX && !eligible {
                "the log goes on faster than it can follow".to_owned()
            } else if slow && keeps(Rule::SlowByTurns) {
                acknowledges = true;
                "it stands still again and again with what it was sent".to_owned()
            } else {
                continue;
            };
            let due = progress.evict_wished_at.is_none_or(|at| now.since(at) >= WISH_AGAIN);
            if due && !blames_nobody && copy.view.backups.contains(member) {
                progress.evict_wished_at = Some(now);
                wishes.push(evict(copy, member.clone(), acknowledges, reason));
            }
        }
        out.extend(wishes.into_iter().map(Effect::Wish));
    }

    /// Keeps account of who stood still while it owed something, of late.
    fn judge_slowness(&mut self, copy: &Copy, now: Timestamp) {
        let patience = copy.view.settings.stall_after;
        let mut slowness = std::mem::take(&mut self.slowness);
        let owing_since = |member: &Member| {
            let progress = self.copies.get(member)?;
            let commits_wait = self.counts(member, progress)
                && copy.committed < copy.log.last().op
                && progress.matched <= copy.committed;
            progress.waiting_since.filter(|_| commits_wait || progress.owes_entries())
        };
        for member in self.copies.keys() {
            let since = owing_since(member);
            if since.is_some_and(|since| now.since(since) > grain(patience)) {
                slowness.entry(member.clone()).or_insert_with(|| Slowness::none(now));
            }
        }
        slowness.retain(|member, slowness| {
            let since = owing_since(member);
            slowness.judge(now, since, patience);
            since.is_some() || !slowness.is_none()
        });
        self.slowness = slowness;
    }

    /// Takes what a copy says of its data at an op.
    pub(super) fn on_digest(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        from: &Member,
        at: OpNumber,
        digest: Digest,
        out: &mut Vec<Effect>,
    ) {
        let Some(equal) = self.digests.vote(from, at, digest) else { return };
        let counted_on = self.is_required(from) || copy.view.eligible.contains(from);
        if let Some(progress) = self.copies.get_mut(from) {
            if equal {
                progress.verified = progress.verified.max(Some(at));
            } else if !counted_on {
                // Nobody counts on it: it is simply brought up again from the start.
                progress.lacks_everything = true;
                out.extend(close(copy, from, progress, now));
                out.push(Effect::Notice(Notice::Diverged { copy: from.clone(), at }));
            }
        }
        self.judge(copy, at, out);
    }

    /// With three or more copies the minority leaves, be it the primary. With two nobody can tell
    /// which is right: writes stop until an operator has stopped one of them.
    fn judge(&mut self, copy: &Copy, at: OpNumber, out: &mut Vec<Effect>) {
        if self.disagreement.is_some() {
            return;
        }
        let (differing, own) = match self.digests.verdict(at, &self.required_members()) {
            Some(Verdict::MinorityDiffers(minority)) => {
                for member in minority {
                    out.push(Effect::Notice(Notice::Diverged { copy: member.clone(), at }));
                    let reason = format!("its data differs from the majority's at op {at}");
                    out.push(Effect::Wish(evict(copy, member, false, reason)));
                }
                return;
            }
            Some(Verdict::PrimaryDiffers) => ([copy.me.clone()].into(), true),
            Some(Verdict::Undecided(differing)) => (differing, false),
            None => return,
        };
        for member in &differing {
            out.push(Effect::Notice(Notice::Diverged { copy: member.clone(), at }));
        }
        self.disagreement = Some(Disagreement { at, differing, own, wished_at: None });
    }

    /// A primary that knows itself to be the wrong one asks to be replaced until it is.
    pub(super) fn give_way(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if let Some(disagreement) = &mut self.disagreement
            && disagreement.own
            && disagreement.wished_at.is_none_or(|at| now.since(at) >= WISH_AGAIN)
        {
            disagreement.wished_at = Some(now);
            out.push(Effect::Wish(Wish::Leave));
        }
    }

    /// REP-10: a primary whose own disk hangs yields to copies that acknowledged what that disk lacks.
    /// It is one of the copies that commits wait for, and the only one that it cannot have left out.
    /// What has others wait as long as it hangs too is no reason: so the time counts only from when
    /// they had done what it has not.
    pub(super) fn yield_to_who_moves(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let of_use = |(member, it): &(&Member, &CopyProgress)| {
            let moves = it.matched > copy.safe || !keeps(Rule::YieldsToWhoMoves);
            moves && copy.view.eligible.contains(*member)
        };
        if !self.copies.iter().any(|other| of_use(&other)) {
            self.outdone_since = None;
            return;
        }
        let outdone_for = now.since(*self.outdone_since.get_or_insert(now));
        let waits = copy.own_disk.waits(now).min(outdone_for);
        let due = self.yield_wished_at.is_none_or(|at| now.since(at) >= WISH_AGAIN);
        if waits < copy.view.settings.stall_after || !due || !keeps(Rule::HangingPrimaryYields) {
            return;
        }
        self.yield_wished_at = Some(now);
        let (generation, number) = (copy.view.generation, copy.view.number);
        let to = self.copies.iter().filter(of_use).map(|(member, _)| member.clone()).collect();
        let reason = format!("its disk has done nothing for {waits:?}, while other copies went on");
        out.push(Effect::Wish(Wish::Yield { generation, number, to, reason }));
    }

    /// The differing copies are out of the activated view: what is left agrees.
    pub(super) fn settle_disagreement(&mut self, copy: &Copy) {
        let settled = |disagreement: &mut Disagreement| {
            !disagreement.own && disagreement.differing.is_disjoint(&copy.view.eligible)
        };
        self.disagreement.take_if(settled);
    }
}

fn evict(copy: &Copy, server: Member, acknowledges: bool, reason: String) -> Wish {
    let (generation, number) = (copy.view.generation, copy.view.number);
    Wish::Evict { generation, number, server, acknowledges, reason }
}
