//! Asks the Hub what a repository holds, and says in words what stands in the way. In: an address. Out: a [`Snapshot`], from
//! the Hub or, where it is not to be asked or cannot be reached, from the cache.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use artifact::address::is_loopback;
use artifact::error::user;
use artifact::{Context, bail_user};
use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder};
use serde_json::Value;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, StatusCode};

use crate::address::{Address, Kind};
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// The longest list of files that is read; a large dataset's has some megabytes.
const LONGEST: u64 = 256 << 20;
/// Times that the Hub is asked before the cache has to do.
const ATTEMPTS: u32 = 3;

/// The Hub and its cache.
pub struct Hub {
    pub(crate) settings: Settings,
    pub(crate) agent: Agent,
    api: Api,
}

/// Why a question has no answer.
pub(crate) enum Fault {
    /// Not now: no connection, too many requests, a server out of order.
    Passing(String),
    /// Not like this.
    Refused(anyhow::Error),
}

impl Hub {
    /// The Hub of the environment's variables.
    ///
    /// # Errors
    /// A user error for a variable that cannot be meant.
    pub fn from_env() -> Result<Hub> {
        Hub::new(Settings::from_env()?)
    }

    /// The Hub with these settings.
    ///
    /// # Errors
    /// Where no client can be made.
    pub fn new(settings: Settings) -> Result<Hub> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A token goes to the host that was named and to no other.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_per_read(Some(settings.timeout))
            .user_agent(concat!("isogloss/", env!("CARGO_PKG_VERSION")));
        let config = match is_loopback(&settings.endpoint) {
            true => config.proxy(None),
            false => config,
        };
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_progress(false)
            .build()
            .context("cannot make a client for the Hub")?;
        Ok(Hub { agent: config.build().into(), settings, api })
    }

    /// The files of a model that are needed to load it, at the commit that its revision stands for now.
    ///
    /// # Errors
    /// A user error where there is no such model, or it may not be read, or it cannot be loaded.
    pub fn model(&self, address: &Address, ctx: &Context) -> Result<Snapshot> {
        self.resolve(address, ctx)?.model()
    }

    /// The files of a repository that `wanted` says are data.
    ///
    /// # Errors
    /// A user error where there is no such repository, or it may not be read, or it has no such file.
    pub fn data(
        &self,
        address: &Address,
        wanted: impl Fn(&str) -> bool,
        ctx: &Context,
    ) -> Result<Snapshot> {
        self.resolve(address, ctx)?.data(wanted)
    }

    /// All files of a repository.
    fn resolve(&self, address: &Address, ctx: &Context) -> Result<Snapshot> {
        let cache = &self.settings.cache;
        if self.settings.offline {
            let why = "HF_HUB_OFFLINE says not to ask for it";
            return Snapshot::from_cache(address, cache, why);
        }
        let mut why = String::new();
        for attempt in 0..ATTEMPTS {
            ctx.check()?;
            match self.ask(address) {
                Ok(answer) => return Snapshot::from_answer(address, cache, &answer),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Passing(fault)) => why = fault,
            }
            if attempt + 1 < ATTEMPTS {
                thread::sleep(self.settings.retry_wait * 2u32.pow(attempt));
            }
        }
        let snapshot = Snapshot::from_cache(address, cache, &why)?;
        ctx.warn(format!("{why}; using {address} as the cache has it, commit {}", snapshot.commit));
        Ok(snapshot)
    }

    /// The Hub's answer about a repository, with the content of each file.
    fn ask(&self, address: &Address) -> Result<Value, Fault> {
        let request = self.api.repo(address.repository()).info_request().query("blobs", "true");
        let request = request.config().http_status_as_error(false);
        let request = match is_loopback(&self.settings.endpoint) {
            true => request.proxy(None),
            false => request,
        };
        let request = request.timeout_global(Some(self.settings.timeout * 2)).build();
        let mut response = request.call().map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refusal(address, status, response.headers()));
        }
        let text = response.body_mut().with_config().limit(LONGEST).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        serde_json::from_str(&text).map_err(|_| {
            Fault::Refused(user(format!(
                "{} does not answer as the Hub does; is HF_ENDPOINT right?",
                self.settings.endpoint
            )))
        })
    }

    /// What a transport error means: the Hub may be reached again later.
    pub(crate) fn unreachable(&self, error: &ureq::Error) -> Fault {
        Fault::Passing(format!("{} cannot be reached ({error})", self.settings.endpoint))
    }

    /// What a status other than 2xx means. The Hub says more in its header `X-Error-Code`.
    pub(crate) fn refusal(
        &self,
        address: &Address,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Fault {
        let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or("");
        let Address { kind, repo, revision, .. } = address;
        let endpoint = &self.settings.endpoint;
        let (what, folder) = match kind {
            Kind::Model => ("model", ""),
            Kind::Dataset => ("dataset", "datasets/"),
        };
        let login = match &self.settings.token {
            None => "set HF_TOKEN, or log in with `hf auth login`",
            Some(_) => "the token that is set may not read it",
        };
        let said = match (status.as_u16(), code) {
            (408 | 429 | 500..=599, _) => {
                return Fault::Passing(format!("{endpoint} answered {status} about {repo}"));
            }
            (_, "GatedRepo") => format!(
                "the {what} {repo} is gated: ask for access at {endpoint}/{folder}{repo}, then {login}"
            ),
            (404, "RevisionNotFound") => format!("the {what} {repo} has no revision {revision}"),
            (404, "EntryNotFound") => format!("a file of {repo} is gone from revision {revision}"),
            (401 | 403 | 404, _) => {
                format!("there is no {what} {repo} at {endpoint}, or it is private: {login}")
            }
            _ => format!("{endpoint} answered {status} about the {what} {repo}"),
        };
        Fault::Refused(user(said))
    }

    /// Fails where the cache cannot be written, before anything is asked for.
    pub(crate) fn make_folder(&self, folder: &std::path::Path) -> Result<()> {
        if let Err(error) = std::fs::create_dir_all(folder) {
            bail_user!(
                "the Hub's cache cannot be written: {}: {error}; name another folder by HF_HUB_CACHE",
                folder.display()
            );
        }
        Ok(())
    }
}
