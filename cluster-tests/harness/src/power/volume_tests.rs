//! The file system as processes see it, mounted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use tempfile::TempDir;

use super::{Area, Disk, DiskFaults};

fn mount_disk() -> Option<(TempDir, Disk)> {
    Disk::is_supported().then(|| {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::mount(&dir.path().join("data"), &dir.path().join("host")).unwrap();
        (dir, disk)
    })
}

#[test]
fn a_power_loss_keeps_synced_data() {
    let Some((dir, disk)) = mount_disk() else {
        return;
    };
    let at = dir.path().join("data");
    fs::create_dir(at.join("log")).unwrap();
    let path = at.join("log/file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_data().unwrap();
    File::open(at.join("log")).unwrap().sync_all().unwrap();
    File::open(&at).unwrap().sync_all().unwrap();
    file.write_all(b" and not").unwrap();
    fs::write(at.join("unsynced"), "x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"durable and not");
    drop(file);
    disk.power_off();
    assert!(fs::read(&path).is_err());
    disk.power_on_losing_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"durable");
    let names = fs::read_dir(&at).unwrap().map(|it| it.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["log"]);
}

#[test]
fn writes_around_the_page_cache_are_seen_and_not_durable() {
    let Some((dir, disk)) = mount_disk() else {
        return;
    };
    let path = dir.path().join("data/file");
    fs::write(&path, vec![1; 8192]).unwrap();
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    let mut options = OpenOptions::new();
    let direct = options.write(true).custom_flags(flag).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    let mut seen = vec![0; 4096];
    reader.read_exact_at(&mut seen, 4096).unwrap();
    direct.sync_all().unwrap();
    File::open(dir.path().join("data"))
        .unwrap()
        .sync_all()
        .unwrap();
    let buffer = vec![2_u8; 8192];
    let skip = buffer.as_ptr().align_offset(4096);
    direct
        .write_all_at(&buffer[skip..skip + 4096], 4096)
        .unwrap();
    reader.read_exact_at(&mut seen, 4096).unwrap();
    assert_eq!(seen, [2; 4096]);
    drop((direct, reader));
    disk.power_on_losing_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![1; 8192]);
}

#[test]
fn a_disk_fails_on_command() {
    let Some((dir, disk)) = mount_disk() else {
        return;
    };
    fs::create_dir(dir.path().join("data/log")).unwrap();
    let path = dir.path().join("data/log/file");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    let trouble = |trouble: DiskFaults| disk.set_faults(trouble);
    trouble(DiskFaults {
        is_full: Area::Log,
        ..DiskFaults::default()
    });
    let error = file.write_all_at(b"x", 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    trouble(DiskFaults {
        syncs_fail: Area::Everywhere,
        ..DiskFaults::default()
    });
    file.write_all_at(b"x", 1).unwrap();
    assert!(file.sync_data().is_err());
    trouble(DiskFaults {
        reads_fail: Area::State,
        ..DiskFaults::default()
    });
    assert_eq!(fs::read(&path).unwrap(), b"xx");
    // A slow sync is aborted when its process is killed.
    trouble(DiskFaults {
        slow_syncs: Area::Log,
        sync_delay: Duration::from_secs(3600),
        ..DiskFaults::default()
    });
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        while !disk.is_syncing() {
            std::thread::yield_now();
        }
        disk.interrupt();
        assert!(sync.join().unwrap().is_err());
    });
    trouble(DiskFaults::default());
    file.sync_data().unwrap();
}

#[test]
fn rocksdb_keeps_what_it_flushed() {
    let Some((dir, disk)) = mount_disk() else {
        return;
    };
    let path = dir.path().join("data/state");
    let open = || {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        rocksdb::DB::open(&options, &path).unwrap()
    };
    drop(open());
    File::open(dir.path().join("data"))
        .unwrap()
        .sync_all()
        .unwrap();
    let mut no_wal = rocksdb::WriteOptions::default();
    no_wal.disable_wal(true);
    for round in 0..20_u64 {
        let db = open();
        for before in 0..round {
            assert!(
                db.get(before.to_be_bytes()).unwrap().is_some(),
                "{before} after {round} cuts"
            );
        }
        db.put_opt(round.to_be_bytes(), vec![7; 3000], &no_wal)
            .unwrap();
        db.flush().unwrap();
        db.put_opt(b"not flushed", vec![8; 3000], &no_wal).unwrap();
        drop(db);
        disk.power_on(round).unwrap();
    }
}
