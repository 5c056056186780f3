//! The lab's pings, turned into commands with the lab's meaning. Pure.
//!
//! `Ping(server, 0)` says "I restarted empty", unless the server never got further than 0 in its
//! present life. `Ping(p, n)` from the primary of view `n` says that all its members are ready.
//! The number is the only thing these pings carry, so no incarnation can be checked: the present
//! one is meant.

use kvproto::{Incarnation, LifeId, Member, Rule, ServerName, ViewNumber, keeps};

use super::law::{Command, Kind, ViewState};

/// What to do when a ping arrives, before any of its commands is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// The cluster is made of full servers: answer with the view, change nothing.
    Inert,
    /// The server begins a life; its former one, if any, is over.
    Begins {
        /// The life that ended.
        former: Option<Member>,
        /// Registers the new one.
        command: Command,
    },
    /// A sign of life.
    Lives {
        /// Of whom.
        member: Member,
        /// What else it says, in order.
        commands: Vec<Command>,
    },
}

/// The meaning of `Ping(server, number)`.
#[must_use]
pub fn ping(state: &ViewState, server: &ServerName, number: ViewNumber) -> Meaning {
    if state.kind() == Some(Kind::Full) && keeps(Rule::PlainPingIsInert) {
        return Meaning::Inert;
    }
    let present = state.present(server);
    match present {
        Some(member) if number.0 > 0 || !state.has_adopted(server) => {
            Meaning::Lives { commands: says(state, &member, number), member }
        }
        former => Meaning::Begins {
            command: begin(server, former.as_ref().map(|member| member.incarnation)),
            former,
        },
    }
}

fn begin(server: &ServerName, replaces: Option<Incarnation>) -> Command {
    let life = LifeId::default();
    Command::Register { name: server.clone(), kind: Kind::Plain, replaces, life, held: None }
}

fn says(state: &ViewState, member: &Member, number: ViewNumber) -> Vec<Command> {
    let mut commands = Vec::new();
    let view = state.view();
    if number.0 > 0 && !state.has_adopted(&member.name) {
        commands.push(Command::Adopted { by: member.clone() });
    }
    if view.is_primary(member) && number == view.number {
        let id = state.view_id();
        commands.push(Command::Activate {
            by: member.clone(),
            view: id,
            reconciled: view.backups.clone(),
        });
        let all = view.backups.iter().filter(|backup| state.is_present(backup));
        commands.extend(all.map(|backup| Command::Synced {
            by: member.clone(),
            view: id,
            server: backup.clone(),
        }));
    }
    commands
}
