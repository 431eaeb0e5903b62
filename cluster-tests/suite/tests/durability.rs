//! Acknowledged writes survive crashes and stops under load.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_test_harness::{
    ApiClient, Bucket, Node, RawConnection, RawOutcome, RawRequest, eventually,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::task::JoinHandle;

const WRITERS: usize = 32;
const KEYS_PER_WRITER: usize = 8;
const CRASHES: u64 = 10;

/// Possible values of a key: the last acknowledged one, and those with an unknown outcome. `None`
/// is the absent key.
type PossibleValues = Vec<Option<String>>;

/// A client that is the only writer of its keys, over one connection.
struct Writer {
    number: usize,
    bucket: Bucket,
    /// Number of writes; makes every value unique.
    written: u64,
    possible: HashMap<String, PossibleValues>,
}

impl Writer {
    fn new(number: usize, bucket: &Bucket) -> Self {
        let names = (0..KEYS_PER_WRITER).map(|key| format!("w{number}/k{key}"));
        let possible = names.map(|name| (name, vec![None])).collect();
        Self {
            number,
            bucket: bucket.clone(),
            written: 0,
            possible,
        }
    }

    /// Returns the next write: a new value, or every 13th time a delete.
    fn next_write(&mut self) -> (String, Option<String>, RawRequest) {
        self.written += 1;
        let name = format!(
            "w{}/k{}",
            self.number,
            self.written as usize % KEYS_PER_WRITER
        );
        let path = self.bucket.key_path(&name);
        if self.written.is_multiple_of(13) {
            return (name, None, RawRequest::new("DELETE", &path));
        }
        let value = format!("{} of writer {}", self.written, self.number);
        let request = RawRequest::new("PUT", &path).parse_body(value.as_bytes());
        (name, Some(value), request)
    }

    /// Writes until the connection ends, counts acknowledgements, and returns itself.
    async fn run(mut self, mut connection: RawConnection, acknowledged: Arc<AtomicU64>) -> Self {
        loop {
            let (name, value, request) = self.next_write();
            let possible = self
                .possible
                .get_mut(&name)
                .expect("one of this writer's keys");
            possible.push(value.clone());
            match connection.send(&request).await {
                RawOutcome::Response(answer) => {
                    answer.assert_status(200);
                    *possible = vec![value];
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // A crash may truncate an answer.
                RawOutcome::Closed | RawOutcome::Broken(_) => return self,
            }
        }
    }

    /// Reads every key, and expects from here on the value it has now.
    async fn verify(&mut self, api: &ApiClient) {
        for (name, possible) in &mut self.possible {
            let get = api.get(&self.bucket.key_path(name)).await;
            let actual = match get.status {
                404 => None,
                _ => Some(get.assert_status(200).text().to_owned()),
            };
            assert!(
                possible.contains(&actual),
                "{name} holds {actual:?}, not one of {possible:?}"
            );
            *possible = vec![actual];
        }
    }
}

async fn start_writers(
    writers: Vec<Writer>,
    node: &Node,
    acknowledged: &Arc<AtomicU64>,
) -> Vec<JoinHandle<Writer>> {
    let mut tasks = vec![];
    for writer in writers {
        let connection = RawConnection::open(node.http()).await;
        tasks.push(tokio::spawn(writer.run(connection, acknowledged.clone())));
    }
    tasks
}

/// Waits until `writes` writes were acknowledged.
async fn wait_load(acknowledged: &AtomicU64, writes: u64) {
    eventually("there is load", Duration::from_secs(30), async || {
        (acknowledged.load(Ordering::Relaxed) >= writes).then_some(())
    })
    .await;
}

#[tokio::test]
async fn acknowledged_writes_survive_ten_crashes_under_load() {
    let mut node = Node::start().await;
    let bucket = node.api().create_bucket().await;
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer::new(number, &bucket))
        .collect();
    for round in 0..CRASHES {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let tasks = start_writers(writers, &node, &acknowledged).await;
        wait_load(&acknowledged, 1).await;
        // Not a wait for an event: each round crashes at a different moment.
        tokio::time::sleep(Duration::from_millis(150 + 47 * round)).await;
        node.kill_9();
        let ended = join_all(tasks).await.into_iter();
        writers = ended.map(Result::unwrap).collect();
        node.restart().await;
        let api = node.api();
        join_all(writers.iter_mut().map(|writer| writer.verify(&api))).await;
    }
    let live = writers.iter().flat_map(|writer| writer.possible.values());
    let live = live.filter(|possible| possible[0].is_some()).count();
    let listed = node.api().get(&bucket.listing_path()).await;
    assert_eq!(
        listed.assert_status(200).lines().len(),
        live,
        "the list agrees with the reads"
    );
    let delete = node
        .api()
        .delete(&format!("{}?confirm={live}", bucket.path()));
    delete.api_key(&bucket.account).await.assert_status(200);
}

