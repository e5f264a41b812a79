//! Intel 82576 (QEMU's igb) as the owner of its PF must run it: link, one pool of queues for each VF, filters by MAC address
//! and VLAN, frames between pools. The PF itself neither sends nor receives. Everything is polled.
//! Intel 82576 datasheet, 7.10.3 (VMDq), 8 (registers).

use super::mailbox;
use super::request::{self, Hashes, LONGEST_FRAME, Message, Request};
use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::pci::{BUS_MASTER, Function, MEMORY, NO_INTX};
use crate::runtime::serial::println;
use crate::runtime::text::{Outcome, ensure};
use crate::runtime::time;

/// Registers, and bits of each.
const CTRL: u64 = 0x0000;
const CTRL_FULL_DUPLEX: u32 = 1 << 0;
const CTRL_LINK_UP: u32 = 1 << 6;
const CTRL_RESET: u32 = 1 << 26;
const STATUS: u64 = 0x0008;
const STATUS_LINK_UP: u32 = 1 << 1;
const EEPROM: u64 = 0x0010;
const EEPROM_READ: u32 = 1 << 9;
const CTRL_EXT: u64 = 0x0018;
const CTRL_EXT_RESET_DONE: u32 = 1 << 14;
const PHY: u64 = 0x0020;
const PHY_READY: u32 = 1 << 28;
const RECEIVE: u64 = 0x0100;
const TRANSMIT: u64 = 0x0400;
const INTERRUPT_CLEAR: u64 = 0x150C;
const INTERRUPT_MODE: u64 = 0x1514;
const EXTENDED_CLEAR: u64 = 0x1528;
const DROP_ENABLE: u64 = 0x2408;
const SWITCH: u64 = 0x3500;
const LONGEST: u64 = 0x5004;
const MULTICAST: u64 = 0x5200;
const ADDRESSES: u64 = 0x5400;
const ADDRESS_VALID: u32 = 1 << 31;
const VLANS: u64 = 0x5600;
const QUEUES: u64 = 0x5818;
const POOLS: u64 = 0x581C;
const POOL: u64 = 0x5AD0;
const REPLICATION: u64 = 0x5AF0;
const VLAN_POOLS: u64 = 0x5D00;
const VLAN_VALID: u32 = 1 << 31;
const RECEIVE_POOLS: u64 = 0x0C8C;
const TRANSMIT_POOLS: u64 = 0x0C90;

/// A pool: untagged and broadcast frames, VLAN tags and checksums off; by hash, or all, the multicast ones.
const POOL_PLAIN: u32 = 1 << 24 | 1 << 27 | 1 << 30 | 1 << 31;
const POOL_BY_HASH: u32 = 1 << 25;
const POOL_ALL_MULTICAST: u32 = 1 << 28;
const POOL_LONG: u32 = 1 << 16;

/// VFs of an 82576.
const MAX_VFS: usize = 8;

/// The registers, by their offset in BAR 0.
#[derive(Clone, Copy)]
pub struct Registers(u64);

impl Registers {
    pub fn read(self, register: u64) -> u32 {
        mmio_read(self.0 + register)
    }

    pub fn write(self, register: u64, value: u32) {
        mmio_write(self.0 + register, value);
    }

    fn set(self, register: u64, bits: u32) {
        self.write(register, self.read(register) | bits);
    }

    fn change(self, register: u64, bit: u32, on: bool) {
        let others = self.read(register) & !bit;
        self.write(register, others | if on { bit } else { 0 });
    }
}

/// What the PF knows of a VF.
#[derive(Clone, Copy)]
struct Vf {
    /// It has said that it was reset, and may speak.
    awake: bool,
    mac: [u8; 6],
    hashes: Hashes,
    all_multicast: bool,
    longest: Option<u32>,
}

impl Vf {
    /// VF `number` of the PF with this address, after a reset. Its own address is locally administered, and another than its
    /// neighbours'.
    fn asleep(pf: [u8; 6], number: usize) -> Self {
        let mut mac = pf;
        mac[0] |= 2;
        mac[1] ^= number as u8 + 1;
        Self { awake: false, mac, hashes: Hashes::NONE, all_multicast: false, longest: None }
    }
}

/// A PF at work.
pub struct Igb {
    registers: Registers,
    mac: [u8; 6],
    vfs: [Vf; MAX_VFS],
    count: usize,
}

