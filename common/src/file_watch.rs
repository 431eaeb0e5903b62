//! Watch of files that are reloaded when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

/// Modification time, size and inode of a file, by which changes are detected.
type FileStamp = (SystemTime, u64, u64);

/// Files, and how they were when they were last looked at. It is to be made before the files are
/// read: a change meanwhile is detected the next time.
#[derive(Clone, Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    stamps: Vec<Option<FileStamp>>,
}

impl FileWatch {
    /// Starts with the files as they are now; they needn't exist.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let stamps = file_stamps(&paths);
        Self { paths, stamps }
    }

    /// Returns whether any of the files has changed since the last call.
    pub fn take_change(&mut self) -> bool {
        let stamps = file_stamps(&self.paths);
        let is_changed = stamps != self.stamps;
        self.stamps = stamps;
        is_changed
    }

    /// Checks the files at intervals, and calls `reload` when any has changed, until `stop`. Both
    /// happen on a thread that may block.
    pub async fn run(
        mut self,
        interval: Duration,
        stop: CancellationToken,
        mut reload: impl FnMut() + Send + 'static,
    ) {
        while stop
            .run_until_cancelled(tokio::time::sleep(interval))
            .await
            .is_some()
        {
            let checked = tokio::task::spawn_blocking(move || {
                if self.take_change() {
                    reload();
                }
                (self, reload)
            });
            let checked = match checked.await {
                Ok(checked) => checked,
                // The runtime ends.
                Err(error) if error.is_cancelled() => return,
                Err(error) => {
                    return tracing::error!(%error, "reloading files failed for good: restart");
                }
            };
            (self, reload) = checked;
        }
    }
}

fn file_stamps(paths: &[PathBuf]) -> Vec<Option<FileStamp>> {
    paths.iter().map(|path| file_stamp(path)).collect()
}

/// Returns the stamp of a file; `None` if there is none.
fn file_stamp(path: &Path) -> Option<FileStamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn each_change_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&paths[0], "1").unwrap();
        let mut watch = FileWatch::new(paths.clone());
        let mut is_taken_once = || watch.take_change() && !watch.take_change();
        assert!(!is_taken_once());
        fs::write(&paths[0], "12").unwrap();
        assert!(is_taken_once(), "it is longer");
        fs::write(&paths[1], "1").unwrap();
        assert!(is_taken_once(), "it is new");
        let replacement = dir.path().join("c");
        fs::write(&replacement, "2").unwrap();
        fs::rename(&replacement, &paths[1]).unwrap();
        assert!(is_taken_once(), "it is another file");
        fs::remove_file(&paths[1]).unwrap();
        assert!(is_taken_once(), "it was deleted");
    }

    #[tokio::test]
    async fn changes_since_the_start_are_reloaded_until_the_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let watch = FileWatch::new([path.clone()]);
        // Before the watch runs, as while a program starts.
        fs::write(&path, "1").unwrap();
        let (sender, reloads) = mpsc::channel();
        let stop = CancellationToken::new();
        let reload = move || sender.send(fs::read_to_string(&path).unwrap()).unwrap();
        let task = tokio::spawn(watch.run(Duration::from_millis(1), stop.clone(), reload));
        let reloads = tokio::task::spawn_blocking(move || {
            assert_eq!(reloads.recv_timeout(RELOAD_TIMEOUT).unwrap(), "1");
            reloads
        });
        let reloads = reloads.await.unwrap();
        stop.cancel();
        task.await.unwrap();
        assert!(reloads.try_recv().is_err(), "it was reloaded twice");
    }
}
