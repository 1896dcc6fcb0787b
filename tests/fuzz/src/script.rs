//! Inputs of targets that do more than receive bytes: scripts, which people can read and write.
//!
//! A script is a row of orders: a letter, then its numbers (one character each, a digit for
//! 0 to 9) and its words (up to a semicolon). Blanks between orders, and characters that are no
//! order, mean nothing; so nearly every change of a script is again a script.

/// Reads a script.
pub struct Script<'s> {
    rest: &'s [u8],
}

impl<'s> Script<'s> {
    pub fn new(rest: &'s [u8]) -> Self {
        Self { rest }
    }

    /// The letter of the next order.
    pub fn order(&mut self) -> Option<u8> {
        self.byte()
    }

    /// 0 to 15, or 0 at the end.
    pub fn number(&mut self) -> usize {
        usize::from(self.byte().unwrap_or(0) & 0x0F)
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.number() % choices.len()]
    }

    pub fn words(&mut self) -> &'s [u8] {
        let len = self.rest.iter().position(|&byte| byte == b';').unwrap_or(self.rest.len());
        let (words, rest) = self.rest.split_at(len);
        self.rest = rest.get(1..).unwrap_or_default();
        words
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.words()).into_owned()
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }
}
