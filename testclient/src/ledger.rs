//! What one writer was promised, so that it can be checked. Pure.
//!
//! Each writer owns its keys and has one call open at a time. A key whose call ended with an
//! unknown outcome is not written again: that call might still take effect, and both values stay
//! possible for ever. So every check is exact: a key holds what was acknowledged last, or the one
//! value whose fate is unknown.

use std::collections::BTreeMap;
use std::fmt;

/// How a call ended, as far as the ledger cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Acknowledged.
    Done,
    /// Certainly not done.
    NotDone,
    /// It may take effect, or not.
    Unknown,
}

/// What a key may hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Promise {
    acknowledged: Option<String>,
    possible: Option<String>,
    checked: bool,
}

impl Promise {
    /// Whether this value (`None`: no such key) breaks the promise.
    #[must_use]
    pub fn is_broken_by(&self, value: Option<&str>) -> bool {
        value != self.acknowledged.as_deref()
            && (self.possible.is_none() || value != self.possible.as_deref())
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.acknowledged.as_deref()))?;
        match &self.possible {
            None => Ok(()),
            Some(possible) => write!(f, " or {}", shown(Some(possible))),
        }
    }
}

/// A value for people, who want the end of a long one: there it was written last.
#[must_use]
pub fn shown(value: Option<&str>) -> String {
    const END: usize = 40;
    match value {
        None => "nothing".to_owned(),
        Some(value) => match value.char_indices().nth_back(END) {
            None => format!("{value:?}"),
            Some((at, _)) => format!("{} bytes that end in {:?}", value.len(), &value[at..]),
        },
    }
}

/// The promises of one writer, by key.
#[derive(Debug, Default)]
pub struct Ledger {
    promises: BTreeMap<String, Promise>,
}

impl Ledger {
    /// Records how a put ended.
    pub fn put(&mut self, key: &str, value: String, end: End) {
        self.end(key, value, end);
    }

    /// Records how an append ended.
    pub fn append(&mut self, key: &str, bytes: &str, end: End) {
        let before = self.promises.get(key).and_then(|p| p.acknowledged.clone());
        self.end(key, before.unwrap_or_default() + bytes, end);
    }

    fn end(&mut self, key: &str, value: String, end: End) {
        let promise = self.promises.entry(key.to_owned()).or_default();
        debug_assert!(promise.possible.is_none(), "a key in doubt is not written again");
        promise.checked = false;
        match end {
            End::Done => promise.acknowledged = Some(value),
            End::NotDone => {}
            End::Unknown => promise.possible = Some(value),
        }
    }

    /// What the key may hold.
    #[must_use]
    pub fn promise(&self, key: &str) -> Promise {
        self.promises.get(key).cloned().unwrap_or_default()
    }

    /// Keys to check: all, or those written since they were checked last.
    #[must_use]
    pub fn to_check(&self, all: bool) -> Vec<String> {
        let wanted = |promise: &Promise| all || !promise.checked;
        self.promises
            .iter()
            .filter(|(_, promise)| wanted(promise))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Notes that a key was checked.
    pub fn checked(&mut self, key: &str) {
        if let Some(promise) = self.promises.get_mut(key) {
            promise.checked = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_put_must_be_there() {
        let mut ledger = Ledger::default();
        ledger.put("k", "1".into(), End::Done);
        ledger.put("k", "2".into(), End::NotDone);
        assert!(!ledger.promise("k").is_broken_by(Some("1")));
        assert!(ledger.promise("k").is_broken_by(Some("2")));
        assert!(ledger.promise("k").is_broken_by(None));
    }

    #[test]
    fn a_put_in_doubt_may_be_there_or_not() {
        let mut ledger = Ledger::default();
        ledger.put("k", "1".into(), End::Done);
        ledger.put("k", "2".into(), End::Unknown);
        assert!(!ledger.promise("k").is_broken_by(Some("1")));
        assert!(!ledger.promise("k").is_broken_by(Some("2")));
        assert!(ledger.promise("k").is_broken_by(None));
    }

    #[test]
    fn an_append_that_took_effect_twice_is_found() {
        let mut ledger = Ledger::default();
        ledger.append("log", "a;", End::Done);
        ledger.append("log", "b;", End::Done);
        assert!(!ledger.promise("log").is_broken_by(Some("a;b;")));
        assert!(ledger.promise("log").is_broken_by(Some("a;b;b;")));
        assert!(ledger.promise("log").is_broken_by(Some("a;")));
    }

    #[test]
    fn only_what_changed_is_checked_again() {
        let mut ledger = Ledger::default();
        ledger.put("a", "1".into(), End::Done);
        ledger.put("b", "1".into(), End::Done);
        ledger.checked("a");
        assert_eq!(ledger.to_check(false), ["b"]);
        assert_eq!(ledger.to_check(true), ["a", "b"]);
    }
}
