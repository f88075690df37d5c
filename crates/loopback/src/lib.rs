//! An HTTP/1.1 server on loopback for tests of clients: a function answers each request, and may also stall, cut the
//! connection or send what no server should. Only tests depend on it.
//!
//! ```
//! let server = loopback::Server::start(|request, _| loopback::Answer::text(200, &request.path));
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A whole response; `Content-Length` is added unless it is among the headers.
    Reply {
        /// Status code.
        status: u16,
        /// Other headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// The same, but the connection is cut after this many bytes of the body.
    Cut {
        /// Status code.
        status: u16,
        /// Other headers.
        headers: Vec<(String, String)>,
        /// The body that is announced.
        body: Vec<u8>,
        /// Bytes of it that are sent.
        sent: usize,
    },
    /// Nothing is said for that long, then the connection is closed.
    Stall(Duration),
    /// The connection is closed at once.
    Close,
}

impl Answer {
    /// A response of that content type.
    pub fn body(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Answer::Reply { status, headers, body: body.into() }
    }

    /// Plain text.
    pub fn text(status: u16, body: &str) -> Answer {
        Answer::body(status, "text/plain", body)
    }

    /// JSON.
    pub fn json(status: u16, body: impl ToString) -> Answer {
        Answer::body(status, "application/json", body.to_string())
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Answer {
        if let Answer::Reply { headers, .. } | Answer::Cut { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Cut after this many bytes of the body.
    pub fn cut(self, sent: usize) -> Answer {
        match self {
            Answer::Reply { status, headers, body } => Answer::Cut { status, headers, body, sent },
            other => other,
        }
    }
}

/// A running server; it stops when it is dropped.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port. `answer` is given each request and how many came before it.
    ///
    /// # Panics
    /// Where loopback has no free port, which ends the test.
    pub fn start(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let stopped = Arc::new(AtomicBool::new(false));
        let (seen, stop, answer) = (requests.clone(), stopped.clone(), Arc::new(answer));
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, stop, answer) = (seen.clone(), stop.clone(), answer.clone());
                thread::spawn(move || {
                    // A client that goes away in the middle is part of what is tested.
                    let _ = serve(&stream, &seen, &stop, &*answer);
                });
            }
        };
        Server { address, requests, stopped, listener: Some(thread::spawn(accept)) }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is to stop.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Answers one request; every connection carries one.
fn serve(
    stream: &TcpStream,
    seen: &Mutex<Vec<Request>>,
    stopped: &AtomicBool,
    answer: &dyn Fn(&Request, usize) -> Answer,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let Some(request) = read(stream)? else { return Ok(()) };
    let before = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(request.clone());
        seen.len() - 1
    };
    match answer(&request, before) {
        Answer::Reply { status, headers, body } => {
            let bytes = if request.method == "HEAD" { &[][..] } else { &body };
            write(stream, status, &headers, body.len(), bytes)
        }
        Answer::Cut { status, headers, body, sent } => {
            write(stream, status, &headers, body.len(), &body[..sent.min(body.len())])
        }
        Answer::Stall(time) => {
            let slice = Duration::from_millis(20);
            for _ in 0..time.as_millis() / slice.as_millis() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                thread::sleep(slice);
            }
            Ok(())
        }
        Answer::Close => Ok(()),
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

fn write(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(String, String)],
    length: usize,
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| name == "content-length") {
        head += &format!("content-length: {length}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn a_request_comes_whole_and_an_answer_may_be_cut() {
        let server = Server::start(|request, before| {
            let answer = Answer::text(200, &request.text()).with("etag", "\"x\"");
            if before == 0 { answer } else { answer.cut(2) }
        });
        let request = "POST /a?b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        let whole = ask(&server, request);
        assert!(whole.contains("etag: \"x\"") && whole.ends_with("\r\n\r\nhello"), "{whole}");
        let cut = ask(&server, request);
        assert!(cut.contains("content-length: 5") && cut.ends_with("\r\n\r\nhe"), "{cut}");
        let seen = server.requests();
        assert_eq!((seen[0].path.as_str(), seen[0].text().as_str()), ("/a?b", "hello"));
        assert_eq!(seen.len(), 2);
    }
}
