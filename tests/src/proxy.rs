//! A proxy between a process and Redis that stops at a chosen step of a deployment, so that the process can be killed
//! right there.
//!
//! A step is a request that concerns deployments and changes something, or an answer to one that is news. The looks that
//! find what was there before are none: a worker takes twenty of them a second. Requests of a connection go one after the
//! other; when a step is stopped at, all connections stand still.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// How the names of keys begin that concern deployments.
const KEYS: [&str; 2] = ["wasmill:deploy", "wasmill:component"];
/// Commands that only look.
const LOOKS: [&str; 4] = ["GET", "HGET", "HGETALL", "EXISTS"];

/// Where in a step the proxy stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Redis has not seen the request. Only requests that change something count.
    Before,
    /// Redis has done it, and the process has no answer.
    After,
}

/// The proxy. Closes its connections on drop.
pub struct Proxy {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Which step to stop at, counted from one, and where in it.
    stop: Option<(usize, Moment)>,
    /// The steps so far.
    steps: Vec<String>,
    /// Everything stands still.
    is_stopped: bool,
    /// The last answer to each look.
    answers: HashMap<Vec<u8>, Vec<u8>>,
    /// Both sides of all connections.
    sockets: Vec<TcpStream>,
    is_closed: bool,
}

impl Proxy {
    /// Starts one to the Redis on this port.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(redis: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let accepting = shared.clone();
        let acceptor = std::thread::spawn(move || accept(&listener, redis, &accepting));
        Proxy { port, shared, acceptor: Some(acceptor) }
    }

    /// Where the process connects to.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Stops at this step, counted from one and from now on.
    pub fn stop_at(&self, step: usize, moment: Moment) {
        let mut shared = lock(&self.shared);
        shared.steps.clear();
        shared.stop = Some((step, moment));
    }

    /// The step that it has stopped at.
    pub fn stopped(&self) -> Option<String> {
        let shared = lock(&self.shared);
        shared.steps.last().filter(|_| shared.is_stopped).cloned()
    }

    /// The steps since [`Proxy::stop_at`].
    pub fn steps(&self) -> Vec<String> {
        lock(&self.shared).steps.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut shared = lock(&self.shared);
            shared.is_closed = true;
            for socket in &shared.sockets {
                // The peer may have gone.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("no thread of the proxy panics with the lock")
}

fn accept(listener: &TcpListener, redis: u16, shared: &Arc<Mutex<Shared>>) {
    let mut connections = Vec::new();
    for client in listener.incoming() {
        if lock(shared).is_closed {
            break;
        }
        let Ok(client) = client else { continue };
        // A Redis that is gone: the client sees its connection closed, as it would without the proxy.
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)) else { continue };
        let mut state = lock(shared);
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("a connected socket takes the option");
            state.sockets.push(socket.try_clone().expect("a second handle"));
        }
        drop(state);
        let shared = shared.clone();
        // An error is the end of the connection, on whichever side.
        connections.push(std::thread::spawn(move || drop(carry(&client, &server, &shared))));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// Carries requests and answers until one side closes, or a step is stopped at: then the connection stays open.
fn carry(client: &TcpStream, server: &TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let (mut from_client, mut from_server) = (BufReader::new(client), BufReader::new(server));
    let (mut to_client, mut to_server) = (client, server);
    let carried = (|| {
        loop {
            let request = read_value(&mut from_client)?;
            let step = step(&request);
            if !lock(shared).lets_ask(step.as_ref()) {
                return Ok(());
            }
            to_server.write_all(&request)?;
            let answer = read_value(&mut from_server)?;
            if !lock(shared).lets_know(step.as_ref(), &request, &answer) {
                return Ok(());
            }
            to_client.write_all(&answer)?;
        }
    })();
    if carried.is_err() {
        // The other side is to see that, too.
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }
    carried
}

/// What a request does for a deployment.
struct Step {
    name: String,
    changes: bool,
}

