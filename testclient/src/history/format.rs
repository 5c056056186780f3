//! A history as a file: one line of JSON for each call. Pure: lines in, lines out.
//!
//! The first line names the format and its level, so that a reader refuses what it might
//! misunderstand. Every other line is one call:
//!
//! ```text
//! {"history":"kv","level":1}
//! {"process":0,"invoked_ns":10,"returned_ns":25,"write":[{"put":"1","key":"a"}],"changed":[{"existed":false,"length":1,"version":"0/7"}]}
//! {"process":1,"invoked_ns":12,"returned_ns":30,"read":["a","b"],"records":[{"value":"1","version":"0/7"},null],"at":"0/7"}
//! {"process":0,"invoked_ns":31,"returned_ns":40,"write":[{"compare_and_set":"2","key":"a","expect":"missing"}],"refused":0,"record":{"value":"1"}}
//! {"process":0,"invoked_ns":50,"write":[{"delete":true,"key":"a"},{"append":"x","key":"b"}],"unknown":true}
//! {"process":1,"invoked_ns":60,"returned_ns":65,"read":["a"],"not_done":"no primary answered"}
//! ```
//!
//! Keys and values are strings, or `{"hex":"00ff"}` where they are not text. An expectation is
//! `"missing"`, `{"value":…}` or `{"version":…}`; a compare-and-set to `null` deletes. Versions and
//! log points are `generation/op`, and may be left out.

use std::fmt::Write as _;

use bytes::Bytes;
use kvproto::{
    Action, Change, Changed, Expect, Generation, LogPoint, OpNumber, Record, Timestamp, Version,
};
use serde_json::{Map, Value};

use super::{Answer, Call, End, History, NO_VERSION, Operation};

/// The level that this program writes, and the only one it reads.
pub const LEVEL: u64 = 1;

/// The first line.
#[must_use]
pub fn header() -> String {
    format!("{{\"history\":\"kv\",\"level\":{LEVEL}}}")
}

/// The line of a call.
#[must_use]
pub fn line(call: &Call) -> String {
    let mut line =
        format!("{{\"process\":{},\"invoked_ns\":{}", call.process, call.invoked.as_nanos());
    let mut field = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = write!(line, ",\"{name}\":{value}");
    };
    if let End::Done { returned, .. } | End::NotDone { returned, .. } = &call.end {
        field("returned_ns", returned.as_nanos().to_string());
    }
    match &call.operation {
        Operation::Write(changes) => field("write", list(changes.iter().map(of_change))),
        Operation::Read(keys) => field("read", list(keys.iter().map(|key| of_bytes(key)))),
    }
    match &call.end {
        End::Done { answer, at, .. } => {
            match answer {
                Answer::Changed(changed) => field("changed", list(changed.iter().map(of_changed))),
                Answer::Refused { change, record } => {
                    field("refused", change.to_string());
                    field("record", of_record(record.as_ref()));
                }
                Answer::Records(records) => {
                    field("records", list(records.iter().map(|r| of_record(r.as_ref()))));
                }
            }
            if let Some(at) = at {
                field("at", format!("\"{}/{}\"", at.generation, at.op));
            }
        }
        End::NotDone { why, .. } => field("not_done", of_text(why)),
        End::Unknown => field("unknown", "true".to_owned()),
    }
    line + "}"
}

/// The whole file.
#[must_use]
pub fn export(history: &History) -> String {
    let mut text = header() + "\n";
    for call in &history.calls {
        text += &line(call);
        text.push('\n');
    }
    text
}

/// Reads a whole file.
///
/// # Errors
/// Says which line is wrong, and what to do.
pub fn import(text: &str) -> Result<History, String> {
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let Some((_, first)) = lines.next() else {
        return Err(format!("line 1: the file is empty; a history begins with {}", header()));
    };
    check_header(first).map_err(|why| format!("line 1: {why}"))?;
    let mut history = History::default();
    for (number, line) in lines {
        let call = parse(line).map_err(|why| format!("line {number}: {why}"))?;
        history.calls.push(call);
    }
    Ok(history)
}

