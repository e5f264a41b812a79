//! The decoder against `iced-x86`: on random bytes both must agree, in both directions.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn register(register: Register) -> Option<(Reg, Width)> {
    let full = register.full_register();
    if !full.is_gpr() {
        return None;
    }
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    let width = width(register.size())?;
    Some((Reg { index: u8::try_from(full.number()).unwrap(), high }, width))
}

fn width(bytes: usize) -> Option<Width> {
    [Width::Byte, Width::Word, Width::Double, Width::Quad]
        .into_iter()
        .find(|width| usize::from(width.bytes()) == bytes)
}

fn source(insn: &Instruction, operand: u32, width: Width) -> Option<Source> {
    if insn.op_kind(operand) == OpKind::Register {
        return Some(Source::Reg(register(insn.op_register(operand))?.0));
    }
    Some(Source::Imm(insn.try_immediate(operand).ok()? & width.mask()))
}

/// iced reports the four prefixes that 64-bit mode ignores; there they all mean DS.
fn segment(register: Register, mode: CodeSize) -> Segment {
    match register {
        Register::FS => Segment::Fs,
        Register::GS => Segment::Gs,
        _ if mode == CodeSize::Bits64 => Segment::Ds,
        Register::ES => Segment::Es,
        Register::CS => Segment::Cs,
        Register::SS => Segment::Ss,
        _ => Segment::Ds,
    }
}

/// Encodings that mean a supported operation but that no compiler emits: we refuse them.
fn is_alias(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Test_rm8_imm8_F6r1
            | Test_rm16_imm16_F7r1
            | Test_rm32_imm32_F7r1
            | Test_rm64_imm32_F7r1
            | Add_rm8_imm8_82
            | Or_rm8_imm8_82
            | And_rm8_imm8_82
            | Sub_rm8_imm8_82
            | Xor_rm8_imm8_82
            | Cmp_rm8_imm8_82
            | Movsxd_r16_rm16
    )
}

/// What iced's reading of the instruction comes to in our terms; `None` when it is not one of our forms.
fn expected(insn: &Instruction, mode: CodeSize) -> Option<MmioInsn> {
    use OpKind::*;
    if insn.is_invalid() || is_alias(insn.code()) {
        return None;
    }
    let width = width(insn.memory_size().size())?;
    let repeat = insn.has_rep_prefix() || insn.has_repne_prefix();
    let string_address = match insn.op0_kind() {
        MemoryESRDI => Some(Width::Quad),
        MemoryESEDI => Some(Width::Double),
        MemoryESDI => Some(Width::Word),
        _ => None,
    };
    let alu = match insn.mnemonic() {
        Mnemonic::Add => Some(Alu::Add),
        Mnemonic::Or => Some(Alu::Or),
        Mnemonic::And | Mnemonic::Test => Some(Alu::And),
        Mnemonic::Sub | Mnemonic::Cmp => Some(Alu::Sub),
        Mnemonic::Xor => Some(Alu::Xor),
        _ => None,
    };
    let only_flags = matches!(insn.mnemonic(), Mnemonic::Test | Mnemonic::Cmp);
    let memory_first = insn.op0_kind() == Memory;
    let memory_second = insn.op1_kind() == Memory && insn.op0_kind() == Register;
    let op = match insn.mnemonic() {
        Mnemonic::Mov if memory_first => MmioOp::Store { source: source(insn, 1, width)? },
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd if memory_second => {
            let (reg, into) = register(insn.op0_register())?;
            let sign = matches!(insn.mnemonic(), Mnemonic::Movsx | Mnemonic::Movsxd);
            MmioOp::Load { reg, into, sign }
        }
        Mnemonic::Xchg if memory_first => {
            MmioOp::Exchange { reg: register(insn.op1_register())?.0 }
        }
        Mnemonic::Bt if memory_first && insn.op1_kind() == Immediate8 => {
            MmioOp::BitTest { bit: insn.immediate8() & (width.bits() - 1) as u8 }
        }
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            MmioOp::StoreString { repeat, address: string_address? }
        }
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
            let segment = segment(insn.memory_segment(), mode);
            MmioOp::MoveString { repeat, address: string_address?, segment }
        }
        _ if memory_first && only_flags => {
            MmioOp::Compare { alu: alu?, source: source(insn, 1, width)? }
        }
        _ if memory_first => MmioOp::Modify { alu: alu?, source: source(insn, 1, width)? },
        _ if memory_second && only_flags => {
            alu?;
            MmioOp::CompareWith { reg: register(insn.op0_register())?.0 }
        }
        _ if memory_second => MmioOp::Combine { alu: alu?, reg: register(insn.op0_register())?.0 },
        _ => return None,
    };
    Some(MmioInsn { len: u8::try_from(insn.len()).unwrap(), width, op })
}

