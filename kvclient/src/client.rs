//! What users of the library call. Checks arguments, and hands everything else to `call`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvproto::limits::{MESSAGE_SIZE_MAX, check_command, check_query};
use kvproto::{
    Action, Change, Changed, Command, Expect, NotDone, Outcome, Query, Record, Refusal, ServerName,
    Settings, View,
};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::attempts::{Answer, Repeat, unexpected};
use crate::call::Shared;
use crate::caller::Operation;
use crate::error::{Error, ErrorKind, Result};
use crate::views::Views;

/// How a client finds and treats its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// View servers of the cluster, each `host:port`. Whichever answers is listened to.
    pub view_servers: Vec<String>,
    /// How long a call may take, all its attempts together.
    pub timeout: Duration,
    /// Whether writes go through a session, so that each is applied exactly once whatever fails.
    /// Without one, a write whose answer is lost ends as outcome unknown.
    pub sessions: bool,
}

impl Default for ClientConfig {
    /// `localhost:8000`, ten seconds, with sessions.
    fn default() -> Self {
        Self::new("localhost:8000")
    }
}

impl ClientConfig {
    /// The defaults with other view servers: one `host:port` or a comma list.
    #[must_use]
    pub fn new(view_servers: &str) -> Self {
        Self {
            view_servers: view_servers
                .split(',')
                .map(|server| server.trim().to_owned())
                .filter(|server| !server.is_empty())
                .collect(),
            timeout: Duration::from_secs(10),
            sessions: true,
        }
    }
}

/// A client of one cluster. Cheap to clone; all clones share connections, view and session. Its
/// background tasks end with the last clone.
///
/// Dropping the future of a call cancels the call: a read is gone without trace, a write may or may
/// not have been made.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
    sessions: bool,
    /// Ends the background tasks with the last clone.
    _tasks: Arc<DropGuard>,
}

/// How a compare-and-set ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CasResult {
    /// The condition held and the change was made.
    Done(Changed),
    /// The condition did not hold and nothing changed; this is what the key holds.
    Conflict(Option<Record>),
}

impl Client {
    /// Makes a client. It begins to listen to the view service in the background, and does not wait
    /// for a primary: calls do.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the configuration names no view server, or one that is not
    /// `host:port`.
    pub async fn connect(config: ClientConfig) -> Result<Client> {
        let servers = view_servers(&config.view_servers)?;
        let token = CancellationToken::new();
        Ok(Client {
            shared: Shared::start(servers, &token),
            timeout: config.timeout,
            sessions: config.sessions,
            _tasks: Arc::new(token.drop_guard()),
        })
    }

