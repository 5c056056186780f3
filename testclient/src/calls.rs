//! The few calls that everything here is made of, on text, and how they may end.

use std::time::Duration;

use kvclient::{Client, ClientConfig, ErrorKind};

use crate::ledger::End;

/// A client of the cluster behind this view service (several addresses are separated by commas).
/// Each of its calls tries for `patience`.
///
/// # Errors
/// When an address cannot be understood.
pub async fn connect(view_service: &str, patience: Duration) -> Result<Client, kvclient::Error> {
    Client::connect(ClientConfig { timeout: patience, ..ClientConfig::new(view_service) }).await
}

/// The value of a key as text; `None` when there is no such key.
///
/// # Errors
/// As the client's `get`.
pub async fn get(client: &Client, key: &str) -> Result<Option<String>, kvclient::Error> {
    let record = client.get(key).await?;
    Ok(record.map(|record| String::from_utf8_lossy(&record.value).into_owned()))
}

/// Sets a key.
///
/// # Errors
/// As the client's `put`.
pub async fn put(client: &Client, key: &str, value: &str) -> Result<(), kvclient::Error> {
    client.put(key, value.to_owned()).await.map(drop)
}

/// Appends to a key, exactly once.
///
/// # Errors
/// As the client's `append`.
pub async fn append(client: &Client, key: &str, bytes: &str) -> Result<(), kvclient::Error> {
    client.append(key, bytes.to_owned()).await.map(drop)
}

/// Ends a client's session at the store. If that fails it expires by itself.
pub async fn end(client: &Client) {
    let _ = client.with_timeout(Duration::from_secs(1)).close().await;
}

/// What a writer may conclude from a call.
#[must_use]
pub fn end_of<T>(result: &Result<T, kvclient::Error>) -> End {
    match result {
        Ok(_) => End::Done,
        Err(error) if *error.kind() == ErrorKind::OutcomeUnknown => End::Unknown,
        Err(_) => End::NotDone,
    }
}