impl Igb {
    /// Brings the PF up, with its link.
    pub fn start(function: Function) -> Outcome<Self> {
        // Where the PF is no bus master, the 82576 takes no frame for its VFs either.
        function.command(MEMORY | BUS_MASTER | NO_INTX);
        let registers = Registers(function.bar(0)?);
        registers.write(INTERRUPT_CLEAR, u32::MAX);
        registers.write(CTRL, registers.read(CTRL) | CTRL_RESET);
        // 8.2.1: not touched for 1 ms; then its EEPROM is read again, which QEMU's never reports.
        time::delay(time::UNITS / 500);
        time::wait(time::UNITS / 20, || registers.read(EEPROM) & EEPROM_READ != 0);
        registers.write(INTERRUPT_CLEAR, u32::MAX);
        registers.write(EXTENDED_CLEAR, u32::MAX);
        let status = registers.read(STATUS);
        let count = (status >> 14 & 0xF) as usize;
        ensure!(status >> 18 & 1 == 1 && count <= MAX_VFS, "its VFs are off: STATUS {status:#x}");
        let mac = address(registers, 0);
        ensure!(mac != [0; 6], "it has no MAC address");
        let vfs = core::array::from_fn(|vf| Vf::asleep(mac, vf));
        let mut igb = Self { registers, mac, vfs, count };
        igb.open_pools();
        for vf in 0..count {
            igb.forget(vf);
        }
        igb.link()?;
        Ok(igb)
    }

    /// How many VFs there are.
    pub fn vfs(&self) -> usize {
        self.count
    }

    fn open_pools(&self) {
        let registers = self.registers;
        for entry in 0..128 {
            registers.write(MULTICAST + 4 * entry, 0);
            registers.write(VLANS + 4 * entry, 0);
        }
        // VLAN 0 stands for no VLAN.
        registers.write(VLANS, 1);
        for entry in 0..32 {
            registers.write(VLAN_POOLS + 4 * entry, 0);
        }
        // Messages of VFs are MSI-X (8.8.16), with automatic masking as their drivers know it.
        registers.write(INTERRUPT_MODE, 1 << 0 | 1 << 4 | 1 << 30 | 1 << 31);
        // A VF without descriptors loses its own frames and does not hold up the others'.
        registers.write(DROP_ENABLE, 0xFFFF);
        // Pools by MAC address (8.10.19); frames to several pools are copied, those to none are dropped.
        registers.write(QUEUES, 3);
        registers.write(POOLS, 1 << 29 | 1 << 30);
        registers.write(REPLICATION, 1 << 30 | 1 << 31);
        // Frames between pools stay inside; nobody sends under another's address or VLAN.
        let pools = (1 << self.count) - 1;
        registers.write(SWITCH, 1 << 31 | pools << 8 | pools);
        registers.write(LONGEST, LONGEST_FRAME);
        // Enable, long frames (each pool has its own limit), broadcast, VLAN filter, no checksum at the end.
        registers.write(RECEIVE, 1 << 1 | 1 << 5 | 1 << 15 | 1 << 18 | 1 << 26);
        // Enable, pad short frames, collision threshold, late collisions are tried again.
        registers.write(TRANSMIT, 1 << 1 | 1 << 3 | 0xF << 4 | 1 << 24);
        registers.set(CTRL_EXT, CTRL_EXT_RESET_DONE);
    }

    /// Starts the PHY's negotiation and waits for the link.
    fn link(&self) -> Outcome {
        let registers = self.registers;
        registers.set(CTRL, CTRL_LINK_UP | CTRL_FULL_DUPLEX);
        // 8.2.4: write register 0 of PHY 1: negotiate, anew (IEEE 802.3, 22.2.4.1).
        registers.write(PHY, 1 << 26 | 1 << 21 | 0x1200);
        let done = time::wait(time::UNITS, || registers.read(PHY) & PHY_READY != 0);
        ensure!(done, "its PHY does not answer: MDIC {:#x}", registers.read(PHY));
        let up = || registers.read(STATUS) & STATUS_LINK_UP != 0;
        if !time::wait(5 * time::UNITS, up) {
            println!("# PF igb has no link yet: STATUS {:#x}", registers.read(STATUS));
        }
        Ok(())
    }

    /// Serves whoever has something to say.
    pub fn poll(&mut self) {
        for vf in 0..self.count {
            if mailbox::was_reset(self.registers, vf) {
                self.forget(vf);
            }
            if let Some(message) = mailbox::take(self.registers, vf) {
                self.answer(vf, &message);
            }
        }
        // A VF's driver wants to read once after each of its resets that the PF is through with its own, within 1 ms, and
        // may have read it before without a reset: it is told all the time.
        self.registers.set(CTRL_EXT, CTRL_EXT_RESET_DONE);
    }

    /// VF `vf` was reset, and perhaps has a new user: nothing holds of what the last one has asked for.
    fn forget(&mut self, vf: usize) {
        let registers = self.registers;
        self.vfs[vf] = Vf::asleep(self.mac, vf);
        registers.change(RECEIVE_POOLS, 1 << vf, false);
        registers.change(TRANSMIT_POOLS, 1 << vf, false);
        for entry in 0..32 {
            self.leave_vlan(vf, VLAN_POOLS + 4 * entry);
        }
        self.set_address(vf);
        self.set_pool(vf);
        self.set_multicast();
    }

