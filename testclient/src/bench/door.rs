//! Ways into what is measured: the client library, the bare gRPC door without the library, and the
//! echo. Shell: one call is one call, nothing is tried again here.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use kvclient::Client;
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::pb::kvserver as pb;
use kvproto::pb::kvserver::kv_server_client::KvServerClient;
use kvproto::status::{Attempt, from_status};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::echo::pb as echo;
use super::echo::pb::echo_client::EchoClient;
use crate::calls::{connect, end, end_of};
use crate::ledger::End;

/// What is measured, and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Door {
    /// A cluster through the client library, with sessions, retries and failover.
    Library {
        /// Address of its view service.
        view_service: String,
        /// How long a call tries.
        patience: Duration,
    },
    /// One server's `Put` and `Get` over plain connections.
    Grpc {
        /// Address of the primary.
        primary: String,
        /// Deadline that each call carries; `None`: none, which costs nothing.
        deadline: Option<Duration>,
    },
    /// The yardstick. Reads and writes are the same here.
    Echo {
        /// Where it listens.
        addr: String,
    },
}

/// One connection. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Library(Client),
    Grpc(KvServerClient<Channel>, Option<Duration>),
    Echo(EchoClient<Channel>),
}

impl Connection {
    /// Connects. What keeps the connection going runs on the present runtime.
    pub(super) async fn open(door: &Door) -> Result<Connection> {
        Ok(match door {
            Door::Library { view_service, patience } => {
                let client = connect(view_service, *patience).await;
                Connection::Library(client.with_context(|| format!("--vs {view_service}"))?)
            }
            Door::Grpc { primary, deadline } => {
                let channel = kvprocess::dial::connect(primary).await?;
                let server = KvServerClient::new(channel)
                    .max_decoding_message_size(MESSAGE_SIZE_MAX)
                    .max_encoding_message_size(MESSAGE_SIZE_MAX);
                Connection::Grpc(server, *deadline)
            }
            Door::Echo { addr } => {
                Connection::Echo(EchoClient::new(kvprocess::dial::connect(addr).await?))
            }
        })
    }

    /// Reads a key. That it is not there counts as not done: whoever measures reads wrote it.
    pub(super) async fn read(&mut self, key: Bytes, value: &Bytes) -> End {
        match self {
            Connection::Library(client) => match client.get(key).await {
                Ok(None) => End::NotDone,
                result => end_of(&result),
            },
            Connection::Grpc(server, deadline) => {
                let answer = server.get(request(pb::GetRequest { key }, *deadline)).await;
                // A read has no outcome that could stay unknown.
                if answer.is_ok_and(|answer| answer.get_ref().ok) {
                    End::Done
                } else {
                    End::NotDone
                }
            }
            Connection::Echo(_) => self.write(key, value).await,
        }
    }

    /// Writes a key.
    pub(super) async fn write(&mut self, key: Bytes, value: &Bytes) -> End {
        let value = value.clone();
        match self {
            Connection::Library(client) => end_of(&client.put(key, value).await),
            Connection::Grpc(server, deadline) => {
                let put = pb::PutRequest { key, value };
                match server.put(request(put, *deadline)).await.map(Response::into_inner) {
                    Ok(answer) if answer.ok => End::Done,
                    Ok(_) => End::NotDone,
                    Err(status) => end_of_status(&status),
                }
            }
            Connection::Echo(server) => match server.echo(echo::Message { key, value }).await {
                Ok(_) => End::Done,
                Err(_) => End::NotDone,
            },
        }
    }

    pub(super) async fn close(&self) {
        if let Connection::Library(client) = self {
            end(client).await;
        }
    }
}

fn request<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

fn end_of_status(status: &Status) -> End {
    match from_status(status) {
        Attempt::NotDone(_) => End::NotDone,
        Attempt::Unknown => End::Unknown,
    }
}
