//! What each verb does.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bytes::Bytes;
use kvclient::{CasResult, Client, ClusterStatus, Expect, Version};
use kvproto::Role;
use kvproto::limits::MESSAGE_SIZE_MAX;
use serde_json::json;

use crate::cli::{Cas, Verb};
use crate::force;
use crate::output::{
    Failure, INTERRUPTED, NOT_FOUND, Output, UNAVAILABLE, USAGE, bytes_json, terminal_width,
};
use crate::{snapshot, status};

/// What the verbs of one run share.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) output: Output,
    /// Whether stdin belongs to values and answers, as opposed to further commands.
    pub(crate) stdin_is_free: bool,
    /// The view servers, as they were named.
    pub(crate) vs: String,
}

impl Session {
    pub(crate) fn new(client: Client, output: Output, vs: String) -> Self {
        Self { client, output, stdin_is_free: true, vs }
    }

    /// Runs one verb, unless Ctrl-C comes first.
    pub(crate) async fn run_until_interrupted(&self, verb: Verb) -> Result<(), Failure> {
        let changes = matches!(
            verb,
            Verb::Put { .. }
                | Verb::Del { .. }
                | Verb::Append { .. }
                | Verb::Cas(_)
                | Verb::Force { .. }
        );
        tokio::select! {
            result = self.run(verb) => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(INTERRUPTED, if changes {
                "interrupted: the change may or may not have been made"
            } else {
                "interrupted"
            })),
        }
    }

    async fn run(&self, verb: Verb) -> Result<(), Failure> {
        match verb {
            Verb::Get { key } => self.get(&key).await,
            Verb::Put { key, value } => {
                let value = self.value(value).await?;
                let put = self.client.put(key.as_bytes(), value).await?;
                let version = put.version.0;
                self.output.print(|| b"OK".to_vec(), || json!({ "version": version }))
            }
            Verb::Del { key } => {
                if !self.client.delete(key.as_bytes()).await? {
                    return Err(not_found(&key));
                }
                self.output.print(|| b"OK".to_vec(), || json!({ "deleted": true }))
            }
            Verb::Append { key, value } => {
                let value = self.value(value).await?;
                let length = self.client.append(key.as_bytes(), value).await?;
                self.output
                    .print(|| length.to_string().into_bytes(), || json!({ "length": length }))
            }
            Verb::Cas(cas) => self.cas(cas).await,
            Verb::View { watch } => self.view(watch).await,
            Verb::Status => {
                let status = self.client.status().await?;
                self.output.print(
                    || status::screen(&status, terminal_width()).into_bytes(),
                    || status::status_json(&status),
                )
            }
            Verb::Dump { server } => self.dump(server.as_deref()).await,
            Verb::Snapshot(verb) => snapshot::run(self, verb).await,
            Verb::Force { server, yes, .. } => force::run(self, &server, yes).await,
        }
    }

    async fn get(&self, key: &OsStr) -> Result<(), Failure> {
        let record = self.client.get(key.as_bytes()).await?;
        let record = record.ok_or_else(|| not_found(key))?;
        self.output.print(
            || record.value.to_vec(),
            || {
                json!({
                    "key": bytes_json(key.as_bytes()),
                    "value": bytes_json(&record.value),
                    "version": record.version.0,
                })
            },
        )
    }

    async fn cas(&self, cas: Cas) -> Result<(), Failure> {
        let key = cas.key.clone();
        let (expect, new_value) = condition(cas)?;
        let new_value = match new_value {
            Some(value) => Some(self.value(value).await?),
            None => None,
        };
        let swapped = self.client.compare_and_set(key.as_bytes(), expect, new_value);
        match swapped.await? {
            CasResult::Done(changed) => self
                .output
                .print(|| b"OK".to_vec(), || json!({ "done": true, "version": changed.version.0 })),
            CasResult::Conflict(record) => {
                let mut message = b"not as expected: ".to_vec();
                message.extend(quoted(&key));
                match &record {
                    Some(record) => {
                        let version = format!(" is at version {} and holds: ", record.version);
                        message.extend(version.into_bytes());
                        message.extend_from_slice(&record.value);
                    }
                    None => message.extend_from_slice(b" does not exist"),
                }
                Err(Failure::new(NOT_FOUND, message))
            }
        }
    }

    async fn view(&self, watch: bool) -> Result<(), Failure> {
        let mut view = self.client.view().await?;
        loop {
            self.output
                .print(|| status::view_block(&view).into_bytes(), || status::view_json(&view))?;
            if !watch {
                return Ok(());
            }
            view = self.client.next_view(Some(&view)).await;
        }
    }

    async fn dump(&self, server: Option<&str>) -> Result<(), Failure> {
        let primary = match server {
            Some(_) => None,
            None => Some(acting_primary(&self.client.status().await?)?),
        };
        let mut dump = self.client.dump(server.or(primary.as_deref())).await?;
        while let Some((key, record)) = dump.next().await? {
            self.output.print(
                || [&key[..], b"\t", &record.value[..]].concat(),
                || {
                    json!({
                        "key": bytes_json(&key),
                        "value": bytes_json(&record.value),
                        "version": record.version.0,
                    })
                },
            )?;
        }
        if let Some(summary) = dump.summary() {
            self.output.remark(&format!(
                "{} {}, digest {:032x}, as of op {} on {} ({})",
                summary.count,
                if summary.count == 1 { "pair" } else { "pairs" },
                summary.digest.0,
                summary.op,
                dump.server(),
                summary.role
            ));
            // It may have lost its part since the view service was asked.
            if primary.is_some() && summary.role != Role::Primary.as_str() {
                let what = format!("{} is not the primary but {}", dump.server(), summary.role);
                return Err(no_primary(&what));
            }
        }
        Ok(())
    }

    /// A value from the command line, or from stdin.
    async fn value(&self, value: OsString) -> Result<Bytes, Failure> {
        if value != "-" {
            return Ok(value.into_vec().into());
        }
        if !self.stdin_is_free {
            return Err(Failure::new(
                USAGE,
                "a value of - means stdin, from which the commands come",
            ));
        }
        let read = tokio::task::spawn_blocking(|| {
            let mut value = Vec::new();
            let stdin = std::io::stdin().lock();
            stdin.take(MESSAGE_SIZE_MAX as u64).read_to_end(&mut value)?;
            std::io::Result::Ok(value)
        });
        let value = read.await.map_err(std::io::Error::other).flatten();
        let value = value.map_err(|error| Failure::failed(format!("read stdin: {error}")))?;
        Ok(value.into())
    }
}

