//! What happened, in words for people. Pure.

use kvproto::message::{Body, Message};
use kvproto::{Reply, View};
use viewservice::assignment::law::{Applied, Command as Law, Refusal};

/// A message in a few words.
pub(super) fn brief(message: &Message) -> String {
    let Message { from, to, stream, epoch, .. } = message;
    let what = match &message.body {
        Body::Open { .. } => "open".to_owned(),
        Body::Opened(opened) => format!("opened, holding through op {}", opened.last),
        Body::Append(append) => format!(
            "after {}: {} entries, committed {}, nonce {}",
            append.previous,
            append.entries.len(),
            append.committed,
            append.nonce
        ),
        Body::Ack(ack) => format!("has matched {}, nonce {}", ack.matched, ack.nonce),
        Body::Fenced => "knows a newer epoch".into(),
        Body::TransferStart { at, .. } => format!("a full transfer as of {at} begins"),
        Body::TransferChunk { number, .. } => format!("chunk {number}"),
        Body::TransferEnd(_) => "the transfer ends".to_owned(),
        Body::Released => "stopped before this epoch".to_owned(),
    };
    format!("{from} to {to}, epoch {epoch}, stream {stream}: {what}")
}

/// A record in a few words.
pub(super) fn brief_view(view: &View) -> String {
    let View { number, revision, status, primary, backups, eligible, .. } = view;
    let primary = primary.as_ref().map_or("nobody".to_owned(), ToString::to_string);
    format!(
        "view {number} revision {revision} ({status:?}): primary {primary}, backups {backups:?}, \
         eligible {eligible:?}"
    )
}

/// A wish in a few words.
pub(super) fn brief_law(command: &Law) -> String {
    match command {
        Law::Activate { by, view, reconciled } => {
            format!("Activate view {} by {by} with {reconciled:?} reconciled", view.number)
        }
        Law::Synced { by, view, server } => {
            format!("Synced {server} in view {} by {by}", view.number)
        }
        other => format!("{other:?}"),
    }
}

/// What the law said.
pub(super) fn brief_outcome(outcome: &Result<Applied, Refusal>) -> String {
    match outcome {
        Ok(applied) => format!("{applied:?}"),
        Err(refusal) => format!("refused, {refusal}"),
    }
}

/// An answer in a few words.
pub(super) fn brief_reply(reply: &Reply) -> String {
    match reply {
        Reply::Done { at, .. } => format!("done at op {}", at.op),
        Reply::Records { at, records } => match records.first().and_then(Option::as_ref) {
            Some(record) => format!("{:?} as of op {}", record.value, at.op),
            None => format!("nothing there as of op {}", at.op),
        },
        other => format!("{other:?}"),
    }
}
