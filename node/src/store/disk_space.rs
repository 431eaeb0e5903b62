//! Free space on the data directory's disk, and which writes are still accepted.
//!
//! Invariant: users' writes stop at the low-water mark, so the space below it is a reserve for
//! what must continue: the log, flushes of acknowledged writes, deletions and compaction. At a
//! quarter of the mark those stop as well: a node then accepts no entries of any leader. So a disk
//! that nobody else fills never gets so full that the log or the state can't be written, which
//! would end the node.
//!
//! ```text
//! ample ──free < mark──► low ──free < mark/4──► exhausted
//!   ▲                    │  ▲                       │
//!   └──free ≥ 5/4 mark───┘  └──────free ≥ mark/2────┘
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// State of a disk by its free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskState {
    /// More free space than the low-water mark.
    #[default]
    Ample,
    /// The reserve is in use: writes that grow the state are refused.
    Low,
    /// Most of the reserve is in use, too: all writes are refused.
    Exhausted,
}

impl DiskState {
    const ALL: [Self; 3] = [Self::Ample, Self::Low, Self::Exhausted];

    /// Returns its name in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ample => "ample",
            Self::Low => "low",
            Self::Exhausted => "exhausted",
        }
    }

    /// Returns which writes are accepted, and what frees space.
    fn advice(self) -> &'static str {
        match self {
            Self::Ample => "all writes are accepted",
            Self::Low => {
                "writes that grow are refused where most voters' disks are: delete keys or \
                 buckets, free disk space, or lower disk_low_water_mib"
            }
            Self::Exhausted => {
                "all writes are refused, deletions included: free disk space by other means, \
                 enlarge the disk, or lower disk_low_water_mib"
            }
        }
    }

    /// Returns the state after a measurement of `free` bytes. It improves at higher thresholds than
    /// it worsens (hysteresis), so that it doesn't change with every flush.
    fn next(self, free: u64, mark: u64) -> Self {
        let exhausted = match self {
            Self::Exhausted => free < mark / 2,
            Self::Ample | Self::Low => free < mark / 4,
        };
        let low = match self {
            Self::Ample => free < mark,
            Self::Low | Self::Exhausted => free < mark.saturating_add(mark / 4),
        };
        match (exhausted, low) {
            (true, _) => Self::Exhausted,
            (false, true) => Self::Low,
            (false, false) => Self::Ample,
        }
    }
}

/// Free space on the disk of a data directory, as last measured.
#[derive(Debug, Default)]
pub struct DiskSpace {
    dir: PathBuf,
    /// Low-water mark, in bytes; 0 disables it.
    low_water_bytes: u64,
    free_bytes: AtomicU64,
    state: AtomicU8,
}

impl DiskSpace {
    /// Measures the disk that `dir` is on. `mark` is the low-water mark, in bytes; 0 disables it.
    pub fn new(dir: &Path, mark: u64) -> Self {
        let space = Self {
            dir: dir.to_owned(),
            low_water_bytes: mark,
            ..Self::default()
        };
        space.measure();
        space
    }

    /// Measures again. If the system call fails, the state doesn't change.
    pub fn measure(&self) {
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else {
            return;
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        self.free_bytes.store(free, Ordering::Relaxed);
        let before = self.state();
        let now = before.next(free, self.low_water_bytes);
        self.state.store(now as u8, Ordering::Release);
        if now > before {
            let low_water_bytes = self.low_water_bytes;
            tracing::error!(
                state = now.name(),
                free_bytes = free,
                low_water_bytes,
                "the disk is nearly full: {}",
                now.advice()
            );
        } else if now < before {
            tracing::info!(
                state = now.name(),
                free_bytes = free,
                "the disk has free space again"
            );
        }
    }

    /// Returns the state of the disk.
    pub fn state(&self) -> DiskState {
        let number = usize::from(self.state.load(Ordering::Acquire));
        DiskState::ALL.get(number).copied().unwrap_or_default()
    }

    /// Returns the low-water mark, in bytes; 0 disables it.
    pub fn low_water_bytes(&self) -> u64 {
        self.low_water_bytes
    }

    /// Returns the free bytes for users other than root; 0 if unknown.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

/// Writes that a leader accepts while disks fill up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteAdmission {
    /// All writes.
    #[default]
    AllWrites,
    /// Only writes that don't grow the state.
    NoGrowth {
        /// True if another member has free space, so that a retry may succeed soon.
        elsewhere: bool,
    },
    /// No writes.
    NoWrites {
        /// True if another member has free space, so that a retry may succeed soon.
        elsewhere: bool,
    },
}

/// Shortage of disk space for which a write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskShortage {
    /// True if another member has free space, so that a retry may succeed soon.
    pub elsewhere: bool,
    /// True if all writes are refused, deletions included; false if only those that grow are.
    pub refuses_all: bool,
}

