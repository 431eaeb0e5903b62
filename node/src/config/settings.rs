//! The list of settings: the one place where each is declared, documented and given its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloudkv_common::config::{
    AddressOverrides, DirectoryPath, FilePath, HostPort, HostPorts, Kib, ListenAddress, LogFormat,
    LogFormatKind, LogLevels, Mib, Networks, NodeName, Number, Optional, RegionName,
    RegionNameKind, Secret, SecretToken, Switch, TimeSpan, TimeSpanOrOff,
};
use ipnet::IpNet;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

cloudkv_common::settings! {
    [
        data_dir, region, http, rpc, admin, init, join, name, advertise_rpc, shards, rpc_cert,
        rpc_key, rpc_ca, log_level,
    ]

    /// Directory for all data of the node. It belongs to one process at a time.
    data_dir: PathBuf = DirectoryPath => "./data",

    /// Region that the node belongs to.
    region: RegionName = RegionNameKind => "local",

    /// Address of the public HTTP API.
    http: SocketAddr = ListenAddress => "127.0.0.1:8080",

    /// Address for the other nodes of the cluster, and for routers. Beyond the loopback interface
    /// it needs certificates: `rpc_cert`, `rpc_key` and `rpc_ca`; on it, without them, every
    /// process of the machine can read and change everything in the cluster. The default is
    /// 127.0.0.1:7070 for a node with `init` or `join`, or of a cluster of several nodes; any other
    /// node doesn't listen for nodes and routers at all.
    rpc: Option<SocketAddr> = Optional(ListenAddress) => "",

    /// PEM file with this node's certificate, which names the host of `advertise_rpc`;
    /// `cloudkv-node certs` makes such files. It, the key and the CA are reloaded when they change.
    rpc_cert: Option<PathBuf> = Optional(FilePath) => "",

    /// PEM file with the private key of `rpc_cert`.
    rpc_key: Option<PathBuf> = Optional(FilePath) => "",

    /// PEM file with the certificates of the CAs that must have issued the certificates of other
    /// nodes and routers.
    rpc_ca: Option<PathBuf> = Optional(FilePath) => "",

    /// Address of the admin port: /healthz, /readyz, /metrics, /status and /plans. Beyond the
    /// loopback interface it needs an admin token.
    admin: SocketAddr = ListenAddress => "127.0.0.1:9090",

    /// Token that calls of the admin port carry in `Authorization: Bearer`, except for /healthz and
    /// /readyz. It is better given by variable or file: other users of the machine can see flags.
    admin_token: Option<Secret> = Optional(SecretToken) => "",

    /// Creates a cluster in an empty data directory. A node without `join` does so anyway; this
    /// makes it explicit, and refuses `join`.
    init: bool = Switch => "false",

    /// Joins the cluster of one of these nodes, unless the data directory belongs to one already.
    /// They are tried in turn until one answers. This node's own `advertise_rpc` is ignored: a node
    /// whose list has no other address creates a cluster.
    join: Vec<String> = HostPorts => "",

    /// Display name of the node, in `admin status` and in commands. The default is the host of
    /// `advertise_rpc`, or of `rpc` without that.
    name: Option<String> = Optional(NodeName) => "",

    /// Address at which other nodes and routers reach this one, if it differs from `rpc`.
    advertise_rpc: Option<String> = Optional(HostPort) => "",

    /// Address at which routers reach this node's public API, if it differs from `http`; if that is
    /// on all interfaces, the default is the host of `advertise_rpc`.
    advertise_http: Option<String> = Optional(HostPort) => "",

    /// Addresses to connect to instead of those that other nodes advertise: for port forwards, and
    /// for proxies in tests.
    rpc_via: Vec<(String, String)> = AddressOverrides => "",

    /// File with a number of milliseconds that is added to the system's clock, for tests of clock
    /// skew. It is read when the node starts, and once a second.
    clock_file: Option<PathBuf> = Optional(FilePath) => "",

    /// Number of shards of a new cluster; the default is 3. More than three nodes of a region share
    /// the load only if there are at least as many shards; with few nodes, writes are faster with
    /// few shards. It can't be changed later: a different number for an existing directory is
    /// refused.
    shards: Option<u16> = Optional(Number { min: 1, max: 64 }) => "",

    /// Log level, or several for parts of the program, as in `info,cloudkv_node::raft=debug`.
    /// Libraries stay at `info`, and openraft at `error`, unless they are named, as in
    /// `debug,openraft=debug`.
    log_level: String = LogLevels => "info",

    /// Format of the log: `text` or `json`.
    log_format: LogFormat = LogFormatKind => "text",

    /// Memory for blocks that were read from disk, in MiB; 0: a quarter of the memory of the
    /// machine or the container.
    block_cache_mib: Mib = Number { min: Mib(0), max: Mib(1 << 20) } => "0",

    /// Memory for writes that are not yet in the state's files, in MiB: they are flushed when they
    /// reach it. With more, a restart replays more of the log.
    write_buffer_mib: Mib = Number { min: Mib(1), max: Mib(16_384) } => "64",

    /// Maximum number of MiB a second that flushes and compactions of the state write; lowered to
    /// as little as a twentieth while there is little to do, so that they don't delay writes.
    /// 0: no limit.
    compaction_mib_per_s: Mib = Number { min: Mib(0), max: Mib(65_536) } => "512",

    /// Size of a segment of the log, in MiB; segments are filled and then reused.
    log_segment_mib: Mib = Number { min: Mib(1), max: Mib(1024) } => "16",

    /// Disk space that the log may use to retain entries for nodes that lag or receive a snapshot,
    /// in MiB, and never more than a fifth of the disk. When it is exceeded, an alarm is raised,
    /// and those nodes need another snapshot. An entry counts for 1 KiB at least, since memory
    /// holds the position of each.
    log_retention_mib: Mib = Number { min: Mib(64), max: Mib(1 << 20) } => "2048",

    /// Share of its time that a node may spend on reading snapshots for other nodes, and on writing
    /// received ones, in percent each: users' requests get the rest.
    snapshot_percent: usize = Number { min: 1, max: 100 } => "30",

    /// Memory for recent log entries, in MiB, from which followers that keep up are served.
    log_cache_mib: Mib = Number { min: Mib(1), max: Mib(16_384) } => "16",

    /// Memory for recently changed records, in MiB: the next write to the same key needs no read
    /// from disk.
    record_cache_mib: Mib = Number { min: Mib(1), max: Mib(16_384) } => "16",

    /// Memory for recent changes of all shards, in MiB: clients that watch a bucket go on from them
    /// after they have connected again. With less, they are told sooner that they may have missed
    /// some.
    recent_changes_mib: Mib = Number { min: Mib(1), max: Mib(65_536) } => "32",

    /// Memory for older changes that exports and new watchers still need, in MiB. An export that
    /// needs more ends without a position from which a watch can go on.
    pinned_changes_mib: Mib = Number { min: Mib(1), max: Mib(65_536) } => "64",

    /// Maximum number of connections of the public API. Beyond it, the one that has been idle for
    /// the longest time is closed; if none is idle, new ones are answered 503. If the process may
    /// not open that many files, the number is lowered, and the log of the start says so.
    max_connections: usize = Number { min: 1, max: 1_000_000 } => "10000",

    /// Maximum number of connections of one address, but never more than half of `max_connections`.
    /// Beyond it, the address's connection that has been idle for the longest time is closed; if
    /// none is idle, new ones are answered 503. IPv6 addresses with the same first 64 bits count as
    /// one. Routers of the cluster and `trusted_proxies` aren't limited.
    address_connections: usize = Number { min: 1, max: 1_000_000 } => "1000",

    /// Maximum number of requests in progress of one address, over HTTP/2 or through trusted
    /// proxies; more are answered 503. Requests that a router of the cluster has counted aren't
    /// counted again.
    address_requests: usize = Number { min: 1, max: 1_000_000 } => "4000",

    /// Time for a client to send a request's headers.
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

    /// Time that a client's body may make no progress.
    body_timeout: Duration = TimeSpan { min_ms: 100, max_ms: 5 * MINUTE } => "10s",

    /// Minimum rate of a body in bytes per second, once `body_timeout` has passed since its start;
    /// slower ones are answered 408. 0: no minimum.
    min_body_rate: usize = Number { min: 0, max: 1 << 30 } => "1024",

    /// Time for a write; after it the response is 504 `unknown_outcome`.
    request_timeout: Duration = TimeSpan { min_ms: 100, max_ms: 5 * MINUTE } => "10s",

    /// Time that a read waits for changes that its client has seen in another region; after it the
    /// response is 503.
    session_wait: Duration = TimeSpan { min_ms: 0, max_ms: 5 * MINUTE } => "1s",

    /// Time for requests in progress to complete when the node stops.
    drain_timeout: Duration = TimeSpan { min_ms: 0, max_ms: 10 * MINUTE } => "20s",

    /// Memory for request bodies that are being received, in MiB, of which one address gets half;
    /// bodies that don't fit are answered 503. It is used as bytes arrive; the first 16 KiB of a
    /// body don't count.
    body_memory_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "64",

    /// Maximum number of operations of one batch.
    batch_operations: usize = Number { min: 1, max: 10_000 } => "1000",

    /// Maximum size of a batch in MiB, and never more than half of `body_memory_mib`.
    batch_mib: Mib = Number { min: Mib(1), max: Mib(16) } => "8",

    /// Maximum number of clients that watch a bucket or a key. More are told to come back later, as
    /// are those beyond `max_bucket_watchers` and `address_watchers`.
    max_watchers: usize = Number { min: 1, max: 1_000_000 } => "10000",

    /// Maximum number of clients that watch one bucket, or keys of it.
    max_bucket_watchers: usize = Number { min: 1, max: 1_000_000 } => "2000",

    /// Maximum number of such clients at one address. IPv6 addresses with the same first 64 bits
    /// count as one.
    address_watchers: usize = Number { min: 1, max: 1_000_000 } => "500",

    /// Memory for changes of one bucket that some watcher has yet to be told, in KiB. Beyond it the
    /// slowest watchers are told that they have missed changes, and are disconnected.
    watch_buffer_kib: Kib = Number { min: Kib(64), max: Kib(1 << 20) } => "4096",

    /// Memory for such changes of all buckets, in MiB.
    watch_buffers_mib: Mib = Number { min: Mib(1), max: Mib(65_536) } => "64",

    /// Maximum number of exports that run at a time; more are answered 503.
    max_exports: usize = Number { min: 1, max: 1000 } => "4",

    /// Maximum number of imports that run at a time; more are answered 503.
    max_imports: usize = Number { min: 1, max: 1000 } => "4",

    /// Memory for writes that wait for replication, in MiB; more are refused with 503.
    proposal_queue_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "32",

    /// Memory for changes of other regions that wait for replication, in MiB; more are refused, and
    /// sent again by their region.
    geo_queue_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "32",

    /// Share of its time that a node may spend on sending missed changes to a region that catches
    /// up, and on merging received ones, in percent each: users' requests get the rest. It is
    /// exceeded if the region would not catch up otherwise.
    geo_catch_up_percent: usize = Number { min: 1, max: 100 } => "30",

    /// Share of the disk for changes that some other region lacks, in percent. When half of it is
    /// used, an alarm is raised; when all of it is used, the unreachable region that lacks most is
    /// removed, and can only come back by joining again.
    geo_budget_percent: usize = Number { min: 1, max: 90 } => "20",

    /// Disk space for changes that some other region lacks, in MiB, if that is less than
    /// `geo_budget_percent`; 0: only the percentage counts.
    geo_budget_mib: Mib = Number { min: Mib(0), max: Mib(1 << 30) } => "0",

    /// Low-water mark of free disk space, in MiB. Below it the node accepts no writes that need
    /// more space: it transfers its leadership, and serves reads and deletes. Below a quarter of it
    /// the node accepts no writes at all. It should cover the needs of log and state while the disk
    /// is full: several times `write_buffer_mib`. 0: there is no mark, and a full disk stops the
    /// node.
    disk_low_water_mib: Mib = Number { min: Mib(0), max: Mib(1 << 30) } => "1024",

    /// Memory for requests that wait for a shard's leader, in MiB; more are refused with 503.
    held_requests_mib: Mib = Number { min: Mib(1), max: Mib(65_536) } => "32",

    /// Memory for calls that wait to be sent to another node, in MiB for each node; more are
    /// refused with 503.
    peer_queue_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "64",

    /// Maximum size of the writes in one log entry, in KiB. A larger write gets an entry of its
    /// own.
    max_batch_kib: Kib = Number { min: Kib(1), max: Kib(16_384) } => "1024",

    /// Maximum number of writes in one log entry.
    max_batch_writes: usize = Number { min: 1, max: 65_536 } => "512",

    /// Number of threads that serve users; 0: one per core. Up to four more threads do work that is
    /// neither for users nor for Raft.
    http_threads: usize = Number { min: 0, max: 1024 } => "0",

    /// Number of threads for Raft; 0: the threads that serve users do its work, too. Then a write
    /// changes threads less often, which a single client of a single node notices; with several
    /// nodes, load could delay elections.
    raft_threads: usize = Number { min: 0, max: 64 } => "1",

    /// Lets users choose the plan of a bucket themselves; else only the operator does.
    plans_self_service: bool = Switch => "true",

    /// Maximum number of accounts of the cluster.
    max_accounts: u64 = Number { min: 1, max: 1_000_000_000 } => "1000000",

    /// Maximum number of buckets of the cluster.
    max_buckets: u64 = Number { min: 1, max: 1_000_000_000 } => "1000000",

    /// Maximum number of buckets, and of accounts with them, that one address may create within an
    /// hour at this node; 0: unlimited. IPv6 addresses with the same first 64 bits count as one.
    address_creations_per_hour: u32 = Number { min: 0, max: 1_000_000 } => "1000",

    /// Trusted proxies in front of the node, as addresses or networks: their creations, requests
    /// and bodies count for the address in `X-Forwarded-For`. Routers of the cluster needn't be
    /// listed: they are known by their certificates or, without certificates, by the rpc port on
    /// the same machine.
    trusted_proxies: Vec<IpNet> = Networks => "",

    /// Time after which an account without buckets expires; 0: never.
    account_idle_ttl: Option<Duration> =
        TimeSpanOrOff(TimeSpan { min_ms: MINUTE, max_ms: 3650 * DAY }) => "7d",

    /// Interval at which estimated key counts and read counts are published.
    stats_interval: Duration = TimeSpan { min_ms: 100, max_ms: 10 * SECOND } => "5s",
}
