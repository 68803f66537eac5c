//! One small page over HTTP/1.1; every connection carries one request.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::render;
use crate::control::{Answer, Call, Caller, Request};

/// Bytes of a request at most, headers included.
const MAX_REQUEST: usize = 8192;
const MAX_HEADERS: usize = 64;
const MAX_CONNECTIONS: usize = 8;
/// For the whole of one connection.
const TIME: Duration = Duration::from_secs(10);

/// Serves metrics on `address`; the report is asked of the daemon for each page.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    calls: mpsc::Sender<Call>,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::spawn(async move {
                        // A broken or slow connection concerns only the client.
                        let _ = tokio::time::timeout(TIME, respond(stream, calls)).await;
                        drop(slot);
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }))
}

async fn respond(mut stream: TcpStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let mut buffer = vec![0; MAX_REQUEST];
    let mut length = 0;
    let status = loop {
        let read = stream.read(&mut buffer[length..]).await?;
        if read == 0 {
            return Ok(());
        }
        length += read;
        match judge(&buffer[..length]) {
            Some(status) => break status,
            None if length == buffer.len() => break Err("431 Request Header Fields Too Large"),
            None => {}
        }
    };
    let (status, body) = match status {
        Err(status) => (status, format!("{status}\n")),
        Ok(()) => match report(&calls).await {
            Some(page) => ("200 OK", page),
            None => ("503 Service Unavailable", "the daemon is stopping\n".to_owned()),
        },
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn report(calls: &mpsc::Sender<Call>) -> Option<String> {
    let (reply, answer) = oneshot::channel();
    let caller = Caller { user: 0 };
    calls.send(Call { request: Request::Status, caller, reply }).await.ok()?;
    match answer.await.ok()? {
        Answer::Status { report } => Some(render(&report)),
        _ => None,
    }
}

/// Whether a request of HTTP is one for the page, or what is answered instead. `None`: it is not complete yet.
pub fn judge(bytes: &[u8]) -> Option<Result<(), &'static str>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Err("400 Bad Request")),
    }
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().and_then(|header| std::str::from_utf8(header.value).ok());
    if !host.is_some_and(host_is_literal) || hosts.next().is_some() {
        return Some(Err("421 Misdirected Request"));
    }
    if request.method != Some("GET") {
        return Some(Err("405 Method Not Allowed"));
    }
    if request.path != Some("/metrics") {
        return Some(Err("404 Not Found"));
    }
    Some(Ok(()))
}

/// Whether a `Host` header names an address itself, or `localhost`, with or without a port.
pub fn host_is_literal(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bracketed.is_some_and(|name| name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_literal_hosts_are_answered() {
        for host in
            ["127.0.0.1:9662", "127.0.0.1", "[::1]:9662", "[::1]", "localhost", "LocalHost:80", "10.66.0.1:1"]
        {
            assert!(host_is_literal(host), "{host}");
        }
        for host in [
            "attacker.example",
            "attacker.example:9662",
            "127.0.0.1.attacker.example",
            "",
            "[",
            "localhost.x",
        ] {
            assert!(!host_is_literal(host), "{host}");
        }
    }

    #[test]
    fn requests_are_judged() {
        let judged = |text: &str| judge(text.as_bytes());
        assert_eq!(judged("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"), Some(Ok(())));
        assert_eq!(judged("GET /metrics HTTP/1.1\r\nHost: localhost\r\n"), None);
        assert_eq!(judged("GET /metrics HTTP/1.1\r\n\r\n"), Some(Err("421 Misdirected Request")));
        assert_eq!(
            judged("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            Some(Err("421 Misdirected Request"))
        );
        assert_eq!(
            judged("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Some(Err("405 Method Not Allowed"))
        );
        assert_eq!(judged("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Some(Err("404 Not Found")));
        assert_eq!(judged("\u{1}\r\n\r\n"), Some(Err("400 Bad Request")));
    }
}
