//! What the explorer beside this cannot see: that who sleeps is woken, and what is known stays known.

use std::sync::mpsc::sync_channel;
use std::thread;

use super::*;
use crate::feed::TableChanges;

/// So long that nobody waits to its end.
const FOREVER: Duration = Duration::from_secs(3_600);

fn changes(table: &str) -> Changes {
    let mut changes = Changes::default();
    changes.tables.insert(table.into(), TableChanges::default());
    changes
}

/// Makes a commit to a table that nobody disturbs.
fn commit(feeds: &Feeds, table: &str, number: usize) {
    let (before, after) = (WalHeader::after(number - 1), WalHeader::after(number));
    feeds.begin_commit();
    feeds.publish(changes(table), Some(before), Some(after));
}

/// A feed whose first snapshot was taken before the first commit.
fn started(feeds: &Arc<Feeds>) -> Arc<Mailbox> {
    let mailbox = feeds.add();
    assert!(mailbox.take_all().unknown, "what was before is not known");
    mailbox.caught_up_at(Some(WalHeader::after(0)), CommitSeq(0));
    mailbox
}

fn tables(changes: &Changes) -> Vec<&str> {
    changes.tables.keys().map(|table| &**table).collect()
}

#[test]
fn a_commit_calls_who_waits_and_a_call_is_answered_once() {
    let feeds = Arc::new(Feeds::default());
    let mailbox = started(&feeds);
    assert_eq!(mailbox.wait(Duration::ZERO), Woken::TimedOut);
    commit(&feeds, "a", 1);
    for _ in 0..2 {
        assert_eq!(mailbox.wait(Duration::ZERO), Woken::Called, "until it is taken");
    }
    let taken = mailbox.take_at(WalHeader::after(1)).expect("nothing lies between");
    assert_eq!((tables(&taken), taken.unknown, taken.seq), (vec!["a"], false, CommitSeq(1)));
    assert_eq!(mailbox.wait(Duration::ZERO), Woken::TimedOut);
    mailbox.give_back(taken);
    assert_eq!(mailbox.wait(Duration::ZERO), Woken::Called, "it was not used");
    mailbox.take_all();
    mailbox.wake();
    mailbox.take_all();
    assert_eq!(mailbox.wait(Duration::ZERO), Woken::Called, "what it is about was not in the mailbox");
    assert_eq!(mailbox.wait(Duration::ZERO), Woken::TimedOut);
    feeds.close();
    assert_eq!(mailbox.wait(Duration::ZERO), Woken::Closed);
    assert_eq!(feeds.add().wait(Duration::ZERO), Woken::Closed, "also for who comes late");
}

#[test]
fn who_sleeps_is_woken_by_a_commit_a_call_and_the_end() {
    let feeds = Arc::new(Feeds::default());
    let mailbox = started(&feeds);
    let (heard, hears) = sync_channel(0);
    thread::scope(|scope| {
        let sleeper = mailbox.clone();
        scope.spawn(move || {
            loop {
                let woken = sleeper.wait(FOREVER);
                sleeper.take_all();
                heard.send(woken).expect("somebody listens");
                if woken == Woken::Closed {
                    break;
                }
            }
        });
        // Most times it sleeps already.
        for round in 1..2_000 {
            commit(&feeds, "a", round);
            assert_eq!(hears.recv(), Ok(Woken::Called));
            mailbox.wake();
            assert_eq!(hears.recv(), Ok(Woken::Called));
        }
        feeds.close();
        assert_eq!(hears.recv(), Ok(Woken::Closed));
    });
}

#[test]
fn what_is_committed_while_a_reader_catches_up_is_known_afterwards() {
    let feeds = Arc::new(Feeds::default());
    let mailbox = started(&feeds);
    let taken = mailbox.take_all();
    // Its snapshot is begun here, and then somebody commits.
    let at = WalHeader::after(0);
    commit(&feeds, "a", 1);
    mailbox.caught_up_at(Some(at), taken.seq);
    let next = mailbox.take_at(WalHeader::after(1)).expect("nothing lies between");
    assert_eq!((tables(&next), next.unknown), (vec!["a"], false));
    // The same, with a commit that the snapshot sees and that has not been published.
    let taken = mailbox.take_all();
    feeds.begin_commit();
    mailbox.caught_up_at(Some(WalHeader::after(2)), taken.seq);
    feeds.publish(changes("b"), Some(WalHeader::after(1)), Some(WalHeader::after(2)));
    let next = mailbox.take_at(WalHeader::after(2)).expect("nothing lies between");
    assert_eq!((tables(&next), next.unknown), (vec!["b"], false));
    // A reader that catches up counts from there, also when a commit came to nothing.
    feeds.begin_commit();
    feeds.end_commit();
    let taken = mailbox.take_all();
    mailbox.caught_up_at(Some(WalHeader::after(9)), taken.seq);
    commit(&feeds, "c", 10);
    let next = mailbox.take_at(WalHeader::after(10)).expect("nothing lies between");
    assert_eq!((tables(&next), next.unknown), (vec!["c"], false));
}

#[test]
fn feeds_are_apart() {
    let feeds = Arc::new(Feeds::default());
    let first = started(&feeds);
    commit(&feeds, "a", 1);
    let second = feeds.add();
    commit(&feeds, "b", 2);
    let late = second.take_at(WalHeader::after(2)).expect("nothing lies between");
    assert_eq!((tables(&late), late.unknown, late.seq), (vec!["b"], true, CommitSeq(2)));
    assert_eq!(first.wait(Duration::ZERO), Woken::Called, "another's taking takes nothing from it");
    let both = first.take_at(WalHeader::after(2)).expect("nothing lies between");
    assert_eq!((tables(&both), both.unknown, both.seq), (vec!["a", "b"], false, CommitSeq(2)));
    let third = feeds.add();
    assert!(
        third.take_at(WalHeader::after(2)).is_some_and(|changes| changes.unknown),
        "it counts from the last commit"
    );
    feeds.remove(&third);
    feeds.remove(&second);
    assert!(feeds.any());
    feeds.remove(&first);
    assert!(!feeds.any());
}