fn quoted(key: &OsStr) -> Vec<u8> {
    [b"\"", key.as_bytes(), b"\""].concat()
}

fn not_found(key: &OsStr) -> Failure {
    Failure::new(NOT_FOUND, [b"not found: ".to_vec(), quoted(key)].concat())
}

/// The server whose copy is the cluster's, or why there is none.
pub(crate) fn acting_primary(status: &ClusterStatus) -> Result<String, Failure> {
    let Some(primary) = &status.view.primary else {
        return Err(no_primary("no server was primary yet"));
    };
    let heard = status.servers.iter().find(|it| it.member == *primary);
    if status.waiting_for.is_empty() && heard.is_some_and(|it| it.state != "dead") {
        return Ok(primary.name.to_string());
    }
    Err(no_primary(&if status.waiting_for.is_empty() {
        format!("{primary} is not heard")
    } else {
        format!("the cluster waits for {}", status.waiting_for.join(", "))
    }))
}

fn no_primary(why: &str) -> Failure {
    Failure::new(
        UNAVAILABLE,
        format!(
            "no primary acts, so there is no copy to speak for the cluster: {why}; see `kvctl \
             status`, or name a server with --server"
        ),
    )
}

/// Sorts the words of a `cas` into what is expected and what is to be.
fn condition(cas: Cas) -> Result<(Expect, Option<OsString>), Failure> {
    let usage = || {
        Failure::new(
            USAGE,
            "cas takes KEY EXPECTED NEW, where --missing or --version N stands for EXPECTED and \
             --delete for NEW",
        )
    };
    let mut values = cas.values.into_iter();
    let expect = match (cas.missing, cas.version) {
        (true, _) => Expect::Missing,
        (false, Some(version)) => Expect::Version(Version(version)),
        (false, None) => {
            Expect::Value(Box::new(values.next().ok_or_else(usage)?.into_vec().into()))
        }
    };
    let new_value = if cas.delete { None } else { Some(values.next().ok_or_else(usage)?) };
    if values.next().is_some() {
        return Err(usage());
    }
    Ok((expect, new_value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use kvclient::{ServerStatus, View};
    use kvproto::{ClusterId, Incarnation, Member, OpNumber, Settings};
    use std::time::Duration;

    fn condition_of(words: &str) -> Option<(Expect, Option<OsString>)> {
        let words = ["kvctl", "cas", "k"].into_iter().chain(words.split(' '));
        let cli: Cli = kvprocess::args::try_parse_from(words.map(OsString::from)).ok()?;
        match cli.verb {
            Some(Verb::Cas(cas)) => condition(cas).ok(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cas_has_exactly_one_expectation_and_one_new_state() {
        let value = |value: &'static str| Expect::Value(Box::new(value.into()));
        assert_eq!(condition_of("a b"), Some((value("a"), Some("b".into()))));
        assert_eq!(condition_of("a --delete"), Some((value("a"), None)));
        let missing = (Expect::Missing, Some("b".into()));
        assert_eq!(condition_of("--missing b"), Some(missing));
        let version = Expect::Version(Version(7));
        assert_eq!(condition_of("--version 7 b"), Some((version.clone(), Some("b".into()))));
        assert_eq!(condition_of("--version 7 --delete"), Some((version, None)));
        for wrong in [
            "a",
            "a b c",
            "--missing",
            "--missing a b",
            "--missing --delete",
            "--missing --version 7 b",
            "--version 7 a b",
            "a b --delete",
        ] {
            assert_eq!(condition_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_an_acting_primary_speaks_for_the_cluster() {
        let member =
            |incarnation| Member { name: "s1:1".into(), incarnation: Incarnation(incarnation) };
        let server = ServerStatus {
            member: member(1),
            role: "primary".into(),
            state: "alive".into(),
            appended: OpNumber(1),
            committed: OpNumber(1),
            applied: OpNumber(1),
            ping_age: Duration::ZERO,
            plain: false,
            memory: kvproto::registration::Memory { used: 3 << 20, max: 1 << 30 },
            disk_full: false,
            disk_waits: Duration::ZERO,
            not_met: String::new(),
            left_out: None,
            directory_gone: false,
        };
        let mut view = View::none(ClusterId([1; 16]), Settings::default());
        view.primary = Some(member(1));
        let mut status = ClusterStatus {
            view,
            servers: vec![server],
            waiting_for: vec![],
            advice: String::new(),
            rpcs_handled: Default::default(),
            version: "1".into(),
            storage: "durable".into(),
            refused: vec![],
            doubt: None,
        };
        assert_eq!(acting_primary(&status).ok().as_deref(), Some("s1:1"));
        // The same name, started anew and empty.
        status.servers[0].member = member(2);
        assert!(acting_primary(&status).is_err());
        status.servers[0].member = member(1);
        status.waiting_for = vec!["s2:1".into()];
        assert!(acting_primary(&status).is_err());
    }
}
