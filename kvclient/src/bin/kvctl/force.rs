//! The one command that may lose data. It asserts that nobody serves the old generation any more,
//! so it names everybody who might, waits until each has been silent for long enough, and asks.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;

use kvclient::{ClusterStatus, RefusedServer, ServerStatus};
use kvproto::OpNumber;
use kvproto::limits::SILENCE_BEFORE_FORCE as SILENCE;

use crate::commands::Session;
use crate::output::{FAILED, Failure, USAGE};
use crate::status;

/// How often silence is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(session: &Session, server: &str, yes: bool) -> Result<(), Failure> {
    let may_ask = session.stdin_is_free && std::io::stdin().is_terminal();
    if !yes && !may_ask {
        return Err(Failure::new(
            USAGE,
            if session.stdin_is_free {
                "force asks for confirmation, which needs a terminal: say --yes when you are sure"
            } else {
                "force cannot ask for confirmation here: at the prompt, add --yes when you are sure"
            },
        ));
    }
    let mut status = session.client.status().await?;
    check(&status, server, yes).map_err(Failure::failed)?;
    let mut announced = false;
    let mut before: Vec<Rival> = Vec::new();
    loop {
        let rivals = rivals(&status, server);
        if let Some(rival) = heard_again(&before, &rivals) {
            return Err(Failure::new(
                FAILED,
                format!("{rival} is still running: stop it first; nothing was changed"),
            ));
        }
        let rest = rivals.iter().map(|it| SILENCE.saturating_sub(it.silent_for.unwrap_or(SILENCE)));
        let rest = rest.max().unwrap_or_default();
        if !announced {
            announce(session, &status, server, &rivals, rest);
            announced = true;
        }
        if rest.is_zero() {
            break;
        }
        before = rivals;
        tokio::time::sleep(rest.min(LOOK_EVERY)).await;
        status = session.client.status().await?;
    }
    check(&status, server, yes).map_err(Failure::failed)?;
    if !yes && !confirmed(session, server).await? {
        return Err(Failure::new(FAILED, "not confirmed: nothing was changed"));
    }
    let view = session.client.force_accepting_data_loss(server).await?;
    session.output.print(|| status::view_block(&view).into_bytes(), || status::view_json(&view))
}

fn is_heard(state: &str) -> bool {
    matches!(state, "alive" | "leaving")
}

/// What the view service would refuse after all the waiting, said at once.
fn check(status: &ClusterStatus, server: &str, yes: bool) -> Result<(), String> {
    if status.doubt.is_some() {
        return check_in_doubt(status, server);
    }
    let Some(target) = status.servers.iter().find(|it| it.member.name.as_str() == server) else {
        let known: Vec<_> = status.servers.iter().map(|it| it.member.name.as_str()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(format!(
            "no server {server} is registered (registered: {known}); nothing was changed"
        ));
    };
    let eligible = |it: &&ServerStatus| status.view.eligible.contains(&it.member);
    if let Some(complete) = status.servers.iter().filter(eligible).find(|it| is_heard(&it.state)) {
        return Err(format!(
            "{} is heard and holds every committed op: nothing needs to be lost",
            complete.member.name
        ));
    }
    if target.state == "dead" {
        return Err(format!("{server} is not alive: start it first; nothing was changed"));
    }
    if !target.has_spoken() && !target.plain {
        return Err(format!(
            "{server} has not said yet what it holds: try again; nothing was changed"
        ));
    }
    if yes && status.storage == "durable" && target.appended == OpNumber(0) {
        return Err(format!(
            "{server} holds nothing, so all data would be given up: save what the disks hold first \
             (docs/backup.md, \"A damaged disk\"). To begin empty all the same, leave out --yes and \
             confirm it at a terminal, outside of the prompt of kvctl; nothing was changed"
        ));
    }
    Ok(())
}

/// The view service stands still, and any server that showed a record may be the one to go on from.
fn check_in_doubt(status: &ClusterStatus, server: &str) -> Result<(), String> {
    let comes = |it: &&RefusedServer| it.member.name.as_str() == server;
    let attends = |it: &ServerStatus| it.member.name.as_str() == server && is_heard(&it.state);
    match status.refused.iter().find(comes) {
        Some(it) if it.shown.revision.0 == 0 => Err(format!(
            "{server} shows no record: it holds nothing of this cluster; nothing was changed"
        )),
        None if !status.servers.iter().any(attends) => {
            let come: Vec<_> = status.refused.iter().map(|it| it.member.name.as_str()).collect();
            let come = if come.is_empty() { "nobody".into() } else { come.join(", ") };
            Err(format!(
                "{server} is not heard (heard: {come}): start it first; nothing was changed"
            ))
        }
        _ => Ok(()),
    }
}

/// The last op that the server to go on from holds, and the highest that any server said is committed.
fn kept(status: &ClusterStatus, server: &str) -> (OpNumber, OpNumber) {
    let target = status.servers.iter().find(|it| it.member.name.as_str() == server);
    let committed = status.servers.iter().map(|it| it.committed).max();
    (target.map_or(OpNumber(0), |it| it.appended), committed.unwrap_or_default())
}

/// A server that might still be serving the old generation.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rival {
    name: String,
    /// `None` when the view service has not heard it at all.
    silent_for: Option<Duration>,
}

