//! Tests of the admin port over real connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use cloudkv_common::admin::{AdminState, Component, Program, Readiness, serve};

use super::recovery_tests::{fake_recovery, fake_report};
use super::{AdminContext, Operations, execute, router};
use crate::admin::{
    DecommissionReport, NamedNode, NodeChange, NodeError, RecoveryError, RecoveryReport,
    RecoveryScope, RegionError,
};
use crate::backup::{BackupRun, BackupStartError, BackupTarget};
use crate::config::{
    AdminAction, AdminCall, AdminTarget, LimitFlags, PlanAction, RegionName, Secret, StatusFlags,
};
use crate::geo::{ComparisonVerdict, RangeDifference, RegionComparison, VerifyError};
use crate::meta::BucketLimits;
use crate::raft::NodeId;
use crate::service::{Access, BucketId, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms};

const TOKEN: &str = "0123456789abcdef";

#[derive(Default)]
pub(super) struct FakeNode {
    pub(super) ready: AtomicBool,
    /// Set if no node of region `us` is reached, and shard 1 has no leader there.
    has_lost_region: AtomicBool,
}

impl AdminState for FakeNode {
    fn program(&self) -> Program {
        Program::Node
    }

    fn readiness(&self) -> Readiness {
        let ready = self.ready.load(Ordering::Relaxed);
        let missing = (!ready).then(|| "its leader is unreachable".to_owned());
        Readiness {
            components: vec![
                Component::new("metadata", None),
                Component::new("shard 3", missing),
            ],
            notes: vec![("metadata", "no majority".to_owned())],
        }
    }

    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }

    fn status(&self) -> Value {
        let survives = "the loss of no node: a region needs three";
        let mut status =
            json!({ "region": "local", "shards": 2, "clock_ok": true, "survives": survives });
        if self.has_lost_region.load(Ordering::Relaxed) {
            status["regions"] = json!([{ "name": "local" }, { "name": "us" }]);
            status["nodes"] = json!([
                { "name": "n1", "region": "local", "state": "active", "alive": true },
                { "name": "u1", "region": "us", "state": "active", "alive": false },
            ]);
        }
        status
    }
}

/// A node with one plan and one bucket, `a0123456789ABC`.
impl Operations for FakeNode {
    fn plans(&self) -> Vec<(Plan, PlanTerms)> {
        vec![(Plan::Free, terms(4096))]
    }

