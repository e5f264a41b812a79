//! The configuration: packing, the TOML form, and every rule.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use guest_loader::config::*;
use proptest::prelude::*;

fn vm(name: &str, cpus: &[u32]) -> VmConfig {
    VmConfig {
        name: name.into(),
        cpus: cpus.into(),
        memory: 64 << 20,
        kernel: "vmlinuz".into(),
        initrd: Some("initrd".into()),
        modules: vec![ModuleConfig { name: "extra".into(), cmdline: "a b".into() }],
        cmdline: "console=ttyS0".into(),
        delivery: Delivery::Direct,
        devices: vec![],
        dma: Dma::default(),
        debug_hooks: false,
        console: true,
    }
}

fn device(text: &str) -> DeviceConfig {
    text.parse().unwrap()
}

fn two() -> Config {
    Config { vms: vec![vm("rt", &[1, 2]), vm("general", &[3])] }
}

const FACTS: MachineFacts<'_> = MachineFacts {
    cores: Some(4),
    memory: Some(256 << 20),
    modules: Some(&["vmlinuz", "initrd", "extra"]),
};

#[test]
fn a_good_configuration_passes_and_round_trips() {
    let config = two();
    assert_eq!(check(&config, &FACTS), Ok(()));
    assert_eq!(check(&config, &MachineFacts::default()), Ok(()));
    assert_eq!(unpack(&pack(&config)), Ok(config));
}

#[test]
fn a_virtual_function_may_belong_to_another_vm_than_its_physical_one() {
    let mut config = two();
    config.vms[0].devices = vec![device("pci:0000:01:00.0"), device("pci:0000:01:00.0/vf1")];
    config.vms[1].devices = vec![device("pci:0000:01:00.0/vf0"), device("pit")];
    assert_eq!(check(&config, &FACTS), Ok(()));
    assert_eq!(unpack(&pack(&config)), Ok(config));
    let mut alone = Config { vms: vec![vm("rt", &[1])] };
    alone.vms[0].devices = vec![device("pci:0000:03:00.0")];
    alone.vms[0].dma = Dma::IdentityUnprotected;
    assert_eq!(check(&alone, &FACTS), Ok(()));
    assert_eq!(unpack(&pack(&alone)), Ok(alone));
}

#[test]
fn r_s10_a_device_that_is_none_is_named() {
    for (text, word) in [
        ("pti", "\"pti\" is no device"),
        ("", "\"\" is no device"),
        ("pci:03:00.0", "segment:bus:device.function"),
        ("pci:0000:03:20.0", "from 00 to 1f"),
        ("pci:0000:03:00.0/vf", "/vf and a number"),
        ("pci:0000:03:00.0/vf01", "/vf and a number"),
        ("pci:0000:03:00.0/vf+1", "/vf and a number"),
        ("pci:0000:03:00.0/vf65535", "from 0 to 65534"),
        ("pci:0000:03:00.0/0", "from 0 to 7"),
    ] {
        let error = text.parse::<DeviceConfig>().unwrap_err();
        assert!(error.contains(word) && error.contains(text), "{text}: {error}");
    }
}

#[test]
fn toml_needs_only_the_essentials() {
    let text = r#"
        [[vm]]
        name = "rt"
        cpus = [2, 3]
        memory = "1G"
        kernel = "vmlinuz"
        devices = ["pit", "pci:0000:01:00.0/vf0"]
        delivery = "direct"
        [[vm.modules]]
        name = "extra"
        [[vm]]
        name = "small"
        cpus = [1]
        memory = 33554432
        kernel = "tiny"
        console = false
    "#;
    let config: Config = toml::from_str(text).unwrap();
    let [rt, small] = &config.vms[..] else { panic!("two VMs") };
    assert_eq!((rt.memory, small.memory), (1 << 30, 32 << 20));
    assert_eq!(rt.devices, [DeviceConfig::Pit, device("pci:0000:01:00.0/vf0")]);
    assert_eq!(rt.modules, [ModuleConfig { name: "extra".into(), cmdline: String::new() }]);
    assert!(rt.console && !small.console && !rt.debug_hooks);
    // What the tool writes in one form the image reads in the other.
    assert_eq!(unpack(&pack(&config)), Ok(config));
}