/// The primary and everyone who may become primary, but for the one to go on from, and for those
/// whose name belongs to a newer process: they are gone.
fn rivals(status: &ClusterStatus, server: &str) -> Vec<Rival> {
    if let Some(doubt) = &status.doubt {
        let others = doubt.may_serve.iter().filter(|(name, _)| name != server);
        let rival = |(name, silent_for): &(String, Duration)| Rival {
            name: name.clone(),
            silent_for: Some(*silent_for),
        };
        return others.map(rival).collect();
    }
    let view = &status.view;
    let mut rivals = Vec::new();
    for member in view.primary.iter().chain(&view.eligible).collect::<BTreeSet<_>>() {
        let present = status.servers.iter().find(|it| it.member.name == member.name);
        let gone = present.is_some_and(|it| it.member.incarnation > member.incarnation);
        if member.name.as_str() == server || gone {
            continue;
        }
        let same = present.filter(|it| it.member == *member);
        rivals
            .push(Rival { name: member.name.to_string(), silent_for: same.map(|it| it.ping_age) });
    }
    rivals
}

/// A rival whose silence has become shorter: it is alive.
fn heard_again<'a>(before: &[Rival], now: &'a [Rival]) -> Option<&'a str> {
    let shorter = |rival: &&Rival| {
        let Some(silent_for) = rival.silent_for else {
            return false;
        };
        let known = |it: &&Rival| it.name == rival.name;
        before.iter().find(known).is_some_and(|it| it.silent_for.is_none_or(|was| silent_for < was))
    };
    now.iter().find(shorter).map(|rival| rival.name.as_str())
}

fn announce(
    session: &Session,
    status: &ClusterStatus,
    server: &str,
    rivals: &[Rival],
    rest: Duration,
) {
    let data = match kept(status, server) {
        _ if status.doubt.is_some() => "what it holds".to_owned(),
        (OpNumber(0), _) => "nothing: it holds none of the data".to_owned(),
        (held, committed) if committed > held => {
            format!("its ops through {held}, of {committed} that are known to be committed")
        }
        (held, _) => format!("its ops through {held}"),
    };
    session.output.remark(&format!(
        "A new generation will start from {server}, with {data}. Whatever only others hold is given up."
    ));
    for rival in rivals {
        let heard = match rival.silent_for {
            Some(age) => format!("last heard {} s ago", age.as_secs()),
            None => "not heard lately".into(),
        };
        session.output.remark(&format!(
            "  {} might still serve an older one; {heard}. Make sure that it is stopped.",
            rival.name
        ));
    }
    if !rest.is_zero() {
        session.output.remark(&format!(
            "Waiting {} s, until all of them have been silent for {} s.",
            rest.as_secs() + 1,
            SILENCE.as_secs()
        ));
    }
}