fn check_header(line: &str) -> Result<(), String> {
    let header = || format!("a history begins with {}", header());
    let value: Value = serde_json::from_str(line).map_err(|_| header())?;
    if value["history"] != "kv" {
        return Err(header());
    }
    match value["level"].as_u64() {
        Some(LEVEL) => Ok(()),
        Some(level) => Err(format!(
            "the history is of level {level}, this program reads level {LEVEL}; check it with the \
             testclient that recorded it"
        )),
        None => Err(header()),
    }
}

fn parse(line: &str) -> Result<Call, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| {
        format!(
            "not JSON ({error}); if the recorder was killed, the last line may be cut: delete it, \
             and know that its call is missing"
        )
    })?;
    let mut fields = Fields::of(value)?;
    let process = u32::try_from(fields.number("process")?)
        .map_err(|_| "\"process\" must be below 2^32".to_owned())?;
    let invoked = Timestamp::from_nanos(fields.number("invoked_ns")?);
    let operation = match (fields.take("write"), fields.take("read")) {
        (Some(write), None) => Operation::Write(each(write, "write", to_change)?),
        (None, Some(read)) => Operation::Read(each(read, "read", to_bytes)?),
        _ => return Err("a call has either \"write\" or \"read\"".to_owned()),
    };
    let end = to_end(&mut fields)?;
    fields.nothing_left()?;
    let call = Call { process, invoked, operation, end };
    match call.mistake() {
        None => Ok(call),
        Some(mistake) => Err(mistake),
    }
}

fn to_end(fields: &mut Fields) -> Result<End, String> {
    if let Some(unknown) = fields.take("unknown") {
        return match unknown {
            Value::Bool(true) => Ok(End::Unknown),
            _ => Err("\"unknown\" is true or left out".to_owned()),
        };
    }
    let returned = Timestamp::from_nanos(fields.number("returned_ns")?);
    if let Some(why) = fields.take("not_done") {
        let why = why.as_str().ok_or("\"not_done\" says why, as text")?.to_owned();
        return Ok(End::NotDone { returned, why });
    }
    let answer = if let Some(changed) = fields.take("changed") {
        Answer::Changed(each(changed, "changed", to_changed)?)
    } else if let Some(records) = fields.take("records") {
        Answer::Records(each(records, "records", to_record)?)
    } else if fields.map.contains_key("refused") {
        let change = u32::try_from(fields.number("refused")?)
            .map_err(|_| "\"refused\" is the number of a change".to_owned())?;
        let record = fields.take("record").ok_or("\"refused\" comes with \"record\"")?;
        Answer::Refused { change, record: to_record(record)? }
    } else {
        return Err("a call ends with one of \"changed\", \"records\", \"refused\", \"not_done\" \
                    and \"unknown\""
            .to_owned());
    };
    let at = match fields.take("at") {
        None => None,
        Some(at) => {
            let (generation, op) = to_pair(&at)?;
            Some(LogPoint { generation: Generation(generation), op: OpNumber(op) })
        }
    };
    Ok(End::Done { returned, answer, at })
}

fn list(parts: impl Iterator<Item = String>) -> String {
    format!("[{}]", parts.collect::<Vec<_>>().join(","))
}

fn of_text(text: &str) -> String {
    Value::from(text).to_string()
}

fn of_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => of_text(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{\"hex\":\"{hex}\"}}")
        }
    }
}

/// A version as `generation/op`.
#[must_use]
pub fn of_version(version: Version) -> String {
    format!("{}/{}", version.0 >> 48, version.0 & ((1 << 48) - 1))
}

fn of_change(change: &Change) -> String {
    let key = of_bytes(&change.key);
    match &change.action {
        Action::Put(value) => format!("{{\"put\":{},\"key\":{key}}}", of_bytes(value)),
        Action::Delete => format!("{{\"delete\":true,\"key\":{key}}}"),
        Action::Append(suffix) => format!("{{\"append\":{},\"key\":{key}}}", of_bytes(suffix)),
        Action::CompareAndSet { expect, new_value } => {
            let new = new_value.as_ref().map_or("null".to_owned(), |value| of_bytes(value));
            let expect = match expect {
                Expect::Missing => "\"missing\"".to_owned(),
                Expect::Value(value) => format!("{{\"value\":{}}}", of_bytes(value)),
                Expect::Version(version) => format!("{{\"version\":\"{}\"}}", of_version(*version)),
                Expect::Renamed(renamed) => {
                    format!("{{\"version\":\"{}\"}}", of_version(renamed.now))
                }
            };
            format!("{{\"compare_and_set\":{new},\"key\":{key},\"expect\":{expect}}}")
        }
    }
}

