//! Links between machines, and the ordered streams over them. Pure.
//!
//! A stream delivers a prefix of what was sent, in order, and then breaks; what was under way when
//! it broke or was closed may still arrive, later than the messages of the next stream. What goes
//! over a link that is held waits until it is released, and then arrives in order. Where links take
//! only so many bytes, a message arrives when its last byte has; its sender hears now and then that
//! more has arrived. What overtakes does so.

use std::collections::{BTreeMap, VecDeque};

use kvproto::message::{Body, Message};
use kvproto::{Member, ServerName, StreamNumber};
use kvserver::replica::event::Event;

use super::servers::Input;
use super::visits::Path;
use super::world::{Happening, MS, World};

/// A machine: the servers from 0, then the view service, then the clients.
pub type Node = usize;

/// From one machine to another.
pub type Link = (Node, Node);

/// One stream between two processes.
#[derive(Debug)]
pub struct Channel {
    pub(super) dialler: (Node, u64),
    pub(super) to: Member,
    /// The machine that the address led to.
    at: Node,
    pub(super) callee: Option<(Node, u64)>,
    pub(super) stream: StreamNumber,
    pub(super) broken: bool,
    pub(super) closed: bool,
    break_told: bool,
    /// From here on everything that way is lost: up, down.
    lost: [bool; 2],
    lag: u64,
    up_at: u64,
    down_at: u64,
    /// When everything sent so far to the callee has left, if links are narrow.
    sent_at: u64,
}

/// Bytes that a message takes on a narrow link.
fn size_of(message: &Message) -> u64 {
    let bytes = match &message.body {
        Body::Append(append) => append.entries.iter().map(|entry| entry.weight()).sum(),
        Body::TransferChunk { records, .. } => records.len(),
        _ => 0,
    };
    bytes as u64 + 50
}

/// While a message is under way on a narrow link, its sender hears this often that more has arrived.
const CONFIRMED_EVERY: u64 = 50 * MS;

/// All links and streams.
#[derive(Default, Debug)]
pub struct Network {
    cuts: BTreeMap<Link, u32>,
    /// What waits on the links that are held.
    held: BTreeMap<Link, VecDeque<Happening>>,
    pub(super) channels: BTreeMap<u64, Channel>,
    pub(super) next_channel: u64,
    /// A story changed what streams deliver.
    pub(super) is_tampered: bool,
    pub(super) delay_max: u64,
    pub(super) laggards: u64,
    /// How many bytes a link between two servers takes in a millisecond, if it is narrow.
    pub(super) bytes_per_ms: Option<u64>,
}

impl Network {
    pub(super) fn new(delay_max: u64, laggards: u64, bytes_per_ms: Option<u64>) -> Network {
        Network { delay_max, laggards, bytes_per_ms, ..Network::default() }
    }

