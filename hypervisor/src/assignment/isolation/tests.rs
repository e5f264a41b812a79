//! Machines with root ports, a switch, a conventional bridge, cards with several functions and with virtual ones.

extern crate std;

use super::*;
use std::string::{String, ToString};
use std::vec::Vec;

fn bdf(text: &str) -> Bdf {
    std::format!("0000:{text}").parse().unwrap()
}

fn peer(name: &str, parent: Option<&str>, kind: Kind, apart: bool) -> Peer {
    Peer { bdf: bdf(name), parent: parent.map(bdf), kind, apart, device: bdf(name) }
}

use Kind::{Bridge, Downstream, Endpoint, RootPort, Upstream};

/// Two root ports, as QEMU's with ACS; behind the first a switch with two cards, behind the second a card with two functions
/// and a virtual one. A conventional bridge with two functions. A device of the root complex with two functions, and one
/// beside it.
fn machine() -> Vec<Peer> {
    let card = peer("05:00.0", Some("00:01.1"), Endpoint, false);
    std::vec![
        peer("00:01.0", None, RootPort, true),
        peer("00:01.1", None, RootPort, true),
        peer("01:00.0", Some("00:01.0"), Upstream, false),
        peer("02:00.0", Some("01:00.0"), Downstream, true),
        peer("02:01.0", Some("01:00.0"), Downstream, true),
        peer("03:00.0", Some("02:00.0"), Endpoint, false),
        peer("04:00.0", Some("02:01.0"), Endpoint, false),
        card,
        peer("05:00.1", Some("00:01.1"), Endpoint, false),
        card.virtual_function(bdf("06:10.0")),
        peer("00:1e.0", None, Bridge, false),
        peer("07:00.0", Some("00:1e.0"), Endpoint, false),
        peer("07:05.0", Some("00:1e.0"), Endpoint, false),
        peer("00:1f.0", None, Endpoint, false),
        peer("00:1f.2", None, Endpoint, false),
        peer("00:03.0", None, Endpoint, false),
    ]
}

fn set(peers: &mut [Peer], name: &str, apart: bool) {
    peers.iter_mut().find(|peer| peer.bdf == bdf(name)).unwrap().apart = apart;
}

/// The pairs when these functions have these owners.
fn found(peers: &[Peer], owners: &[(&str, usize)]) -> Vec<(String, String, Way)> {
    let owner = |name| owners.iter().find(|(own, _)| bdf(own) == name).map(|&(_, vm)| vm);
    let short = |name: Bdf| name.to_string()[5..].to_string();
    pairs(peers, owner).iter().map(|p| (short(p.one), short(p.other), p.way)).collect()
}

fn way_between(peers: &[Peer], one: &str, other: &str) -> Option<Way> {
    let owned = found(peers, &[(one, 0), (other, 1)]);
    let pair = owned.iter().find(|pair| pair.0 == one && pair.1 == other);
    pair.map(|pair| pair.2)
}

#[test]
fn r_s9_ports_that_redirect_keep_cards_apart() {
    let peers = machine();
    for (one, other) in [("03:00.0", "04:00.0"), ("03:00.0", "05:00.0"), ("00:1f.2", "00:03.0")] {
        assert_eq!(way_between(&peers, one, other), None, "{one} {other}");
    }
}

#[test]
fn r_s9_a_switch_port_that_does_not_redirect_is_a_certain_way() {
    for weak in ["02:00.0", "02:01.0"] {
        let mut peers = machine();
        set(&mut peers, weak, false);
        let way = way_between(&peers, "03:00.0", "04:00.0").unwrap();
        assert_eq!(way, Way::Switch { port: bdf(weak) });
        assert!(way.is_certain());
        assert_eq!(way_between(&peers, "03:00.0", "05:00.0"), None, "another root port");
    }
    // The switch sends on what the root port then turns back.
    let mut peers = machine();
    set(&mut peers, "00:01.0", false);
    let way = way_between(&peers, "03:00.0", "04:00.0").unwrap();
    assert_eq!(way, Way::Unknown { at: bdf("00:01.0") });
    assert!(!way.is_certain());
    // Two ports of one root complex device.
    assert_eq!(way_between(&peers, "03:00.0", "05:00.0"), Some(way));
}

#[test]
fn r_s9_functions_behind_a_conventional_bridge_share_their_id() {
    let peers = machine();
    let way = way_between(&peers, "07:00.0", "07:05.0").unwrap();
    assert_eq!(way, Way::SharedId { bridge: bdf("00:1e.0") });
    assert!(way.is_certain() && way.to_string().contains("0000:00:1e.0"));
    assert_eq!(way_between(&peers, "07:00.0", "03:00.0"), None);
    // The outermost bridge counts.
    let mut deeper = machine();
    deeper.push(peer("07:06.0", Some("00:1e.0"), Bridge, false));
    deeper.push(peer("08:00.0", Some("07:06.0"), Endpoint, false));
    assert_eq!(way_between(&deeper, "07:00.0", "08:00.0"), Some(way));
    assert_eq!(alias(&deeper, bdf("08:00.0")), Some(bdf("00:1e.0")));
    assert_eq!(alias(&deeper, bdf("00:1e.0")), None, "the bridge speaks for itself");
    assert_eq!(alias(&deeper, bdf("03:00.0")), None);
}

#[test]
fn r_s9_functions_of_one_device_without_acs_are_suspects() {
    let peers = machine();
    let card = Way::Unknown { at: bdf("05:00.0") };
    assert_eq!(way_between(&peers, "05:00.0", "05:00.1"), Some(card));
    // A virtual function, whatever its bus.
    assert_eq!(way_between(&peers, "05:00.0", "06:10.0"), Some(card));
    let root = Way::Unknown { at: bdf("00:1f.0") };
    assert_eq!(way_between(&peers, "00:1f.0", "00:1f.2"), Some(root));
    assert!(!card.is_certain());
    let mut kept = machine();
    for name in ["05:00.0", "05:00.1", "06:10.0", "00:1f.0", "00:1f.2"] {
        set(&mut kept, name, true);
    }
    for (one, other) in [("05:00.0", "05:00.1"), ("05:00.0", "06:10.0"), ("00:1f.0", "00:1f.2")] {
        assert_eq!(way_between(&kept, one, other), None, "{one} {other}");
    }
}

#[test]
fn one_owner_is_no_conflict_and_nobody_is_told_of() {
    let peers = machine();
    assert_eq!(found(&peers, &[("07:00.0", 0), ("07:05.0", 0)]), []);
    let way = Way::SharedId { bridge: bdf("00:1e.0") };
    let lone = found(&peers, &[("07:05.0", 3)]);
    assert_eq!(lone, [("07:05.0".to_string(), "07:00.0".to_string(), way)]);
    assert_eq!(found(&peers, &[]), []);
    assert_eq!(found(&peers, &[("05:00.1", 0)]), [], "nobody starts its neighbours");
}

#[test]
fn r_s10_bridges_in_a_circle_end() {
    let peers = [
        peer("01:00.0", Some("02:00.0"), Bridge, false),
        peer("02:00.0", Some("01:00.0"), Bridge, false),
        peer("03:00.0", Some("02:00.0"), Endpoint, false),
        peer("04:00.0", Some("01:00.0"), Endpoint, false),
    ];
    assert!(way_between(&peers, "03:00.0", "04:00.0").is_some());
}
