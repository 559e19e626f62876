//! A hub on the loopback: redirects, ETags, ranges, and whatever goes wrong on a network.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the file.
    Cut(usize),
    /// A byte of the file is another.
    Flip,
    /// A status, and headers as they are sent.
    Status(u16, &'static str),
    /// Nothing is sent for so long; then the connection ends.
    Silent(u64),
    /// So many bytes of the file come, then nothing for so many milliseconds, then the rest.
    Stall(usize, u64),
    /// A range is asked for and all is sent.
    All,
    /// Another ETag, another commit.
    Named(&'static str, &'static str),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    pub host: String,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    port: u16,
    files: BTreeMap<String, Vec<u8>>,
    /// Large files lie elsewhere.
    large: usize,
    elsewhere: Mutex<String>,
    /// By method and file, what goes wrong with the next requests.
    faults: Mutex<Vec<(&'static str, &'static str, Fault)>>,
    log: Mutex<Vec<Request>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the hub calls a file: the SHA-256 of a large one, Git's SHA-1 of a small one.
pub fn etag(bytes: &[u8], is_large: bool) -> String {
    if is_large {
        return hex(digest(&SHA256, bytes).as_ref());
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

impl Server {
    pub fn start(files: BTreeMap<String, Vec<u8>>, large: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        // Another name of the same machine: another host.
        let elsewhere = Mutex::new(format!("http://localhost:{port}"));
        let (faults, log) = (Mutex::default(), Mutex::default());
        let state = State { port, files, large, elsewhere, faults, log };
        let state = Arc::new(state);
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that goes away is part of the tests.
                thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Server { endpoint: format!("http://127.0.0.1:{port}"), state }
    }

    /// Where what is not here is sent to, rather than to this machine under another name.
    pub fn sends_to(&self, place: &str) {
        *self.state.elsewhere.lock().expect("free") = place.to_string();
    }

    /// What is to go wrong, in order, each once.
    pub fn faults(&self, faults: &[(&'static str, &'static str, Fault)]) {
        self.state.faults.lock().expect("free").extend(faults.iter().cloned());
    }

    pub fn forget(&self) {
        self.state.faults.lock().expect("free").clear();
        self.state.log.lock().expect("free").clear();
    }

    pub fn log(&self) -> Vec<Request> {
        self.state.log.lock().expect("free").clone()
    }

    /// The requests for a file's bytes.
    pub fn gets(&self, file: &str) -> Vec<Request> {
        let is_it = |request: &Request| request.method == "GET" && request.path.ends_with(file);
        self.log().into_iter().filter(is_it).collect()
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_string());
        }
        let header = |name: &str| {
            let found = lines.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_string())
            });
            found.filter(|value| !value.is_empty())
        };
        let mut words = lines.first().map(|line| line.split(' ')).into_iter().flatten();
        let (method, path) =
            (words.next().unwrap_or_default().to_string(), words.next().unwrap_or_default().to_string());
        let (range, token) = (header("range"), header("authorization"));
        let host = header("host").unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default().to_string();
        self.log.lock().expect("free").push(Request {
            method: method.clone(),
            path: path.clone(),
            range: range.clone(),
            token,
            host,
        });
        let is_elsewhere = path.starts_with("/elsewhere/");
        let bytes = self.files.get(&file);
        let is_large = bytes.is_some_and(|bytes| bytes.len() >= self.large);
        // A fault of a download is one of where the bytes come from.
        let counts = method == "HEAD" || is_elsewhere || !is_large;
        let fault = {
            let mut faults = self.faults.lock().expect("free");
            let is_it = |(verb, name, _): &(&str, &str, Fault)| *verb == method && *name == file;
            let at = faults.iter().position(is_it).filter(|_| counts);
            at.map(|at| faults.remove(at).2)
        };
        let mut send = |status: u16, headers: &str, body: &[u8]| -> std::io::Result<()> {
            let length = if headers.to_lowercase().contains("content-length") {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            let head = format!("HTTP/1.1 {status} X\r\n{headers}{length}Connection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(if method == "HEAD" { &[] } else { body })?;
            stream.flush()
        };
        match fault {
            Some(Fault::Status(status, headers)) => return send(status, headers, b""),
            Some(Fault::Silent(millis)) => {
                thread::sleep(Duration::from_millis(millis));
                return Ok(());
            }
            _ => {}
        }
        let Some(bytes) = bytes else {
            return send(404, "X-Error-Code: EntryNotFound\r\n", b"");
        };
        let (name, commit) = match fault {
            Some(Fault::Named(name, commit)) => (name.to_string(), commit),
            _ => (etag(bytes, is_large), COMMIT),
        };
        if !is_elsewhere {
            // A repository that was renamed sends on within the hub.
            if let Some(rest) = path.strip_prefix("/old/") {
                return send(307, &format!("Location: /new/{rest}\r\n"), b"");
            }
            // As a mirror does it.
            if let Some(rest) = path.strip_prefix("/absolute/") {
                let port = self.port;
                return send(308, &format!("Location: http://127.0.0.1:{port}/new/{rest}\r\n"), b"");
            }
            let elsewhere = self.elsewhere.lock().expect("free").clone();
            if let Some(rest) = path.strip_prefix("/away/") {
                return send(307, &format!("Location: {elsewhere}/new/{rest}\r\n"), b"");
            }
            let known = format!("X-Repo-Commit: {commit}\r\n");
            if is_large {
                let place = format!("{elsewhere}/elsewhere/{file}");
                let headers = format!(
                    "{known}ETag: \"other\"\r\nX-Linked-Etag: \"{name}\"\r\nX-Linked-Size: {}\r\nLocation: {place}\r\n",
                    bytes.len()
                );
                return send(302, &headers, b"");
            }
            if method == "HEAD" {
                let length = bytes.len();
                return send(200, &format!("{known}ETag: \"{name}\"\r\nContent-Length: {length}\r\n"), b"");
            }
        }
        let mut body = bytes.clone();
        if matches!(fault, Some(Fault::Flip)) {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        let from =
            range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.filter(|_| !matches!(fault, Some(Fault::All))).unwrap_or(0);
        if from > body.len() {
            return send(416, "", b"");
        }
        let part = &body[from..];
        let headers = match from {
            0 => String::new(),
            _ => format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len()),
        };
        let status = if from == 0 { 200 } else { 206 };
        let headers = format!("{headers}Content-Length: {}\r\n", part.len());
        match fault {
            Some(Fault::Cut(count)) => send(status, &headers, &part[..count.min(part.len())]),
            Some(Fault::Stall(count, millis)) => {
                send(status, &headers, &part[..count.min(part.len())])?;
                thread::sleep(Duration::from_millis(millis));
                stream.write_all(&part[count.min(part.len())..])
            }
            _ => send(status, &headers, part),
        }
    }
}