#[test]
fn r_s10_toml_errors_name_the_field() {
    let base = "[[vm]]\nname='a'\ncpus=[1]\nkernel='k'\n";
    for (line, word) in [
        ("memory='1T'", "suffix"),
        ("memory=-1", "negative"),
        ("memory='1G'\nmemroy=3", "memroy"),
        ("memory='1G'\ndelivery='fast'", "fast"),
        ("memory='1G'\ndevices=['pti']", "pti"),
        ("memory='1G'\ndma='none'", "none"),
        ("", "memory"),
    ] {
        let error = toml::from_str::<Config>(&format!("{base}{line}")).unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn r_s10_every_rule_names_vm_and_field() {
    type Change = fn(&mut Config);
    let cases: [(Change, &[&str]); 32] = [
        (|c| c.vms.clear(), &["vm: there is none"]),
        (|c| c.vms[1].name.clear(), &["vm \"\": name"]),
        (|c| c.vms[1].name = "x".repeat(33), &["name must be"]),
        (|c| c.vms[1].name = "Rt".into(), &["vm \"Rt\": name"]),
        (|c| c.vms[1].name = "a b".into(), &["vm \"a b\": name"]),
        (|c| c.vms[1].name = "rt".into(), &["vm \"rt\": name", "two VMs"]),
        (|c| c.vms[1].cpus.clear(), &["vm \"general\": cpus is empty"]),
        (|c| c.vms[1].cpus = (1..66).collect(), &["cpus lists 65", "64"]),
        (|c| c.vms[1].cpus = vec![0], &["cpus names core 0", "housekeeping"]),
        (|c| c.vms[1].cpus = vec![4], &["cpus names core 4", "0 to 3"]),
        (|c| c.vms[1].cpus = vec![3, 3], &["cpus names core 3 twice"]),
        (|c| c.vms[1].cpus = vec![3, 2], &["cpus names core 2", "\"rt\"", "not supported yet"]),
        (|c| c.vms[1].memory = 14 << 20, &["\"general\": memory", "least is 16M"]),
        (|c| c.vms[1].memory = 17 << 20, &["memory", "multiple of 2M"]),
        (|c| c.vms[1].memory = (1 << 40) + (2 << 20), &["memory", "most is 1024G"]),
        (|c| c.vms[1].memory = 194 << 20, &["\"general\": memory", "270532608", "268435456"]),
        (|c| c.vms[1].kernel.clear(), &["\"general\": kernel is empty"]),
        (|c| c.vms[1].kernel = "bzImage".into(), &["kernel names \"bzImage\""]),
        (|c| c.vms[0].initrd = Some("root".into()), &["\"rt\": initrd names \"root\""]),
        (|c| c.vms[0].modules[0].name = "y".into(), &["modules.name names \"y\""]),
        (
            |c| {
                let module = c.vms[0].modules[0].clone();
                c.vms[0].modules = vec![module; 33];
            },
            &["modules lists 33"],
        ),
        (|c| c.vms[0].modules[0].cmdline = "z".repeat(2048), &["modules.cmdline is 2048"]),
        (|c| c.vms[0].cmdline = "z".repeat(2048), &["\"rt\": cmdline is 2048", "2047"]),
        (|c| c.vms[0].cmdline = "a\0b".into(), &["\"rt\": cmdline has a NUL", "byte 1"]),
        (|c| c.vms[0].devices = vec![DeviceConfig::Pit; 2], &["devices lists pit twice"]),
        (
            |c| c.vms.iter_mut().for_each(|vm| vm.devices = vec![DeviceConfig::Pit]),
            &["\"general\": devices lists pit", "\"rt\" owns"],
        ),
        (
            |c| c.vms[0].devices = vec![device("pci:0000:03:00.0"); 2],
            &["\"rt\": devices lists pci:0000:03:00.0 twice"],
        ),
        (
            |c| c.vms.iter_mut().for_each(|vm| vm.devices = vec![device("pci:0000:01:00.0/vf2")]),
            &["\"general\": devices lists pci:0000:01:00.0/vf2, which vm \"rt\" owns"],
        ),
        (
            |c| {
                let many = (0..32).map(|n| device(&format!("pci:0000:01:00.0/vf{n}")));
                c.vms[0].devices = many.collect();
            },
            &["\"rt\": devices lists 32 PCI functions, 31"],
        ),
        (|c| c.vms[0].dma = Dma::IdentityUnprotected, &["\"rt\": dma", "no PCI function"]),
        (
            |c| {
                c.vms[0].dma = Dma::IdentityUnprotected;
                c.vms[0].devices = vec![DeviceConfig::Pit];
            },
            &["\"rt\": dma", "no PCI function"],
        ),
        (
            |c| {
                c.vms[1].dma = Dma::IdentityUnprotected;
                c.vms[1].devices = vec![device("pci:0000:03:00.0")];
            },
            &["\"general\": dma", "the memory of vm \"rt\""],
        ),
    ];
    for (change, words) in cases {
        let mut config = two();
        change(&mut config);
        let text = check(&config, &FACTS).unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let mut longest = two();
    longest.vms[0].cmdline = "z".repeat(2047);
    longest.vms[1].name = "x".repeat(32);
    longest.vms[1].memory = 192 << 20;
    assert_eq!(check(&longest, &FACTS), Ok(()));
}

#[test]
fn r_s10_a_bad_packing_says_what_is_wrong() {
    let good = pack(&two());
    let refused = |packed: &[u8]| unpack(packed).unwrap_err();
    assert_eq!(refused(b"\x7fELF rest of a kernel"), ConfigError::Magic);
    let mut other = good.clone();
    other[7] = 9;
    assert_eq!(refused(&other), ConfigError::Version { found: 9, known: VERSION });
    assert!(refused(&other).to_string().contains("version is 9, this image reads version 2"));
    for length in 0..good.len() {
        assert!(matches!(refused(&good[..length]), ConfigError::Truncated { .. }), "{length}");
    }
    let longer = [&good[..], b"xyz"].concat();
    assert_eq!(refused(&longer), ConfigError::TrailingBytes { extra: 3 });
    let mut damaged = good.clone();
    damaged[20] ^= 0x40;
    assert!(matches!(refused(&damaged), ConfigError::Checksum { .. }));
    assert!(refused(&damaged).to_string().contains("checksum"));
    // An empty body with its right checksum (zero) is still no configuration.
    let empty = [&good[..8], &[0; 8]].concat();
    assert_eq!(refused(&empty), ConfigError::Body);
}

fn any_device() -> impl Strategy<Value = DeviceConfig> {
    let pci = (any::<(u16, u16)>(), prop::option::of(0..u16::MAX)).prop_map(|(place, vf)| {
        let function = arch_defs::pci::Bdf::from_requester(place.0, place.1);
        DeviceConfig::Pci(PciDevice { function, vf })
    });
    prop_oneof![Just(DeviceConfig::Pit), pci]
}

prop_compose! {
    fn any_vm()(
        name in ".{0,40}",
        cpus in prop::collection::vec(any::<u32>(), 0..70),
        memory: u64,
        kernel in ".{0,20}",
        initrd in prop::option::of(".{0,20}"),
        modules in prop::collection::vec((".{0,9}", ".{0,50}"), 0..4),
        cmdline in ".{0,100}",
        devices in prop::collection::vec(any_device(), 0..3),
        unprotected: bool,
        debug_hooks: bool,
        console: bool,
    ) -> VmConfig {
        let modules =
            modules.into_iter().map(|(name, cmdline)| ModuleConfig { name, cmdline }).collect();
        VmConfig {
            name, cpus, memory, kernel, initrd, modules, cmdline, debug_hooks, console,
            delivery: Delivery::Direct,
            devices,
            dma: if unprotected { Dma::IdentityUnprotected } else { Dma::Remapped },
        }
    }
}

proptest! {
    #[test]
    fn any_configuration_round_trips(vms in prop::collection::vec(any_vm(), 0..5)) {
        let config = Config { vms };
        prop_assert_eq!(unpack(&pack(&config)), Ok(config.clone()));
        if let Err(error) = check(&config, &FACTS) {
            prop_assert!(error.to_string().starts_with("vm"));
        }
    }

    #[test]
    fn r_s10_no_single_damaged_bit_goes_unseen(at: prop::sample::Index, bit in 0u8..8) {
        let mut packed = pack(&two());
        let at = at.index(packed.len());
        packed[at] ^= 1 << bit;
        prop_assert!(unpack(&packed).is_err());
    }

    #[test]
    fn r_s10_a_random_body_never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        // A right header around garbage, so that the body's own parser is reached.
        let mut packed = pack(&Config::default());
        packed.truncate(8);
        packed.extend((body.len() as u32).to_le_bytes());
        packed.extend(crc32(&body).to_le_bytes());
        packed.extend(&body);
        match unpack(&packed) {
            Ok(config) => prop_assert_eq!(unpack(&pack(&config)), Ok(config.clone())),
            Err(error) => prop_assert!(
                matches!(error, ConfigError::Body | ConfigError::TrailingBytes { .. }),
                "{}", error
            ),
        }
    }

    #[test]
    fn r_s10_random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = unpack(&bytes) {
            prop_assert!(error.to_string().starts_with("packed configuration: "));
        }
    }
}

/// Bit by bit, independent of the table in the crate.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
