//! The board of one VM: which device answers at which port or page, and how their lines reach the
//! virtual IOAPIC and from there, through `interrupt::post`, a vCPU.
//!
//! Locks: COM1's, then the virtual IOAPIC's, then those of the lines and the physical pins. Messages are delivered after both are released.
//! The PCI bus's is apart from these; those of its functions' backings (IOMMU, configuration ports) come after it.

use super::ioapic::{Delivery, Ioapic, Message, Pin, REMOTE_IRR, Written};
use super::pci::{self, Bus};
use super::pit;
use super::power::{self, PowerAction};
use super::uart::Uart;
use crate::interrupt::line::Lines;
use crate::interrupt::post::{post, post_nmi};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use crate::vm::{Ask, VcpuShared, Vm};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arch::pci::Width;
use arch_defs::apic::{ApicId, TargetSet, XapicLogical, targets, xapic_targets};
use arch_defs::pci::Bdf;
use arrayvec::ArrayVec;
use guest_loader::acpi::PciRoute;
use guest_loader::config::DeviceConfig;
use guest_loader::layout::{COM1_GSI, COM1_PORT, PCI_CONFIG_ADDRESS, PCI_CONFIG_DATA};

const COM1_LAST: u16 = COM1_PORT + 7;
const PCI_CONFIG_LAST: u16 = PCI_CONFIG_DATA + 3;
/// Console input that waits for the guest at most, in bytes.
const BACKLOG: usize = 4096;

/// What a port write does beyond its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The VM ends this run.
    Stop(Ask),
}

struct Com1 {
    uart: Uart,
    /// Input that the UART's FIFO had no room for.
    backlog: VecDeque<u8>,
}

/// The devices of one VM.
pub struct Devices {
    com1: Mutex<Com1>,
    ioapic: Mutex<Ioapic>,
    pci: Mutex<Bus>,
    /// A function is being reset: the housekeeping core looks after it.
    pci_resets: AtomicBool,
    lines: Lines,
    /// The VM owns the machine's PIT.
    has_pit: bool,
}

impl Devices {
    /// The board as it powers up.
    pub fn new(passed_through: &[DeviceConfig], pci: Bus, lines: Lines) -> Self {
        let has_pit = passed_through.contains(&DeviceConfig::Pit);
        Self {
            com1: Mutex::new(Com1 { uart: Uart::new(), backlog: VecDeque::new() }),
            ioapic: Mutex::new(Ioapic::new(passed_pins(has_pit) | lines.pins())),
            pci: Mutex::new(pci),
            pci_resets: AtomicBool::new(false),
            lines,
            has_pit,
        }
    }

    /// Resets every device but the functions, which are at rest since [`Devices::rest_pci`] (VM start).
    pub fn reset(&self) {
        let mut com1 = self.com1.lock();
        com1.uart = Uart::new();
        com1.backlog.clear();
        {
            let mut ioapic = self.ioapic.lock();
            *ioapic = Ioapic::new(passed_pins(self.has_pit) | self.lines.pins());
            self.lines.close();
        }
        if self.has_pit {
            pit::silence();
        }
    }

    /// A read of `size` bytes at a port; `None` where nobody answers.
    pub fn port_read(&self, vm: &Vm, port: u16, size: u8) -> Option<u32> {
        let byte = match port {
            COM1_PORT..=COM1_LAST => self.com1_read(vm, port - COM1_PORT),
            power::SLEEP_STATUS_PORT => power::read(port),
            PCI_CONFIG_ADDRESS..=PCI_CONFIG_LAST => return self.pci_port_read(port, size),
            _ if self.has_pit => pit::read(port)?,
            _ => return None,
        };
        // Wider accesses see the byte and ones: there is one register per port.
        Some(if size == 1 { byte.into() } else { 0xFFFF_FF00 | u32::from(byte) })
    }

    /// A write of `size` bytes at a port; `None` where nobody answers.
    pub fn port_write(&self, vm: &Vm, port: u16, size: u8, value: u32) -> Option<Effect> {
        let byte = value as u8;
        match port {
            COM1_PORT..=COM1_LAST => {
                self.com1_write(vm, port - COM1_PORT, byte);
                Some(Effect::Nothing)
            }
            power::RESET_PORT | power::SLEEP_CONTROL_PORT | power::SLEEP_STATUS_PORT => {
                Some(match power::write(port, byte) {
                    PowerAction::None => Effect::Nothing,
                    PowerAction::Reset => Effect::Stop(Ask::Reset),
                    PowerAction::PowerOff => Effect::Stop(Ask::PowerOff),
                })
            }
            PCI_CONFIG_ADDRESS..=PCI_CONFIG_LAST => {
                self.pci_port_write(vm, port, size, value).map(|()| Effect::Nothing)
            }
            _ if self.has_pit => pit::write(port, byte).map(|()| Effect::Nothing),
            _ => None,
        }
    }

    // Out of line, so that other ports do not pay for the registers that these save.

