//! Meeting a server at its address: asking it which process answers there (VIEW-6). Shell.

use std::time::Duration;

use kvproto::LifeId;
use kvproto::pb::replication::MeetRequest;
use kvproto::pb::replication::meeting_client::MeetingClient;
use kvproto::registration::{NotMet, Process};
use tokio::time::timeout;
use tonic::Code;

use crate::dial::{self, DialError};

/// Time for one attempt.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Asks the address of this process who answers there.
///
/// # Errors
/// When it is not this very process, or nobody.
pub async fn meet(process: &Process) -> Result<(), NotMet> {
    match timeout(ANSWER_WITHIN, ask(process.name.as_str())).await {
        Ok(Ok(life)) if life == process.life => Ok(()),
        Ok(Ok(_)) => Err(NotMet::Another),
        Ok(Err(why)) => Err(why),
        Err(_late) => Err(NotMet::Nobody(format!("within {ANSWER_WITHIN:?}"))),
    }
}

async fn ask(name: &str) -> Result<LifeId, NotMet> {
    let channel = dial::connect(name).await.map_err(|error| match error {
        DialError::Name(_) => NotMet::Nobody("it is not host:port".into()),
        DialError::Connect { error, .. } => NotMet::Nobody(innermost(&error)),
    })?;
    let answer = MeetingClient::new(channel).meet(MeetRequest {}).await;
    let life =
        answer.map(|answer| answer.into_inner().life).map_err(|status| match status.code() {
            Code::Unimplemented => NotMet::Stranger,
            // Also a transport that breaks: somebody listens there who does not speak gRPC.
            _ => NotMet::Nobody(status.message().to_owned()),
        })?;
    life[..].try_into().map(LifeId).map_err(|_| NotMet::Stranger)
}

/// What happened, without the layers around it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
