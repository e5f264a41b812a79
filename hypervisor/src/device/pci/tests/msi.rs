//! MSI with one message and with several, refused ones, MSI beside MSI-X, and random traffic on its registers.

use super::*;
use arch_defs::pci::{MessageRefused, msi};
use proptest::prelude::*;

/// Registers of the card's capability: control, address, data, masks, pending bits.
const CONTROL: u16 = 0x52;
const ADDRESS: u16 = 0x54;
const DATA: u16 = 0x5C;
const MASKS: u16 = 0x60;
/// MSI-X's control.
const MSIX_CONTROL: u16 = 0x72;

/// The card with 1 shifted by `order` messages.
fn with_messages(order: u8, maskable: bool) -> Function {
    let mut description = description();
    let (capability, control) = description.msi.unwrap();
    let control = control.with_capable(order).with_maskable(maskable);
    description.msi = Some((capability, control));
    Function::new(description)
}

fn config(function: &mut Function, at: u16, width: Width, value: u32) -> Vec<Action> {
    function.config_write(at, width, value, &vcpus()).into_iter().collect()
}

/// The control register: on or off, 1 shifted by `order` messages.
fn control(function: &mut Function, enable: bool, order: u8) -> Vec<Action> {
    let value = msi::Control::new().with_enable(enable).with_enabled(order);
    config(function, CONTROL, Width::Word, value.into_bits().into())
}

fn message(function: &mut Function, address: u32, data: u32) {
    config(function, ADDRESS, Width::Dword, address);
    config(function, ADDRESS + 4, Width::Dword, 0);
    config(function, DATA, Width::Word, data);
}

fn routes(first: u32, order: u8, vcpu: u32) -> Action {
    let message = RawMessage { address: 0xFEE0_0000 | u64::from(vcpu) << 12, data: first };
    Action::RouteMsi(message.resolve_block(order, &vcpus()).unwrap())
}

const fn hardware(enable: bool, order: u8) -> Action {
    Action::MsiControl { enable, order }
}

fn vectors(action: Action) -> Vec<Option<u8>> {
    let Action::RouteMsi(block) = action else { panic!("{action:?}") };
    (0..32).map(|message| block.vector(message).map(GuestVector::get)).collect()
}

#[test]
fn r_a3_msi_with_one_message() {
    let mut function = function();
    message(&mut function, 0xFEE0_1000, 0x41);
    let enabled = control(&mut function, true, 0);
    assert_eq!(enabled, [routes(0x41, 0, 1), hardware(true, 0)]);
    assert_eq!(vectors(enabled[0])[..2], [Some(0x41), None]);
    assert_eq!(function.config_read(CONTROL, Width::Word), 0x0181);
    // Mask register, and a new vector at run time.
    assert_eq!(config(&mut function, MASKS, Width::Dword, 3), [Action::MsiMask(1)]);
    assert_eq!(function.config_read(MASKS, Width::Dword), 1, "there is no other message");
    assert_eq!(config(&mut function, DATA, Width::Word, 0x51), [routes(0x51, 0, 1)]);
    assert_eq!(config(&mut function, MASKS, Width::Dword, 0), [Action::MsiMask(0)]);
    assert_eq!(control(&mut function, false, 0), [hardware(false, 0)]);
    assert_eq!(function.config_read(DATA, Width::Dword), 0x51);
    // On again as it was: the route stands.
    assert_eq!(control(&mut function, true, 0), [hardware(true, 0)]);
}

#[test]
fn r_a3_each_message_is_the_vector_with_its_number_in_the_low_bits() {
    for (order, data, expected) in [
        (0, 0x45, 0x45..0x46),
        (1, 0x45, 0x44..0x46),
        (3, 0x47, 0x40..0x48),
        (5, 0xFF, 0xE0..0x100),
    ] {
        let mut function = with_messages(5, false);
        message(&mut function, 0xFEE0_1000, data);
        let enabled = control(&mut function, true, order);
        assert_eq!(enabled, [routes(data, order, 1), hardware(true, order)]);
        let mut expected: Vec<_> = expected.map(|vector: u32| Some(vector as u8)).collect();
        expected.resize(32, None);
        assert_eq!(vectors(enabled[0]), expected);
        let read = msi::Control::from_bits(function.config_read(CONTROL, Width::Word) as u16);
        assert_eq!((read.capable(), read.enabled(), read.enable()), (5, order, true));
    }
}

#[test]
fn r_s2_more_messages_than_there_are_and_reserved_numbers_are_as_many_as_there_are() {
    for (capable, asked, gets) in [(0, 1, 0), (2, 3, 2), (4, 7, 4), (5, 6, 5), (5, 7, 5), (7, 7, 5)]
    {
        let mut function = with_messages(capable, true);
        message(&mut function, 0xFEE0_0000, 0x60);
        let enabled = control(&mut function, true, asked);
        assert_eq!(enabled, [routes(0x60, gets, 0), hardware(true, gets)]);
        let read = msi::Control::from_bits(function.config_read(CONTROL, Width::Word) as u16);
        assert_eq!(read.enabled(), gets);
        // Masks are as many.
        config(&mut function, MASKS, Width::Dword, u32::MAX);
        let masks = function.config_read(MASKS, Width::Dword);
        assert_eq!(masks.count_ones(), 1 << capable.min(5));
    }
}