    #[inline(never)]
    fn com1_read(&self, vm: &Vm, offset: u16) -> u8 {
        self.with_com1(vm, |com1| {
            let byte = com1.uart.read(offset);
            com1.refill();
            byte
        })
    }

    #[inline(never)]
    fn com1_write(&self, vm: &Vm, offset: u16, byte: u8) {
        self.with_com1(vm, |com1| {
            com1.uart.write(offset, byte, &mut |byte| vm.print(byte));
            com1.refill();
        });
    }

    #[inline(never)]
    fn pci_port_read(&self, port: u16, size: u8) -> Option<u32> {
        self.pci.lock().port_read(port, size)
    }

    #[inline(never)]
    fn pci_port_write(&self, vm: &Vm, port: u16, size: u8, value: u32) -> Option<()> {
        self.write_pci(|bus| bus.port_write(port, size, value, &pci_vcpus(vm)))
    }

    /// A 32-bit read of the virtual IOAPIC's page.
    pub fn ioapic_read(&self, offset: u16) -> u32 {
        let ioapic = self.ioapic.lock();
        let line = ioapic.shown(offset).and_then(|pin| self.lines.get(pin));
        let waits = line.is_some_and(|line| line.is_in_service());
        ioapic.read(offset) | if waits { REMOTE_IRR } else { 0 }
    }

    /// A vCPU's LAPIC goes off: no line leads to its core any more.
    pub fn lines_leave(&self, core: usize) {
        if !self.lines.is_empty() {
            let _ioapic = self.ioapic.lock();
            self.lines.leave(core);
        }
    }

    /// No line leads anywhere any more (VM stop).
    pub fn close_lines(&self) {
        let _ioapic = self.ioapic.lock();
        self.lines.close();
    }

    /// A vCPU's LAPIC is on: lines that its guest has programmed before, to it, may come.
    pub fn lines_come(&self, vm: &Vm) {
        if !self.lines.is_empty() {
            let ioapic = self.ioapic.lock();
            self.lines.iter().for_each(|line| line.follow(vm, ioapic.entry(line.pin)));
        }
    }

    /// Where the interrupt pins of the PCI functions lead: device number and pin of the virtual IOAPIC.
    pub fn pci_routing(&self) -> Vec<PciRoute> {
        let bus = self.pci.lock();
        let wired = (1..).zip(bus.functions()).filter_map(|(device, function)| {
            Some(PciRoute { device, gsi: function.line()?.number().into() })
        });
        wired.collect()
    }

    /// A 32-bit write to the virtual IOAPIC's page.
    pub fn ioapic_write(&self, vm: &Vm, offset: u16, value: u32) {
        let mut ioapic = self.ioapic.lock();
        let written = ioapic.write(offset, value);
        if !written.is_nothing() {
            self.follow(vm, ioapic, written);
        }
    }

    /// Begins the resets of all assigned functions, side by side: no DMA and no interrupt comes from them any more.
    pub fn rest_pci(&self) {
        self.write_pci(Bus::reset);
        self.attend_pci();
    }

    /// Takes the steps that are due of resets of functions; true while there are some (housekeeping core).
    pub fn attend_pci(&self) -> bool {
        if !self.pci_resets.load(Ordering::Acquire) {
            return false;
        }
        let mut bus = self.pci.lock();
        let under_way = bus.attend();
        // Under the lock: a guest's next reset says so after this.
        self.pci_resets.store(under_way, Ordering::Release);
        under_way
    }

    /// Whether a function is being reset.
    pub fn resets_pci(&self) -> bool {
        self.pci_resets.load(Ordering::Acquire)
    }

    /// Something that may begin a reset. Nobody waits for its end under the lock.
    fn write_pci<T>(&self, write: impl FnOnce(&mut Bus) -> T) -> T {
        let mut bus = self.pci.lock();
        let result = write(&mut bus);
        if bus.has_begun() {
            self.pci_resets.store(true, Ordering::Release);
        }
        result
    }

    /// The assigned functions, by their names on the machine.
    pub fn pci_names(&self) -> Vec<Bdf> {
        self.pci.lock().functions().map(pci::Function::name).collect()
    }

    /// Carries out what a write to the virtual IOAPIC leads to.
    #[cold]
    fn follow(&self, vm: &Vm, ioapic: MutexGuard<'_, Ioapic>, written: Written) {
        let mut messages = ArrayVec::<Message, 24>::new();
        for pin in written.reassert {
            messages.extend(ioapic.reassert(pin));
        }
        for line in written.ended.filter_map(|pin| self.lines.get(pin)) {
            line.end(vm, ioapic.entry(line.pin));
        }
        if let Some(changed) = written.changed {
            // Under the lock: two vCPUs that program the pin must leave the real one as the virtual
            // one.
            match self.lines.get(changed.pin) {
                Some(line) => line.follow(vm, changed.entry),
                None => pit::pin_changed(vm, changed),
            }
        }
        drop(ioapic);
        messages.into_iter().for_each(|message| deliver(vm, message));
    }

