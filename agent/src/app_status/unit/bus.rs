//! The same question to systemd over the system's D-Bus, for a PATH without `systemctl`.

use std::ffi::CStr;

use systemd::bus::{Bus, ContainerType, MessageRef};
use utf8_cstr::Utf8CStr;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const UNIT_INTERFACE: &CStr = c"org.freedesktop.systemd1.Unit";
/// How long one answer may take, microseconds.
const PATIENCE_US: u64 = 3_000_000;

/// The properties of `unit` in the words of `systemctl show`, or why they cannot be had.
pub(super) fn ask(unit: &str) -> Result<String, String> {
    let mut bus =
        Bus::open_system().map_err(|error| format!("the system's D-Bus cannot be reached: {error}"))?;
    let path = object_path(unit);
    let answer = (|| {
        let load = property(&mut bus, &path, c"LoadState")?;
        let active = property(&mut bus, &path, c"ActiveState")?;
        Ok(format!("LoadState={load}\nActiveState={active}\n"))
    })();
    bus.close();
    answer
}

fn property(bus: &mut Bus, path: &str, name: &CStr) -> Result<String, String> {
    let in_words = |error: systemd::Error| format!("systemd cannot be asked over D-Bus: {error}");
    let mut question =
        bus.new_method_call(SYSTEMD, path, "org.freedesktop.DBus.Properties", "Get").map_err(in_words)?;
    for argument in [UNIT_INTERFACE, name] {
        let argument = Utf8CStr::from_cstr(argument).map_err(|error| error.to_string())?;
        question.append(argument).map_err(in_words)?;
    }
    let mut answer = question
        .call(PATIENCE_US)
        .map_err(|error| format!("systemd does not answer over D-Bus: {error:?}"))?;
    variant_text(&mut answer).map_err(in_words)
}

/// The text in a variant.
fn variant_text(message: &mut MessageRef) -> systemd::Result<String> {
    let mut values = message.iter()?;
    values.enter_container(ContainerType::Variant, "s")?;
    let text: Option<&Utf8CStr> = values.next()?;
    Ok(text.map(|text| text.to_string()).unwrap_or_default())
}

/// Where systemd has a unit: everything but letters and digits is written as `_` and two hex digits, as is a digit in
/// the first place.
fn object_path(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_where_systemd_documents_them() {
        assert_eq!(object_path("r58-api.service"), "/org/freedesktop/systemd1/unit/r58_2dapi_2eservice");
        assert_eq!(object_path("1x@a.service"), "/org/freedesktop/systemd1/unit/_31x_40a_2eservice");
    }
}
