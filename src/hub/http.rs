//! Questions to a hub. Each runs on a thread of its own, so that a silent network can be left at any time.

use std::fmt;
use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::Uri;

use crate::error::{Error, ErrorKind, Result};
use crate::hub::settings::Settings;
use crate::progress;

/// What keeps a file from being had.
pub(crate) enum FetchError {
    /// The network or the hub is not there: what is in the cache may do.
    Unreachable(String),
    Failed(Error),
}

impl From<Error> for FetchError {
    fn from(error: Error) -> FetchError {
        FetchError::Failed(error)
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Unreachable(why) => f.write_str(why),
            FetchError::Failed(error) => error.fmt(f),
        }
    }
}

/// How a hub answered: what comes before the bytes.
pub(crate) struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

enum Event {
    Response(Response),
    Bytes(Vec<u8>),
    End,
}

type Events = Receiver<std::result::Result<Event, String>>;

pub(crate) struct Http {
    agent: Agent,
    token: Option<String>,
    answer: Duration,
    data: Duration,
}

/// How often a hub that is busy is asked.
const ATTEMPTS: u32 = 4;
/// How often a question is sent on.
const REDIRECTS: usize = 10;
/// The longest that a hub is waited for between two attempts.
const LONGEST_PAUSE: u64 = 60;

impl Http {
    pub(crate) fn new(settings: &Settings) -> Result<Http> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("headlight/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(settings.answer))
            // A thread that nobody listens to any more ends with it.
            .timeout_per_read(Some(settings.data.max(settings.answer) * 2))
            // Where a question is sent on to, and with what, is decided here.
            .max_redirects(0);
        Ok(Http {
            agent: config.build().into(),
            token: settings.token.clone(),
            answer: settings.answer,
            data: settings.data,
        })
    }

    /// Asks for the headers alone. A redirect within the hub, as of a repository that was renamed, is followed; one to
    /// where the bytes lie is not: what is asked for stands in its headers.
    pub(crate) fn head(&self, url: &str) -> std::result::Result<Response, FetchError> {
        let mut url = url.to_string();
        for _ in 0..REDIRECTS {
            let answer = self.with_retries(|| {
                let events = self.ask(Request::Head, &url, 0, self.token.as_deref());
                self.answer(&events, &url)
            })?;
            match sent_on(&answer, &url) {
                Some(next) if origin(&next) == origin(&url) => url = next,
                _ => return Ok(answer),
            }
        }
        Err(FetchError::Failed(in_circles(&url)))
    }

