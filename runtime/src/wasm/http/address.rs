//! Which addresses requests may go to. Names of hosts are in others' hands: what they resolve to is checked each time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What lies behind an address, as far as its number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The internet.
    Public,
    /// This machine or a network of its own: loopback, private, unique-local, shared (CGNAT), and ranges that are
    /// reserved for tests and protocols.
    Private,
    /// This link: where clouds hand out the credentials of a machine.
    Link,
    /// No host at all, or many: unspecified, multicast, broadcast, reserved.
    Nowhere,
}

impl Reach {
    /// The word for it, as operators read it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reach::Public => "public",
            Reach::Private => "private",
            Reach::Link => "link-local",
            Reach::Nowhere => "not the address of a host",
        }
    }
}

/// What lies behind an address. IPv4 addresses that are wrapped in IPv6 ones count as what they are.
pub(crate) fn reach(ip: IpAddr) -> Reach {
    match unwrapped(ip) {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

/// The IPv4 address, if that is what an IPv6 address stands for.
pub(crate) fn unwrapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(wrapped) => embedded(wrapped).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [0, ..] | [224..=255, ..] => Reach::Nowhere,
        [169, 254, ..] => Reach::Link,
        [10 | 127, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Reach::Private,
        // Protocol assignments, documentation, 6to4 relays, benchmarks.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Reach::Private
        }
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] | [0xff00..=0xffff, ..] => Reach::Nowhere,
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Reach::Private,
        // Site-local addresses, which are no longer given out.
        [0xfec0..=0xfeff, ..] => Reach::Private,
        [0xfe80..=0xfebf, ..] => Reach::Link,
        // Teredo and other protocols, documentation.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Reach::Private,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Nowhere,
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, translated (NAT64) or 6to4.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => from(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] => from(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => from(high, low),
        [0x2002, high, low, ..] => from(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_their_numbers_say() {
        use Reach::{Link, Nowhere, Private, Public};
        for (text, wanted) in [
            ("93.184.216.34", Public),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Public),
            ("127.0.0.1", Private),
            ("127.255.255.255", Private),
            ("169.253.255.255", Public),
            ("169.254.169.254", Link),
            ("169.255.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.0.2.1", Private),
            ("192.168.0.1", Private),
            ("192.169.0.1", Public),
            ("198.18.0.1", Private),
            ("198.20.0.1", Public),
            ("203.0.113.9", Private),
            ("0.0.0.0", Nowhere),
            ("0.1.2.3", Nowhere),
            ("223.255.255.255", Public),
            ("224.0.0.1", Nowhere),
            ("240.0.0.1", Nowhere),
            ("255.255.255.255", Nowhere),
            ("::", Nowhere),
            ("::1", Private),
            ("::2", Nowhere),
            ("::ffff:127.0.0.1", Private),
            ("::ffff:169.254.169.254", Link),
            ("::ffff:93.184.216.34", Public),
            ("::127.0.0.1", Private),
            ("::ffff:0:10.0.0.1", Private),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::93.184.216.34", Public),
            ("2002:7f00:1::", Private),
            ("2002:5db8:d822::", Public),
            ("2001::1", Private),
            ("2001:db8::1", Private),
            ("2001:4860:4860::8888", Public),
            ("2606:2800:220:1::1", Public),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fe80::1", Link),
            ("febf::1", Link),
            ("fec0::1", Private),
            ("ff02::1", Nowhere),
            ("100::1", Nowhere),
            ("4000::1", Nowhere),
        ] {
            assert_eq!(reach(text.parse().expect("an address")), wanted, "{text}");
        }
    }
}