fn of_changed(changed: &Changed) -> String {
    let Changed { version, existed, length } = *changed;
    format!("{{\"existed\":{existed},\"length\":{length}{}}}", version_field(version))
}

fn of_record(record: Option<&Record>) -> String {
    record.map_or("null".to_owned(), |record| {
        format!("{{\"value\":{}{}}}", of_bytes(&record.value), version_field(record.version))
    })
}

fn version_field(version: Version) -> String {
    match version {
        NO_VERSION => String::new(),
        version => format!(",\"version\":\"{}\"", of_version(version)),
    }
}

/// The fields of an object, taken one by one, so that none is overlooked.
struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    fn of(value: Value) -> Result<Fields, String> {
        match value {
            Value::Object(map) => Ok(Fields { map }),
            other => Err(format!("{other} should be an object in braces")),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    fn number(&mut self, name: &str) -> Result<u64, String> {
        let value = self.take(name).ok_or_else(|| format!("\"{name}\" is missing"))?;
        value.as_u64().ok_or_else(|| format!("\"{name}\" must be a number from 0, not {value}"))
    }

    fn bytes(&mut self, name: &str) -> Result<Bytes, String> {
        to_bytes(self.take(name).ok_or_else(|| format!("\"{name}\" is missing"))?)
    }

    fn nothing_left(self) -> Result<(), String> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("no field {name:?} belongs here; correct or remove it")),
        }
    }
}

fn each<T>(
    value: Value,
    name: &str,
    convert: impl Fn(Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value {
        Value::Array(values) => values.into_iter().map(convert).collect(),
        other => Err(format!("\"{name}\" must be a list in brackets, not {other}")),
    }
}

fn to_bytes(value: Value) -> Result<Bytes, String> {
    let text = match value {
        Value::String(text) => return Ok(Bytes::from(text)),
        Value::Object(mut map) if map.len() == 1 => map.remove("hex"),
        _ => None,
    };
    let wrong = || "keys and values are text, or {\"hex\":\"00ff\"} for bytes".to_owned();
    let Some(Value::String(text)) = text else { return Err(wrong()) };
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    match digits {
        Some(digits) if digits.len().is_multiple_of(2) => {
            Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>().into())
        }
        _ => Err(wrong()),
    }
}

fn to_pair(value: &Value) -> Result<(u64, u64), String> {
    let pair = value.as_str().and_then(|text| text.split_once('/'));
    let pair = pair.and_then(|(g, op)| Some((g.parse().ok()?, op.parse().ok()?)));
    match pair {
        Some((generation, op)) if generation < 1 << 16 && op < 1 << 48 => Ok((generation, op)),
        _ => Err(format!("{value} must be \"generation/op\", such as \"0/17\"")),
    }
}

fn to_version(value: Option<Value>) -> Result<Version, String> {
    value.map_or(Ok(NO_VERSION), |value| {
        let (generation, op) = to_pair(&value)?;
        Ok(Version::of_change_at(Generation(generation), OpNumber(op)))
    })
}

fn to_change(value: Value) -> Result<Change, String> {
    let mut fields = Fields::of(value)?;
    let key = fields.bytes("key")?;
    let action = if let Some(value) = fields.take("put") {
        Action::Put(to_bytes(value)?)
    } else if let Some(suffix) = fields.take("append") {
        Action::Append(to_bytes(suffix)?)
    } else if fields.take("delete").is_some() {
        Action::Delete
    } else if let Some(new) = fields.take("compare_and_set") {
        let new_value = if new.is_null() { None } else { Some(to_bytes(new)?) };
        let expect = fields.take("expect").ok_or("\"expect\" is missing")?;
        Action::CompareAndSet { expect: to_expect(expect)?, new_value }
    } else {
        return Err(
            "a change is one of \"put\", \"append\", \"delete\" and \"compare_and_set\"".to_owned()
        );
    };
    fields.nothing_left()?;
    Ok(Change { key, action })
}

