//! Limits of batches, exports and imports, which the settings give.

/// Limits of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// Maximum number of operations.
    pub operations: usize,
    /// Maximum size of the body, in bytes.
    pub bytes: usize,
}

/// Maximum numbers of exports and imports that run at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConcurrencyLimits {
    /// Maximum number of exports.
    pub exports: usize,
    /// Maximum number of imports.
    pub imports: usize,
}
