//! The same over the system's D-Bus, for a PATH without `systemctl`.

use std::ffi::CStr;

use systemd::bus::{Bus, BusRef, ContainerType, Message, MessageIter};

use super::SystemdError;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &CStr = c"org.freedesktop.systemd1.Manager";
const UNIT_INTERFACE: &CStr = c"org.freedesktop.systemd1.Unit";
const SERVICE_INTERFACE: &CStr = c"org.freedesktop.systemd1.Service";
/// How long one answer may take, microseconds.
const PATIENCE_US: u64 = 3_000_000;
/// The D-Bus' own words for a service that nobody offers.
const NOBODY: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];

/// The properties of `unit` in the words of `systemctl show`.
pub(super) fn show(unit: &str) -> Result<String, SystemdError> {
    let path = object_path(unit);
    with_bus(|bus| {
        let mut answer = String::new();
        let mut add = |name: &str, value: String| answer.push_str(&format!("{name}={value}\n"));
        add("LoadState", text(bus, &path, UNIT_INTERFACE, c"LoadState")?);
        add("ActiveState", text(bus, &path, UNIT_INTERFACE, c"ActiveState")?);
        add("SubState", text(bus, &path, UNIT_INTERFACE, c"SubState")?);
        if unit.ends_with(".service") {
            add("Type", text(bus, &path, SERVICE_INTERFACE, c"Type")?);
            add("Result", text(bus, &path, SERVICE_INTERFACE, c"Result")?);
        }
        add("InvocationID", invocation(bus, &path)?);
        let since = c"ActiveEnterTimestampMonotonic";
        let since: Option<u64> = value(bus, &path, UNIT_INTERFACE, since, "t", |values| values.next())?;
        add("ActiveEnterTimestampMonotonic", since.unwrap_or(0).to_string());
        let job: Option<u32> = value(bus, &path, UNIT_INTERFACE, c"Job", "(uo)", |values| {
            values.enter_container(ContainerType::Struct, "uo")?;
            values.next()
        })?;
        add("Job", job.unwrap_or(0).to_string());
        Ok(answer)
    })
}

/// Has `unit` restarted; systemd goes on with it by itself.
pub(super) fn restart(unit: &str) -> Result<(), SystemdError> {
    with_bus(|bus| {
        let mut order = method(bus, c"RestartUnit")?;
        for argument in [unit, "replace"] {
            order.append(argument).map_err(odd)?;
        }
        call(&mut order).map(drop)
    })
}

/// Has the machine rebooted.
pub(super) fn reboot() -> Result<(), SystemdError> {
    with_bus(|bus| call(&mut method(bus, c"Reboot")?).map(drop))
}

/// `running`, `stopping`, …
pub(super) fn system_state() -> Result<String, SystemdError> {
    with_bus(|bus| text(bus, MANAGER_PATH, MANAGER_INTERFACE, c"SystemState"))
}

fn with_bus<T>(ask: impl FnOnce(&mut BusRef) -> Result<T, SystemdError>) -> Result<T, SystemdError> {
    let mut bus = Bus::open_system()
        .map_err(|error| SystemdError::Absent(format!("the system's D-Bus cannot be reached: {}", error)))?;
    let answer = ask(&mut bus);
    bus.close();
    answer
}

fn odd(error: systemd::Error) -> SystemdError {
    SystemdError::Refused(format!("systemd cannot be asked over D-Bus: {}", error))
}

fn method(bus: &mut BusRef, member: &CStr) -> Result<Message, SystemdError> {
    bus.new_method_call(SYSTEMD, MANAGER_PATH, MANAGER_INTERFACE, member).map_err(odd)
}

fn call(question: &mut Message) -> Result<Message, SystemdError> {
    question.call(PATIENCE_US).map_err(|error| {
        let name = error.name().to_string();
        let said = error.message().map_or_else(|| name.clone(), ToString::to_string);
        if NOBODY.contains(&name.as_str()) {
            SystemdError::Absent(format!("systemd is not on the D-Bus: {said}"))
        } else {
            SystemdError::Refused(said)
        }
    })
}

/// A property whose variant has the signature `kind`, read by `read`.
fn value<T>(
    bus: &mut BusRef,
    path: &str,
    interface: &CStr,
    name: &CStr,
    kind: &str,
    read: impl FnOnce(&mut MessageIter<'_>) -> systemd::Result<T>,
) -> Result<T, SystemdError> {
    let mut question =
        bus.new_method_call(SYSTEMD, path, "org.freedesktop.DBus.Properties", "Get").map_err(odd)?;
    for argument in [interface, name] {
        question.append(argument).map_err(odd)?;
    }
    let mut answer = call(&mut question)?;
    let mut values = answer.iter().map_err(odd)?;
    values.enter_container(ContainerType::Variant, kind).map_err(odd)?;
    read(&mut values).map_err(odd)
}

fn text(bus: &mut BusRef, path: &str, interface: &CStr, name: &CStr) -> Result<String, SystemdError> {
    value(bus, path, interface, name, "s", |values| {
        let text: Option<String> = values.next()?;
        Ok(text.unwrap_or_default())
    })
}

/// 16 bytes, as hexadecimal digits.
fn invocation(bus: &mut BusRef, path: &str) -> Result<String, SystemdError> {
    value(bus, path, UNIT_INTERFACE, c"InvocationID", "ay", |values| {
        let id: Option<Vec<u8>> = values.next()?;
        Ok(id.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect())
    })
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