fn to_expect(value: Value) -> Result<Expect, String> {
    if value == "missing" {
        return Ok(Expect::Missing);
    }
    let mut fields = Fields::of(value)?;
    let expect = match (fields.take("value"), fields.take("version")) {
        (Some(value), None) => Expect::Value(to_bytes(value)?.into()),
        (None, Some(version)) => Expect::Version(to_version(Some(version))?),
        _ => return Err("\"expect\" is \"missing\", a value or a version".to_owned()),
    };
    fields.nothing_left()?;
    Ok(expect)
}

fn to_changed(value: Value) -> Result<Changed, String> {
    let mut fields = Fields::of(value)?;
    let existed = match fields.take("existed") {
        Some(Value::Bool(existed)) => existed,
        _ => return Err("\"existed\" must be true or false".to_owned()),
    };
    let length = fields.number("length")?;
    let version = to_version(fields.take("version"))?;
    fields.nothing_left()?;
    Ok(Changed { version, existed, length })
}

fn to_record(value: Value) -> Result<Option<Record>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let mut fields = Fields::of(value)?;
    let record =
        Record { value: fields.bytes("value")?, version: to_version(fields.take("version"))? };
    fields.nothing_left()?;
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"history":"kv","level":1}
{"process":0,"invoked_ns":10,"returned_ns":25,"write":[{"put":"1","key":"a"}],"changed":[{"existed":false,"length":1,"version":"0/7"}]}
{"process":1,"invoked_ns":12,"returned_ns":30,"read":["a","b"],"records":[{"value":"1","version":"2/7"},null],"at":"2/9"}
{"process":0,"invoked_ns":31,"returned_ns":40,"write":[{"compare_and_set":"2","key":"a","expect":"missing"}],"refused":0,"record":{"value":"1"}}
{"process":0,"invoked_ns":41,"returned_ns":42,"write":[{"compare_and_set":null,"key":"a","expect":{"version":"0/7"}}],"refused":0,"record":null}
{"process":0,"invoked_ns":50,"write":[{"delete":true,"key":{"hex":"00ff"}},{"append":"ü\n\"","key":"b"}],"unknown":true}
{"process":1,"invoked_ns":60,"returned_ns":65,"read":["a"],"not_done":"no primary answered"}
"#;

    #[test]
    fn a_file_read_and_written_again_is_the_same_bytes_that_are_not_text_included() {
        let history = import(FILE).unwrap();
        assert_eq!(history.calls.len(), 6);
        assert_eq!(export(&history), FILE);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_line_with_what_to_do() {
        let refused = |line: &str| import(&format!("{}\n{line}\n", header())).unwrap_err();
        let cases = [
            (r#"{"process":1,"#, "line 2: not JSON"),
            (r#"{"process":1}"#, "line 2: \"invoked_ns\" is missing"),
            (r#"{"process":1,"invoked_ns":5,"read":["a"]}"#, "\"returned_ns\" is missing"),
            (
                r#"{"process":1,"invoked_ns":5,"returned_ns":4,"read":["a"],"records":[null]}"#,
                "returned before it was invoked",
            ),
            (
                r#"{"process":1,"invoked_ns":5,"returned_ns":6,"read":["a"],"records":[]}"#,
                "does not fit",
            ),
            (
                r#"{"process":1,"invoked_ns":5,"write":[],"unknown":true,"colour":1}"#,
                "no field \"colour\" belongs here",
            ),
            (
                r#"{"process":1,"invoked_ns":5,"read":[{"hex":"0"}],"unknown":true}"#,
                "keys and values are text",
            ),
        ];
        for (line, expected) in cases {
            let error = refused(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
        assert!(import("").unwrap_err().contains("line 1"));
        assert!(import("hello\n").unwrap_err().contains("a history begins with"));
        let newer = import("{\"history\":\"kv\",\"level\":2}\n").unwrap_err();
        assert!(newer.contains("level 2"), "{newer}");
    }
}
