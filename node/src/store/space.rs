//! DiskState on the disk where the data directory is: how much is left, and what may still be written.
//!
//! Invariant: what users write stops at the low-water mark, so what is below it is a reserve for what
//! must go on: the log, flushes of what was acknowledged, deletions and compaction. At a quarter of
//! the mark that stops as well: a node takes no entries of any leader then. So a disk that nobody
//! else fills never gets so full that the log or the state can't be written, which would end the
//! node.
//!
//! ```text
//! ample ──free < mark──► low ──free < mark/4──► exhausted
//!   ▲                    │  ▲                       │
//!   └──free ≥ 5/4 mark───┘  └──────free ≥ mark/2────┘
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How much room is left on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskState {
    /// More than the low-water mark.
    #[default]
    Ample,
    /// The reserve is in use: nothing that grows is taken.
    Low,
    /// Most of the reserve is in use, too: nothing is taken.
    Exhausted,
}

impl DiskState {
    const ALL: [Self; 3] = [Self::Ample, Self::Low, Self::Exhausted];

    /// Its name in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ample => "ample",
            Self::Low => "low",
            Self::Exhausted => "exhausted",
        }
    }

    /// The room after so many bytes were found free: it comes back later than it went, so that it
    /// doesn't change with every flush.
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

/// The room on the disk of a data directory, as it was when it was last measured.
#[derive(Debug, Default)]
pub struct DiskSpace {
    dir: PathBuf,
    /// Low-water mark, in bytes; 0: there is always room.
    mark: u64,
    free: AtomicU64,
    state: AtomicU8,
}

impl DiskSpace {
    /// Measures the disk that `dir` is on. `mark` is the low-water mark, in bytes; with 0 there is
    /// always room.
    pub fn new(dir: &Path, mark: u64) -> Self {
        let space = Self {
            dir: dir.to_owned(),
            mark,
            ..Self::default()
        };
        space.measure();
        space
    }

    /// Measures again. Where the system doesn't tell, the room stays what it was.
    pub fn measure(&self) {
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else {
            return;
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        self.free.store(free, Ordering::Relaxed);
        let before = self.state();
        let now = before.next(free, self.mark);
        self.state.store(now as u8, Ordering::Release);
        if now > before {
            tracing::error!(
                state = now.name(),
                free,
                low_water = self.mark,
                "the disk is nearly full: give it room, or delete something"
            );
        } else if now < before {
            tracing::info!(state = now.name(), free, "there is more room on the disk");
        }
    }

    /// The room that there is.
    pub fn state(&self) -> DiskState {
        let number = usize::from(self.state.load(Ordering::Acquire));
        DiskState::ALL.get(number).copied().unwrap_or_default()
    }

    /// Bytes that are free, for other users than root; 0 if that can't be told.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }
}

/// What a leader takes while disks fill up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intake {
    /// Everything.
    #[default]
    All,
    /// Nothing that makes the state grow.
    NoGrowth {
        /// Whether another member has room, so that trying again may help soon.
        elsewhere: bool,
    },
    /// No write at all.
    Nothing {
        /// Whether another member has room, so that trying again may help soon.
        elsewhere: bool,
    },
}

/// The intake of a group, decided now and then, and asked with each write.
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

const NO_GROWTH: u8 = 1;
const NOTHING: u8 = 2;
const ELSEWHERE: u8 = 4;

impl Gate {
    /// Decides.
    pub fn set(&self, intake: Intake) {
        let with = |bit, elsewhere| if elsewhere { bit | ELSEWHERE } else { bit };
        let bits = match intake {
            Intake::All => 0,
            Intake::NoGrowth { elsewhere } => with(NO_GROWTH, elsewhere),
            Intake::Nothing { elsewhere } => with(NOTHING, elsewhere),
        };
        self.0.store(bits, Ordering::Relaxed);
    }

    /// Whether a write is refused, one that grows the state or one that doesn't; and if so, whether
    /// another member has room.
    pub fn refuses(&self, grows: bool) -> Option<bool> {
        let bits = self.0.load(Ordering::Relaxed);
        let refused = bits & NOTHING != 0 || (grows && bits & NO_GROWTH != 0);
        refused.then_some(bits & ELSEWHERE != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_later_than_it_went() {
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
    fn without_a_mark_there_is_always_room() {
        assert_eq!(DiskState::Ample.next(0, 0), DiskState::Ample);
        let dir = tempfile::tempdir().unwrap();
        let space = DiskSpace::new(dir.path(), u64::MAX);
        assert_eq!(space.state(), DiskState::Exhausted);
        assert!(space.free() > 0);
        assert_eq!(DiskSpace::new(dir.path(), 0).state(), DiskState::Ample);
    }

    #[test]
    fn a_gate_refuses_what_was_decided() {
        let gate = Gate::default();
        assert_eq!((gate.refuses(true), gate.refuses(false)), (None, None));
        gate.set(Intake::NoGrowth { elsewhere: true });
        assert_eq!(
            (gate.refuses(true), gate.refuses(false)),
            (Some(true), None)
        );
        gate.set(Intake::Nothing { elsewhere: false });
        let refused = (gate.refuses(true), gate.refuses(false));
        assert_eq!(refused, (Some(false), Some(false)));
        gate.set(Intake::All);
        assert_eq!((gate.refuses(true), gate.refuses(false)), (None, None));
    }
}
