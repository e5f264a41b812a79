//! How interrupts, requests and NMIs travel between cores and into guests.
//!
//! | file | what |
//! |---|---|
//! | [`kick`] | the request word of each core and the NMI that makes it look |

pub mod kick;
