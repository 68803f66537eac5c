//! Several servers on one store: what others write, and which of them does what nobody asks for.
//!
//! Each of them decides what it is asked: conditions refuse what is founded on old knowledge, so that nothing is given twice whoever
//! decides. What is due by itself, one does, as long as the store lets it (a lease): two would sign the network document by turns, and
//! one that has not heard an ephemeral node would let it go.

use std::time::Duration;

use tombolo_noise::clock::Now;

use super::audit::AuditHead;
use super::register::Record;
use super::transaction::Stored;
use super::{Authority, Event, PUBLISH_INTERVAL};

impl Authority {
    /// Another server has written: the records in the order of their revisions, and the audit log's newest entry as far as it is known.
    /// What is removed has the revision of the transaction that removed it. What this authority wrote itself may be among it.
    pub fn handle_changed(&mut self, changed: Vec<Stored>, audit: Option<AuditHead>, now: Now) {
        if audit.map(|head| head.sequence) > self.audit.map(|head| head.sequence) {
            self.audit = audit;
        }
        for stored in changed {
            let key = stored.key.clone();
            let news = stored.revision > self.mirror.revision(&key);
            self.take(stored);
            match self.mirror.record(&key).filter(|_| news) {
                Some(Record::Published(published)) => {
                    self.publish_at = now.boot + PUBLISH_INTERVAL;
                    self.events.push_back(Event::Published(published.clone()));
                }
                Some(Record::Trust(bytes)) => {
                    let event = Event::TrustInstalled(bytes.clone());
                    self.events.push_back(event);
                }
                _ => {}
            }
        }
    }

    /// Whether this server does from now on what is due: signs the network document anew, revokes old keys, lets go who is gone. So it is
    /// for the only server of a store, and from the start.
    pub fn set_writer(&mut self, writer: bool, now: Now) {
        if writer && !self.writer {
            // Whoever was heard by another server until now has the time to be heard here.
            self.started = self.time(now);
            let held = self
                .document
                .as_ref()
                .map_or(PUBLISH_INTERVAL, |held| self.time(now).0.saturating_sub(held.issued.0));
            self.publish_at = now.boot + PUBLISH_INTERVAL.saturating_sub(held);
            self.due_at = self.due_at.min(now.boot + Duration::from_secs(1));
        }
        self.writer = writer;
    }

    /// Whether it does what is due.
    pub fn is_writer(&self) -> bool {
        self.writer
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, issuer_key};
    use super::*;
    use crate::authority::register::Key;
    use crate::authority::transaction::Snapshot;

    /// A second server on the world's store.
    fn second(world: &World) -> Authority {
        let mut second = Authority::new(issuer_key(), world.store.snapshot(), world.now).unwrap();
        second.set_writer(false, world.now);
        second
    }

    /// What a watch says of all that has been written since.
    fn watch(before: &Snapshot, after: &Snapshot) -> Vec<Stored> {
        let kept = |key: &Key| after.records.iter().any(|stored| stored.key == *key);
        let newest = after.records.iter().map(|stored| stored.revision).max().unwrap();
        let gone = before.records.iter().filter(|stored| !kept(&stored.key));
        let gone = gone.map(|stored| Stored { key: stored.key.clone(), revision: newest, record: None });
        let new = after.records.iter().filter(|stored| !before.records.contains(stored)).cloned();
        gone.chain(new).collect()
    }

    #[test]
    fn what_another_server_wrote_holds_here_control_rule_23() {
        let mut world = World::new(70);
        let mut second = second(&world);
        let before = world.store.snapshot();
        let (_, joined) = world.member("db-1");
        world.pass(PUBLISH_INTERVAL);
        let after = world.store.snapshot();
        assert!(second.nodes().all(|node| node.node != joined.node));
        second.handle_changed(watch(&before, &after), after.audit, world.now);
        assert!(second.nodes().any(|node| node.node == joined.node && node.key == joined.key));
        let published = |authority: &Authority| authority.published().cloned();
        assert_eq!(published(&second), published(&world.authority));
        let event = std::iter::from_fn(|| second.poll_event()).last();
        assert_eq!(event, published(&second).map(Event::Published));
        // Its own echo, or the same once more, is no news; what is older undoes nothing.
        second.handle_changed(watch(&before, &after), after.audit, world.now);
        assert_eq!(second.poll_event(), None);
        second.handle_changed(before.records, before.audit, world.now);
        let key = Key::Node(joined.node);
        second.handle_changed(vec![Stored { key: key.clone(), revision: 1, record: None }], None, world.now);
        assert!(second.nodes().any(|node| node.node == joined.node), "an older removal");
        second.handle_changed(vec![Stored { key, revision: u64::MAX, record: None }], None, world.now);
        assert!(second.nodes().all(|node| node.node != joined.node));
    }

    #[test]
    fn of_two_servers_one_does_what_is_due_control_rule_23() {
        let mut world = World::new(71);
        world.pass(PUBLISH_INTERVAL);
        let mut second = second(&world);
        world.pass(PUBLISH_INTERVAL * 2);
        second.handle_timeout(world.now, &mut world.rng);
        assert!(!second.is_writer() && second.poll_store().is_none(), "it waits");
        assert!(second.poll_timeout() > Some(world.now.boot), "and is not called for nothing");
        // It has missed what the first has signed meanwhile, and finds that out by its own transaction.
        second.set_writer(true, world.now);
        second.handle_timeout(world.now, &mut world.rng);
        let transaction = second.poll_store().expect("the document is old");
        let outcome = world.store.execute(&transaction);
        second.handle_store(transaction.id, outcome, world.now, &mut world.rng);
        let again = second.poll_store().expect("decided anew");
        assert!(matches!(world.store.execute(&again), crate::authority::Outcome::Committed { .. }));
    }
}
