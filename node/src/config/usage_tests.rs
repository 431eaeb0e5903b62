//! Tests of configuration files, command lines and help.

use std::time::Duration;

use cloudkv_common::config::Settings;

use super::tests::{ConfigFile, config, load, refusal};
use super::{
    AdminAction, BackupFlags, BackupsFlags, Command, Config, ExportDirectoryArgs, RecoverAction,
    RegionName, RestoreArgs,
};

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

/// Parses a command line, given with spaces between its arguments.
fn parse(line: &str) -> Command {
    let args: Vec<&str> = line.split(' ').collect();
    load(&args, &[]).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn parse_admin(line: &str) -> AdminAction {
    match parse(&format!("admin {line}")) {
        Command::Admin(call) => call.action,
        other => panic!("expected a call, got {other:?}"),
    }
}

#[test]
fn a_restore_takes_its_own_data_directory_and_no_settings() {
    let line = "restore --from s3://b/x --id 20261201T034500Z --data-dir d --region eu --shards 64";
    let Command::Restore(args) = parse(line) else {
        panic!("no restore")
    };
    let expected = RestoreArgs {
        from: "s3://b/x".to_owned(),
        id: Some("20261201T034500Z".to_owned()),
        data_dir: "d".into(),
        region: RegionName::parse("eu"),
        shards: Some(64),
    };
    assert_eq!(args, expected);
    let Command::Restore(args) = parse("restore --from file:///b --data-dir d") else {
        panic!("no restore")
    };
    assert_eq!((args.id, args.region, args.shards), (None, None, None));
    for (line, right) in [
        ("restore --data-dir d", "--from"),
        ("restore --from file:///b", "--data-dir"),
        ("restore --from file:///b --data-dir d --shards 0", "1..=64"),
        (
            "restore --from file:///b --data-dir d --shards 65",
            "1..=64",
        ),
        (
            "restore --from file:///b --data-dir d --region a/b",
            "a region's name",
        ),
        (
            "--data-dir d restore --from file:///b --data-dir e",
            "--data-dir has no effect on `restore`",
        ),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let message = refusal(&args, &[]);
        assert!(message.contains(right), "{line}: {message}");
    }
    let args = ["restore", "--from", "file:///b", "--data-dir", "d"];
    let message = refusal(&args, &[("CLOUDKV_HTPP", "x")]);
    assert!(message.contains("CLOUDKV_HTTP"), "{message}");
}

#[test]
fn a_stopped_directory_is_exported_without_a_node() {
    for (line, all) in [
        ("admin export-directory --data-dir d --to e", false),
        ("admin export-directory --all --data-dir d --to e", true),
    ] {
        let Command::ExportDirectory(args) = parse(line) else {
            panic!("no export: {line}")
        };
        let expected = ExportDirectoryArgs {
            data_dir: "d".into(),
            to: "e".into(),
            all,
        };
        assert_eq!(args, expected, "{line}");
    }
    let useless = "--data-dir d admin export-directory --data-dir d --to e";
    let args: Vec<&str> = useless.split(' ').collect();
    let message = refusal(&args, &[]);
    assert!(message.contains("--data-dir has no effect"), "{message}");
}

#[test]
fn backups_and_recoveries_are_commands_of_the_admin_port() {
    let backup = BackupFlags {
        to: "file:///b".to_owned(),
        new: true,
        json: false,
    };
    assert_eq!(
        parse_admin("backup --to file:///b --new"),
        AdminAction::Backup(backup)
    );
    let backups = BackupsFlags {
        at: "file:///b".to_owned(),
        id: None,
        verify: true,
        json: true,
    };
    assert_eq!(
        parse_admin("backups --at file:///b --verify --json"),
        AdminAction::Backups(backups)
    );
    let shown = RecoverAction::Recover {
        confirm: None,
        json: true,
    };
    assert_eq!(
        parse_admin("metadata recover --json"),
        AdminAction::Metadata(shown)
    );
    let confirmed = RecoverAction::Recover {
        confirm: Some("yes".to_owned()),
        json: false,
    };
    assert_eq!(
        parse_admin("shard recover --confirm yes"),
        AdminAction::Shard(confirmed)
    );
}
