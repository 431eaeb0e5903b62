//! Output of the commands.

use std::io::Write;

use super::client::AdminCallError;

/// Output of a command.
pub(super) type Output<'a> = &'a mut (dyn Write + Send);

/// Prints a result and flushes it. That nobody reads it any more is no error.
pub(super) fn print_result(out: Output<'_>, text: &str) -> Result<(), AdminCallError> {
    match print(out, text) {
        Err(error) if error.is_closed_pipe() => Ok(()),
        outcome => outcome,
    }
}

/// Prints a text and flushes it.
pub(super) fn print(out: Output<'_>, text: &str) -> Result<(), AdminCallError> {
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(AdminCallError::Print)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Output whose writes fail.
    struct BrokenOutput(io::ErrorKind);

    impl Write for BrokenOutput {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_the_output_without_an_error() {
        let mut closed = BrokenOutput(io::ErrorKind::BrokenPipe);
        let error = print(&mut closed, "page\n").unwrap_err();
        assert!(error.is_closed_pipe(), "{error}");
        assert!(print_result(&mut closed, "page\n").is_ok());
        let mut full = BrokenOutput(io::ErrorKind::StorageFull);
        let error = print_result(&mut full, "page\n").unwrap_err();
        assert!(!error.is_closed_pipe(), "{error}");
    }
}
