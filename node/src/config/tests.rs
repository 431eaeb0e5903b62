//! Tests of settings from each source, and of the errors for wrong ones.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use cloudkv_common::config::Settings;

use super::{
    AdminAction, CertsCommand, Command, Config, ConfigError, LimitFlags, LogFormat, Mib,
    PlanAction, StatusFlags,
};
use crate::types::{BucketId, Plan};

/// Loads a configuration with these arguments and variables.
pub(super) fn load(args: &[&str], variables: &[(&str, &str)]) -> Result<Command, ConfigError> {
    let args = std::iter::once("cloudkv-node")
        .chain(args.iter().copied())
        .map(OsString::from);
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Config::load(args, variables.collect::<Vec<_>>())
}

pub(super) fn config(args: &[&str], variables: &[(&str, &str)]) -> Config {
    match load(args, variables) {
        Ok(Command::Run { config, .. }) => *config,
        other => panic!("expected a configuration, got {other:?}"),
    }
}

pub(super) fn refusal(args: &[&str], variables: &[(&str, &str)]) -> String {
    load(args, variables).expect_err("a refusal").to_string()
}

pub(super) struct ConfigFile {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl ConfigFile {
    pub(super) fn with(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cloudkv.toml");
        std::fs::write(&path, text).unwrap();
        Self {
            _directory: directory,
            path,
        }
    }

    pub(super) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

#[test]
fn defaults_are_as_documented() {
    let config = config(&[], &[]);
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.http.to_string(), "127.0.0.1:8080");
    assert_eq!(config.region.as_str(), "local");
    assert_eq!(config.shards, None);
    assert_eq!(config.admin_token, None);
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.block_cache_mib, Mib(0));
    assert_eq!(config.write_buffer_mib.bytes(), 64 << 20);
    assert_eq!(config.compaction_mib_per_s.bytes(), 512 << 20);
    assert_eq!(config.request_timeout, Duration::from_secs(10));
    assert_eq!(config.batch_operations, 1000);
    assert_eq!(config.batch_mib.bytes(), 8 << 20);
    assert_eq!(config.recent_changes_mib.bytes(), 32 << 20);
    assert_eq!(config.pinned_changes_mib.bytes(), 64 << 20);
    let watchers = (config.max_watchers, config.max_bucket_watchers);
    assert_eq!((watchers, config.address_watchers), ((10_000, 2000), 500));
    assert_eq!(config.watch_buffer_kib.bytes(), 4 << 20);
    assert_eq!(config.watch_buffers_mib.bytes(), 64 << 20);
    assert_eq!((config.max_exports, config.max_imports), (4, 4));
    assert_eq!(
        config.account_idle_ttl,
        Some(Duration::from_secs(7 * 86_400))
    );
    assert!(config.plans_self_service);
    assert!(config.http_workers() >= 1);
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = ConfigFile::with("region = \"file\"\nshards = 4\nmax_connections = 1_000\n");
    let variables = [
        ("CLOUDKV_CONFIG", file.path()),
        ("CLOUDKV_REGION", "variable"),
    ];
    let all = config(&["--region", "flag"], &variables);
    assert_eq!(
        (all.region.as_str(), all.shards, all.max_connections),
        ("flag", Some(4), 1000)
    );
    assert_eq!(config(&[], &variables).region.as_str(), "variable");
    assert_eq!(
        config(&["--config", file.path()], &[]).region.as_str(),
        "file"
    );
}

#[test]
fn empty_and_foreign_variables_are_ignored() {
    let variables = [
        ("CLOUDKV_HTTP", ""),
        ("CLOUDKV_SERVICE_HOST", "10.0.0.1"),
        ("HTTP", "x"),
    ];
    assert_eq!(config(&[], &variables).http.port(), 8080);
}

#[test]
fn every_setting_has_help_with_its_default_and_variable() {
    let Ok(Command::Print(help)) = load(&["--help"], &[]) else {
        panic!("no help")
    };
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in Config::ALL {
        assert!(setting.doc().len() > 10, "{} is undocumented", setting.name);
        assert!(
            setting.doc().ends_with('.'),
            "{}: {}",
            setting.name,
            setting.doc()
        );
        let shown = [" <", " [<"].map(|value| format!("--{}{value}", setting.flag()));
        assert!(
            shown.iter().any(|flag| help.contains(flag)),
            "{}",
            setting.name
        );
        assert!(help.contains(setting.doc()), "{}", setting.name);
        assert!(
            help.contains(&format!("[variable: {}]", setting.variable())),
            "{}",
            setting.name
        );
        if !setting.default.is_empty() {
            assert!(
                help.contains(&format!("[default: {}]", setting.default)),
                "{}",
                setting.name
            );
        }
    }
}

