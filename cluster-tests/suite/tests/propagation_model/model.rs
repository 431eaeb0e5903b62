//! The model as stateright explores it: actions and their effects.

use stateright::{Model, Property};

use crate::joining::{JoinStep, Phase};
use crate::network::{Message, MessageBody};
use crate::propagation::AckDelivery;
use crate::properties;
use crate::record::{BUCKET_KEY, Kind, MAX_REGIONS};
use crate::region::{Mode, Region};
use crate::removal::RemovalStep;
use crate::world::{Change, Setup, World, Write};

/// A transition of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A user writes, with a clock's time.
    Write(Write, u8),
    /// A user deletes the bucket of key 0.
    DeleteBucket,
    /// The deletion reaches a region.
    DropBucket {
        region: usize,
    },
    /// A record expires in a region.
    Expire {
        region: usize,
        key: usize,
    },
    /// A tombstone is collected.
    Collect {
        region: usize,
        key: usize,
    },
    /// A leader sends a batch from the position of its stream, or after a reset.
    Send {
        origin: usize,
        peer: usize,
        first_only: bool,
        reset: bool,
    },
    /// A heartbeat arrives at once, or stays in flight.
    Heartbeat {
        origin: usize,
        peer: usize,
        late: bool,
    },
    /// A message (its index in the set) arrives, and may arrive again.
    Deliver {
        message: usize,
        duplicate: bool,
        ack: AckDelivery,
    },
    /// A message is lost.
    Lose {
        message: usize,
    },
    Join(JoinStep),
    LoseRegion {
        region: usize,
    },
    Remove(RemovalStep),
}

impl Action {
    /// Returns whether the action is no part of the protocol: a user's request, or a fault.
    fn is_external(self) -> bool {
        match self {
            Self::Write(..)
            | Self::DeleteBucket
            | Self::Lose { .. }
            | Self::LoseRegion { .. }
            | Self::Join(JoinStep::Abort) => true,
            Self::Send { reset, .. } => reset,
            Self::Heartbeat { late, .. } => late,
            Self::Deliver {
                duplicate: again,
                ack: answer,
                ..
            } => again || answer != AckDelivery::InTime,
            Self::DropBucket { .. }
            | Self::Expire { .. }
            | Self::Collect { .. }
            | Self::Join(_)
            | Self::Remove(_) => false,
        }
    }
}

impl Setup {
    /// Returns whether no action of the protocol changes the state any more.
    pub(crate) fn is_idle(&self, world: &World) -> bool {
        if !world.in_flight.is_empty() {
            return false;
        }
        let mut actions = Vec::new();
        self.add_protocol_actions(world, &mut actions);
        let mut internal = actions.into_iter().filter(|action| !action.is_external());
        internal.all(|action| self.has_no_effect(world, action))
    }

    /// Returns whether an action, with the arrival of its message, leaves the state unchanged.
    fn has_no_effect(&self, world: &World, action: Action) -> bool {
        let mut next = world.clone();
        self.apply(&mut next, action);
        if !next.in_flight.is_empty() {
            self.deliver(&mut next, 0, false, AckDelivery::InTime);
        }
        next == *world
    }