#[test]
fn r_b2_routes_stand_before_messages_are_added_and_until_they_are_gone() {
    let mut function = with_messages(3, false);
    message(&mut function, 0xFEE0_1000, 0x45);
    control(&mut function, true, 0);
    assert_eq!(control(&mut function, true, 3), [routes(0x45, 3, 1), hardware(true, 3)]);
    assert_eq!(control(&mut function, true, 1), [hardware(true, 1), routes(0x45, 1, 1)]);
    // One write of a running block moves all of it by one change, and nothing is switched.
    assert_eq!(config(&mut function, ADDRESS, Width::Dword, 0xFEE0_0000), [routes(0x45, 1, 0)]);
    assert_eq!(config(&mut function, DATA, Width::Word, 0x44), [], "bits that the number replaces");
    assert_eq!(config(&mut function, DATA, Width::Word, 0x46), [routes(0x46, 1, 0)]);
    // Off, and on with fewer: routed first, as it is not on.
    assert_eq!(control(&mut function, false, 1), [hardware(false, 1)]);
    assert_eq!(control(&mut function, true, 0), [routes(0x46, 0, 0), hardware(true, 0)]);
}

#[test]
fn r_s2_messages_below_vector_16_are_closed_and_the_others_go() {
    let expected: Vec<_> = (0_u8..32).map(|vector| (vector >= 16).then_some(vector)).collect();
    for maskable in [true, false] {
        let mut function = with_messages(5, maskable);
        message(&mut function, 0xFEE0_0000, 0x03);
        let enabled = control(&mut function, true, 5);
        let closed = maskable.then_some(Action::MsiMask(0xFFFF));
        let then = [routes(0x03, 5, 0), hardware(true, 5)];
        assert_eq!(enabled, closed.into_iter().chain(then).collect::<Vec<_>>());
        let route = enabled.iter().find(|action| matches!(action, Action::RouteMsi(_)));
        assert_eq!(vectors(*route.unwrap()), expected);
        assert_eq!(function.config_read(MASKS, Width::Dword), 0, "the guest's own masks");
        // With good vectors they are opened after their routes.
        let moved = config(&mut function, DATA, Width::Word, 0x40);
        let opened = maskable.then_some(Action::MsiMask(0));
        assert_eq!(moved, [routes(0x40, 5, 0)].into_iter().chain(opened).collect::<Vec<_>>());
    }
    // None is good: off.
    let mut function = with_messages(3, false);
    message(&mut function, 0xFEE0_0000, 0x08);
    let why = MessageRefused::Vector(15);
    let report = Action::Report(Report::Message { source: Source::Msi, why });
    assert_eq!(control(&mut function, true, 3), [report]);
}

#[test]
fn r_s2_a_refused_msi_is_off_and_blocked() {
    let mut function = function();
    message(&mut function, 0xFEE0_0000, 0x41);
    control(&mut function, true, 0);
    // An NMI.
    let bad = config(&mut function, DATA, Width::Word, 0x0441);
    assert!(matches!(bad[0], Action::Report(Report::Message { source: Source::Msi, .. })));
    assert_eq!(bad[1..], [hardware(false, 0), Action::Block(Source::Msi)]);
    assert_eq!(function.config_read(CONTROL, Width::Word) & 1, 1, "the guest's own bit stands");
    let good = config(&mut function, DATA, Width::Word, 0x42);
    assert_eq!(good, [routes(0x42, 0, 0), hardware(true, 0)]);
}

#[test]
fn r_a3_msi_and_msix_have_messages_of_their_own_and_are_never_on_together() {
    let mut function = with_messages(2, true);
    message(&mut function, 0xFEE0_0000, 0x50);
    control(&mut function, true, 2);
    let on = config(&mut function, MSIX_CONTROL, Width::Word, 0x8000);
    let msix = |enable| Action::MsixControl { enable, function_mask: false };
    assert_eq!(on, [hardware(false, 2), msix(true)]);
    // Both bits read as written. Entry 0 is not MSI's message 0.
    assert_eq!(function.config_read(CONTROL, Width::Word) & 1, 1);
    for (field, value) in [(0, 0xFEE0_1000), (2, 0x61), (3, 0)] {
        let _ = function.memory_write(3, 0x1800 + 4 * field, Width::Dword, value, &vcpus());
    }
    // What changes of MSI meanwhile waits.
    assert_eq!(config(&mut function, DATA, Width::Word, 0x70), []);
    assert_eq!(config(&mut function, MASKS, Width::Dword, 2), [Action::MsiMask(2)]);
    let off = config(&mut function, MSIX_CONTROL, Width::Word, 0);
    assert_eq!(off, [msix(false), routes(0x70, 2, 0), hardware(true, 2)]);
    // The other way round: MSI waits from the beginning.
    control(&mut function, false, 2);
    config(&mut function, MSIX_CONTROL, Width::Word, 0x8000);
    assert_eq!(control(&mut function, true, 2), []);
}

