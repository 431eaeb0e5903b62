//! Readiness, status and metrics of the router, for the admin port.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use cloudkv_common::admin::{self, AdminState, Component, Program, Readiness, error_response};
use cloudkv_common::config::Secret;
use cloudkv_common::telemetry::metrics::{Exposition, write_process};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::proxy::SharedState;
use crate::topology::{RegionView, TopologyView};
use crate::upstream::Node;

/// Source of the router's readiness, status and metrics.
pub(crate) struct RouterStatus {
    /// State shared by the threads that serve users.
    pub shared: SharedState,
    /// Cancelled when a stop is requested.
    pub stop: CancellationToken,
}

impl AdminState for RouterStatus {
    fn program(&self) -> Program {
        Program::Router
    }

    fn readiness(&self) -> Readiness {
        let view = self.shared.view.load_full();
        let is_healthy = view
            .as_ref()
            .is_some_and(|view| view.regions.iter().any(RegionView::is_healthy));
        let missing = |is_ready: bool, why: &str| (!is_ready).then(|| why.to_owned());
        let parts = vec![
            Component::new(
                "topology",
                missing(view.is_some(), "no node has sent its topology yet"),
            ),
            Component::new(
                "region",
                missing(
                    is_healthy,
                    "no region has an available leader of each shard",
                ),
            ),
            Component::new(
                "accepting",
                missing(!self.stop.is_cancelled(), "the router is stopping"),
            ),
        ];
        Readiness {
            components: parts,
            ..Readiness::default()
        }
    }

    fn metrics(&self) -> String {
        let mut text = Exposition::new();
        self.shared.metrics.write(&mut text);
        self.shared.connections.write(&mut text);
        text.gauge(
            "cloudkv_router_event_streams",
            "Event streams that are relayed; each holds a connection to a node.",
            &[],
            self.shared.event_streams.open_streams() as f64,
        );
        if let Some(view) = self.shared.view.load_full() {
            write_view(&view, &mut text);
        }
        write_process(&mut text);
        text.finish()
    }

    fn status(&self) -> Value {
        let view = self.shared.view.load_full();
        let current = view
            .as_ref()
            .and_then(|view| view.regions.get(view.current));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "region": current.map(|region| &region.name),
            "shards": view.as_ref().map(|view| view.shards),
            "regions": view.as_ref().map(|view| {
                view.regions.iter().map(region_json).collect::<Vec<Value>>()
            }),
        })
    }
}

fn region_json(region: &RegionView) -> Value {
    let leaders = region.leaders.iter();
    let leaders = leaders.map(|index| index.and_then(|index| region.nodes.get(index)));
    json!({
        "name": region.name,
        "healthy": region.is_healthy(),
        "round_trip_ms": region.round_trip().map(|trip| trip.as_secs_f64() * 1e3),
        "leaders": leaders.map(|node| node.map(|node| node.id)).collect::<Vec<_>>(),
        "nodes": region.nodes.iter().map(|it| node_json(it)).collect::<Vec<Value>>(),
    })
}

fn node_json(node: &Node) -> Value {
    json!({
        "id": node.id,
        "http": node.http,
        "up": node.is_up(),
        "draining": node.is_draining(),
        "round_trip_ms": node.round_trip().map(|trip| trip.as_secs_f64() * 1e3),
        "connections": node.pools.open_connections(),
    })
}

fn write_view(view: &TopologyView, text: &mut Exposition) {
    for (index, region) in view.regions.iter().enumerate() {
        let labels = [("region", region.name.as_str())];
        let gauges = [
            (
                "cloudkv_router_region_current",
                "1 if requests for the global name go to the region.",
                index == view.current,
            ),
            (
                "cloudkv_router_region_healthy",
                "1 if a node of the region is available, and all of its shards have a leader.",
                region.is_healthy(),
            ),
        ];
        for (name, help, is_true) in gauges {
            text.gauge(name, help, &labels, f64::from(u8::from(is_true)));
        }
        for node in &region.nodes {
            write_node(&region.name, node, text);
        }
    }
}

fn write_node(region: &str, node: &Node, text: &mut Exposition) {
    let id = node.id.to_string();
    let labels = [("region", region), ("node", id.as_str())];
    let available = f64::from(u8::from(node.is_available()));
    let help = "1 if a node answers health checks and isn't draining.";
    text.gauge("cloudkv_router_node_available", help, &labels, available);
    let help = "Open connections to a node.";
    let connections = node.pools.open_connections() as f64;
    text.gauge(
        "cloudkv_router_node_connections",
        help,
        &labels,
        connections,
    );
    if let Some(round_trip) = node.round_trip() {
        let help = "Moving average of the round trip to a node.";
        let round_trip = round_trip.as_secs_f64();
        text.gauge(
            "cloudkv_router_node_round_trip_seconds",
            help,
            &labels,
            round_trip,
        );
    }
}

/// Builds the routes of the admin port.
pub(crate) fn router(status: RouterStatus, token: Option<&Secret>) -> Router {
    admin::router(Arc::new(status), token, Router::new()).fallback(no_such_route)
}

async fn no_such_route() -> Response {
    error_response(
        StatusCode::NOT_FOUND,
        "no_such_route",
        "this is a router's admin port: it has /healthz, /readyz, /metrics and /status",
    )
}
