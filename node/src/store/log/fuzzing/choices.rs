//! Choices that an input makes.

/// Choices of an input, in its order; zeros after its end.
pub(super) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Creates the choices of an input.
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Returns whether the input has ended.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Chooses a byte.
    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// Chooses a number below 65,536.
    pub(super) fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Chooses so many bytes, or those that are left.
    pub(super) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (chosen, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        chosen
    }
}