#[test]
fn the_printed_configuration_round_trips() {
    let changed = [
        "--http=[::]:80",
        "--shards=16",
        "--log-format=json",
        "--account-idle-ttl=0",
        "--request-timeout=1m30s",
        "--data-dir=/a \"b\"\\c",
        "--plans-self-service=false",
        "--log-level=info,cloudkv_node=debug",
    ];
    for args in [&[][..], &changed[..]] {
        let printing = [args, &["--print-config"]].concat();
        let Ok(Command::Print(toml)) = load(&printing, &[]) else {
            panic!("nothing printed")
        };
        let file = ConfigFile::with(&toml);
        assert_eq!(
            config(&["--config", file.path()], &[]),
            config(args, &[]),
            "{toml}"
        );
        for setting in Config::ALL {
            assert!(
                toml.contains(&format!("{} = ", setting.name)),
                "{}",
                setting.name
            );
        }
    }
}

#[test]
fn secrets_are_not_shown() {
    let token = "0123456789abcdefXYZ";
    let variables = [("CLOUDKV_ADMIN_TOKEN", token)];
    let Ok(Command::Print(toml)) = load(&["--print-config"], &variables) else {
        panic!()
    };
    let debug = format!("{:?}", config(&[], &variables));
    let message = refusal(&["--admin-token", "short-XYZ"], &[]);
    for text in [toml, debug, message] {
        assert!(!text.contains("XYZ"), "{text}");
    }
}

#[test]
fn an_error_names_the_value_its_source_and_the_expected_form() {
    let flag = refusal(&["--max-connections", "many"], &[]);
    assert_eq!(
        flag,
        "max_connections = \"many\" (flag --max-connections): expected a whole number from 1 to \
         1000000"
    );
    let variable = refusal(&[], &[("CLOUDKV_HTTP", "8080")]);
    assert!(
        variable.starts_with("http = \"8080\" (variable CLOUDKV_HTTP): expected an IP address")
    );
    let file = ConfigFile::with("stats_interval = \"1m\"");
    let message = refusal(&["--config", file.path()], &[]);
    assert!(message.contains(file.path()), "{message}");
    assert!(
        message.ends_with(
            "expected a time from 100ms to 10s, with its unit (ms, s, m, h, d) as in 250ms, 10s \
             or 1h30m; a number alone is seconds"
        ),
        "{message}"
    );
}

#[test]
fn wrong_values_are_refused() {
    let wrong = "--shards=0 --shards=65 --region=EU --region= --log-level=inf --log-format=xml \
        --request-timeout=10x --request-timeout=-10 --request-timeout=301 --request-timeout=1.5 \
        --request-timeout=1ms --http=example:80 --request-timeout=1s1us \
        --plans-self-service=yes --data-dir= --http-threads=-1 --account-idle-ttl=1s \
        --rpc=node1:7070 --write-buffer-mib=0 --name=17 --name=a/b --batch-operations=0 \
        --batch-mib=17 --max-watchers=0 --watch-buffer-kib=63 --max-exports=0 --max-imports=1001 \
        --recent-changes-mib=0";
    for flag in wrong.split_whitespace() {
        let error = load(&[flag], &[]).expect_err(flag);
        assert!(
            matches!(error, ConfigError::InvalidValue { .. }),
            "{flag}: {error}"
        );
    }
}

