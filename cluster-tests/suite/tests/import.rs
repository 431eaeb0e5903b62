//! Imports while connections break, nodes fail and limits are reached: what was done is told, and
//! the same import again completes it.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::transfer::{
    LineClient, LineStep, LineStream, Upload, export, import_end, import_lines, parse_line,
};
use cloudkv_test_harness::{
    ApiClient, Bucket, PublicEndpoint, RawConnection, RawOutcome, RawRequest, RoutedRegion,
    encode_chunk, eventually,
};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

fn lines(count: usize, value: &str) -> Vec<Value> {
    (0..count)
        .map(|number| json!({"key": format!("k{number:05}"), "value": value}))
        .collect()
}

/// Returns numbers of the last line: imported, skipped, failed.
fn numbers(end: &Value) -> [u64; 3] {
    ["imported", "skipped", "failed"].map(|field| end[field].as_u64().unwrap())
}

/// Asserts that a bucket has these lines' keys, each with its value, and no others.
async fn assert_has(api: &ApiClient, bucket: &Bucket, lines: &[Value]) {
    let exported = export(api, bucket, "").await;
    let values = |lines: &[Value]| -> BTreeSet<String> {
        let values = lines.iter();
        values
            .map(|line| format!("{}={}", line["key"], line["value"]))
            .collect()
    };
    assert_eq!(values(&exported.keys), values(lines));
}

