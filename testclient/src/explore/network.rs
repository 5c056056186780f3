//! The ways between servers, which promise no more than the contract of effects says: a stream
//! keeps its order or breaks, and what was under way when it ended may still arrive, later than
//! anything. Pure.

use std::collections::VecDeque;

use kvproto::message::{Body, Message};
use kvproto::{Member, StreamNumber};
use kvserver::replica::event::Event;

use super::explain::brief;
use super::goals::Goal;
use super::model::Model;
use super::shared::Shared;
use super::state::{Seen, State, Stream, index};

impl State {
    /// A primary opens a stream.
    pub(super) fn open_stream(&mut self, from: usize, to: Member, number: StreamNumber) {
        let Some(server) = self.server(from) else {
            return;
        };
        let from = server.member.clone();
        let (up, down) = (VecDeque::new(), VecDeque::new());
        let stream = Stream { from, to, number, callee: None, open: true, up, down };
        let key = |stream: &Stream| (stream.from.clone(), stream.to.clone(), stream.number);
        let place = self.streams.partition_point(|other| key(other) < key(&stream));
        self.streams.insert(place, Shared::new(stream));
    }

    /// A primary closes a stream.
    pub(super) fn close_stream(&mut self, from: usize, to: &Member, number: StreamNumber) {
        let Some(from) = self.server(from).map(|server| server.member.clone()) else {
            return;
        };
        for stream in &mut self.streams {
            if stream.from == from && stream.to == *to && stream.number == number {
                *stream = Shared::new(Stream { open: false, ..Stream::clone(stream) });
            }
        }
        self.tidy_streams();
    }

    /// Drops what was addressed to a life that is over, and that nobody there now would take.
    pub(super) fn forget_mail(&mut self, model: &Model) {
        if model.stale {
            return;
        }
        for at in 0..self.streams.len() {
            let stream = &self.streams[at];
            if !stream.up.is_empty() && self.alive(&stream.to).is_none() {
                let up = VecDeque::new();
                self.streams[at] = Shared::new(Stream { up, ..Stream::clone(stream) });
            }
        }
        self.tidy_streams();
    }

    /// Forgets streams that can carry nothing any more.
    pub(super) fn tidy_streams(&mut self) {
        self.streams
            .retain(|stream| stream.open || !stream.up.is_empty() || !stream.down.is_empty());
    }

    /// Puts a message where it belongs: into its stream, or outside them.
    pub(super) fn send(&mut self, message: Message, seen: &mut Seen) {
        seen.line(|| brief(&message));
        if message.body == Body::Fenced {
            seen.goals.reach(Goal::Fenced);
        }
        if matches!(message.body, Body::Released) {
            let message = Shared::new(message);
            if !self.loose.iter().any(|other| **other == *message) {
                self.loose.push(message);
            }
            return;
        }
        let up = message.body.is_from_primary();
        let carries = |stream: &Stream| {
            stream.open
                && stream.number == message.stream
                && if up {
                    stream.from == message.from && stream.to == message.to
                } else {
                    stream.from == message.to && stream.callee.as_ref() == Some(&message.from)
                }
        };
        if let Some(stream) = self.streams.iter_mut().find(|stream| carries(stream)) {
            let mut longer = Stream::clone(stream);
            if up { &mut longer.up } else { &mut longer.down }.push_back(Shared::new(message));
            *stream = Shared::new(longer);
        }
    }

    /// The head of one direction of a stream arrives.
    pub(super) fn deliver(&mut self, model: &Model, stream: usize, up: bool, seen: &mut Seen) {
        let mut shorter = Stream::clone(&self.streams[stream]);
        let queue = if up { &mut shorter.up } else { &mut shorter.down };
        let Some(message) = queue.pop_front() else {
            return;
        };
        if !shorter.open {
            seen.goals.reach(Goal::LateMessage);
        }
        let to = index(if up { &shorter.to.name } else { &shorter.from.name });
        if up && shorter.callee.is_none() {
            shorter.callee = self.server(to).map(|server| server.member.clone());
        }
        self.streams[stream] = Shared::new(shorter);
        self.tidy_streams();
        self.step(model, to, Event::Message(Message::clone(&message)), seen);
    }

    /// A stream breaks, and its primary hears of it.
    pub(super) fn break_stream(&mut self, model: &Model, stream: usize, seen: &mut Seen) {
        let broken = Stream { open: false, ..Stream::clone(&self.streams[stream]) };
        let (from, peer, number) = (broken.from.clone(), broken.to.clone(), broken.number);
        self.streams[stream] = Shared::new(broken);
        self.tidy_streams();
        if let Some(at) = self.alive(&from) {
            self.step(model, at, Event::StreamBroken { peer, stream: number }, seen);
        }
    }

    /// Whether the copy's end of a stream is dead, so that the stream breaks sooner or later.
    #[must_use]
    pub fn is_orphan(&self, stream: &Stream) -> bool {
        self.alive(stream.callee.as_ref().unwrap_or(&stream.to)).is_none()
    }
}
