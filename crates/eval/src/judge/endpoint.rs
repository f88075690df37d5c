//! One exchange with an OpenAI-compatible chat endpoint: a request's body in, a reply out, or a fault with what it means
//! for this request and for all others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use artifact::address::is_loopback;
use artifact::bail_user;
use artifact::text::shorten;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Response, StatusCode, header};

use super::cache::Reply;
use super::{Config, KEY_VARIABLE};

/// The longest body that is read; a reply is a few kilobytes.
const LONGEST: u64 = 8 << 20;
/// How much of an endpoint's own words a message repeats, in columns.
const QUOTED: usize = 200;

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing answers at the address. At first contact that is a wrong address, later a passing fault.
    Unreachable(String),
    /// Another attempt may do, after this time if the endpoint names one.
    Passing(String, Option<Duration>),
    /// This request is refused, others may not be.
    Refused(String),
    /// No request will be answered before the user mends it.
    Fatal(String),
}

/// Where requests go.
pub struct Endpoint {
    /// The address, which holds no secret.
    pub url: String,
    agent: Agent,
    key: Option<String>,
    key_name: String,
}

impl Endpoint {
    /// The endpoint at `base` for these settings.
    ///
    /// # Errors
    /// A user error for an address that is none, or a variable that is not set.
    pub fn new(base: &str, config: &Config) -> Result<Endpoint> {
        let key_name = config.key_env.clone().unwrap_or_else(|| KEY_VARIABLE.to_owned());
        let key = std::env::var(&key_name).ok().map(|key| key.trim().to_owned());
        let key = key.filter(|key| !key.is_empty());
        if key.is_none() && config.key_env.is_some() {
            bail_user!(
                "`key_env` names the environment variable {key_name}, which is not set; set it with: export {key_name}=…"
            );
        }
        if key.as_ref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            bail_user!(
                "the key in {key_name} holds letters that no key has, such as a space; was it copied whole?"
            );
        }
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs_f64(config.timeout)))
            .timeout_connect(Some(Duration::from_secs_f64(config.timeout.min(15.0))))
            .user_agent(concat!("isogloss/", env!("CARGO_PKG_VERSION")));
        let settings = match is_loopback(base) {
            true => settings.proxy(None),
            false => settings,
        };
        Ok(Endpoint { url: chat_url(base)?, agent: settings.build().into(), key, key_name })
    }

    /// Sends one request.
    pub fn ask(&self, body: &str) -> Result<Reply, Fault> {
        let mut request = self.agent.post(&self.url).content_type("application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| self.no_answer(error))?;
        let read = response.body_mut().with_config().limit(LONGEST).lossy_utf8(true);
        let text = read.read_to_string().map_err(|error| self.no_answer(error))?;
        if response.status().is_success() {
            return self.reply(&response, &text);
        }
        Err(self.refusal(response.status(), response.headers(), &text))
    }

    fn no_answer(&self, error: ureq::Error) -> Fault {
        use std::io::ErrorKind::{ConnectionRefused, NetworkUnreachable};
        let url = &self.url;
        match error {
            ureq::Error::Timeout(_) => {
                Fault::Passing(format!("{url} did not answer in time ({error})"), None)
            }
            ureq::Error::Io(error)
                if matches!(error.kind(), ConnectionRefused | NetworkUnreachable) =>
            {
                Fault::Unreachable(format!("nothing answers at {url} ({error})"))
            }
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Fault::Unreachable(format!("nothing answers at {url} ({error})"))
            }
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
                Fault::Unreachable(format!("no secure connection to {url} ({error})"))
            }
            other => Fault::Passing(format!("the connection to {url} broke ({other})"), None),
        }
    }

    /// The reply in a body of status 2xx. What is no chat completion may be a proxy's page: it passes, or all fail.
    fn reply<T>(&self, response: &Response<T>, text: &str) -> Result<Reply, Fault> {
        let wrong = |what: String| {
            Err(Fault::Passing(format!("{} answered {what}; is base_url right?", self.url), None))
        };
        let Ok(body) = serde_json::from_str::<Value>(text) else {
            let kind = response.headers().get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("no content type");
            return wrong(format!("with {kind} that is not JSON: {}", shorten(text, QUOTED)));
        };
        // Some proxies report an error with status 200.
        if !body["error"].is_null() {
            return Err(Fault::Passing(format!("{} answered {}", self.url, said(text)), None));
        }
        let choice = &body["choices"][0];
        // A refusal and a message of tool calls have null for content: a reply without a verdict.
        let content = match &choice["message"]["content"] {
            Value::String(content) => content.clone(),
            Value::Null if choice["message"].is_object() => {
                choice["message"]["refusal"].as_str().unwrap_or_default().to_owned()
            }
            _ => {
                return wrong(format!(
                    "with no choices[0].message.content: {}",
                    shorten(text, QUOTED)
                ));
            }
        };
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Reply {
            content,
            finish_reason: text_of(&choice["finish_reason"]),
            model: text_of(&body["model"]),
            prompt_tokens: body["usage"]["prompt_tokens"].as_u64(),
            completion_tokens: body["usage"]["completion_tokens"].as_u64(),
        })
    }

    /// What a status other than 2xx means.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, text: &str) -> Fault {
        let body = text.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| body.contains(word));
        let what = format!("{} answered {status}: {}", self.url, said(text));
        let no_model = says(&["model_not_found", "model not found", "no such model"])
            || (body.contains("model") && says(&["does not exist", "not found", "invalid model"]));
        match status.as_u16() {
            300..=399 => {
                let to = headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
                let to = to.map_or(String::new(), |to| format!(" to {to}"));
                Fault::Fatal(format!("{} redirects{to}; give that as base_url", self.url))
            }
            403 if says(&["flagged", "moderation"]) => Fault::Refused(what),
            401 | 403 => Fault::Fatal(match &self.key {
                None => format!("{what}; set the key with: export {}=…", self.key_name),
                Some(_) => format!("{what}; the key in {} is not accepted", self.key_name),
            }),
            402 => Fault::Fatal(format!("{what}; the account has to be paid up")),
            429 if says(&["insufficient_quota", "exceeded your current quota"]) => {
                Fault::Fatal(format!("{what}; the account has to be paid up"))
            }
            408 | 409 | 425 | 429 | 500..=599 => Fault::Passing(what, wait(headers)),
            400..=499 if no_model => {
                Fault::Fatal(format!("{what}; give a `model` that the endpoint has"))
            }
            404 | 405 => Fault::Fatal(format!(
                "{what}; base_url should be what stands before /chat/completions, mostly ending in /v1"
            )),
            _ => Fault::Refused(what),
        }
    }
}

