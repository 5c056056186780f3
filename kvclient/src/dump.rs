//! All that one server's copy holds: as pairs for people, and as a snapshot for a backup.

use std::time::Duration;

use bytes::Bytes;
use kvproto::pb::kvserver::{
    DumpRequest, DumpResponse, SnapshotRequest, SnapshotResponse, dump_response,
};
use kvproto::{Digest, OpNumber, Record, ServerName};
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::servers::{KvServer, failed, kv_server, too_late};

impl Client {
    /// Every pair that one server's copy holds, in key order as of one op; the primary's without a
    /// name. A copy that is behind shows what it has applied.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the server does not answer in time.
    pub async fn dump(&self, server: Option<&str>) -> Result<Dump> {
        let (server, pairs) =
            self.copy_of(server, async |mut server| server.dump(DumpRequest {}).await).await?;
        Ok(Dump { server, pairs, patience: self.timeout(), summary: None })
    }

    /// What one server's copy holds at one op, sessions included, as the bytes of a snapshot file;
    /// the primary's without a name.
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub async fn snapshot(&self, server: Option<&str>) -> Result<Snapshot> {
        let (server, pieces) = self
            .copy_of(server, async |mut server| server.snapshot(SnapshotRequest {}).await)
            .await?;
        Ok(Snapshot { server, pieces, patience: self.timeout() })
    }

    async fn copy_of<T>(
        &self,
        server: Option<&str>,
        open: impl AsyncFnOnce(KvServer) -> Result<Response<Streaming<T>>, Status>,
    ) -> Result<(ServerName, Streaming<T>)> {
        let server = match server {
            Some(server) => ServerName::from(server),
            None => self.view().await?.primary_name().cloned().ok_or_else(|| {
                Error::new(
                    ErrorKind::Unavailable,
                    "there is no primary; name a server with --server, or see `kvctl status`",
                )
            })?,
        };
        let opened = async {
            let channel = self.shared().servers.connect(&server).await?;
            open(kv_server(channel)).await.map_err(|status| failed(&server, &status))
        };
        let opened =
            timeout(self.timeout(), opened).await.unwrap_or_else(|_| Err(too_late(&server)));
        match opened {
            Ok(response) => Ok((server, response.into_inner())),
            Err(error) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("no copy from {server}: {error}; check --server and that it runs"),
            )),
        }
    }
}

/// The pairs of one copy, as they arrive.
pub struct Dump {
    server: ServerName,
    pairs: Streaming<DumpResponse>,
    patience: Duration,
    summary: Option<DumpSummary>,
}

/// The bytes of a snapshot of one copy, as they arrive. Whether they are whole and sound is told by
/// the format itself, [`kvproto::snapshot`].
pub struct Snapshot {
    server: ServerName,
    pieces: Streaming<SnapshotResponse>,
    patience: Duration,
}

impl Snapshot {
    /// The server whose copy this is.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The next bytes; `None` when there are no more.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the server stops before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let message = next(&self.server, &mut self.pieces, self.patience).await?;
        Ok(message.map(|message| message.piece))
    }
}

async fn next<T>(
    server: &ServerName,
    messages: &mut Streaming<T>,
    patience: Duration,
) -> Result<Option<T>> {
    timeout(patience, messages.message())
        .await
        .map_err(|_| not_complete(&format!("{server}: nothing more arrives")))?
        .map_err(|status| not_complete(&failed(server, &status)))
}

/// What a dump ends with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpSummary {
    /// Pairs in the copy.
    pub count: u64,
    /// Digest of the store: equal in all copies at the same op.
    pub digest: Digest,
    /// The op that the dump reflects.
    pub op: OpNumber,
    /// primary, backup, joining or spare, as the server sees itself.
    pub role: String,
}

impl Dump {
    /// The server whose copy this is.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The next pair; `None` after the last, when the summary is there.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the server stops before the end: what was seen so far is not
    /// the whole copy.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Record)>> {
        let message = next(&self.server, &mut self.pairs, self.patience).await?;
        let incomplete = |what: &str| not_complete(&format!("{}: {what}", self.server));
        match message.and_then(|message| message.body) {
            Some(dump_response::Body::Record(pair)) => {
                let record = pair.record.map(Record::try_from).transpose();
                match record {
                    Ok(Some(record)) => Ok(Some((pair.key, record))),
                    Ok(None) => Err(incomplete("a pair without a value")),
                    Err(error) => Err(incomplete(&error.to_string())),
                }
            }
            Some(dump_response::Body::Summary(summary)) => {
                let digest = Digest::try_from(summary.digest)
                    .map_err(|error| incomplete(&error.to_string()))?;
                self.summary = Some(DumpSummary {
                    count: summary.count,
                    digest,
                    op: OpNumber(summary.op_number),
                    role: summary.role,
                });
                Ok(None)
            }
            None => Err(incomplete("the dump ended before its summary")),
        }
    }

    /// The summary, once [`Dump::next`] has returned `None`.
    #[must_use]
    pub fn summary(&self) -> Option<&DumpSummary> {
        self.summary.as_ref()
    }
}

fn not_complete(why: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the copy is not complete ({why}); check that the server runs, then try again"),
    )
}
