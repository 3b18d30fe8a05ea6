//! `ping`: the device's clocks and how good its connection is.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::kernel::Kernel;

/// Longest file of the kernel that is read, in bytes.
const FILE_MAX_LEN: usize = 64 * 1024;

/// The clocks, and the link as far as it is known.
pub(super) fn answer(kernel: &Kernel) -> Value {
    let mut answer = json!({ "time_ms": kernel.wall_ms(), "boottime_ms": kernel.boottime_ms() });
    if let Some(link) = link(Path::new("/")) {
        answer["link"] = Value::Object(link);
    }
    answer
}

/// The interface of the default route: its name, counters, and for a radio its signal. What is not known is left out.
fn link(root: &Path) -> Option<Map<String, Value>> {
    let interface = default_interface(root)?;
    let mut link = Map::new();
    link.insert("interface".to_owned(), interface.clone().into());
    let folder = root.join("sys/class/net").join(&interface);
    let mut number = |name: &str, file: &str| {
        let value = read(&folder.join(file)).and_then(|text| text.trim().parse::<i64>().ok());
        // The kernel says -1 for a speed that it does not know.
        if let Some(value) = value.filter(|value| *value >= 0) {
            link.insert(name.to_owned(), value.into());
        }
    };
    number("speed_mbit", "speed");
    number("rx_bytes", "statistics/rx_bytes");
    number("tx_bytes", "statistics/tx_bytes");
    number("rx_errors", "statistics/rx_errors");
    number("tx_errors", "statistics/tx_errors");
    let radio = read(&root.join("proc/net/wireless"));
    if let Some((quality, signal_dbm)) = radio.and_then(|table| wireless(&table, &interface)) {
        link.insert("wifi_quality".to_owned(), quality.into());
        link.insert("wifi_signal_dbm".to_owned(), signal_dbm.into());
    }
    Some(link)
}

/// The interface of the IPv4 default route with the lowest metric, or else of the IPv6 one.
fn default_interface(root: &Path) -> Option<String> {
    let v4 = read(&root.join("proc/net/route")).and_then(|table| {
        let routes = table.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (name, destination) = (fields.next()?, fields.next()?);
            // Gateway, flags, reference count and use stand before the metric; the mask behind it.
            let metric: u32 = fields.nth(4)?.parse().ok()?;
            let mask = fields.next()?;
            (destination == "00000000" && mask == "00000000").then(|| (metric, name.to_owned()))
        });
        routes.min()
    });
    let v6 = || {
        let table = read(&root.join("proc/net/ipv6_route"))?;
        let routes = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [destination, "00", _, _, _, metric, .., name] = fields[..] else { return None };
            let metric = u32::from_str_radix(metric, 16).ok()?;
            let is_default = destination.bytes().all(|byte| byte == b'0') && name != "lo";
            is_default.then(|| (metric, name.to_owned()))
        });
        routes.min()
    };
    let (_, name) = v4.or_else(v6)?;
    // It becomes part of a path.
    (!name.contains('/') && !name.starts_with('.')).then_some(name)
}

/// Link quality and signal level of `interface`.
fn wireless(table: &str, interface: &str) -> Option<(i64, i64)> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_ascii_whitespace().skip(1).map(|field| field.trim_end_matches('.').parse());
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().filter(|text| text.len() <= FILE_MAX_LEN)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_link_of_the_default_route_is_told_with_its_signal() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        put(
            root,
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
             eth0\t00000000\t0100A8C0\t0003\t0\t0\t700\t00000000\n\
             wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\n",
        );
        put(
            root,
            "proc/net/wireless",
            "Inter-| sta-|   Quality        |\n face | tus | link level noise |\n wlan0: 0000   61.  -49.  -256  0 0\n",
        );
        put(root, "sys/class/net/wlan0/statistics/rx_bytes", "123\n");
        put(root, "sys/class/net/wlan0/speed", "-1\n");
        let expected =
            json!({"interface": "wlan0", "rx_bytes": 123, "wifi_quality": 61, "wifi_signal_dbm": -49});
        assert_eq!(Value::Object(link(root).unwrap()), expected);
    }

    #[test]
    fn a_device_with_ipv6_alone_has_a_link_too() {
        let folder = tempfile::tempdir().unwrap();
        let zero = "0".repeat(32);
        let route = |destination: &str, length: &str, name: &str| {
            format!("{destination} {length} {zero} 00 {zero} 00000400 00000001 00000000 00450003 {name}\n")
        };
        let table =
            route(&zero, "00", "lo") + &route(&"f".repeat(32), "40", "eth1") + &route(&zero, "00", "eth0");
        put(folder.path(), "proc/net/ipv6_route", &table);
        assert_eq!(default_interface(folder.path()).as_deref(), Some("eth0"));
    }

    #[test]
    fn without_a_route_there_is_no_link_and_no_guess() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(link(folder.path()), None);
        put(folder.path(), "proc/net/route", "garbage\n../x 00000000 0 0 0 0 1 00000000\n");
        assert_eq!(link(folder.path()), None);
        assert_eq!(wireless(" wlan0: 0000", "wlan0"), None);
        assert_eq!(wireless(" wlan01: 0000 1. 2.", "wlan0"), None);
    }
}
