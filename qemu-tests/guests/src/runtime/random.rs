//! Seeded pseudo-random numbers (xorshift64*): the same command line gives the same run.

use super::boot;

/// A generator.
pub struct Random(u64);

impl Random {
    /// One stream per test: the command line's seed mixed with the test's own number.
    pub fn new(stream: u64) -> Self {
        let seed = boot::options().seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (stream << 17 | 1);
        Self(seed | 1)
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
}
