//! VM entry and exit: registers in, VMRESUME, registers out. SDM volume 3, chapter 27 and 28.
//!
//! One instruction here is paid at every exit, so the code is written by hand.

#![expect(unsafe_code, reason = "VM entry is assembly")]

use crate::virt::GuestRegs;
use arch_defs::vmx::Field;
use core::arch::asm;
use core::mem::offset_of;

/// What the entry code works on.
#[repr(C)]
pub struct EntryFrame {
    /// The guest's registers.
    pub regs: GuestRegs,
    /// The value that HOST_RSP of this vCPU's VMCS holds, 0 after VMCLEAR. The run loop never
    /// moves its frame, so that the field is written once and compared from then on.
    pub host_rsp: u64,
    /// The VMCS was launched since its last VMCLEAR: VMRESUME rather than VMLAUNCH.
    pub launched: bool,
    /// The entry instruction itself failed: carry or zero was set.
    pub failed: bool,
}

/// Enters the guest; returns the exit-reason field, or all ones and `failed` set
/// if the entry instruction itself failed.
///
/// Inlined into the run loop, so that the compiler saves only what it needs. HOST_RSP and HOST_RIP
/// are written when the frame is new: a vCPU is always entered from the same place.
///
/// # Safety
/// A VMCS of this core is current, complete but for HOST_RSP and HOST_RIP, and `frame` belongs to
/// it; IF=0. All calls for one vCPU come from one place in the code.
#[inline(always)]
pub unsafe fn enter(frame: *mut EntryFrame) -> u64 {
    let reason: u64;
    // SAFETY: all registers that the guest changes are saved here or declared; RBX and RBP, which
    // cannot be declared, are pushed. The exit returns to label 50 with RSP as it was.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdi",
            "cmp rsp, [rdi + {host_rsp}]",
            "jne 20f",
            // ZF is set from here on for VMRESUME; moves keep it.
            "70:",
            "mov rax, [rdi + {rax}]",
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
            "jnz 30f",
            "vmresume",
            // Carry or zero is set and the VMCS has the error number.
            "jmp 40f",
            // A new frame, or a cleared VMCS.
            "20:",
            "mov [rdi + {host_rsp}], rsp",
            "mov eax, {f_host_rsp}",
            "vmwrite rax, rsp",
            "lea rdx, [rip + 50f]",
            "mov eax, {f_host_rip}",
            "vmwrite rax, rdx",
            "mov al, [rdi + {launched}]",
            "mov byte ptr [rdi + {launched}], 1",
            "cmp al, 1",
            "jmp 70b",
            "30:",
            "vmlaunch",
            "40:",
            "pop rdi",
            "mov byte ptr [rdi + {failed}], 1",
            "mov rax, -1",
            "jmp 60f",
            // The exit lands here with RSP = HOST_RSP, which points at the frame's address.
            "50:",
            "xchg rdi, [rsp]",
            "mov [rdi + {rax}], rax",
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
            "mov ecx, {f_exit_reason}",
            "vmread rax, rcx",
            "60:",
            "pop rbp",
            "pop rbx",
            launched = const offset_of!(EntryFrame, launched),
            failed = const offset_of!(EntryFrame, failed),
            f_exit_reason = const Field::ExitReason as u32,
            host_rsp = const offset_of!(EntryFrame, host_rsp),
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
            f_host_rsp = const Field::HostRsp as u32,
            f_host_rip = const Field::HostRip as u32,
            inout("rdi") frame => _,
            out("rsi") _,
            out("rax") reason,
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
    reason
}

/// Executes an IRET to the next instruction. An NMI exit leaves NMIs blocked in root mode until
/// an IRET (SDM volume 3, section 28.2.3: "an NMI causes subsequent NMIs to be blocked"), and a
/// VM entry does not end that on every CPU (Bochs 2.7 keeps it).
pub fn unblock_nmis() {
    // SAFETY: the frame pushed returns to the next instruction with the same stack, flags and
    // segments.
    unsafe {
        asm!(
            "mov {t}, rsp",
            "push {ss}",
            "push {t}",
            "pushfq",
            "push {cs}",
            "lea {t}, [rip + 2f]",
            "push {t}",
            "iretq",
            "2:",
            t = out(reg) _,
            ss = const crate::tables::DATA_SELECTOR,
            cs = const crate::tables::CODE_SELECTOR,
        );
    }
}