async fn confirmed(session: &Session, server: &str) -> Result<bool, Failure> {
    session.output.remark(&format!("Type {server} to accept the loss:"));
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(std::io::Error::other).flatten();
    let line = line.map_err(|error| Failure::failed(format!("read the answer: {error}")))?;
    Ok(line.trim() == server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvclient::View;
    use kvproto::{ClusterId, Incarnation, Member, Settings};

    fn rival(name: &str, seconds: u64) -> Rival {
        Rival { name: name.into(), silent_for: Some(Duration::from_secs(seconds)) }
    }

    fn member(name: &str, incarnation: u64) -> Member {
        Member { name: name.into(), incarnation: Incarnation(incarnation) }
    }

    fn server(member: Member, state: &str) -> ServerStatus {
        ServerStatus {
            member,
            role: "spare".into(),
            state: state.into(),
            appended: OpNumber(0),
            committed: OpNumber(0),
            applied: OpNumber(0),
            ping_age: Duration::from_secs(2),
            plain: false,
            memory: kvproto::registration::Memory { used: 3 << 20, max: 1 << 30 },
            disk_full: false,
            disk_waits: Duration::ZERO,
            not_met: String::new(),
            left_out: None,
            directory_gone: false,
        }
    }

    /// `a` and `b` hold everything; `a` is primary.
    fn status(servers: Vec<ServerStatus>) -> ClusterStatus {
        let mut view = View::none(ClusterId([1; 16]), Settings::default());
        view.primary = Some(member("a:1", 1));
        view.eligible = [member("a:1", 1), member("b:1", 2)].into();
        ClusterStatus {
            view,
            servers,
            waiting_for: vec![],
            advice: String::new(),
            rpcs_handled: Default::default(),
            version: "1".into(),
            storage: "durable".into(),
            refused: vec![],
            doubt: None,
        }
    }

    #[test]
    fn what_cannot_be_forced_is_said_before_any_waiting() {
        let servers = vec![server(member("a:1", 1), "dead"), server(member("c:1", 3), "alive")];
        let mut status = status(servers);
        assert_eq!(check(&status, "c:1", false), Ok(()));
        let unknown = check(&status, "x:1", true).expect_err("not registered");
        assert!(unknown.contains("registered: a:1, c:1"), "{unknown}");
        let dead = check(&status, "a:1", true).expect_err("dead");
        assert!(dead.contains("not alive"), "{dead}");
        status.servers.push(server(member("b:1", 2), "alive"));
        for name in ["a:1", "b:1", "c:1"] {
            let needless = check(&status, name, false).expect_err("b is complete");
            assert!(needless.starts_with("b:1 is heard and holds every"), "{name}: {needless}");
        }
    }

    /// The server had found its disk damaged and come back empty; what the disk held was saved nowhere.
    #[test]
    fn a_script_does_not_give_up_what_is_on_disks_for_a_server_that_holds_nothing() {
        let mut status = status(vec![server(member("a:1", 3), "alive")]);
        let refusal = check(&status, "a:1", true).expect_err("it holds nothing");
        assert!(refusal.contains("\"A damaged disk\""), "{refusal}");
        assert_eq!(check(&status, "a:1", false), Ok(()), "a person is asked");
        status.servers[0].appended = OpNumber(7);
        assert_eq!(check(&status, "a:1", true), Ok(()));
        assert_eq!(kept(&status, "a:1"), (OpNumber(7), OpNumber(0)));
        status.servers[0].appended = OpNumber(0);
        let in_memory = ClusterStatus { storage: "in memory".into(), ..status };
        assert_eq!(check(&in_memory, "a:1", true), Ok(()), "there the data is gone already");
    }

    #[test]
    fn in_doubt_whoever_showed_a_record_may_be_chosen_and_all_others_must_be_silent() {
        let mut status = status(vec![server(member("a:1", 1), "alive")]);
        status.doubt = Some(kvclient::Doubt {
            shown: vec![],
            may_serve: vec![
                ("a:1".into(), Duration::from_secs(1)),
                ("c:1".into(), Duration::from_secs(2)),
            ],
        });
        let comes = |name: &str, revision| RefusedServer {
            member: member(name, 0),
            cluster: String::new(),
            reason: "doubt".into(),
            message: String::new(),
            age: Duration::ZERO,
            shown: kvproto::ViewOrder {
                revision: kvproto::Revision(revision),
                ..kvproto::ViewOrder::default()
            },
        };
        status.refused = vec![comes("c:1", 7), comes("d:1", 0)];
        assert_eq!(check(&status, "c:1", true), Ok(()), "although a is complete and heard");
        assert_eq!(check(&status, "a:1", true), Ok(()));
        let empty = check(&status, "d:1", true).expect_err("it shows nothing");
        assert!(empty.contains("shows no record"), "{empty}");
        let absent = check(&status, "b:1", true).expect_err("it is not there");
        assert!(absent.contains("heard: c:1, d:1"), "{absent}");
        assert_eq!(rivals(&status, "c:1"), [rival("a:1", 1)]);
    }

    #[test]
    fn a_process_that_was_replaced_is_no_rival() {
        let servers = vec![server(member("a:1", 3), "alive"), server(member("b:1", 2), "dead")];
        let mut status = status(servers);
        assert_eq!(rivals(&status, "a:1"), [rival("b:1", 2)]);
        assert_eq!(rivals(&status, "c:1"), [rival("b:1", 2)]);
        status.servers.clear();
        let silent = |name: &str| Rival { name: name.into(), silent_for: None };
        assert_eq!(rivals(&status, "c:1"), [silent("a:1"), silent("b:1")]);
    }

    #[test]
    fn a_server_that_is_heard_while_we_wait_is_alive() {
        let before = [rival("a", 3), rival("b", 3)];
        assert_eq!(heard_again(&before, &[rival("a", 4), rival("b", 4)]), None);
        let now = [rival("a", 4), rival("b", 0)];
        assert_eq!(heard_again(&before, &now), Some("b"));
        assert_eq!(heard_again(&[], &now), None);
    }
}
