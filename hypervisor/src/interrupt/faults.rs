//! What an IOMMU has blocked, told to the log and to whoever reads the lines `BEELINE iommu-fault`.
//!
//! Called by the housekeeping loop alone. Locks: the IOMMU's, under which no text is made. VT-d specification 4.1, section 7.

use crate::console;
use crate::interrupt::route;
use crate::rate_limit;
use crate::sync::{AtomicU32, Ordering};
use arch::iommu::{Blocked, Fault};
use arrayvec::ArrayVec;

/// Faults that no line has told of yet.
static UNTOLD: AtomicU32 = AtomicU32::new(0);

/// Tells of what was blocked since the last call.
pub fn report() {
    let mut found: ArrayVec<Fault, 16> = ArrayVec::new();
    let mut untold = 0_u32;
    // A vCPU may be waiting for the lock.
    let lost = route::with_iommu(|iommu| {
        iommu.faults(&mut |fault| untold += u32::from(found.try_push(fault).is_err()))
    });
    for fault in found {
        if rate_limit::IOMMU.allow() { tell(fault) } else { untold += 1 }
    }
    // A unit that has lost some does not say how many.
    untold += u32::from(lost == Some(true));
    let untold = UNTOLD.fetch_add(untold, Ordering::Relaxed).wrapping_add(untold);
    if untold > 0 && rate_limit::UNTOLD_FAULTS.allow() {
        UNTOLD.store(0, Ordering::Relaxed);
        log::warn!("IOMMU: {untold} or more faults that no line tells of");
    }
}

fn tell(fault: Fault) {
    log::warn!("IOMMU: {fault}");
    let (requester, reason) = (fault.requester, fault.reason);
    match fault.blocked {
        Blocked::Dma { address, write } => console::line(format_args!(
            "BEELINE iommu-fault device={requester} reason={reason:#x} dma={} address={address:#x}",
            if write { "write" } else { "read" }
        )),
        Blocked::Interrupt { index } => console::line(format_args!(
            "BEELINE iommu-fault device={requester} reason={reason:#x} interrupt={index}"
        )),
    }
}
