//! The targets of what programs of the machine send, and of what the machine's own files hold.

use tombolo::control::{Answer, Request};
use tombolo::names::Found;
use tombolo::names::message::{self, Domain};
use tombolo::{hosts, membership, metrics, state};
use tombolo_noise::PublicKey;

/// Bytes of an answer of the name server at most.
const DNS_ANSWER_MAX: usize = 65_535;

/// A question to the name server, over UDP or TCP; who has the name is in the first byte. An answer is short, has the id of
/// the question, and is a response.
pub fn dns(data: &[u8]) {
    let Some((&selector, query)) = data.split_first() else { return };
    let domain = Domain::parse("prod.internal").expect("a domain");
    let over_udp = selector & 1 == 0;
    let answer = match domain.handle(query) {
        message::Request::Ignore => return,
        message::Request::Answer(answer) => answer,
        message::Request::LookUp(question) => {
            assert!(!question.name().is_empty() && question.name().len() <= 63);
            let found = match selector >> 1 & 3 {
                0 => Found::Nobody,
                1 => Found::Unavailable,
                2 => Found::Addresses(vec![[10, 86, 0, 9].into(), [0xfd86, 0, 0, 0, 0, 0, 0, 9].into()]),
                _ => Found::Addresses((0..200).map(|host| [0xfd86, 0, 0, 0, 0, 0, 0, host].into()).collect()),
            };
            let answer = question.answer(&found, over_udp);
            assert!(!over_udp || answer.len() <= 1232, "{} bytes over UDP", answer.len());
            answer
        }
    };
    assert!(answer.len() <= DNS_ANSWER_MAX);
    if !answer.is_empty() {
        assert_eq!(answer[..2], query[..2], "the id");
        assert!(answer[2] & 0x80 != 0, "a response");
    }
}

/// By the first byte: a line on the control socket, an answer on it, or a request for the metrics page.
pub fn local_socket(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 3 {
        0 => {
            let Ok(request) = serde_json::from_slice::<Request>(data) else { return };
            let again = serde_json::to_vec(&request).expect("what was read has a JSON form");
            let again: Request = serde_json::from_slice(&again).expect("what was written is read");
            assert_eq!(again, request);
        }
        1 => drop(serde_json::from_slice::<Answer>(data)),
        _ => {
            let judged = metrics::judge(data);
            // A page is given for one request only, whatever else stands there.
            if judged == Some(Ok(())) {
                assert!(data.windows(12).any(|piece| piece == b"GET /metrics"));
            }
        }
    }
}

/// By the first byte: what the daemon has saved of peers, of its membership, of members and of names, and /etc/hosts.
pub fn state_file(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 5 {
        0 => drop(state::parse(data, &PublicKey::from_bytes([1; 32]))),
        1 => drop(membership::read_membership(data)),
        2 => drop(membership::read_members(data)),
        3 => drop(membership::read_names(data)),
        _ => {
            let entries = [([10, 86, 0, 9].into(), vec!["db-1.prod.internal".to_owned()])];
            let Ok(with) = hosts::replace_block(data, "prod", &entries) else { return };
            assert_eq!(hosts::replace_block(&with, "prod", &entries).as_ref(), Ok(&with), "written once");
            let without = hosts::replace_block(&with, "prod", &[]).expect("our own block is whole");
            // But for the end of the last line, all that is not ours stays.
            let rest = hosts::replace_block(data, "prod", &[]).expect("it was whole before");
            assert_eq!(without.trim_ascii_end(), rest.trim_ascii_end());
        }
    }
}

