//! `admin backups`: lists the backups at a place, and verifies them. No node is called.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::client::AdminCallError;
use super::counts::{format_count, format_megabytes};
use super::output::{Output, print, print_result};
use super::render::render;
use crate::backup::{BackupError, BackupInfo, BackupTarget, list_backups, verify_backup};
use crate::config::BackupsFlags;

/// Fields of a backup, in the order in which they are shown.
const FIELDS: [&str; 8] = [
    "id",
    "state",
    "region",
    "shards",
    "records",
    "size",
    "started_at",
    "finished_at",
];

/// Lists backups, and verifies those that are complete if the flags say so.
pub(super) async fn run(flags: &BackupsFlags, out: Output<'_>) -> Result<(), AdminCallError> {
    let target = BackupTarget::open(&flags.at)?;
    let mut backups = list_backups(&target).await?;
    if let Some(id) = &flags.id {
        backups.retain(|backup| backup.id == *id);
        if backups.is_empty() {
            return Err(AdminCallError::Backup(BackupError::Unknown {
                url: target.url().to_owned(),
                id: id.clone(),
            }));
        }
    }
    if !flags.verify {
        return print_result(out, &list(&backups, flags.json, target.url()));
    }
    if backups.is_empty() && !flags.json {
        return print_result(out, &list(&backups, false, target.url()));
    }
    verify(&target, &backups, flags, out).await
}

fn list(backups: &[BackupInfo], is_json: bool, url: &str) -> String {
    if is_json {
        return format!("{:#}\n", json!(backups));
    }
    if backups.is_empty() {
        return format!("{url} has no backups\n");
    }
    let mut text = render(&backups.iter().map(row).collect(), &FIELDS);
    for backup in backups {
        if let Some(damage) = &backup.damage {
            let _ = writeln!(text, "{}: {damage}", backup.id);
        }
    }
    text
}

/// Returns a backup as a row of the table.
fn row(backup: &BackupInfo) -> Value {
    json!({
        "id": backup.id,
        "state": state(backup),
        "region": backup.region,
        "shards": backup.shards,
        "records": backup.records,
        "size": format_megabytes(backup.bytes),
        "started_at": backup.started_at,
        "finished_at": backup.finished_at.as_deref().unwrap_or("-"),
    })
}

fn state(backup: &BackupInfo) -> &'static str {
    match (backup.complete, &backup.damage) {
        (_, Some(_)) => "damaged",
        (true, None) => "complete",
        (false, None) => "incomplete",
    }
}

fn describe_intact(backup: &BackupInfo) -> String {
    format!(
        "{}: complete and intact, region {}, {}\n",
        backup.id,
        backup.region,
        format_count(backup.records, "record")
    )
}

/// Verifies the complete backups, and prints the result of each. One that the flags name must be
/// complete: success would say that it can be restored.
async fn verify(
    target: &BackupTarget,
    backups: &[BackupInfo],
    flags: &BackupsFlags,
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let is_json = flags.json;
    let mut damaged = Vec::new();
    for backup in backups {
        let id = &backup.id;
        if !backup.complete {
            if flags.id.is_some() {
                let id = id.clone();
                return Err(AdminCallError::Backup(BackupError::Incomplete { id }));
            }
            if !is_json {
                print(out, &format!("{id}: incomplete, not verified\n"))?;
            }
            continue;
        }
        let problems = verify_backup(target, id, &mut |_, _| {}).await?;
        if is_json {
            let result = json!({ "id": id, "intact": problems.is_empty(), "problems": problems });
            print(out, &format!("{result}\n"))?;
        } else if problems.is_empty() {
            print(out, &describe_intact(backup))?;
        } else {
            let lines = problems.iter().map(|problem| format!("  {problem}\n"));
            let lines: String = lines.collect();
            print(out, &format!("{id}: damaged\n{lines}"))?;
        }
        if !problems.is_empty() {
            damaged.push(id.clone());
        }
    }
    if damaged.is_empty() {
        Ok(())
    } else {
        Err(AdminCallError::BackupsDamaged { ids: damaged })
    }
}

#[cfg(test)]
#[path = "backups_command_tests.rs"]
mod tests;
