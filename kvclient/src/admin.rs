//! What operators ask: the state of the cluster, and the one command that may lose data.

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::pb::viewservice as pb;
use kvproto::registration::Memory;
use kvproto::{Generation, Incarnation, Member, OpNumber, Revision, View, ViewNumber, ViewOrder};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::servers::{failed, too_late, view_service};
use crate::views::ANSWER_WITHIN;
use crate::wire;

/// The state of the cluster, as the view service sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterStatus {
    /// The current view.
    pub view: View,
    /// Every server that is registered.
    pub servers: Vec<ServerStatus>,
    /// Servers without which the cluster cannot go on; empty when it can.
    pub waiting_for: Vec<String>,
    /// One sentence on what to do next; empty when all is well.
    pub advice: String,
    /// Calls that the view service has handled since its start, by `/package.Service/Method`.
    pub rpcs_handled: BTreeMap<String, u64>,
    /// Version of the view service.
    pub version: String,
    /// "durable" or "in memory", as the first server decided; empty until then.
    pub storage: String,
    /// Servers that came and were refused of late.
    pub refused: Vec<RefusedServer>,
    /// Present while servers show a past that is not the view service's: it stands still.
    pub doubt: Option<Doubt>,
}

/// A server that came to the view service and was refused, as it came last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedServer {
    /// Which server; incarnation 0 for one that was given no number in this life.
    pub member: Member,
    /// The cluster that it belongs to, in hexadecimal digits; empty for none.
    pub cluster: String,
    /// Why, in a word or two.
    pub reason: String,
    /// What it was told.
    pub message: String,
    /// How long ago.
    pub age: Duration,
    /// The newest record that it has; the default if it has none.
    pub shown: ViewOrder,
}

/// What servers showed that is not in the history of the view service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// Who showed what.
    pub shown: Vec<Shown>,
    /// Those who showed it or may serve, each with the time since its last sign of life.
    pub may_serve: Vec<(String, Duration)>,
}

/// The newest record that a server showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Which server; incarnation 0 for one that was given no number in this life.
    pub member: Member,
    /// Which record.
    pub order: ViewOrder,
    /// Its primary; empty if that was not shown.
    pub primary: String,
}

/// One server, as the view service sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerStatus {
    /// Which server, in which of its lives.
    pub member: Member,
    /// primary, backup, joining or spare, by the view.
    pub role: String,
    /// alive, suspected, dead or leaving.
    pub state: String,
    /// Last op appended in this copy.
    pub appended: OpNumber,
    /// Last op that this copy knows to be committed.
    pub committed: OpNumber,
    /// Last op applied in this copy.
    pub applied: OpNumber,
    /// Age of its last sign of life.
    pub ping_age: Duration,
    /// Whether it is a lab-style server, driven by plain pings.
    pub plain: bool,
    /// Bytes that it reckons to use, and that it was given.
    pub memory: Memory,
    /// Whether its disk is nearly full.
    pub disk_full: bool,
    /// How long its disk has been given something without doing any of it; zero while it moves.
    pub disk_waits: Duration,
    /// Why it was not met at its address, without which it has no part; empty if it was.
    pub not_met: String,
    /// Whether its data directory was deleted or replaced: what it holds is in its memory only.
    pub directory_gone: bool,
    /// That its primary had it left out of the view; `None` if that did not happen of late.
    pub left_out: Option<LeftOut>,
}

/// Why a server was left out of the view, and when it is tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// How often of late.
    pub times: u32,
    /// What its primary saw the last time.
    pub because: String,
    /// It is not tried again before this time is over.
    pub tried_again_in: Duration,
}

impl ServerStatus {
    /// Whether it has said how far it is since the view service was started.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.memory.max > 0
    }
}

impl Client {
    /// The state of the cluster.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when no view server answers in time.
    pub async fn status(&self) -> Result<ClusterStatus> {
        self.ask_view_servers(|views, server| async move {
            let channel = views.connections().connect(&server).await?;
            let mut client = view_service(channel);
            let asked = client.status(pb::StatusRequest {});
            let status = match timeout(ANSWER_WITHIN, asked).await {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return Err(failed(&server, &status)),
                Err(_) => return Err(too_late(&server)),
            };
            cluster_status(status).map_err(|error| format!("{server}: {error}"))
        })
        .await
    }

