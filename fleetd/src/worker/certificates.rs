//! Renews the certificate that the authority in the data folder has given this server. The listeners notice the new file.

use std::time::Duration;

use crate::{
    app::AppState,
    authority::{Authority, AuthorityError},
};

/// A certificate is good for months after it should be renewed.
pub const EVERY: Duration = Duration::from_secs(12 * 3600);

/// One look.
///
/// # Errors
/// [`AuthorityError`].
pub async fn step(app: &AppState) -> Result<(), AuthorityError> {
    let (authority, now_s) = (Authority::of(&app.config.data_dir), app.clock.now_ms() / 1000);
    // Some small files, twice a day.
    if authority.renew(now_s)? {
        tracing::info!("the server's certificate was renewed");
    }
    Ok(())
}
