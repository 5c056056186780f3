//! Random faults on real processes, with readers pinned to every server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use kvprocess::dial;
use kvproto::convert::{Execute, ExecuteOperation};
use kvproto::pb::kvserver::kv_server_client::KvServerClient;
use kvproto::{Query, Reply};
use testclient::calls;
use testclient::cluster::{Cluster, Options};
use testclient::failover::writer::{Crew, Meter};
use testclient::sim::random::Random;

fn signal(pid: u32, what: &str) {
    let _ = std::process::Command::new("kill").args([what, &pid.to_string()]).status();
}

fn env(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or)
}

async fn reader(
    name: String,
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    stats: Arc<[AtomicU64; 3]>,
) {
    while !stop.load(SeqCst) {
        let Ok(channel) = dial::connect(&name).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut client = KvServerClient::new(channel);
        loop {
            if stop.load(SeqCst) {
                return;
            }
            let floor = acked.load(SeqCst);
            let query = Query::Get(vec![bytes::Bytes::from_static(b"counter")]);
            let message = Execute { cluster: None, operation: ExecuteOperation::Query(query) };
            let mut request = tonic::Request::new(message.into());
            request.set_timeout(Duration::from_secs(8));
            match client.execute(request).await {
                Ok(answer) => {
                    let reply = Reply::try_from(answer.into_inner()).expect("an answer");
                    if let Reply::Records { records, at } = reply {
                        let value = records[0].as_ref().map_or(0, |record| {
                            String::from_utf8_lossy(&record.value).parse::<u64>().expect("number")
                        });
                        stats[0].fetch_add(1, SeqCst);
                        if value < floor {
                            stats[2].fetch_add(1, SeqCst);
                            eprintln!(
                                "STALE {name}: read {value} at {at:?}, but {floor} was acked"
                            );
                        }
                    }
                }
                Err(status) => {
                    stats[1].fetch_add(1, SeqCst);
                    if status.get_ref_is_transport() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        }
    }
}

trait Transport {
    fn get_ref_is_transport(&self) -> bool;
}
impl Transport for tonic::Status {
    fn get_ref_is_transport(&self) -> bool {
        self.details().is_empty()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storms() {
    let seed = env("BREAK_SEED", 1);
    let rounds = env("BREAK_ROUNDS", 20);
    let mut random = Random::new(seed);
    let copies = env("BREAK_COPIES", 2) as u32;
    let servers = env("BREAK_SERVERS", 3) as usize;
    let options = Options { servers, copies, ..Options::default() };
    let mut cluster = Cluster::start(&options).await.expect("cluster");
    let vs_pid: u32 = std::fs::read_to_string(cluster.log_dir().join("viewservice.pid"))
        .expect("pid")
        .trim()
        .parse()
        .expect("pid");
    let meter = Arc::new(Meter::new());
    let mut crew = Crew::start(cluster.view_service_addr(), 3, &meter).await.expect("writers");
    let acked = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let stats: Arc<[AtomicU64; 3]> = Arc::default();
    let mut tasks = Vec::new();
    for index in 0..servers {
        let name = cluster.server_name(index).to_owned();
        tasks.push(tokio::spawn(reader(name, acked.clone(), stop.clone(), stats.clone())));
    }
    {
        let (acked, stop) = (acked.clone(), stop.clone());
        let client =
            calls::connect(cluster.view_service_addr(), Duration::from_secs(30)).await.expect("c");
        tasks.push(tokio::spawn(async move {
            let mut n = 0_u64;
            while !stop.load(SeqCst) {
                n += 1;
                if calls::put(&client, "counter", &n.to_string()).await.is_ok() {
                    acked.store(n, SeqCst);
                } else {
                    eprintln!("a put failed");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
    }
    for round in 0..rounds {
        let before = cluster.wait_until_redundant().await.expect("redundant again");
        let primary = before.primary.expect("primary");
        let synced = before.synced.clone();
        let spares: Vec<usize> =
            (0..servers).filter(|s| *s != primary && !synced.contains(s)).collect();
        let kind = random.below(11);
        let started = Instant::now();
        let pause = Duration::from_millis(
            random.pick(&[150, 350, 450, 600, 900, 1400, 1600, 2500, 4000]).unwrap(),
        );
        eprintln!("round {round}: kind {kind}, pause {pause:?}, {before}");
        let sleep = |ms: u64| tokio::time::sleep(Duration::from_millis(ms));
        match kind {
            0..=2 => {
                let victim = if kind == 2 { synced[0] } else { primary };
                cluster.stop(victim);
                tokio::time::sleep(pause).await;
                cluster.cont(victim);
            }
            3 => {
                signal(vs_pid, "-STOP");
                sleep(random.between(0, 300)).await;
                cluster.kill(primary);
                tokio::time::sleep(pause).await;
                signal(vs_pid, "-CONT");
                sleep(random.between(0, 1000)).await;
                cluster.start_server(primary).expect("start");
            }
            4 => {
                // the primary dies, and while the spare is brought up its successor stalls
                cluster.kill(primary);
                sleep(random.between(0, 800)).await;
                cluster.stop(synced[0]);
                tokio::time::sleep(pause).await;
                cluster.cont(synced[0]);
                cluster.start_server(primary).expect("start");
            }
            5 => {
                // everybody at once is asked to stop
                for index in 0..servers {
                    cluster.term(index);
                    sleep(random.between(0, 60)).await;
                }
                sleep(random.between(200, 3000)).await;
                for index in 0..servers {
                    if cluster.server_ended(index) {
                        cluster.start_server(index).expect("start");
                    }
                }
                // Those that stayed as the only copy are still leaving: wait for them to hand over.
                for _ in 0..servers {
                    sleep(100).await;
                }
                let deadline = Instant::now() + Duration::from_secs(60);
                while Instant::now() < deadline {
                    let mut again = false;
                    for index in 0..servers {
                        if cluster.server_ended(index) {
                            let _ = cluster.start_server(index);
                            again = true;
                        }
                        again |= cluster.server_ending(index);
                    }
                    if !again {
                        break;
                    }
                    sleep(50).await;
                }
            }
            6 => {
                // rolling
                for index in 0..servers {
                    cluster.term(index);
                    cluster.wait_for_exit(index).await.expect("it ends");
                    cluster.start_server(index).expect("start");
                    sleep(random.between(0, 700)).await;
                }
            }
            7 => {
                cluster.stop(primary);
                cluster.stop(synced[0]);
                tokio::time::sleep(pause).await;
                if random.chance(500) {
                    cluster.cont(primary);
                } else {
                    cluster.cont(synced[0]);
                }
                sleep(random.between(0, 500)).await;
                cluster.cont(primary);
                cluster.cont(synced[0]);
            }
            8 => {
                // repeated short pauses around the lease
                for _ in 0..5 {
                    cluster.stop(primary);
                    sleep(random.between(300, 500)).await;
                    cluster.cont(primary);
                    sleep(random.between(0, 150)).await;
                }
            }
            9 => {
                // kill the backup, then the primary while the spare is joining, mercifully late
                cluster.kill(synced[0]);
                sleep(random.between(0, 300)).await;
                cluster.stop(primary);
                tokio::time::sleep(pause).await;
                cluster.cont(primary);
                cluster.start_server(synced[0]).expect("start");
            }
            _ => {
                signal(vs_pid, "-STOP");
                cluster.stop(primary);
                tokio::time::sleep(pause).await;
                signal(vs_pid, "-CONT");
                sleep(random.between(0, 1500)).await;
                cluster.cont(primary);
                if let Some(spare) = spares.first() {
                    cluster.kill(*spare);
                    cluster.start_server(*spare).expect("start");
                }
            }
        }
        let reached = meter.writes() + 10;
        testclient::cluster::wait_for("writes to go on", Duration::from_secs(60), async || {
            let writes = meter.writes();
            (writes >= reached).then_some(()).ok_or(format!("{writes} of {reached}"))
        })
        .await
        .expect("writes go on");
        let checked = crew.check(round + 1 == rounds).await.expect("check");
        assert_eq!(checked.broken, Vec::<String>::new(), "a promise was broken");
        let seen = meter.read();
        eprintln!(
            "   took {:?}; failed {} unknown {}; reads ok {} refused {} stale {}",
            started.elapsed(),
            seen.failed,
            seen.unknown,
            stats[0].load(SeqCst),
            stats[1].load(SeqCst),
            stats[2].load(SeqCst)
        );
        meter.reset();
        assert_eq!(stats[2].load(SeqCst), 0, "stale reads");
    }
    stop.store(true, SeqCst);
    crew.stop().await;
    for task in tasks {
        let _ = tokio::time::timeout(Duration::from_secs(40), task).await;
    }
}

/// Every server is asked to stop once while nobody answers for the view service.
#[tokio::test]
async fn all_asked_to_stop_without_a_view_service_the_data_is_kept() {
    let options = Options { servers: 2, ..Options::default() };
    let mut cluster = Cluster::start(&options).await.expect("cluster");
    let client =
        calls::connect(cluster.view_service_addr(), Duration::from_secs(30)).await.expect("c");
    calls::put(&client, "a", "1").await.expect("acknowledged");
    cluster.kill_view_service();
    cluster.term(0);
    cluster.term(1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(45) {
        if cluster.server_ended(0) && cluster.server_ended(1) {
            panic!(
                "both have stopped after {:?} at the first signal: \"a\" is lost",
                began.elapsed()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
