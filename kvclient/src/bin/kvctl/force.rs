//! The one command that may lose data. It asserts that nobody serves the old generation any more,
//! so it names everybody who might, waits until each has been silent for long enough, and asks.

use std::io::IsTerminal;
use std::time::Duration;

use kvclient::ClusterStatus;
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
            "force asks for confirmation, which needs a terminal: say --yes when you are sure",
        ));
    }
    let mut before: Vec<Rival> = Vec::new();
    loop {
        let rivals = rivals(&session.client.status().await?, server);
        if let Some(rival) = heard_again(&before, &rivals) {
            return Err(Failure::new(
                FAILED,
                format!("{rival} is still running: stop it first; nothing was changed"),
            ));
        }
        let rest = rivals.iter().map(|it| SILENCE.saturating_sub(it.silent_for));
        let rest = rest.max().unwrap_or_default();
        if before.is_empty() {
            announce(session, server, &rivals, rest);
        }
        if rest.is_zero() {
            break;
        }
        before = rivals;
        tokio::time::sleep(rest.min(LOOK_EVERY)).await;
    }
    if !yes && !confirmed(session, server).await? {
        return Err(Failure::new(FAILED, "not confirmed: nothing was changed"));
    }
    let view = session.client.force_accepting_data_loss(server).await?;
    session.output.print(|| status::view_block(&view).into_bytes(), || status::view_json(&view))
}

/// A server that might still be serving the old generation.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rival {
    name: String,
    silent_for: Duration,
}

/// The primary and everyone who may become primary, but for the one to go on from. One that the
/// view service does not know any more has been silent for longer than it remembers.
fn rivals(status: &ClusterStatus, server: &str) -> Vec<Rival> {
    let view = &status.view;
    let mut names: Vec<&str> = view
        .primary
        .iter()
        .chain(&view.eligible)
        .map(|member| member.name.as_str())
        .filter(|name| *name != server)
        .collect();
    names.sort_unstable();
    names.dedup();
    let silent_for = |name: &str| {
        let entries = status.servers.iter();
        let ages = entries.filter(|it| it.member.name.as_str() == name).map(|it| it.ping_age);
        ages.min().unwrap_or(SILENCE)
    };
    names
        .into_iter()
        .map(|name| Rival { name: name.to_owned(), silent_for: silent_for(name) })
        .collect()
}

/// A rival whose silence has become shorter: it is alive.
fn heard_again<'a>(before: &[Rival], now: &'a [Rival]) -> Option<&'a str> {
    let shorter = |rival: &&Rival| {
        before.iter().any(|it| it.name == rival.name && rival.silent_for < it.silent_for)
    };
    now.iter().find(shorter).map(|rival| rival.name.as_str())
}

fn announce(session: &Session, server: &str, rivals: &[Rival], rest: Duration) {
    session.output.remark(&format!(
        "A new generation will start from the data of {server}. Whatever only others hold is given \
         up."
    ));
    for rival in rivals {
        session.output.remark(&format!(
            "  {} might still serve the old one; last heard {} s ago. Make sure that it is stopped.",
            rival.name,
            rival.silent_for.as_secs()
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

    fn rival(name: &str, seconds: u64) -> Rival {
        Rival { name: name.into(), silent_for: Duration::from_secs(seconds) }
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
