//! What MQTT 3.1.1 and MQTT 5 ask of a server, statement by statement.
//!
//! A test's name begins with the number of the normative statement that it shows, and goes on with what that means here.
//! Most statements stand in both versions: what shows them is written once, in [`claims`], and named in [`v3_1_1`] and
//! [`v5`]. `docs/mqtt-conformance.md` lists every statement of both; [`table`] holds the two
//! together.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

/// Tests of one version: a name, and the claim that shows it.
macro_rules! claims {
    ($version:ident: $($name:ident => $claim:path;)*) => {
        $(
            #[test]
            fn $name() {
                $claim($crate::support::Version::$version);
            }
        )*
    };
}

mod bench;
mod claims;
mod table;
mod v3_1_1;
mod v5;
