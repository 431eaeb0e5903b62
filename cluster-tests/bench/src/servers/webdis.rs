//! Debian's webdis in front of redis-server with `appendfsync always`.
//!
//! The best settings for webdis were measured (two cores, 64 connections, 100 B, every combination
//! of 1, 2 and 4 threads, 1, 4 and 20 Redis connections, TCP and Unix socket, twice, in November
//! 2026): the Unix socket gains 10 to 25 % over TCP, two threads are best or within the noise of
//! it, and 4 connections a thread beat the built-in 20 by 10 % in PUT. That is [`Tuning::Best`].
//! [`Tuning::Debian`] is the package's own configuration (2 threads, TCP, the built-in pool), about
//! 25 % slower in PUT.

use super::endpoint::{Endpoint, Paths};
use super::kind::ServerKind;
use crate::http;
use crate::process::{ChildProcess, find_program, free_port};
use crate::workload::fill_value;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Command that installs the two programs.
pub(crate) const INSTALL_COMMAND: &str = "apt-get install webdis redis-server";
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Configuration of webdis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tuning {
    /// Fastest measured: Unix socket, 2 threads, 4 connections each.
    Best,
    /// As the Debian package ships it: TCP, 2 threads, built-in number of connections.
    Debian,
}

/// Both processes.
#[derive(Debug)]
pub(crate) struct Webdis {
    _redis: ChildProcess,
    _webdis: ChildProcess,
    /// The pair as a client sees it.
    pub endpoint: Endpoint,
}

impl Webdis {
    /// Starts both below `dir`; `None` if they aren't installed.
    pub(crate) async fn start(dir: &Path, sizes: &[usize], tuning: Tuning) -> Result<Option<Self>> {
        let (Some(redis), Some(webdis)) = (find_program("redis-server"), find_program("webdis"))
        else {
            return Ok(None);
        };
        let dir = dir.join("redis");
        std::fs::create_dir(&dir).context("create directory for redis")?;
        // The kernel limits the length of a socket's path.
        let socket = dir.join("redis.sock");
        ensure!(
            socket.as_os_str().len() < 107,
            "{} is too long for a socket",
            socket.display()
        );

        let redis_port = free_port().await?;
        let mut redis =
            ChildProcess::start("redis", &redis, redis_args(&dir, &socket, redis_port), &dir)?;
        let is_up = || async { tokio::net::UnixStream::connect(&socket).await.ok() };
        redis.wait_for("connection", START_TIMEOUT, is_up).await?;

        let port = free_port().await?;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let file = dir.join("webdis.json");
        let config = webdis_config(tuning, port, redis_port, &socket);
        std::fs::write(&file, config.to_string()).context("write webdis.json")?;
        let mut webdis = ChildProcess::start("webdis", &webdis, [&file], &dir)?;
        let is_up = || async {
            http::expect_success(addr, "GET", "/GET/nothing", Vec::new())
                .await
                .ok()
        };
        webdis.wait_for("response", START_TIMEOUT, is_up).await?;

        let pids = vec![redis.pid(), webdis.pid()];
        let paths = sizes.iter().map(|size| paths(*size)).collect();
        let endpoint = Endpoint {
            kind: ServerKind::Webdis,
            addr,
            pids,
            paths,
        };
        let pair = Self {
            _redis: redis,
            _webdis: webdis,
            endpoint,
        };
        pair.check_bytes().await?;
        Ok(Some(pair))
    }

    /// Verifies that a GET returns the bytes that were PUT; else nothing could be compared.
    async fn check_bytes(&self) -> Result<()> {
        for paths in &self.endpoint.paths {
            let mut value = vec![0; paths.value_size];
            fill_value(&mut value, 1, 1);
            let (put, get) = (&paths.put, &paths.get);
            let addr = self.endpoint.addr;
            http::expect_success(addr, "PUT", &format!("{put}check"), value.clone()).await?;
            let path = format!("{get}check{}", paths.get_suffix);
            let response = http::expect_success(addr, "GET", &path, Vec::new()).await?;
            ensure!(
                response.body() == &value,
                "webdis returns other bytes than were put"
            );
        }
        Ok(())
    }
}

fn redis_args(dir: &Path, socket: &Path, port: u16) -> Vec<OsString> {
    let port = port.to_string();
    let plain = [
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
        "--daemonize",
        "no",
        "--loglevel",
        "warning",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
        // A rewrite of the log in the middle of a cell would distort it.
        "--auto-aof-rewrite-percentage",
        "0",
    ];
    let mut args: Vec<OsString> = plain.iter().map(OsString::from).collect();
    args.extend([
        "--dir".into(),
        dir.into(),
        "--unixsocket".into(),
        socket.into(),
    ]);
    args
}

fn webdis_config(tuning: Tuning, port: u16, redis_port: u16, socket: &Path) -> Value {
    let mut config = json!({
        "redis_host": "127.0.0.1",
        "redis_port": redis_port,
        "redis_auth": null,
        "http_host": "127.0.0.1",
        "http_port": port,
        "threads": 2,
        "daemonize": false,
        "websockets": false,
        "database": 0,
        "acl": [{"disabled": ["DEBUG"]}],
        // Errors only, and discarded.
        "verbosity": 0,
        "logfile": "/dev/null",
    });
    if tuning == Tuning::Best {
        config["redis_host"] = json!(socket);
        config["pool_size"] = json!(4);
    }
    config
}

/// Keys of different sizes have different names; `.txt` makes the response the bare value.
fn paths(value_size: usize) -> Paths {
    Paths {
        value_size,
        get: format!("/GET/v{value_size}-"),
        get_suffix: ".txt".to_owned(),
        put: format!("/SET/v{value_size}-"),
    }
}
