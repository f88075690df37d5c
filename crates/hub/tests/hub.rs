//! The Hub on loopback: an API that lists files, addresses that redirect to another host for large files, ranges, ETags and
//! commits, gates, and everything that breaks on the way. Cache paths are those that huggingface_hub 2.4 makes for the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use artifact::Context;
use hub::{Address, Hub, Settings, Snapshot};
use loopback::{Answer, Request, Server};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(body: &[u8]) -> String {
    hex(digest(&SHA256, body).as_ref())
}

fn blob_id(body: &[u8]) -> String {
    let whole = [format!("blob {}\0", body.len()).as_bytes(), body].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &whole).as_ref())
}

/// The bytes from a request's range on, with the headers of a partial answer.
fn ranged(request: &Request, body: &[u8]) -> Answer {
    let from = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => Answer::body(200, "application/octet-stream", body),
        Some(from) if from >= body.len() => Answer::text(416, ""),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            Answer::body(206, "application/octet-stream", &body[from..])
                .with("content-range", &range)
        }
    }
}

/// A repository: names, bodies, and which are large.
#[derive(Clone)]
struct Repo {
    path: &'static str,
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Repo {
    fn model() -> Repo {
        let files = [
            ("README.md", b"read me".to_vec()),
            ("config.json", b"{\"model_type\":\"llama\"}".to_vec()),
            ("generation_config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"a\":1}".to_vec()),
            ("chat_template.jinja", b"{{ messages }}".to_vec()),
            ("model.safetensors", (0..50_000u32).flat_map(u32::to_le_bytes).collect()),
            ("pytorch_model.bin", b"not this".to_vec()),
            ("original/consolidated.00.pth", b"nor this".to_vec()),
        ];
        Repo { path: "models/own/tiny", files: files.into() }
    }

    fn data() -> Repo {
        let files = [
            ("README.md", b"read me".to_vec()),
            ("data/es/train.jsonl", b"{\"text\":\"uno\"}\n".to_vec()),
            ("data/fr/train.jsonl", b"{\"text\":\"un\"}\n".to_vec()),
            ("data/fr/test.jsonl", b"{\"text\":\"deux\"}\n".to_vec()),
        ];
        Repo { path: "datasets/own/rows", files: files.into() }
    }

    fn is_large(name: &str) -> bool {
        name.ends_with(".safetensors")
    }

    fn info(&self) -> Value {
        let sibling = |(name, body): (&&str, &Vec<u8>)| match Repo::is_large(name) {
            true => json!({"rfilename": name, "blobId": "aa", "size": 134,
                "lfs": {"sha256": sha256(body), "size": body.len(), "pointerSize": 134}}),
            false => json!({"rfilename": name, "blobId": blob_id(body), "size": body.len()}),
        };
        json!({"sha": COMMIT, "siblings": self.files.iter().map(sibling).collect::<Vec<_>>()})
    }

    /// What the Hub answers; large files are at `elsewhere`.
    fn answer(&self, request: &Request, elsewhere: &str) -> Answer {
        let path = request.path.split('?').next().unwrap_or_default();
        if path == format!("/api/{}/revision/main", self.path)
            || path == format!("/api/{}/revision/{COMMIT}", self.path)
        {
            return Answer::json(200, self.info());
        }
        if path.starts_with("/api/") {
            let code = if path.contains(self.path) { "RevisionNotFound" } else { "RepoNotFound" };
            return Answer::json(404, json!({"error": "no"})).with("x-error-code", code);
        }
        let folder = self.path.strip_prefix("models/").unwrap_or(self.path);
        let name = path.strip_prefix(&format!("/{folder}/resolve/{COMMIT}/"));
        let Some((name, body)) = name.and_then(|name| self.files.get_key_value(name)) else {
            return Answer::text(404, "").with("x-error-code", "EntryNotFound");
        };
        match Repo::is_large(name) {
            true => Answer::text(302, "")
                .with("location", &format!("{elsewhere}/{name}"))
                .with("x-linked-etag", &format!("\"{}\"", sha256(body)))
                .with("x-repo-commit", COMMIT),
            false => ranged(request, body)
                .with("etag", &format!("\"{}\"", blob_id(body)))
                .with("x-repo-commit", COMMIT),
        }
    }
}

/// The Hub and the host of its large files.
struct Place {
    cache: tempfile::TempDir,
    hub: Server,
    large: Server,
}

impl Place {
    fn new(repo: Repo) -> Place {
        let bodies = repo.files.clone();
        Place::with(repo, move |request, _| {
            ranged(request, &bodies[request.path.trim_start_matches('/')])
        })
    }