/// `None` if it has nothing to do with deployments.
fn step(request: &[u8]) -> Option<Step> {
    let words = words(request);
    let key = words.iter().skip(1).find(|word| KEYS.iter().any(|key| word.starts_with(key.as_bytes())))?;
    let command = String::from_utf8_lossy(words[0]).to_ascii_uppercase();
    // One component is like another.
    let key: String = String::from_utf8_lossy(key).split_inclusive(':').take(2).collect();
    Some(Step { changes: !LOOKS.contains(&command.as_str()), name: format!("{command} {key}") })
}

impl Shared {
    /// Whether the request may reach Redis.
    fn lets_ask(&mut self, step: Option<&Step>) -> bool {
        if let Some(step) = step.filter(|step| step.changes && !self.is_stopped) {
            self.count(step, Moment::Before);
        }
        !self.is_stopped
    }

    /// Whether the answer may reach the process.
    fn lets_know(&mut self, step: Option<&Step>, request: &[u8], answer: &[u8]) -> bool {
        if let Some(step) = step.filter(|_| !self.is_stopped) {
            let is_news =
                step.changes || self.answers.insert(request.to_vec(), answer.to_vec()).as_deref() != Some(answer);
            if is_news {
                self.count(step, Moment::After);
            }
        }
        !self.is_stopped
    }

    /// Counts a step if its moment is the one that is asked for.
    fn count(&mut self, step: &Step, moment: Moment) {
        let Some((wanted, _)) = self.stop.filter(|(_, at)| *at == moment) else { return };
        self.steps.push(step.name.clone());
        self.is_stopped = self.steps.len() == wanted;
    }
}

/// One whole value of the Redis protocol (version 2), as its bytes.
fn read_value(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let (mut bytes, mut values) = (Vec::new(), 1usize);
    while values > 0 {
        values -= 1;
        let start = bytes.len();
        from.read_until(b'\n', &mut bytes)?;
        let line = bytes[start..].strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let text = std::str::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
        // Negative: nil.
        let count = || {
            text[1..].parse::<i64>().map(|count| usize::try_from(count).ok()).map_err(|_| io::ErrorKind::InvalidData)
        };
        match text.as_bytes().first() {
            Some(b'+' | b'-' | b':') => {}
            Some(b'*') => values += count()?.unwrap_or(0),
            Some(b'$') => {
                if let Some(length) = count()? {
                    let end = bytes.len() + length + 2;
                    from.by_ref().take(length as u64 + 2).read_to_end(&mut bytes)?;
                    if bytes.len() != end {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(bytes)
}

/// The words of a request.
fn words(request: &[u8]) -> Vec<&[u8]> {
    let line_end = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == b"\r\n");
    let (mut words, mut rest) = (Vec::new(), request);
    while let Some(end) = line_end(rest) {
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        rest = after;
        let length = line.strip_prefix(b"$").and_then(|text| std::str::from_utf8(text).ok()?.parse::<usize>().ok());
        if let Some(word) = length.and_then(|length| rest.get(..length)) {
            words.push(word);
            rest = &rest[word.len() + 2..];
        }
    }
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_whole_and_steps_are_told_from_the_rest() {
        let set: &[u8] = b"*3\r\n$3\r\nSET\r\n$20\r\nwasmill:component:ab\r\n$4\r\n\r\n\r\n\r\n";
        let mut from = io::Cursor::new([set, b"*2\r\n:1\r\n$-1\r\n", b"+OK\r\n", b"$5\r\nab"].concat());
        let read = [read_value(&mut from).unwrap(), read_value(&mut from).unwrap(), read_value(&mut from).unwrap()];
        assert_eq!(read, [set.to_vec(), b"*2\r\n:1\r\n$-1\r\n".to_vec(), b"+OK\r\n".to_vec()]);
        assert_eq!(read_value(&mut from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(words(set), [&b"SET"[..], b"wasmill:component:ab", b"\r\n\r\n"]);
        let found = step(set).unwrap();
        assert_eq!((found.name.as_str(), found.changes), ("SET wasmill:component:", true));
        assert!(step(b"*2\r\n$7\r\nHGETALL\r\n$19\r\nwasmill:deployments\r\n").is_some_and(|step| !step.changes));
        assert!(step(b"*2\r\n$3\r\nGET\r\n$14\r\nwasmill:paused\r\n").is_none());
    }
}
