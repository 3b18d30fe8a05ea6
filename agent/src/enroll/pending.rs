//! The token of an enrolment that the server has not confirmed yet: `fleet.conf.enrolling` beside `fleet.conf`, in the
//! same format, mode 0600, on the disk before the token's hash is sent.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::id::DeviceId;
use zeroize::Zeroizing;

use super::{EnrollError, hex, reusable};
use crate::config::{self, Config, HttpUrl, Key, Secret};

pub(crate) fn path(config_file: &Path) -> PathBuf {
    let mut path = config_file.as_os_str().to_owned();
    path.push(".enrolling");
    path.into()
}

/// The token of the earlier attempt for the same server and id, or a new one.
pub(super) fn load_or_make(
    config_file: &Path,
    server: &HttpUrl,
    device_id: &DeviceId,
) -> Result<Secret, EnrollError> {
    let path = path(config_file);
    // One that is damaged or for something else is of no use and is replaced.
    let earlier = fs::read_to_string(&path).ok().map(Zeroizing::new);
    let earlier = earlier.and_then(|text| Config::from_parts(Some((&path, &text)), &[], "").ok());
    if let Some(token) = earlier.and_then(|earlier| reusable(&earlier, server, device_id)) {
        return Ok(token);
    }
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *bytes).map_err(EnrollError::Random)?;
    let token = Secret::new(hex(&*bytes));
    let server = server.to_string();
    let lines = [
        (Key::FleetUrl, server.as_str()),
        (Key::DeviceId, device_id.as_str()),
        (Key::DeviceToken, token.expose()),
    ];
    let mut text = Zeroizing::new(String::from("# An enrolment that the server has not confirmed yet.\n"));
    for (key, value) in lines {
        text.push_str(&format!("{}={value}\n", key.name()));
    }
    config::write_private(&path, text.as_bytes())?;
    Ok(token)
}

/// Takes it away: the token is in `fleet.conf` now.
pub(super) fn remove(config_file: &Path) {
    // One that stays behind is found unneeded the next time.
    let _ = fs::remove_file(path(config_file));
}
