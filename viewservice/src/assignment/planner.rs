//! What would be good to do next: the policy. Pure. It can only propose; whatever it gets wrong,
//! the law refuses.
//!
//! Its caller ticks the liveness first, and asks again after every command that was applied.

use std::cmp::Reverse;
use std::time::Duration;

use kvproto::registration::Process;
use kvproto::{Member, OpNumber, Rule, ServerName, Timestamp, keeps};

use super::law::{Command, Kind, Mode, ViewState};
use super::liveness::{Liveness, State};

/// A dead server outside the view is struck off the list after this long.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The next thing to do, if there is any; nothing while the law is in doubt.
#[must_use]
pub fn next(state: &ViewState, liveness: &Liveness, now: Timestamp) -> Option<Command> {
    if state.doubt().is_some() {
        return None;
    }
    next_view(state, liveness, now).or_else(|| to_forget(state, liveness, now))
}

/// The view without this backup, for the primary that cannot work with it. Spares take its place
/// at once if the view is activated. `None` if it is not a backup.
#[must_use]
pub fn without(
    state: &ViewState,
    liveness: &Liveness,
    backup: &Member,
    now: Timestamp,
) -> Option<Command> {
    let view = state.view();
    let primary = view.primary.clone()?;
    if !view.backups.contains(backup) || lacks_what_other_has(liveness, &primary, backup) {
        return None;
    }
    let mut backups: Vec<_> = view
        .backups
        .iter()
        // The law refuses a view that names a life that is over.
        .filter(|b| *b != backup && state.is_present(b))
        .cloned()
        .collect();
    if view.is_activated() {
        backups.retain(|member| stays(state, liveness, member));
        recruit(state, liveness, &primary, &mut backups, Some(backup), now);
    }
    Some(propose(state, primary, backups))
}

/// VIEW-6: whether this very process was met at its address, which the lab's servers need not be.
#[must_use]
pub fn was_met(state: &ViewState, liveness: &Liveness, member: &Member) -> bool {
    let process = state.process(member);
    state.kind() == Some(Kind::Plain)
        || process.is_some_and(|process| liveness.meetings.is_met(&process))
        || !keeps(Rule::MetBeforeItsPart)
}

/// Whether nobody met it, though it has attended for `dead-after`.
fn is_met_in_vain(state: &ViewState, liveness: &Liveness, member: &Member) -> bool {
    let in_vain = |process: Process| liveness.meetings.is_in_vain(&process, liveness.patience());
    !was_met(state, liveness, member) && state.process(member).is_some_and(in_vain)
}

/// Who could take over from the primary: the eligible server that holds most, of equals the senior
/// one. Those whose disk hangs come after all others, and servers that want to stop after these;
/// suspected ones wait until it is known how they are. One that nobody meets at its address takes over
/// if no other could: it waits for `dead-after`, in which it may be met after all, and others may come.
/// One whose directory is gone can begin in memory alone, which ends the claim of every disk: only when
/// nobody who may still come back has a directory.
#[must_use]
pub fn successor(state: &ViewState, liveness: &Liveness) -> Option<Member> {
    best_successor(state, liveness, |_| true)
}

fn best_successor(
    state: &ViewState,
    liveness: &Liveness,
    suits: impl Fn(&Member) -> bool,
) -> Option<Member> {
    let view = state.view();
    let met = |member: &Member| was_met(state, liveness, member);
    let is_exempt = |member: &Member| {
        is_met_in_vain(state, liveness, member) && keeps(Rule::UnmetLeadsIfNobodyElse)
    };
    heirs(state, liveness)
        .filter(|member| suits(member) && (met(member) || is_exempt(member)))
        .filter(|member| {
            !liveness.lacks_directory(member)
                || !another_has_its_own(state, liveness, member)
                || !keeps(Rule::OwnDirectoryLeads)
        })
        .min_by_key(|member| {
            let leaving = liveness.state(member) == State::Leaving;
            let hangs = liveness.disk_hangs(member);
            let seniority = view.backups.iter().position(|backup| backup == *member);
            let seniority = seniority.unwrap_or(usize::MAX);
            let holds = Reverse(liveness.appended(member));
            (!met(member), leaving, hangs, holds, seniority, member.incarnation)
        })
        .cloned()
}

/// The eligible servers beside the primary that live and know it.
fn heirs<'a>(state: &'a ViewState, liveness: &'a Liveness) -> impl Iterator<Item = &'a Member> {
    let view = state.view();
    view.eligible
        .iter()
        .filter(|member| !view.is_primary(member) && state.is_present(member))
        .filter(|member| matches!(liveness.state(member), State::Alive | State::Leaving))
}

