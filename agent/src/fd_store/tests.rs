use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use super::{
    Room,
    label::{Label, Misfit},
};
use crate::{
    bpf::netns_cookie,
    inherited::{Item, Purpose, Whose},
};

const MAPS: &str = "0123456789abcdef";

fn item(netns: u64, purpose: Purpose) -> Item {
    Item::Listener {
        workload: Whose {
            name: "web".to_owned(),
            id: 4711,
            netns,
        },
        worker: 3,
        purpose,
    }
}

fn listener() -> (TcpListener, u64) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let cookie = netns_cookie(&listener).unwrap();
    (listener, cookie)
}

#[test]
fn a_name_says_all_of_a_listener_and_is_read_again() {
    let (listener, _) = listener();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
        unreachable!()
    };
    let descriptor = OwnedFd::from(listener);
    for (purpose, begins) in [
        (
            Purpose::Egress,
            "egress4.3.web.4711.4099.0123456789abcdef".to_owned(),
        ),
        (Purpose::Ingress, "ingress4.3.web.".to_owned()),
        (
            Purpose::Named(address),
            format!("127.0.0.1-{}.3.web.", address.port()),
        ),
    ] {
        let label = Label::of(&item(4099, purpose), &descriptor).unwrap();
        let name = label.name(MAPS);
        assert!(name.starts_with(&begins), "{name}");
        assert_eq!(Label::parse(&name, MAPS).unwrap(), label);
    }
}

#[test]
fn what_is_not_stored_has_no_name() {
    let descriptor = OwnedFd::from(listener().0);
    assert_eq!(Label::of(&Item::Lock, &descriptor), None);
    assert_eq!(Label::of(&Item::Admin, &descriptor), None);
}

#[test]
fn names_of_others_are_told_from_those_of_other_maps() {
    for name in [
        "",
        "unknown",
        "stored",
        "egress4.3.web.4711.4099",
        "egress5.3.web.4711.4099.0123456789abcdef",
        "egress4.+3.web.4711.4099.0123456789abcdef",
        "egress4.03.web.4711.4099.0123456789abcdef",
        "egress4.3.web.4711.-1.0123456789abcdef",
        "127.0.0.1-65536.3.web.4711.4099.0123456789abcdef",
        "egress4.3.web.4711.4099.0123456789abcdef\nREADY=1",
    ] {
        let why = Label::parse(name, MAPS).unwrap_err();
        assert!(!why.to_string().is_empty());
        let is_name = matches!(why, Misfit::Name);
        assert!(is_name || name.contains('\n'), "{name}: {why}");
    }
    let other = "egress4.3.web.4711.4099.ffffffffffffffff";
    assert!(matches!(Label::parse(other, MAPS), Err(Misfit::Maps(_))));
}

#[test]
fn a_descriptor_is_used_only_where_it_is_what_its_name_says() {
    let (good, netns) = listener();
    let address = good.local_addr().unwrap();
    let SocketAddr::V4(listen) = address else {
        unreachable!()
    };
    let connected = TcpStream::connect(address).unwrap();
    let elsewhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let good = OwnedFd::from(good);
    let egress = Label::of(&item(netns, Purpose::Egress), &good).unwrap();
    egress.check(&good).unwrap();
    Label::of(&item(netns, Purpose::Named(listen)), &good)
        .unwrap()
        .check(&good)
        .unwrap();

    assert!(matches!(egress.check(&connected.into()), Err(Misfit::Kind)));
    assert!(matches!(egress.check(&datagrams.into()), Err(Misfit::Kind)));
    assert!(matches!(
        egress.check(&elsewhere.into()),
        Err(Misfit::Address(_))
    ));
    assert!(matches!(
        egress.check(&file.into()),
        Err(Misfit::NoListener(_))
    ));
    let other = Purpose::Named("127.0.0.1:1".parse().unwrap());
    let misplaced = Label::of(&item(netns, other), &good).unwrap();
    assert!(matches!(misplaced.check(&good), Err(Misfit::Address(_))));
    let foreign = Label::of(&item(netns + 1, Purpose::Egress), &good).unwrap();
    assert!(matches!(foreign.check(&good), Err(Misfit::Namespace)));
}

#[test]
fn a_listener_of_the_other_family_is_not_taken_for_it() {
    let Ok(v6) = TcpListener::bind("[::1]:0") else {
        return; // without IPv6
    };
    let netns = netns_cookie(&v6).unwrap();
    let (v4, _) = listener();
    let v4 = OwnedFd::from(v4);
    let label = Label::of(&item(netns, Purpose::Egress), &v4).unwrap();
    assert!(matches!(label.check(&v6.into()), Err(Misfit::Kind)));
}

#[test]
fn the_names_stay_shorter_together_than_the_longest_variable() {
    let mut room = Room::default();
    let name = "x".repeat(147);
    let taken = (0..2000).filter(|_| room.take(&name)).count();
    assert!(taken * 148 < 128 << 10 && taken > 800, "{taken}");
    assert_eq!(room.left_out(), Some(2000 - taken));
}