    fn set_plan_limits(
        &self,
        _: Plan,
        changes: PlanChanges,
    ) -> BoxFuture<'_, Result<PlanTerms, PlanError>> {
        let (limit, max) = ("value_bytes", 1 << 20);
        Box::pin(ready(match changes.value_bytes {
            None => Err(PlanError::NoChange),
            Some(value) if value > max => Err(PlanError::OutOfBounds { limit, value, max }),
            Some(value) => Ok(terms(value as usize)),
        }))
    }

    fn set_bucket_plan(
        &self,
        bucket: BucketId,
        plan: Plan,
    ) -> BoxFuture<'_, Result<(), DirectoryError>> {
        let what = "it holds too much".to_owned();
        Box::pin(ready(match plan {
            _ if bucket.as_str() != BUCKET => Err(DirectoryError::UnknownBucket),
            Plan::Free => Err(DirectoryError::ExceedsPlan { plan, what }),
            Plan::Pro | Plan::Business => Ok(()),
        }))
    }

    /// The cluster has node 7, with the name n7.
    fn change_node(
        &self,
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> BoxFuture<'_, Result<NamedNode, NodeError>> {
        let name = name.replace("n7.example:7070", "7").replace("n7", "7");
        Box::pin(ready(match (name.as_str(), change) {
            ("7", NodeChange::Replace) => Err(NodeError::StillAlive("n7".into())),
            ("7", NodeChange::Decommission) if !confirmed => Err(NodeError::Unconfirmed {
                name: "n7".into(),
                region: "eu".into(),
                now: "the loss of any one node".into(),
                without: "the loss of no node".into(),
                is_reachable: self.ready.load(Ordering::Relaxed),
            }),
            ("7", _) => Ok(NamedNode {
                node: NodeId::from(7),
                name: "n7".into(),
                is_changed: !self.ready.load(Ordering::Relaxed),
                successor: None,
            }),
            _ => Err(NodeError::Unknown(name)),
        }))
    }

    fn decommission_report(
        &self,
        name: String,
    ) -> BoxFuture<'_, Result<DecommissionReport, NodeError>> {
        let report = DecommissionReport {
            node: NodeId::from(7),
            name: "n7".into(),
            region: "eu".into(),
            state: if self.ready.load(Ordering::Relaxed) {
                "removed".into()
            } else {
                "active".into()
            },
            survives_now: "the loss of any one node".into(),
            survives_without: "the loss of no node".into(),
            metadata_voters_now: 3,
            metadata_voters_without: 1,
            worse: true,
            obstacle: None,
            groups: vec!["meta".into(), "shard-0".into()],
        };
        Box::pin(ready(match name.as_str() {
            "7" | "n7" => Ok(report),
            _ => Err(NodeError::Unknown(name)),
        }))
    }

    fn remove_region(&self, name: String) -> BoxFuture<'_, Result<(), RegionError>> {
        Box::pin(ready(match name.as_str() {
            "lost" => Ok(()),
            "well" => Err(RegionError::StillAlive {
                region: name,
                node: "n7".into(),
            }),
            _ => Err(RegionError::Unknown(name)),
        }))
    }

    fn recovery_report(&self, scope: RecoveryScope) -> BoxFuture<'_, RecoveryReport> {
        Box::pin(ready(fake_report(scope)))
    }

    fn recover(
        &self,
        scope: RecoveryScope,
        confirmation: String,
    ) -> BoxFuture<'_, Result<RecoveryReport, RecoveryError>> {
        Box::pin(ready(fake_recovery(scope, &confirmation)))
    }

    fn start_backup(&self, to: &str, _is_new: bool) -> Result<BackupRun, BackupStartError> {
        // That reads and writes nothing.
        BackupTarget::open(to).map_err(BackupStartError::Target)?;
        Err(BackupStartError::Running)
    }

    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<RegionComparison, VerifyError>> {
        let is_different = shard == 1;
        if is_different && self.has_lost_region.load(Ordering::Relaxed) {
            return Box::pin(ready(Err(VerifyError::NoLeader("us".to_owned()))));
        }
        let difference = RangeDifference {
            range: 9,
            sums: vec![(1, 2), (3, 4)],
        };
        Box::pin(ready(Ok(RegionComparison {
            shard,
            regions: vec!["eu".to_owned(), "us".to_owned()],
            records: 5,
            ranges: 256,
            verdict: if is_different {
                ComparisonVerdict::Different
            } else {
                ComparisonVerdict::Equal
            },
            differences: if is_different {
                vec![difference]
            } else {
                vec![]
            },
        })))
    }
}

const BUCKET: &str = "a0123456789ABC";

fn terms(value_bytes: usize) -> PlanTerms {
    let limits = BucketLimits {
        keys: 10_000,
        key_bytes: 64,
        value_bytes,
        bytes: None,
    };
    PlanTerms {
        limits: Arc::new(limits),
        buckets: None,
        access: vec![Access::Public],
    }
}

pub(super) struct TestPort {
    address: SocketAddr,
    pub(super) node: Arc<FakeNode>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

pub(super) async fn serve_port(token: Option<&str>) -> TestPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = Arc::new(FakeNode::default());
    let shutdown = CancellationToken::new();
    let token = token.map(|token| Secret::new(token.to_owned()));
    let context = AdminContext {
        state: node.clone(),
        operations: node.clone(),
    };
    let task = tokio::spawn(serve(
        listener,
        router(context, token.as_ref()),
        shutdown.clone(),
    ));
    TestPort {
        address,
        node,
        shutdown,
        task,
    }
}

impl TestPort {
    /// Sends a request, and returns the whole response.
    async fn request(&self, line: &str, headers: &str) -> String {
        self.send(line, headers, "").await
    }

