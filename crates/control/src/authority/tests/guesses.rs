//! Guessed tokens, and that nothing is answered before it is written (control rules 15 and 23).

use super::*;

#[test]
fn ten_thousand_guessed_tokens_let_nobody_in_and_cost_no_transaction_control_rule_15() {
    let mut world = World::new(71);
    let token = world.token();
    for guess in 0..10_000_u32 {
        let mut seed = [0x5a; 32];
        seed[..4].copy_from_slice(&guess.to_be_bytes());
        let endpoints = token.endpoints().to_vec();
        let guessed = SigningKey::from_seed(seed);
        let guessed =
            Token::new(*token.network(), *token.server_key(), *token.root(), endpoints, guessed).unwrap();
        let key = server_key();
        let session = session(u64::from(guess), key, false);
        world.authority.handle_frame(&session, &request(&guessed, &session, None), world.now, &mut world.rng);
        assert!(world.authority.poll_store().is_none(), "the register is not touched");
        let (_, answer) = world.authority.poll_frame().expect("an answer");
        let Frame::JoinAnswer(answer) = answer else { panic!("{answer:?}") };
        assert_eq!(answer.outcome, Err(JoinRefusal::UnknownToken));
    }
}

#[test]
fn the_authority_answers_after_the_stores_result_and_not_before_control_rule_23() {
    let mut world = World::new(72);
    let token = world.token();
    let key = world.fresh_key();
    let session = world.fresh_session(key);
    world.authority.handle_frame(&session, &request(&token, &session, None), world.now, &mut world.rng);
    let transaction = world.authority.poll_store().expect("a transaction");
    assert!(world.authority.poll_frame().is_none() && world.authority.poll_event().is_none());
    // Time passes, and others ask: still nothing.
    world.authority.handle_timeout(world.now, &mut world.rng);
    assert!(world.authority.poll_frame().is_none());
    let outcome = world.store.execute(&transaction);
    world.authority.handle_store(transaction.id, outcome, world.now, &mut world.rng);
    let (to, answer) = world.authority.poll_frame().expect("now it is written");
    assert!(to == session.id && matches!(answer, Frame::JoinAnswer(answer) if answer.outcome.is_ok()));
    // What could not be written was not decided.
    let token = world.token();
    let key = world.fresh_key();
    let session = world.fresh_session(key);
    world.authority.handle_frame(&session, &request(&token, &session, None), world.now, &mut world.rng);
    let transaction = world.authority.poll_store().expect("a transaction");
    world.authority.handle_store(transaction.id, Outcome::Failed, world.now, &mut world.rng);
    while let Some((_, answer)) = world.authority.poll_frame() {
        assert!(!matches!(answer, Frame::JoinAnswer(answer) if answer.outcome.is_ok()));
    }
}
