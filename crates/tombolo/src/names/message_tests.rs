use super::*;

fn domain() -> Domain {
    Domain::parse("prod.internal").unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answered(request: Request) -> Message {
    match request {
        Request::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("not answered: {other:?}"),
    }
}

fn question(message: &Message) -> Question {
    match domain().handle(&message.to_vec().unwrap()) {
        Request::LookUp(question) => *question,
        other => panic!("no look-up: {other:?}"),
    }
}

fn addresses() -> Found {
    Found::Addresses(vec!["10.86.0.9".parse().unwrap(), "fd86::9".parse().unwrap()])
}

#[test]
fn a_member_has_the_addresses_of_the_family_that_was_asked_for() {
    for (kind, wanted) in [(RecordType::A, vec!["10.86.0.9"]), (RecordType::AAAA, vec!["fd86::9"])] {
        let question = question(&query("DB-1.Prod.Internal.", kind));
        assert_eq!(question.name(), "db-1");
        let answer = Message::from_vec(&question.answer(&addresses(), true)).unwrap();
        assert_eq!(answer.metadata.id, 0x1234);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative);
        let found: Vec<String> = answer
            .answers
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .map(|ip| ip.to_string())
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(answer.answers[0].name.to_ascii(), "DB-1.Prod.Internal.", "letter case is kept");
    }
}

#[test]
fn a_record_that_a_member_has_not_is_no_missing_member() {
    let question = question(&query("db-1.prod.internal.", RecordType::MX));
    let answer = Message::from_vec(&question.answer(&addresses(), true)).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty());
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
}

#[test]
fn nobody_is_kept_for_a_second_only() {
    let question = question(&query("db-2.prod.internal.", RecordType::A));
    let answer = Message::from_vec(&question.answer(&Found::Nobody, true)).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].ttl, 1);
    let answer = Message::from_vec(&question.answer(&Found::Unavailable, true)).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(answer.authorities.is_empty(), "a failure says nothing about the name");
}

#[test]
fn other_domains_are_refused() {
    for name in ["example.com.", "internal.", "prod.internal.example.", "xprod.internal."] {
        let answer = answered(domain().handle(&query(name, RecordType::A).to_vec().unwrap()));
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(answer.answers.is_empty());
    }
    let deeper = answered(domain().handle(&query("a.b.prod.internal.", RecordType::A).to_vec().unwrap()));
    assert_eq!(deeper.metadata.response_code, ResponseCode::NXDomain);
    let apex = answered(domain().handle(&query("prod.internal.", RecordType::SOA).to_vec().unwrap()));
    assert_eq!(apex.answers[0].record_type(), RecordType::SOA);
}

#[test]
fn an_answer_too_long_for_udp_is_truncated_there_only() {
    let many = Found::Addresses((0..40u8).map(|last| IpAddr::from([10, 86, 0, last])).collect());
    let question = question(&query("db-1.prod.internal.", RecordType::A));
    let short = Message::from_vec(&question.answer(&many, true)).unwrap();
    assert!(short.metadata.truncation && short.answers.len() < 40);
    let whole = Message::from_vec(&question.answer(&many, false)).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 40);
    let mut extended = query("db-1.prod.internal.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    extended.edns = Some(edns);
    let whole = self::question(&extended).answer(&many, true);
    assert!(whole.len() <= usize::from(MAX_PAYLOAD));
    assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 40);
}

#[test]
fn what_is_no_question_gets_no_answer_or_an_error() {
    assert!(matches!(domain().handle(&[]), Request::Ignore));
    assert!(matches!(domain().handle(&[0; 11]), Request::Ignore));
    let mut response = query("db-1.prod.internal.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(domain().handle(&response.to_vec().unwrap()), Request::Ignore));
    let mut garbage = query("db-1.prod.internal.", RecordType::A).to_vec().unwrap();
    garbage.truncate(20);
    assert_eq!(answered(domain().handle(&garbage)).metadata.response_code, ResponseCode::FormErr);
    let mut update = query("db-1.prod.internal.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(
        answered(domain().handle(&update.to_vec().unwrap())).metadata.response_code,
        ResponseCode::NotImp
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        if let Request::LookUp(question) = domain().handle(&bytes) {
            question.answer(&addresses(), true);
        }
    }
}