    pub(super) async fn send(&self, line: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = format!("content-length: {}\r\n", body.len());
        let length = if body.is_empty() { "" } else { &length };
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{length}{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    pub(super) async fn call(
        &self,
        token: Option<&str>,
        action: AdminAction,
    ) -> Result<String, String> {
        let target = AdminTarget::parse(&self.address.to_string()).unwrap();
        let token = token.map(|token| Secret::new(token.to_owned()));
        let call = AdminCall {
            target,
            token,
            action,
        };
        let mut output = Vec::new();
        let outcome = execute(&call, &mut output).await;
        outcome.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(output).unwrap())
    }
}

#[tokio::test]
async fn readiness_names_the_missing_components() {
    let port = serve_port(None).await;
    let response = port.request("GET /readyz", "").await;
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    assert!(
        response.contains(r#""waiting_for":["shard 3"]"#),
        "{response}"
    );
    port.node.ready.store(true, Ordering::Relaxed);
    let response = port.request("GET /readyz", "").await;
    assert!(
        response.starts_with("HTTP/1.1 200") && response.contains(r#""ready":true"#),
        "{response}"
    );
}

#[tokio::test]
async fn a_token_guards_everything_but_health_and_readiness() {
    let port = serve_port(Some(TOKEN)).await;
    for (line, status) in [
        ("GET /healthz", 200),
        ("GET /readyz", 503),
        ("GET /metrics", 401),
        ("GET /status", 401),
        ("GET /plans", 401),
        ("PATCH /plans/free", 401),
        ("PUT /buckets/a0123456789ABC/plan", 401),
    ] {
        let response = port.request(line, "").await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{line}: {response}"
        );
    }
    let wrong = port
        .request("GET /status", "authorization: Bearer 0123456789abcdeg\r\n")
        .await;
    assert!(
        wrong.contains("401") && wrong.contains("www-authenticate: Bearer"),
        "{wrong}"
    );
    let right = port
        .request(
            "GET /metrics",
            &format!("Authorization: bearer {TOKEN}\r\n"),
        )
        .await;
    assert!(
        right.starts_with("HTTP/1.1 200") && right.ends_with("up 1\n"),
        "{right}"
    );
    assert!(
        right.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{right}"
    );
}

#[tokio::test]
async fn other_routes_and_methods_are_refused_as_json() {
    let port = serve_port(None).await;
    let response = port.request("GET /nothing", "").await;
    assert!(
        response.contains("404") && response.contains(r#""error":"no_such_route""#),
        "{response}"
    );
    let response = port.request("POST /metrics", "").await;
    assert!(
        response.contains("405") && response.contains("allow: GET,HEAD"),
        "{response}"
    );
    assert!(
        response.contains(r#""error":"method_not_allowed""#),
        "{response}"
    );
}

#[tokio::test]
async fn commands_show_status_and_health() {
    let port = serve_port(Some(TOKEN)).await;
    let status = AdminAction::Status(StatusFlags::default());
    let page = port.call(Some(TOKEN), status.clone()).await.unwrap();
    assert!(
        page.starts_with("serving all 2 shards of region local; "),
        "{page}"
    );
    let json = AdminAction::Status(StatusFlags {
        json: true,
        ..Default::default()
    });
    let json = port.call(Some(TOKEN), json).await.unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["shards"], 2);
    let refused = port.call(None, status.clone()).await.unwrap_err();
    assert!(
        refused.contains("401") && refused.contains("Bearer TOKEN. Give the `admin_token`"),
        "{refused}"
    );
    let refused = port.call(Some("another-long-token"), status).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("not the operator's token") && refused.contains("--token"),
        "{refused}"
    );
    assert_eq!(
        port.call(None, AdminAction::Health { ready: false })
            .await
            .unwrap(),
        "ok\n"
    );
    let waiting = port
        .call(None, AdminAction::Health { ready: true })
        .await
        .unwrap_err();
    assert!(
        waiting.ends_with(" is not ready:\n  shard 3: its leader is unreachable"),
        "{waiting}"
    );
}

#[tokio::test]
async fn changes_are_refused_with_status_code_and_message() {
    let port = serve_port(None).await;
    let limits = "PATCH /plans/free";
    let plan = &format!("PUT /buckets/{BUCKET}/plan");
    let long = "9".repeat(20_000);
    for (line, body, status, code) in [
        ("PATCH /plans/gold", r#"{"keys":5}"#, 404, "unknown_plan"),
        ("PATCH /plans/%ff", r#"{"keys":5}"#, 404, "unknown_plan"),
        (limits, "", 400, "invalid_body"),
        (limits, r#"{"keys":-5}"#, 400, "invalid_body"),
        (limits, r#"{"kyes":5}"#, 400, "invalid_body"),
        (limits, &long, 413, "invalid_body"),
        (limits, "{}", 400, "invalid_limit"),
        (limits, r#"{"value_bytes":1048577}"#, 400, "invalid_limit"),
        (plan, r#"{"plan":"gold"}"#, 400, "invalid_plan"),
        (plan, r#"{"plan":"free"}"#, 409, "exceeds_plan"),
        (
            "PUT /buckets/a0/plan",
            r#"{"plan":"pro"}"#,
            404,
            "unknown_bucket",
        ),
        ("POST /plans/free", "{}", 405, "method_not_allowed"),
    ] {
        let response = port.send(line, "", body).await;
        let right = response.starts_with(&format!("HTTP/1.1 {status}"))
            && response.contains(&format!(r#""error":"{code}""#));
        assert!(right, "{line} {body:.40}: {response}");
    }
}

#[tokio::test]
async fn commands_change_plans() {
    let port = serve_port(Some(TOKEN)).await;
    let list = AdminAction::Plan(PlanAction::List { json: false });
    let listed = port.call(Some(TOKEN), list).await.unwrap();
    assert_eq!(
        listed,
        "plan  keys   key_bytes  value_bytes  buckets  bytes  access\n\
         free  10000  64         4096         any      any    public\n"
    );
    let set = |bytes| {
        let limits = LimitFlags {
            value_bytes: Some(bytes),
            ..Default::default()
        };
        let plan = Plan::Free;
        AdminAction::Plan(PlanAction::Set { plan, limits })
    };
    let terms = port.call(Some(TOKEN), set(8192)).await.unwrap();
    assert!(terms.contains("value_bytes  8192\n"), "{terms}");
    let refused = port.call(Some(TOKEN), set(1 << 21)).await.unwrap_err();
    assert!(refused.contains("from 1 to 1048576"), "{refused}");
    let bucket = BucketId::parse(BUCKET.as_bytes()).unwrap();
    let give = |plan| AdminAction::BucketPlan { bucket, plan };
    let given = port.call(Some(TOKEN), give(Plan::Pro)).await.unwrap();
    assert_eq!(given, "plan  pro\n");
    let refused = port.call(Some(TOKEN), give(Plan::Free)).await.unwrap_err();
    assert!(refused.contains("409") && refused.contains("too much"));
    let refused = port.call(None, give(Plan::Pro)).await.unwrap_err();
    assert!(refused.contains("401"), "{refused}");
}

#[tokio::test]
async fn shutdown_closes_the_port_and_idle_connections() {
    let port = serve_port(None).await;
    let mut idle = TcpStream::connect(port.address).await.unwrap();
    port.request("GET /healthz", "").await;
    port.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(9), port.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(port.address).await.is_err());
    let target = AdminTarget::parse(&port.address.to_string()).unwrap();
    let call = AdminCall {
        target,
        token: None,
        action: AdminAction::Health { ready: false },
    };
    let error = execute(&call, &mut Vec::new()).await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("connect to http://127.0.0.1:"), "{error}");
    assert!(error.contains("Does the node run"), "{error}");
}

#[tokio::test]
async fn regions_are_removed_and_compared() {
    let port = serve_port(None).await;
    let remove = |name| AdminAction::RemoveRegion {
        region: RegionName::parse(name).unwrap(),
    };
    let output = port.call(None, remove("lost")).await.unwrap();
    assert!(output.contains("go on without it"), "{output}");
    let refused = port.call(None, remove("well")).await.unwrap_err();
    assert!(
        refused.contains("node n7 of region well is alive"),
        "{refused}"
    );
    let refused = port.call(None, remove("none")).await.unwrap_err();
    assert!(
        refused.contains("404") && refused.contains("none"),
        "{refused}"
    );
    let verify = AdminAction::Verify { json: false };
    let difference = port.call(None, verify).await.unwrap_err();
    for part in [
        "the regions differ",
        "0000000000000003 of 4 records",
        "equal",
    ] {
        assert!(difference.contains(part), "{part}: {difference}");
    }
    let response = port.send("POST /shards/x/verify", "", "").await;
    assert!(response.contains("no_such_shard"), "{response}");
}

#[tokio::test]
async fn verify_shows_what_it_compared_and_why_it_could_not_compare_the_rest() {
    let port = serve_port(None).await;
    port.node.has_lost_region.store(true, Ordering::Relaxed);
    let verify = async |json: bool| {
        let call = AdminCall {
            target: AdminTarget::parse(&port.address.to_string()).unwrap(),
            token: None,
            action: AdminAction::Verify { json },
        };
        let mut output = Vec::new();
        let error = execute(&call, &mut output).await.unwrap_err();
        (String::from_utf8(output).unwrap(), error.to_string())
    };
    let (output, error) = verify(false).await;
    assert!(
        output.contains("waiting up to 30 s for us") && output.contains("equal"),
        "{output}"
    );
    for part in [
        "answered 503",
        "\n  shard-1: region us is unreachable (u1): start it",
        "if it is lost for good, first `cloudkv-node admin remove-region us`",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let (output, _) = verify(true).await;
    let shards: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(shards[0]["verdict"], "equal");
    assert_eq!(shards[1]["verdict"], "not_compared");
    let response = port.send("POST /shards/1/verify", "", "").await;
    for part in [
        "HTTP/1.1 503",
        "shard-1 can't be compared: no leader in region us",
        r#""region":"us""#,
        "`cloudkv-node admin status` shows which nodes",
    ] {
        assert!(response.contains(part), "{part}: {response}");
    }
}