fn check(bytes: &[u8], mode: CodeSize) -> Result<bool, TestCaseError> {
    let bits = match mode {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let oracle = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
    let ours = decode(bytes, mode);
    prop_assert_eq!(
        ours.ok(),
        expected(&oracle, mode),
        "{:02x?} {:?}: {:?}",
        bytes,
        mode,
        oracle.code()
    );
    // An instruction must need all its bytes, and no more.
    if let Ok(insn) = ours {
        let len = usize::from(insn.len);
        prop_assert_eq!(decode(&bytes[..len], mode), ours);
        let short = decode(&bytes[..len - 1], mode);
        prop_assert_eq!(short, Err(DecodeError::Truncated));
    }
    Ok(ours.is_ok())
}

fn mode() -> impl Strategy<Value = CodeSize> {
    prop_oneof![Just(CodeSize::Bits16), Just(CodeSize::Bits32), Just(CodeSize::Bits64)]
}

const PREFIXES: [u8; 11] = [0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65];

/// Every opcode of the forms guests use.
const OPCODES: [&[u8]; 50] = [
    &[0x88],
    &[0x89],
    &[0x8A],
    &[0x8B],
    &[0xA0],
    &[0xA1],
    &[0xA2],
    &[0xA3],
    &[0xC6],
    &[0xC7],
    &[0x0F, 0xB6],
    &[0x0F, 0xB7],
    &[0x0F, 0xBE],
    &[0x0F, 0xBF],
    &[0x63],
    &[0xAA],
    &[0xAB],
    &[0xA4],
    &[0xA5],
    &[0x00],
    &[0x01],
    &[0x02],
    &[0x03],
    &[0x08],
    &[0x09],
    &[0x0A],
    &[0x0B],
    &[0x20],
    &[0x21],
    &[0x23],
    &[0x28],
    &[0x29],
    &[0x2B],
    &[0x30],
    &[0x31],
    &[0x33],
    &[0x38],
    &[0x39],
    &[0x3A],
    &[0x3B],
    &[0x80],
    &[0x81],
    &[0x83],
    &[0x84],
    &[0x85],
    &[0xF6],
    &[0xF7],
    &[0x86],
    &[0x87],
    &[0x0F, 0xBA],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40_000))]

    #[test]
    fn r_s8_random_bytes_decode_as_the_oracle_says(bytes in vec(any::<u8>(), 15), mode in mode()) {
        check(&bytes, mode)?;
    }

    #[test]
    fn r_s8_known_forms_with_any_prefixes_and_operands(
        prefixes in vec(proptest::sample::select(&PREFIXES[..]), 0..4),
        rex in prop_oneof![Just(None), (0x40u8..0x50).prop_map(Some)],
        opcode in proptest::sample::select(&OPCODES[..]),
        tail in vec(any::<u8>(), 15),
        mode in mode(),
    ) {
        let mut bytes = prefixes;
        bytes.extend(rex);
        bytes.extend_from_slice(opcode);
        bytes.extend(tail);
        bytes.truncate(15);
        check(&bytes, mode)?;
    }
}