#[tokio::test]
async fn an_import_that_broke_is_completed_by_the_same_again() {
    let region = RoutedRegion::start().await;
    let api = region.router.api();
    let lines = lines(1500, "v");
    let clients = [
        (LineClient::http1(region.router.http()), "?mode=skip"),
        (LineClient::http2(region.router.http()), ""),
        (
            LineClient::http1(region.region.seat(1).http()),
            "?mode=skip",
        ),
    ];
    for (client, query) in &clients {
        let bucket = api.create_bucket().await;
        let upload = client.import(&bucket, query);
        upload.send_lines(&lines[..1200]).await;
        // In the middle of a line.
        assert!(upload.send(r#"{"key":"half"#).await);
        eventually("keys are imported", STATE_TIMEOUT, async || {
            let list = api.get(&bucket.listing_path()).await;
            (list.status == 200 && !list.text().is_empty()).then_some(())
        })
        .await;
        drop(upload);
        let upload = client.import(&bucket, query);
        upload.send_lines(&lines).await;
        let end = import_end(&upload.complete().await.unwrap());
        let [imported, skipped, failed] = numbers(&end);
        assert_eq!((imported + skipped, failed), (1500, 0), "{end}");
        assert_eq!(skipped > 0, *query == "?mode=skip", "{end}");
        assert_has(&api, &bucket, &lines).await;
    }
}

/// Lines of 20 MB, which all are of few keys.
fn many_lines() -> Vec<u8> {
    let value = "v".repeat(4000);
    let lines = (0..5000).map(|number| {
        let line = json!({"key": format!("k{}", number % 10), "value": value});
        format!("{line}\n").into_bytes()
    });
    lines.collect::<Vec<_>>().concat()
}

async fn clients_that_read_only_at_the_end(target: PublicEndpoint) {
    let bucket = target.node.api().create_bucket().await;
    let body = many_lines();
    for client in [
        LineClient::http1(target.http()),
        LineClient::http2(target.http()),
    ] {
        let upload = client.import(&bucket, "?mode=skip");
        for piece in body.chunks(1 << 16) {
            assert!(upload.send(piece.to_vec()).await, "the server reads all");
        }
        let end = import_end(&upload.complete().await.unwrap());
        let [imported, skipped, failed] = numbers(&end);
        assert_eq!((imported + skipped, failed), (5000, 0), "{end}");
    }
    // Not even the head of the answer.
    let path = format!("{}/import?mode=skip", bucket.path());
    let head = RawRequest::new("POST", &path).header("api-key", &bucket.account);
    let head = head.header("Transfer-Encoding", "chunked");
    let mut connection = RawConnection::open(target.http()).await;
    connection.write(&head.bytes()).await;
    for piece in body.chunks(1 << 16) {
        connection.write(&encode_chunk(piece)).await;
    }
    connection.write(&encode_chunk(b"")).await;
    let RawOutcome::Response(answer) = connection.receive(false).await else {
        panic!("no answer")
    };
    let text = answer.assert_status(200).text();
    let end = parse_line(text.lines().last().unwrap());
    assert_eq!(numbers(&end), [0, 5000, 0]);
}

#[tokio::test]
async fn clients_that_read_only_at_the_end_are_served_by_a_node() {
    clients_that_read_only_at_the_end(PublicEndpoint::with_node(&[]).await).await;
}

#[tokio::test]
async fn clients_that_read_only_at_the_end_are_served_by_a_router() {
    clients_that_read_only_at_the_end(PublicEndpoint::with_router(&[]).await).await;
}

/// Sends lines until so many lines of progress have come.
async fn send_until_progress(upload: &Upload, stream: &mut LineStream, count: usize) {
    let line = format!("{}\n", json!({"key": "k", "value": "v".repeat(4000)}));
    let mut progress = 0;
    while progress < count {
        tokio::select! {
            step = stream.next() => match step {
                LineStep::Line(line) => {
                    let line = parse_line(&line);
                    assert!(line["lines"].is_u64() && line.get("end").is_none(), "{line}");
                    progress += 1;
                }
                other => panic!("the import goes on: {other:?}"),
            },
            is_read = upload.send(line.clone()) => assert!(is_read),
        }
    }
}

async fn an_import_outlives_the_time_for_a_request(target: PublicEndpoint) {
    let bucket = target.node.api().create_bucket().await;
    for client in [
        LineClient::http1(target.http()),
        LineClient::http2(target.http()),
    ] {
        let mut upload = client.import(&bucket, "?mode=skip");
        assert!(upload.send("\n").await);
        let mut stream = upload.response().await.unwrap();
        stream.head.assert_status(200);
        // One a second.
        send_until_progress(&upload, &mut stream, 3).await;
        upload.end_body().await;
        let (lines, has_ended) = stream.remaining().await;
        assert!(has_ended);
        let end = parse_line(lines.last().unwrap());
        assert_eq!((&end["end"], &end["failed"]), (&json!(true), &json!(0)));
    }
}

#[tokio::test]
async fn an_import_outlives_the_time_for_a_request_at_a_node() {
    let target = PublicEndpoint::with_node(&["--request-timeout=1s"]).await;
    an_import_outlives_the_time_for_a_request(target).await;
}

#[tokio::test]
async fn an_import_outlives_the_time_for_a_request_at_a_router() {
    let target = PublicEndpoint::with_router(&["--request-timeout=1s"]).await;
    an_import_outlives_the_time_for_a_request(target).await;
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_where_its_import_ended() {
    let target = PublicEndpoint::with_node(&["--body-timeout=1s"]).await;
    let bucket = target.node.api().create_bucket().await;
    let mut upload = LineClient::http1(target.http()).import(&bucket, "");
    upload.send_lines(&lines(10, "v")).await;
    let stream = upload.response().await.unwrap();
    let (lines, _) = stream.remaining().await;
    let last = parse_line(lines.last().expect("a last line"));
    assert_eq!(last["error"], "request_timeout", "{last}");
    assert_eq!(last.get("end"), None, "{last}");
    assert_eq!(
        (&last["lines"], &last["imported"]),
        (&json!(10), &json!(10))
    );
}

#[tokio::test]
async fn imports_at_one_time_are_bounded() {
    for target in [
        PublicEndpoint::with_node(&["--max-imports=1"]).await,
        PublicEndpoint::with_router_to_node(&["--max-imports=1"]).await,
    ] {
        let api = ApiClient::new(target.http());
        let bucket = api.create_bucket().await;
        let client = LineClient::http1(target.http());
        let mut held = client.import(&bucket, "");
        held.send_lines(&lines(1, "v")).await;
        let stream = held.response().await.unwrap();
        stream.head.assert_status(200);
        let path = format!("{}/import", bucket.path());
        let post = api.post(&path).api_key(&bucket.account).body("{}");
        let refused = post.await;
        refused.assert_error(503, "unavailable");
        assert!(!refused.header("retry-after").is_empty());
        held.end_body().await;
        let end = import_end(&stream.complete().await.unwrap());
        assert_eq!(numbers(&end), [1, 0, 0]);
        // A client that leaves makes room, too.
        let left = client.import(&bucket, "");
        assert!(left.send("\n").await);
        drop(left);
        eventually("there is room", STATE_TIMEOUT, async || {
            let post = api.post(&path).api_key(&bucket.account).body("\n").await;
            (post.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_full_bucket_refuses_lines_by_their_numbers() {
    for target in [
        PublicEndpoint::with_node(&[]).await,
        PublicEndpoint::with_router(&[]).await,
    ] {
        let limits = target.node.admin_api().patch("/plans/free");
        let limits = limits.json(&json!({"keys": 50})).unchecked().await;
        limits.assert_status(200);
        let api = ApiClient::new(target.http());
        let bucket = api.create_bucket().await;
        let mut lines = lines(60, "v");
        let end = import_lines(&api, &bucket, "", &lines).await;
        let [imported, skipped, failed] = numbers(&end);
        assert_eq!((imported + failed, skipped), (60, 0), "{end}");
        assert!((50..=51).contains(&imported), "{end}");
        let mut refused = BTreeSet::new();
        for error in end["errors"].as_array().unwrap() {
            assert_eq!(error["error"], "plan_limit", "{error}");
            let number = error["line"].as_u64().unwrap();
            let line = &lines[usize::try_from(number).unwrap() - 1];
            assert_eq!(error["key"], line["key"], "{error}");
            refused.insert(error["key"].as_str().unwrap().to_owned());
        }
        lines.retain(|line| !refused.contains(line["key"].as_str().unwrap()));
        assert_has(&api, &bucket, &lines).await;
        // What is there can be replaced.
        for line in &mut lines {
            line["value"] = json!("other");
        }
        let end = import_lines(&api, &bucket, "", &lines).await;
        assert_eq!(numbers(&end), [imported, 0, 0], "{end}");
    }
}

#[tokio::test]
async fn an_import_ends_when_its_bucket_is_deleted() {
    let target = PublicEndpoint::with_router(&[]).await;
    let api = target.node.api();
    let bucket = api.create_bucket().await;
    let mut upload = LineClient::http2(target.http()).import(&bucket, "");
    upload.send_lines(&lines(1, "v")).await;
    let stream = upload.response().await.unwrap();
    eventually("the line is imported", STATE_TIMEOUT, async || {
        let get = api.get(&bucket.key_path("k00000")).await;
        (get.status == 200).then_some(())
    })
    .await;
    let path = format!("{}?confirm=1", bucket.path());
    let deletion = api.delete(&path).api_key(&bucket.account).await;
    deletion.assert_status(200);
    // The server may read no more.
    for line in &lines(50, "v") {
        upload.send(format!("{line}\n")).await;
    }
    upload.end_body().await;
    let (lines, _) = stream.remaining().await;
    let last = parse_line(lines.last().expect("a last line"));
    assert_eq!(last["error"], "unknown_bucket", "{last}");
    assert_eq!(last.get("end"), None, "{last}");
}

#[tokio::test]
async fn an_import_arrives_in_all_regions() {
    let world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    world.wait_bucket_converged(&bucket).await;
    world.delay_regions(Duration::from_millis(40));
    let lines = lines(500, "v");
    let end = import_lines(&world.api(1), &bucket, "", &lines).await;
    assert_eq!(numbers(&end), [500, 0, 0]);
    let values = world.wait_bucket_converged(&bucket).await;
    assert_eq!(values.len(), 500);
    for seat in 0..3 {
        assert_has(&world.api(seat), &bucket, &lines).await;
    }
}

/// Imports lines while `disturb` happens in the middle; returns the last line, if there is one.
async fn import_disturbed(
    client: &LineClient,
    bucket: &Bucket,
    lines: &[Value],
    disturb: impl Future<Output = ()>,
) -> Option<Value> {
    let (begin, rest) = lines.split_at(lines.len() / 2);
    let upload = client.import(bucket, "");
    upload.send_lines(begin).await;
    disturb.await;
    for line in rest {
        if !upload.send(format!("{line}\n")).await {
            break;
        }
    }
    let response = upload.complete().await.ok()?;
    let end = response.text().lines().last().map(parse_line)?;
    (end["end"] == true).then_some(end)
}

#[tokio::test]
async fn an_import_through_a_router_survives_restarts_of_nodes_or_is_run_again() {
    let mut region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let client = LineClient::http1(region.router.http());
    for (seat, is_killed) in [(0, true), (1, false), (2, true)] {
        let lines = lines(800, &format!("after node {seat}"));
        let disturb = async {
            if is_killed {
                region.region.kill(seat);
            } else {
                region.region.terminate(seat).await;
            }
        };
        let end = import_disturbed(&client, &bucket, &lines, disturb).await;
        let is_complete = end.is_some_and(|end| numbers(&end) == [800, 0, 0]);
        if !is_complete {
            eventually("the import is completed", STATE_TIMEOUT, async || {
                let nothing = async {};
                let end = import_disturbed(&client, &bucket, &lines, nothing).await?;
                (numbers(&end) == [800, 0, 0]).then_some(())
            })
            .await;
        }
        region.region.restart(seat).await;
        region.region.wait_formed().await;
        assert_has(&region.router.api(), &bucket, &lines).await;
    }
}
