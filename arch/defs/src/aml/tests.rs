//! The tables of a board like QEMU's q35 and of a plain one, a board that is asked by fields, and hostile code.

mod hostile;

use super::*;
use acpi_tables::Aml as Code;
use acpi_tables::aml::{
    self, Arg, Device, EISAName, Else, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Interrupt, Local, Method, Name, OpRegion, OpRegionSpace, Package,
    Path as P, ResourceTemplate, Return, Store,
};
use proptest::prelude::*;
use std::string::ToString;
use std::{vec, vec::Vec};
use value::Segment;

fn bytes(terms: &[&dyn Code]) -> Vec<u8> {
    let mut bytes = Vec::new();
    terms.iter().for_each(|term| term.to_aml_bytes(&mut bytes));
    bytes
}

fn table(terms: &[&dyn Code]) -> Table {
    Table { name: "DSDT", code: bytes(terms) }
}

fn found(table: Table) -> Result<Wires, AmlError> {
    // The bridge 02.0 leads to bus 5.
    let behind = |_, bus, device, function| ((bus, device, function) == (0, 2, 0)).then_some(5);
    wires(&mut Aml::new(vec![table], &|_, _| Some(0)), &behind)
}

fn wire(device: u8, pin: u8, gsi: u32, active_low: bool) -> Wire {
    Wire { segment: 0, bus: 0, device, pin, gsi, level: true, active_low }
}

/// A q35's way: `\_PIC` remembers the mode, `_PRT` gives one table or the other, whose entries name links.
#[test]
fn r_e4_a_board_with_links_and_two_modes_is_read() {
    let mode = Name::new("\\PICF".into(), &0u8);
    let (mode_name, argument) = (P::new("PICF"), Arg(0));
    let to_mode = Store::new(&mode_name, &argument);
    let pic = Method::new("\\_PIC".into(), 1, false, vec![&to_mode]);
    let (hid, bbn) =
        (Name::new("_HID".into(), &EISAName::new("PNP0A08")), Name::new("_BBN".into(), &0u8));
    let link = P::new("GSIB");
    let (first, second) = (0x0001_FFFFu32, 0x0003_FFFFu32);
    let named = Package::new(vec![&first, &0u8, &link, &0u8]);
    let fixed = Package::new(vec![&second, &2u8, &0u8, &19u8]);
    let lost = P::new("NONE");
    let nowhere = Package::new(vec![&second, &1u8, &lost, &0u8]);
    let apic = Name::new("PRTA".into(), &Package::new(vec![&named, &nowhere, &fixed]));
    let legacy = Package::new(vec![&first, &0u8, &0u8, &11u8]);
    let old = Name::new("PRTP".into(), &Package::new(vec![&legacy]));
    let is_old = P::new("PRTP");
    let return_old = Return::new(&is_old);
    let is_new = P::new("PRTA");
    let return_new = Return::new(&is_new);
    let equal = Equal::new(&mode_name, &0u8);
    let when_old = If::new(&equal, vec![&return_old]);
    let when_new = Else::new(vec![&return_new]);
    let prt = Method::new("_PRT".into(), 0, false, vec![&when_old, &when_new]);
    let bridge = Device::new("PCI0".into(), vec![&hid, &bbn, &old, &apic, &prt]);
    let line = Interrupt::new(true, false, false, true, 21);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&line]));
    let gsib = Device::new("GSIB".into(), vec![&crs]);
    let scope = aml::Scope::new("\\_SB_".into(), vec![&bridge, &gsib]);
    let read = found(table(&[&mode, &pic, &scope])).unwrap();
    assert_eq!(read.wires, [wire(1, 0, 21, false), wire(3, 2, 19, true)]);
    assert_eq!(
        read.left_out.unwrap().to_string(),
        "ACPI tables: a _PRT names no interrupt link that is there"
    );
}

/// A bridge's own table, found by its address; and a host bridge that is not there.
#[test]
fn r_e4_a_bridge_with_a_table_of_its_own_is_read() {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let entry = Package::new(vec![&0xFFFFu32, &0u8, &0u8, &33u8]);
    let prt = Name::new("_PRT".into(), &Package::new(vec![&entry]));
    let address = Name::new("_ADR".into(), &0x0002_0000u32);
    let port = Device::new("RP02".into(), vec![&address, &prt]);
    let other = Name::new("_ADR".into(), &0x0004_0000u32);
    let gone = Device::new("RP04".into(), vec![&other, &prt]);
    let host = Device::new("\\_SB_.PCI0".into(), vec![&hid, &port, &gone]);
    let absent = Name::new("_STA".into(), &0u8);
    let second = Device::new("\\_SB_.PCI1".into(), vec![&hid, &absent, &prt]);
    let read = found(table(&[&host, &second])).unwrap();
    assert_eq!(
        read,
        Wires { wires: vec![Wire { bus: 5, ..wire(0, 0, 33, true) }], left_out: None }
    );
}

