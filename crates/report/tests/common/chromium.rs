//! A headless Chromium, spoken to over a pipe in its DevTools protocol (JSON, each message ended by a
//! NUL; <https://chromedevtools.github.io/devtools-protocol/>). Every process is one of ours and ends
//! with its test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);

pub struct Browser {
    process: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
    session: Option<String>,
    next: u64,
    /// Everything that the page did and nobody has looked at yet.
    pub events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, and a line that says so, where there is no Chromium.
    pub fn start() -> Option<Browser> {
        let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
        let there = |name: &&str| {
            let version = Command::new(name).arg("--version").stderr(Stdio::null()).output();
            version.is_ok_and(|output| output.status.success())
        };
        let Some(name) = names.into_iter().find(there) else {
            println!("skipped: no Chromium on the path ({})", names.join(", "));
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // Its protocol runs over descriptors 3 and 4.
        let command = format!(
            "exec {name} --headless --no-sandbox --disable-gpu --no-first-run --user-data-dir='{}' --remote-debugging-pipe 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null",
            profile.path().display()
        );
        let mut process = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        let input = process.stdin.take();
        let mut browser = Browser {
            process,
            input,
            messages,
            session: None,
            next: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(String::from);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let input = self.input.as_mut().unwrap();
        input.write_all(message.to_string().as_bytes()).unwrap();
        input.write_all(&[0]).unwrap();
        loop {
            let answer = self.messages.recv_timeout(PATIENCE).expect("Chromium answers");
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// Opens a file and waits until it is loaded and drawn; gives the time that this took.
    pub fn open(&mut self, path: &Path) -> Duration {
        let start = Instant::now();
        self.open_unwatched(path);
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))");
        start.elapsed()
    }

    /// Opens a file where scripts may be off.
    pub fn open_unwatched(&mut self, path: &Path) {
        self.events.clear();
        self.call("Page.navigate", json!({"url": format!("file://{}", path.display())}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.messages.recv_timeout(PATIENCE).expect("the page loads");
            self.events.push(event);
        }
    }

    /// The value of an expression in the page.
    pub fn run(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Presses a key, as a person would.
    pub fn press(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = json!({"Enter": 13, "Escape": 27, "ArrowRight": 39, "Tab": 9})[key].clone();
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let params = json!({"type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    pub fn size(&mut self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    /// Requests beyond the page itself, and what the console complained of.
    pub fn complaints(&mut self) -> Vec<String> {
        let requests = |event: &&Value| event["method"] == "Network.requestWillBeSent";
        let asked = self.events.iter().filter(requests).skip(1);
        let asked = asked.map(|event| format!("request {}", event["params"]["request"]["url"]));
        let kinds = [
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Page.javascriptDialogOpening",
        ];
        let said =
            self.events.iter().filter(|event| kinds.iter().any(|kind| event["method"] == *kind));
        asked.chain(said.map(Value::to_string)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipe does.
        drop(self.input.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline
            && self.process.try_wait().is_ok_and(|status| status.is_none())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