    /// With another behaviour of the host of the large files.
    fn with(
        repo: Repo,
        large: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Place {
        let large = Server::start(large);
        // Another host by its name, so that a token is not for it.
        let elsewhere = large.url().replace("127.0.0.1", "localhost");
        let hub = Server::start(move |request, _| repo.answer(request, &elsewhere));
        Place { cache: tempfile::tempdir().expect("a folder"), hub, large }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.url(),
            cache: self.cache.path().to_owned(),
            token: Some("hf_secret".into()),
            offline: false,
            timeout: Duration::from_secs(60),
            retry_wait: Duration::from_millis(1),
        }
    }

    fn fetch(&self, settings: Settings) -> anyhow::Result<Snapshot> {
        let (hub, ctx) = (Hub::new(settings)?, Context::quiet());
        let snapshot = hub.model(&Address::of_model("hf://own/tiny")?, &ctx)?;
        hub.fetch(&snapshot, &ctx)?;
        Ok(snapshot)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cache.path().join(name)
    }
}

fn offline(settings: Settings) -> Settings {
    // Nothing listens there: whoever asks all the same fails otherwise.
    Settings { offline: true, endpoint: "http://127.0.0.1:9".into(), ..settings }
}

#[track_caller]
fn refused<T>(result: anyhow::Result<T>, words: &[&str]) {
    let error = result.err().expect("an error");
    let said = format!("{error:#}");
    assert!(artifact::error::is_user(&error), "{said}");
    assert!(words.iter().all(|word| said.contains(word)) && !said.contains("hf_secret"), "{said}");
}

/// Names of all that lies below, links not followed.
fn below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type().expect("a type").is_dir() {
            true => {
                names.extend(below(&entry.path()).iter().map(|below| format!("{name}/{below}")))
            }
            false => names.push(name),
        }
    }
    names.sort();
    names
}

#[test]
fn a_model_comes_into_the_cache_as_the_hubs_own_tools_lay_it_out() {
    let (place, repo) = (Place::new(Repo::model()), Repo::model());
    let snapshot = place.fetch(place.settings()).unwrap();
    let root = place.path("models--own--tiny");
    assert_eq!(snapshot.folder, root.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let needed = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(below(&snapshot.folder), needed);
    for name in needed {
        let body = &repo.files[name];
        assert!(&std::fs::read(snapshot.folder.join(name)).unwrap() == body, "{name}");
        let content = if Repo::is_large(name) { sha256(body) } else { blob_id(body) };
        let link = std::fs::read_link(snapshot.folder.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&content), "{name}");
    }
    assert_eq!(below(&root.join("blobs")).len(), needed.len(), "nothing is left beside the blobs");

    // What is there is not asked for again, online and offline.
    let asked = place.hub.requests().len();
    place.fetch(place.settings()).unwrap();
    assert_eq!(place.hub.requests().len(), asked + 1, "only for the list of files");
    let again = place.fetch(offline(place.settings())).unwrap();
    let identities = |snapshot: &Snapshot| -> Vec<String> {
        snapshot.files.iter().map(|file| snapshot.identity(file)).collect()
    };
    assert_eq!(identities(&again), identities(&snapshot), "the same key offline");
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let place = Place::new(Repo::model());
    place.fetch(place.settings()).unwrap();
    for request in place.hub.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_secret"), "{}", request.path);
    }
    assert_eq!(place.large.requests().len(), 1);
    assert_eq!(place.large.requests()[0].header("authorization"), None);
}