    /// Hands over a file's bytes from `from` on, each time with the place in the file where they belong. Redirects are
    /// followed anywhere; the token goes no further than the hub, which is a scheme, a host and a port.
    pub(crate) fn get(
        &self,
        url: &str,
        from: u64,
        repo: &str,
        take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> std::result::Result<(), FetchError> {
        let (mut place, mut token) = (url.to_string(), self.token.as_deref());
        let mut redirects = 0;
        let (answer, events) = loop {
            let mut events = None;
            let answer = self.with_retries(|| {
                let asked = events.insert(self.ask(Request::Get, &place, from, token));
                self.answer(asked, &place)
            })?;
            match sent_on(&answer, &place) {
                Some(_) if redirects == REDIRECTS => return Err(FetchError::Failed(in_circles(url))),
                Some(next) => {
                    token = token.filter(|_| origin(&next) == origin(&place));
                    (place, redirects) = (next, redirects + 1);
                }
                None => break (answer, events),
            }
        };
        let begins = |range: &str| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok();
        let mut at = match answer.status {
            200 => 0,
            206 => match answer.header("content-range").and_then(begins) {
                Some(at) if at == from => at,
                _ => return Err(FetchError::Unreachable("another part was sent than was asked for".into())),
            },
            // What is there is not a part of this file.
            416 => {
                take(0, &[])?;
                return Err(FetchError::Unreachable("it begins anew".into()));
            }
            status => return Err(FetchError::Failed(status_error(status, &answer, url, repo, ""))),
        };
        let Some(events) = events else { return Ok(()) };
        if at != from {
            take(at, &[])?;
        }
        loop {
            match wait(&events, self.data, url)? {
                Event::Bytes(bytes) => {
                    take(at, &bytes)?;
                    at += bytes.len() as u64;
                }
                Event::Response(_) => {}
                Event::End => return Ok(()),
            }
        }
    }

    /// Asks again where a hub says that it is busy, after the time that it names.
    fn with_retries(
        &self,
        mut ask: impl FnMut() -> std::result::Result<Response, FetchError>,
    ) -> std::result::Result<Response, FetchError> {
        for attempt in 0.. {
            let answer = ask()?;
            if attempt + 1 == ATTEMPTS || (answer.status != 429 && answer.status < 500) {
                return Ok(answer);
            }
            let named = answer.header("retry-after").and_then(|after| after.parse::<u64>().ok());
            match named {
                Some(seconds) if seconds > LONGEST_PAUSE => return Ok(answer),
                Some(seconds) => pause(Duration::from_secs(seconds), "waiting for the hub")?,
                None => pause(Duration::from_millis(500 << attempt), "waiting for the hub")?,
            }
        }
        Err(FetchError::Unreachable("it was not asked".into()))
    }

    fn ask(&self, question: Request, url: &str, from: u64, token: Option<&str>) -> Events {
        let (events, heard) = sync_channel(8);
        let (agent, url, token) = (self.agent.clone(), url.to_string(), token.map(str::to_string));
        let failed = events.clone();
        let asking = thread::Builder::new().name("hub".into()).spawn(move || {
            if let Err(error) = run(&agent, question, &url, from, token.as_deref(), &events) {
                // Nobody may be listening any more.
                let _ = events.send(Err(error));
            }
        });
        if let Err(error) = asking {
            let _ = failed.send(Err(error.to_string()));
        }
        heard
    }

    fn answer(&self, events: &Events, url: &str) -> std::result::Result<Response, FetchError> {
        match wait(events, self.answer, url)? {
            Event::Response(answer) => Ok(answer),
            _ => Err(FetchError::Unreachable(format!("{url} gave no answer"))),
        }
    }
}

/// Where an answer to a question at `url` sends on to.
fn sent_on(answer: &Response, url: &str) -> Option<String> {
    let place = answer.header("location").filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308))?;
    let (scheme, rest) = url.split_once("://")?;
    let host = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let path = url.split('?').next().unwrap_or(url);
    // A colon may also stand in a path.
    let has_scheme = place.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
    Some(match place {
        _ if has_scheme => place.to_string(),
        _ if place.starts_with("//") => format!("{scheme}:{place}"),
        _ if place.starts_with('/') => format!("{scheme}://{host}{place}"),
        _ if place.starts_with('?') => format!("{path}{place}"),
        _ => format!("{}/{place}", path.rsplit_once('/').filter(|_| rest.contains('/'))?.0),
    })
}

/// What must be the same of two addresses for a token to go to both: scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn in_circles(url: &str) -> Error {
    let what = format!("{url} sends from one place to the next");
    Error::new(ErrorKind::Hub, what).help("HF_ENDPOINT names the hub: is it one?")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Head,
    Get,
}

fn run(
    agent: &Agent,
    question: Request,
    url: &str,
    from: u64,
    token: Option<&str>,
    events: &SyncSender<std::result::Result<Event, String>>,
) -> std::result::Result<(), String> {
    let mut request = match question {
        Request::Head => agent.head(url),
        Request::Get => agent.get(url),
    };
    // Sizes and ranges are those of the file itself.
    request = request.header("accept-encoding", "identity");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if from > 0 {
        request = request.header("range", format!("bytes={from}-"));
    }
    let response = request.call().map_err(|error| error.to_string())?;
    let named = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
        Some((name.as_str().to_string(), value.to_str().ok()?.to_string()))
    };
    let headers = response.headers().iter().filter_map(named).collect();
    let answer = Response { status: response.status().as_u16(), headers };
    let is_ok = response.status().is_success();
    if events.send(Ok(Event::Response(answer))).is_err() || question == Request::Head || !is_ok {
        return Ok(());
    }
    let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
    let mut chunk = vec![0; 1 << 17];
    loop {
        let len = body.read(&mut chunk).map_err(|error| error.to_string())?;
        let event = if len == 0 { Event::End } else { Event::Bytes(chunk[..len].to_vec()) };
        if events.send(Ok(event)).is_err() || len == 0 {
            return Ok(());
        }
    }
}

