//! The wiring of PCI's interrupt pins, as `_PRT` objects and interrupt links tell it. ACPI 6.5, sections 6.2.13, 6.4.2.1
//! and 6.4.3.6.

use super::value::{NameString, Path, Value, little_endian};
use super::{Aml, AmlError};
use alloc::vec::Vec;

/// PNP0A03 and PNP0A08 as EISA ids: host bridges of PCI and PCI Express.
const HOST_BRIDGES: [(u64, &[u8]); 2] = [(0x030A_D041, b"PNP0A03"), (0x080A_D041, b"PNP0A08")];
/// `_STA`: the device is there.
const PRESENT: u64 = 1;

/// One pin of one device, wired to an I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// PCI segment.
    pub segment: u16,
    /// The bus that the device is on.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// 0 for INTA to 3 for INTD.
    pub pin: u8,
    /// Global system interrupt.
    pub gsi: u32,
    /// Level-triggered; PCI's own pins are.
    pub level: bool,
    /// Active low at the I/O APIC.
    pub active_low: bool,
}

/// What the tables tell of the wiring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wires {
    /// Pins.
    pub wires: Vec<Wire>,
    /// The first thing that was left out.
    pub left_out: Option<AmlError>,
}

/// Where a bridge leads: the bus behind the function at segment, bus, device, function.
pub type Behind<'a> = &'a dyn Fn(u16, u8, u8, u8) -> Option<u8>;

const fn bad(what: &'static str) -> AmlError {
    AmlError { table: "", offset: 0, what }
}

/// Tells the tables that I/O APICs are in use (`\_PIC`, section 5.8.1), and evaluates every `_PRT`.
///
/// # Errors
/// `\_PIC` failed: what `_PRT` says would be the wiring of other interrupt controllers.
pub fn wires(aml: &mut Aml<'_>, behind: Behind<'_>) -> Result<Wires, AmlError> {
    aml.evaluate(&Path::default().child(b"_PIC"), &[Value::Integer(1)])?;
    let mut found = Wires { wires: Vec::new(), left_out: aml.skipped() };
    let is_prt = |path: &&Path| path.0.last() == Some(b"_PRT");
    let tables: Vec<Path> = aml.objects.keys().filter(is_prt).cloned().collect();
    for prt in tables {
        if let Err(why) = table(aml, &prt, behind, &mut found)
            && found.left_out.is_none()
        {
            found.left_out = Some(why);
        }
    }
    Ok(found)
}

/// One `_PRT`.
fn table(
    aml: &mut Aml<'_>,
    prt: &Path,
    behind: Behind<'_>,
    found: &mut Wires,
) -> Result<(), AmlError> {
    let owner = prt.parent().unwrap_or_default();
    let Some((segment, bus)) = bus(aml, &owner, behind)? else { return Ok(()) };
    let Some(Value::Package(entries)) = aml.evaluate(prt, &[])? else {
        return Err(bad("a _PRT is no package"));
    };
    for entry in entries {
        match wire(aml, &owner, &entry) {
            Ok(wire) => found.wires.push(Wire { segment, bus, ..wire }),
            Err(why) => found.left_out = found.left_out.or(Some(why)),
        }
    }
    Ok(())
}

/// The bus behind a bridge's object; `None` for what is no bridge, or not there.
fn bus(aml: &mut Aml<'_>, path: &Path, behind: Behind<'_>) -> Result<Option<(u16, u8)>, AmlError> {
    let mut integer = |name: &[u8; 4]| -> Result<Option<u64>, AmlError> {
        Ok(aml.evaluate(&path.child(name), &[])?.and_then(|value| value.integer()))
    };
    if integer(b"_STA").is_ok_and(|status| status.is_some_and(|s| s & PRESENT == 0)) {
        return Ok(None);
    }
    let (segment, first) = (integer(b"_SEG")?, integer(b"_BBN")?);
    let address = integer(b"_ADR")?;
    if is_host_bridge(aml, path)? {
        return Ok(Some((segment.unwrap_or(0) as u16, first.unwrap_or(0) as u8)));
    }
    let (Some(address), Some(parent)) = (address, path.parent()) else { return Ok(None) };
    let Some((segment, bus)) = self::bus(aml, &parent, behind)? else { return Ok(None) };
    let bridge = behind(segment, bus, (address >> 16) as u8, address as u8);
    Ok(bridge.map(|bus| (segment, bus)))
}

