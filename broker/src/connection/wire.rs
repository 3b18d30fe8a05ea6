//! A connection's bytes: small buffers while it is idle, bounded ones while it is not, and writes with a deadline.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::codec::DecodeError;
use crate::codec::frame::{self, Header};

/// What is read at once.
const READ_BYTES: usize = 16 * 1024;
/// How much is read ahead, about, to notice that the client has gone.
const WATCHED_BYTES: usize = 4 * 1024;
/// An output buffer that is larger is given back when it has been written.
const KEEP_OUT_BYTES: usize = 1024;
/// How much a closing connection still reads, and for how long, so that its last packet arrives.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_millis(500);

thread_local! {
    /// Where all connections of a thread read into: none owns a buffer until something has come.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A stream with its buffers.
pub(crate) struct Wire<S> {
    io: S,
    input: BytesMut,
    /// Packets to be written by [`Wire::flush`].
    pub(crate) out: BytesMut,
    write_time: Duration,
    /// A packet may have been written in part.
    torn: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S, write_time: Duration) -> Wire<S> {
        Wire { io, input: BytesMut::new(), out: BytesMut::new(), write_time, torn: false }
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

    /// What the buffers take.
    pub(crate) fn bytes_held(&self) -> usize {
        self.input.capacity() + self.out.capacity()
    }

    /// Something has come in and was not handled yet.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// What has come in and was not handled yet; [`Wire::put_back`] takes the rest back.
    pub(crate) fn take_input(&mut self) -> BytesMut {
        std::mem::take(&mut self.input)
    }

    /// Gives back what was taken, but for its first `used` bytes.
    pub(crate) fn put_back(&mut self, mut input: BytesMut, used: usize) {
        if used < input.len() {
            input.advance(used);
            self.input = input;
        }
    }

    /// Reads more; 0 is the end. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> io::Result<usize> {
        // The buffer grows with what has really come, not with what a header promises.
        std::future::poll_fn(|context| {
            // Nothing that reads from a stream reads from another one in there, so it is not borrowed.
            CHUNK.with_borrow_mut(|chunk| {
                let mut chunk = ReadBuf::new(chunk);
                ready!(Pin::new(&mut self.io).poll_read(context, &mut chunk))?;
                self.input.extend_from_slice(chunk.filled());
                std::task::Poll::Ready(Ok(chunk.filled().len()))
            })
        })
        .await
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

    /// Writes all of `out`. Fails if nothing can be written for the write time. Dropping the future loses nothing.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() && !self.torn {
            return Ok(());
        }
        self.torn = true;
        while !self.out.is_empty() {
            // Mostly there is room, and no timer is needed; nor does an idle connection need the memory of one.
            let n = match self.io.write(&self.out).now_or_never() {
                Some(written) => written?,
                None => Box::pin(timeout(self.write_time, self.io.write(&self.out))).await??,
            };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.out.advance(n);
        }
        match self.io.flush().now_or_never() {
            Some(flushed) => flushed?,
            None => Box::pin(timeout(self.write_time, self.io.flush())).await??,
        }
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
