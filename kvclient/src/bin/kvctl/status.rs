//! The screens that show views and the state of the cluster. Pure.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use kvclient::{ClusterStatus, LeftOut, RefusedServer, ServerStatus, Shown, View};
use kvproto::registration::Memory;
use kvproto::{Member, OpNumber, Role, ViewOrder};
use serde_json::{Value, json};

/// A view as a block of lines.
pub(crate) fn view_block(view: &View) -> String {
    let mut lines = vec![headline(view, "")];
    for member in view.members() {
        lines.push(format!("  {:<8} {member}", view.role_of(member).as_str()));
    }
    lines.join("\n")
}

/// The state of the cluster on one screen; sentences are broken at `width`, if there is one.
pub(crate) fn screen(status: &ClusterStatus, width: Option<usize>) -> String {
    let mut lines = wrapped(&headline(&status.view, &status.storage), width);
    if !status.servers.is_empty() {
        let table = table(status).to_string();
        lines.push(String::new());
        lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
        lines.extend(wrapped(FOOTNOTE, width));
    }
    lines.extend(who_came(status).iter().flat_map(|line| wrapped(line, width)));
    let advice = advice(status);
    if !status.waiting_for.is_empty() || !advice.is_empty() {
        lines.push(String::new());
    }
    if !status.waiting_for.is_empty() {
        let waiting = format!("Waiting for {}.", status.waiting_for.join(", "));
        lines.extend(wrapped(&waiting, width));
    }
    lines.extend(advice.iter().flat_map(|sentence| wrapped(sentence, width)));
    lines.join("\n")
}

/// Who showed what, and who was refused: what a table of registered servers cannot have.
fn who_came(status: &ClusterStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(doubt) = &status.doubt {
        lines.push(String::new());
        lines.push(format!(
            "In doubt: here it is {}, and servers show",
            record(status.view.order())
        ));
        for shown in &doubt.shown {
            let primary = match shown.primary.as_str() {
                "" => String::new(),
                primary => format!(", primary {primary}"),
            };
            let who = life(&shown.member);
            lines.push(format!("{INDENT}{who}: {}{primary}", record(shown.order)));
        }
    }
    if !status.refused.is_empty() {
        lines.push(String::new());
        lines.push("Came and were refused:".into());
    }
    for server in &status.refused {
        let cluster = match server.cluster.as_str() {
            "" => String::new(),
            _ if server.cluster == status.view.cluster.to_string() => String::new(),
            other => format!(" of cluster {other}"),
        };
        let shows = match server.shown.revision.0 {
            0 => String::new(),
            _ => format!(", with {}", record(server.shown)),
        };
        let (who, age, reason) = (life(&server.member), ago(server.age), &server.reason);
        lines.push(format!("{INDENT}{who}{cluster}, {age} ago{shows}: {reason}"));
    }
    lines
}

/// Survives the breaking of lines.
const INDENT: &str = "  ";

fn record(order: ViewOrder) -> String {
    let ViewOrder { generation, number, revision } = order;
    format!("view {number} of generation {generation}, revision {revision}")
}

/// A server that was given no number in this life has only its name.
fn life(member: &Member) -> String {
    match member.incarnation.0 {
        0 => member.name.to_string(),
        _ => member.to_string(),
    }
}

/// Breaks a text between words, so that lines fit where a word does.
fn wrapped(text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width.filter(|_| !text.is_empty()) else {
        return text.split('\n').map(str::to_owned).collect();
    };
    let indent = if text.starts_with(INDENT) { INDENT } else { "" };
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

/// `storage` says where the data is, if that is known.
fn headline(view: &View, storage: &str) -> String {
    let Some(primary) = view.primary_name() else {
        return "No view yet: the first kvserver that registers becomes primary.".into();
    };
    let storage = if storage.is_empty() { "" } else { &format!(", {storage}") };
    format!(
        "View {}, generation {}, {}{storage}: primary {primary} since view {}",
        view.number,
        view.generation,
        activation(view),
        view.primary_since
    )
}

fn activation(view: &View) -> &'static str {
    if view.is_activated() { "activated" } else { "proposed, not yet activated" }
}