fn is_host_bridge(aml: &mut Aml<'_>, path: &Path) -> Result<bool, AmlError> {
    let is_one = |value: &Value| {
        HOST_BRIDGES.iter().any(|&(id, text)| match value {
            Value::Integer(value) => *value == id,
            Value::String(value) => value == text,
            _ => false,
        })
    };
    for name in [b"_HID", b"_CID"] {
        match aml.evaluate(&path.child(name), &[])? {
            Some(Value::Package(ids)) if ids.iter().any(is_one) => return Ok(true),
            Some(id) if is_one(&id) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// An entry: address, pin, source, and index of the source or interrupt.
fn wire(aml: &mut Aml<'_>, owner: &Path, entry: &Value) -> Result<Wire, AmlError> {
    let malformed = bad("an entry of a _PRT is malformed");
    let Value::Package(fields) = entry else { return Err(malformed) };
    let [address, pin, source, index] = fields.as_slice() else { return Err(malformed) };
    let mut integer = |value: &Value| aml.resolved(value)?.integer().ok_or(malformed);
    let (address, pin, index) = (integer(address)?, integer(pin)?, integer(index)?);
    let device = u8::try_from(address >> 16 & 0xFFFF).ok().filter(|&device| device < 32);
    let device = device.ok_or(malformed)?;
    let pin = u8::try_from(pin).ok().filter(|&pin| pin < 4).ok_or(malformed)?;
    let link = aml.named_by(source, owner);
    // A name may be that of the number 0.
    let is_number = match (source, &link) {
        (Value::Integer(0), _) => true,
        (_, Some(_)) => aml.resolved(source).is_ok_and(|value| value == Value::Integer(0)),
        _ => false,
    };
    let (gsi, level, active_low) = match link {
        _ if is_number => (u32::try_from(index).map_err(|_| malformed)?, true, true),
        Some(link) => {
            let resources = aml.evaluate(&link.child(b"_CRS"), &[])?;
            let Some(Value::Buffer(resources)) = resources else {
                return Err(bad("an interrupt link has no current interrupt (_CRS)"));
            };
            interrupt(&resources, index)
                .ok_or(bad("the _CRS of an interrupt link has no interrupt"))?
        }
        None => return Err(bad("a _PRT names no interrupt link that is there")),
    };
    Ok(Wire { segment: 0, bus: 0, device, pin, gsi, level, active_low })
}

/// Interrupt number `index` of resources: number, level, active low.
fn interrupt(mut resources: &[u8], index: u64) -> Option<(u32, bool, bool)> {
    let mut skip = usize::try_from(index).ok()?;
    loop {
        let &tag = resources.first()?;
        let (header, len) = if tag & 0x80 == 0 {
            (1, usize::from(tag & 7))
        } else {
            (3, usize::from(u16::from_le_bytes([*resources.get(1)?, *resources.get(2)?])))
        };
        let body = resources.get(header..header + len)?;
        match tag {
            // End.
            0x78 | 0x79 => return None,
            // IRQ: a mask; flags say how, without them it is an ISA interrupt.
            0x22 | 0x23 => {
                let mask = u16::from_le_bytes([*body.first()?, *body.get(1)?]);
                let flags = body.get(2).copied().unwrap_or(1);
                let count = mask.count_ones() as usize;
                if skip < count {
                    let number = (0..16).filter(|n| mask >> n & 1 != 0).nth(skip)?;
                    return Some((number, flags & 1 == 0, flags & 8 != 0));
                }
                skip -= count;
            }
            // Extended interrupts: flags, count, numbers.
            0x89 => {
                let (&flags, &count) = (body.first()?, body.get(1)?);
                let count = usize::from(count);
                if skip < count {
                    let number = body.get(2 + 4 * skip..6 + 4 * skip)?;
                    let (level, low) = (flags & 2 == 0, flags & 4 != 0);
                    return Some((little_endian(number) as u32, level, low));
                }
                skip -= count;
            }
            _ => {}
        }
        resources = resources.get(header + len..)?;
    }
}

impl Aml<'_> {
    /// A value that a package may have by name.
    fn resolved(&mut self, value: &Value) -> Result<Value, AmlError> {
        let Value::Name(scope, name) = value else { return Ok(value.clone()) };
        let unknown = AmlError { table: "", offset: 0, what: "a package names an unknown object" };
        let path = self.find(scope, name).ok_or(unknown)?;
        self.evaluate(&path, &[])?.ok_or(unknown)
    }

    /// The object that a package or a text names, seen from `scope`.
    fn named_by(&self, value: &Value, scope: &Path) -> Option<Path> {
        match value {
            Value::Name(scope, name) => self.find(scope, name),
            Value::String(text) => self.find(scope, &parse(text)?),
            _ => None,
        }
    }
}

/// A name as a text: segments of up to four characters, with dots between.
fn parse(text: &[u8]) -> Option<NameString> {
    let root = text.first() == Some(&b'\\');
    let rest = text.get(usize::from(root)..)?;
    let up = rest.iter().take_while(|&&byte| byte == b'^').count();
    let mut segments = Vec::new();
    for part in rest.get(up..)?.split(|&byte| byte == b'.') {
        let mut segment = [b'_'; 4];
        segment.get_mut(..part.len())?.copy_from_slice(part);
        segments.push(segment);
    }
    Some(NameString { root, up, segments })
}
