//! Where in the text of a configuration something stands.

use guest_loader::config::ConfigError;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line, from 1, of byte `at`.
pub(super) fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

/// The key on the line of byte `at`, if there is one.
pub(super) fn field(text: &str, at: usize) -> Option<String> {
    let line = text.lines().nth(line(text, at) - 1)?;
    let key = line.split_once('=')?.0.trim().trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (!key.is_empty() && key.chars().all(plain)).then(|| key.to_string())
}

/// The VM and the field that `error` is about.
pub(super) fn subject(error: &ConfigError) -> (Option<&str>, Option<&'static str>) {
    use ConfigError as E;
    let (vm, field) = match error {
        E::Name { vm } | E::DuplicateName { vm } => (vm, "name"),
        E::NoCpus { vm }
        | E::TooManyCpus { vm, .. }
        | E::HousekeepingCore { vm, .. }
        | E::NoSuchCore { vm, .. }
        | E::CoreTwice { vm, .. }
        | E::CoreShared { vm, .. } => (vm, "cpus"),
        E::MemoryTooSmall { vm, .. }
        | E::MemoryTooLarge { vm, .. }
        | E::MemoryUnaligned { vm, .. }
        | E::MemoryExceeded { vm, .. } => (vm, "memory"),
        E::TooManyModules { vm, .. } => (vm, "modules"),
        E::EmptyModuleName { vm, field }
        | E::MissingModule { vm, field, .. }
        | E::CmdlineTooLong { vm, field, .. }
        | E::CmdlineNul { vm, field, .. } => (vm, *field),
        E::DeviceTwice { vm, .. }
        | E::DeviceShared { vm, .. }
        | E::TooManyPciDevices { vm, .. } => (vm, "devices"),
        E::DmaWithoutDevice { vm } | E::DmaNotAlone { vm, .. } => (vm, "dma"),
        _ => return (None, None),
    };
    (Some(vm), Some(field))
}

/// The line of `field` in the last table of the VM named `vm`: of two with one name, the second
/// is the one that is wrong. Falls back to the table's line, then to the first.
pub(super) fn of_field(text: &str, vm: Option<&str>, field: Option<&str>) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 1 };
    let table = vm.and_then(|vm| table_of(document.get_ref(), vm));
    let Some(table) = table else { return 1 };
    let found = field.and_then(|field| member(table, field));
    line(text, found.unwrap_or_else(|| table.span()).start)
}

fn table_of<'a, 'i>(document: &'a DeTable<'i>, vm: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    let vms = document.get("vm")?.get_ref().as_array()?;
    let named = |table: &&Spanned<DeValue<'i>>| {
        let name = table.get_ref().as_table().and_then(|table| table.get("name"));
        name.is_some_and(|name| name.get_ref().as_str() == Some(vm))
    };
    vms.iter().rfind(named)
}

/// `a.b` is key `b` in the tables listed under `a`.
fn member(table: &Spanned<DeValue<'_>>, field: &str) -> Option<std::ops::Range<usize>> {
    let first = field.split('.').next().unwrap_or(field);
    let table = table.get_ref().as_table()?;
    let (key, _) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    Some(key.span())
}
