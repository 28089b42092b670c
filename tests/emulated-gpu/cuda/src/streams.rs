//! The order of the work of several streams: a vector clock per stream (Mattern 1988), and the last uses of each allocation.
//! Two uses without an order between them, one of which writes, are a race.

use std::collections::HashMap;

/// The number of pieces of work per stream that are known to have happened before.
pub(crate) type Clock = Vec<u64>;

/// Streams with smaller numbers are the default streams of the devices.
pub(crate) const FIRST_CREATED: usize = 64;

#[derive(Default)]
pub(crate) struct Streams {
    clocks: Vec<Clock>,
    /// What the host has waited for.
    host: Clock,
    events: HashMap<usize, Clock>,
    created: HashMap<usize, Created>,
    next: usize,
}

#[derive(Clone, Copy)]
struct Created {
    device: usize,
    /// Whether the stream and the default stream wait for each other.
    blocking: bool,
}

/// Uses of an allocation that a later one can race with.
#[derive(Clone, Default, Debug)]
pub(crate) struct Uses(Vec<Use>);

/// A stream used bytes `start..end` at its time `time`.
#[derive(Clone, Copy, Debug)]
struct Use {
    stream: usize,
    time: u64,
    writes: bool,
    start: u64,
    end: u64,
}

impl Streams {
    pub(crate) fn create(&mut self, device: usize, blocking: bool) -> usize {
        let stream = FIRST_CREATED + self.next;
        self.next += 1;
        self.created.insert(stream, Created { device, blocking });
        stream
    }

    pub(crate) fn destroy(&mut self, stream: usize) -> bool {
        self.created.remove(&stream).is_some()
    }

    /// The device of a stream, if the stream exists.
    pub(crate) fn device(&self, stream: usize) -> Option<usize> {
        if stream < FIRST_CREATED { Some(stream) } else { self.created.get(&stream).map(|created| created.device) }
    }

    fn clock(&mut self, stream: usize) -> &mut Clock {
        if self.clocks.len() <= stream {
            self.clocks.resize(stream + 1, Clock::new());
        }
        &mut self.clocks[stream]
    }

