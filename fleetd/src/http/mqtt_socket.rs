//! MQTT over WebSocket at `/mqtt`: MQTT 3.1.1 and 5, section 6. A frame may hold a part of a packet, or several.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use broker::{Broker, Origin, Transport};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Peer, joined};
use crate::app::AppState;

/// The path.
const PATH: &str = "/mqtt";
/// The name that a client has to ask for (MQTT-6.0.0-3, MQTT-6.0.0-4).
const PROTOCOL: &str = "mqtt";
/// Most bytes of a frame and of a message in frames: the largest packet (`Limits::packet_bytes`) and its header. A frame is
/// gathered whole, also of somebody who has not logged in yet.
const MESSAGE_MAX_BYTES: usize = 300 * 1024 + 16;
/// Most bytes that are read before the broker has answered the log-in: its own bound (`Limits::connect_bytes`), and the heads of
/// frames. What comes beyond that waits in the client's socket.
const EARLY_MAX_BYTES: usize = (64 + 4) * 1024;
/// Memory that each connection keeps to read with, in bytes; longer frames get more as they come.
const READ_BYTES: usize = 4 * 1024;

/// Whether the request is for this path.
pub(super) fn is_meant(request: &Request<Incoming>) -> bool {
    request.uri().path().strip_suffix('/').unwrap_or(request.uri().path()) == PATH
}

/// Hands the connection to the broker once the answer is on its way, or says why not.
pub(super) fn answer(app: &AppState, peer: &Peer, request: &mut Request<Incoming>) -> Response {
    upgrade(app, peer, request).unwrap_or_else(Problem::into_response)
}

fn upgrade(app: &AppState, peer: &Peer, request: &mut Request<Incoming>) -> Result<Response, Problem> {
    if request.method() != Method::GET {
        return Err(Problem::method_not_allowed("GET".to_owned()));
    }
    if !request.headers().contains_key(UPGRADE) {
        let detail = "this is MQTT over WebSocket; connect with an MQTT client";
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, detail));
    }
    let forwarded_for = joined(request.headers(), "x-forwarded-for");
    let origin = app.auth.proxies.origin(peer.address, peer.encrypted, forwarded_for.as_deref());
    if !origin.credentials_allowed {
        return Err(Problem::plaintext_forbidden());
    }
    if !asks_for_mqtt(request.headers()) {
        let detail = "ask for the WebSocket protocol mqtt (Sec-WebSocket-Protocol)";
        return Err(Problem::bad_request(detail));
    }
    let broker = app.broker.get().cloned().ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the broker does not run yet; try again")
    })?;
    let mut answer: Response = create_response_with_body(request, Default::default)
        .map_err(|error| Problem::bad_request(format!("this is no WebSocket request: {error}")))?;
    let upgrade = hyper::upgrade::on(request);
    // The address that failures are counted by; the port tells connections apart in the log.
    let client = SocketAddr::new(origin.address, peer.address.port());
    let from =
        Origin { peer: client, transport: Transport::WebSocket, certificate: peer.certificate.clone() };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(broker, upgraded, from).await,
            Err(error) => tracing::debug!(peer = %client, %error, "a WebSocket ended before it began"),
        }
    });
    answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    Ok(answer)
}

fn asks_for_mqtt(headers: &HeaderMap) -> bool {
    let names = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    names.flat_map(|names| names.split(',')).any(|name| name.trim() == PROTOCOL)
}

async fn serve(broker: Broker, upgraded: Upgraded, from: Origin) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES))
        .max_write_buffer_size(2 * MESSAGE_MAX_BYTES);
    let early = Arc::new(Early::default());
    let io = EarlyBound { io: TokioIo::new(upgraded), left: EARLY_MAX_BYTES, early: early.clone() };
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    let heard = stream.filter_map(|message| {
        ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            // MQTT-6.0.0-1: the connection ends.
            Ok(Message::Text(_)) => Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a text frame"))),
            // Pings are answered by the library; after a close nothing comes.
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let said = sink.sink_map_err(io::Error::other).with(move |bytes: Bytes| {
        // What the broker says first is its answer to the log-in.
        early.is_answered();
        ready(Ok::<_, io::Error>(Message::Binary(bytes)))
    });
    let io = tokio::io::join(StreamReader::new(heard), SinkWriter::new(CopyToBytes::new(said)));
    broker.serve_stream(Box::pin(io), from).await;
}

/// Whether the broker has said something.
#[derive(Default)]
struct Early {
    answered: AtomicBool,
    reader: AtomicWaker,
}

impl Early {
    fn is_answered(&self) {
        if !self.answered.swap(true, Ordering::AcqRel) {
            self.reader.wake();
        }
    }
}

/// Frames are gathered whole before the broker sees any of them: until it has answered no more is read than a log-in has.
struct EarlyBound<S> {
    io: S,
    left: usize,
    early: Arc<Early>,
}

impl<S: AsyncRead + Unpin> AsyncRead for EarlyBound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.answered.load(Ordering::Acquire) {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        if self.left == 0 {
            self.early.reader.register(cx.waker());
            if !self.early.answered.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let room = self.left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        self.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EarlyBound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
