//! The queues in front of one operator instance: one for each instance that sends to it, bounded by
//! rows and bytes together.
//!
//! A sender asks whether there is room before it takes up work, and what that work gives is taken
//! in any case: a queue exceeds its bound by what one step of one sender gives, no more.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use freshet_core::stream::Wake;
use parking_lot::Mutex;

use super::Element;
use crate::figures::QueueFigures;

/// What a channel may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 4 * 8192, bytes: 8 << 20 }
    }
}

/// The queues in front of one operator instance.
#[derive(Debug)]
pub struct Inbox {
    channels: Vec<Channel>,
    limits: Limits,
    receiver: Arc<dyn Wake>,
}

#[derive(Debug)]
struct Channel {
    queue: Mutex<VecDeque<Taken>>,
    rows: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether the sender found no room and wants to be told of it.
    wanted: AtomicBool,
    sender: Arc<dyn Wake>,
}

/// An element that was taken from a channel, with the room that it takes until it was worked off.
#[derive(Debug)]
pub struct Taken {
    /// What was sent.
    pub element: Element,
    /// Bytes of its rows.
    pub bytes: usize,
}

impl Inbox {
    /// An inbox whose receiver is woken by `receiver`, with one channel for each of `senders`, who
    /// are woken when there is room again.
    pub fn new(limits: Limits, receiver: Arc<dyn Wake>, senders: Vec<Arc<dyn Wake>>) -> Arc<Self> {
        let channels = senders.into_iter().map(|sender| Channel {
            queue: Mutex::default(),
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            wanted: AtomicBool::new(false),
            sender,
        });
        Arc::new(Self { channels: channels.collect(), limits, receiver })
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The sending end of a channel.
    pub fn sender(self: &Arc<Self>, channel: usize) -> ChannelSender {
        ChannelSender { inbox: Arc::clone(self), channel }
    }

    /// Takes what has arrived on a channel, in order, behind what `into` holds already.
    pub fn take(&self, channel: usize, into: &mut VecDeque<Taken>) {
        let mut queue = self.channels[channel].queue.lock();
        if into.is_empty() {
            std::mem::swap(&mut *queue, into);
        } else {
            into.append(&mut queue);
        }
    }

    /// Gives back the room of rows that were worked off.
    pub fn release(&self, channel: usize, rows: usize, bytes: usize) {
        let channel = &self.channels[channel];
        channel.rows.fetch_sub(rows, Ordering::AcqRel);
        channel.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if channel.wanted.swap(false, Ordering::AcqRel) {
            channel.sender.wake();
        }
    }

    /// Rows and bytes that wait on a channel or are being worked off.
    pub fn fill(&self, channel: usize) -> (usize, usize) {
        let channel = &self.channels[channel];
        (channel.rows.load(Ordering::Acquire), channel.bytes.load(Ordering::Acquire))
    }

    /// What waits on all channels together.
    pub fn figures(&self) -> QueueFigures {
        let mut figures = QueueFigures::default();
        for channel in 0..self.channels.len() {
            let (rows, bytes) = self.fill(channel);
            figures.rows += rows as u64;
            figures.bytes += bytes as u64;
            let fill = (rows as f64 / self.limits.rows.max(1) as f64)
                .max(bytes as f64 / self.limits.bytes.max(1) as f64);
            figures.fill = figures.fill.max(fill);
        }
        figures
    }

    fn has_room(&self, channel: usize) -> bool {
        let (rows, bytes) = self.fill(channel);
        rows < self.limits.rows && bytes < self.limits.bytes
    }
}

/// The sending end of a channel.
#[derive(Debug, Clone)]
pub struct ChannelSender {
    inbox: Arc<Inbox>,
    channel: usize,
}

impl ChannelSender {
    /// Whether the channel is below its bounds. Where it is not, the sender is woken once it is.
    pub fn has_room(&self) -> bool {
        if self.inbox.has_room(self.channel) {
            return true;
        }
        self.inbox.channels[self.channel].wanted.store(true, Ordering::Release);
        // Room that was made meanwhile was not told.
        self.inbox.has_room(self.channel)
    }

    /// Sends; never waits.
    pub fn send(&self, element: Element) {
        let channel = &self.inbox.channels[self.channel];
        let mut bytes = 0;
        if let Element::Rows(rows) = &element {
            bytes = rows.bytes();
            channel.rows.fetch_add(rows.len(), Ordering::AcqRel);
            channel.bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        channel.queue.lock().push_back(Taken { element, bytes });
        self.inbox.receiver.wake();
    }
}
