//! Tests of configuration files, command lines and help.

use std::time::Duration;

use cloudkv_common::config::Settings;

use super::tests::{ConfigFile, config, load, refusal};
use super::{Command, Config};

#[test]
fn a_section_in_the_file_is_refused_by_name() {
    for (text, name) in [
        ("[server]\nhttp = \"127.0.0.1:80\"", "server"),
        ("region = \"eu\"\n[http]\nport = 4", "http"),
        ("[[nodes]]\nname = \"a\"", "nodes"),
        ("http = { port = 4 }", "http"),
    ] {
        let file = ConfigFile::with(text);
        let message = refusal(&["--config", file.path()], &[]);
        let right = message.starts_with(&format!("[{name}] (file "))
            && message.contains("is a section, and settings have none");
        assert!(right, "{message}");
    }
}

#[test]
fn a_time_without_a_unit_is_seconds() {
    let seconds = Duration::from_secs;
    assert_eq!(
        config(&["--request-timeout=10"], &[]).request_timeout,
        seconds(10)
    );
    let variables = [("CLOUDKV_SESSION_WAIT", "0")];
    assert_eq!(config(&[], &variables).session_wait, seconds(0));
    let file =
        ConfigFile::with("idle_timeout = 30\nrequest_timeout = \"20\"\naccount_idle_ttl = 0");
    let config = config(&["--config", file.path()], &[]);
    assert_eq!(
        (config.idle_timeout, config.request_timeout),
        (seconds(30), seconds(20))
    );
    assert_eq!(config.account_idle_ttl, None);
}

#[test]
fn the_short_help_fits_a_page_and_refers_to_the_long_one() {
    let help_of = |flag: &str| match load(&[flag], &[]) {
        Ok(Command::Print(help)) => help,
        other => panic!("no help: {other:?}"),
    };
    let (short, long) = (help_of("-h"), help_of("--help"));
    assert!(short.lines().count() <= 50, "{short}");
    assert!(long.lines().count() > 4 * short.lines().count(), "{long}");
    for name in [
        "--data-dir",
        "--join",
        "--name",
        "--config",
        "admin",
        "--help",
        "--print-config",
    ] {
        assert!(short.contains(name), "{name}: {short}");
    }
    assert!(!short.contains("--max-batch-kib"), "{short}");
    for name in Config::BASIC {
        assert!(
            Config::ALL.iter().any(|setting| setting.name == *name),
            "{name}"
        );
    }
}
