//! Output of the commands.

use std::io::Write;

use super::client::AdminCallError;

/// Output of a command.
pub(super) type Output<'a> = &'a mut (dyn Write + Send);

/// Prints a text and flushes it.
pub(super) fn print(out: Output<'_>, text: &str) -> Result<(), AdminCallError> {
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(AdminCallError::Print)
}
