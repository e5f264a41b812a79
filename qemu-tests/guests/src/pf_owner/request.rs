//! What the driver of an 82576's VF says in its mailbox. Intel 82576 datasheet, 7.10.2.9.1 leaves the words to software:
//! they are those of Linux' drivers igb and igbvf.

/// Words of a mailbox.
pub const WORDS: usize = 16;
/// A message.
pub type Message = [u32; WORDS];

/// Bits of the first word: done, not done, and that the VF may speak.
const ACK: u32 = 1 << 31;
const NACK: u32 = 1 << 30;
const CLEAR_TO_SEND: u32 = 1 << 29;
/// Multicast hashes that fit into a message.
pub const HASHES: usize = 30;
/// The longest frame, in bytes, that the 82576 receives (datasheet 8.10.25).
pub const LONGEST_FRAME: u32 = 0x2600;

/// The hashes of the multicast addresses that a VF listens to, 12 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    all: [u16; HASHES],
    count: usize,
}

impl Hashes {
    /// No address.
    pub const NONE: Self = Self { all: [0; HASHES], count: 0 };

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.all.iter().take(self.count).copied()
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The VF was reset and wants its MAC address.
    Reset,
    /// It wants this address.
    Mac([u8; 6]),
    /// It forgets all further unicast addresses.
    ForgetAddresses,
    /// It listens to these multicast addresses and no others.
    Multicast(Hashes),
    /// It listens to all multicast addresses, or no longer.
    AllMulticast(bool),
    /// It joins a VLAN or leaves it.
    Vlan {
        /// 0 to 4095.
        id: u16,
        /// It joins.
        join: bool,
    },
    /// It receives frames of up to so many bytes.
    LongestFrame(u32),
}

impl Request {
    /// What `message` asks for; `None` where it cannot be had.
    pub fn parse(message: &Message) -> Option<Self> {
        let (kind, info) = (message[0] & 0xFFFF, message[0] >> 16 & 0xFF);
        match (kind, info) {
            (1, _) => Some(Self::Reset),
            (2, 0) => {
                let [a, b, c, d] = message[1].to_le_bytes();
                let [e, f, ..] = message[2].to_le_bytes();
                let unicast = a & 1 == 0 && [a, b, c, d, e, f] != [0; 6];
                unicast.then_some(Self::Mac([a, b, c, d, e, f]))
            }
            // There are none to forget: one more (2) is refused.
            (2, 1) => Some(Self::ForgetAddresses),
            (3, count) => {
                let count = (count as usize).min(HASHES);
                let mut hashes = Hashes { count, ..Hashes::NONE };
                for (i, hash) in hashes.all.iter_mut().enumerate().take(count) {
                    *hash = (message[1 + i / 2] >> (16 * (i % 2)) & 0xFFF) as u16;
                }
                Some(Self::Multicast(hashes))
            }
            (4, join) => Some(Self::Vlan { id: (message[1] & 0xFFF) as u16, join: join != 0 }),
            (5, _) => Some(Self::LongestFrame(message[1])).filter(|_| message[1] <= LONGEST_FRAME),
            // All unicast frames (1) are not for one VF.
            (6, 0 | 2) => Some(Self::AllMulticast(info == 2)),
            _ => None,
        }
    }
}

/// The answer to [`Request::Reset`].
pub const fn address(mac: [u8; 6]) -> [u32; 3] {
    let [a, b, c, d, e, f] = mac;
    [1 | ACK, u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0])]
}

/// The answer to any other message, by its first word. Linux' driver takes a link for up once it was told that it may
/// speak.
pub const fn answer(word: u32, may_speak: bool, done: bool) -> [u32; 1] {
    let word = word & !(ACK | NACK | CLEAR_TO_SEND);
    [word | if may_speak { CLEAR_TO_SEND } else { 0 } | if done { ACK } else { NACK }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[u32]) -> Option<Request> {
        let mut message = [0; WORDS];
        message[..words.len()].copy_from_slice(words);
        Request::parse(&message)
    }

    #[test]
    fn addresses() {
        assert_eq!(parse(&[1]), Some(Request::Reset));
        let wanted = Some(Request::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(parse(&[2, 0x1200_5452, 0x5634]), wanted);
        assert_eq!(parse(&[2, 0x1200_5453, 0x5634]), None, "a group's");
        assert_eq!(parse(&[2, 0, 0]), None);
        assert_eq!(parse(&[0x1_0002]), Some(Request::ForgetAddresses));
        assert_eq!(parse(&[0x2_0002, 0x1200_5452, 0x5634]), None);
    }

    #[test]
    fn multicast_counts_are_clamped_to_the_mailbox() {
        let Some(Request::Multicast(hashes)) = parse(&[0x3_0003, 0xF123_0456, 0x789]) else {
            panic!("no multicast");
        };
        assert!(hashes.iter().eq([0x456, 0x123, 0x789]));
        assert_eq!(parse(&[3, 0x123]), Some(Request::Multicast(Hashes::NONE)));
        let Some(Request::Multicast(hashes)) = parse(&[0xFF_0003]) else {
            panic!("no multicast");
        };
        assert_eq!(hashes.iter().count(), HASHES);
    }

    #[test]
    fn answers() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        assert_eq!(address(mac), [0x8000_0001, 0x1200_5452, 0x5634]);
        assert_eq!(answer(5, true, true), [0xA000_0005]);
        assert_eq!(answer(5, true, false), [0x6000_0005]);
        assert_eq!(answer(5, false, false), [0x4000_0005]);
        assert_eq!(answer(0xE000_0007, true, false), [0x6000_0007]);
    }

    #[test]
    fn the_rest() {
        assert_eq!(parse(&[0x1_0004, 0x1007]), Some(Request::Vlan { id: 7, join: true }));
        assert_eq!(parse(&[5, 0x2600]), Some(Request::LongestFrame(0x2600)));
        assert_eq!(parse(&[5, 0x2601]), None);
        assert_eq!(parse(&[0x2_0006]), Some(Request::AllMulticast(true)));
        assert_eq!(parse(&[0x1_0006]), None);
        assert_eq!(parse(&[7]), None);
        assert_eq!(parse(&[0x8000_0000]), None);
    }
}
