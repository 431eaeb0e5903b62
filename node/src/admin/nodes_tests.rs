//! Tests of the routes and commands that change nodes, over real connections.

use std::sync::atomic::Ordering;

use super::tests::serve_port;
use crate::config::AdminAction;

#[tokio::test]
async fn nodes_are_changed_and_refusals_give_reasons() {
    let port = serve_port(None).await;
    let confirmed = r#"{"confirm":true}"#;
    for (path, body, status, part) in [
        (
            "/nodes/7/recommission",
            "",
            200,
            "\"change\":\"recommission\"",
        ),
        ("/nodes/n7/recommission", "{}", 200, "\"node\":7"),
        ("/nodes/7/decommission", confirmed, 200, "\"name\":\"n7\""),
        ("/nodes/7/decommission", "{}", 409, "confirm_required"),
        ("/nodes/7/decommission", r#"{"yes":1}"#, 400, "invalid_body"),
        ("/nodes/7/replace", "{}", 409, "is alive"),
        ("/nodes/8/replace", "{}", 404, "no_such_node"),
        (
            "/nodes/7/stop",
            "{}",
            404,
            "decommission, recommission or replace",
        ),
        ("/nodes/x/replace", "{}", 404, "node x is unknown"),
    ] {
        let response = port.send(&format!("POST {path}"), "", body).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {response}"
        );
        assert!(response.contains(part), "{path}: {response}");
    }
    let refused = port
        .call(None, AdminAction::Replace { node: "n7".into() })
        .await;
    assert!(refused.unwrap_err().contains("node n7 is alive"));
    let by_address = AdminAction::Recommission {
        node: "n7.example:7070".into(),
    };
    let output = port.call(None, by_address).await.unwrap();
    assert_eq!(output, "node n7: it takes shards again\n");
    port.node.ready.store(true, Ordering::Relaxed);
    let again = AdminAction::Recommission { node: "n7".into() };
    let output = port.call(None, again).await.unwrap();
    assert!(output.contains("wasn't being decommissioned"), "{output}");
}

#[tokio::test]
async fn decommissioning_shows_its_consequences_first() {
    let port = serve_port(None).await;
    let decommission = |yes, wait| AdminAction::Decommission {
        node: "n7".into(),
        yes,
        wait,
    };
    let refused = port
        .call(None, decommission(false, false))
        .await
        .unwrap_err();
    assert!(
        refused.contains("--yes") && refused.contains("the loss of no node"),
        "{refused}"
    );
    assert!(refused.contains("admin replace n7`"), "{refused}");
    let output = port.call(None, decommission(true, false)).await.unwrap();
    for part in [
        "with node n7: the loss of any one node",
        "without it: the loss of no node",
        "3 voters with it, by 1 voter without",
        "admin recommission n7",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    let unknown = AdminAction::Decommission {
        node: "no one/else".into(),
        yes: true,
        wait: false,
    };
    let refused = port.call(None, unknown).await.unwrap_err();
    assert!(refused.contains("node no one/else is unknown"), "{refused}");
    // It is removed by now.
    port.node.ready.store(true, Ordering::Relaxed);
    let output = port.call(None, decommission(true, true)).await.unwrap();
    assert!(
        output.contains("node n7: removed from the cluster"),
        "{output}"
    );
}
