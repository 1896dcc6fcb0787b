//! Other machines: what is published here goes to the backplane, and what it brings is published
//! here.

use std::sync::Arc;

use super::{Server, StartError};
use crate::backplane::{
    Backplane, Condition, Counts, Inlet, News, StartError as BackplaneError, Undelivered,
};
use crate::engine::Command;
use crate::engine::event::{Event, EventKind, Reach};
use crate::engine::topics::Watcher;
use crate::engine::turn::Message;
use crate::id::ConnId;
use crate::protocol::Kind;
use crate::protocol::deflate::Wish;

impl Server {
    /// For a server whose backplane is the embedder's own.
    pub fn with_custom_backplane(mut self) -> Self {
        self.use_backplane(Backplane::custom(&self.settings().backplane));
        self
    }

    pub(super) fn use_backplane(&mut self, backplane: Backplane) {
        let backplane = Arc::new(backplane);
        self.topics.set_watcher(Box::new(Wanted(backplane.clone())));
        self.backplane = Some(backplane);
    }

    /// What an embedder's backplane brings for a channel.
    pub fn deliver_from(&self, channel: &[u8], envelope: &[u8]) -> Result<(), Undelivered> {
        let backplane = self.backplane.as_ref().ok_or(Undelivered::NotCustom)?;
        backplane.deliver(channel, envelope)
    }

    /// What an embedder says of its backplane. False if it was so already.
    pub fn set_backplane_condition(&self, condition: Condition) -> Result<bool, Undelivered> {
        let backplane = self.backplane.as_ref().ok_or(Undelivered::NotCustom)?;
        backplane.set_condition(condition)
    }

    pub fn backplane_counts(&self) -> Counts {
        self.backplane.as_ref().map(|backplane| backplane.counts()).unwrap_or_default()
    }
}

impl Inlet for Server {
    fn deliver(&self, topic: &[u8], kind: Kind, wish: Wish, payload: &[u8]) {
        // The last subscriber may have left while it was under way.
        if self.topics.subscribers_of(topic) == 0 {
            return;
        }
        // Without memory for it, or over this server's `send.limit`, it is for nobody here.
        if let Ok(message) = Message::new(kind, payload) {
            let _ = self.publish_here(None, topic, &Arc::new(message), wish, ConnId::NONE);
        }
    }

    fn tell(&self, news: News, why: &str) {
        let reach = match news {
            News::Up => Reach::Up,
            News::Down => Reach::Down,
            News::Gap => Reach::Gap,
        };
        if let Some(mailbox) = self.mailboxes.get().and_then(|mailboxes| mailboxes.first()) {
            // After the last event there is nobody to tell.
            let _ = mailbox.post(Command::Tell(Event::of_server(EventKind::Backplane(reach), why)));
        }
    }
}

/// Asks for the channels of topics that have subscribers here.
struct Wanted(Arc<Backplane>);

impl Watcher for Wanted {
    fn begun(&self, topic: &[u8]) {
        self.0.subscribe(topic);
    }

    fn ended(&self, topic: &[u8]) {
        self.0.unsubscribe(topic);
    }
}

impl From<BackplaneError> for StartError {
    fn from(error: BackplaneError) -> Self {
        match error {
            BackplaneError::Config(why) => Self::Config(why),
            BackplaneError::Tls(why) => Self::Tls(why),
            BackplaneError::Io(error) => Self::Driver(error),
        }
    }
}
