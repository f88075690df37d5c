//! Where the Hub is, where its cache is, and who asks, from the environment variables of the Hub's own tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use artifact::bail_user;

/// How the Hub is reached.
#[derive(Clone)]
pub struct Settings {
    /// `HF_ENDPOINT`, or https://huggingface.co.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `~/.cache/huggingface`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or the file that `hf auth login` writes.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing is asked, what is in the cache is used.
    pub offline: bool,
    /// The time that a transfer may stand still: `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, or 30.
    pub timeout: Duration,
    /// The wait before a second attempt; doubled before each further one.
    pub retry_wait: Duration,
}

impl Settings {
    /// As huggingface_hub reads its environment.
    ///
    /// # Errors
    /// A user error where there is no home folder to keep the cache in.
    pub fn from_env() -> Result<Settings> {
        Settings::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The same from any set of variables.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Settings> {
        let is_true = |name: &str| {
            variable(name).is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
            })
        };
        let user = variable("HOME").map(PathBuf::from);
        let path = |name: &str| variable(name).map(|text| in_home(&text, user.as_deref()));
        let caches = path("XDG_CACHE_HOME").or_else(|| Some(user.as_ref()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(caches?.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let Some(cache) = cache.or_else(|| Some(home.as_ref()?.join("hub"))) else {
            bail_user!("there is no home folder for the Hub's cache: set HF_HOME");
        };
        let clean = |token: String| token.trim().to_owned();
        let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        let stored = || std::fs::read_to_string(file?).ok();
        let token = variable("HF_TOKEN")
            .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { stored() })
            .map(clean)
            .filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            bail_user!(
                "the Hub's token (HF_TOKEN, or the file of `hf auth login`) holds letters that no token has"
            );
        }
        let endpoint =
            variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let known = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
        if !known || endpoint.parse::<ureq::http::Uri>().is_err() {
            bail_user!(
                "HF_ENDPOINT={endpoint} is not an address; give one such as https://huggingface.co"
            );
        }
        let seconds = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok());
        Ok(Settings {
            endpoint,
            cache,
            token,
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            timeout: Duration::from_secs(seconds.unwrap_or(30).max(1)),
            retry_wait: Duration::from_secs(1),
        })
    }
}

/// A path with `~` filled in.
fn in_home(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    /// The expected paths are what huggingface_hub 2.4's constants.py gives for the same variables.
    #[test]
    fn the_cache_is_where_the_hubs_own_tools_keep_it() {
        for (variables, cache) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/y")], "/y/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/y")], "/h/y/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/y"), ("HF_HUB_CACHE", "/z")], "/z"),
            (&[("HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/z")], "/z"),
        ] {
            assert_eq!(read(variables).unwrap().cache, Path::new(cache), "{variables:?}");
        }
        assert!(read(&[]).is_err_and(|error| error.to_string().contains("HF_HOME")));
    }

    #[test]
    fn a_token_in_the_environment_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let token = |more: &[(&str, &str)]| {
            let variables: Vec<_> = more.iter().copied().chain([("HF_HOME", home)]).collect();
            read(&variables).unwrap().token
        };
        assert_eq!(token(&[]).as_deref(), Some("from-file"));
        assert_eq!(token(&[("HF_TOKEN", " mine ")]).as_deref(), Some("mine"));
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere")]), None);
        let error = read(&[("HF_HOME", home), ("HF_TOKEN", "se cret")]).err().unwrap().to_string();
        assert!(!error.contains("se cret"), "{error}");
    }

    #[test]
    fn offline_and_endpoint_are_read_as_elsewhere() {
        let offline = |value| read(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().offline;
        assert!(offline("1") && offline("TRUE") && !offline("0"));
        let endpoint = |value| read(&[("HOME", "/h"), ("HF_ENDPOINT", value)]);
        assert_eq!(endpoint("https://mirror/").unwrap().endpoint, "https://mirror");
        assert!(endpoint("mirror").is_err());
    }
}
