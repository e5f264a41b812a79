//! Random traffic on a function's table, judged by a model of the hardware behind it.

use super::*;
use proptest::prelude::*;

/// The hardware: what each entry would deliver, and whether it may.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    route: Option<MsiRoute>,
    open: bool,
}

fn apply(lines: &mut [Line; 5], actions: &Actions) -> Result<(), TestCaseError> {
    for &action in actions {
        match action {
            Action::Route(route) => lines[usize::from(route.entry)].route = Some(route),
            Action::Block(Source::Msix(entry)) => lines[usize::from(entry)].route = None,
            Action::Mask { entry, masked } => {
                lines[usize::from(entry)].open = !masked;
                // Whoever is opened has somewhere to go.
                prop_assert!(masked || lines[usize::from(entry)].route.is_some());
            }
            Action::Reset => *lines = [Line::default(); 5],
            Action::Forward { bar, offset, .. } => {
                prop_assert!(bar == 3 && !(0x1800..0x1850).contains(&offset));
            }
            _ => {}
        }
        for line in lines.iter().filter_map(|line| line.route) {
            prop_assert!(line.vcpu < 2 && line.vector.get() >= 16);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn r_s2_an_open_entry_delivers_what_its_guest_may(
        writes in proptest::collection::vec(
            (
                prop_oneof![0x1800_u64..0x1850, 0x17F0_u64..0x1900],
                0_usize..4,
                prop_oneof![
                    Just(0), Just(1), any::<u64>(), 0_u64..0x900,
                    (0_u64..0x4_0000).prop_map(|low| 0xFEE0_0000 | low),
                ],
                0_u8..40,
            ),
            0..300,
        ),
    ) {
        let mut function = function();
        let mut lines = [Line::default(); 5];
        for (at, width, value, reset) in writes {
            let width = [Width::Byte, Width::Word, Width::Dword, Width::Qword][width];
            let at = if reset % 2 == 0 { at & !(width.bytes() - 1) } else { at };
            apply(&mut lines, &function.memory_write(3, at, width, value, &vcpus()))?;
            if reset == 0 {
                apply(&mut lines, &function.config_write(0xA8, Width::Word, 0x8000, &vcpus()))?;
            }
            // Judged from what the guest reads back, not from the model's own reading of it.
            for (entry, line) in lines.iter().enumerate() {
                let field = |n: u64| match function.memory_read(3, 0x1800 + 16 * entry as u64 + 4 * n, Width::Dword) {
                    MemoryRead::Value(value) => value,
                    MemoryRead::Forward => u64::MAX,
                };
                let (address, data) = (field(1) << 32 | field(0), field(2));
                let id = address >> 12 & 0xFF;
                let plain = address >> 20 == 0xFEE && address & 0xFF4 == 0 && data & 0x8700 == 0;
                let fine = plain && data & 0xFF >= 16 && id < 2;
                if line.open {
                    prop_assert!(field(3) == 0);
                    let route = line.route.unwrap();
                    prop_assert_eq!(u64::from(route.vector.get()), data & 0xFF);
                    // Logical and lowest-priority ones have other destinations.
                    prop_assert!(!fine || u64::from(route.vcpu) == id);
                }
                prop_assert!(field(3) != 0 || !fine || line.open, "a good entry is open");
            }
        }
    }
}
