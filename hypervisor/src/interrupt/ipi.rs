//! A guest's ICR writes: decoded, checked, translated to its own VM's vCPUs, sent. Shorthands and
//! clusters are expanded, never copied through (requirement V3, V4). SDM volume 3, section 11.6.

use super::post::{post, post_nmi, request};
use crate::interrupt::kick::Requests;
use crate::vcpu::Vcpu;
use arch::virt::Backend;
use arch_defs::apic::{
    ApicId, Destination, IcrAction, IcrRefused, IcrRequest, MAX_VCPUS, RefusalEffect, TargetSet,
    XapicLogical, decode_icr, targets, xapic_targets,
};
use arrayvec::ArrayVec;

/// The guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A write of the x2APIC ICR.
///
/// # Errors
/// #GP for reserved bits.
#[inline]
pub fn x2apic_icr<B: Backend>(vcpu: &mut Vcpu<B>, value: u64) -> Result<(), Refused> {
    act(vcpu, decode_icr(value))?;
    vcpu.apic.icr = value;
    Ok(())
}

/// Does what a decoded ICR write asks for.
///
/// # Errors
/// #GP for reserved bits.
#[inline]
pub fn act<B: Backend>(
    vcpu: &mut Vcpu<B>,
    decoded: Result<IcrRequest, IcrRefused>,
) -> Result<(), Refused> {
    match decoded {
        // The common case first: one vector for one vCPU.
        Ok(IcrRequest {
            action: IcrAction::Fixed { vector, .. },
            destination: Destination::Physical(id),
        }) => {
            if let Some(target) = vcpu.vm.vcpus.get(id as usize) {
                post(target, vector);
            }
            Ok(())
        }
        Ok(IcrRequest {
            action: IcrAction::Fixed { vector, .. },
            destination: Destination::SelfOnly,
        }) => {
            arch::apic::send_self(vector.get());
            Ok(())
        }
        Ok(request) => {
            expand(vcpu, &request);
            Ok(())
        }
        Err(refused) => refuse(refused),
    }
}

#[cold]
fn refuse(refused: IcrRefused) -> Result<(), Refused> {
    match refused.effect() {
        RefusalEffect::GeneralProtection => Err(Refused),
        RefusalEffect::SendIllegalVector => {
            // The physical LAPIC keeps the error where the guest reads it: its own ESR.
            arch::apic::latch_send_illegal_vector();
            Ok(())
        }
        RefusalEffect::Dropped => Ok(()),
    }
}

#[inline(never)]
fn expand<B: Backend>(vcpu: &mut Vcpu<B>, icr: &IcrRequest) {
    let sender = vcpu.apic.id;
    let mut set = match icr.destination {
        // Logical xAPIC ids are the guest's to choose.
        Destination::XapicLogical(_) => {
            let ids: ArrayVec<XapicLogical, { MAX_VCPUS as usize }> =
                vcpu.vm.vcpus.iter().map(|target| target.xapic_logical()).collect();
            xapic_targets(icr.destination, sender, &ids)
        }
        destination => targets(destination, sender, vcpu.vm.vcpus.len() as u32),
    };
    if let IcrAction::Fixed { lowest_priority: true, .. } = icr.action {
        set = set.first().map_or(TargetSet::EMPTY, TargetSet::one);
    }
    let members = vcpu.vm.vcpus.iter().filter(|target| set.contains(ApicId(target.id)));
    match icr.action {
        IcrAction::Fixed { vector, .. } => members.for_each(|target| post(target, vector)),
        IcrAction::Nmi => members.for_each(post_nmi),
        IcrAction::Init => members.for_each(|target| request(target, Requests::INIT)),
        IcrAction::InitDeassert => {}
        IcrAction::StartUp { page } => members.for_each(|target| {
            target.set_sipi_page(page);
            request(target, Requests::SIPI);
        }),
    }
}
