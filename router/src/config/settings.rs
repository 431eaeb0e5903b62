//! The list of settings: the one place where each is declared, documented and given its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloudkv_common::config::{
    Address, File, Format, HostPorts, Kib, Levels, LogFormat, Maybe, Mib, Name, Networks, Number,
    Region, Secret, Span, Token,
};
use cloudkv_common::network::Network;

use super::kinds::{Domain, DomainName};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

cloudkv_common::settings! {
    [
        seeds, http, https, tls_cert, tls_key, rpc_cert, rpc_key, rpc_ca, admin, domain, region,
        log_level,
    ]

    /// Nodes that are asked first where the others are: the addresses of their `rpc`. Any one that
    /// answers is enough.
    seeds: Vec<String> = HostPorts => "127.0.0.1:7070",

    /// Address for users, without encryption.
    http: SocketAddr = Address => "127.0.0.1:8000",

    /// Address for users, with TLS: it needs `tls_cert` and `tls_key`.
    https: Option<SocketAddr> = Maybe(Address) => "",

    /// File with the certificate and those that sign it, in PEM, for `https`. A file that changes
    /// is read again within a second.
    tls_cert: Option<PathBuf> = Maybe(File) => "",

    /// File with the certificate's private key, in PEM.
    tls_key: Option<PathBuf> = Maybe(File) => "",

    /// File with the router's certificate for nodes, in PEM, with those that sign it. With it, and
    /// `rpc_key` and `rpc_ca`, all that goes to nodes is encrypted, as nodes do it among
    /// themselves.
    rpc_cert: Option<PathBuf> = Maybe(File) => "",

    /// File with the private key of `rpc_cert`, in PEM.
    rpc_key: Option<PathBuf> = Maybe(File) => "",

    /// File with the authority whose nodes are believed, in PEM.
    rpc_ca: Option<PathBuf> = Maybe(File) => "",

    /// Address for the operator: /healthz, /readyz and /metrics. Beyond the loopback interface it
    /// needs an admin token.
    admin: SocketAddr = Address => "127.0.0.1:9091",

    /// Token that the operator's calls carry in `Authorization: Bearer`, all but /healthz and
    /// /readyz. Better given by variable or file: other users of the machine can see flags.
    admin_token: Option<Secret> = Maybe(Token) => "",

    /// Domain of the names that users ask for: `api.DOMAIN` is the nearest healthy region, and
    /// `api.REGION.DOMAIN` that region.
    domain: Domain = DomainName => "cloudkv.io",

    /// Region that the router is in: the one that it begins with, if it is healthy.
    region: Region = Name => "local",

    /// Proxies in front of the router, as addresses or networks: what they say in `Forwarded` and
    /// `X-Forwarded-For` is believed.
    trusted_proxies: Vec<Network> = Networks => "",

    /// What is logged: a level, or several for parts of the program, as in
    /// `info,cloudkv_router::proxy=debug`.
    log_level: String = Levels => "info",

    /// Form of the log lines: `text` or `json`.
    log_format: LogFormat = Format => "text",

    /// Connections of users that are held at once. Beyond it, the one that has been idle for the
    /// longest time is closed; if none is idle, new ones are answered 503. If the process may not
    /// open as many files as they and their connections to nodes need, it holds as many as fit.
    max_connections: usize = Number { min: 1, max: 1_000_000 } => "10000",

    /// Connections that one address may have, but never more than half of `max_connections`. Beyond
    /// it, its own one that has been idle for the longest time is closed; if none is idle, it is
    /// answered 503. IPv6 addresses with the same first 64 bits count as one. `trusted_proxies`
    /// aren't limited.
    address_connections: usize = Number { min: 1, max: 1_000_000 } => "1000",

    /// Requests of one address that may be under way over HTTP/2, or for which trusted proxies ask;
    /// more are answered 503.
    address_requests: usize = Number { min: 1, max: 1_000_000 } => "4000",

    /// Time that a client may take to send a request's headers, and to agree on encryption.
    header_timeout: Duration = Span { min_ms: 100, max_ms: 5 * MINUTE } => "10s",

    /// Time after which a connection without a request is closed.
    idle_timeout: Duration = Span { min_ms: 100, max_ms: 60 * MINUTE } => "60s",

    /// Time that an answer may make no progress, since its client doesn't take it; then its connection
    /// is closed, or its HTTP/2 stream.
    write_timeout: Duration = Span { min_ms: 100, max_ms: 5 * MINUTE } => "30s",

    /// Memory for answers that their clients haven't taken yet, in MiB, of which one address gets
    /// half; reads that don't fit are answered 503. The first 16 KiB on each connection don't count.
    answer_memory_mib: Mib = Number { min: Mib(4), max: Mib(65_536) } => "64",

    /// Answers that may wait on one HTTP/2 connection, in KiB: it begins no further read until some of
    /// them have been taken.
    connection_answers_kib: Kib = Number { min: Kib(16), max: Kib(1 << 20) } => "1024",

    /// Time for a request, all tries together; past it the answer is 504 if it may have been done,
    /// else 503. It should be more than the nodes' `request_timeout`.
    request_timeout: Duration = Span { min_ms: 100, max_ms: 5 * MINUTE } => "15s",

    /// Time for a node to answer what can be asked again; then another node is asked.
    retry_after: Duration = Span { min_ms: 10, max_ms: MINUTE } => "3s",

    /// Bytes of a request's body that are kept until it is answered, in KiB, so that it can be sent
    /// to another node. What is longer is sent once.
    retry_buffer_kib: Kib = Number { min: Kib(0), max: Kib(16_384) } => "64",

    /// Memory for all that is kept so, in MiB, of which one address gets half; what doesn't fit is sent
    /// once.
    retry_memory_mib: Mib = Number { min: Mib(0), max: Mib(65_536) } => "64",

    /// Requests that may be sent again, of 100.
    retry_percent: u32 = Number { min: 0, max: 100 } => "20",

    /// How often each node is asked whether it serves.
    check_interval: Duration = Span { min_ms: 20, max_ms: MINUTE } => "250ms",

    /// Time that requests under way get to finish when the router stops.
    drain_timeout: Duration = Span { min_ms: 0, max_ms: 10 * MINUTE } => "20s",

    /// Threads that serve users; 0: one less than there are cores, and one at least.
    threads: usize = Number { min: 0, max: 1024 } => "0",
}
