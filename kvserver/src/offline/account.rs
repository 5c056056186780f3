//! What a data directory holds, in words. Pure.

use std::fmt::Write;

use kvprocess::size::Size;
use kvproto::OpNumber;

use crate::journal::survey::{Damage, Directory, Era, Segment};

/// One line for each thing, for people.
#[must_use]
pub(super) fn account(directory: &Directory, waits_to_restore: bool) -> String {
    let mut out = Lines::default();
    match &directory.identity {
        None => out.line("storage", "none: no server has begun with it"),
        Some(identity) => {
            out.line("storage", identity.storage);
            match identity.cluster.is_none() {
                true => out.line("cluster", "none yet"),
                false => out.line("cluster", identity.cluster),
            }
        }
    }
    if waits_to_restore {
        out.line("restore", "a snapshot waits for the first start of a server");
    }
    match &directory.era {
        None => out.line("log", "none"),
        Some(era) => out.era(era),
    }
    for number in &directory.replaced {
        out.line("replaced", format!("era {number}, to be set aside at the next start"));
    }
    for name in &directory.set_aside {
        out.line("set aside", name);
    }
    for name in &directory.unfinished {
        out.line("unfinished", format!("{name}, to be removed at the next start"));
    }
    out.text
}

/// How much of a log through `last` is known to be in every copy that had to have it.
#[must_use]
pub(super) fn certainty(last: OpNumber, committed: OpNumber) -> String {
    match last.0.saturating_sub(committed.0) {
        0 => "all of it is known to be committed".to_owned(),
        1 => "its last op is not known to be committed, it may never have been acknowledged"
            .to_owned(),
        ops => format!(
            "its last {ops} ops are not known to be committed, they may never have been acknowledged"
        ),
    }
}

/// Damage that costs nothing but trust in the disk.
#[must_use]
pub(super) fn covered(damage: &Damage) -> String {
    format!("{damage}; nothing is lost: the snapshot covers it; look after this disk")
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn line(&mut self, name: &str, what: impl std::fmt::Display) {
        writeln!(self.text, "{name:<11}{what}").expect("text takes what is written to it");
    }

    fn era(&mut self, era: &Era) {
        self.line("era", format!("{} in {}", era.number, era.dir));
        if let Some(snapshot) = &era.snapshot {
            let (at, keys, size) = (snapshot.head.at, snapshot.head.keys, Size(snapshot.size));
            let what = format!("op {at}, {keys} keys, {size}, digest {}", snapshot.end.digest);
            self.line("snapshot", format!("{}: {what}", file_name(&snapshot.path)));
        }
        for segment in &era.segments {
            self.line("segment", words_on(segment));
        }
        for path in &era.leftovers {
            self.line("leftover", format!("{}, not needed any more", file_name(path)));
        }
        let last = era.last();
        let rest = match era.damage {
            None => certainty(last.op, era.committed),
            Some(_) => "what lies beyond the damage is not known".to_owned(),
        };
        self.line("log", format!("through op {last}; {rest}"));
        for start in era.epochs() {
            self.line("epoch", format!("{} from op {}", start.epoch, start.op));
        }
        self.line("adopted", format!("epoch {}", era.adopted));
        for dropped in &era.dropped {
            let (first, last) = (dropped.after.next(), dropped.last);
            self.line("dropped", format!("ops {first} to {last}, still in the files"));
        }
        if let Some(torn) = &era.torn {
            self.line(
                "torn end",
                format!("{} bytes after byte {} of {}", torn.bytes, torn.at, torn.file),
            );
        }
        if let Some(damage) = &era.damage_covered {
            self.line("DAMAGE", covered(damage));
        }
        if let Some(damage) = &era.damage {
            self.line("DAMAGE", format!("{damage}; nothing after it was looked at"));
        }
    }
}

fn words_on(segment: &Segment) -> String {
    let Segment { path, header, used, records, .. } = segment;
    format!(
        "{}: after op {}, {records} records in {used} of {} bytes",
        file_name(path),
        header.after,
        header.capacity
    )
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
