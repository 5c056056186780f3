//! VIEW-8 outside of the law: what is asked at the door before all else, whom an operator may believe,
//! and what the world sees and hears meanwhile. Pure: it decides nothing that lasts.

use std::collections::BTreeSet;
use std::time::Duration;

use kvproto::limits::SILENCE_BEFORE_FORCE;
use kvproto::registration::{RefusedReason, Registration};
use kvproto::{
    History, Incarnation, Member, Revision, Rule, ServerName, Timestamp, View, ViewOrder, keeps,
};

use super::door::{Door, Knock};
use super::law::{Believed, Command, Doubt, Shown, ViewState};
use super::liveness::{Liveness, State};
use super::planner::Waiting;
use super::requests::Admission;

/// What becomes of a server before anything else is asked about it; `None` if its past is this one's.
#[must_use]
pub fn gate(
    state: &ViewState,
    door: &Door,
    asked: &Registration,
    now: Timestamp,
) -> Option<Admission> {
    let refused = |reason, message| Some(Admission::Refused(reason, message));
    let founding = state.is_untouched() && !door.founds_at_once();
    if let Some(other) = asked.cluster.filter(|id| *id != state.view().cluster) {
        // An empty view service is nobody to end a server.
        let message = format!(
            "this view service is empty, and {} belongs to cluster {other}: {TO_BRING_BACK}",
            asked.name
        );
        return founding.then_some(Admission::Refused(RefusedReason::Listening, message));
    }
    if let Some(shown) = proof(state, asked) {
        return Some(Admission::Doubts(Box::new(shown)));
    }
    if let Some(doubt) = state.doubt() {
        return refused(RefusedReason::Doubt, what_is_doubted(state, doubt));
    }
    if founding && door.listens(state.view().cluster, now) {
        let stranger = door.strangers(state.view().cluster, now).next();
        let message = match stranger {
            Some((name, other)) => format!(
                "this view service is empty and founds no cluster while {name} of cluster {other} \
                 comes: {TO_BRING_BACK}"
            ),
            None => {
                "this view service is empty: before it founds a cluster it listens for servers of \
                     another one (`viewservice --new` founds at once)"
                    .into()
            }
        };
        return refused(RefusedReason::Listening, message);
    }
    None
}

const TO_BRING_BACK: &str = "start the view service with the directory that it had (is its volume \
    mounted? is --data-dir right?), or name the right one with --vs; only if it is lost for good, stop \
    that cluster's servers, take their data along (docs/storage.md, \"Ways out\"), and start \
    `viewservice --new`";

/// What the server shows that lies outside of this state's history, if anything does.
fn proof(state: &ViewState, asked: &Registration) -> Option<Shown> {
    let shown = |order: ViewOrder, history: History, record: Option<&View>| Shown {
        name: asked.name.clone(),
        incarnation: asked.incarnation,
        life: asked.life,
        order,
        history,
        record: record.map(|record| Box::new(record.clone())),
    };
    let record = asked.shown.as_deref();
    if let Some(record) = record {
        let (order, history) = (record.order(), record.history);
        let never_given = asked.incarnation.is_some_and(|life| !state.has_given(life))
            && record.generation >= state.view().generation;
        if state.contradicts(order, history) || never_given && keeps(Rule::OtherPastIsDoubted) {
            return Some(shown(order, history, Some(record)));
        }
    }
    // Data that was restored is of another cluster, whose epochs prove nothing here.
    let of_this_cluster = asked.cluster == Some(state.view().cluster);
    let held = asked.held.as_ref().filter(|_| of_this_cluster)?;
    let newest = held.epochs.iter().max()?;
    let order = ViewOrder {
        generation: newest.generation,
        number: newest.primary_since,
        revision: Revision(0),
    };
    let history = History::default();
    let beyond = order > state.view().order() && state.contradicts(order, history);
    beyond.then(|| shown(order, history, None))
}

/// What a ping shows that lies outside of this state's history.
#[must_use]
pub fn shown_by_ping(
    state: &ViewState,
    member: &Member,
    order: ViewOrder,
    history: History,
) -> Option<Shown> {
    let life = state.life(member)?;
    let (name, incarnation) = (member.name.clone(), Some(member.incarnation));
    let shown = Shown { name, incarnation, life, order, history, record: None };
    state.contradicts(order, history).then_some(shown)
}

