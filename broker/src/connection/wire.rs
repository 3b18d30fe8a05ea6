//! A connection's bytes: small buffers while it is idle, bounded ones while it is not, and writes with a deadline.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::codec::DecodeError;
use crate::codec::frame::{self, Header};

/// What an idle connection reads at first, from the stack: it owns no buffer until something comes.
const IDLE_READ_BYTES: usize = 512;
/// What is read at once from a busy one.
const BUSY_READ_BYTES: usize = 16 * 1024;
/// How much is read ahead, about, to notice that the client has gone.
const WATCHED_BYTES: usize = 4 * 1024;
/// An output buffer that is larger is given back when it has been written.
const KEEP_OUT_BYTES: usize = 1024;
/// How much a closing connection still reads, and for how long, so that its last packet arrives.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_millis(500);

/// A stream with its buffers.
pub(crate) struct Wire<S> {
    io: S,
    input: BytesMut,
    /// Packets to be written by [`Wire::flush`].
    pub(crate) out: BytesMut,
    write_time: Duration,
    busy: bool,
    /// A packet may have been written in part.
    torn: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S, write_time: Duration) -> Wire<S> {
        Wire { io, input: BytesMut::new(), out: BytesMut::new(), write_time, busy: false, torn: false }
    }

    /// The next whole packet, if it is there: its header and its body.
    pub(crate) fn packet(&mut self, limit: usize) -> Result<Option<(Header, BytesMut)>, DecodeError> {
        let Some(header) = frame::header(&self.input, limit)? else { return Ok(None) };
        if self.input.len() < header.total_len {
            return Ok(None);
        }
        let mut packet = self.input.split_to(header.total_len);
        let _ = packet.split_to(header.header_len);
        Ok(Some((header, packet)))
    }

    /// How many bytes have come in and were not taken as a packet.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.input.len()
    }

    /// The first byte of what has come in.
    pub(crate) fn first_byte(&self) -> Option<u8> {
        self.input.first().copied()
    }

    /// Reads more; 0 is the end. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> io::Result<usize> {
        if self.input.is_empty() {
            if self.busy {
                // If more is there already it comes in one piece; if not, waiting for it needs no large buffer.
                self.input.reserve(BUSY_READ_BYTES);
                if let Some(read) = self.io.read_buf(&mut self.input).now_or_never() {
                    let n = read?;
                    self.busy = n >= IDLE_READ_BYTES;
                    return Ok(n);
                }
            }
            self.input = BytesMut::new();
            let mut chunk = [0; IDLE_READ_BYTES];
            let n = self.io.read(&mut chunk).await?;
            self.input.extend_from_slice(&chunk[..n]);
            self.busy = n == IDLE_READ_BYTES;
            return Ok(n);
        }
        // The buffer grows with what has really come, not with what a header promises.
        let more = if self.busy { BUSY_READ_BYTES } else { self.input.len() };
        self.input.reserve(more.clamp(IDLE_READ_BYTES, BUSY_READ_BYTES));
        let n = self.io.read_buf(&mut self.input).await?;
        self.busy = n >= IDLE_READ_BYTES;
        Ok(n)
    }

    /// Waits until the client has gone, and keeps what it sends meanwhile. A client that sends much is not watched.
    pub(crate) async fn gone(&mut self) {
        while self.input.len() < WATCHED_BYTES {
            if !matches!(self.read().await, Ok(1..)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Writes all of `out`. Fails if nothing can be written for the write time.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.torn = true;
        while !self.out.is_empty() {
            let n = timeout(self.write_time, self.io.write_buf(&mut self.out)).await??;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        timeout(self.write_time, self.io.flush()).await??;
        self.torn = false;
        if self.out.capacity() > KEEP_OUT_BYTES {
            self.out = BytesMut::new();
        }
        Ok(())
    }

    /// True if a last packet can be written behind what was written before.
    pub(crate) fn is_whole(&self) -> bool {
        !self.torn
    }

    /// Writes as much of `out` as goes at once, and closes.
    pub(crate) fn close_now(mut self) {
        let _ = self.flush().now_or_never();
    }

    /// Writes what is in `out`, then closes. What the client still sends is read and dropped for a moment, as a socket
    /// that is closed with unread input takes the last packet back.
    pub(crate) async fn close(mut self) {
        let _ = timeout(LINGER_TIME, async {
            self.flush().await?;
            self.io.shutdown().await?;
            let mut chunk = vec![0; 4096];
            let mut left = LINGER_BYTES;
            while left > 0 {
                match self.io.read(&mut chunk).await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
            io::Result::Ok(())
        })
        .await;
    }
}
