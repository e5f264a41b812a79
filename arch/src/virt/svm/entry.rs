//! VM entry and exit: registers in, VMRUN, registers out; and the global interrupt flag. APM volume 2, sections 15.5,
//! 15.6 and 15.17.

#![expect(unsafe_code, reason = "VM entry is assembly")]

use crate::tables::area;
use crate::virt::GuestRegs;
use arch_defs::svm::Vmcb;
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

/// What the entry code works on.
#[repr(C)]
pub struct EntryFrame {
    /// The guest's registers.
    pub regs: GuestRegs,
    /// Address of its VMCB.
    pub vmcb: u64,
    /// Address of the VMCB with this core's own FS, GS, TR and LDTR, which VMRUN does not restore.
    pub host_vmcb: u64,
}

/// Enters the guest; returns the exit code.
///
/// # Safety
/// GIF = 0 and IF = 0, and the frame's addresses are those of a complete VMCB and of this core's saved state.
#[inline(always)]
pub unsafe fn enter(frame: *mut EntryFrame) -> u64 {
    let code: u64;
    // SAFETY: all registers that the guest changes are saved here or declared; RBX and RBP, which cannot be declared,
    // are pushed. VMRUN brings RAX and RSP back as they were.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdi",
            "mov rax, [rdi + {vmcb}]",
            "mov rcx, [rdi + {rax}]",
            "mov [rax + {vmcb_rax}], rcx",
            "mov rcx, [rdi + {rcx}]",
            "mov rdx, [rdi + {rdx}]",
            "mov rbx, [rdi + {rbx}]",
            "mov rbp, [rdi + {rbp}]",
            "mov rsi, [rdi + {rsi}]",
            "mov r8, [rdi + {r8}]",
            "mov r9, [rdi + {r9}]",
            "mov r10, [rdi + {r10}]",
            "mov r11, [rdi + {r11}]",
            "mov r12, [rdi + {r12}]",
            "mov r13, [rdi + {r13}]",
            "mov r14, [rdi + {r14}]",
            "mov r15, [rdi + {r15}]",
            "mov rdi, [rdi + {rdi}]",
            "vmload rax",
            "vmrun rax",
            "vmsave rax",
            "xchg rdi, [rsp]",
            "mov [rdi + {rcx}], rcx",
            "mov [rdi + {rdx}], rdx",
            "mov [rdi + {rbx}], rbx",
            "mov [rdi + {rbp}], rbp",
            "mov [rdi + {rsi}], rsi",
            "mov [rdi + {r8}], r8",
            "mov [rdi + {r9}], r9",
            "mov [rdi + {r10}], r10",
            "mov [rdi + {r11}], r11",
            "mov [rdi + {r12}], r12",
            "mov [rdi + {r13}], r13",
            "mov [rdi + {r14}], r14",
            "mov [rdi + {r15}], r15",
            "pop [rdi + {rdi}]",
            "mov rcx, [rax + {vmcb_rax}]",
            "mov [rdi + {rax}], rcx",
            // The CPU does not take the order to flush back.
            "mov dword ptr [rax + {tlb}], 0",
            "mov rdx, [rax + {exit_code}]",
            "mov rax, [rdi + {host_vmcb}]",
            "vmload rax",
            "mov rax, rdx",
            "pop rbp",
            "pop rbx",
            vmcb = const offset_of!(EntryFrame, vmcb),
            host_vmcb = const offset_of!(EntryFrame, host_vmcb),
            vmcb_rax = const offset_of!(Vmcb, save.rax),
            exit_code = const offset_of!(Vmcb, control.exit_code),
            tlb = const offset_of!(Vmcb, control.tlb_control),
            rax = const offset_of!(EntryFrame, regs.rax),
            rcx = const offset_of!(EntryFrame, regs.rcx),
            rdx = const offset_of!(EntryFrame, regs.rdx),
            rbx = const offset_of!(EntryFrame, regs.rbx),
            rbp = const offset_of!(EntryFrame, regs.rbp),
            rsi = const offset_of!(EntryFrame, regs.rsi),
            rdi = const offset_of!(EntryFrame, regs.rdi),
            r8 = const offset_of!(EntryFrame, regs.r8),
            r9 = const offset_of!(EntryFrame, regs.r9),
            r10 = const offset_of!(EntryFrame, regs.r10),
            r11 = const offset_of!(EntryFrame, regs.r11),
            r12 = const offset_of!(EntryFrame, regs.r12),
            r13 = const offset_of!(EntryFrame, regs.r13),
            r14 = const offset_of!(EntryFrame, regs.r14),
            r15 = const offset_of!(EntryFrame, regs.r15),
            inout("rdi") frame => _,
            out("rsi") _,
            out("rax") code,
            out("rcx") _,
            out("rdx") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
        );
    }
    code
}

/// GIF = 0: NMIs and interrupts wait for the next entry, where the guest's own rules apply.
pub fn hold_nmis() {
    // SAFETY: EFER.SVME is set on this core; nothing is lost while GIF is 0.
    unsafe { asm!("clgi", options(nostack)) };
}

/// GIF = 1: what waits comes through the host's IDT.
pub fn release_nmis() {
    // SAFETY: EFER.SVME is set, the IDT has handlers and IF is 0.
    unsafe { asm!("stgi", options(nostack)) };
}

/// Acknowledges the NMI that caused an exit: it is still pending, and the host's handler takes it and does nothing, since
/// whoever called has the exit to tell of it. A second one behind it goes its usual way.
pub fn take_nmi() {
    /// Looks at whether the handler has run; a CPU may take some instructions to deliver the NMI.
    const LOOKS: u32 = 10_000;
    area().nmi_exited.store(true, Ordering::Relaxed);
    release_nmis();
    for _ in 0..LOOKS {
        if !area().nmi_exited.load(Ordering::Relaxed) {
            break;
        }
        crate::cpu::pause();
    }
    hold_nmis();
    area().nmi_exited.store(false, Ordering::Relaxed);
}

/// Saves this core's own FS, GS, TR and LDTR for [`enter`].
///
/// # Safety
/// `vmcb` is a page of our own.
pub unsafe fn save_host_state(vmcb: u64) {
    // SAFETY: as the caller promises; EFER.SVME is set.
    unsafe { asm!("vmsave rax", in("rax") vmcb, options(nostack)) };
}
