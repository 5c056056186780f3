//! Whom to ask next, and whether the view service should be asked who that is. Pure: no I/O,
//! clock, randomness or async.
//!
//! The view service is on nobody's hot path: it is asked only while nothing is known, or after the
//! present target failed or refused, and then at most once per [`REFRESH_INTERVAL`] for all calls
//! of a client together. The caller reports every record and every end of an attempt here.

use std::time::Duration;

use kvproto::{Generation, ServerName, Timestamp, View, ViewNumber};

/// Least time between two questions to the view service.
pub const REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// What is known about the primary.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// From the newest view record.
    known: Option<Known>,
    /// From a server that is not the primary; of a higher view number than `known`.
    hint: Option<Known>,
    /// Whether the target failed or refused since anything new was learnt.
    doubtful: bool,
    /// When the view service was asked last.
    refreshed_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    generation: Generation,
    number: ViewNumber,
    primary: Option<ServerName>,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Next {
    /// Whom to ask; `None` while no primary is known: wait for a view.
    pub target: Option<ServerName>,
    /// Whether to ask the view service for its present view, beside asking the target.
    pub refresh: bool,
}

/// Whether a record is to be taken in: one that is newer than the newest known. A client belongs to
/// one cluster: records of another are not taken.
#[must_use]
pub fn is_news(known: Option<&View>, view: &View) -> bool {
    known.is_none_or(|known| known.cluster == view.cluster && view.order() > known.order())
}

impl Route {
    /// A view record was heard. Returns whether it changes the target.
    pub fn learn(&mut self, view: &View) -> bool {
        let news = (view.generation, view.number);
        if let Some(known) = &self.known
            && (known.generation, known.number) > news
        {
            return false;
        }
        let before = self.target().cloned();
        self.known = Some(Known {
            generation: view.generation,
            number: view.number,
            primary: view.primary_name().cloned(),
        });
        self.hint.take_if(|hint| hint.number <= view.number);
        let changed = self.target() != before.as_ref();
        if changed {
            self.doubtful = false;
        }
        changed
    }

    /// The presumed primary.
    #[must_use]
    pub fn target(&self) -> Option<&ServerName> {
        self.hint.as_ref().or(self.known.as_ref()).and_then(|known| known.primary.as_ref())
    }

    /// Decides what to do at `now`, and notes that the view service is asked if it says so.
    pub fn next(&mut self, now: Timestamp) -> Next {
        let wanted = self.doubtful || self.target().is_none();
        let due = self.refreshed_at.is_none_or(|at| now.since(at) >= REFRESH_INTERVAL);
        let refresh = wanted && due;
        if refresh {
            self.refreshed_at = Some(now);
        }
        Next { target: self.target().cloned(), refresh }
    }

    /// The server says that it is not the primary, and perhaps who is, by which view. A hint is
    /// followed only if its view is newer than what is known.
    pub fn refused(&mut self, by: &ServerName, primary: Option<ServerName>, view: ViewNumber) {
        if self.target() != Some(by) {
            return; // others have learnt better meanwhile
        }
        let newest = self.hint.as_ref().or(self.known.as_ref());
        let newer = newest.is_none_or(|newest| view > newest.number);
        match primary {
            Some(primary) if newer && !primary.is_empty() && primary != *by => {
                self.hint = Some(Known {
                    generation: newest.map_or(Generation(0), |newest| newest.generation),
                    number: view,
                    primary: Some(primary),
                });
                self.doubtful = false;
            }
            _ => self.doubt(by),
        }
    }

    /// The server did not answer, or not as a working primary does.
    pub fn doubt(&mut self, server: &ServerName) {
        if self.target() != Some(server) {
            return;
        }
        // A hint is hearsay: when it leads nowhere, the record counts again.
        self.hint = None;
        self.doubtful = true;
    }

    /// The server has taken long over an answer. It stays the target, but ask the view service.
    pub fn slow(&mut self, server: &ServerName) {
        if self.target() == Some(server) {
            self.doubtful = true;
        }
    }