    /// A read at a byte offset of PCI configuration space.
    #[inline(never)]
    pub fn ecam_read(&self, offset: u64, width: Width) -> u64 {
        self.pci.lock().ecam_read(offset, width)
    }

    /// A write at a byte offset of PCI configuration space.
    #[inline(never)]
    pub fn ecam_write(&self, vm: &Vm, offset: u64, width: Width, value: u64) {
        self.write_pci(|bus| bus.ecam_write(offset, width, value, &pci_vcpus(vm)));
    }

    /// A read of a PCI function's memory that is not mapped; `None` if no function has it.
    #[inline(never)]
    pub fn pci_read(&self, gpa: u64, width: Width) -> Option<u64> {
        self.pci.lock().memory_read(gpa, width)
    }

    /// A write to a PCI function's memory that is not mapped; `None` if no function has it.
    #[inline(never)]
    pub fn pci_write(&self, vm: &Vm, gpa: u64, width: Width, value: u64) -> Option<()> {
        self.pci.lock().memory_write(gpa, width, value, &pci_vcpus(vm))
    }

    /// The PIT's pin fired while the guest has it in NMI mode (housekeeping core, in its interrupt
    /// handler: the lock is not waited for by anybody on this core).
    pub fn pit_nmi(&self, vm: &Vm) {
        let Some(pin) = Pin::new(pit::GSI as u8) else { return };
        let entry = self.ioapic.lock().entry(pin);
        if let Some(message) = entry.message().filter(|_| !entry.is_masked()) {
            deliver(vm, message);
        }
    }

    /// Console input, from the housekeeping core.
    pub fn receive(&self, vm: &Vm, byte: u8) {
        self.with_com1(vm, |com1| {
            if com1.backlog.len() < BACKLOG {
                com1.backlog.push_back(byte);
            }
            com1.refill();
        });
    }

    /// The console took some output: a transmitter that was stuck goes on.
    pub fn output_drained(&self, vm: &Vm) {
        self.with_com1(vm, |com1| {
            if com1.uart.tx_waiting() {
                com1.uart.tx_ready(&mut |byte| vm.print(byte));
            }
        });
    }

    /// Works on COM1 and passes on what its line did. A line that is still asserted is raised
    /// again for a level-programmed pin: the virtual IOAPIC has no Remote-IRR to wait for.
    fn with_com1<T>(&self, vm: &Vm, work: impl FnOnce(&mut Com1) -> T) -> T {
        let (result, message) = {
            let mut com1 = self.com1.lock();
            let result = work(&mut com1);
            let dipped = com1.uart.take_dip();
            let line = com1.uart.interrupt_line();
            (result, self.set_com1_line(dipped, line))
        };
        if let Some(message) = message {
            deliver(vm, message);
        }
        result
    }

    fn set_com1_line(&self, dipped: bool, line: bool) -> Option<Message> {
        let pin = Pin::new(COM1_GSI as u8)?;
        let mut ioapic = self.ioapic.lock();
        if dipped {
            // The line fell inside the call: the edge that follows counts.
            let _ = ioapic.set_line(pin, false);
        }
        ioapic.set_line(pin, line).or_else(|| ioapic.reassert(pin))
    }
}

impl Com1 {
    /// Moves waiting input into the UART while it takes it.
    fn refill(&mut self) {
        while let Some(&byte) = self.backlog.front() {
            if !self.uart.receive(byte) {
                break;
            }
            self.backlog.pop_front();
        }
    }
}

const fn passed_pins(has_pit: bool) -> u32 {
    if has_pit { 1 << pit::GSI } else { 0 }
}

/// Who the destinations of device messages are.
fn pci_vcpus(vm: &Vm) -> pci::Vcpus {
    let logical = vm.vcpus.iter().map(VcpuShared::xapic_logical).collect();
    pci::Vcpus { logical, xapic: vm.in_xapic() }
}

/// The vCPUs that an IOAPIC message is for.
pub fn message_targets(vm: &Vm, message: Message) -> TargetSet {
    let count = vm.vcpus.len() as u32;
    let destination = message.target(vm.in_xapic());
    let ids: ArrayVec<XapicLogical, { arch_defs::apic::MAX_VCPUS as usize }> =
        vm.vcpus.iter().map(|vcpu| vcpu.xapic_logical()).collect();
    let set = if vm.in_xapic() {
        xapic_targets(destination, ApicId(0), &ids)
    } else {
        targets(destination, ApicId(0), count)
    };
    match message.delivery {
        Delivery::LowestPriority(_) => set.first().map_or(TargetSet::EMPTY, TargetSet::one),
        _ => set,
    }
}

/// Raises an IOAPIC message's interrupt in its targets.
pub fn deliver(vm: &Vm, message: Message) {
    let set = message_targets(vm, message);
    for vcpu in vm.vcpus.iter().filter(|vcpu| set.contains(ApicId(vcpu.id))) {
        match message.delivery {
            Delivery::Fixed(vector) | Delivery::LowestPriority(vector) => post(vcpu, vector),
            Delivery::Nmi => post_nmi(vcpu),
        }
    }
}
