//! A server's end of a TLS connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::PeerCertificate;

/// A connection that makes its handshake when it is first read or written. Whoever reads from it bounds the time of both.
pub struct TlsServerStream<S> {
    state: State<S>,
    peer: PeerCertificate,
}

enum State<S> {
    Accepting(Box<Accept<S>>),
    Open(Box<TlsStream<S>>),
    /// The handshake has failed.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsServerStream<S> {
    /// Nothing happens yet.
    pub fn new(io: S, config: Arc<ServerConfig>) -> Self {
        let state = State::Accepting(Box::new(TlsAcceptor::from(config).accept(io)));
        Self { state, peer: PeerCertificate::default() }
    }

    /// What the other end shows in the handshake.
    #[must_use]
    pub fn peer_certificate(&self) -> PeerCertificate {
        self.peer.clone()
    }

    fn open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<S>>>> {
        if let State::Accepting(accept) = &mut self.state {
            self.state = match ready!(Pin::new(accept.as_mut()).poll(cx)) {
                Ok(stream) => {
                    self.peer.note(stream.get_ref().1.peer_certificates());
                    State::Open(Box::new(stream))
                }
                Err(error) => {
                    self.state = State::Closed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(Pin::new(stream.as_mut()))),
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsServerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.open(cx))?.poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsServerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.open(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Open(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            // Nothing was promised to the other end yet.
            State::Accepting(_) | State::Closed => Poll::Ready(Ok(())),
        }
    }
}