#[tokio::test]
async fn a_crash_right_after_an_answer_loses_nothing() {
    let mut node = Node::start().await;
    let bucket = node.api().create_bucket().await;
    for round in 0..5 {
        let etag = node
            .api()
            .put(&bucket.key_path("k"), round.to_string())
            .await
            .assert_status(200)
            .etag();
        node.kill_9();
        node.restart().await;
        let get = node.api().get(&bucket.key_path("k")).await;
        assert_eq!(
            (get.assert_status(200).text(), get.etag()),
            (round.to_string().as_str(), etag)
        );
    }
}

/// A client's view of a request that was sent while the node stopped.
#[derive(Debug, PartialEq)]
enum Outcome {
    Acknowledged,
    /// Refused, or the connection was closed before an answer: the write must not be applied.
    NotDone,
}

/// Writes new keys until the node refuses connections; returns the outcomes.
async fn write_through_a_stop(
    node_address: std::net::SocketAddr,
    bucket: Bucket,
    number: usize,
    acknowledged: Arc<AtomicU64>,
) -> Vec<(String, Outcome)> {
    let mut outcomes = vec![];
    loop {
        let Ok(mut connection) = RawConnection::try_open(node_address).await else {
            return outcomes;
        };
        loop {
            let name = format!("c{number}/{}", outcomes.len());
            let request =
                RawRequest::new("PUT", &bucket.key_path(&name)).parse_body(name.as_bytes());
            match connection.send(&request).await {
                RawOutcome::Response(answer) if answer.status == 200 => {
                    outcomes.push((name, Outcome::Acknowledged));
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    if answer.find_header("connection") == Some("close") {
                        break;
                    }
                }
                RawOutcome::Response(answer) => {
                    answer.assert_error(503, "unavailable");
                    outcomes.push((name, Outcome::NotDone));
                    break;
                }
                RawOutcome::Closed => {
                    outcomes.push((name, Outcome::NotDone));
                    break;
                }
                RawOutcome::Broken(what) => panic!("an answer was truncated: {what}"),
            }
        }
    }
}

#[tokio::test]
async fn a_stop_under_load_answers_every_accepted_request() {
    let mut node = Node::start().await;
    let bucket = node.api().create_bucket_with(&[("plan", "pro")]).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let client = |number| {
        let (bucket, acknowledged) = (bucket.clone(), acknowledged.clone());
        tokio::spawn(write_through_a_stop(
            node.http(),
            bucket,
            number,
            acknowledged,
        ))
    };
    let clients: Vec<_> = (0..16).map(client).collect();
    wait_load(&acknowledged, 100).await;
    node.terminate().await;
    let outcomes: Vec<_> = join_all(clients)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    node.restart().await;
    let api = node.api();
    let checks = outcomes.iter().map(|(name, outcome)| {
        let get = api.get(&bucket.key_path(name)).into_future();
        async move {
            let expected = if *outcome == Outcome::Acknowledged {
                200
            } else {
                404
            };
            assert_eq!(get.await.status, expected, "{name}: {outcome:?}");
        }
    });
    stream::iter(checks)
        .buffer_unordered(32)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_flight() {
    let mut node = Node::start().await;
    let bucket = node.api().create_bucket().await;
    let mut connection = RawConnection::open(node.http()).await;
    let request = RawRequest::new("PUT", &bucket.key_path("k")).header("Content-Length", "5");
    // 100 Continue shows that the node has accepted the request.
    connection
        .write(&request.header("Expect", "100-continue").bytes())
        .await;
    let RawOutcome::Response(interim) = connection.receive_with_interim(false).await else {
        panic!("no answer")
    };
    interim.assert_status(100);
    node.send_sigterm();
    // The node is stopping once it refuses new connections.
    let refused = async || {
        RawConnection::try_open(node.http())
            .await
            .is_err()
            .then_some(())
    };
    let timeout = Duration::from_secs(30);
    eventually("new connections are refused", timeout, refused).await;
    connection.write(b"value").await;
    let RawOutcome::Response(answer) = connection.receive(false).await else {
        panic!("no answer")
    };
    answer.assert_status(200);
    let status = node.wait_exit(Duration::from_secs(25)).await;
    assert_eq!(status.code(), Some(0));
    node.restart().await;
    assert_eq!(node.api().get(&bucket.key_path("k")).await.text(), "value");
}