/// Waits for what comes next, asking now and then whether to stop.
fn wait(events: &Events, patience: Duration, url: &str) -> std::result::Result<Event, FetchError> {
    let begun = Instant::now();
    loop {
        progress::check("asking the hub")?;
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok(event)) => return Ok(event),
            Ok(Err(why)) => return Err(FetchError::Unreachable(format!("{url}: {why}"))),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(FetchError::Unreachable(format!("{url} broke off")));
            }
            Err(RecvTimeoutError::Timeout) if begun.elapsed() > patience => {
                let seconds = patience.as_secs();
                return Err(FetchError::Unreachable(format!("{url} was silent for {seconds} s")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Waits, and can be stopped.
pub(crate) fn pause(how_long: Duration, what: &str) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < how_long {
        progress::check(what)?;
        thread::sleep(Duration::from_millis(50).min(how_long));
    }
    Ok(())
}

/// What a status that is no success means.
pub(crate) fn status_error(status: u16, answer: &Response, url: &str, repo: &str, revision: &str) -> Error {
    let said: String = answer.header("x-error-message").unwrap_or_default().chars().take(200).collect();
    let code = answer.header("x-error-code").unwrap_or_default();
    let (what, help) = match (status, code) {
        (404, "RevisionNotFound") => (
            format!("the repository `{repo}` has no revision `{revision}`"),
            "a revision is a branch, a tag or a commit".to_string(),
        ),
        (401 | 403, "GatedRepo") => (
            format!("the repository `{repo}` is given only to those who accept its terms"),
            "accept them on its page, and set HF_TOKEN to a token of yours, or log in with `hf auth login`".into(),
        ),
        (401 | 403 | 404, _) => (
            format!("the hub has no repository `{repo}`, or does not show it ({status})"),
            "check its name; for a private one set HF_TOKEN to a token of yours, or log in with `hf auth login`; a folder opens by its path, `known_models()` and, at the command line, `headlight models` list the names that are known".into(),
        ),
        (429, _) => {
            let after = answer.header("retry-after").map(|after| format!(" for {after} s")).unwrap_or_default();
            (format!("the hub asks to wait{after} (429)"), "wait that long; who sends a token (HF_TOKEN) may ask more often".into())
        }
        (500.., _) => (format!("the hub has a trouble of its own ({status})"), "try again later".into()),
        _ => (format!("the hub refuses ({status})"), "HF_ENDPOINT names the hub: is it one?".into()),
    };
    let colon = if said.is_empty() { "" } else { ", saying: " };
    Error::new(ErrorKind::Hub, format!("{what}{colon}{said}; asked was {url}")).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where an answer sends on to, and whether a token goes along.
    #[test]
    fn redirects() {
        let at = "https://hub.example/a/b?c";
        for (place, next, is_the_hub) in [
            ("/x", "https://hub.example/x", true),
            ("x/y", "https://hub.example/a/x/y", true),
            ("?x", "https://hub.example/a/b?x", true),
            ("https://hub.example/x", "https://hub.example/x", true),
            ("https://HUB.example:443/x", "https://HUB.example:443/x", true),
            ("//hub.example/x", "https://hub.example/x", true),
            ("https://hub.example?x", "https://hub.example?x", true),
            ("//other.example/x", "https://other.example/x", false),
            ("http://hub.example/x", "http://hub.example/x", false),
            ("http://hub.example:443/x", "http://hub.example:443/x", false),
            ("https://hub.example:8443/x", "https://hub.example:8443/x", false),
            ("https://other.example/x", "https://other.example/x", false),
            ("https://hub.example.other/x", "https://hub.example.other/x", false),
            ("https://hub.example@other.example/x", "https://hub.example@other.example/x", false),
            ("https://other.example\\@hub.example/x", "https://other.example\\@hub.example/x", false),
            ("file:///etc/passwd", "file:///etc/passwd", false),
        ] {
            let headers = vec![("location".to_string(), place.to_string())];
            let found = sent_on(&Response { status: 302, headers }, at).expect("a place");
            assert_eq!(found, next, "{place}");
            assert_eq!(origin(&found) == origin(at), is_the_hub, "{place}");
        }
        let headers = vec![("location".to_string(), "/x".to_string())];
        assert_eq!(sent_on(&Response { status: 200, headers }, at), None);
    }
}
