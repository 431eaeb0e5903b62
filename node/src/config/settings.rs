//! The list of settings: the one place where each is declared, documented and given its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloudkv_common::config::{
    Address, Detours, File, Folder, Format, HostPort, HostPorts, Kib, Levels, LogFormat, Maybe,
    Mib, Name, Networks, NodeName, Number, OrOff, Region, Secret, Span, Switch, Token,
};
use cloudkv_common::network::Network;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

cloudkv_common::settings! {
    [
        data_dir, region, http, rpc, admin, init, join, name, advertise_rpc, shards, rpc_cert,
        rpc_key, rpc_ca, log_level,
    ]

    /// Directory that holds all that the node stores. It belongs to one process at a time.
    data_dir: PathBuf = Folder => "./data",

    /// Region that the node belongs to.
    region: Region = Name => "local",

    /// Address of the public HTTP API.
    http: SocketAddr = Address => "127.0.0.1:8080",

    /// Address for the other nodes of the cluster, and for routers. Beyond the loopback interface
    /// it needs certificates: `rpc_cert`, `rpc_key` and `rpc_ca`; on it, without them, every process
    /// of the machine may read and change everything in the cluster. If it isn't given, it is
    /// 127.0.0.1:7070 for a node with `init` or `join`, or of a cluster of several nodes, and any
    /// other one doesn't listen for nodes and routers at all.
    rpc: Option<SocketAddr> = Maybe(Address) => "",

    /// PEM file with the certificate that this node shows to others, which names the host of
    /// `advertise_rpc`; `cloudkv-node certs` makes such files. It, the key and the CA are read
    /// again when they change.
    rpc_cert: Option<PathBuf> = Maybe(File) => "",

    /// PEM file with the private key of `rpc_cert`.
    rpc_key: Option<PathBuf> = Maybe(File) => "",

    /// PEM file with the certificates of the CAs that other nodes' and routers' certificates must
    /// come from.
    rpc_ca: Option<PathBuf> = Maybe(File) => "",

    /// Address for the operator: /healthz, /readyz, /metrics, /status and /plans. Beyond the
    /// loopback interface it needs an admin token.
    admin: SocketAddr = Address => "127.0.0.1:9090",

    /// Token that the operator's calls carry in `Authorization: Bearer`, all but /healthz and
    /// /readyz. Better given by variable or file: other users of the machine can see flags.
    admin_token: Option<Secret> = Maybe(Token) => "",

    /// Creates a cluster in an empty data directory. It is what a node does anyway that is to join
    /// none; with this it says so, and `join` is refused.
    init: bool = Switch => "false",

    /// Joins the cluster of one of these nodes, unless the data directory belongs to one already.
    /// They are asked in turn until one answers. This node's own `advertise_rpc` is left out: a
    /// node that is told of itself alone creates a cluster.
    join: Vec<String> = HostPorts => "",

    /// What people call the node, in `admin status` and in commands. If it isn't given, it is the
    /// host of `advertise_rpc`, or of `rpc` without that.
    name: Option<String> = Maybe(NodeName) => "",

    /// Where other nodes and routers reach this one, if that isn't the address of `rpc`.
    advertise_rpc: Option<String> = Maybe(HostPort) => "",

    /// Where routers reach this node's public API, if that isn't the address of `http`; when that
    /// is all interfaces, it is the host of `advertise_rpc`.
    advertise_http: Option<String> = Maybe(HostPort) => "",

    /// Addresses to connect to in place of those that other nodes advertise: for port forwards,
    /// and for proxies in tests.
    rpc_via: Vec<(String, String)> = Detours => "",

    /// File with a number of milliseconds that is added to the system's clock, for tests of clocks
    /// that are off. It is read when the node starts, and once a second.
    clock_file: Option<PathBuf> = Maybe(File) => "",

    /// Number of shards of a cluster that is created: 3 if it isn't given. More than three nodes of
    /// a region share the work only if there are as many; writes of few nodes are faster with few.
    /// It can't be changed later: a different number on an existing directory is refused.
    shards: Option<u16> = Maybe(Number { min: 1, max: 64 }) => "",

    /// What is logged: a level, or several for parts of the program, as in
    /// `info,cloudkv_node::raft=debug`. Libraries stay at `info`, and openraft at `error`, unless
    /// they are named, as in `debug,openraft=debug`.
    log_level: String = Levels => "info",

    /// Form of the log lines: `text` or `json`.
    log_format: LogFormat = Format => "text",

    /// Memory for blocks that were read from disk, in MiB; 0: a quarter of what the machine, or
    /// the container, has.
    block_cache_mib: Mib = Number { min: Mib(0), max: Mib(1 << 20) } => "0",

    /// Memory for writes that are not yet in the state's files, in MiB: they are flushed when they
    /// reach it. More makes a restart replay more of the log.
    write_buffer_mib: Mib = Number { min: Mib(1), max: Mib(16_384) } => "64",

    /// Most MiB a second that flushes and compactions of the state's files write; with little to do,
    /// down to a twentieth of it, so that they don't delay writes. 0: no limit.
    compaction_mib_per_s: Mib = Number { min: Mib(0), max: Mib(65_536) } => "512",

    /// Size of a file of the log, in MiB; they are filled, and used again.
    log_segment_mib: Mib = Number { min: Mib(1), max: Mib(1024) } => "16",

    /// Disk that the log may take to keep what nodes lack that lag or receive a snapshot, in MiB, and
    /// never more than a fifth of the disk. When all of it is taken, an alarm is raised, and those
    /// nodes need another snapshot. An entry counts for 1 KiB at least, since memory holds where each
    /// lies.
    log_retention_mib: Mib = Number { min: Mib(64), max: Mib(1 << 20) } => "2048",

    /// How much of its time a node may spend on reading snapshots for other nodes, and on writing
    /// those that it receives, in percent each: users' requests get the rest.
    snapshot_percent: usize = Number { min: 1, max: 100 } => "30",

    /// Memory for recent log entries, in MiB: followers that keep up are served from it.
    log_cache_mib: Mib = Number { min: Mib(1), max: Mib(16_384) } => "16",

    /// Memory for records that were changed lately, in MiB: the next write to the same key finds there
    /// what it replaces.
    record_cache_mib: Mib = Number { min: Mib(1), max: Mib(16_384) } => "16",

    /// Connections that the public API holds at once. Beyond it, the one that has been idle for the
    /// longest time is closed; if none is idle, new ones are answered 503. If the process may not
    /// open that many files, it holds as many as fit, and says so when it starts.
    max_connections: usize = Number { min: 1, max: 1_000_000 } => "10000",

    /// Connections that one address may have, but never more than half of `max_connections`. Beyond
    /// it, its own one that has been idle for the longest time is closed; if none is idle, it is
    /// answered 503. IPv6 addresses with the same first 64 bits count as one. Routers of the cluster
    /// aren't limited, nor are `trusted_proxies`.
    address_connections: usize = Number { min: 1, max: 1_000_000 } => "1000",

    /// Requests of one address that may be under way over HTTP/2, or for which trusted proxies ask;
    /// more are answered 503. What a router of the cluster has counted isn't counted again.
    address_requests: usize = Number { min: 1, max: 1_000_000 } => "4000",

    /// Time that a client may take to send a request's headers.
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

    /// Time that a client's body may stand still.
    body_timeout: Duration = Span { min_ms: 100, max_ms: 5 * MINUTE } => "10s",

    /// Bytes a second that a body must bring at least, once `body_timeout` has passed since it began;
    /// slower ones are answered 408. 0: any.
    min_body_rate: usize = Number { min: 0, max: 1 << 30 } => "1024",

    /// Time that a write may take; past it the answer is 504 `unknown_outcome`.
    request_timeout: Duration = Span { min_ms: 100, max_ms: 5 * MINUTE } => "10s",

    /// Time that a read waits for what its client has seen in another region; past it the answer is
    /// 503.
    session_wait: Duration = Span { min_ms: 0, max_ms: 5 * MINUTE } => "1s",

    /// Time that requests under way get to finish when the node stops.
    drain_timeout: Duration = Span { min_ms: 0, max_ms: 10 * MINUTE } => "20s",

    /// Memory for request bodies that are being received, in MiB, of which one address gets half; what
    /// doesn't fit is answered 503. It is taken as bytes come; the first 16 KiB of a body don't count.
    body_memory_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "64",

    /// Memory for writes that wait to be replicated, in MiB; more are refused with 503.
    proposal_queue_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "32",

    /// Memory for changes of other regions that wait to be replicated, in MiB; more are sent again
    /// later.
    geo_queue_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "32",

    /// How much of its time a node may spend on sending a region what it missed, and on taking that,
    /// in percent each: users' requests get the rest. It takes more if the region would not catch up
    /// otherwise.
    geo_catch_up_percent: usize = Number { min: 1, max: 100 } => "30",

    /// How much of the disk may be taken by changes that some other region lacks, in percent. Half of it
    /// raises an alarm; when all of it is taken, the absent region that lacks most is removed, and can
    /// only come back by joining anew.
    geo_budget_percent: usize = Number { min: 1, max: 90 } => "20",

    /// The same in MiB, if that is less; 0: the share of the disk alone counts.
    geo_budget_mib: Mib = Number { min: Mib(0), max: Mib(1 << 30) } => "0",

    /// Free room on the disk, in MiB, below which the node takes nothing that grows: it gives leadership
    /// away, reads and deletes. Below a quarter of that it takes no write at all. It should hold what
    /// the log and the state need while the disk is full: some times `write_buffer_mib`. 0: there is no
    /// mark, and a full disk ends the node.
    disk_low_water_mib: Mib = Number { min: Mib(0), max: Mib(1 << 30) } => "1024",

    /// Memory for requests that wait for a shard's leader, in MiB; more are refused with 503.
    held_requests_mib: Mib = Number { min: Mib(1), max: Mib(65_536) } => "32",

    /// Memory for calls that wait to be sent to another node, in MiB for each node; more are
    /// refused with 503.
    peer_queue_mib: Mib = Number { min: Mib(2), max: Mib(65_536) } => "64",

    /// Bytes of writes that go into one log entry, in KiB. A larger write goes alone.
    max_batch_kib: Kib = Number { min: Kib(1), max: Kib(16_384) } => "1024",

    /// Writes that go into one log entry.
    max_batch_writes: usize = Number { min: 1, max: 65_536 } => "512",

    /// Threads that serve users; 0: one per core. Up to four more do what is neither for users nor
    /// for Raft.
    http_threads: usize = Number { min: 0, max: 1024 } => "0",

    /// Threads that replicate; 0: those that serve users, which then share their work. Then a write
    /// changes threads less often, which a single client of a single node sees; with several nodes,
    /// load could delay elections.
    raft_threads: usize = Number { min: 0, max: 64 } => "1",

    /// Whether users choose the plan of a bucket themselves; else only the operator does.
    plans_self_service: bool = Switch => "true",

    /// Accounts that the cluster holds.
    max_accounts: u64 = Number { min: 1, max: 1_000_000_000 } => "1000000",

    /// Buckets that the cluster holds.
    max_buckets: u64 = Number { min: 1, max: 1_000_000_000 } => "1000000",

    /// Buckets that one address may create within an hour at this node, and accounts with them; 0: as
    /// many as it likes. IPv6 addresses with the same first 64 bits count as one.
    address_creations_per_hour: u32 = Number { min: 0, max: 1_000_000 } => "1000",

    /// Proxies in front of the node, as addresses or networks: whom they name in `X-Forwarded-For` is
    /// whose creations, requests and bodies are counted. Routers of the cluster needn't be named:
    /// their certificates tell, or without certificates the port for nodes on the same machine.
    trusted_proxies: Vec<Network> = Networks => "",

    /// Time after which an account without buckets expires; 0: never.
    account_idle_ttl: Option<Duration> = OrOff(Span { min_ms: MINUTE, max_ms: 3650 * DAY }) => "7d",

    /// How often the estimated numbers of keys and the counts of reads are published.
    stats_interval: Duration = Span { min_ms: 100, max_ms: 10 * SECOND } => "5s",
}