/// Whether a present life goes on with its part. One that was believed shows a past that is not this
/// one until it has heard of that.
#[must_use]
pub fn may_resume(state: &ViewState, asked: &Registration, member: &Member) -> bool {
    let of_this_past = asked.shown.as_deref().is_none_or(|record| is_known(state, record));
    of_this_past || state.view().eligible.contains(member) || !keeps(Rule::OtherPastIsNotResumed)
}

/// What a life is told that goes on and has no part here. It is ended only by a state that knows how it
/// ended.
#[must_use]
pub fn not_resumed(state: &ViewState, asked: &Registration, life: Incarnation) -> Admission {
    let name = &asked.name;
    let Some(record) = &asked.shown else {
        let message = format!("{name}#{life} goes on with its life and shows no record");
        return Admission::Refused(RefusedReason::Incompatible, message);
    };
    let ended_here = is_known(state, record) && state.has_given(life);
    if ended_here || !keeps(Rule::StaleNeedsItsRecord) {
        let message =
            format!("{name}#{life} is over: a newer process stands under this name, stop this one");
        return Admission::Refused(RefusedReason::StaleIncarnation, message);
    }
    let message = format!(
        "{name}#{life} is of another past, in generation {}, which an operator has given up: the cluster \
         goes on in generation {}. Nobody asks for what it holds any more: save it if it is to be looked \
         at (`kvctl snapshot save FILE --server {name}`), then start the server again",
        record.generation,
        state.view().generation
    );
    Admission::Refused(RefusedReason::OtherPast, message)
}

fn is_known(state: &ViewState, record: &View) -> bool {
    state.went_through(record.revision, record.history)
}

/// What the world is told meanwhile: who leads by the newest record that was shown.
#[must_use]
pub fn public_view(state: &ViewState) -> &View {
    state.doubt().and_then(Doubt::newest).unwrap_or(state.view())
}

/// VIEW-8: whether the operator may end the doubt in favour of this server.
///
/// # Errors
/// What to do first, in words for the operator.
pub fn force(
    state: &ViewState,
    liveness: &Liveness,
    door: &Door,
    server: &ServerName,
    now: Timestamp,
) -> Result<Command, String> {
    let attends = state
        .present(server)
        .filter(|member| matches!(liveness.state(member), State::Alive | State::Leaving))
        .and_then(|member| state.as_believed(&member));
    let whom = match (door.knocking(server, now), attends) {
        (Some(knock), Some(present)) if knock.life != present.life => {
            return Err(format!(
                "two processes come under the name {server}: stop the one that is not meant"
            ));
        }
        (Some(Knock { shown: None, .. }), _) => {
            return Err(format!("{server} shows no record: it holds nothing of this cluster"));
        }
        (Some(knock), _) => Believed {
            name: server.clone(),
            incarnation: knock.incarnation,
            life: knock.life,
            storage: knock.storage,
        },
        (None, Some(present)) => present,
        (None, None) => return Err(format!("{server} is not heard: start it first")),
    };
    for (name, silent_for) in may_serve(state, liveness, door, now) {
        if name != *server && silent_for < SILENCE_BEFORE_FORCE && keeps(Rule::DoubtWaitsForSilence)
        {
            return Err(format!(
                "{name} may still be serving, and has not been silent for {:.1} s yet: stop it, then \
                 try again in {:.1} s",
                SILENCE_BEFORE_FORCE.as_secs_f32(),
                (SILENCE_BEFORE_FORCE - silent_for).as_secs_f32()
            ));
        }
    }
    Ok(Command::Believe { after: state.view_id(), whom })
}