/// What the columns cannot say: rows of different age may show a backup ahead of its primary.
const FOOTNOTE: &str = "Each row as of the last ping of its server. #N: incarnation. LAG: in ops.
PING: its age. DATA: share of its room for data that is used (--max-memory).";

/// Columns before the first that holds numbers.
const TEXT_COLUMNS: usize = 3;

/// The last columns.
const DATA: usize = 6;
const PING_AGE: usize = 7;

fn table(status: &ClusterStatus) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["SERVER", "ROLE", "STATE", "APPENDED", "COMMITTED", "LAG", "DATA", "PING"]);
    for server in &status.servers {
        let lag = match lag(status, server) {
            Some(0) => "none".into(),
            Some(ops) => format!("{ops}"),
            None => "-".into(),
        };
        table.add_row([
            server.member.to_string(),
            server.role.clone(),
            server.state.clone(),
            said(server, server.appended).map_or("-".into(), |op| op.to_string()),
            said(server, server.committed).map_or("-".into(), |op| op.to_string()),
            lag,
            percent_of_room(server).map_or("-".into(), |percent| format!("{percent}%")),
            age(server),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let after = match index {
            PING_AGE => 0,
            DATA | ..TEXT_COLUMNS => 1,
            _ => 2,
        };
        column.set_padding((0, after));
        if index >= TEXT_COLUMNS {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// How far a server is by its last ping; what one holds that was not heard is not known.
fn said(server: &ServerStatus, op: OpNumber) -> Option<u64> {
    server.has_spoken().then_some(op.0)
}

/// Ops that a server has yet to append, by the last pings of both.
fn lag(status: &ClusterStatus, server: &ServerStatus) -> Option<u64> {
    let primary = status.view.primary.as_ref()?;
    if server.member == *primary || server.role == Role::Spare.as_str() {
        return None;
    }
    let primary = status.servers.iter().find(|it| it.member == *primary)?;
    Some(said(primary, primary.appended)?.saturating_sub(said(server, server.appended)?))
}

/// How much of its room for data a server uses, once it has said.
fn percent_of_room(server: &ServerStatus) -> Option<u64> {
    let Memory { used, max } = server.memory;
    u64::try_from((u128::from(used) * 100).checked_div(max.into())?).ok()
}

/// From here on, people are told that the room for data runs out.
const PERCENT_ADVISED: u64 = 90;

/// What to do: in the view service's words, and for servers whose memory or disk runs out.
fn advice(status: &ClusterStatus) -> Vec<String> {
    let names = |wanted: fn(&ServerStatus) -> bool| {
        let servers = status.servers.iter().filter(|server| wanted(server));
        let names: Vec<_> = servers.map(|server| server.member.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let memory =
        names(|server| percent_of_room(server).is_some_and(|percent| percent >= PERCENT_ADVISED));
    let memory = memory.map(|names| {
        format!(
            "The room for data runs out at {names}; when it is used up, a primary refuses writes that \
             grow the data: delete keys, or start all servers with a larger --max-memory, one after \
             the other."
        )
    });
    let disk = names(|server| server.disk_full).map(|names| {
        format!(
            "The disk is nearly full at {names}: while one is that writes go to, they are refused; \
             make room on it, or stop that server if there is a spare."
        )
    });
    let stall_after = status.view.settings.stall_after;
    let hanging = status.servers.iter().filter(|server| server.disk_waits >= stall_after);
    let hanging: Vec<_> = hanging
        .map(|server| format!("{} ({} s)", server.member.name, server.disk_waits.as_secs()))
        .collect();
    let hangs = (!hanging.is_empty()).then(|| {
        format!(
            "The disk hangs at {}: what that server was given is not written, and no error is told; \
             look after its volume. Another copy that can leads meanwhile, and it is a copy again \
             when its disk moves.",
            hanging.join(", ")
        )
    });
    let gone = names(|server| server.directory_gone).map(|names| {
        format!(
            "The data directory is gone at {names} (deleted or replaced): what it holds is in its memory \
             only, and it acknowledges nothing; it ends by itself when others hold everything."
        )
    });
    let told = (!status.advice.is_empty()).then(|| status.advice.clone());
    let unmet = status.servers.iter().filter(|server| !server.not_met.is_empty()).map(|server| {
        let (member, why) = (&server.member, &server.not_met);
        format!("{member} announces {}, where {why}: check --advertise.", member.name)
    });
    // Whose disk hangs is named above, and tried again when it moves.
    let moves = status.servers.iter().filter(|server| server.disk_waits < stall_after);
    let tried_again = moves.filter_map(tried_again);
    let causes = [told, memory, disk, gone, hangs].into_iter().flatten();
    causes.chain(unmet).chain(tried_again).collect()
}

/// Who was left out, why, and when it is tried again.
fn tried_again(server: &ServerStatus) -> Option<String> {
    let LeftOut { times, because, tried_again_in } = server.left_out.as_ref()?;
    let name = &server.member.name;
    let often = match times {
        1 => "once".to_owned(),
        _ => format!("{times} times"),
    };
    let when = if !tried_again_in.is_zero() {
        format!("tried again in {}", ago(*tried_again_in))
    } else if server.role == Role::Spare.as_str() {
        "taken when a copy is missing".into()
    } else {
        "tried again now".into()
    };
    Some(format!("{name} was left out {often} ({because}); it is {when}."))
}

fn age(server: &ServerStatus) -> String {
    ago(server.ping_age)
}

fn ago(time: Duration) -> String {
    let millis = time.as_millis();
    match millis {
        ..1_000 => format!("{millis} ms"),
        1_000..10_000 => format!("{}.{} s", millis / 1000, millis / 100 % 10),
        _ => format!("{} s", millis / 1000),
    }
}

/// A view for programs.
pub(crate) fn view_json(view: &View) -> Value {
    let members = |role: Role| -> Vec<String> {
        let has_role = |member: &&Member| view.role_of(member) == role;
        let members = view.members().filter(has_role);
        members.map(|member| member.name.to_string()).collect()
    };
    let eligible = view.eligible.iter().map(|member| member.name.to_string());
    json!({
        "view": view.number.0,
        "generation": view.generation.0,
        "revision": view.revision.0,
        "activated": view.is_activated(),
        "primary": view.primary_name().map(ToString::to_string),
        "primary_since": view.primary_since.0,
        "backups": members(Role::Backup),
        "joining": members(Role::Joining),
        "eligible": eligible.collect::<Vec<_>>(),
        "cluster": view.cluster.to_string(),
    })
}

/// The state of the cluster for programs.
pub(crate) fn status_json(status: &ClusterStatus) -> Value {
    let server = |server: &ServerStatus| {
        json!({
            "server": server.member.name.to_string(),
            "incarnation": server.member.incarnation.0,
            "role": server.role,
            "state": server.state,
            "appended": said(server, server.appended),
            "committed": said(server, server.committed),
            "applied": said(server, server.applied),
            "lag": lag(status, server),
            "ping_age_ms": millis(server.ping_age),
            "plain": server.plain,
            "memory_used": server.memory.used,
            "memory_max": server.memory.max,
            "disk_full": server.disk_full,
            "disk_waits_ms": u64::try_from(server.disk_waits.as_millis()).unwrap_or(u64::MAX),
            "not_met": (!server.not_met.is_empty()).then_some(&server.not_met),
            "left_out": server.left_out.as_ref().map_or(0, |it| it.times),
            "left_out_because": server.left_out.as_ref().map(|it| &it.because),
            "tried_again_in_ms": server.left_out.as_ref().map_or(0, |it| {
                u64::try_from(it.tried_again_in.as_millis()).unwrap_or(u64::MAX)
            }),
            "directory_gone": server.directory_gone,
        })
    };
    json!({
        "view": view_json(&status.view),
        "servers": status.servers.iter().map(server).collect::<Vec<_>>(),
        "waiting_for": status.waiting_for,
        "advice": advice(status).join(" "),
        "rpcs_handled": status.rpcs_handled,
        "version": status.version,
        "storage": (!status.storage.is_empty()).then_some(&status.storage),
        "refused": status.refused.iter().map(refused_json).collect::<Vec<_>>(),
        "doubt": status.doubt.as_ref().map(|doubt| json!({
            "shown": doubt.shown.iter().map(shown_json).collect::<Vec<_>>(),
            "may_serve": doubt.may_serve.iter().map(|(name, silent_for)| json!({
                "server": name,
                "silent_ms": millis(*silent_for),
            })).collect::<Vec<_>>(),
        })),
    })
}

fn refused_json(server: &RefusedServer) -> Value {
    json!({
        "server": server.member.name.to_string(),
        "incarnation": numbered(&server.member),
        "cluster": (!server.cluster.is_empty()).then_some(&server.cluster),
        "reason": server.reason,
        "message": server.message,
        "age_ms": millis(server.age),
        "shown": (server.shown.revision.0 > 0).then(|| order_json(server.shown)),
    })
}

fn shown_json(shown: &Shown) -> Value {
    let mut json = order_json(shown.order);
    json["server"] = json!(shown.member.name.to_string());
    json["incarnation"] = json!(numbered(&shown.member));
    json["primary"] = json!((!shown.primary.is_empty()).then_some(&shown.primary));
    json
}

fn order_json(order: ViewOrder) -> Value {
    json!({
        "generation": order.generation.0,
        "view": order.number.0,
        "revision": order.revision.0,
    })
}

fn numbered(member: &Member) -> Option<u64> {
    (member.incarnation.0 > 0).then_some(member.incarnation.0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvproto::{ClusterId, Generation, Incarnation, Revision, Settings, ViewNumber, ViewStatus};

    fn member(name: &str, incarnation: u64) -> Member {
        Member { name: name.into(), incarnation: Incarnation(incarnation) }
    }

    fn view() -> View {
        let mut view = View::none(ClusterId([1; 16]), Settings::default());
        view.generation = Generation(2);
        view.number = ViewNumber(5);
        view.primary_since = ViewNumber(4);
        view.status = ViewStatus::Activated;
        view.primary = Some(member("s1:1", 3));
        view.backups = vec![member("s2:1", 1), member("s3:1", 2)];
        view.eligible = [member("s1:1", 3), member("s2:1", 1)].into();
        view
    }

    fn server(member: Member, role: &str, appended: u64, ping_age_ms: u64) -> ServerStatus {
        ServerStatus {
            member,
            role: role.into(),
            state: "alive".into(),
            appended: OpNumber(appended),
            committed: OpNumber(appended),
            applied: OpNumber(appended),
            ping_age: Duration::from_millis(ping_age_ms),
            plain: false,
            memory: Memory { used: 420 << 20, max: 1 << 30 },
            disk_full: false,
            disk_waits: Duration::ZERO,
            not_met: String::new(),
            left_out: None,
            directory_gone: false,
        }
    }

    fn status() -> ClusterStatus {
        ClusterStatus {
            view: view(),
            servers: vec![
                server(member("s1:1", 3), "primary", 120, 80),
                server(member("s2:1", 1), "backup", 120, 90),
                server(member("s3:1", 2), "joining", 20, 12_345),
                server(member("s4:1", 1), "spare", 0, 70),
            ],
            waiting_for: vec![],
            advice: "Wait until s3:1 has caught up.".into(),
            rpcs_handled: Default::default(),
            version: "1".into(),
            storage: String::new(),
            refused: vec![],
            doubt: None,
        }
    }

    #[test]
    fn the_screen_says_who_does_what_who_lags_and_what_to_do() {
        let expected = "\
View 5, generation 2, activated: primary s1:1 since view 4

SERVER ROLE    STATE APPENDED  COMMITTED   LAG  DATA  PING
s1:1#3 primary alive      120        120     -   41% 80 ms
s2:1#1 backup  alive      120        120  none   41% 90 ms
s3:1#2 joining alive       20         20   100   41%  12 s
s4:1#1 spare   alive        0          0     -   41% 70 ms
Each row as of the last ping of its server. #N: incarnation. LAG: in ops.
PING: its age. DATA: share of its room for data that is used (--max-memory).

Wait until s3:1 has caught up.";
        assert_eq!(screen(&status(), None), expected);
    }

    #[test]
    fn the_screen_fits_a_terminal_of_eighty_columns() {
        let mut status = status();
        let long = |incarnation| member("127.0.0.1:40001", incarnation);
        status.servers[0] = server(long(3), "primary", 123_456_789, 9_999);
        status.view.primary = Some(long(3));
        status.servers[1] = server(long(2), "backup", 123_450_000, 9_999);
        status.servers[1].state = "suspected".into();
        status.advice = "words of advice ".repeat(30);
        for line in screen(&status, Some(80)).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn the_screen_says_what_to_do_when_the_room_for_data_runs_out() {
        let mut status = status();
        status.servers[1].memory = Memory { used: 921 << 20, max: 1 << 30 };
        assert!(!screen(&status, None).contains("larger --max-memory"), "89 % is no reason yet");
        status.servers[1].memory.used = 922 << 20;
        for text in [screen(&status, None), status_json(&status)["advice"].to_string()] {
            assert!(text.contains("Wait until s3:1 has caught up."), "{text}");
            assert!(text.contains("The room for data runs out at s2:1;"), "{text}");
        }
    }

    #[test]
    fn a_server_that_was_not_heard_is_not_shown_as_empty() {
        let mut status = status();
        status.servers[1].memory = Memory::default();
        status.servers[1].appended = OpNumber(0);
        let screen = screen(&status, None);
        let row: Vec<_> = screen.lines().nth(4).expect("a row").split_whitespace().collect();
        assert_eq!(row[..7], ["s2:1#1", "backup", "alive", "-", "-", "-", "-"], "{screen}");
        let json = status_json(&status);
        assert_eq!(json["servers"][1]["appended"], Value::Null);
        assert_eq!(json["servers"][1]["lag"], Value::Null);
    }

    #[test]
    fn the_screen_says_where_the_data_is_and_whose_disk_is_full() {
        let mut status = status();
        status.storage = "durable".into();
        status.servers[0].disk_full = true;
        let screen = screen(&status, None);
        assert!(
            screen.starts_with("View 5, generation 2, activated, durable: primary"),
            "{screen}"
        );
        assert!(screen.contains("The disk is nearly full at s1:1:"), "{screen}");
        let json = status_json(&status);
        assert_eq!(
            (&json["storage"], &json["servers"][0]["disk_full"]),
            (&json!("durable"), &json!(true))
        );
    }

    #[test]
    fn the_screen_says_whose_disk_hangs_and_for_how_long() {
        let mut status = status();
        status.servers[0].disk_waits = Duration::from_millis(700);
        assert!(!screen(&status, None).contains("hangs"), "less than stall-after is no reason yet");
        status.servers[0].disk_waits = Duration::from_millis(12_300);
        assert!(screen(&status, None).contains("The disk hangs at s1:1 (12 s):"));
        assert_eq!(status_json(&status)["servers"][0]["disk_waits_ms"], 12_300);
    }

    #[test]
    fn the_screen_says_who_was_not_met_at_its_address() {
        let mut status = status();
        status.servers[3].not_met = "nobody answers (connection refused)".into();
        let told = "s4:1#1 announces s4:1, where nobody answers (connection refused): check";
        assert!(screen(&status, None).contains(told), "{}", screen(&status, None));
        let json = status_json(&status);
        assert_eq!(json["servers"][3]["not_met"], "nobody answers (connection refused)");
        assert_eq!(json["servers"][0]["not_met"], Value::Null);
    }

    #[test]
    fn the_screen_says_who_was_left_out_why_and_when_it_is_tried_again() {
        let mut status = status();
        let because = "it stands still".to_owned();
        let tried_again_in = Duration::from_millis(4200);
        status.servers[3].left_out = Some(LeftOut { times: 3, because, tried_again_in });
        let said = "\ns4:1 was left out 3 times (it stands still); it is tried again in 4.2 s.";
        assert!(screen(&status, None).contains(said), "{}", screen(&status, None));
        assert_eq!(status_json(&status)["servers"][3]["tried_again_in_ms"], 4200);
        assert_eq!(status_json(&status)["servers"][0]["left_out"], 0);
    }

    #[test]
    fn the_screen_names_whom_the_cluster_waits_for() {
        let mut status = status();
        status.waiting_for = vec!["s1:1".into(), "s2:1".into()];
        assert!(screen(&status, None).contains("\nWaiting for s1:1, s2:1.\n"));
    }

    fn order(number: u64, revision: u64) -> ViewOrder {
        ViewOrder {
            generation: Generation(2),
            number: ViewNumber(number),
            revision: Revision(revision),
        }
    }

    #[test]
    fn the_screen_says_who_showed_what_and_who_was_refused() {
        let mut status = status();
        let refused = |member: Member, cluster: &str, shown, reason: &str| RefusedServer {
            member,
            cluster: cluster.into(),
            reason: reason.into(),
            message: "words".into(),
            age: Duration::from_millis(300),
            shown,
        };
        let shown =
            Shown { member: member("s2:1", 4), order: order(9, 31), primary: "s2:1".into() };
        status.doubt = Some(kvclient::Doubt {
            shown: vec![shown],
            may_serve: vec![("s1:1".into(), Duration::from_secs(3))],
        });
        let own = ClusterId([1; 16]).to_string();
        status.refused = vec![
            refused(member("s2:1", 4), &own, order(9, 31), "doubt"),
            refused(member("s5:1", 0), "abcd", ViewOrder::default(), "wrong cluster"),
        ];
        let expected = "
In doubt: here it is view 5 of generation 2, revision 0, and servers show
  s2:1#4: view 9 of generation 2, revision 31, primary s2:1

Came and were refused:
  s2:1#4, 300 ms ago, with view 9 of generation 2, revision 31: doubt
  s5:1 of cluster abcd, 300 ms ago: wrong cluster

Wait until s3:1 has caught up.";
        for width in [None, Some(80)] {
            let screen = screen(&status, width);
            assert!(screen.ends_with(expected), "{screen}");
        }
        let json = status_json(&status);
        assert_eq!(json["doubt"]["shown"][0]["view"], 9);
        assert_eq!(json["doubt"]["may_serve"][0]["silent_ms"], 3000);
        assert_eq!(json["refused"][1]["incarnation"], Value::Null);
        assert_eq!(json["refused"][0]["shown"]["revision"], 31);
    }

    #[test]
    fn a_view_block_names_every_member_with_its_role() {
        let expected = "\
View 5, generation 2, activated: primary s1:1 since view 4
  primary  s1:1#3
  backup   s2:1#1
  joining  s3:1#2";
        assert_eq!(view_block(&view()), expected);
    }

    #[test]
    fn a_cluster_without_a_view_says_what_it_needs() {
        let mut status = status();
        status.view = View::none(ClusterId([1; 16]), Settings::default());
        status.servers.clear();
        status.advice = "Start a kvserver.".into();
        let screen = screen(&status, None);
        assert!(screen.starts_with("No view yet"), "{screen}");
        assert!(screen.ends_with("\n\nStart a kvserver."), "{screen}");
    }

    #[test]
    fn programs_get_the_same_as_numbers() {
        let json = status_json(&status());
        assert_eq!(json["view"]["primary"], "s1:1");
        assert_eq!(json["view"]["joining"], json!(["s3:1"]));
        assert_eq!(json["servers"][2]["lag"], 100);
    }
}