#[test]
fn a_cut_transfer_goes_on_where_it_broke() {
    let body = Repo::model().files["model.safetensors"].clone();
    let place = Place::with(Repo::model(), move |request, before| match before {
        0 => ranged(request, &body).cut(70_000),
        1 => ranged(request, &body).cut(50_000),
        _ => ranged(request, &body),
    });
    let snapshot = place.fetch(place.settings()).unwrap();
    let came = std::fs::read(snapshot.folder.join("model.safetensors")).unwrap();
    assert!(came == Repo::model().files["model.safetensors"]);
    let requests = place.large.requests();
    let ranges: Vec<_> = requests.iter().map(|request| request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=70000-"), Some("bytes=120000-")]);
}

#[test]
fn what_a_killed_process_left_is_gone_on_with_and_checked() {
    let body = Repo::model().files["model.safetensors"].clone();
    for (left, asked) in [
        (body[..1000].to_vec(), &[Some("bytes=1000-")][..]),
        (body.clone(), &[]),
        // Another's bytes: found by the hash at the end, and taken anew.
        (vec![7; 1000], &[Some("bytes=1000-"), None]),
        (vec![7; body.len() + 1], &[None]),
    ] {
        let place = Place::new(Repo::model());
        let part = place.path(&format!("models--own--tiny/blobs/{}.incomplete", sha256(&body)));
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, left).unwrap();
        let snapshot = place.fetch(place.settings()).unwrap();
        assert!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap() == body);
        let requests = place.large.requests();
        let ranges: Vec<_> = requests.iter().map(|request| request.header("range")).collect();
        assert_eq!(ranges, asked);
        assert!(!part.exists());
    }
}

#[test]
fn a_server_without_ranges_sends_the_whole_and_it_is_not_appended() {
    let body = Repo::model().files["model.safetensors"].clone();
    let place = Place::with(Repo::model(), move |_, before| {
        let whole = Answer::body(200, "application/octet-stream", body.clone());
        if before == 0 { whole.cut(1000) } else { whole }
    });
    let snapshot = place.fetch(place.settings()).unwrap();
    let came = std::fs::read(snapshot.folder.join("model.safetensors")).unwrap();
    assert!(came == Repo::model().files["model.safetensors"]);
}

#[test]
fn wrong_bytes_never_stand_in_the_cache() {
    let place = Place::with(Repo::model(), |_, _| Answer::body(200, "x/y", vec![0; 200_000]));
    let error = place.fetch(place.settings()).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors") && error.contains("not what was announced"),
        "{error}"
    );
    let content = sha256(&Repo::model().files["model.safetensors"]);
    assert!(!place.path(&format!("models--own--tiny/blobs/{content}")).exists());
    assert!(!place.path("models--own--tiny/refs/main").exists(), "half a model is no revision");
}