#[test]
fn a_file_must_have_the_right_types() {
    for (text, right) in [
        ("shards = \"4\"", "without quotes"),
        ("region = 4", "in quotes"),
        ("http = 8080", "in quotes"),
        ("idle_timeout = 1.5", "in quotes if it has a unit"),
        ("idle_timeout = true", "in quotes if it has a unit"),
    ] {
        let file = ConfigFile::with(text);
        let message = refusal(&["--config", file.path()], &[]);
        assert!(message.ends_with(right), "{message}");
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let file = ConfigFile::with("max_conections = 5");
    let message = refusal(&["--config", file.path()], &[]);
    assert!(message.contains("\"max_conections\""), "{message}");
    assert!(
        message.ends_with("did you mean max_connections?"),
        "{message}"
    );
    let message = refusal(&[], &[("CLOUDKV_HTPT", "x")]);
    let expected = "there is no setting for the variable CLOUDKV_HTPT; did you mean CLOUDKV_HTTP?";
    assert_eq!(message, expected);
    let message = refusal(&["--max-conections", "5"], &[]);
    assert!(message.contains("--max-connections"), "{message}");
}

#[test]
fn a_missing_or_invalid_file_is_refused_with_its_path() {
    let message = refusal(&["--config", "/nowhere/cloudkv.toml"], &[]);
    assert!(message.starts_with("read configuration file /nowhere/cloudkv.toml: No such file"));
    let file = ConfigFile::with("http = ");
    let message = refusal(&["--config", file.path()], &[]);
    assert!(
        message.contains(file.path()) && message.contains("not valid TOML"),
        "{message}"
    );
}

#[test]
fn conflicting_settings_are_refused() {
    let message = refusal(&["--admin", "0.0.0.0:9090"], &[]);
    assert!(message.contains("admin_token"), "{message}");
    config(
        &["--admin=0.0.0.0:9090", "--admin-token=0123456789abcdef"],
        &[],
    );
    let same = refusal(&["--admin", "127.0.0.1:8080"], &[]);
    assert_eq!(
        same,
        "http and admin are both \"127.0.0.1:8080\": give each an address or a port of its own"
    );
    config(
        &[
            "--admin=127.0.0.1:0",
            "--http=127.0.0.1:0",
            "--rpc=127.0.0.1:0",
        ],
        &[],
    );
    let batch = refusal(&["--proposal-queue-mib=2", "--max-batch-kib=4096"], &[]);
    assert!(batch.contains("at most 2048"), "{batch}");
    let watch = refusal(&["--watch-buffers-mib=3"], &[]);
    assert!(watch.contains("at most 3072"), "{watch}");
    config(&["--watch-buffers-mib=3", "--watch-buffer-kib=3072"], &[]);
}

#[test]
fn a_node_listens_beyond_the_loopback_interface_only_with_certificates() {
    let files = ["--rpc-cert=a.pem", "--rpc-key=a.key", "--rpc-ca=ca.pem"];
    for rpc in ["--rpc=10.0.0.1:7070", "--rpc=[2001:db8::1]:7070"] {
        let message = refusal(&[rpc], &[]);
        assert!(
            message.contains("can be reached from other machines"),
            "{message}"
        );
        assert!(message.contains("rpc_cert"), "{message}");
        let [cert, key, ca] = files;
        config(&[rpc, cert, key, ca], &[]);
        for missing in 0..3 {
            let mut some = vec![rpc];
            some.extend(
                files
                    .iter()
                    .enumerate()
                    .filter_map(|(at, file)| (at != missing).then_some(*file)),
            );
            let part = refusal(&some, &[]);
            assert!(part.contains("all three"), "{part}");
        }
    }
    config(&["--rpc=127.0.0.5:7070"], &[]);
    config(&["--rpc=[::1]:7070"], &[]);
    let [cert, key, ca] = files;
    let nowhere = refusal(&["--rpc=0.0.0.0:7070", cert, key, ca], &[]);
    assert!(nowhere.contains("advertise_rpc"), "{nowhere}");
    config(
        &[
            "--rpc=0.0.0.0:7070",
            "--advertise-rpc=node1:7070",
            cert,
            key,
            ca,
        ],
        &[],
    );
}

#[test]
fn certificates_are_requested_by_valid_host_names() {
    let certs = |args: &[&str]| match load(args, &[]) {
        Ok(Command::Certs(certs)) => Ok(certs),
        Ok(other) => panic!("expected a certs command, got {other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let parsed = certs(&["certs", "node", "eu1.example", "10.0.0.1", "--dir", "x"]).unwrap();
    assert_eq!(parsed.dir, std::path::Path::new("x"));
    assert!(matches!(parsed.command, CertsCommand::Node { hosts, .. } if hosts.len() == 2));
    for wrong in ["", "a b", "../a", "a/b", "*.a", ".a"] {
        let refused = certs(&["certs", "node", wrong]).unwrap_err();
        assert!(
            refused.contains("DNS name") || wrong.is_empty(),
            "{refused}"
        );
    }
    certs(&["certs", "node"]).unwrap_err();
    certs(&["certs", "init", "--days=0"]).unwrap_err();
}

#[test]
fn admin_calls_find_the_node_by_flag_variable_file_or_default() {
    let call = |args: &[&str], variables: &[(&str, &str)]| match load(args, variables) {
        Ok(Command::Admin(call)) => call,
        other => panic!("expected a call, got {other:?}"),
    };
    let status = call(&["admin", "status"], &[]);
    assert_eq!(status.target.authority(), "127.0.0.1:9090");
    assert_eq!(status.action, AdminAction::Status(StatusFlags::default()));
    let variables = [
        ("CLOUDKV_ADMIN", "0.0.0.0:9000"),
        ("CLOUDKV_ADMIN_TOKEN", "0123456789abcdef"),
    ];
    let health = call(&["admin", "health", "--ready"], &variables);
    assert_eq!(health.target.authority(), "127.0.0.1:9000");
    assert_eq!(health.token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(health.action, AdminAction::Health { ready: true });
    let named = call(
        &["admin", "status", "--admin", "http://node-1.example:9090/"],
        &variables,
    );
    assert_eq!(named.target.to_string(), "http://node-1.example:9090");
    let file = ConfigFile::with("admin = \"127.0.0.1:9191\"\nadmin_token = \"fedcba9876543210\"\n");
    for args in [
        ["admin", "--config", file.path(), "status"],
        ["admin", "status", "--config", file.path()],
        ["--config", file.path(), "admin", "status"],
    ] {
        let filed = call(&args, &[]);
        assert_eq!(filed.target.authority(), "127.0.0.1:9191", "{args:?}");
        assert_eq!(filed.token.unwrap().expose(), "fedcba9876543210");
    }
    let first = call(&["--admin", "127.0.0.1:9292", "admin", "status"], &[]);
    assert_eq!(first.target.authority(), "127.0.0.1:9292");
    let useless = refusal(&["--http", "127.0.0.1:80", "admin", "status"], &[]);
    assert!(
        useless.starts_with("--http has no effect on `admin`"),
        "{useless}"
    );
    let wrong = refusal(&["admin", "--admin", "https://x", "status"], &[]);
    assert!(wrong.contains("as in http://127.0.0.1:9090"), "{wrong}");
}

/// Parses the action of an `admin` command line.
fn parse_action(args: &[&str]) -> AdminAction {
    match load(&[&["admin"], args].concat(), &[]) {
        Ok(Command::Admin(call)) => call.action,
        other => panic!("expected a call, got {other:?}"),
    }
}

#[test]
fn plans_are_listed_and_changed_by_command() {
    let list = AdminAction::Plan(PlanAction::List { json: false });
    assert_eq!(parse_action(&["plan", "list"]), list);
    let limits = LimitFlags {
        keys: Some(20_000),
        value_bytes: Some(8192),
        ..Default::default()
    };
    let plan = Plan::Free;
    let flags = [
        "plan",
        "set",
        "free",
        "--keys=20000",
        "--value-bytes",
        "8192",
    ];
    assert_eq!(
        parse_action(&flags),
        AdminAction::Plan(PlanAction::Set { plan, limits })
    );
    let limits = LimitFlags {
        bytes: Some(1 << 30),
        value_bytes: Some(64 << 10),
        ..Default::default()
    };
    let flags = ["plan", "set", "free", "--bytes=1GiB", "--value-bytes=64KiB"];
    assert_eq!(
        parse_action(&flags),
        AdminAction::Plan(PlanAction::Set { plan, limits })
    );
    let set = AdminAction::BucketPlan {
        bucket: BucketId::parse(b"a0123456789ABC").unwrap(),
        plan: Plan::Pro,
    };
    assert_eq!(parse_action(&["bucket-plan", "a0123456789ABC", "pro"]), set);
}

#[test]
fn wrong_plan_commands_are_refused_with_the_expected_form() {
    for (args, right) in [
        ("plan set free", "--keys"),
        ("plan set gold --keys 5", "free, pro, business"),
        ("plan set free --keys -5", "--keys"),
        ("plan set free --bytes 1GB", "1073741824 or 1GiB"),
        ("plan set free --keys any", "a whole number from 1 on"),
        ("plan set free --keys 0", "a whole number from 1 on"),
        ("plan set free --buckets any", "or 0: unlimited"),
        ("plan set free --bytes any", "1GiB, or 0: unlimited"),
        ("bucket-plan a0123456789AB pro", "13 letters and digits"),
        ("bucket-plan a0123456789A/C pro", "13 letters and digits"),
        ("bucket-plan a0123456789ABC", "PLAN"),
    ] {
        let args: Vec<&str> = std::iter::once("admin").chain(args.split(' ')).collect();
        let message = refusal(&args, &[]);
        assert!(message.contains(right), "{args:?}: {message}");
    }
}
