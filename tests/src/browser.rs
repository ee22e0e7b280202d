//! Chromium without a screen, told what to do over its debugging pipe: pages as people meet them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A browser with one page. Dropping it ends the browser.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    requests: ChildStdin,
    messages: Receiver<Value>,
    session: Value,
    last: u64,
    complaints: Vec<String>,
    profile: TempDir,
}

/// What the page is looked at with.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u16,
    /// In CSS pixels.
    pub height: u16,
    /// `light` or `dark`.
    pub scheme: &'static str,
}

impl Screen {
    /// A small phone, at night.
    pub const PHONE: Self = Self {
        width: 360,
        height: 760,
        scheme: "dark",
    };

    /// A window on a desk.
    pub const DESK: Self = Self {
        width: 1280,
        height: 900,
        scheme: "light",
    };
}

impl Browser {
    /// Opens the page.
    pub fn open(url: &str, screen: Screen) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let errors = File::create(profile.path().join("stderr"))?;
        // The pipe is at the descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "sh"])
            .args([
                "chromium",
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("starting chromium")?;
        let requests = child.stdin.take().context("chromium has no pipe")?;
        let messages = messages(child.stdout.take().context("chromium has no pipe")?);
        let mut browser = Self {
            child,
            requests,
            messages,
            session: Value::Null,
            last: 0,
            complaints: Vec::new(),
            profile,
        };
        browser.prepare(screen)?;
        browser.call("Page.navigate", &json!({ "url": url }))?;
        browser
            .wait_until("location.href !== 'about:blank' && document.readyState === 'complete'")?;
        Ok(browser)
    }

    fn prepare(&mut self, screen: Screen) -> Result<()> {
        let Screen {
            width,
            height,
            scheme,
        } = screen;
        let page = self.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        self.session = self.call("Target.attachToTarget", &attach)?["sessionId"].take();
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), &json!({}))?;
        }
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &size)?;
        let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &dark)?;
        Ok(())
    }

    /// What a JavaScript expression comes to on the page.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let question = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", &question)?;
        ensure!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        Ok(answer["result"]["value"].take())
    }

    /// Waits until a JavaScript expression is true.
    pub fn wait_until(&mut self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.evaluate(expression)? != Value::Bool(true) {
            if Instant::now() > deadline {
                let text = self.text()?;
                bail!("not true of the page: {expression}\n{text}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// All text of the page, closed parts included.
    pub fn text(&mut self) -> Result<String> {
        let text = self.evaluate("document.body.textContent")?;
        Ok(text.as_str().context("a page without text")?.to_owned())
    }

    /// Presses and releases a key, `Tab` or `Enter` say.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": key, "text": text,
                "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code,
            });
            self.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Writes what is to be seen into a PNG file.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        let picture = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        let text = picture["data"].as_str().context("no picture")?;
        let encoded = self.profile.path().join("picture");
        fs::write(&encoded, text)?;
        let status = Command::new("base64")
            .arg("--decode")
            .arg(&encoded)
            .stdout(File::create(file)?)
            .status()?;
        ensure!(status.success(), "base64: {status}");
        Ok(())
    }

    /// What the browser has found wrong with the page so far: scripts that failed, files that it did
    /// not get or did not let in.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.last += 1;
        let mut request = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_null() {
            request["sessionId"] = self.session.clone();
        }
        write!(self.requests, "{request}\0")?;
        self.requests.flush()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => bail!("chromium does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => bail!("chromium ended: {}", self.errors()),
            };
            if message["id"] == self.last {
                ensure!(message["error"].is_null(), "{method}: {message}");
                return Ok(message["result"].take());
            }
            let is_failure = message["method"] == "Runtime.exceptionThrown"
                || message["method"] == "Log.entryAdded"
                    && message["params"]["entry"]["level"] == "error";
            if is_failure {
                self.complaints.push(message["params"].to_string());
            }
        }
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.profile.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked, it takes its helpers along; killed, it leaves them for a while.
        self.session = Value::Null;
        let _ = self.call("Browser.close", &json!({}));
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the browser says, each message ended by a zero byte.
fn messages(pipe: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for message in BufReader::new(pipe).split(0).map_while(Result::ok) {
            let Ok(message) = serde_json::from_slice(&message) else {
                continue;
            };
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}

const LIMIT: Duration = Duration::from_secs(30);