    fn answer(&mut self, vf: usize, message: &Message) {
        let request = Request::parse(message);
        if request == Some(Request::Reset) {
            // Its reset may have come after the last look at it, and must not be met later, when the pool is open.
            mailbox::was_reset(self.registers, vf);
            self.forget(vf);
            self.vfs[vf].awake = true;
            self.registers.change(RECEIVE_POOLS, 1 << vf, true);
            self.registers.change(TRANSMIT_POOLS, 1 << vf, true);
            let answer = request::address(self.vfs[vf].mac);
            return mailbox::send(self.registers, vf, &answer);
        }
        let awake = self.vfs[vf].awake;
        let done = awake && request.is_some_and(|request| self.serve(vf, request));
        mailbox::send(self.registers, vf, &request::answer(message[0], awake, done));
    }

    /// Does what VF `vf` asks for; false where it cannot be.
    fn serve(&mut self, vf: usize, request: Request) -> bool {
        match request {
            Request::Reset | Request::ForgetAddresses => {}
            Request::Mac(mac) => {
                let mut others = self.vfs.iter().enumerate().filter(|(other, _)| *other != vf);
                if mac == self.mac || others.any(|(_, other)| other.mac == mac) {
                    return false;
                }
                self.vfs[vf].mac = mac;
                self.set_address(vf);
            }
            Request::Multicast(hashes) => {
                self.vfs[vf].hashes = hashes;
                self.set_pool(vf);
                self.set_multicast();
            }
            Request::AllMulticast(on) => {
                self.vfs[vf].all_multicast = on;
                self.set_pool(vf);
            }
            Request::Vlan { id, join } => return self.set_vlan(vf, id, join),
            Request::LongestFrame(bytes) => {
                self.vfs[vf].longest = Some(bytes);
                self.set_pool(vf);
            }
        }
        true
    }

    /// Entry 0 is the PF's, the next ones are the VFs', each with its pool (8.10.14).
    fn set_address(&self, vf: usize) {
        let [a, b, c, d, e, f] = self.vfs[vf].mac;
        let at = ADDRESSES + 8 * (vf as u64 + 1);
        self.registers.write(at + 4, 0);
        self.registers.write(at, u32::from_le_bytes([a, b, c, d]));
        let high = u32::from_le_bytes([e, f, 0, 0]);
        self.registers.write(at + 4, high | 1 << (18 + vf) | ADDRESS_VALID);
    }

    fn set_pool(&self, vf: usize) {
        let own = &self.vfs[vf];
        let hash = if own.hashes.iter().next().is_some() { POOL_BY_HASH } else { 0 };
        let all = if own.all_multicast { POOL_ALL_MULTICAST } else { 0 };
        let long = own.longest.map_or(0, |bytes| POOL_LONG | bytes);
        self.registers.write(POOL + 4 * vf as u64, POOL_PLAIN | hash | all | long);
    }

    /// One table of hashes serves all pools (8.10.13).
    fn set_multicast(&self) {
        let mut table = [0_u32; 128];
        for hash in self.vfs[..self.count].iter().flat_map(|vf| vf.hashes.iter()) {
            table[usize::from(hash) / 32] |= 1 << (hash % 32);
        }
        for (entry, bits) in (0..).zip(table) {
            self.registers.write(MULTICAST + 4 * entry, bits);
        }
    }

    fn set_vlan(&self, vf: usize, id: u16, join: bool) -> bool {
        // Frames without a tag always come.
        if id == 0 {
            return true;
        }
        let registers = self.registers;
        let entry = |wanted: &dyn Fn(u32) -> bool| {
            (0..32).map(|n| VLAN_POOLS + 4 * n).find(|&at| wanted(registers.read(at)))
        };
        let own = VLAN_VALID | u32::from(id);
        let free = || entry(&|entry| entry & VLAN_VALID == 0).filter(|_| join);
        let found = entry(&|entry| entry & (VLAN_VALID | 0xFFF) == own).or_else(free);
        // To leave where one is not is no fault; to join where all entries are taken is.
        let Some(at) = found else { return !join };
        if !join {
            self.leave_vlan(vf, at);
            return true;
        }
        registers.write(at, registers.read(at) | own | 1 << (12 + vf));
        registers.set(VLANS + 4 * u64::from(id / 32), 1 << (id % 32));
        true
    }

    /// Takes VF `vf` out of the VLAN with the entry at `at`, which the last one closes.
    fn leave_vlan(&self, vf: usize, at: u64) {
        let rest = self.registers.read(at) & !(1 << (12 + vf));
        if rest & VLAN_VALID == 0 {
            return;
        }
        let (id, pools) = (rest & 0xFFF, rest >> 12 & 0xFF);
        self.registers.write(at, if pools == 0 { 0 } else { rest });
        if pools == 0 {
            self.registers.change(VLANS + 4 * u64::from(id / 32), 1 << (id % 32), false);
        }
    }
}

/// A MAC address that the device has.
fn address(registers: Registers, entry: u64) -> [u8; 6] {
    let low = registers.read(ADDRESSES + 8 * entry).to_le_bytes();
    let high = registers.read(ADDRESSES + 8 * entry + 4).to_le_bytes();
    [low[0], low[1], low[2], low[3], high[0], high[1]]
}