    /// The same client with another time for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// The record of a key, or `None` when it does not exist.
    ///
    /// # Errors
    /// As described at [`ErrorKind`]; never with an unknown outcome.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Record>> {
        let records = self.get_many([key]).await?;
        Ok(records.into_iter().next().flatten())
    }

    /// The records of several keys, all as of one moment, in the order of the keys.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Record>>> {
        let keys: Vec<Bytes> = keys.into_iter().map(key).collect();
        let wanted = keys.len();
        let query = Query::Get(keys);
        if let Some(settings) = self.shared.settings() {
            check_query(&query, &settings).map_err(refused_here)?;
        }
        let answer = self.call(Operation::Query(query), Repeat::Harmless);
        match answer.await? {
            Answer::Records(records) if records.len() == wanted => Ok(records),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// As described at [`ErrorKind`].
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Changed> {
        self.change(key, Action::Put(value.into())).await
    }

    /// Deletes a key, and says whether it existed.
    ///
    /// # Errors
    /// As described at [`ErrorKind`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.change(key, Action::Delete).await?.existed)
    }

    /// Adds bytes to the end of a value, and says how long it is now. A missing key counts as empty.
    ///
    /// # Errors
    /// As described at [`ErrorKind`]; [`ErrorKind::Invalid`] when the value would grow over the
    /// limit.
    pub async fn append(&self, key: impl AsRef<[u8]>, suffix: impl Into<Bytes>) -> Result<u64> {
        Ok(self.change(key, Action::Append(suffix.into())).await?.length)
    }

    /// Gives a key a new value, or deletes it with `None`, if it is as expected.
    ///
    /// # Errors
    /// As described at [`ErrorKind`]. A condition that does not hold is not an error.
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expect: Expect,
        new_value: Option<Bytes>,
    ) -> Result<CasResult> {
        let action = Action::CompareAndSet { expect, new_value };
        match self.change(key, action).await {
            Ok(changed) => Ok(CasResult::Done(changed)),
            Err(error) => match error.kind() {
                ErrorKind::ConditionFailed { record, .. } => {
                    Ok(CasResult::Conflict(record.clone()))
                }
                _ => Err(error),
            },
        }
    }

    /// Makes several changes at once: all of them or none.
    ///
    /// # Errors
    /// As described at [`ErrorKind`]; [`ErrorKind::ConditionFailed`] when the condition of one of
    /// them does not hold.
    pub async fn batch(&self, changes: Vec<Change>) -> Result<Vec<Changed>> {
        match self.write(Command::Batch(changes)).await? {
            Outcome::BatchChanged(changed) => Ok(changed),
            other => Err(unexpected(&Answer::Outcome(other))),
        }
    }

    /// The newest view record, asked of the view service now.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when no view server answers in time.
    pub async fn view(&self) -> Result<View> {
        self.ask_view_servers(|views, server| async move { views.ask(&server).await }).await
    }

    /// Waits for a view record that is newer than `known`, or for the first with `None`. Records are
    /// pushed by the view service; between two waits some may be passed over, never the newest.
    pub async fn next_view(&self, known: Option<&View>) -> View {
        let mut views = self.shared.views.subscribe();
        let newer = |view: &Option<Arc<View>>| {
            view.as_ref().is_some_and(|view| known.is_none_or(|known| view.order() > known.order()))
        };
        loop {
            if let Ok(view) = views.wait_for(newer).await
                && let Some(view) = view.as_deref()
            {
                return view.clone();
            }
        }
    }

    /// Ends the session of this client at the store, instead of leaving it to expire. Call it when
    /// no write is in flight. The client can go on: the next write opens another session.
    ///
    /// # Errors
    /// As described at [`ErrorKind`]; harmless, since the session then expires by itself.
    pub async fn close(&self) -> Result<()> {
        self.shared.close_session(self.timeout).await
    }

    /// Asks one view server after the other until one answers.
    pub(crate) async fn ask_view_servers<T, F>(
        &self,
        ask: impl Fn(Arc<Views>, ServerName) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, String>>,
    {
        let views = &self.shared.views;
        let mut errors = Vec::new();
        let asked = async {
            for server in views.servers() {
                match ask(Arc::clone(views), server.clone()).await {
                    Ok(answer) => return Some(answer),
                    Err(error) => errors.push(error),
                }
            }
            None
        };
        let answer = timeout(self.timeout, asked).await.ok().flatten();
        answer.ok_or_else(|| {
            if errors.is_empty() {
                errors.push(format!("no answer within {:?}", self.timeout));
            }
            Error::new(
                ErrorKind::Unavailable,
                format!(
                    "no view server answers ({}); check --vs and that the view service runs",
                    errors.join("; ")
                ),
            )
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn change(&self, at: impl AsRef<[u8]>, action: Action) -> Result<Changed> {
        let change = Change { key: key(at), action };
        match self.write(Command::Change(change)).await? {
            Outcome::Changed(changed) => Ok(changed),
            other => Err(unexpected(&Answer::Outcome(other))),
        }
    }

    async fn write(&self, command: Command) -> Result<Outcome> {
        check_write(&command, self.shared.settings())?;
        let repeat = if self.sessions { Repeat::Named } else { Repeat::Twice };
        match self.call(Operation::Command(command), repeat).await? {
            Answer::Outcome(Outcome::Refused(Refusal::ConditionFailed { record, change })) => {
                Err(Error::new(
                    ErrorKind::ConditionFailed { change, record },
                    format!("the condition of change {change} does not hold; nothing was changed"),
                ))
            }
            Answer::Outcome(outcome) => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    async fn call(&self, operation: Operation, repeat: Repeat) -> Result<Answer> {
        self.shared.call(operation, repeat, self.timeout).await
    }
}

fn key(key: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(key.as_ref())
}

/// What would be refused everywhere need not travel. Before the first view only what no cluster
/// could take is refused here.
fn check_write(command: &Command, settings: Option<Settings>) -> Result<()> {
    match settings {
        Some(settings) => check_command(command, &settings).map_err(refused_here),
        None if command.payload() > MESSAGE_SIZE_MAX - (1 << 20) => Err(Error::invalid(format!(
            "an op of {} bytes is more than any cluster takes",
            command.payload()
        ))),
        None => Ok(()),
    }
}

fn refused_here(why: NotDone) -> Error {
    Error::invalid(why.to_string())
}

fn view_servers(names: &[String]) -> Result<Vec<ServerName>> {
    if names.is_empty() {
        return Err(Error::invalid("no view server is named: give at least one as host:port"));
    }
    names
        .iter()
        .map(|name| match name.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(ServerName::from(name.as_str()))
            }
            _ => Err(Error::invalid(format!("view server {name:?} is not of the form host:port"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_list_names_several_view_servers() {
        let config = ClientConfig::new("a:1, b:2,");
        assert_eq!(config.view_servers, ["a:1", "b:2"]);
    }

    #[tokio::test]
    async fn a_view_server_that_is_not_an_address_is_refused_at_once() {
        for list in ["", "localhost", ":8000", "localhost:http"] {
            let error = Client::connect(ClientConfig::new(list)).await.err();
            let error = error.expect("refused");
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{list:?}");
        }
    }
}
