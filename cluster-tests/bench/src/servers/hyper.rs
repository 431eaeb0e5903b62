//! The bare hyper server as a process of its own.

use super::endpoint::{Endpoint, Paths};
use super::kind::ServerKind;
use crate::hyper_server::Sample;
use crate::process::ChildProcess;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// A running bare hyper server.
#[derive(Debug)]
pub(crate) struct BareHyper {
    _child: ChildProcess,
    /// The server as a client sees it.
    pub endpoint: Endpoint,
}

impl BareHyper {
    /// Starts a server with the responses in `samples`.
    pub(crate) async fn start(samples: &[Sample], dir: &Path) -> Result<Self> {
        let (answers, address) = (dir.join("answers.json"), dir.join("hyper-address"));
        std::fs::write(&answers, serde_json::to_vec(samples)?).context("write responses")?;
        let args: [&std::ffi::OsStr; 5] = [
            "hyper-server".as_ref(),
            "--answers".as_ref(),
            answers.as_os_str(),
            "--address-file".as_ref(),
            address.as_os_str(),
        ];
        let own = std::env::current_exe().context("find own program")?;
        let mut child = ChildProcess::start("hyper-server", &own, args, dir)?;
        let addr = child
            .wait_for("address", Duration::from_secs(10), || async {
                std::fs::read_to_string(&address)
                    .ok()?
                    .parse::<SocketAddr>()
                    .ok()
            })
            .await?;
        let paths = samples.iter().map(|sample| Paths {
            value_size: sample.get_body.len(),
            get: sample.prefix.clone(),
            get_suffix: String::new(),
            put: sample.prefix.clone(),
        });
        let pids = vec![child.pid()];
        let endpoint = Endpoint {
            kind: ServerKind::Hyper,
            addr,
            pids,
            paths: paths.collect(),
        };
        Ok(Self {
            _child: child,
            endpoint,
        })
    }
}

/// Builds responses when there is no node to copy from: with headers like those of the API.
pub(crate) fn stand_in_samples(sizes: &[usize]) -> Vec<Sample> {
    let common = [
        ("etag", "\"0000019f3b2c4d5e-1\""),
        ("x-request-id", "0123456789abcdef0123456789abcdef"),
        ("access-control-allow-origin", "*"),
        (
            "access-control-expose-headers",
            "ETag, Expires, X-Request-ID, X-CloudKV-Region",
        ),
        ("x-cloudkv-region", "local"),
    ];
    let of_get = [
        ("content-type", "application/octet-stream"),
        ("last-modified", "Mon, 23 Nov 2026 00:00:00 GMT"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("cross-origin-resource-policy", "cross-origin"),
    ];
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let sample = |size: &usize| Sample {
        prefix: format!("/kv/astandin{size:06}/"),
        get_headers: of_get.iter().chain(&common).map(owned).collect(),
        get_body: vec![b'x'; *size],
        put_headers: common.iter().map(owned).collect(),
    };
    sizes.iter().map(sample).collect()
}
