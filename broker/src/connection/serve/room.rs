//! Room in the router's logs, which a client waits for before more is taken from it.

use std::future::Future;
use std::pin::Pin;

use crate::logs::{Places, Room, Route};
use crate::router::RouterGone;

/// The most room that is asked for at once, for the packets that have come in.
const ROOM_BYTES: usize = 32 * 1024;

/// Room in the router's logs for what a client publishes next.
pub(super) enum NextRoom {
    /// There was enough.
    NotNeeded,
    /// Nothing is taken from the client before it is there.
    Asked(Pin<Box<dyn Future<Output = Result<Room, RouterGone>> + Send>>),
    There(Box<Room>),
}

impl NextRoom {
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, NextRoom::Asked(_))
    }

    /// Resolves when the room that was asked for is there.
    pub(super) async fn wait(&mut self) -> Result<(), RouterGone> {
        let NextRoom::Asked(asked) = self else { return std::future::pending().await };
        *self = NextRoom::There(Box::new(asked.await?));
        Ok(())
    }

    /// Gives a message of so many bytes its places. Where there is no room, some is asked for, for this message and what
    /// else has come in.
    pub(super) fn enter(&mut self, route: &Route, bytes: usize, come_in: usize) -> Option<Places> {
        if let NextRoom::There(room) = self
            && let Some(places) = room.enter(route, bytes)
        {
            return Some(places);
        }
        let places = route.try_enter(bytes);
        if places.is_none() {
            // A message takes more than its packet, but not much.
            let bytes = bytes.max(ROOM_BYTES.min(2 * come_in));
            *self = NextRoom::Asked(Box::pin(route.clone().reserve(bytes)));
        }
        places
    }
}
