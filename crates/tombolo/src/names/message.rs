//! Questions and answers of the domain name system (RFC 1035), for one domain.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Found;

/// Seconds for which an answer may be kept: a name passes to another node seldom, and its address never changes
/// without a new membership.
const TIME_TO_LIVE: u32 = 10;
/// Seconds for which "nobody" may be kept (control rule 12).
const NEGATIVE_TIME_TO_LIVE: u32 = 1;
/// Bytes of an answer over UDP that need no agreement (RFC 1035 §4.2.1).
const PLAIN_PAYLOAD: usize = 512;
/// Bytes of an answer over UDP at most, so that it is never fragmented (RFC 9715 §3).
const MAX_PAYLOAD: u16 = 1232;

/// A domain that questions are answered for.
#[derive(Clone, Debug)]
pub struct Domain(Name);

/// What is to be done about a message.
#[derive(Debug)]
pub enum Request {
    /// Nothing: it is no question, or cannot be read far enough to be answered.
    Ignore,
    /// The bytes are the answer: refused, malformed, or about the domain itself.
    Answer(Vec<u8>),
    /// Somebody has to look the name up; [`Question::answer`] makes the answer.
    LookUp(Box<Question>),
}

/// A question for the addresses of a member.
#[derive(Debug)]
pub struct Question {
    query: Message,
    domain: Name,
    name: String,
}

impl Domain {
    /// The domain `text`, such as `prod.internal`.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut name =
            Name::from_ascii(text).map_err(|error| format!("`{text}` is not a domain: {error}"))?;
        name.set_fqdn(true);
        if name.num_labels() == 0 {
            return Err("the root is not a domain of a network".to_owned());
        }
        Ok(Self(name.to_lowercase()))
    }

    /// Reads one message.
    pub fn handle(&self, bytes: &[u8]) -> Request {
        let Ok(query) = Message::from_vec(bytes) else { return malformed(bytes) };
        if query.metadata.message_type != MessageType::Query {
            return Request::Ignore;
        }
        if query.metadata.op_code != OpCode::Query {
            return answer(&respond(&query, ResponseCode::NotImp));
        }
        let [question] = query.queries.as_slice() else {
            return answer(&respond(&query, ResponseCode::FormErr));
        };
        if query.version() != 0 {
            return answer(&respond(&query, ResponseCode::BADVERS));
        }
        let name = question.name().to_lowercase();
        if question.query_class() != DNSClass::IN || !self.0.zone_of(&name) {
            return answer(&respond(&query, ResponseCode::Refused));
        }
        let depth = name.num_labels() - self.0.num_labels();
        let label = name.iter().next().and_then(|label| std::str::from_utf8(label).ok()).map(str::to_owned);
        match (depth, label) {
            (0, _) => answer(&about_domain(&query, question, &self.0)),
            (1, Some(name)) => Request::LookUp(Box::new(Question { domain: self.0.clone(), name, query })),
            _ => answer(&negative(&query, ResponseCode::NXDomain, &self.0)),
        }
    }
}

impl Question {
    /// The member's name, in lower case, without the domain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The answer. Over UDP, one that is too long becomes a truncated one, upon which the asker comes by TCP.
    pub fn answer(&self, found: &Found, over_udp: bool) -> Vec<u8> {
        let response = match found {
            Found::Nobody => negative(&self.query, ResponseCode::NXDomain, &self.domain),
            Found::Unavailable => respond(&self.query, ResponseCode::ServFail),
            Found::Addresses(addresses) => self.positive(addresses),
        };
        let bytes = encode(&response);
        let limit = match &self.query.edns {
            Some(_) => usize::from(self.query.max_payload().min(MAX_PAYLOAD)),
            None => PLAIN_PAYLOAD,
        };
        if over_udp && bytes.len() > limit { encode(&response.truncate()) } else { bytes }
    }

    fn positive(&self, addresses: &[IpAddr]) -> Message {
        let wanted = self.query.queries.first().map(Query::query_type);
        let asked = |kind| wanted == Some(kind) || wanted == Some(RecordType::ANY);
        let records = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) if asked(RecordType::A) => Some(RData::A(A(*address))),
            IpAddr::V6(address) if asked(RecordType::AAAA) => Some(RData::AAAA(AAAA(*address))),
            _ => None,
        });
        let mut response = respond(&self.query, ResponseCode::NoError);
        response.metadata.authoritative = true;
        // The name as it was asked, letter case included: some resolvers compare it (0x20 encoding).
        if let Some(question) = self.query.queries.first() {
            response.answers =
                records.map(|data| Record::from_rdata(question.name().clone(), TIME_TO_LIVE, data)).collect();
        }
        if response.answers.is_empty() {
            return negative(&self.query, ResponseCode::NoError, &self.domain);
        }
        response
    }
}

/// The domain itself exists, and has no addresses.
fn about_domain(query: &Message, question: &Query, domain: &Name) -> Message {
    let mut response = negative(query, ResponseCode::NoError, domain);
    if question.query_type() == RecordType::SOA {
        response.answers = std::mem::take(&mut response.authorities);
    }
    response
}

fn respond(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD);
        edns.set_rcode_high(code.high());
        response.edns = Some(edns);
    }
    response
}

/// "No such name", or "no such record": the SOA says for how long that may be kept (RFC 2308 §3).
fn negative(query: &Message, code: ResponseCode, domain: &Name) -> Message {
    let mut response = respond(query, code);
    response.metadata.authoritative = true;
    let soa = SOA::new(domain.clone(), Name::root(), 1, 3600, 600, 86_400, NEGATIVE_TIME_TO_LIVE);
    response.authorities.push(Record::from_rdata(domain.clone(), NEGATIVE_TIME_TO_LIVE, RData::SOA(soa)));
    response
}

/// A message whose header can be read is answered; answers and shorter ones are not.
fn malformed(bytes: &[u8]) -> Request {
    const RESPONSE: u8 = 0x80;
    match bytes {
        [high, low, flags, ..] if bytes.len() >= 12 && flags & RESPONSE == 0 => answer(&Message::error_msg(
            u16::from_be_bytes([*high, *low]),
            OpCode::Query,
            ResponseCode::FormErr,
        )),
        _ => Request::Ignore,
    }
}

fn answer(message: &Message) -> Request {
    Request::Answer(encode(message))
}

/// Everything in it was read from a message, or is ours and short: encoding it can fail only on what
/// reading let through, which is then left unanswered.
fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
