//! Tests of settings from each source, and of the errors for wrong ones.

use std::num::NonZero;

use cloudkv_common::config::{ConfigError, Settings};

use super::{Command, Config, default_workers};

fn load(args: &[&str], variables: &[(&str, &str)]) -> Result<Command, ConfigError> {
    let args = std::iter::once("cloudkv-router").chain(args.iter().copied());
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Config::load(args.map(Into::into), variables.collect::<Vec<_>>())
}

fn config(args: &[&str], variables: &[(&str, &str)]) -> Config {
    match load(args, variables) {
        Ok(Command::Run(config)) => *config,
        other => panic!("expected a configuration, got {other:?}"),
    }
}

fn refusal(args: &[&str]) -> String {
    load(args, &[]).expect_err("a refusal").to_string()
}

#[test]
fn defaults_are_as_documented() {
    let config = config(&[], &[]);
    assert_eq!(config.seeds, ["127.0.0.1:7070"]);
    assert_eq!(config.http.to_string(), "127.0.0.1:8000");
    assert_eq!(config.admin.to_string(), "127.0.0.1:9091");
    assert_eq!(config.domain.as_str(), "cloudkv.io");
    assert_eq!(config.region.as_str(), "local");
    assert_eq!(config.https, None);
    assert!(config.workers() >= 1);
}

#[test]
fn one_of_several_cores_is_left_to_other_tasks() {
    let of = |cores| default_workers(NonZero::new(cores).unwrap());
    assert_eq!([1, 2, 3, 64].map(of), [1, 1, 2, 63]);
    assert_eq!(config(&["--threads", "5"], &[]).workers(), 5);
}

#[test]
fn flags_win_over_variables() {
    let variables = [("CLOUDKV_DOMAIN", "a.example"), ("CLOUDKV_REGION", "eu")];
    let config = config(&["--domain", "B.example."], &variables);
    assert_eq!(config.domain.as_str(), "b.example");
    assert_eq!(config.region.as_str(), "eu");
}

#[test]
fn the_printed_configuration_round_trips() {
    let changed = [
        "--seeds=a:1,b:2",
        "--https=[::]:443",
        "--tls-cert=/c",
        "--tls-key=/k",
        "--trusted-proxies=10.0.0.0/8",
        "--retry-percent=5",
    ];
    for args in [&[][..], &changed[..]] {
        let printing = [args, &["--print-config"]].concat();
        let Ok(Command::Print(toml)) = load(&printing, &[]) else {
            panic!("nothing printed")
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.toml");
        std::fs::write(&path, &toml).unwrap();
        let again = config(&["--config", path.to_str().unwrap()], &[]);
        assert_eq!(again, config(args, &[]), "{toml}");
    }
}

#[test]
fn every_setting_is_documented() {
    for setting in Config::ALL {
        assert!(setting.doc().ends_with('.'), "{}", setting.name);
    }
}

#[test]
fn wrong_settings_are_refused_with_their_name_and_the_expected_form() {
    for (flag, name, right) in [
        ("--domain=a..b", "domain", "as in cloudkv.io"),
        ("--seeds=node1", "seeds", "node1:7070"),
        (
            "--trusted-proxies=10.0.0.0/64",
            "trusted_proxies",
            "192.168.0.0/16",
        ),
        ("--retry-percent=101", "retry_percent", "from 0 to 100"),
        ("--request-timeout=5x", "request_timeout", "with its unit"),
        ("--seeds=", "seeds", "at least one node"),
        ("--admin=0.0.0.0:9091", "admin", "admin_token"),
        ("--https=0.0.0.0:443", "https", "tls_cert"),
        ("--tls-cert=/c", "tls_cert", "https"),
        ("--admin=127.0.0.1:8000", "http and admin", "of its own"),
        ("--seed=a:1", "--seed", "--seeds"),
    ] {
        let message = refusal(&[flag]);
        assert!(
            message.contains(name) && message.contains(right),
            "{flag}: {message}"
        );
    }
}
