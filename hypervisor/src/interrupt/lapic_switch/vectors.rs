//! A set of vectors, laid out as a LAPIC lays out ISR and IRR. Pure; no locks.

/// A set of the vectors 0 to 255: bit `v % 32` of word `v / 32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet([u32; 8]);

impl VectorSet {
    /// No vector.
    pub const EMPTY: Self = Self([0; 8]);

    /// From the eight words of ISR or IRR, lowest vectors first.
    pub const fn from_words(words: [u32; 8]) -> Self {
        Self(words)
    }

    /// Adds a vector; one that is there already stays once.
    pub const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 32] |= 1 << (vector % 32);
    }

    /// Takes a vector out.
    pub const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 32] &= !(1 << (vector % 32));
    }

    /// Adds all vectors of another set.
    pub fn insert_all(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// True if the vector is in the set.
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 32] >> (vector % 32) & 1 != 0
    }

    /// True for no vector at all.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 8]
    }

    /// The vector with the highest priority.
    pub fn highest(&self) -> Option<u8> {
        self.ascending().next_back()
    }

    /// The vectors from the lowest priority to the highest.
    pub fn ascending(self) -> impl DoubleEndedIterator<Item = u8> {
        (0..=u8::MAX).filter(move |&vector| self.contains(vector))
    }
}