/// The view in which the best of these leads in place of the primary, whose disk hangs, and which
/// leaves that out: it would be waited for. `None` if none of them is well.
#[must_use]
pub fn yielded(
    state: &ViewState,
    liveness: &Liveness,
    to: &[Member],
    now: Timestamp,
) -> Option<Command> {
    let well = |member: &Member| {
        to.contains(member)
            && liveness.state(member) == State::Alive
            && !liveness.disk_hangs(member)
    };
    let other = best_successor(state, liveness, well)?;
    Some(promote(state, liveness, other, state.view().primary.as_ref(), now))
}

/// Who leads in place of a candidate whose disk hangs before it has activated its view: one whose
/// disk moves. Where all hang the view stays: it would only be handed to and fro.
fn instead_of_hanging(state: &ViewState, liveness: &Liveness, primary: &Member) -> Option<Member> {
    let view = state.view();
    let hangs = liveness.disk_hangs(primary) && keeps(Rule::HangingCandidateIsReplaced);
    if view.is_activated() || !hangs {
        return None;
    }
    best_successor(state, liveness, |member| {
        let moves = liveness.disk_moves_in(member, view) || !keeps(Rule::ReplacedIfAnotherMoves);
        moves && liveness.state(member) == State::Alive
    })
}

/// Whether one has lost its directory, and the other has not.
fn lacks_what_other_has(liveness: &Liveness, one: &Member, other: &Member) -> bool {
    liveness.lacks_directory(one) && !liveness.lacks_directory(other)
}

/// Whether another eligible server has a directory of its own, and lives or may come back with it.
fn another_has_its_own(state: &ViewState, liveness: &Liveness, than: &Member) -> bool {
    let mut others = state.view().eligible.iter().filter(|member| *member != than);
    others.any(|member| !liveness.lacks_directory(member) && liveness.may_come_back(member))
}

/// Why the cluster cannot go on, or not with writes, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The servers without which it cannot; empty if any servers will do.
    pub for_servers: Vec<ServerName>,
    /// One sentence on what to do.
    pub advice: String,
}

/// For whom or what the cluster waits, and the ways out; `None` while it can go on.
#[must_use]
pub fn waiting(state: &ViewState, liveness: &Liveness) -> Option<Waiting> {
    let view = state.view();
    let Some(primary) = &view.primary else {
        return Some(
            none_was_met(state, liveness).unwrap_or_else(|| Waiting {
                for_servers: Vec::new(),
                advice:
                    "no server has come yet: start a kvserver whose --vs names this view service"
                        .into(),
            }),
        );
    };
    // An heir that was not met yet soon will be, or leads all the same.
    if can_lead(state, liveness, primary) || heirs(state, liveness).next().is_some() {
        return no_directory(state, liveness).or_else(|| too_few_copies(state));
    }
    if !state.ever_activated() {
        return Some(none_was_met(state, liveness).unwrap_or_else(|| Waiting {
            for_servers: vec![primary.name.clone()],
            advice: "no server is alive and there is no data yet: start any server".into(),
        }));
    }
    let (lost, silent): (Vec<_>, Vec<_>) = view
        .eligible
        .iter()
        .partition(|member| !state.is_present(member) || liveness.is_gone(member));
    // Before a forced generation has begun nobody comes back with its data.
    let on_disk = state.mode() == Some(Mode::Durable) && state.generation_has_begun();
    let names = |members: &[&Member]| {
        let names: Vec<_> = members.iter().map(|member| member.name.to_string()).collect();
        names.join(", ")
    };
    let advice = if silent.is_empty() && !state.generation_has_begun() {
        format!(
            "{} ended before generation {} had begun with it, so nobody can tell whether it still \
             holds what it was chosen for: decide again with {}",
            names(&lost),
            view.generation,
            force_the_best(state, liveness)
        )
    } else if silent.is_empty() && on_disk {
        let came_back =
            |member: &&Member| state.present(&member.name).is_some_and(|it| !liveness.is_dead(&it));
        let (without, away): (Vec<_>, Vec<_>) = lost.iter().copied().partition(came_back);
        let start = format!(
            "start {} again with its data directory, and do what it says if it refuses to start: any one of \
             these that comes back whole is enough",
            names(&away)
        );
        let save = format!(
            "{} came back without all that it held, its log says why (an empty directory: is it the right \
             one, and its disk mounted?): save what its directory has, or take a backup \
             (docs/backup.md, \"A damaged disk\")",
            names(&without)
        );
        let steps: Vec<_> = [(away, start), (without, save)]
            .into_iter()
            .filter_map(|(members, step)| (!members.is_empty()).then_some(step))
            .collect();
        format!(
            "{}; if their disks are lost, accept the loss of what only they hold with {}",
            steps.join("; "),
            force_the_best(state, liveness)
        )
    } else if silent.is_empty() {
        format!(
            "every complete copy is lost (the processes of {} ended, and data is in memory): \
             start over from a running server with {}; if nothing was stored yet, that loses nothing",
            names(&lost),
            force_the_best(state, liveness)
        )
    } else if on_disk {
        format!(
            "bring back {}: what is acknowledged is in its data directory (start it with it; or, if \
             it runs, resume it, mend its network); only if its disk is lost: \
             {}",
            names(&silent),
            force_the_best(state, liveness)
        )
    } else {
        format!(
            "bring back {}: its process still holds every committed op (resume it, mend its \
             network); or accept the loss of what only it holds with \
             {}",
            names(&silent),
            force_the_best(state, liveness)
        )
    };
    let for_servers = if silent.is_empty() { lost } else { silent };
    Some(Waiting {
        for_servers: for_servers.into_iter().map(|member| member.name.clone()).collect(),
        advice,
    })
}

