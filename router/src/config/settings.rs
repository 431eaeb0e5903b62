//! The list of settings: the one place where each is declared, documented and given its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloudkv_common::config::{
    FilePath, HostPorts, Kib, ListenAddress, LogFormat, LogFormatKind, LogLevels, Mib, Networks,
    Number, Optional, RegionName, RegionNameKind, Secret, SecretToken, TimeSpan,
};
use ipnet::IpNet;

use super::kinds::{Domain, DomainName};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

cloudkv_common::settings! {
    [
        seeds, http, https, tls_cert, tls_key, rpc_cert, rpc_key, rpc_ca, admin, domain, region,
        log_level,
    ]

    /// Nodes from which the topology is learned at first: the addresses of their `rpc`. One
    /// reachable node is enough.
    seeds: Vec<String> = HostPorts => "127.0.0.1:7070",

    /// Address for users, without encryption.
    http: SocketAddr = ListenAddress => "127.0.0.1:8000",

    /// Address for users, with TLS: it needs `tls_cert` and `tls_key`.
    https: Option<SocketAddr> = Optional(ListenAddress) => "",

    /// File with the certificate and its chain, in PEM, for `https`. A changed file is reloaded
    /// within a second.
    tls_cert: Option<PathBuf> = Optional(FilePath) => "",

    /// File with the certificate's private key, in PEM.
    tls_key: Option<PathBuf> = Optional(FilePath) => "",

    /// File with the router's certificate for nodes and its chain, in PEM. With it, and `rpc_key`
    /// and `rpc_ca`, connections to nodes are encrypted, like those between nodes.
    rpc_cert: Option<PathBuf> = Optional(FilePath) => "",

    /// File with the private key of `rpc_cert`, in PEM.
    rpc_key: Option<PathBuf> = Optional(FilePath) => "",

    /// File with the certificate authority of the nodes, in PEM.
    rpc_ca: Option<PathBuf> = Optional(FilePath) => "",

    /// Address of the admin port: /healthz, /readyz and /metrics. Beyond the loopback interface it
    /// needs an admin token.
    admin: SocketAddr = ListenAddress => "127.0.0.1:9091",

    /// Token that calls of the admin port carry in `Authorization: Bearer`, except for /healthz and
    /// /readyz. It is better given by variable or file: other users of the machine can see flags.
    admin_token: Option<Secret> = Optional(SecretToken) => "",

    /// Domain of the public names: `api.DOMAIN` is the nearest healthy region, and
    /// `api.REGION.DOMAIN` that region.
    domain: Domain = DomainName => "cloudkv.io",

    /// Region of the router: the first choice for the global name, if it is healthy.
    region: RegionName = RegionNameKind => "local",

    /// Trusted proxies in front of the router, as addresses or networks: their headers `Forwarded`
    /// and `X-Forwarded-For` are used.
    trusted_proxies: Vec<IpNet> = Networks => "",

    /// Log level, or several for parts of the program, as in `info,cloudkv_router::proxy=debug`.
    log_level: String = LogLevels => "info",

    /// Format of the log: `text` or `json`.
    log_format: LogFormat = LogFormatKind => "text",

    /// Maximum number of users' connections. Beyond it, the one that has been idle for the longest
    /// time is closed; if none is idle, new ones are answered 503. If the process may not open as
    /// many files as they and their connections to nodes need, the number is lowered. It also
    /// bounds the connections to each node, of which event streams take nine tenths at most.
    max_connections: usize = Number { min: 1, max: 1_000_000 } => "10000",

    /// Maximum number of connections of one address, but never more than half of `max_connections`.
    /// Beyond it, the address's connection that has been idle for the longest time is closed; if
    /// none is idle, new ones are answered 503. IPv6 addresses with the same first 64 bits count as
    /// one. `trusted_proxies` aren't limited.
    address_connections: usize = Number { min: 1, max: 1_000_000 } => "1000",

    /// Maximum number of requests in progress of one address, over HTTP/2 or through trusted
    /// proxies; more are answered 503.
    address_requests: usize = Number { min: 1, max: 1_000_000 } => "4000",

    /// Time for a client to send a request's headers, and for the TLS handshake.
    header_timeout: Duration = TimeSpan { min_ms: 100, max_ms: 5 * MINUTE } => "10s",

    /// Time after which a connection without a request is closed.
    idle_timeout: Duration = TimeSpan { min_ms: 100, max_ms: 60 * MINUTE } => "60s",

    /// Time that a response may make no progress because its client doesn't read; then its
    /// connection or its HTTP/2 stream is closed.
    write_timeout: Duration = TimeSpan { min_ms: 100, max_ms: 5 * MINUTE } => "30s",

    /// Memory for responses that clients haven't read yet, in MiB, of which one address gets half;
    /// reads that don't fit are answered 503. The first 16 KiB on each connection don't count.
    answer_memory_mib: Mib = Number { min: Mib(4), max: Mib(65_536) } => "64",

    /// Responses that may be queued on one HTTP/2 connection, in KiB: beyond it no further read is
    /// started until the client has read some of them.
    connection_answers_kib: Kib = Number { min: Kib(16), max: Kib(1 << 20) } => "1024",

    /// Time until a response begins, over all attempts; after it the response is 504 if the request
    /// may have been executed, else 503. It should be more than the nodes' `request_timeout`. A
    /// batch has three times as long.
    request_timeout: Duration = TimeSpan { min_ms: 100, max_ms: 5 * MINUTE } => "15s",

    /// Time for one attempt of a request that can be repeated; then another node is tried.
    retry_after: Duration = TimeSpan { min_ms: 10, max_ms: MINUTE } => "3s",

    /// Maximum size of a request's body that is buffered until there is a response, in KiB, so that
    /// it can be sent to another node. Longer ones are sent only once.
    retry_buffer_kib: Kib = Number { min: Kib(0), max: Kib(16_384) } => "64",

    /// Memory for all bodies that are buffered for retries, in MiB, of which one address gets half;
    /// bodies that don't fit are sent only once.
    retry_memory_mib: Mib = Number { min: Mib(0), max: Mib(65_536) } => "64",

    /// Maximum share of requests that are retried, in percent.
    retry_percent: u32 = Number { min: 0, max: 100 } => "20",

    /// Interval of health checks of each node.
    check_interval: Duration = TimeSpan { min_ms: 20, max_ms: MINUTE } => "250ms",

    /// Time for requests in progress to complete when the router stops.
    drain_timeout: Duration = TimeSpan { min_ms: 0, max_ms: 10 * MINUTE } => "20s",

    /// Number of threads that serve users; 0: one less than there are cores, and at least one.
    threads: usize = Number { min: 0, max: 1024 } => "0",
}