    /// The streams that a stream waits for without an event.
    fn implicit(&self, stream: usize) -> Vec<usize> {
        match self.created.get(&stream) {
            Some(created) if created.blocking => vec![created.device],
            None if stream < FIRST_CREATED => {
                let blocking = self.created.iter().filter(|(_, created)| created.blocking && created.device == stream);
                blocking.map(|(other, _)| *other).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Begins a piece of work, and returns its time on its stream.
    pub(crate) fn tick(&mut self, stream: usize) -> u64 {
        for other in self.implicit(stream) {
            let seen = self.clock(other).clone();
            join(self.clock(stream), &seen);
        }
        let host = self.host.clone();
        let clock = self.clock(stream);
        join(clock, &host);
        if clock.len() <= stream {
            clock.resize(stream + 1, 0);
        }
        clock[stream] += 1;
        clock[stream]
    }

    pub(crate) fn record(&mut self, event: usize, stream: usize) {
        let clock = self.clock(stream).clone();
        self.events.insert(event, clock);
    }

    pub(crate) fn wait(&mut self, stream: usize, event: usize) {
        if let Some(seen) = self.events.get(&event).cloned() {
            join(self.clock(stream), &seen);
        }
    }

    /// The host waits for a stream.
    pub(crate) fn synchronize(&mut self, stream: usize) {
        for other in self.implicit(stream) {
            let seen = self.clock(other).clone();
            join(self.clock(stream), &seen);
        }
        let clock = self.clock(stream).clone();
        join(&mut self.host, &clock);
    }

    /// The host waits for an event.
    pub(crate) fn synchronize_event(&mut self, event: usize) {
        if let Some(seen) = self.events.get(&event).cloned() {
            join(&mut self.host, &seen);
        }
    }

    /// The host waits for all streams of a device.
    pub(crate) fn synchronize_device(&mut self, device: usize) {
        let created = self.created.iter().filter(|(_, created)| created.device == device).map(|(stream, _)| *stream);
        for stream in created.chain([device]).collect::<Vec<_>>() {
            self.synchronize(stream);
        }
    }

    /// Whether the host has waited for a piece of work.
    pub(crate) fn host_has_seen(&self, stream: usize, time: u64) -> bool {
        self.host.get(stream).is_some_and(|&seen| seen >= time)
    }

    fn has_seen(&self, stream: usize, (other, time): (usize, u64)) -> bool {
        other == stream || self.clocks[stream].get(other).copied().unwrap_or(0) >= time
    }

    /// Records that a piece of work uses bytes `start..end`, and returns the stream that it races with, if any.
    pub(crate) fn add_use(
        &self,
        uses: &mut Uses,
        stream: usize,
        time: u64,
        writes: bool,
        (start, end): (u64, u64),
    ) -> Option<usize> {
        let conflicts = |other: &Use| other.start < end && start < other.end && (writes || other.writes);
        let race = uses.0.iter().find(|other| conflicts(other) && !self.has_seen(stream, (other.stream, other.time)));
        let race = race.map(|other| other.stream);
        // A stream that has seen this use has also seen the uses that it covers.
        let covered = |other: &Use| {
            start <= other.start
                && other.end <= end
                && (writes || !other.writes)
                && self.has_seen(stream, (other.stream, other.time))
        };
        uses.0.retain(|other| !covered(other));
        uses.0.push(Use { stream, time, writes, start, end });
        race
    }
}

fn join(clock: &mut Clock, other: &Clock) {
    if clock.len() < other.len() {
        clock.resize(other.len(), 0);
    }
    for (own, other) in clock.iter_mut().zip(other) {
        *own = (*own).max(*other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(streams: &mut Streams, uses: &mut Uses, stream: usize, writes: bool) -> Option<usize> {
        let time = streams.tick(stream);
        streams.add_use(uses, stream, time, writes, (0, 8))
    }

    #[test]
    fn two_streams_race_until_one_waits_for_the_other() {
        let (mut streams, mut uses) = (Streams::default(), Uses::default());
        assert_eq!(add(&mut streams, &mut uses, 0, true), None);
        assert_eq!(add(&mut streams, &mut uses, 70, false), Some(0), "there was no wait for the write");
        let (mut streams, mut uses) = (Streams::default(), Uses::default());
        assert_eq!(add(&mut streams, &mut uses, 0, true), None);
        streams.record(7, 0);
        streams.wait(70, 7);
        assert_eq!(add(&mut streams, &mut uses, 70, false), None);
        assert_eq!(add(&mut streams, &mut uses, 0, false), None, "two streams may read");
        assert_eq!(add(&mut streams, &mut uses, 0, true), Some(70), "stream 70 may still be reading");
    }

    #[test]
    fn two_streams_may_write_the_halves_of_an_allocation() {
        let (mut streams, mut uses) = (Streams::default(), Uses::default());
        for (stream, half) in [(0, (0, 4)), (70, (4, 8))] {
            let time = streams.tick(stream);
            assert_eq!(streams.add_use(&mut uses, stream, time, true, half), None);
        }
        assert_eq!(add(&mut streams, &mut uses, 0, false), Some(70));
    }

    #[test]
    fn work_that_the_host_has_waited_for_precedes_all_later_work() {
        let (mut streams, mut uses) = (Streams::default(), Uses::default());
        assert_eq!(add(&mut streams, &mut uses, 70, true), None);
        streams.synchronize(70);
        assert_eq!(add(&mut streams, &mut uses, 71, true), None);
    }

    #[test]
    fn a_blocking_stream_waits_for_the_default_stream() {
        for (blocking, race) in [(true, None), (false, Some(0))] {
            let (mut streams, mut uses) = (Streams::default(), Uses::default());
            let stream = streams.create(0, blocking);
            assert_eq!(add(&mut streams, &mut uses, 0, true), None);
            assert_eq!(add(&mut streams, &mut uses, stream, true), race);
        }
    }
}