    /// The server answered as a primary.
    pub fn answered(&mut self, by: &ServerName) {
        if self.target() == Some(by) {
            self.doubtful = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvproto::{ClusterId, Incarnation, Member, Settings};

    const A: &str = "a:1";
    const B: &str = "b:1";
    const C: &str = "c:1";

    fn view(number: u64, primary: &str) -> View {
        let mut view = View::none(ClusterId([1; 16]), Settings::default());
        view.number = ViewNumber(number);
        view.primary = Some(Member { name: primary.into(), incarnation: Incarnation(1) });
        view
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn route_to(primary: &str) -> Route {
        let mut route = Route::default();
        assert!(route.learn(&view(5, primary)));
        route
    }

    #[test]
    fn the_view_service_is_asked_while_nothing_is_known_but_not_more_often_than_the_interval() {
        let mut route = Route::default();
        assert_eq!(route.next(at(0)), Next { target: None, refresh: true });
        assert!(!route.next(at(249)).refresh);
        assert!(route.next(at(250)).refresh);
    }

    #[test]
    fn the_view_service_is_not_asked_per_operation() {
        let mut route = route_to(A);
        for millis in 0..10_000 {
            let next = route.next(at(millis));
            assert_eq!(next.target, Some(A.into()));
            assert!(!next.refresh);
            route.answered(&A.into());
        }
    }

    #[test]
    fn after_a_failure_the_view_service_is_asked_and_the_target_tried_again() {
        let mut route = route_to(A);
        route.doubt(&A.into());
        assert_eq!(route.next(at(1000)), Next { target: Some(A.into()), refresh: true });
        assert!(!route.next(at(1001)).refresh, "it was asked just now");
        route.answered(&A.into());
        assert!(!route.next(at(9000)).refresh, "it works again");
    }

    #[test]
    fn a_slow_hinted_server_stays_the_target_while_the_view_service_is_asked() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some(B.into()), ViewNumber(6));
        route.slow(&B.into());
        assert_eq!(route.next(at(0)), Next { target: Some(B.into()), refresh: true });
    }

    #[test]
    fn a_hint_of_a_newer_view_is_followed_without_asking_the_view_service() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some(B.into()), ViewNumber(6));
        assert_eq!(route.next(at(0)), Next { target: Some(B.into()), refresh: false });
    }

    #[test]
    fn a_hint_of_an_old_view_is_not_followed() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some(B.into()), ViewNumber(4));
        let next = route.next(at(0));
        assert_eq!(next.target, Some(A.into()));
        assert!(next.refresh);
    }

    #[test]
    fn a_hint_that_leads_nowhere_is_forgotten() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some(B.into()), ViewNumber(6));
        route.doubt(&B.into());
        assert_eq!(route.next(at(0)), Next { target: Some(A.into()), refresh: true });
    }

    #[test]
    fn two_servers_that_point_at_each_other_are_not_followed_for_ever() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some(B.into()), ViewNumber(6));
        route.refused(&B.into(), Some(A.into()), ViewNumber(6));
        assert!(route.next(at(0)).refresh);
    }

    #[test]
    fn a_record_at_least_as_new_replaces_a_hint_and_an_older_record_changes_nothing() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some(B.into()), ViewNumber(6));
        assert!(route.learn(&view(6, C)));
        assert_eq!(route.target(), Some(&C.into()));
        assert!(!route.learn(&view(5, A)));
        assert_eq!(route.target(), Some(&C.into()));
    }

    #[test]
    fn a_higher_generation_is_newer_whatever_its_number() {
        let mut route = route_to(A);
        let mut forced = view(1, B);
        forced.generation = forced.generation.next();
        assert!(route.learn(&forced));
        assert_eq!(route.target(), Some(&B.into()));
    }

    #[test]
    fn a_late_refusal_of_a_former_target_changes_nothing() {
        let mut route = route_to(A);
        let before = route.clone();
        route.refused(&C.into(), Some(B.into()), ViewNumber(9));
        route.doubt(&C.into());
        assert_eq!(route, before);
    }

    #[test]
    fn an_empty_hint_only_raises_doubt() {
        let mut route = route_to(A);
        route.refused(&A.into(), Some("".into()), ViewNumber(9));
        assert_eq!(route.next(at(0)), Next { target: Some(A.into()), refresh: true });
    }
}
