//! Who is in which topic, and what is published there, from any thread.
//!
//! `turn` is the turn that the caller is in: of any shard when publishing, else of the connection's.

use std::sync::Arc;

use super::{Done, Server};
use crate::engine::Command;
use crate::engine::table::Life;
use crate::engine::topics::{Outcomes, Surroundings, Topics};
use crate::engine::turn::{Message, Misuse, Turn};
use crate::id::ConnId;
use crate::protocol::deflate::Wish;

impl Server {
    pub fn subscribe(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, topic: &[u8]) -> Result<Done, Misuse> {
        check_name(topic)?;
        let (entry, _) = self.find(conn)?;
        let topics_max = self.settings().limits.topics;
        if self.topics.subscribe(conn, entry.get(), topic, topics_max)?.is_none() {
            return Ok(Done::Already);
        }
        self.tell_changes(turn, conn);
        Ok(Done::Now)
    }

    pub fn unsubscribe(
        &self,
        mut turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        topic: &[u8],
    ) -> Result<Done, Misuse> {
        check_name(topic)?;
        let (entry, life) = self.find(conn)?;
        if life == Life::Closed {
            return Err(Misuse::NoConnection);
        }
        let Some((change, place)) = self.topics.unsubscribe(conn, entry.get(), topic) else {
            return Ok(Done::Already);
        };
        if let Some(place) = place {
            // If the shard is gone so is whatever was coming.
            let topic = change.topic;
            let _ = self.post(turn.as_deref_mut(), conn, Command::Leave { topic, place });
        }
        self.tell_changes(turn, conn);
        Ok(Done::Now)
    }

    /// To all subscribers but `skipped`, and to those of other servers.
    pub fn publish(
        &self,
        turn: Option<&mut Turn<'_>>,
        topic: &[u8],
        message: &Arc<Message>,
        wish: Wish,
        skipped: ConnId,
    ) -> Result<Outcomes, Misuse> {
        let outcomes = self.publish_here(turn, topic, message, wish, skipped)?;
        if let Some(backplane) = &self.backplane {
            backplane.publish(topic, message.kind, wish, message.payload.as_slice());
        }
        Ok(outcomes)
    }

    /// To all subscribers of this server but `skipped`.
    pub(super) fn publish_here(
        &self,
        mut turn: Option<&mut Turn<'_>>,
        topic: &[u8],
        message: &Arc<Message>,
        wish: Wish,
        skipped: ConnId,
    ) -> Result<Outcomes, Misuse> {
        check_name(topic)?;
        let settings = self.settings();
        if message.payload.len() > settings.send.limit_bytes {
            return Err(Misuse::TooBig);
        }
        let Some(mailboxes) = self.mailboxes.get() else {
            return Err(Misuse::State("the server was not started"));
        };
        let own = turn.as_ref().map(|turn| usize::from(turn.shard()));
        let around = Surroundings { tables: &self.tables, limits: &settings.send, own };
        let outcomes =
            self.topics.publish(topic, message, wish, skipped, &around, |shard, command| {
                match turn.as_deref_mut().filter(|turn| usize::from(turn.shard()) == shard) {
                    Some(turn) => {
                        turn.obey(command);
                        true
                    }
                    None => mailboxes[shard].post(command).is_ok(),
                }
            });
        Ok(outcomes)
    }

    /// Its subscribers in this process.
    pub fn subscribers(&self, topic: &[u8]) -> Result<u64, Misuse> {
        check_name(topic)?;
        Ok(self.topics.subscribers_of(topic))
    }

    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    fn tell_changes(&self, turn: Option<&mut Turn<'_>>, conn: ConnId) {
        if self.routes.want_topics() {
            // If the shard is gone there is nobody to tell.
            let _ = self.post(turn, conn, Command::TellChanges);
        }
    }
}

fn check_name(topic: &[u8]) -> Result<(), Misuse> {
    match topic.len() {
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Misuse::Invalid("the name of a topic has 1 to 255 bytes")),
    }
}

const NAME_BYTES_MAX: usize = 255;
