//! Access control services (ACS): whether requests from one function to another pass the IOMMU. PCIe 5.0, sections 6.12
//! and 7.7.8.

use bitfield_struct::bitfield;

/// Byte offsets in the capability.
pub mod offset {
    /// [`super::Services`] that the function has.
    pub const CAPABILITY: u16 = 0x04;
    /// [`super::Services`] that are on.
    pub const CONTROL: u16 = 0x06;
}

/// The capability register and the control register, which are alike.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Services {
    /// Requests under a bus number that is not behind the port are dropped.
    pub source_validation: bool,
    /// Requests with translated addresses are dropped.
    pub translation_blocking: bool,
    /// Requests to peers go upstream.
    pub request_redirect: bool,
    /// Completions for peers go upstream.
    pub completion_redirect: bool,
    /// What comes from behind the port goes upstream.
    pub upstream_forwarding: bool,
    /// A table says which peers may be reached.
    pub egress_control: bool,
    /// Requests with translated addresses go to peers directly.
    pub direct_translated: bool,
    #[bits(9)]
    __: u16,
}

impl Services {
    /// What keeps peers apart. A service that a function with the capability does not list is wired on, or it has nothing
    /// to redirect (section 6.12.1).
    pub const APART: Self = Self::new()
        .with_source_validation(true)
        .with_request_redirect(true)
        .with_completion_redirect(true)
        .with_upstream_forwarding(true);

    /// The control register that keeps peers apart, of a function with these services.
    #[must_use]
    pub const fn apart(self, control: Self) -> Self {
        let wanted = self.into_bits() & Self::APART.into_bits();
        Self::from_bits(control.into_bits() | wanted).with_direct_translated(false)
    }

    /// Whether `control` keeps peers apart, of a function with these services.
    #[must_use]
    pub const fn are_apart(self, control: Self) -> bool {
        self.apart(control).into_bits() == control.into_bits()
    }
}
