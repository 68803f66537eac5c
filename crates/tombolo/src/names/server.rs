//! The sockets of the name server: UDP and TCP on each of the own overlay addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::message::{Domain, Question, Request};
use super::{Found, NameQuery};

/// Questions under way at most; more are dropped over UDP, and wait over TCP.
const MAX_QUESTIONS: usize = 128;
const MAX_CONNECTIONS: usize = 16;
/// For one question: below the five seconds after which resolvers ask again.
const LOOK_UP_TIME: Duration = Duration::from_secs(3);
/// For one connection without a question.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// Questions are short; what is longer is none of ours.
const MAX_QUESTION: usize = 4096;

/// A running name server. Dropping it closes its sockets.
pub(crate) struct NameServer {
    _tasks: JoinSet<()>,
}

/// What all tasks share.
struct Context {
    domain: Domain,
    queries: mpsc::Sender<NameQuery>,
    questions: Arc<Semaphore>,
    own: Vec<IpAddr>,
}

impl NameServer {
    /// Answers for `domain` on `port` of every address in `own`, and only to this machine: questions from another address
    /// are dropped, since a name server that answers others is one more thing that can be used against them.
    ///
    /// # Errors
    /// An address and port cannot be bound.
    pub(crate) async fn start(
        domain: Domain,
        own: Vec<IpAddr>,
        port: u16,
        queries: mpsc::Sender<NameQuery>,
    ) -> io::Result<Self> {
        let questions = Arc::new(Semaphore::new(MAX_QUESTIONS));
        let context = Arc::new(Context { domain, queries, questions, own: own.clone() });
        let mut tasks = JoinSet::new();
        for address in own {
            let place = SocketAddr::new(address, port);
            let refused = |error| io::Error::new(io::Error::kind(&error), format!("port {place}: {error}"));
            let datagrams = UdpSocket::bind(place).await.map_err(refused)?;
            let streams = TcpListener::bind(place).await.map_err(refused)?;
            tasks.spawn(serve_datagrams(Arc::new(datagrams), Arc::clone(&context)));
            tasks.spawn(serve_streams(streams, Arc::clone(&context)));
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, context: Arc<Context>) {
    let mut buffer = vec![0; MAX_QUESTION];
    // Answers under way end with the server.
    let mut answers = JoinSet::new();
    loop {
        while answers.try_join_next().is_some() {}
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an earlier answer; the socket itself lasts.
            tokio::task::yield_now().await;
            continue;
        };
        if !context.is_own(source) {
            continue;
        }
        match context.domain.handle(&buffer[..length]) {
            Request::Ignore => {}
            Request::Answer(bytes) => {
                let _ = socket.send_to(&bytes, source).await;
            }
            Request::LookUp(question) => {
                let Ok(permit) = Arc::clone(&context.questions).try_acquire_owned() else { continue };
                let (socket, context) = (Arc::clone(&socket), Arc::clone(&context));
                answers.spawn(async move {
                    let found = context.look_up(&question, permit).await;
                    let _ = socket.send_to(&question.answer(&found, true), source).await;
                });
            }
        }
    }
}

async fn serve_streams(listener: TcpListener, context: Arc<Context>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, source)) if context.is_own(source) => {
                let context = Arc::clone(&context);
                connections.spawn(async move {
                    // A broken connection concerns only the client.
                    let _ = serve_stream(stream, &context).await;
                    drop(slot);
                });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One question after the other, each behind its length (RFC 1035 §4.2.2).
async fn serve_stream(mut stream: TcpStream, context: &Context) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > MAX_QUESTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            buffer.resize(length, 0);
            stream.read_exact(&mut buffer).await
        };
        tokio::time::timeout(IDLE_TIME, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let answer = match context.domain.handle(&buffer) {
            Request::Ignore => return Ok(()),
            Request::Answer(bytes) => bytes,
            Request::LookUp(question) => {
                let Ok(permit) = Arc::clone(&context.questions).acquire_owned().await else { return Ok(()) };
                question.answer(&context.look_up(&question, permit).await, false)
            }
        };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}

impl Context {
    fn is_own(&self, source: SocketAddr) -> bool {
        self.own.contains(&source.ip())
    }

    async fn look_up(&self, question: &Question, _permit: OwnedSemaphorePermit) -> Found {
        let (reply, answer) = oneshot::channel();
        let query = NameQuery { name: question.name().to_owned(), reply };
        let look_up = async {
            self.queries.send(query).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(LOOK_UP_TIME, look_up).await.ok().flatten().unwrap_or(Found::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    async fn start() -> (NameServer, SocketAddr, mpsc::Receiver<NameQuery>) {
        let (sender, queries) = mpsc::channel(8);
        let own = IpAddr::from([127, 0, 0, 1]);
        // A port that is free for both protocols has to be searched for.
        for _ in 0..50 {
            let port = UdpSocket::bind((own, 0)).await.unwrap().local_addr().unwrap().port();
            let domain = Domain::parse("prod.internal").unwrap();
            if let Ok(server) = NameServer::start(domain, vec![own], port, sender.clone()).await {
                return (server, SocketAddr::new(own, port), queries);
            }
        }
        panic!("no free port");
    }

    fn answer_all(mut queries: mpsc::Receiver<NameQuery>) {
        tokio::spawn(async move {
            while let Some(query) = queries.recv().await {
                let found = match query.name.as_str() {
                    "db-1" => Found::Addresses(vec![[10, 86, 0, 9].into()]),
                    _ => Found::Nobody,
                };
                let _ = query.reply.send(found);
            }
        });
    }

    #[tokio::test]
    async fn names_are_answered_over_udp_and_tcp() {
        let (_server, place, queries) = start().await;
        answer_all(queries);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 512];
        for (name, wanted) in [
            ("db-1.prod.internal.", ResponseCode::NoError),
            ("db-2.prod.internal.", ResponseCode::NXDomain),
            ("example.com.", ResponseCode::Refused),
        ] {
            socket.send_to(&query(name), place).await.unwrap();
            let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(answer.metadata.response_code, wanted, "{name}");
        }
        let mut stream = TcpStream::connect(place).await.unwrap();
        for _ in 0..2 {
            let question = query("db-1.prod.internal.");
            stream.write_u16(question.len() as u16).await.unwrap();
            stream.write_all(&question).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
        }
    }

    #[tokio::test]
    async fn other_machines_get_no_answer() {
        let (_server, place, queries) = start().await;
        answer_all(queries);
        // 127.0.0.2 stands for somebody else: it is not one of the addresses that the server was given.
        let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        stranger.send_to(&query("db-1.prod.internal."), place).await.unwrap();
        let own = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        own.send_to(&query("db-1.prod.internal."), place).await.unwrap();
        let mut buffer = [0; 512];
        own.recv_from(&mut buffer).await.unwrap();
        // The stranger asked first, and both go through one loop: an answer would have been sent by now.
        assert!(stranger.try_recv_from(&mut buffer).is_err());
    }
}
