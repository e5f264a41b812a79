//! The MSI capability. PCI 3.0, section 6.8.1.

use bitfield_struct::bitfield;

/// Byte offset of [`Control`].
pub const CONTROL: u16 = 2;
/// Byte offset of the lower half of the address.
pub const ADDRESS: u16 = 4;

/// The most messages that there can be: 1 shifted by this. Higher values are reserved.
pub const MAX_ORDER: u8 = 5;

/// The message control register. It says what the capability looks like.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// The function sends messages.
    pub enable: bool,
    /// Messages that it could use: 1 shifted by this.
    #[bits(3)]
    pub capable: u8,
    /// Messages that it may use: 1 shifted by this.
    #[bits(3)]
    pub enabled: u8,
    /// The address has 64 bits.
    pub wide: bool,
    /// There are mask and pending registers.
    pub maskable: bool,
    #[bits(7)]
    __: u8,
}

impl Control {
    /// Messages that the function has, 1 to 32.
    pub const fn messages(self) -> u16 {
        let order = self.capable();
        1 << if order < MAX_ORDER { order } else { MAX_ORDER }
    }

    /// Byte offset of the data register.
    pub const fn data(self) -> u16 {
        if self.wide() { 12 } else { 8 }
    }

    /// Byte offset of the mask register, if there is one.
    pub const fn mask(self) -> Option<u16> {
        if self.maskable() { Some(self.data() + 4) } else { None }
    }

    /// Bytes of the capability.
    pub const fn size(self) -> u8 {
        self.data() as u8 + if self.maskable() { 12 } else { 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_layouts() {
        let layout = |wide, maskable| {
            let control = Control::new().with_wide(wide).with_maskable(maskable);
            (control.data(), control.mask(), control.size())
        };
        // Table rows of figure 6-9; 12 and 16 are rounded up from 10 and 14 bytes.
        assert_eq!(layout(false, false), (8, None, 12));
        assert_eq!(layout(true, false), (12, None, 16));
        assert_eq!(layout(false, true), (8, Some(12), 20));
        assert_eq!(layout(true, true), (12, Some(16), 24));
    }
}