/// Whoever showed something, and whoever may serve by this state or by what was shown; each with the
/// time since its last sign of life, at most since this process could hear any.
#[must_use]
pub fn may_serve(
    state: &ViewState,
    liveness: &Liveness,
    door: &Door,
    now: Timestamp,
) -> Vec<(ServerName, Duration)> {
    let Some(doubt) = state.doubt() else {
        return Vec::new();
    };
    let records = doubt.shown().filter_map(|shown| shown.record.as_deref());
    let members = records.chain([state.view()]).flat_map(|it| it.members().chain(&it.eligible));
    let showed = doubt.shown().map(|shown| &shown.name);
    let names: BTreeSet<_> = members.map(|member| &member.name).chain(showed).collect();
    let silent_for = |name: &ServerName| {
        let present = state.present(name).filter(|member| !liveness.is_gone(member));
        let unheard = present.and_then(|member| liveness.unheard_for(&member, now));
        unheard.map_or(Duration::MAX, |unheard| unheard).min(door.silent_for(name, now))
    };
    names.into_iter().map(|name| (name.clone(), silent_for(name))).collect()
}

/// What there is to wait for before anything can be assigned, and what to do about it.
#[must_use]
pub fn waiting(state: &ViewState, door: &Door, now: Timestamp) -> Option<Waiting> {
    if let Some(doubt) = state.doubt() {
        let advice = format!(
            "{}. Nothing is assigned and no failure repaired until that is settled; servers serve on as \
             they stand. Put the newest directory of the view service back; or, if it is lost for good, \
             stop every other server, and go on with what one holds: `kvctl force {} \
             --accept-data-loss`",
            what_is_doubted(state, doubt),
            most_to_be_believed(doubt, door, now)
        );
        return Some(Waiting { for_servers: Vec::new(), advice });
    }
    if !state.is_untouched() {
        return None;
    }
    if !door.listens(state.view().cluster, now) {
        let came: Vec<_> = door.knocks().map(|(name, _)| name.to_string()).collect();
        let advice = format!(
            "nobody who came was admitted ({}): their logs say why; start a kvserver of this cluster",
            came.join(", ")
        );
        return (!came.is_empty()).then_some(Waiting { for_servers: Vec::new(), advice });
    }
    let strangers: Vec<_> = door.strangers(state.view().cluster, now).collect();
    let advice = match strangers.first() {
        Some((_, other)) => {
            let names: Vec<_> = strangers.iter().map(|(name, _)| name.to_string()).collect();
            format!(
                "this view service is empty, and servers of cluster {other} come to it ({}): it founds \
                 no other cluster meanwhile; {TO_BRING_BACK}",
                names.join(", ")
            )
        }
        None => "no server has come yet, and before this empty view service founds a cluster it listens \
                 for servers of another one (`viewservice --new` founds at once)"
            .into(),
    };
    Some(Waiting { for_servers: Vec::new(), advice })
}

/// Who showed what, and what it means.
fn what_is_doubted(state: &ViewState, doubt: &Doubt) -> String {
    let own = state.view().order();
    let Some(shown) = doubt.shown().max_by_key(|shown| shown.order) else {
        return String::new();
    };
    let who = match shown.incarnation {
        Some(incarnation) => format!("{}#{incarnation}", shown.name),
        None => shown.name.to_string(),
    };
    // Epochs on a disk have no revision.
    let meaning = if shown.order.revision > own.revision || shown.history == History::default() {
        "the directory of this view service is an older state than what its servers have seen"
    } else {
        "this view service was put back to an older state and has gone on from there, so that there are \
         two pasts"
    };
    let others = match doubt.shown().count() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more showed what is not known here)"),
    };
    format!(
        "in doubt: {who} shows view {} of generation {} (revision {}){others}, and here it is view {} of \
         generation {} (revision {}): {meaning}",
        shown.order.number,
        shown.order.generation,
        shown.order.revision,
        own.number,
        own.generation,
        own.revision
    )
}

/// Of those who knock: the primary of the newest record, then one that is complete by it, then whoever
/// showed the newest.
fn most_to_be_believed(doubt: &Doubt, door: &Door, now: Timestamp) -> ServerName {
    let newest = doubt.newest();
    let rank = |shown: &&Shown| {
        let leads = newest.is_some_and(|record| record.primary_name() == Some(&shown.name));
        let complete = newest
            .is_some_and(|record| record.eligible.iter().any(|member| member.name == shown.name));
        (door.knocking(&shown.name, now).is_some(), leads, complete, shown.order)
    };
    let best = doubt.shown().max_by_key(rank);
    best.map(|shown| shown.name.clone()).unwrap_or_default()
}