/// The address of chat completions. An address without a path gets the usual `/v1`; a query stays.
fn chat_url(base: &str) -> Result<String> {
    let (address, query) = match base.split_once('?') {
        Some((address, query)) => (address, format!("?{query}")),
        None => (base, String::new()),
    };
    let rest = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) else {
        bail_user!("base_url = \"{base}\": give an address such as http://localhost:8000/v1");
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        bail_user!(
            "base_url holds a name or a password; put the key into an environment variable instead"
        );
    }
    if base.parse::<ureq::http::Uri>().is_err() {
        bail_user!(
            "base_url = \"{base}\" is not an address; give one such as http://localhost:8000/v1"
        );
    }
    let address = address.trim_end_matches('/');
    let path = match (address.ends_with("/chat/completions"), address.ends_with(host)) {
        (true, _) => "",
        (false, true) => "/v1/chat/completions",
        (false, false) => "/chat/completions",
    };
    Ok(format!("{address}{path}{query}"))
}

/// The endpoint's own words: the message of an error object, or else the body's beginning.
fn said(text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let places = [&body["error"]["message"], &body["error"], &body["message"], &body["detail"]];
    let message = places.into_iter().find_map(Value::as_str).unwrap_or(text);
    match message.trim() {
        "" => "(no message)".to_owned(),
        message => shorten(message, QUOTED),
    }
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    }
    let then = UNIX_EPOCH + Duration::from_secs(http_date(value)?);
    Some(then.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.strip_suffix(" GMT")?.split([' ', ':']);
    let mut number = || words.next()?.parse::<u64>().ok();
    let day = number()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let mut number = || words.next()?.parse::<u64>().ok();
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from the civil calendar, the year taken to begin in March (Hinnant, "chrono-compatible date algorithms").
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_chat_completions_with_and_without_v1() {
        for (base, url) in [
            ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
            ("http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
            ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
            ("https://api.example.com/v1/", "https://api.example.com/v1/chat/completions"),
            ("https://x.com/v1beta/openai/", "https://x.com/v1beta/openai/chat/completions"),
            ("https://x.com/v1/chat/completions", "https://x.com/v1/chat/completions"),
            ("https://x.com/d?api-version=2", "https://x.com/d/chat/completions?api-version=2"),
            ("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
        ] {
            assert_eq!(chat_url(base).unwrap(), url);
        }
        for base in ["localhost:8000", "", "http://", "ftp://x", "http://a b/v1", "https:///v1"] {
            assert!(artifact::error::is_user(&chat_url(base).unwrap_err()), "{base}");
        }
        let error = chat_url("https://me:secret@x.com/v1").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            wait(&headers)
        };
        assert_eq!(after("3"), Some(Duration::from_secs(3)));
        assert_eq!(after("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO), "it is over");
        assert!(after("Fri, 31 Dec 2999 23:59:59 GMT") > Some(Duration::from_secs(86_400)));
        assert_eq!(after("soon"), None);
        assert_eq!(after("1e300"), None);
        // RFC 9110's own example and the epoch itself, in seconds as `date -u -d … +%s` gives them.
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(http_date("Sun, 06 Nov 94 08:49:37 GMT"), None);
    }

    #[test]
    fn the_endpoints_own_words_are_found_in_every_usual_form() {
        assert_eq!(said(r#"{"error":{"message":"no such model","code":404}}"#), "no such model");
        assert_eq!(said(r#"{"error":"busy"}"#), "busy");
        assert_eq!(said(r#"{"object":"error","message":"too long"}"#), "too long");
        assert_eq!(said("<html>Bad gateway"), "<html>Bad gateway");
        assert_eq!(said(" "), "(no message)");
    }
}
