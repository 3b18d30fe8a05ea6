//! TLS for listeners: certificates that are read again when their files change, and a connection that makes its handshake
//! when it is first read, so that the limits of connections before login hold for it as well.

mod certificates;
mod peer;
mod stream;

pub use certificates::{Certificates, TlsError};
pub use peer::{CertificateHash, PeerCertificate};
pub use stream::TlsServerStream;