/// Servers live, and no view was ever activated: whoever is met will lead.
fn none_was_met(state: &ViewState, liveness: &Liveness) -> Option<Waiting> {
    let alive = state.servers().filter(|server| !liveness.is_dead(server));
    let for_servers: Vec<_> = alive.map(|server| server.name).collect();
    (!for_servers.is_empty()).then(|| Waiting {
        for_servers,
        advice: "no server was met at its address yet, so none may lead: check --advertise".into(),
    })
}

/// Every complete copy that lives has lost its data directory: what they hold is in memory only.
fn no_directory(state: &ViewState, liveness: &Liveness) -> Option<Waiting> {
    let view = state.view();
    let living = || view.eligible.iter().filter(|member| !liveness.is_dead(member));
    if !state.ever_activated() || !living().all(|member| liveness.lacks_directory(member)) {
        return None;
    }
    let names: Vec<_> = living().map(|member| member.name.clone()).collect();
    let name = names.first()?;
    let wait = living().next().is_some_and(|copy| another_has_its_own(state, liveness, copy));
    let wait =
        if wait { "start the other complete copies again with their directories; or " } else { "" };
    Some(Waiting {
        advice: format!(
            "the data directory of every complete copy that runs is gone, and what was acknowledged is in \
             their memory only: do not stop them. Reads go on, writes are refused. {wait}save it with \
             `kvctl snapshot save FILE --server {name}`, or start another kvserver: it is filled, and \
             takes over"
        ),
        for_servers: names,
    })
}

/// `min-copies`: the data is safe and can be read, but the primary refuses writes.
fn too_few_copies(state: &ViewState) -> Option<Waiting> {
    let (complete, wanted) = (state.view().eligible.len(), state.view().settings.min_copies);
    if !state.ever_activated() || complete >= wanted as usize {
        return None;
    }
    Some(Waiting {
        for_servers: Vec::new(),
        advice: format!(
            "{complete} complete copies, writes need --min-copies {wanted}: start another server, \
             or wait for the joining ones"
        ),
    })
}

/// The command to start over from one server: of those alive, the one that says it holds most.
fn force_the_best(state: &ViewState, liveness: &Liveness) -> String {
    let alive = state.servers().filter(|server| !liveness.is_dead(server));
    let most = alive.max_by_key(|server| (liveness.appended(server), Reverse(server.incarnation)));
    let Some(server) = most else {
        return "`kvctl force SERVER --accept-data-loss`".to_owned();
    };
    let holds = match liveness.progress(&server) {
        Some(progress) if progress.appended == OpNumber(0) => ", which holds nothing",
        _ => "",
    };
    format!("`kvctl force {} --accept-data-loss`{holds}", server.name)
}

