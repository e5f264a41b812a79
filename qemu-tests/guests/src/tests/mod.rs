//! The tests, by theme. Each file registers its own at its top.

mod timer;
