//! Proxies in front of a node: our router, and Debian's HAProxy and nginx, with keep-alive
//! connections to the node.
//!
//! Each has its default number of threads: HAProxy and nginx (in Debian's configuration) one for
//! each processor, the router one less. Or all have the requested number.

use super::kind::ServerKind;
use crate::http;
use crate::process::{ChildProcess, find_program, free_port};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A proxy in front of a node.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Kind of the proxy.
    pub kind: ServerKind,
    /// Listening address.
    pub addr: SocketAddr,
    child: ChildProcess,
}

impl Proxy {
    /// Starts our router.
    pub(crate) async fn router(
        binary: &Path,
        rpc: SocketAddr,
        dir: &Path,
        threads: Option<usize>,
    ) -> Result<Self> {
        ensure!(
            binary.exists(),
            "{} is missing: build it with `cargo build --release -p cloudkv-router`",
            binary.display()
        );
        let (addr, admin) = (free_address().await?, free_address().await?);
        let args = [
            format!("--seeds={rpc}"),
            format!("--http={addr}"),
            format!("--admin={admin}"),
            format!("--threads={}", threads.unwrap_or(0)),
        ];
        let child = ChildProcess::start("cloudkv-router", binary, args, dir)?;
        Self::wait_ready(ServerKind::Router, addr, child).await
    }

    /// Starts HAProxy; `None` if it isn't installed.
    pub(crate) async fn haproxy(
        node: SocketAddr,
        dir: &Path,
        threads: Option<usize>,
    ) -> Result<Option<Self>> {
        let Some(binary) = find_server("haproxy") else {
            return Ok(None);
        };
        let addr = free_address().await?;
        let file = dir.join("haproxy.cfg");
        fs::write(&file, haproxy_config(addr, node, thread_count(threads)))
            .context("write haproxy.cfg")?;
        let args = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
        let child = ChildProcess::start("haproxy", &binary, args, dir)?;
        Self::wait_ready(ServerKind::Haproxy, addr, child)
            .await
            .map(Some)
    }

    /// Starts nginx; `None` if it isn't installed.
    pub(crate) async fn nginx(
        node: SocketAddr,
        dir: &Path,
        threads: Option<usize>,
    ) -> Result<Option<Self>> {
        let Some(binary) = find_server("nginx") else {
            return Ok(None);
        };
        let addr = free_address().await?;
        let file = dir.join("nginx.conf");
        fs::write(&file, nginx_config(addr, node, dir, thread_count(threads)))
            .context("write nginx.conf")?;
        let args = [
            "-c".as_ref(),
            file.as_os_str(),
            "-p".as_ref(),
            dir.as_os_str(),
        ];
        let child = ChildProcess::start("nginx", &binary, args, dir)?;
        Self::wait_ready(ServerKind::Nginx, addr, child)
            .await
            .map(Some)
    }

    async fn wait_ready(
        kind: ServerKind,
        addr: SocketAddr,
        mut child: ChildProcess,
    ) -> Result<Self> {
        let probe = || async {
            http::expect_success(addr, "GET", "/ping", Vec::new())
                .await
                .ok()
        };
        child.wait_for("response", START_TIMEOUT, probe).await?;
        Ok(Self { kind, addr, child })
    }

    /// Process ids: the one that was started, and its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let first = self.child.pid();
        let path = format!("/proc/{first}/task/{first}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace();
        let children = children.filter_map(|pid| pid.parse().ok());
        std::iter::once(first).chain(children).collect()
    }
}

async fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port().await?)))
}

impl Drop for Proxy {
    /// A killed process leaves its children behind: nginx's would live on.
    fn drop(&mut self) {
        for pid in self.pids() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // Fails only if it has exited already.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

/// Servers aren't in the `PATH` of every user.
fn find_server(program: &str) -> Option<PathBuf> {
    let system = Path::new("/usr/sbin").join(program);
    find_program(program).or_else(|| system.is_file().then_some(system))
}

fn thread_count(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn haproxy_config(addr: SocketAddr, node: SocketAddr, threads: usize) -> String {
    format!(
        "global\n    nbthread {threads}\n    maxconn 4096\n\
         defaults\n    mode http\n    timeout connect 1s\n    timeout client 30s\n    \
         timeout server 30s\n    option http-keep-alive\n    http-reuse always\n    \
         option forwardfor\n\
         frontend users\n    bind {addr}\n    default_backend nodes\n\
         backend nodes\n    server node {node} pool-max-conn 512\n"
    )
}

fn nginx_config(addr: SocketAddr, node: SocketAddr, dir: &Path, threads: usize) -> String {
    let dir = dir.display();
    format!(
        "worker_processes {threads};\ndaemon off;\npid {dir}/nginx.pid;\n\
         error_log {dir}/nginx-errors.log error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n    access_log off;\n    keepalive_requests 1000000000;\n    \
         client_body_temp_path {dir}/nginx-body;\n    proxy_temp_path {dir}/nginx-proxy;\n    \
         fastcgi_temp_path {dir}/nginx-fastcgi;\n    uwsgi_temp_path {dir}/nginx-uwsgi;\n    \
         scgi_temp_path {dir}/nginx-scgi;\n    \
         upstream nodes {{\n        server {node};\n        keepalive 512;\n        \
         keepalive_requests 1000000000;\n    }}\n    \
         server {{\n        listen {addr};\n        location / {{\n            \
         proxy_pass http://nodes;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            \
         proxy_set_header X-Forwarded-For $remote_addr;\n        }}\n    }}\n}}\n"
    )
}