/// Target, name and content of each seed.
pub fn surface_seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let question = |kind: u8, name: &[u8], more: &[u8]| {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!more.is_empty())];
        bytes.extend(name);
        bytes.extend([0, kind, 0, 1]);
        bytes.extend(more);
        bytes
    };
    let name = b"\x04db-1\x04prod\x08internal\0";
    let edns = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let seed = |selector: u8, bytes: &[u8]| [&[selector][..], bytes].concat();
    let hosts = b"127.0.0.1 localhost\n# tombolo prod: begin (written by the daemon; edits are lost)\n10.86.0.1 hub\n# \
                  tombolo prod: end\n::1 localhost";
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let digits = |count: usize| "0b".repeat(count);
    let peers = format!(
        "{{\"tombolo_state\":1,\"public_key\":\"{key}\",\"peers\":[{{\"public_key\":\"{key}\",\"endpoint\":\"192.0.2.1:8662\",\
         \"last_sent_timestamp\":\"{}\",\"last_activity\":18446744073709551615}}]}}",
        digits(12)
    );
    let membership = format!(
        "{{\"tombolo_membership\":1,\"network\":\"{}\",\"root\":\"{}\",\"overlay\":{{\"cidrs\":[\"10.86.0.0/16\"],\"domain\":\
         \"prod.internal\"}},\"floor\":{{\"epoch\":1,\"counter\":2,\"hash\":\"{}\"}},\"trust_document\":\"00\",\"membership\":\"0102\"}}",
        digits(16),
        digits(32),
        digits(32)
    );
    let members = "{\"tombolo_members\":1,\"members\":[{\"membership\":\"00\",\"endpoint\":\"[::1]:1\"}]}";
    let names = format!(
        "{{\"tombolo_names\":1,\"names\":[{{\"node\":\"{}\",\"key\":\"{key}\",\"serial\":1,\"signer\":\"{}\",\"name\":\"db-1\",\
         \"addresses\":[\"10.86.0.9\"],\"half\":18446744073709551615,\"until\":9}}]}}",
        digits(16),
        digits(8)
    );
    vec![
        ("dns", "address", seed(4, &question(1, name, &[]))),
        ("dns", "address6_many", seed(6, &question(28, name, &[]))),
        ("dns", "address6_many_edns", seed(6, &question(28, name, &edns))),
        ("dns", "any_tcp", seed(7, &question(255, name, &edns))),
        ("dns", "nobody", seed(0, &question(1, name, &[]))),
        ("dns", "domain", seed(0, &question(6, b"\x04prod\x08internal\0", &[]))),
        ("dns", "elsewhere", seed(0, &question(1, b"\x07example\x03com\0", &[]))),
        ("dns", "pointer_to_itself", seed(0, &question(1, b"\xc0\x0c", &[]))),
        ("local_socket", "status", seed(0, b"{\"request\":\"status\"}")),
        (
            "local_socket",
            "probe",
            seed(0, b"{\"request\":\"probe\",\"peer\":\"db-2\",\"timeout_milliseconds\":1000}"),
        ),
        ("local_socket", "whois", seed(0, b"{\"request\":\"whois\",\"address\":\"fd86::9\"}")),
        ("local_socket", "admin", seed(0, b"{\"request\":\"admin\",\"frame\":\"f1280000\"}")),
        ("local_socket", "answer", seed(1, b"{\"answer\":\"no_answer\",\"reason\":\"gone\"}")),
        ("local_socket", "page", seed(2, b"GET /metrics HTTP/1.1\r\nHost: [::1]:9662\r\n\r\n")),
        ("local_socket", "page_of_a_name", seed(2, b"GET /metrics HTTP/1.1\r\nHost: a.example\r\n\r\n")),
        ("state_file", "peers", seed(0, peers.as_bytes())),
        ("state_file", "membership", seed(1, membership.as_bytes())),
        ("state_file", "members", seed(2, members.as_bytes())),
        ("state_file", "names", seed(3, names.as_bytes())),
        ("state_file", "hosts", seed(4, hosts)),
        ("state_file", "hosts_damaged", seed(4, b"# tombolo prod: end\n")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_files_and_requests_are_accepted() {
        for (target, name, seed) in surface_seeds() {
            let bytes = &seed[1..];
            let accepted = match (target, seed[0]) {
                ("local_socket", 0) => serde_json::from_slice::<Request>(bytes).is_ok(),
                ("local_socket", 1) => serde_json::from_slice::<Answer>(bytes).is_ok(),
                ("state_file", 0) => state::parse(bytes, &PublicKey::from_bytes([1; 32])).is_ok(),
                ("state_file", 1) => membership::read_membership(bytes).is_ok(),
                ("state_file", 2) => membership::read_members(bytes).is_ok(),
                ("state_file", 3) => membership::read_names(bytes).is_ok(),
                _ => true,
            };
            assert!(accepted, "{name}");
        }
    }
}