#[test]
fn a_stalled_transfer_ends_at_the_timeout_and_is_tried_again() {
    let body = Repo::model().files["model.safetensors"].clone();
    // Far longer than any machine takes for the rest, so that the test does not depend on its speed.
    let stall = Duration::from_secs(3600);
    let place = Place::with(Repo::model(), move |request, before| match before {
        0 => Answer::Stall(stall),
        _ => ranged(request, &body),
    });
    let started = Instant::now();
    let timeout = Duration::from_secs(1);
    place.fetch(Settings { timeout, ..place.settings() }).unwrap();
    assert!(started.elapsed() < stall);
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_in_words() {
    let place = Place::new(Repo::model());
    let hub = Hub::new(place.settings()).unwrap();
    let ctx = Context::quiet();
    let model = |text: &str| hub.model(&Address::of_model(text).unwrap(), &ctx);
    refused(model("hf://own/tiny@v9"), &["own/tiny", "no revision v9"]);
    refused(model("hf://own/gone"), &["no model own/gone", "may not read it"]);
    for (status, code, token, words) in [
        (401, "GatedRepo", None, &["gated", "own/tiny", "HF_TOKEN"][..]),
        (403, "GatedRepo", Some("hf_secret"), &["gated", "may not read it"]),
        (401, "RepoNotFound", None, &["no model own/tiny", "hf auth login"]),
        (400, "", None, &["400"]),
    ] {
        let server =
            Server::start(move |_, _| Answer::json(status, json!({})).with("x-error-code", code));
        let token = token.map(str::to_owned);
        let settings = Settings { endpoint: server.url(), token, ..place.settings() };
        refused(place.fetch(settings), words);
        assert_eq!(server.requests().len(), 1, "asked once");
    }
    let server = Server::start(|_, _| Answer::text(200, "<html>a proxy"));
    refused(place.fetch(Settings { endpoint: server.url(), ..place.settings() }), &["HF_ENDPOINT"]);
    refused(place.fetch(offline(place.settings())), &["HF_HUB_OFFLINE", "own/tiny@main"]);
    let cache = "/dev/null/hub".into();
    refused(place.fetch(Settings { cache, ..place.settings() }), &["/dev/null", "HF_HUB_CACHE"]);
}

#[test]
fn a_hub_out_of_reach_leaves_what_the_cache_has() {
    let place = Place::new(Repo::model());
    let first = place.fetch(place.settings()).unwrap();
    for endpoint in
        ["http://127.0.0.1:9".to_owned(), Server::start(|_, _| Answer::text(503, "")).url()]
    {
        let found = place.fetch(Settings { endpoint, ..place.settings() }).unwrap();
        assert_eq!((found.commit, found.folder), (first.commit.clone(), first.folder.clone()));
    }
    let empty = tempfile::tempdir().unwrap();
    let nowhere = Settings {
        endpoint: "http://127.0.0.1:9".into(),
        cache: empty.path().to_owned(),
        ..place.settings()
    };
    refused(place.fetch(nowhere), &["not in the Hub's cache", "cannot be reached"]);

    // A cache that another tool filled in part is not a model.
    std::fs::remove_file(first.folder.join("model.safetensors")).unwrap();
    refused(place.fetch(offline(place.settings())), &["no weights"]);
}

#[test]
fn a_moved_branch_is_seen_and_equal_files_are_not_taken_twice() {
    let files = Repo::model().files;
    let moved = Arc::new(AtomicUsize::new(0));
    let (at, bodies) = (moved.clone(), files.clone());
    let hub = Server::start(move |request, _| {
        let commit = if at.load(Ordering::SeqCst) == 0 { COMMIT } else { "ffff" };
        let mut repo = Repo { path: "models/own/tiny", files: bodies.clone() };
        if commit != COMMIT {
            repo.files.insert("config.json", b"{\"new\":true}".to_vec());
        }
        if request.path.starts_with("/api/") {
            let mut info = repo.info();
            info["sha"] = json!(commit);
            return Answer::json(200, info);
        }
        let name = request.path.rsplit('/').next().unwrap_or_default();
        ranged(request, &repo.files[name])
    });
    let place = Place::new(Repo::model());
    let settings = || Settings { endpoint: hub.url(), ..place.settings() };
    let first = place.fetch(settings()).unwrap();
    let asked = hub.requests().len();
    moved.store(1, Ordering::SeqCst);
    let second = place.fetch(settings()).unwrap();
    assert_eq!((first.commit.as_str(), second.commit.as_str()), (COMMIT, "ffff"));
    assert_eq!(hub.requests().len(), asked + 2, "the list and the file that changed");
    assert_eq!(std::fs::read(second.folder.join("config.json")).unwrap(), b"{\"new\":true}");
    assert_eq!(std::fs::read(first.folder.join("config.json")).unwrap(), files["config.json"]);
    let changed = first.files.iter().zip(&second.files);
    let changed = changed.filter(|(a, b)| first.identity(a) != second.identity(b)).count();
    assert_eq!(changed, 1, "a key follows the content and not the commit");
}

#[test]
fn data_are_chosen_by_name_and_lie_in_their_folders() {
    let place = Place::new(Repo::data());
    let (hub, ctx) = (Hub::new(place.settings()).unwrap(), Context::quiet());
    let address = Address::parse("hf://datasets/own/rows/data/fr").unwrap();
    let snapshot = hub.data(&address, |name| name.starts_with("data/fr/"), &ctx).unwrap();
    hub.fetch(&snapshot, &ctx).unwrap();
    assert_eq!(below(&snapshot.folder), ["data/fr/test.jsonl", "data/fr/train.jsonl"]);
    let link = std::fs::read_link(snapshot.folder.join("data/fr/test.jsonl")).unwrap();
    assert!(link.starts_with("../../../../blobs"), "{}", link.display());
    assert!(place.path("datasets--own--rows/refs/main").exists());
    let none = hub.data(&address, |_| false, &ctx);
    refused(none, &["datasets/own/rows", "data/fr", "README.md"]);

    let pinned = Address::parse(&format!("hf://datasets/own/rows@{COMMIT}")).unwrap();
    let snapshot = hub.data(&pinned, |name| name == "README.md", &ctx).unwrap();
    hub.fetch(&snapshot, &ctx).unwrap();
    assert!(!place.path(&format!("datasets--own--rows/refs/{COMMIT}")).exists());
}

#[test]
fn a_mirror_that_lists_names_alone_is_asked_for_each_files_etag() {
    let repo = Repo::model();
    let large = Server::start({
        let bodies = repo.files.clone();
        move |request, _| ranged(request, &bodies[request.path.trim_start_matches('/')])
    });
    let (elsewhere, listed) = (large.url(), repo.clone());
    let hub = Server::start(move |request, _| {
        if !request.path.starts_with("/api/") {
            return listed.answer(request, &elsewhere);
        }
        let names = listed.files.keys().map(|name| json!({"rfilename": name}));
        Answer::json(200, json!({"sha": COMMIT, "siblings": names.collect::<Vec<_>>()}))
    });
    let place = Place::new(Repo::model());
    let snapshot = place.fetch(Settings { endpoint: hub.url(), ..place.settings() }).unwrap();
    let body = &repo.files["model.safetensors"];
    let link = std::fs::read_link(snapshot.folder.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(body)));
    assert!(&std::fs::read(snapshot.folder.join("model.safetensors")).unwrap() == body);
}

#[test]
fn several_processes_take_a_file_once() {
    let body = Repo::model().files["model.safetensors"].clone();
    let place = Place::with(Repo::model(), move |request, _| {
        std::thread::sleep(Duration::from_millis(100));
        ranged(request, &body)
    });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| place.fetch(place.settings()).unwrap());
        }
    });
    assert_eq!(place.large.requests().len(), 1);
}

#[test]
fn a_stop_ends_a_transfer_and_keeps_what_came() {
    let ctx = Context::quiet();
    let cancel = Mutex::new(ctx.clone());
    let body = Repo::model().files["model.safetensors"].clone();
    let content = sha256(&body);
    let place = Place::with(Repo::model(), move |request, _| {
        cancel.lock().unwrap().cancel();
        ranged(request, &body).cut(1000)
    });
    let hub = Hub::new(place.settings()).unwrap();
    let snapshot =
        hub.model(&Address::of_model("hf://own/tiny").unwrap(), &Context::quiet()).unwrap();
    let error = hub.fetch(&snapshot, &ctx).unwrap_err();
    assert!(artifact::error::is_interrupted(&error), "{error:#}");
    assert!(place.path(&format!("models--own--tiny/blobs/{content}.incomplete")).exists());
}
