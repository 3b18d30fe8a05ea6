//! The access gate over the MQTT router.