    /// Whether what one machine sends to another is lost.
    #[must_use]
    pub fn is_cut(&self, from: Node, to: Node) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|count| *count > 0)
    }

    pub(super) fn cut(&mut self, links: &[Link]) {
        for link in links {
            *self.cuts.entry(*link).or_default() += 1;
        }
    }

    pub(super) fn mend(&mut self, links: &[Link]) {
        for link in links {
            if let Some(count) = self.cuts.get_mut(link) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// From now on what goes over the link waits.
    pub(super) fn hold(&mut self, link: Link) {
        self.held.entry(link).or_default();
    }

    /// Whether a link is held.
    #[must_use]
    pub fn is_held(&self, link: Link) -> bool {
        self.held.contains_key(&link)
    }

    pub(super) fn held_links(&self) -> Vec<Link> {
        self.held.keys().copied().collect()
    }

    /// What waits on a link.
    #[must_use]
    pub fn waiting_on(&self, link: Link) -> usize {
        self.held.get(&link).map_or(0, VecDeque::len)
    }

    pub(super) fn reverse_held(&mut self, link: Link) {
        self.is_tampered = true;
        if let Some(waiting) = self.held.get_mut(&link) {
            waiting.make_contiguous().reverse();
        }
    }

    pub(super) fn lose_held(&mut self, link: Link, count: usize) {
        self.is_tampered = true;
        if let Some(waiting) = self.held.get_mut(&link) {
            waiting.drain(..count.min(waiting.len()));
        }
    }

    pub(super) fn mend_all(&mut self) {
        self.cuts.clear();
        self.laggards = 0;
        self.bytes_per_ms = None;
        self.channels.values_mut().for_each(|channel| channel.lag = 0);
    }
}

impl World<'_> {
    pub(super) fn delay(&mut self) -> u64 {
        let max = self.network.delay_max;
        if self.random.chance(30) {
            self.random.between(100, max * 10)
        } else {
            self.random.between(100, max)
        }
    }

    /// The machine that an address leads to: of several processes there, any.
    pub(super) fn resolve(&mut self, name: &ServerName) -> Option<Node> {
        let mut first = None;
        let mut alive = Vec::new();
        for (node, machine) in self.machines.iter().enumerate() {
            if machine.name == *name && !machine.is_astray {
                first = first.or(Some(node));
                if machine.process.is_some() {
                    alive.push(node);
                }
            }
        }
        match alive[..] {
            [] => first,
            [only] => Some(only),
            _ => self.random.pick(&alive),
        }
    }

    /// Holds back what goes over a held link. Gives back what does not.
    pub(super) fn hold_back(&mut self, what: Happening) -> Option<Happening> {
        if self.network.held.is_empty() {
            return Some(what);
        }
        let link = self.link_of(&what);
        match link.and_then(|link| self.network.held.get_mut(&link)) {
            Some(waiting) => {
                waiting.push_back(what);
                None
            }
            None => Some(what),
        }
    }

    /// Lets everything that waits on a link arrive now, in order.
    pub(super) fn release(&mut self, link: Link) {
        let Some(waiting) = self.network.held.remove(&link) else {
            return;
        };
        self.note(|| format!("released {link:?}: {} messages", waiting.len()));
        if !waiting.is_empty() {
            self.visits.note(Path::HeldBack);
        }
        for what in waiting {
            self.happen(what);
        }
    }

    fn link_of(&self, what: &Happening) -> Option<Link> {
        let views = self.views_node();
        match what {
            Happening::Carried { channel, up, .. } => {
                let channel = self.network.channels.get(channel)?;
                let (from, to) = (channel.dialler.0, channel.at);
                Some(if *up { (from, to) } else { (to, from) })
            }
            Happening::ToViews { from: Some(from), .. } => Some((*from, views)),
            Happening::ToServer { to, input, .. } if input.is_from_views() => Some((views, *to)),
            Happening::Asked { from, to, .. } => Some((*from, *to)),
            Happening::Answered { from, to, .. } => Some((*from, *to)),
            _ => None,
        }
    }

    pub(super) fn open_channel(&mut self, from: Node, life: u64, to: Member, stream: StreamNumber) {
        let lag = if self.random.chance(self.network.laggards) {
            self.random.between(0, 1500 * MS)
        } else {
            0
        };
        let Some(at) = self.resolve(&to.name) else {
            return;
        };
        self.network.next_channel += 1;
        let id = self.network.next_channel;
        let channel = Channel {
            dialler: (from, life),
            to,
            at,
            callee: None,
            stream,
            broken: false,
            closed: false,
            break_told: false,
            lost: [false; 2],
            lag,
            up_at: self.now,
            down_at: self.now,
            sent_at: self.now,
        };
        self.network.channels.insert(id, channel);
        if self.network.channels.len() > 4000 {
            self.network.channels.pop_first();
        }
    }

    pub(super) fn close_channel(
        &mut self,
        from: Node,
        life: u64,
        to: &Member,
        stream: StreamNumber,
    ) {
        for channel in self.network.channels.values_mut() {
            if channel.dialler == (from, life) && channel.to == *to && channel.stream == stream {
                channel.closed = true;
            }
        }
    }

    /// Sends where the body belongs.
    pub(super) fn send(&mut self, from: Node, life: u64, message: Message) {
        if matches!(message.body, Body::Released) {
            self.send_released(from, message);
            return;
        }
        let up = message.body.is_from_primary();
        let found = self.network.channels.iter().rev().find(|(_, channel)| {
            channel.stream == message.stream
                && if up {
                    channel.dialler == (from, life) && channel.to == message.to
                } else {
                    channel.callee == Some((from, life))
                        && self.machines[channel.dialler.0].name == message.to.name
                }
        });
        let Some((id, other)) =
            found.map(|(id, channel)| (*id, if up { channel.at } else { channel.dialler.0 }))
        else {
            return;
        };
        let delay = self.delay();
        let cut = self.network.is_cut(from, other);
        let now = self.now;
        let Some(channel) = self.network.channels.get_mut(&id) else {
            return;
        };
        if channel.broken || (up && channel.closed) {
            return;
        }
        if cut {
            self.break_channel(id, 50, 2000);
            return;
        }
        let arrives_at = now + delay + channel.lag;
        let last = if up { &mut channel.up_at } else { &mut channel.down_at };
        let at = if message.body.overtakes() {
            arrives_at - now
        } else {
            let mut takes = 0;
            if let Some(bytes_per_ms) = self.network.bytes_per_ms.filter(|_| up) {
                takes = channel.sent_at.max(now) - now + size_of(&message) * MS / bytes_per_ms;
                channel.sent_at = now + takes;
            }
            *last = (*last + 1).max(arrives_at + takes);
            *last - now
        };
        let confirmations = if message.body.overtakes() { 0 } else { at / CONFIRMED_EVERY };
        if self.network.bytes_per_ms.is_some() && up {
            for number in 1..=confirmations.min(1000) {
                self.later(number * CONFIRMED_EVERY, Happening::Confirmed { channel: id });
            }
        }
        let message = Box::new(message);
        if self.random.chance(self.faults.doubled) {
            // No connection of ours does this, but the protocol promises to bear it (REP-1).
            self.visits.note(Path::DoubledMessage);
            let again = at + self.random.between(0, 500 * MS);
            self.later(again, Happening::Carried { channel: id, up, message: message.clone() });
        }
        self.later(at, Happening::Carried { channel: id, up, message });
    }

    /// A word outside any stream: it may be lost, or come twice.
    fn send_released(&mut self, from: Node, message: Message) {
        let Some(to) = self.resolve(&message.to.name) else {
            return;
        };
        let (losses, doubles) = if self.is_quiet { (0, 0) } else { (200, 300) };
        if self.network.is_cut(from, to) || self.random.chance(losses) {
            return;
        }
        for _ in 0..if self.random.chance(doubles) { 2 } else { 1 } {
            let at = self.delay() + self.random.between(0, 300 * MS);
            let input = Input::Event(Box::new(Event::Message(message.clone())));
            self.later(at, Happening::ToAddress { to, input });
        }
    }

    /// From now on nothing more is taken; the dialler hears of it some milliseconds later.
    pub(super) fn break_channel(&mut self, id: u64, soon: u64, late: u64) {
        let told_in = self.random.between(soon, late) * MS;
        if let Some(channel) = self.network.channels.get_mut(&id) {
            channel.broken = true;
            if !channel.break_told {
                channel.break_told = true;
                self.later(told_in, Happening::Broken { channel: id });
            }
        }
    }

    pub(super) fn on_carried(&mut self, id: u64, up: bool, message: Message) {
        let Some(channel) = self.network.channels.get(&id) else {
            return;
        };
        let ((from, from_life), callee, closed) = (channel.dialler, channel.callee, channel.closed);
        let to = channel.at;
        let (sender, receiver) = if up { (from, to) } else { (to, from) };
        if self.network.is_cut(sender, receiver) {
            // What comes after it on this stream must not arrive either.
            if let Some(channel) = self.network.channels.get_mut(&id) {
                channel.lost[usize::from(!up)] = true;
            }
            self.break_channel(id, 50, 2000);
            return;
        }
        let loses = self.random.chance(200);
        let Some(channel) = self.network.channels.get_mut(&id) else {
            return;
        };
        let over = channel.broken || closed;
        let lost = &mut channel.lost[usize::from(!up)];
        *lost |= over && loses;
        if *lost {
            return;
        }
        if over {
            self.visits.note(Path::OldStream);
        }
        let life = if up {
            let process = self.machines[to].process.as_ref().map(|process| process.life);
            let callee = match (callee, process) {
                (Some((_, life)), Some(alive)) if life == alive => Some(life),
                (None, Some(alive)) => {
                    if let Some(channel) = self.network.channels.get_mut(&id) {
                        channel.callee = Some((to, alive));
                    }
                    Some(alive)
                }
                _ => None,
            };
            let Some(callee) = callee else {
                self.break_channel(id, 1, 5);
                return;
            };
            callee
        } else {
            from_life
        };
        let event = Event::Message(message);
        self.input(receiver, life, Input::Event(Box::new(event)));
    }

    /// More of what was sent has arrived at a process that lives and goes on.
    pub(super) fn on_confirmed(&mut self, id: u64) {
        let Some(channel) = self.network.channels.get(&id) else {
            return;
        };
        let (from, life) = channel.dialler;
        let (at, is_over) = (channel.at, channel.broken || channel.closed);
        let cut = self.network.is_cut(from, at) || self.network.is_cut(at, from);
        let held = self.network.is_held((from, at)) || self.network.is_held((at, from));
        let machine = &self.machines[at];
        if is_over || cut || held || machine.paused || machine.process.is_none() {
            return;
        }
        let (peer, stream) = (channel.to.clone(), channel.stream);
        let event = Event::Confirmed { peer, stream };
        self.visits.note(Path::Arrived);
        self.input(from, life, Input::Event(Box::new(event)));
    }

    pub(super) fn on_broken(&mut self, id: u64) {
        let Some(channel) = self.network.channels.get(&id) else {
            return;
        };
        if channel.closed {
            return;
        }
        let (from, life) = channel.dialler;
        let event = Event::StreamBroken { peer: channel.to.clone(), stream: channel.stream };
        self.input(from, life, Input::Event(Box::new(event)));
    }

    /// A process is gone: its connections break.
    pub(super) fn break_channels_of(&mut self, node: Node, life: u64) {
        let theirs = |channel: &Channel| {
            !channel.broken
                && (channel.dialler == (node, life) || channel.callee == Some((node, life)))
        };
        let ids: Vec<u64> = self
            .network
            .channels
            .iter()
            .filter(|(_, channel)| theirs(channel))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let dialler = self.network.channels[&id].dialler.0;
            if self.network.is_cut(node, dialler) {
                self.break_channel(id, 200, 3000);
            } else {
                self.break_channel(id, 1, 5);
            }
        }
    }
}