fn next_view(state: &ViewState, liveness: &Liveness, now: Timestamp) -> Option<Command> {
    let view = state.view();
    let Some(primary) = &view.primary else {
        return first_primary(state, liveness);
    };
    if !state.ever_activated() && !state.began_with_data(primary) {
        let first = first_primary(state, liveness);
        let restored = |command: &Command| matches!(command, Command::Propose { primary, .. } if state.began_with_data(primary));
        if first.as_ref().is_some_and(restored) {
            return first;
        }
    }
    if !can_lead(state, liveness, primary) {
        if !state.ever_activated() {
            return first_primary(state, liveness);
        }
        return Some(promote(state, liveness, successor(state, liveness)?, None, now));
    }
    // It led by an exception that is over, if another was met.
    let is_unmet = is_met_in_vain(state, liveness, primary);
    if (liveness.state(primary) == State::Leaving || is_unmet)
        && let Some(other) = successor(state, liveness)
        && liveness.state(&other) == State::Alive
        && (was_met(state, liveness, &other) || !is_unmet)
    {
        return Some(promote(state, liveness, other, None, now));
    }
    if let Some(other) = instead_of_hanging(state, liveness, primary) {
        return Some(promote(state, liveness, other, Some(primary), now));
    }
    if liveness.has_long_lacked_directory(primary, now)
        && let Some(other) = successor(state, liveness)
        && liveness.state(&other) == State::Alive
        && !liveness.lacks_directory(&other)
    {
        return Some(promote(state, liveness, other, None, now));
    }
    let backups = if view.is_activated() {
        let mut kept = kept_backups(state, liveness);
        drop_surplus(state, liveness, &mut kept, now);
        recruit(state, liveness, primary, &mut kept, None, now);
        kept
    } else {
        unblocked_backups(state, liveness)
    };
    let same = backups == view.backups;
    (!same).then(|| propose(state, primary.clone(), backups))
}

/// Before any activation the cluster has no data: whoever lives and came first will do. Once one has
/// come with restored data nobody else will, dead or alive: what a cluster begins with is all that
/// it will ever have of it.
fn first_primary(state: &ViewState, liveness: &Liveness) -> Option<Command> {
    let restored = state.servers().any(|member| state.began_with_data(&member));
    let first = state
        .servers()
        .filter(|member| liveness.state(member) == State::Alive)
        .filter(|member| was_met(state, liveness, member))
        .filter(|member| !restored || state.began_with_data(member))
        .min_by_key(|member| member.incarnation)?;
    Some(propose(state, first, Vec::new()))
}

/// Promotion and the recruiting of spares happen in one view change, so that there is no view
/// without a backup where one could have been. A former primary whose disk hangs lives and is eligible,
/// but as a backup it would be waited for.
fn promote(
    state: &ViewState,
    liveness: &Liveness,
    primary: Member,
    hanging: Option<&Member>,
    now: Timestamp,
) -> Command {
    let mut backups = kept_backups(state, liveness);
    backups.retain(|backup| *backup != primary);
    if !keeps(Rule::HangingIsLeftOut) {
        backups.extend(hanging.cloned());
    }
    recruit(state, liveness, &primary, &mut backups, hanging, now);
    propose(state, primary, backups)
}

/// While a view is only proposed its live primary is given time, and nobody is recruited. But a
/// lost backup that the primary would have to reconcile with must not block it. The lab's servers
/// reconcile with nobody: there the view waits for the acknowledgement, whatever happens.
fn unblocked_backups(state: &ViewState, liveness: &Liveness) -> Vec<Member> {
    let view = state.view();
    let blocks = |backup: &&Member| {
        state.kind() == Some(Kind::Full)
            && view.eligible.contains(backup)
            && !stays(state, liveness, backup)
    };
    if !view.backups.iter().any(|backup| blocks(&backup)) {
        return view.backups.clone();
    }
    // A joining backup whose life is over blocks nobody, but the law refuses a view that names it.
    let stay = |backup: &&Member| !blocks(backup) && state.is_present(backup);
    view.backups.iter().filter(stay).cloned().collect()
}

fn kept_backups(state: &ViewState, liveness: &Liveness) -> Vec<Member> {
    let backups = state.view().backups.iter();
    backups.filter(|backup| stays(state, liveness, backup)).cloned().collect()
}

/// Complete backups beyond what is wanted go, those that are replaced first. Joining ones do not count:
/// nobody drops a copy for one that is not whole.
fn drop_surplus(state: &ViewState, liveness: &Liveness, backups: &mut Vec<Member>, now: Timestamp) {
    let view = state.view();
    let wanted = wanted_backups(state);
    let whole =
        |backup: &Member| view.eligible.contains(backup) || !keeps(Rule::ReplacedByACompleteOne);
    while backups.iter().filter(|backup| whole(backup)).count() > wanted {
        let whole = backups.iter().filter(|backup| whole(backup));
        let Some(surplus) = whole.rev().max_by_key(|it| liveness.is_slow(it, now)).cloned() else {
            return;
        };
        backups.retain(|backup| *backup != surplus);
    }
}

fn wanted_backups(state: &ViewState) -> usize {
    (state.view().settings.copies as usize).saturating_sub(1)
}