#[test]
fn pending_bits_are_the_hardwares() {
    let (mut bus, recorder) = bus();
    recorder.0.lock().unwrap().pending = 0x8001;
    let mut read = |offset: u32, size| {
        bus.port_write(PCI_CONFIG_ADDRESS, 4, 1 << 31 | 1 << 11 | offset & 0xFC, &vcpus()).unwrap();
        bus.port_read(PCI_CONFIG_DATA + offset as u16 % 4, size).unwrap()
    };
    assert_eq!((read(0x64, 4), read(0x65, 1)), (0x8001, 0x80));
    assert_eq!((read(0x60, 4), read(0x70, 1)), (0, 0x11));
}

/// What of MSI stands in the hardware.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    enable: bool,
    order: u8,
    masks: u32,
    routes: Option<Block>,
    msix: bool,
}

impl Standing {
    /// Carries an action out; then nothing may be open that goes nowhere.
    fn apply(&mut self, action: Action, maskable: bool) -> Result<(), TestCaseError> {
        match action {
            Action::RouteMsi(block) => self.routes = Some(block),
            Action::Block(Source::Msi) => self.routes = None,
            Action::MsiMask(masks) => self.masks = masks,
            Action::MsiControl { enable, order } => (self.enable, self.order) = (enable, order),
            Action::MsixControl { enable, .. } => self.msix = enable,
            Action::Reset => *self = Self::default(),
            _ => {}
        }
        prop_assert!(!self.enable || !self.msix, "both at once");
        prop_assert!(maskable || self.masks == 0);
        if self.enable {
            let block = self.routes.unwrap();
            prop_assert!(block.vcpu < 2);
            for message in 0..1 << self.order {
                // A message that the function may send has its route, or none for want of a vector.
                let open = self.masks >> message & 1 == 0;
                let routed = block.vector(message).is_some();
                let below = message < block.count() && !maskable;
                prop_assert!(!open || routed || below, "message {} of {:?}", message, self);
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn r_s2_an_open_message_delivers_what_its_guest_may(
        capable in 0_u8..8,
        maskable: bool,
        writes in proptest::collection::vec(
            (
                prop_oneof![
                    4 => 0x50_u16..0x68,
                    2 => Just(CONTROL), 1 => Just(MSIX_CONTROL), 1 => Just(0xA8),
                ],
                0_usize..3,
                prop_oneof![
                    any::<u32>(), 0_u32..0x100, 0x8000_u32..0x8010,
                    (0_u32..3).prop_map(|id| 0xFEE0_0000 | id << 12),
                ],
            ),
            0..200,
        ),
    ) {
        let mut function = with_messages(capable, maskable);
        let mut standing = Standing::default();
        for (at, width, value) in writes {
            let width = [Width::Byte, Width::Word, Width::Dword][width];
            for action in function.config_write(at, width, value, &vcpus()) {
                standing.apply(action, maskable)?;
            }
            // Judged from what the guest reads back, not from the model's own reading of it.
            let read = |at| u64::from(function.config_read(at, Width::Dword));
            let control = (read(0x50) >> 16) as u16;
            let (address, data) = (read(ADDRESS + 4) << 32 | read(ADDRESS), read(DATA));
            let (on, messages) = (control & 1 != 0, 1_u64 << (control >> 4 & 7));
            let msix = function.config_read(MSIX_CONTROL, Width::Word) & 0x8000 != 0;
            prop_assert!(control >> 4 & 7 <= control >> 1 & 7 && control >> 1 & 7 <= 5);
            prop_assert!(!standing.enable || on && !msix);
            let highest = data & 0xFF | (messages - 1);
            let plain = address >> 20 == 0xFEE && address & 0xFFC == 0 && data & 0x8700 == 0;
            let id = address >> 12 & 0xFF;
            let fine = plain && id < 2 && highest >= 16;
            prop_assert!(standing.enable || !on || msix || !fine, "a good one is on");
            if standing.enable {
                prop_assert_eq!(1 << standing.order, messages);
                let block = standing.routes.unwrap();
                prop_assert!(!fine || u64::from(block.vcpu) == id);
                for message in 0..32_u16 {
                    let vector = data & 0xFF & !(messages - 1) | u64::from(message);
                    let expected = u64::from(message) < messages && vector >= 16;
                    let got = block.vector(message).map(|vector| u64::from(vector.get()));
                    prop_assert_eq!(got, expected.then_some(vector));
                    let masked = maskable && read(MASKS) >> message & 1 != 0;
                    let open = standing.masks >> message & 1 == 0;
                    prop_assert!(!expected || open != masked);
                }
            }
        }
    }
}