    fn add_protocol_actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.add_maintenance(world, actions);
        self.add_sends(world, actions);
        self.add_deliveries(world, actions);
        let mut steps = Vec::new();
        world.join_steps(self, &mut steps);
        actions.extend(steps.into_iter().map(Action::Join));
        let mut steps = Vec::new();
        world.removal_steps(self, &mut steps);
        actions.extend(steps.into_iter().map(Action::Remove));
    }

    fn add_requests(&self, world: &World, actions: &mut Vec<Action>) {
        if world.remaining.operations == 0 {
            return;
        }
        for write in &self.writes {
            let region = &world.regions[write.region];
            if region.is_serving() && !region.refuses(write.key) {
                let clocks = self.distinct_clocks(region).into_iter();
                actions.extend(clocks.map(|clock| Action::Write(*write, clock)));
            }
        }
        if self.deletes_bucket && !world.bucket_deleted {
            actions.push(Action::DeleteBucket);
        }
    }

    /// Returns the clocks that result in different versions.
    fn distinct_clocks(&self, region: &Region) -> Vec<u8> {
        let mut clocks = self.clocks.clone();
        let version = |clock: &mut u8| region.next_version(*clock, &self.rules);
        clocks.dedup_by(|a, b| version(a) == version(b));
        clocks
    }

    fn add_maintenance(&self, world: &World, actions: &mut Vec<Action>) {
        for region in &world.regions {
            let id = usize::from(region.id);
            if !matches!(region.mode, Mode::Serving | Mode::Joining) {
                continue;
            }
            if world.pending_drops[id] {
                actions.push(Action::DropBucket { region: id });
            }
            for key in 0..self.keys {
                if region.records[key].is_some_and(|record| record.kind == Kind::Expiring) {
                    actions.push(Action::Expire { region: id, key });
                }
                if region.can_collect(key, &self.rules) {
                    actions.push(Action::Collect { region: id, key });
                }
            }
        }
    }

    fn add_sends(&self, world: &World, actions: &mut Vec<Action>) {
        for origin in 0..MAX_REGIONS {
            for peer in 0..MAX_REGIONS {
                let (from, to) = (&world.regions[origin], &world.regions[peer]);
                let is_up = |region: &Region| matches!(region.mode, Mode::Serving | Mode::Joining);
                let is_early = world.join.phase == Phase::Preparing && world.remaining.delays > 0;
                let is_listening = is_up(to) || (is_early && self.newcomer == Some(peer));
                if from.peers[peer].is_some() && is_up(from) && is_listening {
                    self.add_sends_between(world, origin, peer, actions);
                }
            }
        }
    }

    fn add_sends_between(
        &self,
        world: &World,
        origin: usize,
        peer: usize,
        actions: &mut Vec<Action>,
    ) {
        let acked = world.acked(origin, peer);
        let position = world.position(origin, peer);
        let is_batch =
            |m: &&Message| matches!(m.body, MessageBody::Batch(_)) && m.is_between(origin, peer);
        let has_capacity = world.in_flight.iter().filter(is_batch).count() < self.max_in_flight;
        // A newcomer that doesn't acknowledge yet would otherwise be sent the same batch for ever.
        let known = world.regions[peer].peers[origin].map_or(0, |peer| peer.cursor);
        let is_silent = world.regions[peer].mode == Mode::Joining && self.rules.ack_after_copy;
        let mut send = |from: u8, first_only: bool, reset: bool| {
            let batch = world.batch(origin, peer, from, first_only, &self.rules);
            if batch.is_some_and(|batch| !is_silent || batch.position() > known) {
                actions.push(Action::Send {
                    origin,
                    peer,
                    first_only,
                    reset,
                });
            }
        };
        if has_capacity {
            send(position, false, false);
            if self.splits_batches {
                send(position, true, false);
            }
            if position > acked && world.remaining.resets > 0 {
                send(acked, false, true);
            }
        }
        if world.heartbeat(origin, peer, &self.rules).is_some() {
            actions.push(Action::Heartbeat {
                origin,
                peer,
                late: false,
            });
            if world.remaining.delays > 0 && has_capacity {
                actions.push(Action::Heartbeat {
                    origin,
                    peer,
                    late: true,
                });
            }
        }
    }

    fn add_deliveries(&self, world: &World, actions: &mut Vec<Action>) {
        let left = &world.remaining;
        for (message, sent) in world.in_flight.iter().enumerate() {
            let deliver = |again, answer| Action::Deliver {
                message,
                duplicate: again,
                ack: answer,
            };
            actions.push(deliver(false, AckDelivery::InTime));
            if matches!(sent.body, MessageBody::Ack(_)) {
                continue;
            }
            if left.duplicates > 0 {
                actions.push(deliver(true, AckDelivery::InTime));
            }
            if left.losses > 0 {
                actions.push(deliver(false, AckDelivery::Lost));
                actions.push(Action::Lose { message });
            }
            if left.delays > 0 {
                actions.push(deliver(false, AckDelivery::Late));
            }
        }
    }

    fn deliver(&self, world: &mut World, message: usize, again: bool, answer: AckDelivery) {
        let sent = world.in_flight[message].clone();
        if again {
            world.remaining.duplicates -= 1;
        } else {
            world.in_flight.remove(message);
        }
        match &sent.body {
            MessageBody::Ack(cursor) => world.receive_ack(&sent, *cursor, &self.rules),
            MessageBody::Batch(batch) => {
                let Some(cursor) = world.merge(&sent, batch, &self.rules) else {
                    return;
                };
                match answer {
                    AckDelivery::InTime => world.receive_ack(&sent, cursor, &self.rules),
                    AckDelivery::Lost => world.remaining.losses -= 1,
                    AckDelivery::Late => {
                        world.remaining.delays -= 1;
                        let body = MessageBody::Ack(cursor);
                        world.send(Message { body, ..sent });
                    }
                }
            }
        }
    }

    fn write(&self, world: &mut World, write: Write, clock: u8) {
        let Write { region, key, kind } = write;
        world.remaining.operations -= 1;
        let record = world.regions[region].write(key, kind, clock, &self.rules);
        let mut rank = record.rank();
        rank.tombstone |= kind == Kind::Expiring;
        world.newest[key] = world.newest[key].max(Some(rank));
        world.changes.push(Change {
            region: region as u8,
            incarnation: record.incarnation,
            seq: record.seq,
            key: key as u8,
            time: record.version.time,
        });
    }

    fn delete_bucket(&self, world: &mut World) {
        world.remaining.operations -= 1;
        world.bucket_deleted = true;
        let joining = world.join.is_under_way();
        for id in 0..MAX_REGIONS {
            let newcomer = joining && self.newcomer == Some(id);
            world.pending_drops[id] = world.regions[id].is_serving() || newcomer;
        }
    }

    fn apply(&self, world: &mut World, action: Action) {
        let rules = &self.rules;
        match action {
            Action::Write(write, clock) => self.write(world, write, clock),
            Action::DeleteBucket => self.delete_bucket(world),
            Action::DropBucket { region } => {
                world.pending_drops[region] = false;
                world.regions[region].drop_bucket();
            }
            Action::Expire { region, key } => world.regions[region].expire(key, rules),
            Action::Collect { region, key } => world.regions[region].records[key] = None,
            Action::Send {
                origin,
                peer,
                first_only,
                reset,
            } => {
                let from = if reset {
                    world.remaining.resets -= 1;
                    world.acked(origin, peer)
                } else {
                    world.position(origin, peer)
                };
                if let Some(batch) = world.batch(origin, peer, from, first_only, rules) {
                    if !matches!(world.regions[peer].mode, Mode::Serving | Mode::Joining) {
                        world.remaining.delays -= 1;
                    }
                    world.send(batch);
                }
            }
            Action::Heartbeat { origin, peer, late } => self.heartbeat(world, origin, peer, late),
            Action::Deliver {
                message,
                duplicate: again,
                ack: answer,
            } => {
                self.deliver(world, message, again, answer);
            }
            Action::Lose { message } => {
                world.remaining.losses -= 1;
                world.in_flight.remove(message);
            }
            Action::Join(step) => world.apply_join_step(step, self),
            Action::LoseRegion { region } => world.lose_region(region),
            Action::Remove(step) => world.apply_removal_step(step, self),
        }
    }

    fn heartbeat(&self, world: &mut World, origin: usize, peer: usize, late: bool) {
        let Some(message) = world.heartbeat(origin, peer, &self.rules) else {
            return;
        };
        if late {
            world.remaining.delays -= 1;
            world.send(message);
        } else if let MessageBody::Batch(batch) = &message.body {
            world.merge(&message, batch, &self.rules);
        }
    }

    fn add_region_loss(&self, world: &World, actions: &mut Vec<Action>) {
        let Some(region) = self
            .lost_region
            .filter(|_| world.remaining.region_losses > 0)
        else {
            return;
        };
        if world.regions[region].is_serving() && !world.join.is_under_way() {
            actions.push(Action::LoseRegion { region });
        }
    }
}

impl Model for Setup {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = self.initial_world();
        for action in &self.initial_actions {
            self.apply(&mut world, *action);
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.add_requests(world, actions);
        self.add_region_loss(world, actions);
        self.add_protocol_actions(world, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.apply(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}

/// Returns whether a key is in the deleted bucket.
pub(crate) fn is_in_deleted_bucket(world: &World, key: usize) -> bool {
    key == BUCKET_KEY && world.bucket_deleted
}
