//! What the view service tells people: one sentence for each thing that happened. Pure.

use std::collections::BTreeSet;
use std::fmt;

use kvproto::registration::NotMet;
use kvproto::{Generation, Member, OpNumber, ServerName, View, ViewNumber};

use super::law::{Command, Refusal, Shown};
use super::liveness::Death;
use super::planner::Waiting;

/// How much a notice should worry its reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Of interest to those who search for a fault.
    Debug,
    /// What happens in the life of a cluster.
    Info,
    /// Somebody should look.
    Warn,
}

/// Something that people may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A plain server said that it restarted.
    RestartedEmpty(Member),
    /// A full server began a life.
    Registered(Member),
    /// Plain and full servers met; said once.
    Mixing(String),
    /// A registration stream broke.
    Broken(Member),
    /// A server is dead by the passing of time.
    Died(Member, Death),
    /// A server is dead by the word of its address.
    Gone(Member),
    /// A server was not met at its address.
    NotMet(ServerName, NotMet),
    /// It was met there after all.
    Met(ServerName),
    /// A primary wants a view without a backup.
    AsksWithout {
        /// The sender.
        by: Member,
        /// The backup.
        server: Member,
        /// What it saw.
        reason: String,
    },
    /// A primary wants another to lead in its place.
    Yields {
        /// The sender.
        by: Member,
        /// What it saw.
        reason: String,
    },
    /// The disk of a server began to hang, or moves again.
    Disk {
        /// Whose.
        member: Member,
        /// Whether it hangs.
        hangs: bool,
    },
    /// The server was left out.
    Evicted(Member),
    /// A server wants to stop.
    WantsToStop {
        /// Which.
        member: Member,
        /// Whether it is the primary, so that another must take over.
        leads: bool,
    },
    /// A primary wants to stop and nobody could take over.
    NobodyToTakeOver(Member),
    /// An operator accepted the loss of data.
    Forced {
        /// The new generation.
        generation: Generation,
        /// The server that it starts from.
        server: ServerName,
        /// The complete servers of the old one.
        given_up: BTreeSet<Member>,
        /// Highest op of the old one that was heard to be committed.
        heard: OpNumber,
    },
    /// A server shows a past that is not this one's.
    Doubts(Shown),
    /// A backup takes over.
    Promoting(ServerName),
    /// A server that was no backup becomes primary.
    Assigning(ServerName),
    /// There is a new view.
    Changed {
        /// Its number.
        number: ViewNumber,
        /// Its primary.
        primary: Option<ServerName>,
        /// Its backups.
        backups: Vec<ServerName>,
    },
    /// The primary acts in the view.
    Activated(ViewNumber, Option<ServerName>),
    /// A server is known to be complete.
    Complete(Member),
    /// The cluster cannot go on, or not with writes.
    Waiting(Waiting),
    /// It can again.
    NoLongerWaiting,
    /// The law refused a command.
    Refused(Command, Refusal),
}

impl Notice {
    /// How much it should worry its reader.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Notice::Refused(..) => Level::Debug,
            Notice::Mixing(_)
            | Notice::Disk { hangs: true, .. }
            | Notice::NotMet(..)
            | Notice::NobodyToTakeOver(_)
            | Notice::Forced { .. }
            | Notice::Doubts(_)
            | Notice::Waiting(_) => Level::Warn,
            _ => Level::Info,
        }
    }

    /// What there is to say about a change of the record.
    pub(super) fn of_change(before: &View, view: &View) -> Vec<Notice> {
        let mut notices = Vec::new();
        if view.number != before.number {
            if let Some(primary) = view.primary.as_ref().filter(|new| !before.is_primary(new)) {
                let name = primary.name.clone();
                notices.push(if before.backups.contains(primary) {
                    Notice::Promoting(name)
                } else {
                    Notice::Assigning(name)
                });
            }
            notices.push(Notice::Changed {
                number: view.number,
                primary: view.primary_name().cloned(),
                backups: view.backups.iter().map(|backup| backup.name.clone()).collect(),
            });
        } else if view.is_activated() && !before.is_activated() {
            notices.push(Notice::Activated(view.number, view.primary_name().cloned()));
        }
        let complete = view.eligible.difference(&before.eligible);
        notices.extend(complete.cloned().map(Notice::Complete));
        notices
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::RestartedEmpty(former) => write!(f, "{former} restarted empty"),
            Notice::Registered(member) => write!(f, "Server {member} registered"),
            Notice::Mixing(what) => write!(f, "{what} (said once)"),
            Notice::Broken(member) => {
                write!(f, "the stream of server {member} broke: asking whether it lives")
            }
            Notice::Died(member, death) => write!(f, "Server {member} declared dead: {death}"),
            Notice::Gone(member) => {
                write!(f, "Server {member} declared dead: its address refuses")
            }
            Notice::NotMet(name, why) => write!(
                f,
                "a server announces {name}, where {why}: it has no part before it is met there"
            ),
            Notice::Met(name) => write!(f, "the server {name} was met at its address"),
            Notice::AsksWithout { by, server, reason } => {
                write!(f, "{by} asks for a view without {server}: {reason:?}")
            }
            Notice::Yields { by, reason } => {
                write!(f, "{by} asks that another server leads: {reason:?}")
            }
            Notice::Disk { member, hangs: true } => {
                write!(f, "the disk of {member} hangs: nothing that it was given is written")
            }
            Notice::Disk { member, .. } => write!(f, "the disk of {member} moves again"),
            Notice::Evicted(backup) => write!(f, "{backup} is left out"),
            Notice::WantsToStop { member, leads: true } => {
                write!(f, "Server {member} wants to stop: its backup takes over")
            }
            Notice::WantsToStop { member, .. } => write!(f, "Server {member} wants to stop"),
            Notice::NobodyToTakeOver(member) => {
                write!(f, "{member} wants to stop, but nobody could take over from it")
            }
            Notice::Forced { generation, server, given_up, heard } => write!(
                f,
                "the operator starts generation {generation} from {server}'s copy; what only [{}] \
                 held is given up, the highest committed op heard of was {heard}",
                list(given_up)
            ),
            Notice::Doubts(Shown { name, order, .. }) => write!(
                f,
                "{name} shows view {}, revision {}, of generation {}, which is not in the history of \
                 this view service: it decides nothing more until an operator has",
                order.number, order.revision, order.generation
            ),
            Notice::Promoting(name) => write!(f, "Promoting backup {name} to primary"),
            Notice::Assigning(name) => write!(f, "Assigning {name} as new primary"),
            Notice::Changed { number, primary, backups } => write!(
                f,
                "View changed: ViewNumber={number}, Primary={}, Backup={}",
                primary.as_ref().map_or("", ServerName::as_str),
                backups.iter().map(ServerName::as_str).collect::<Vec<_>>().join(",")
            ),
            Notice::Activated(number, primary) => {
                let primary = primary.as_ref().map_or("", ServerName::as_str);
                write!(f, "View {number} activated by {primary}")
            }
            Notice::Complete(member) => write!(f, "{member} holds every committed op"),
            Notice::Waiting(Waiting { for_servers, advice }) if for_servers.is_empty() => {
                write!(f, "waiting: {advice}")
            }
            Notice::Waiting(Waiting { for_servers, advice }) => {
                write!(f, "waiting for {}: {advice}", list(for_servers))
            }
            Notice::NoLongerWaiting => write!(f, "no longer waiting"),
            Notice::Refused(command, refusal) => write!(f, "refused {command:?}: {refusal}"),
        }
    }
}

fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
