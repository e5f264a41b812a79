//! Traps in root mode: exceptions are bugs and end the image with a report, NMIs go to the kick
//! protocol, other vectors to the housekeeping core's handlers. SDM volume 3, chapter 6.

use super::idt::STUB;
use core::arch::naked_asm;
use core::fmt;
use core::sync::atomic::Ordering;
use spin::Mutex;

/// Registers of the interrupted code, as the stubs push them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} (vector {}, error code {:#x}) at {:#018x}, flags {:#x}",
            name(self.vector),
            self.vector,
            self.error_code,
            self.rip,
            self.rflags
        )?;
        let rows = [
            [("rax", self.rax), ("rbx", self.rbx), ("rcx", self.rcx), ("rdx", self.rdx)],
            [("rsi", self.rsi), ("rdi", self.rdi), ("rbp", self.rbp), ("rsp", self.rsp)],
            [("r8 ", self.r8), ("r9 ", self.r9), ("r10", self.r10), ("r11", self.r11)],
            [("r12", self.r12), ("r13", self.r13), ("r14", self.r14), ("r15", self.r15)],
        ];
        for row in rows {
            for (register, value) in row {
                write!(f, "  {register} {value:016x}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  cr2 {:016x}", crate::cpu::cr2())
    }
}

/// The manual's name of an exception, SDM volume 3 table 6-1.
pub const fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "NMI",
        3 => "breakpoint",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack-segment fault",
        13 => "general protection",
        14 => "page fault",
        17 => "alignment check",
        18 => "machine check",
        _ => "unexpected interrupt",
    }
}

struct Handlers {
    fatal: Option<fn(&TrapFrame) -> !>,
    vectors: [Option<fn()>; 256],
}

/// Written at boot, before the other cores start; read by copy, so that no handler runs under
/// the lock. The NMI handler has a word of its own: an NMI may hit a core that holds the lock.
static HANDLERS: Mutex<Handlers> = Mutex::new(Handlers { fatal: None, vectors: [None; 256] });
static NMI: spin::Once<fn()> = spin::Once::new();

/// Sets what an NMI in root mode does. First caller wins.
pub fn set_nmi_handler(handler: fn()) {
    NMI.call_once(|| handler);
}

/// Sets what an exception in root mode does: it reports and never returns.
pub fn set_fatal_handler(handler: fn(&TrapFrame) -> !) {
    HANDLERS.lock().fatal = Some(handler);
}

/// Sets the handler of an external vector on the housekeeping core. The stub sends the EOI.
pub fn set_vector_handler(vector: u8, handler: fn()) {
    HANDLERS.lock().vectors[usize::from(vector)] = Some(handler);
}

extern "sysv64" fn dispatch(frame: &TrapFrame) {
    match frame.vector {
        2 => {
            let exited = super::area().nmi_exited.swap(false, Ordering::Relaxed);
            if let Some(handler) = NMI.get().filter(|_| !exited) {
                handler();
            }
        }
        vector @ 32..=255 => {
            let handler = HANDLERS.lock().vectors[vector as usize];
            if let Some(handler) = handler {
                handler();
            }
            // The spurious vector has no ISR bit and wants no EOI.
            if vector != u64::from(crate::apic::SPURIOUS_VECTOR) {
                crate::apic::eoi();
            }
        }
        _ => fatal(frame),
    }
}

/// Ends the image: an exception of ours, or an interrupt where none can be.
pub fn fatal(frame: &TrapFrame) -> ! {
    // No waiting for a lock in a fatal path: without the handler the core just stops.
    let handler = HANDLERS.try_lock().and_then(|handlers| handlers.fatal);
    match handler {
        Some(handler) => handler(frame),
        None => crate::cpu::halt_forever(),
    }
}

/// Address of the 256 stubs, `STUB` bytes apart.
pub fn stubs() -> u64 {
    entry_stubs as *const () as u64
}

#[unsafe(naked)]
extern "C" fn entry_stubs() {
    naked_asm!(
        ".set vector, 0",
        ".rept 256",
        ".balign {stub}",
        // Vectors for which the CPU pushes an error code (SDM volume 3, table 6-1).
        ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21",
        ".else",
        "push 0",
        ".endif",
        "push vector",
        "jmp {common}",
        ".set vector, vector + 1",
        ".endr",
        stub = const STUB,
        common = sym common,
    );
}

#[unsafe(naked)]
extern "C" fn common() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "mov rbp, rsp",
        "and rsp, -16",
        "call {dispatch}",
        "mov rsp, rbp",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rbp",
        "pop rbx",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        dispatch = sym dispatch,
    );
}
