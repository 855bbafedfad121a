use super::*;
use std::sync::mpsc::{Sender, channel};

/// Works for so long in steps, says when it is done, and how.
fn work(
    took: Duration,
    name: &'static str,
    done: Sender<(&'static str, bool)>,
) -> impl Fn(Option<&Pace>) + Send {
    move |pace: Option<&Pace>| {
        let pace = pace.expect("there are threads");
        let mut left = took;
        let step = Duration::from_millis(1);
        let ended = loop {
            if left.is_zero() {
                break Ok(());
            }
            let begun = Instant::now();
            while begun.elapsed() < step {
                std::hint::spin_loop();
            }
            left = left.saturating_sub(step);
            if let Err(gone) = pace.step() {
                break Err(gone);
            }
        };
        if !pace.is_given_up.get() {
            // The test may have ended.
            let _ = done.send((name, ended.is_ok()));
        }
    }
}

fn ask(turns: &Turns, owner: Owner, client: ClientToken, work: impl Fn(Option<&Pace>) + Send + 'static) {
    turns.announce(client);
    turns.push(owner, client, work);
}

/// Of those who are not trusted.
fn under_way(turns: &Turns) -> usize {
    let state = turns.state();
    state.others.short + state.others.long
}

fn turns_with(short_time: Duration) -> Turns {
    Turns(Arc::new(Shared {
        short_time,
        ..Shared::default()
    }))
}

#[test]
fn long_questions_of_more_users_than_there_are_places_do_not_keep_short_ones_waiting() {
    let turns = turns_with(SLICE * 2);
    let (done, ended) = channel();
    for uid in 1..=20 {
        let long = work(Duration::from_secs(600), "long", done.clone());
        ask(&turns, Owner::of(uid), ClientToken(u64::from(uid)), long);
    }
    for uid in 100..110 {
        let token = ClientToken(u64::from(uid));
        ask(&turns, Owner::of(uid), token, work(SLICE, "short", done.clone()));
        let first = ended.recv_timeout(Duration::from_secs(60));
        assert_eq!(first, Ok(("short", true)), "user {uid}");
        assert!(under_way(&turns) <= SHORT_MAX + LONG_MAX);
    }
    turns.close();
}

#[test]
fn a_question_that_was_given_up_is_begun_anew_and_answered() {
    let turns = turns_with(SLICE * 2);
    let (done, ended) = channel();
    let users = 3 * (SHORT_MAX + LONG_MAX) as u32;
    for uid in 1..=users {
        let long = work(SLICE * 10, "long", done.clone());
        ask(&turns, Owner::of(uid), ClientToken(u64::from(uid)), long);
    }
    turns.forget(ClientToken(u64::from(users)));
    for _ in 1..users {
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(("long", true)));
    }
    drop(done);
    // The one that was forgotten was never begun, or ends without an answer.
    assert!(matches!(
        ended.recv_timeout(Duration::from_secs(60)),
        Err(_) | Ok(("long", false))
    ));
    // It is answered before it gives its place back.
    let until = Instant::now() + Duration::from_secs(60);
    while under_way(&turns) != 0 {
        assert!(Instant::now() < until, "a place is not given back");
        std::thread::yield_now();
    }
}

#[test]
fn a_question_whose_asker_goes_before_it_comes_is_not_taken() {
    let turns = Turns::default();
    let (done, ended) = channel();
    turns.announce(ClientToken(1));
    turns.forget(ClientToken(1));
    turns.push(
        Owner::of(1),
        ClientToken(1),
        work(SLICE, "too late", done.clone()),
    );
    ask(&turns, Owner::of(1), ClientToken(2), work(SLICE, "stays", done));
    assert_eq!(ended.recv().unwrap(), ("stays", true));
    assert!(ended.recv().is_err(), "nobody else works");
    assert!(turns.state().announced.is_empty());
}

#[test]
fn a_short_question_of_another_user_and_of_root_does_not_wait_for_long_ones() {
    let turns = Turns::default();
    let (done, ended) = channel();
    let long = Duration::from_secs(20);
    for token in 0..50 {
        ask(
            &turns,
            Owner::of(1),
            ClientToken(token),
            work(long, "long", done.clone()),
        );
    }
    ask(
        &turns,
        Owner::of(2),
        ClientToken(100),
        work(SLICE * 4, "short", done.clone()),
    );
    ask(
        &turns,
        Owner::of(0),
        ClientToken(101),
        work(SLICE, "root", done.clone()),
    );
    let mut first = [ended.recv().unwrap(), ended.recv().unwrap()];
    first.sort_unstable();
    assert_eq!(first, [("root", true), ("short", true)]);
    // It is answered before it gives its place back.
    let until = Instant::now() + Duration::from_secs(60);
    while under_way(&turns) != 1 {
        assert!(
            Instant::now() < until,
            "more than one of the first user is under way"
        );
        std::thread::yield_now();
    }
    turns.close();
}

#[test]
fn a_question_whose_asker_has_gone_ends_and_one_that_waits_is_never_begun() {
    let turns = Turns::default();
    let (done, ended) = channel();
    let long = Duration::from_secs(60);
    ask(
        &turns,
        Owner::of(1),
        ClientToken(1),
        work(long, "under way", done.clone()),
    );
    ask(
        &turns,
        Owner::of(1),
        ClientToken(2),
        work(long, "waits", done.clone()),
    );
    ask(
        &turns,
        Owner::of(1),
        ClientToken(3),
        work(SLICE, "stays", done.clone()),
    );
    turns.forget(ClientToken(2));
    turns.forget(ClientToken(1));
    assert_eq!(ended.recv().unwrap(), ("under way", false));
    assert_eq!(ended.recv().unwrap(), ("stays", true));
    drop(done);
    assert!(ended.recv().is_err(), "nobody else works");
}

#[test]
fn what_is_under_way_of_many_users_is_bounded_and_all_of_them_get_on() {
    let turns = Turns::default();
    let (done, ended) = channel();
    for uid in 1..=30 {
        ask(
            &turns,
            Owner::of(uid),
            ClientToken(u64::from(uid)),
            work(SLICE * 2, "done", done.clone()),
        );
        assert!(under_way(&turns) <= SHORT_MAX + LONG_MAX);
    }
    for _ in 0..30 {
        assert_eq!(ended.recv().unwrap(), ("done", true));
    }
    // Root's, too, and a question that is not begun holds up none that is.
    for token in 200..230 {
        ask(
            &turns,
            Owner::of(0),
            ClientToken(token),
            work(SLICE * 3, "root", done.clone()),
        );
        assert!(turns.state().trusted.short <= TRUSTED_MAX);
    }
    for _ in 0..30 {
        assert_eq!(ended.recv().unwrap(), ("root", true));
    }
    ask(
        &turns,
        Owner::of(1),
        ClientToken(99),
        work(Duration::from_secs(60), "closed", done),
    );
    turns.close();
    assert_eq!(ended.recv().unwrap(), ("closed", false));
}
