//! The door at which a server is met: it says which process answers at this address (VIEW-6). Shell.

use kvproto::LifeId;
use kvproto::pb::replication::meeting_server::Meeting;
use kvproto::pb::replication::{MeetRequest, MeetResponse};
use tonic::{Request, Response, Status};

/// The door of one process.
pub(super) struct MeetingDoor(pub(super) LifeId);

#[tonic::async_trait]
impl Meeting for MeetingDoor {
    async fn meet(&self, _request: Request<MeetRequest>) -> Result<Response<MeetResponse>, Status> {
        Ok(Response::new(MeetResponse { life: self.0.0.to_vec().into() }))
    }
}
