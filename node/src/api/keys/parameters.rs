//! Parameters and bounds of operations on a key, which their description has, too.

/// Parameters of a read.
pub(crate) const READ_PARAMETERS: [&str; 1] = ["consistency"];

/// Maximum length of a `Content-Type` that is stored with a value, in bytes.
pub(crate) const MAX_CONTENT_TYPE_BYTES: usize = 256;