/// Instructions as Linux, its drivers and small kernels have them; none may be refused.
#[test]
fn r_s8_no_form_that_guests_use_is_refused() {
    let long: [&[u8]; 24] = [
        &[0x8B, 0x07],                                           // mov eax, [rdi]
        &[0x89, 0x37],                                           // mov [rdi], esi
        &[0x48, 0x8B, 0x04, 0x25, 0, 0, 0, 0],                   // mov rax, [abs]
        &[0x4C, 0x89, 0x45, 0x10],                               // mov [rbp+16], r8
        &[0x66, 0x89, 0x10],                                     // mov [rax], dx
        &[0x66, 0x41, 0x8B, 0x45, 0x14],                         // mov ax, [r13+20]
        &[0x88, 0x50, 0x01],                                     // mov [rax+1], dl
        &[0x40, 0x88, 0x30],                                     // mov [rax], sil
        &[0x8A, 0x62, 0x03],                                     // mov ah, [rdx+3]
        &[0xC7, 0x80, 0xB0, 0, 0, 0, 0, 0, 0, 0],                // mov dword [rax+0xb0], 0
        &[0xC7, 0x04, 0x25, 0xB0, 0xD0, 0x5F, 0xFF, 0, 0, 0, 0], // native_apic_mem_eoi
        &[0xC6, 0x00, 0xFF],                                     // mov byte [rax], 0xff
        &[0x48, 0xC7, 0x00, 0xFF, 0xFF, 0xFF, 0xFF],             // mov qword [rax], -1
        &[0x0F, 0xB6, 0x00],                                     // movzx eax, byte [rax]
        &[0x0F, 0xB7, 0x42, 0x10],                               // movzx eax, word [rdx+16]
        &[0x48, 0x0F, 0xBE, 0x00],                               // movsx rax, byte [rax]
        &[0x48, 0x63, 0x02],                                     // movsxd rax, dword [rdx]
        &[0x81, 0x08, 0, 0, 1, 0],                               // or dword [rax], 0x10000
        &[0xF0, 0x83, 0x20, 0xFE],                               // lock and dword [rax], -2
        &[0x85, 0x07],                                           // test [rdi], eax
        &[0xF7, 0x80, 0, 3, 0, 0, 0, 0x10, 0, 0],                // test dword [rax+0x300], 0x1000
        &[0x87, 0x3E],                                           // xchg [rsi], edi
        &[0xF3, 0xA5],                                           // rep movsd
        &[0x0F, 0xBA, 0x60, 0x04, 0x0C],                         // bt dword [rax+4], 12
    ];
    for bytes in long {
        let insn = decode(bytes, CodeSize::Bits64);
        assert_eq!(insn.map(|insn| usize::from(insn.len)), Ok(bytes.len()), "{bytes:02x?}");
    }
    let ok =
        |bytes: &[u8], mode| decode(bytes, mode).map(|insn| (usize::from(insn.len), insn.width));
    assert_eq!(ok(&[0xA1, 0, 0, 0xE0, 0xFE], CodeSize::Bits32), Ok((5, Width::Double)));
    assert_eq!(ok(&[0x67, 0x66, 0xA3, 0, 0, 0xE0, 0xFE], CodeSize::Bits16), Ok((7, Width::Double)));
    assert_eq!(ok(&[0x26, 0x88, 0x45, 0x02], CodeSize::Bits16), Ok((4, Width::Byte)));
}

#[test]
fn r_s8_refusals_say_why() {
    use CodeSize::Bits64;
    assert_eq!(decode(&[0x89, 0xC3], Bits64), Err(DecodeError::NotMemory));
    assert_eq!(decode(&[0xF0, 0x89, 0x03], Bits64), Err(DecodeError::BadLock));
    assert_eq!(decode(&[0x0F, 0x01, 0x03], Bits64), Err(DecodeError::Unknown));
    assert_eq!(decode(&[0x11, 0x03], Bits64), Err(DecodeError::Unknown));
    assert_eq!(decode(&[], Bits64), Err(DecodeError::Truncated));
    assert_eq!(decode(&[0x66; 20], Bits64), Err(DecodeError::TooLong));
    let mut long = [0x2E; 16];
    long[14..].copy_from_slice(&[0x89, 0x03]);
    assert_eq!(decode(&long, Bits64), Err(DecodeError::TooLong));
}
