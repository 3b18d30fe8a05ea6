//! A lean MQTT 3.1.1 load client: thousands of connections on one thread, few system calls, nothing allocated for a
//! packet. What it costs is taken from the program that is measured, for they share the machine.

pub(crate) mod devices;
pub(crate) mod packet;
pub(crate) mod swarm;
