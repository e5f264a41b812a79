//! How interrupts, requests and NMIs travel between cores and into guests.
//!
//! | file | what |
//! |---|---|
//! | [`post`] | the one door: a vector for a vCPU |
//! | [`ipi`] | a guest's ICR writes, translated and sent |
//! | [`apic_state`] | what of a guest's LAPIC is virtual: ids, LVT shadows, mode |
//! | [`lapic_switch`] | a LAPIC taken from one vCPU of a core and given to another (nothing calls it yet) |
//! | [`xapic`] | the register page of a guest in xAPIC mode |
//! | [`line`] | interrupt lines of assigned functions |
//! | [`route`] | remapping entries and pins: where devices' interrupts go |
//! | [`faults`] | what the IOMMU has blocked |
//! | [`kick`] | the request word of each core and the NMI that makes it look |

#[cfg(not(loom))]
pub mod apic_state;
#[cfg(not(loom))]
pub mod faults;
#[cfg(not(loom))]
pub mod ipi;
pub mod kick;
#[cfg(not(loom))]
pub mod lapic_switch;
#[cfg(not(loom))]
pub mod line;
#[cfg(not(loom))]
pub mod post;
#[cfg(not(loom))]
pub mod route;
#[cfg(not(loom))]
pub mod xapic;

#[cfg(not(loom))]
pub use post::post;
