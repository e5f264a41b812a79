//! What the loader hands over beside the kernel: the command line and the boot modules, by Multiboot 1 (section 3.3 of its
//! specification) and by PVH.

use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, Text, ensure, ensure_eq};
use crate::runtime::{boot, pvh};

tests! { "modules", Beeline: multiboot_modules_and_command_line }
tests! { "pvh", Beeline: pvh_modules_and_command_line }

/// What `payload::modules` on the host makes: byte `i` of module `number`, their lengths, the last word for the kernel.
const LENGTHS: [usize; 3] = [1, 4096, 300_001];
const LAST_WORD: &str = "last=a'b,c";

fn byte(number: usize, i: usize) -> u8 {
    (i * 7 + i / 256 * 13 + number) as u8
}

fn multiboot_modules_and_command_line() -> Outcome {
    ensure!(pvh::entry_state().is_none(), "this boot is by PVH");
    modules_and_command_line()
}

fn pvh_modules_and_command_line() -> Outcome {
    ensure!(pvh::entry_state().is_some(), "this boot is not by PVH");
    modules_and_command_line()
}

fn modules_and_command_line() -> Outcome {
    ensure!(boot::line().ends_with(LAST_WORD), "the command line ends with {:?}", boot::line());
    ensure_eq!(boot::module_count(), LENGTHS.len(), "modules");
    let mut last_end = 0;
    for (number, length) in LENGTHS.iter().enumerate() {
        let Some((content, line)) = boot::module(number) else { continue };
        let expected = Text::format(format_args!("number={number} words of=it"));
        ensure!(line == expected.as_str(), "module {number} has the words {line:?}");
        ensure_eq!(content.len(), *length, "length of module {number}");
        let start = content.as_ptr() as usize;
        ensure_eq!(start % 4096, 0, "alignment of module {number}");
        ensure!(start >= last_end, "module {number} lies on another");
        last_end = start + content.len();
        let wrong = content.iter().enumerate().find(|(i, seen)| **seen != byte(number, *i));
        ensure_eq!(wrong.map(|(i, _)| i), None, "first wrong byte of module {number}");
    }
    detail(format_args!("modules={} bytes={}", LENGTHS.len(), LENGTHS.iter().sum::<usize>()));
    Ok(())
}
