//! `View`, `Settings`, `Member`.

use std::time::Duration;

use super::{
    Malformed, cluster, cluster_bytes, generation, history, history_bytes, into_list, list,
    malformed, millis, required,
};
use crate::ids::{Incarnation, Member, Revision, ServerName, ViewNumber};
use crate::pb::viewservice as pb;
use crate::settings::Settings;
use crate::view::{Role, View, ViewStatus};

impl From<Member> for pb::Member {
    fn from(member: Member) -> Self {
        Self { name: member.name.as_str().to_owned(), incarnation: member.incarnation.0 }
    }
}

impl TryFrom<pb::Member> for Member {
    type Error = Malformed;
    fn try_from(member: pb::Member) -> Result<Self, Malformed> {
        if member.name.is_empty() {
            return malformed("a member has no name");
        }
        Ok(Self { name: member.name.into(), incarnation: Incarnation(member.incarnation) })
    }
}

impl From<View> for pb::View {
    fn from(view: View) -> Self {
        let activated = view.is_activated();
        let backup = view.backups.first().map(|backup| backup.name.as_str());
        let (primary, primary_incarnation) = match &view.primary {
            Some(primary) => (primary.name.as_str(), primary.incarnation.0),
            None => ("", 0),
        };
        Self {
            view_number: view.number.0,
            primary: primary.to_owned(),
            backup: backup.unwrap_or_default().to_owned(),
            generation: view.generation.0,
            revision: view.revision.0,
            activated,
            primary_since: view.primary_since.0,
            primary_incarnation,
            backups: into_list(view.backups),
            eligible: view.eligible.into_iter().map(Into::into).collect(),
            cluster_id: cluster_bytes(view.cluster),
            settings: Some(view.settings.into()),
            history: history_bytes(view.history),
            began: history_bytes(view.began),
        }
    }
}

impl TryFrom<pb::View> for View {
    type Error = Malformed;
    fn try_from(view: pb::View) -> Result<Self, Malformed> {
        let primary = (!view.primary.is_empty()).then(|| Member {
            name: ServerName::from(view.primary),
            incarnation: Incarnation(view.primary_incarnation),
        });
        Ok(Self {
            cluster: cluster(&view.cluster_id)?.unwrap_or_default(),
            generation: generation(view.generation)?,
            number: ViewNumber(view.view_number),
            revision: Revision(view.revision),
            status: if view.activated { ViewStatus::Activated } else { ViewStatus::Proposed },
            primary_since: ViewNumber(view.primary_since),
            primary,
            backups: list(view.backups)?,
            eligible: view.eligible.into_iter().map(Member::try_from).collect::<Result<_, _>>()?,
            settings: required(view.settings, "a view has no settings")?.try_into()?,
            history: history(&view.history)?,
            began: history(&view.began)?,
        })
    }
}

impl From<Settings> for pb::Settings {
    fn from(settings: Settings) -> Self {
        Self {
            ping_interval_ms: millis(settings.ping_interval),
            dead_after_ms: millis(settings.dead_after),
            heartbeat_interval_ms: millis(settings.heartbeat_interval),
            lease_ms: millis(settings.lease),
            stall_after_ms: millis(settings.stall_after),
            session_lease_ms: millis(settings.session_lease),
            copies: settings.copies,
            min_copies: settings.min_copies,
            key_size_max: settings.key_size_max,
            value_size_max: settings.value_size_max,
            op_size_max: settings.op_size_max,
            sessions_max: settings.sessions_max,
        }
    }
}

impl TryFrom<pb::Settings> for Settings {
    type Error = Malformed;
    fn try_from(settings: pb::Settings) -> Result<Self, Malformed> {
        Ok(Self {
            ping_interval: Duration::from_millis(settings.ping_interval_ms),
            dead_after: Duration::from_millis(settings.dead_after_ms),
            heartbeat_interval: Duration::from_millis(settings.heartbeat_interval_ms),
            lease: Duration::from_millis(settings.lease_ms),
            stall_after: Duration::from_millis(settings.stall_after_ms),
            session_lease: Duration::from_millis(settings.session_lease_ms),
            copies: settings.copies,
            min_copies: settings.min_copies,
            key_size_max: settings.key_size_max,
            value_size_max: settings.value_size_max,
            op_size_max: settings.op_size_max,
            sessions_max: settings.sessions_max,
        })
    }
}

/// A role by its lower-case word.
impl TryFrom<&str> for Role {
    type Error = Malformed;
    fn try_from(word: &str) -> Result<Self, Malformed> {
        let roles = [Role::Primary, Role::Backup, Role::Joining, Role::Spare];
        required(
            roles.into_iter().find(|role| role.as_str() == word),
            "a role is primary, backup, joining or spare",
        )
    }
}
