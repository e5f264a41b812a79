//! NVMe with SR-IOV: each virtual function is a secondary controller, which works once it was given queues and vectors and
//! was brought online. A reset of the primary controller takes them all offline again, so it stays as it is.
//! NVMe base specification 1.4, 5.22 (virtualization management), 8.5 (virtualization enhancements), figures 249 and 250.

use super::admin::{Command, Controller, Failure};
use crate::runtime::pci::{BUS_MASTER, Function, MEMORY, NO_INTX};
use crate::runtime::serial::println;
use crate::runtime::text::{Outcome, ensure};

/// Opcodes.
const IDENTIFY: u8 = 0x06;
const VIRTUALIZATION: u8 = 0x1C;
/// What to identify.
const CONTROLLER: u32 = 0x01;
const PRIMARY: u32 = 0x14;
const SECONDARY: u32 = 0x15;
/// What to do with a secondary controller.
const OFFLINE: u32 = 7;
const ASSIGN: u32 = 8;
const ONLINE: u32 = 9;

/// A resource that secondary controllers share.
#[derive(Clone, Copy)]
struct Resource {
    /// Its number in commands.
    kind: u32,
    name: &'static str,
    /// Of all that there is of it, a secondary controller gets this much.
    share: u32,
    /// A secondary controller needs as much.
    least: u32,
}

/// Brings every secondary controller online that has a virtual function, and says how many.
pub fn start(function: Function) -> Outcome<usize> {
    function.command(MEMORY | BUS_MASTER | NO_INTX);
    let mut controller = Controller::enable(function.bar(0)?)?;
    let all = secondaries(&mut controller)?;
    let count = all.iter().flatten().count() as u32;
    ensure!(count > 0, "it has no secondary controllers");
    for secondary in all.iter().flatten() {
        manage(&mut controller, *secondary, OFFLINE, 0, 0).map_err(|e| e.of("offline"))?;
    }
    let resources = resources(&mut controller, count)?;
    let mut online = 0;
    for secondary in all.iter().flatten() {
        match bring_online(&mut controller, *secondary, &resources) {
            Ok(()) => online += 1,
            // It may have more of them than virtual functions that are switched on.
            Err(why) => {
                println!("# PF nvme secondary controller {secondary}: {}", why.of("online"))
            }
        }
    }
    ensure!(online > 0, "no secondary controller came online");
    Ok(online)
}

/// The ids of the first secondary controllers, as many as an 8-bit bus has functions for in a small machine.
fn secondaries(controller: &mut Controller) -> Outcome<[Option<u16>; 32]> {
    identify(controller, SECONDARY)?;
    let count = usize::from(controller.data16(0) & 0xFF);
    let mut ids = [None; 32];
    for (index, id) in ids.iter_mut().enumerate().take(count) {
        let entry = 32 * (index + 1);
        // An entry that names no virtual function has none.
        *id = Some(controller.data16(entry)).filter(|_| controller.data16(entry + 8) != 0);
    }
    Ok(ids)
}

/// What each of `count` secondary controllers gets, of queues and of interrupt vectors.
fn resources(controller: &mut Controller, count: u32) -> Outcome<[Resource; 2]> {
    identify(controller, CONTROLLER)?;
    let id = controller.data16(78);
    identify(controller, PRIMARY)?;
    let primary = controller.data16(0);
    ensure!(id == primary, "controller {id} is not the primary one, which is {primary}");
    let mut resources = [
        Resource { kind: 0, name: "queues", share: 0, least: 2 },
        Resource { kind: 1, name: "interrupt vectors", share: 0, least: 1 },
    ];
    for (resource, at) in resources.iter_mut().zip([32, 64]) {
        let (total, own) = (controller.data32(at), u32::from(controller.data16(at + 8)));
        let (most, unit) = (controller.data16(at + 12), controller.data16(at + 14).max(1));
        let free = total.saturating_sub(own);
        let share = (free / count).min(most.into());
        resource.share = share - share % u32::from(unit);
        ensure!(
            resource.share >= resource.least,
            "of {total} flexible {} {own} are the primary controller's own: {} are left for each of {count}",
            resource.name,
            resource.share
        );
    }
    Ok(resources)
}

fn bring_online(
    controller: &mut Controller,
    secondary: u16,
    resources: &[Resource],
) -> Result<(), Failure> {
    for resource in resources {
        manage(controller, secondary, ASSIGN, resource.kind, resource.share)?;
    }
    manage(controller, secondary, ONLINE, 0, 0)
}

fn identify(controller: &mut Controller, what: u32) -> Outcome {
    let command = Command { opcode: IDENTIFY, word10: what, word11: 0 };
    controller.run(command).map_err(|e| e.of("identify"))
}

fn manage(
    controller: &mut Controller,
    secondary: u16,
    action: u32,
    kind: u32,
    count: u32,
) -> Result<(), Failure> {
    let word10 = u32::from(secondary) << 16 | kind << 8 | action;
    controller.run(Command { opcode: VIRTUALIZATION, word10, word11: count })
}
