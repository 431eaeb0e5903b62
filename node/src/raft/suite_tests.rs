//! openraft's own storage suite on our storage, and tests of what it doesn't know: crashes.
