//! What the log says when the replica has something to tell. Shell. The capitalised sentences are
//! fixed: people and scripts search for them.

use kvproto::View;
use tracing::{error, info, warn};

use crate::replica::effect::Notice;

/// Writes one notice to the log; `view` is the newest one adopted.
pub(super) fn log(notice: &Notice, view: &View) {
    match notice {
        Notice::ViewChanged => {
            let name = |member: Option<&kvproto::Member>| {
                member.map_or("none".to_owned(), |member| member.name.to_string())
            };
            let backups: Vec<String> = view.backups.iter().map(|b| b.name.to_string()).collect();
            info!(
                generation = view.generation.0,
                activated = view.is_activated(),
                "View changed: ViewNumber={}, Primary={}, Backup={}",
                view.number,
                name(view.primary.as_ref()),
                if backups.is_empty() {
                    "none".to_owned()
                } else {
                    backups.join(",")
                },
            );
        }
        Notice::RoleChanged { from, to } => info!("Role changed from {from} to {to}"),
        Notice::TransferStarted { to, keys, at } => {
            info!("sending the whole state to {to}: {keys} keys at op {at}");
        }
        Notice::TransferAbandoned { to, reason } => {
            warn!("the state transfer to {to} was given up and will begin anew: {reason}");
        }
        Notice::TransferReceived { keys, at, took } => {
            info!("State transfer completed successfully: {keys} keys at op {at} in {took:.1?}");
        }
        Notice::CopySynced { copy, through } => {
            info!("{copy} holds everything through op {through} and is in sync");
        }
        Notice::TailDropped { first, last } => warn!(
            "dropped the unacknowledged tail {first} to {last}: the new primary does not have it"
        ),
        Notice::Serving { took } => info!("serving as primary, {took:.1?} after the appointment"),
        Notice::Deposed { open } => {
            warn!("a newer primary was appointed; the outcome of {open} requests is unknown here");
        }
        Notice::Diverged { copy, at } => {
            error!("ALARM: {copy} and this server hold different data at op {at}");
        }
        Notice::OnlyCopy { keys } => warn!(
            "no other server can take over: stopping now would lose {keys} keys; start another \
             kvserver and wait, or send the signal a second time to stop anyway"
        ),
        Notice::HandingOver { to: Some(to) } => info!("handing over to {to}"),
        Notice::HandingOver { to: None } => info!("handing over: asking for another primary"),
        Notice::Nonsense { from, what } => warn!("dropped a message of {from}: {what}"),
    }
}
