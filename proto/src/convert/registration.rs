//! What a full server and the view service say to each other.

use std::time::Duration;

use super::{
    Malformed, cluster, cluster_bytes, generation, history, history_bytes, into_list, list,
    malformed, op, required, sixteen,
};
use crate::ids::{Epoch, Incarnation, LifeId, Member, Position, Revision, StorageId, ViewNumber};
use crate::pb::viewservice as pb;
use crate::registration::{
    FromServer, Held, Memory, Process, Progress, RefusedReason, Registration, ToServer, Wish,
};
use crate::view::{Role, View, ViewOrder};

impl From<FromServer> for pb::FromServer {
    fn from(message: FromServer) -> Self {
        use pb::from_server::Body;
        let body = match message {
            FromServer::Register(registration) => Body::Register(registration.into()),
            FromServer::Ping(progress) => Body::Ping(progress.into()),
            FromServer::Wish(wish) => wish.into(),
            FromServer::Met(process) => Body::Met(process.into()),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<pb::FromServer> for FromServer {
    type Error = Malformed;
    fn try_from(message: pb::FromServer) -> Result<Self, Malformed> {
        use pb::from_server::Body;
        let server = |server: Option<pb::Member>| -> Result<Member, Malformed> {
            required(server, "a wish names no server")?.try_into()
        };
        let wish = match required(message.body, "a server's message is of no known kind")? {
            Body::Register(register) => return Ok(FromServer::Register(register.try_into()?)),
            Body::Ping(ping) => return Ok(FromServer::Ping(ping.try_into()?)),
            Body::Met(process) => return Ok(FromServer::Met(process.try_into()?)),
            Body::Activate(activate) => Wish::Activate {
                generation: generation(activate.generation)?,
                number: ViewNumber(activate.view_number),
                reconciled: list(activate.reconciled)?,
            },
            Body::Synced(synced) => Wish::Synced {
                generation: generation(synced.generation)?,
                number: ViewNumber(synced.view_number),
                server: server(synced.server)?,
            },
            Body::Evict(evict) => Wish::Evict {
                generation: generation(evict.generation)?,
                number: ViewNumber(evict.view_number),
                server: server(evict.server)?,
                acknowledges: evict.acknowledges,
                reason: evict.reason,
            },
            Body::Leave(_) => Wish::Leave,
            Body::Yield(pb::Yield { generation: of, view_number, to, reason }) => Wish::Yield {
                generation: generation(of)?,
                number: ViewNumber(view_number),
                to: list(to)?,
                reason,
            },
        };
        Ok(FromServer::Wish(wish))
    }
}

impl From<Registration> for pb::Register {
    fn from(registration: Registration) -> Self {
        Self {
            name: registration.name.as_str().to_owned(),
            incarnation: registration.incarnation.unwrap_or_default().0,
            cluster_id: cluster_bytes(registration.cluster.unwrap_or_default()),
            protocol_level: registration.protocol_level,
            held: registration.held.map(Into::into),
            life: registration.life.0.to_vec().into(),
            shown: registration.shown.map(|view| (*view).into()),
        }
    }
}

impl TryFrom<pb::Register> for Registration {
    type Error = Malformed;
    fn try_from(register: pb::Register) -> Result<Self, Malformed> {
        if register.name.is_empty() {
            return malformed("a registration names no server");
        }
        let life = sixteen(&register.life, "the id of a process has 16 bytes")?;
        Ok(Registration {
            name: register.name.into(),
            life: LifeId(life.unwrap_or_default()),
            incarnation: (register.incarnation != 0).then_some(Incarnation(register.incarnation)),
            cluster: cluster(&register.cluster_id)?,
            protocol_level: register.protocol_level,
            held: register.held.map(Held::try_from).transpose()?,
            shown: register.shown.map(View::try_from).transpose()?.map(Box::new),
        })
    }
}

impl From<Process> for pb::Process {
    fn from(process: Process) -> Self {
        Self { name: process.name.as_str().to_owned(), life: process.life.0.to_vec().into() }
    }
}

impl TryFrom<pb::Process> for Process {
    type Error = Malformed;
    fn try_from(process: pb::Process) -> Result<Self, Malformed> {
        let life = sixteen(&process.life, "the id of a process has 16 bytes")?;
        Ok(Process { name: process.name.into(), life: LifeId(life.unwrap_or_default()) })
    }
}

impl From<Held> for pb::Held {
    fn from(held: Held) -> Self {
        Self {
            storage_id: held.storage.0.to_vec().into(),
            generation: held.last.epoch.generation.0,
            primary_since: held.last.epoch.primary_since.0,
            op_number: held.last.op.0,
            epochs: into_list(held.epochs),
        }
    }
}

impl TryFrom<pb::Held> for Held {
    type Error = Malformed;
    fn try_from(held: pb::Held) -> Result<Self, Malformed> {
        let (of, since) = (generation(held.generation)?, ViewNumber(held.primary_since));
        let storage = sixteen(&held.storage_id, "a storage id has 16 bytes")?;
        Ok(Held {
            storage: StorageId(required(storage, "what is held names no storage")?),
            last: Position {
                epoch: Epoch { generation: of, primary_since: since },
                op: op(held.op_number)?,
            },
            epochs: list(held.epochs)?,
        })
    }
}

impl From<Wish> for pb::from_server::Body {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Activate { generation, number, reconciled } => Self::Activate(pb::Activate {
                generation: generation.0,
                view_number: number.0,
                reconciled: into_list(reconciled),
            }),
            Wish::Synced { generation, number, server } => Self::Synced(pb::Synced {
                generation: generation.0,
                view_number: number.0,
                server: Some(server.into()),
            }),
            Wish::Evict { generation, number, server, acknowledges, reason } => {
                Self::Evict(pb::Evict {
                    generation: generation.0,
                    view_number: number.0,
                    server: Some(server.into()),
                    reason,
                    acknowledges,
                })
            }
            Wish::Leave => Self::Leave(pb::Leave {}),
            Wish::Yield { generation, number, to, reason } => Self::Yield(pb::Yield {
                generation: generation.0,
                view_number: number.0,
                to: into_list(to),
                reason,
            }),
        }
    }
}

impl From<Progress> for pb::ServerPing {
    fn from(progress: Progress) -> Self {
        Self {
            generation: progress.view.generation.0,
            view_number: progress.view.number.0,
            revision: progress.view.revision.0,
            appended: progress.appended.0,
            committed: progress.committed.0,
            applied: progress.applied.0,
            steps: progress.steps,
            role: progress.role.as_str().to_owned(),
            memory_used: progress.memory.used,
            memory_max: progress.memory.max,
            disk_full: progress.disk_full,
            history: history_bytes(progress.history),
            disk_waits_ms: u64::try_from(progress.disk_waits.as_millis()).unwrap_or(u64::MAX),
            directory_gone: progress.directory_gone,
        }
    }
}

impl TryFrom<pb::ServerPing> for Progress {
    type Error = Malformed;
    fn try_from(ping: pb::ServerPing) -> Result<Self, Malformed> {
        Ok(Self {
            view: ViewOrder {
                generation: generation(ping.generation)?,
                number: ViewNumber(ping.view_number),
                revision: Revision(ping.revision),
            },
            history: history(&ping.history)?,
            appended: op(ping.appended)?,
            committed: op(ping.committed)?,
            applied: op(ping.applied)?,
            steps: ping.steps,
            role: Role::try_from(ping.role.as_str())?,
            memory: Memory { used: ping.memory_used, max: ping.memory_max },
            disk_full: ping.disk_full,
            disk_waits: Duration::from_millis(ping.disk_waits_ms),
            directory_gone: ping.directory_gone,
        })
    }
}

impl From<ToServer> for pb::ToServer {
    fn from(message: ToServer) -> Self {
        use pb::to_server::Body;
        let body = match message {
            ToServer::Registered { incarnation, view } => Body::Registered(pb::Registered {
                incarnation: incarnation.0,
                view: Some((*view).into()),
            }),
            ToServer::View(view) => Body::View((*view).into()),
            ToServer::Refused { reason, message } => Body::Refused(pb::Refused {
                reason: pb::refused::Reason::from(reason).into(),
                message,
            }),
            ToServer::NobodyToTakeOver => Body::NobodyToTakeOver(pb::NobodyToTakeOver {}),
            ToServer::Meet(process) => Body::Meet(process.into()),
            ToServer::NotMet { message } => Body::NotMet(pb::NotMet { message }),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<pb::ToServer> for ToServer {
    type Error = Malformed;
    fn try_from(message: pb::ToServer) -> Result<Self, Malformed> {
        use pb::to_server::Body;
        let body = required(message.body, "the view service's message is of no known kind")?;
        Ok(match body {
            Body::Registered(registered) => {
                let view = required(registered.view, "a registration carries no view")?;
                ToServer::Registered {
                    incarnation: Incarnation(registered.incarnation),
                    view: Box::new(View::try_from(view)?),
                }
            }
            Body::View(view) => ToServer::View(Box::new(view.try_into()?)),
            Body::Refused(refused) => {
                ToServer::Refused { reason: refused.reason().into(), message: refused.message }
            }
            Body::NobodyToTakeOver(_) => ToServer::NobodyToTakeOver,
            Body::Meet(process) => ToServer::Meet(process.try_into()?),
            Body::NotMet(not_met) => ToServer::NotMet { message: not_met.message },
        })
    }
}

impl From<RefusedReason> for pb::refused::Reason {
    fn from(reason: RefusedReason) -> Self {
        match reason {
            RefusedReason::WrongCluster => Self::WrongCluster,
            RefusedReason::NameInUse => Self::NameInUse,
            RefusedReason::StaleIncarnation => Self::StaleIncarnation,
            RefusedReason::WrongKind => Self::WrongKind,
            RefusedReason::WrongMode => Self::WrongMode,
            RefusedReason::Doubt => Self::Doubt,
            RefusedReason::Listening => Self::Listening,
            RefusedReason::OtherPast => Self::OtherPast,
            RefusedReason::Incompatible => Self::Incompatible,
        }
    }
}

/// A reason that this program does not know comes from a newer one: the two do not fit.
impl From<pb::refused::Reason> for RefusedReason {
    fn from(reason: pb::refused::Reason) -> Self {
        use pb::refused::Reason;
        match reason {
            Reason::WrongCluster => Self::WrongCluster,
            Reason::NameInUse => Self::NameInUse,
            Reason::StaleIncarnation => Self::StaleIncarnation,
            Reason::WrongKind => Self::WrongKind,
            Reason::WrongMode => Self::WrongMode,
            Reason::Doubt => Self::Doubt,
            Reason::Listening => Self::Listening,
            Reason::OtherPast => Self::OtherPast,
            Reason::Incompatible | Reason::Unspecified => Self::Incompatible,
        }
    }
}
