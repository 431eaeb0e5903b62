//! Limits of batches, which the settings give.

/// Limits of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// Maximum number of operations.
    pub operations: usize,
    /// Maximum size of the body, in bytes.
    pub bytes: usize,
}
