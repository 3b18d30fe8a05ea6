//! Whether an enrolment key, or an admin, may register a device: pure decisions over what the database holds.

use serde::Serialize;

use super::time;
use crate::auth::token::TokenHash;

/// Most devices that a key with a limit can be for.
pub const MAX_USES_MAX: i64 = 1_000_000;

/// An enrolment key as stored, and as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct EnrollmentKey {
    /// The row: a UUID.
    pub id: String,
    /// The first characters, for people.
    pub key_prefix: String,
    /// How many devices may be registered with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<i64>,
    /// How many were.
    pub uses: i64,
    /// Whether an admin has to approve each device.
    pub require_approval: bool,
    /// When it ends, ms since 1970.
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// When it was made, ms since 1970.
    #[serde(with = "time")]
    pub created_at: i64,
}

impl EnrollmentKey {
    /// Why the key cannot register another device now, if so.
    #[must_use]
    pub fn exhausted(&self, now_ms: i64) -> Option<&'static str> {
        if self.expires_at.is_some_and(|at| at <= now_ms) {
            return Some("the enrolment key has expired; ask an admin for a new one");
        }
        if self.max_uses.is_some_and(|max| self.uses >= max) {
            return Some("the enrolment key is used up; ask an admin for a new one");
        }
        None
    }
}

/// Who asks for the registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registrar {
    /// An admin of the organisation.
    Admin,
    /// The device, with an enrolment key that is, or is no longer, good for another device.
    Key {
        /// Whether the key may register one more.
        usable: bool,
    },
}

/// What the database has under the id.
#[derive(Debug, Clone, Copy)]
pub enum Existing {
    /// Nothing.
    None,
    /// A device in service.
    Active {
        /// The hash of its token, if it has one.
        token: Option<TokenHash>,
        /// Whether an admin allowed one more enrolment.
        reenrollment_allowed: bool,
    },
    /// A device that was decommissioned.
    Decommissioned,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Make a new device; a key counts one use.
    Create,
    /// Bring a decommissioned device back.
    Revive,
    /// Give the device a new token; a key counts one use.
    Reenroll,
    /// Same id, same token: the same answer again.
    Repeat,
    /// The key is no longer good for this.
    KeyExhausted,
    /// The id is taken by a device with another token.
    Taken,
    /// The id was decommissioned, and only an admin may bring it back.
    NeedsAdmin,
}

/// Decides over a registration.
#[must_use]
pub fn decide(registrar: Registrar, existing: Existing, offered: Option<TokenHash>) -> Decision {
    let usable = !matches!(registrar, Registrar::Key { usable: false });
    match existing {
        Existing::Active { token: Some(token), .. } if offered == Some(token) => Decision::Repeat,
        Existing::Active { reenrollment_allowed: true, .. } if usable => Decision::Reenroll,
        Existing::Active { reenrollment_allowed: true, .. } => Decision::KeyExhausted,
        Existing::Active { .. } => Decision::Taken,
        Existing::Decommissioned if registrar == Registrar::Admin => Decision::Revive,
        Existing::Decommissioned => Decision::NeedsAdmin,
        Existing::None if usable => Decision::Create,
        Existing::None => Decision::KeyExhausted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Registrar = Registrar::Key { usable: true };
    const SPENT: Registrar = Registrar::Key { usable: false };

    fn active(token: &str, reenrollment_allowed: bool) -> Existing {
        Existing::Active { token: Some(TokenHash::of(token)), reenrollment_allowed }
    }

    #[test]
    fn a_repeated_registration_gets_the_same_answer_even_when_the_key_is_spent() {
        for who in [FRESH, SPENT, Registrar::Admin] {
            assert_eq!(decide(who, active("a", false), Some(TokenHash::of("a"))), Decision::Repeat);
            assert_eq!(decide(who, active("a", true), Some(TokenHash::of("a"))), Decision::Repeat);
        }
    }

    #[test]
    fn another_token_needs_one_allowance_of_an_admin() {
        for who in [FRESH, SPENT, Registrar::Admin] {
            assert_eq!(decide(who, active("a", false), Some(TokenHash::of("b"))), Decision::Taken);
            assert_eq!(decide(who, active("a", false), None), Decision::Taken);
        }
        assert_eq!(decide(FRESH, active("a", true), Some(TokenHash::of("b"))), Decision::Reenroll);
        assert_eq!(decide(FRESH, active("a", true), None), Decision::Reenroll);
        assert_eq!(decide(SPENT, active("a", true), Some(TokenHash::of("b"))), Decision::KeyExhausted);
    }

    #[test]
    fn a_spent_key_makes_no_new_device() {
        assert_eq!(decide(FRESH, Existing::None, None), Decision::Create);
        assert_eq!(decide(SPENT, Existing::None, None), Decision::KeyExhausted);
        assert_eq!(decide(Registrar::Admin, Existing::None, None), Decision::Create);
    }

    #[test]
    fn only_an_admin_brings_a_decommissioned_id_back() {
        assert_eq!(decide(FRESH, Existing::Decommissioned, None), Decision::NeedsAdmin);
        assert_eq!(decide(Registrar::Admin, Existing::Decommissioned, None), Decision::Revive);
    }

    #[test]
    fn a_key_ends_by_time_and_by_use() {
        let key = EnrollmentKey {
            id: String::new(),
            key_prefix: String::new(),
            max_uses: Some(2),
            uses: 1,
            require_approval: false,
            expires_at: Some(1000),
            created_at: 0,
        };
        assert!(key.exhausted(999).is_none());
        assert!(key.exhausted(1000).is_some());
        assert!(EnrollmentKey { uses: 2, ..key.clone() }.exhausted(0).is_some());
        assert!(
            EnrollmentKey { uses: 9, max_uses: None, expires_at: None, ..key }.exhausted(i64::MAX).is_none()
        );
    }
}