    /// Starts a new generation from the data of one server, and gives up whatever only others hold.
    /// The caller asserts that no other server still serves: stop them first. The view service
    /// refuses while a server that is known to hold everything is alive.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with the reason of the view service.
    pub async fn force_accepting_data_loss(&self, server: &str) -> Result<View> {
        let request = pb::ForceRequest { server: server.to_owned(), accept_data_loss: true };
        let patience = self.timeout();
        // Only a server that was not reached is passed over for the next: a second command after
        // one whose answer was lost could start a second generation.
        let (view_server, answer) = self
            .ask_view_servers(|views, view_server| {
                let request = request.clone();
                async move {
                    let channel = views.connections().connect(&view_server).await?;
                    let mut client = view_service(channel);
                    let answer = match timeout(patience, client.force(request)).await {
                        Ok(answer) => answer.map(tonic::Response::into_inner),
                        Err(_) => Err(Status::deadline_exceeded("no answer")),
                    };
                    Ok((view_server, answer))
                }
            })
            .await?;
        match answer {
            Ok(response) => wire::view(response.view).map_err(|error| {
                Error::new(
                    ErrorKind::OutcomeUnknown,
                    format!("the answer made no sense ({error}); see `kvctl status`"),
                )
            }),
            Err(status) if is_refusal(&status) => {
                Err(Error::new(ErrorKind::Refused, status.message()))
            }
            Err(status) => Err(Error::new(
                ErrorKind::OutcomeUnknown,
                format!(
                    "outcome unknown: {}; see `kvctl status` before you repeat it",
                    failed(&view_server, &status)
                ),
            )),
        }
    }
}

/// Whether the view service decided, as opposed to not being reached or not being the leader.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound | Code::PermissionDenied
    )
}

fn cluster_status(status: pb::StatusResponse) -> Result<ClusterStatus, String> {
    Ok(ClusterStatus {
        view: wire::view(status.view).map_err(|error| error.to_string())?,
        servers: status.servers.into_iter().map(server_status).collect(),
        waiting_for: status.waiting_for,
        advice: status.advice,
        rpcs_handled: status.rpcs_handled.into_iter().collect(),
        version: status.version,
        storage: status.storage,
        refused: status.refused.into_iter().map(refused).collect(),
        doubt: status.doubt.map(doubt),
    })
}

fn refused(knock: pb::Knock) -> RefusedServer {
    let reason = knock.reason().as_str_name().to_lowercase().replace('_', " ");
    RefusedServer {
        member: named(&knock.name, knock.incarnation),
        cluster: knock.cluster_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        reason,
        message: knock.message,
        age: Duration::from_millis(knock.age_ms),
        shown: order(knock.generation, knock.view_number, knock.revision),
    }
}

fn doubt(doubt: pb::Doubt) -> Doubt {
    let shown = |shown: pb::Shown| Shown {
        member: named(&shown.name, shown.incarnation),
        order: order(shown.generation, shown.view_number, shown.revision),
        primary: shown.primary,
    };
    let silence = |it: pb::Silence| (it.name, Duration::from_millis(it.silent_ms));
    Doubt {
        shown: doubt.shown.into_iter().map(shown).collect(),
        may_serve: doubt.may_serve.into_iter().map(silence).collect(),
    }
}

fn named(name: &str, incarnation: u64) -> Member {
    Member { name: name.into(), incarnation: Incarnation(incarnation) }
}

fn order(generation: u64, number: u64, revision: u64) -> ViewOrder {
    ViewOrder {
        generation: Generation(generation),
        number: ViewNumber(number),
        revision: Revision(revision),
    }
}

fn server_status(server: pb::ServerStatus) -> ServerStatus {
    let member = server.member.unwrap_or_default();
    ServerStatus {
        member: Member { name: member.name.into(), incarnation: Incarnation(member.incarnation) },
        role: server.role,
        state: server.state,
        appended: OpNumber(server.appended),
        committed: OpNumber(server.committed),
        applied: OpNumber(server.applied),
        ping_age: Duration::from_millis(server.ping_age_ms),
        plain: server.plain,
        memory: Memory { used: server.memory_used, max: server.memory_max },
        disk_full: server.disk_full,
        disk_waits: Duration::from_millis(server.disk_waits_ms),
        not_met: server.not_met,
        left_out: (server.left_out > 0).then(|| LeftOut {
            times: server.left_out,
            because: server.left_out_because,
            tried_again_in: Duration::from_millis(server.tried_again_in_ms),
        }),
        directory_gone: server.directory_gone,
    }
}
