//! The end of a token's rotation: the first use of the new one.

use crate::{
    app::AppState,
    failpoint,
    store::{StoreError, credentials, credentials::DeviceCredential, revocations},
};

/// Makes an announced token the only one of its device. False: it is not in force any more. A token that is in force
/// already is left alone.
///
/// Connections that were made with the old one end, in every server process. A log-in by MQTT (`by_mqtt`) takes over the
/// device's old connection in this process by itself; ended here, it would be the new one that goes.
///
/// # Errors
/// [`StoreError`].
pub async fn settle(
    app: &AppState,
    credential: &DeviceCredential,
    by_mqtt: bool,
) -> Result<bool, StoreError> {
    if !credential.pending {
        return Ok(true);
    }
    let now_ms = app.clock.now_ms();
    let mut statements = credentials::settle_token(credential, now_ms).to_vec();
    let (org, device) = (&credential.org, &credential.device);
    statements.extend(revocations::device(&org.id, device.as_str(), &app.instance, now_ms));
    protocol::failpoint::reached(failpoint::TOKEN_BEFORE_COMMIT);
    match app.store.apply(statements).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. }) => {
            // Two uses at once: the other one has done it, or the token has lapsed.
            let known = credentials::device(&app.store, &org.slug, device, now_ms).await?;
            return Ok(known.iter().any(|known| !known.pending && known.hash == credential.hash));
        }
        Err(error) => return Err(error),
    }
    protocol::failpoint::reached(failpoint::TOKEN_AFTER_COMMIT);
    tracing::info!(org = %org.slug, %device, "the device uses its new token; the old one is dead");
    if !by_mqtt {
        app.end_device(&org.slug, device);
    }
    Ok(true)
}