/// A suspected backup stays until it is known to be dead. One whose directory is gone acknowledges
/// nothing, so it goes if another complete copy has its own; otherwise what it holds may be the last.
fn stays(state: &ViewState, liveness: &Liveness, backup: &Member) -> bool {
    let is_of_use = !liveness.lacks_directory(backup)
        || state.view().eligible.contains(backup) && !another_has_its_own(state, liveness, backup);
    state.is_present(backup)
        && is_of_use
        && matches!(liveness.state(backup), State::Alive | State::Suspected)
}

fn can_lead(state: &ViewState, liveness: &Liveness, primary: &Member) -> bool {
    state.is_present(primary) && !liveness.is_dead(primary)
}

/// Fills up the backups with spares: those that hold everything first, since they came back with
/// their data, then those that say they hold most, which have least to be sent, then those that died
/// least, then the senior ones. One that has died too often is taken only when nobody else holds a
/// second copy: a bad copy is better than none, and nothing is better than moving all the data again
/// and again. One that was left out again and again kept the writers waiting, and is taken when its
/// time has come, or when writes are refused without it. While a backup is replaced there is one more.
fn recruit(
    state: &ViewState,
    liveness: &Liveness,
    primary: &Member,
    backups: &mut Vec<Member>,
    except: Option<&Member>,
    now: Timestamp,
) {
    let replaced =
        |backup: &Member| state.view().eligible.contains(backup) && liveness.is_slow(backup, now);
    let wanted = wanted_backups(state) + usize::from(backups.iter().any(replaced));
    let mut spares: Vec<_> = state
        .servers()
        .filter(|spare| spare != primary && !backups.contains(spare) && Some(spare) != except)
        .filter(|spare| is_candidate(state, liveness, spare, now))
        .collect();
    let eligible = &state.view().eligible;
    spares.sort_by_key(|spare| {
        let holds = (!eligible.contains(spare), Reverse(liveness.appended(spare)));
        (holds, liveness.deaths(&spare.name), spare.incarnation)
    });
    let (barred, ready): (Vec<_>, Vec<_>) =
        spares.into_iter().partition(|spare| liveness.is_barred(spare, now));
    // A copy that lost its directory keeps its place, but what it holds goes with its process.
    let kept = backups.iter().filter(|backup| !liveness.lacks_directory(backup)).count();
    backups.extend(ready.into_iter().take(wanted.saturating_sub(kept)));
    if backups.is_empty() {
        backups.extend(barred.into_iter().take(wanted.min(1)));
    }
}

fn is_candidate(state: &ViewState, liveness: &Liveness, spare: &Member, now: Timestamp) -> bool {
    let view = state.view();
    let writes_are_refused = view.eligible.len() < view.settings.min_copies as usize;
    liveness.is_recruitable(spare)
        && was_met(state, liveness, spare)
        && (writes_are_refused || !liveness.is_kept_out(spare, now))
}

/// What is to become of a backup that still acknowledges, but keeps the others waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// Another is complete before it goes.
    Replace,
    /// It goes: nobody could take its place, or it is not complete itself.
    LeaveOut,
    /// It stays: with fewer copies there are no writes at all.
    Bear,
}

/// What is best done about a slow backup.
#[must_use]
pub fn remedy(state: &ViewState, liveness: &Liveness, backup: &Member, now: Timestamp) -> Remedy {
    let view = state.view();
    let is_spare = |server: &Member| {
        !view.is_primary(server)
            && !view.backups.contains(server)
            && !liveness.is_barred(server, now)
            && is_candidate(state, liveness, server, now)
    };
    let somebody_better = state.servers().any(|server| is_spare(&server));
    let others = view.backups.iter().filter(|other| *other != backup);
    let (whole, joining): (Vec<_>, Vec<_>) =
        others.partition(|other| view.eligible.contains(*other));
    if !view.eligible.contains(backup) {
        return if somebody_better { Remedy::LeaveOut } else { Remedy::Bear };
    }
    let replaceable =
        somebody_better || !joining.is_empty() || whole.len() >= wanted_backups(state);
    if replaceable && keeps(Rule::ReplacedByACompleteOne) {
        Remedy::Replace
    } else if view.eligible.len() > view.settings.min_copies as usize {
        Remedy::LeaveOut
    } else {
        Remedy::Bear
    }
}

fn to_forget(state: &ViewState, liveness: &Liveness, now: Timestamp) -> Option<Command> {
    let server = state.servers().find(|server| {
        let dead_for = liveness.dead_for(server, now);
        dead_for.is_some_and(|time| time > FORGET_AFTER) && !state.is_needed(&server.name)
    })?;
    Some(Command::Forget { server })
}

fn propose(state: &ViewState, primary: Member, backups: Vec<Member>) -> Command {
    Command::Propose { after: state.view_id(), primary, backups }
}