/// A mode that lives in memory of the board: what was written is read back, and stays in here.
#[test]
fn r_e4_what_the_code_writes_stays_with_the_evaluation() {
    let region =
        OpRegion::new("\\GNVS".into(), OpRegionSpace::SystemMemory, &0x7F00_0000u32, &16u8);
    let fields = vec![FieldEntry::Reserved(12), FieldEntry::Named(*b"MODE", 8)];
    let field = Field::new(
        "\\GNVS".into(),
        FieldAccessType::Any,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        fields,
    );
    let (mode, local, argument) = (P::new("MODE"), Local(0), Arg(0));
    let keep = Store::new(&local, &argument);
    let put = Store::new(&mode, &local);
    let pic = Method::new("\\_PIC".into(), 1, false, vec![&keep, &put]);
    let back = Return::new(&mode);
    let get = Method::new("\\GETM".into(), 0, false, vec![&back]);
    let table = table(&[&region, &field, &pic, &get]);
    let look = |space, address| {
        assert_eq!(space, Space::Memory);
        (0x7F00_0000..0x7F00_0010).contains(&address).then_some(0xA5)
    };
    let mut aml = Aml::new(vec![table], &look);
    assert_eq!(aml.skipped(), None);
    let path = |name: &Segment| Path::default().child(name);
    assert_eq!(aml.evaluate(&path(b"GETM"), &[]), Ok(Some(Value::Integer(0x5A))));
    aml.evaluate(&path(b"_PIC"), &[Value::Integer(1)]).unwrap();
    assert_eq!(aml.evaluate(&path(b"GETM"), &[]), Ok(Some(Value::Integer(1))));
    // The neighbours in the shared bytes are as they were.
    assert_eq!(aml.written.get(&(Space::Memory, 0x7F00_0001)), Some(&0x15));
    assert_eq!(aml.written.get(&(Space::Memory, 0x7F00_0002)), Some(&0xA0));
}

#[test]
fn r_s10_code_that_does_not_end_is_named() {
    // Method _PIC: While (One) {}.
    let code = b"\x14\x09_PIC\x01\xA2\x02\x01";
    let why = found(Table { name: "SSDT", code: code.to_vec() }).unwrap_err();
    assert_eq!(why.what, "the code does not end");
    assert!(why.to_string().starts_with("ACPI SSDT table: the code does not end at offset 0x2"));
    // A method that calls itself.
    let code = b"\x14\x0A_PIC\x00_PIC";
    let why = found(Table { name: "DSDT", code: code.to_vec() }).unwrap_err();
    assert_eq!(why.what, "terms are nested too deeply");
}

#[test]
fn r_s10_a_block_that_cannot_be_read_is_left_out_and_named() {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let entry = Package::new(vec![&0xFFFFu32, &0u8, &0u8, &16u8]);
    let prt = Name::new("_PRT".into(), &Package::new(vec![&entry]));
    let host = bytes(&[&Device::new("\\_SB_.PCI0".into(), vec![&hid, &prt])]);
    // Device(ABCD) with an opcode that nobody has, then the host bridge.
    let code = [b"\x5B\x82\x07ABCD\x03\x03".as_slice(), &host].concat();
    let read = found(Table { name: "DSDT", code }).unwrap();
    assert_eq!(read.wires, [wire(0, 0, 16, true)]);
    assert_eq!(
        read.left_out.unwrap().to_string(),
        "ACPI DSDT table: an operation that Beeline does not know at offset 0x2b"
    );
}

/// The image's boot stack has 128 KiB.
#[test]
fn r_s10_nesting_stays_on_a_small_stack() {
    let nest = |one: &dyn Fn(Vec<u8>) -> Vec<u8>| (0..500).fold(vec![0xA3], |inner, _| one(inner));
    let packaged = |op: &[u8], head: &[u8], inner: Vec<u8>| {
        let length = (head.len() + inner.len() + 2) as u16;
        let bytes = [0x40 | (length & 15) as u8, (length >> 4) as u8];
        [op, &bytes, head, &inner].concat()
    };
    let codes = [
        nest(&|inner| packaged(&[0xA0], &[1], inner)),
        nest(&|inner| packaged(&[0x5B, 0x82], b"ABCD", inner)),
        nest(&|inner| packaged(&[0x12], &[1], inner)),
        vec![0x92; 5000],
        b"\x14\x0BAAAA\x01AAAA\x68AAAA\x01".to_vec(),
    ];
    let small = std::thread::Builder::new().stack_size(64 << 10);
    let run = move || {
        for code in codes {
            assert!(Aml::new(vec![Table { name: "DSDT", code }], &|_, _| None).skipped().is_some());
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}

/// Terms that are likely to mean something.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            0x08u8, 0x10, 0x11, 0x12, 0x13, 0x14, 0x5B, 0x70, 0x72, 0x78, 0x80, 0x82, 0x88, 0x8A,
            0x90, 0x92, 0xA0, 0xA1, 0xA2, 0xA4, 0x60, 0x68,
        ])
        .prop_map(|op| vec![op]),
        (0u8..64).prop_map(|length| vec![length]),
        prop::sample::select(vec!["_PRT", "_PIC", "_HID", "_SB_", "ABCD", "\\", "^"])
            .prop_map(|name| name.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn r_s10_no_code_panics_or_hangs(code in code(), more in code()) {
        let tables = vec![Table { name: "DSDT", code }, Table { name: "SSDT", code: more }];
        let _ = wires(&mut Aml::new(tables, &|_, address| Some(address as u8)), &|_, _, _, _| Some(1));
    }
}