/// Write admission of a group, set periodically, and checked with each write.
#[derive(Debug, Default)]
pub struct WriteGate(AtomicU8);

const NO_GROWTH: u8 = 1;
const NO_WRITES: u8 = 2;
const SPACE_ELSEWHERE: u8 = 4;

impl WriteGate {
    /// Sets the admission.
    pub fn set(&self, intake: WriteAdmission) {
        let flags = |bit, elsewhere| {
            if elsewhere {
                bit | SPACE_ELSEWHERE
            } else {
                bit
            }
        };
        let bits = match intake {
            WriteAdmission::AllWrites => 0,
            WriteAdmission::NoGrowth { elsewhere } => flags(NO_GROWTH, elsewhere),
            WriteAdmission::NoWrites { elsewhere } => flags(NO_WRITES, elsewhere),
        };
        self.0.store(bits, Ordering::Relaxed);
    }

    /// Returns `None` if a write, which may grow the state (`grows`), is admitted; else the reason.
    pub fn refuses(&self, grows: bool) -> Option<DiskShortage> {
        let bits = self.0.load(Ordering::Relaxed);
        let refuses_all = bits & NO_WRITES != 0;
        let is_refused = refuses_all || (grows && bits & NO_GROWTH != 0);
        is_refused.then_some(DiskShortage {
            elsewhere: bits & SPACE_ELSEWHERE != 0,
            refuses_all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_state_improves_with_hysteresis() {
        let mark = 1000;
        let mut state = DiskState::Ample;
        for (free, expected) in [
            (1000, DiskState::Ample),
            (999, DiskState::Low),
            (1249, DiskState::Low),
            (1250, DiskState::Ample),
            (200, DiskState::Exhausted),
            (499, DiskState::Exhausted),
            (500, DiskState::Low),
            (250, DiskState::Low),
            (249, DiskState::Exhausted),
            (5000, DiskState::Ample),
        ] {
            state = state.next(free, mark);
            assert_eq!(state, expected, "{free} bytes are free");
        }
    }

    #[test]
    fn without_a_mark_the_disk_is_always_ample() {
        assert_eq!(DiskState::Ample.next(0, 0), DiskState::Ample);
        let dir = tempfile::tempdir().unwrap();
        let space = DiskSpace::new(dir.path(), u64::MAX);
        assert_eq!(space.state(), DiskState::Exhausted);
        assert!(space.free_bytes() > 0);
        assert_eq!(DiskSpace::new(dir.path(), 0).state(), DiskState::Ample);
    }

    #[test]
    fn a_gate_refuses_writes_as_set() {
        let gate = WriteGate::default();
        assert_eq!((gate.refuses(true), gate.refuses(false)), (None, None));
        gate.set(WriteAdmission::NoGrowth { elsewhere: true });
        let growth_refused = DiskShortage {
            elsewhere: true,
            refuses_all: false,
        };
        assert_eq!(
            (gate.refuses(true), gate.refuses(false)),
            (Some(growth_refused), None)
        );
        gate.set(WriteAdmission::NoWrites { elsewhere: false });
        let all_refused = DiskShortage {
            elsewhere: false,
            refuses_all: true,
        };
        let refused = (gate.refuses(true), gate.refuses(false));
        assert_eq!(refused, (Some(all_refused), Some(all_refused)));
        gate.set(WriteAdmission::AllWrites);
        assert_eq!((gate.refuses(true), gate.refuses(false)), (None, None));
    }
}
