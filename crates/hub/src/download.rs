//! Takes the files of a [`Snapshot`] into the cache: `blobs/<content>` holds a file once, `snapshots/<commit>/<name>` links to
//! it, `refs/<revision>` says which commit that is, as huggingface_hub keeps them.
//!
//! A file is written to `<content>.incomplete` under a lock and goes on there after a cut or a kill; it is checked against its
//! SHA-256 or git's blob id before it takes its name, so that what stands in the cache is whole.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use artifact::{Bar, Context, bail_user};
use hf_hub::Cache;
use ring::digest::{Context as Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use ureq::Body;
use ureq::http::{Response, header};

use crate::client::{Fault, Hub};
use crate::snapshot::{File, Snapshot, is_plain};

/// Files under way at a time.
const STREAMS: usize = 4;
/// Times that a file is asked for, without a byte in between.
const ATTEMPTS: u32 = 5;
const CHUNK: usize = 1 << 18;

impl Hub {
    /// Takes those files of a snapshot that the cache does not hold yet.
    ///
    /// # Errors
    /// A user error where a file may not be read or the cache not be written; what came so far is kept.
    pub fn fetch(&self, snapshot: &Snapshot, ctx: &Context) -> Result<()> {
        let missing: Vec<&File> =
            snapshot.files.iter().filter(|file| !snapshot.path(file).exists()).collect();
        if missing.is_empty() {
            return self.note_revision(snapshot);
        }
        if self.settings.offline {
            bail_user!(
                "{}: {} is not in the Hub's cache {}, and HF_HUB_OFFLINE says not to ask for it",
                snapshot.address,
                missing[0].name,
                self.settings.cache.display()
            );
        }
        self.make_folder(&snapshot.folder)?;
        let total = missing.iter().map(|file| file.size).sum();
        let bar = ctx.bar(&format!("fetch {}", snapshot.address.repo), "B", total);
        let (next, told) = (AtomicUsize::new(0), AtomicBool::new(false));
        let take = || -> Result<()> {
            while let Some(file) = missing.get(next.fetch_add(1, Ordering::SeqCst)) {
                bar.note(&file.name);
                self.file(snapshot, file, &bar, &told, ctx).inspect_err(|_| {
                    // The others stop with the first that fails.
                    next.store(missing.len(), Ordering::SeqCst);
                })?;
            }
            Ok(())
        };
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let streams: Vec<_> =
                (0..STREAMS.min(missing.len())).map(|_| scope.spawn(take)).collect();
            let ended = |stream: thread::ScopedJoinHandle<'_, Result<()>>| {
                stream.join().unwrap_or_else(|_| Err(anyhow!("a transfer ended in a panic")))
            };
            streams.into_iter().map(ended).collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        bar.finish();
        self.note_revision(snapshot)
    }

    /// Notes which commit a branch or tag is, for those that ask the cache alone.
    fn note_revision(&self, snapshot: &Snapshot) -> Result<()> {
        if snapshot.address.is_commit() {
            return Ok(());
        }
        let revision = &snapshot.address.revision;
        let reference = self.repo_folder(snapshot).join("refs").join(revision);
        if fs::read_to_string(&reference).is_ok_and(|known| known.trim() == snapshot.commit) {
            return Ok(());
        }
        let context = || format!("cannot note the revision {revision} in {}", reference.display());
        Cache::new(self.settings.cache.clone())
            .repo(snapshot.address.repository())
            .create_ref(&snapshot.commit)
            .with_context(context)
    }

    fn repo_folder(&self, snapshot: &Snapshot) -> PathBuf {
        self.settings.cache.join(snapshot.address.repository().folder_name())
    }

    /// One file, from the Hub or from another commit that has the same content.
    fn file(
        &self,
        snapshot: &Snapshot,
        file: &File,
        bar: &Bar,
        told: &AtomicBool,
        ctx: &Context,
    ) -> Result<()> {
        let transfer = Transfer { hub: self, snapshot, file, bar, counted: Cell::new(0), ctx };
        let content = match &file.content {
            Some(content) => content.clone(),
            None => transfer.retried(|| transfer.content())?,
        };
        let root = self.repo_folder(snapshot);
        let blob = root.join("blobs").join(&content);
        self.make_folder(&root.join("blobs"))?;
        let _lock = self.lock(snapshot, &content, told, ctx)?;
        if blob.exists() {
            transfer.counts(file.size.unwrap_or(0));
        } else {
            let part = root.join("blobs").join(format!("{content}.incomplete"));
            transfer.retried(|| transfer.take(&part, &content))?;
            fs::rename(&part, &blob).with_context(|| format!("cannot write {}", blob.display()))?;
        }
        link(&snapshot.path(file), &file.name, &content)
    }

    /// The lock that huggingface_hub takes for the same file; a wait for it is told once.
    fn lock(
        &self,
        snapshot: &Snapshot,
        content: &str,
        told: &AtomicBool,
        ctx: &Context,
    ) -> Result<fs::File> {
        let folder =
            self.settings.cache.join(".locks").join(snapshot.address.repository().folder_name());
        self.make_folder(&folder)?;
        let path = folder.join(format!("{content}.lock"));
        let context = || format!("cannot lock {}", path.display());
        let lock = fs::File::create(&path).with_context(context)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(fs::TryLockError::Error(error)) => return Err(error).with_context(context),
                Err(fs::TryLockError::WouldBlock) => {
                    if !told.swap(true, Ordering::SeqCst) {
                        let address = &snapshot.address;
                        ctx.log(format!("waiting for another process that fetches {address}"));
                    }
                    ctx.check()?;
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// A link as huggingface_hub makes it: relative, so that the cache may be moved.
fn link(path: &Path, name: &str, content: &str) -> Result<()> {
    let context = || format!("cannot link {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(context)?;
    }
    let up = "../".repeat(2 + name.matches('/').count());
    match std::os::unix::fs::symlink(format!("{up}blobs/{content}"), path) {
        Err(_) if path.exists() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // A link whose target is gone.
            fs::remove_file(path).with_context(context)?;
            std::os::unix::fs::symlink(format!("{up}blobs/{content}"), path).with_context(context)
        }
        linked => linked.with_context(context),
    }
}

/// One file on its way.
struct Transfer<'a> {
    hub: &'a Hub,
    snapshot: &'a Snapshot,
    file: &'a File,
    bar: &'a Bar,
    /// Bytes of the file that the bar has seen; an attempt that begins anew does not count them twice.
    counted: Cell<u64>,
    ctx: &'a Context,
}

/// What an attempt came to.
enum Attempt<T> {
    Done(T),
    /// Passing fault; whether bytes came before it.
    Again(String, bool),
}

impl Transfer<'_> {
    /// So many bytes of the file are there.
    fn counts(&self, length: u64) {
        if let Some(more) = length.checked_sub(self.counted.get()) {
            self.bar.inc(more);
            self.counted.set(length);
        }
    }

    fn url(&self) -> String {
        let endpoint = &self.hub.settings.endpoint;
        let repo = self.snapshot.address.repository().url();
        let name: Vec<String> = self.file.name.split('/').map(escaped).collect();
        format!("{endpoint}/{repo}/resolve/{}/{}", self.snapshot.commit, name.join("/"))
    }

    /// Tries again while faults pass. An attempt that brought bytes does not count as one.
    fn retried<T>(&self, attempt: impl Fn() -> Result<Attempt<T>>) -> Result<T> {
        let mut failures = 0;
        loop {
            self.ctx.check()?;
            match attempt()? {
                Attempt::Done(result) => return Ok(result),
                Attempt::Again(why, came) => {
                    failures = if came { 1 } else { failures + 1 };
                    if failures >= ATTEMPTS {
                        let address = &self.snapshot.address;
                        return Err(anyhow!(
                            "{address}: {} did not come in {ATTEMPTS} attempts: {why}. What came is kept: the same command \
                             goes on from there",
                            self.file.name
                        ));
                    }
                }
            }
            thread::sleep(self.hub.settings.retry_wait * 2u32.pow(failures - 1));
        }
    }

    fn faulted<T>(&self, fault: Fault, came: bool) -> Result<Attempt<T>> {
        match fault {
            Fault::Passing(why) => Ok(Attempt::Again(why, came)),
            Fault::Refused(error) => Err(error.context(format!("cannot fetch {}", self.file.name))),
        }
    }

    fn request(&self, method_is_head: bool, from: u64) -> Result<Response<Body>, ureq::Error> {
        let agent = &self.hub.agent;
        let request = if method_is_head { agent.head(self.url()) } else { agent.get(self.url()) };
        let request = match &self.hub.settings.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let request = match from {
            0 => request,
            from => request.header(header::RANGE, format!("bytes={from}-")),
        };
        // What is packed for the way cannot be gone on with, and its length is another.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        if !method_is_head {
            return request.call();
        }
        request.config().max_redirects(0).build().call()
    }

    /// The file's content as the Hub names it where the list of files does not: the (linked) ETag of its address.
    fn content(&self) -> Result<Attempt<String>> {
        let response = match self.request(true, 0) {
            Ok(response) => response,
            Err(error) => return self.faulted(self.hub.unreachable(&error), false),
        };
        if response.status().is_client_error() || response.status().is_server_error() {
            let address = &self.snapshot.address;
            let fault = self.hub.refusal(address, response.status(), response.headers());
            return self.faulted(fault, false);
        }
        let headers = response.headers();
        let tag = headers.get("x-linked-etag").or_else(|| headers.get(header::ETAG));
        let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default();
        let tag = tag.trim_start_matches("W/").trim_matches('"');
        if !is_plain(tag) {
            bail_user!(
                "{} does not say what {} is: it gives no ETag; is HF_ENDPOINT the Hub or a mirror of it?",
                self.hub.settings.endpoint,
                self.url()
            );
        }
        Ok(Attempt::Done(tag.to_owned()))
    }

    /// Takes what is missing in `part`, and checks the whole.
    fn take(&self, part: &Path, content: &str) -> Result<Attempt<()>> {
        let context = || format!("cannot write {}", part.display());
        let mut out =
            fs::OpenOptions::new().create(true).append(true).open(part).with_context(context)?;
        let mut length = out.metadata().with_context(context)?.len();
        if self.file.size.is_some_and(|size| length > size) {
            out.set_len(0).with_context(context)?;
            length = 0;
        }
        if self.file.size != Some(length) || length == 0 {
            let mut response = match self.request(false, length) {
                Ok(response) => response,
                Err(error) => return self.faulted(self.hub.unreachable(&error), false),
            };
            match response.status().as_u16() {
                206 if goes_on(&response, length) => {}
                // The server does not know ranges, or knows of another length: from the beginning.
                200 | 206 | 416 if length > 0 => {
                    out.set_len(0).with_context(context)?;
                    if response.status().as_u16() != 200 {
                        return Ok(Attempt::Again(
                            "what came before does not fit".to_owned(),
                            false,
                        ));
                    }
                    length = 0;
                }
                200 => {}
                _ => {
                    let address = &self.snapshot.address;
                    let fault = self.hub.refusal(address, response.status(), response.headers());
                    return self.faulted(fault, false);
                }
            }
            self.counts(length);
            let body = response.body_mut().with_config().limit(u64::MAX).reader();
            let (came, ended) = self.copy(body, &mut out, length).with_context(context)?;
            if let Err(why) = ended {
                return Ok(Attempt::Again(format!("the connection broke ({why})"), came > 0));
            }
            length += came;
        }
        out.sync_all().with_context(context)?;
        let wrong = match self.file.size.filter(|size| *size != length) {
            Some(size) => Some(format!("{length} bytes came where {size} were announced")),
            None => differs(part, content, length).with_context(context)?,
        };
        let Some(wrong) = wrong else { return Ok(Attempt::Done(())) };
        if self.file.size.is_none_or(|size| length >= size) {
            // Not a cut: what came is wrong and is no use.
            out.set_len(0).with_context(context)?;
        }
        Ok(Attempt::Again(wrong, false))
    }

    /// Copies a body into a file of that length: how many bytes came, and why it ended early if it did.
    fn copy(
        &self,
        mut body: impl Read,
        out: &mut fs::File,
        before: u64,
    ) -> Result<(u64, Result<(), String>)> {
        let mut chunk = vec![0; CHUNK];
        let mut came = 0;
        loop {
            self.ctx.check()?;
            match body.read(&mut chunk) {
                Ok(0) => return Ok((came, Ok(()))),
                Ok(length) => {
                    out.write_all(&chunk[..length])?;
                    came += length as u64;
                    self.counts(before + came);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok((came, Err(error.to_string()))),
            }
        }
    }
}

/// Whether a partial answer begins where the file ends.
fn goes_on<T>(response: &Response<T>, length: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.trim().starts_with(&format!("bytes {length}-")))
}

/// How a file differs from its content's name; `None` if it does not, or the name says nothing about it.
fn differs(path: &Path, content: &str, length: u64) -> Result<Option<String>> {
    let mut digest = match content.len() {
        64 => Digest::new(&SHA256),
        40 => Digest::new(&SHA1_FOR_LEGACY_USE_ONLY),
        _ => return Ok(None),
    };
    if content.len() == 40 {
        // How git names a blob.
        digest.update(format!("blob {length}\0").as_bytes());
    }
    let mut file = fs::File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            length => digest.update(&chunk[..length]),
        }
    }
    let found: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((!found.eq_ignore_ascii_case(content))
        .then(|| format!("what came is not what was announced (its hash is {found})")))
}

/// A file's name as part of an address.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+=,@".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_known_by_sha256_or_by_gits_blob_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "hello\n").unwrap();
        // `printf 'hello\n' | sha256sum` and `git hash-object`.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(differs(&path, sha256, 6).unwrap(), None);
        assert_eq!(differs(&path, "ce013625030ba8dba906f756967f9e9ca394464a", 6).unwrap(), None);
        assert!(differs(&path, &sha256.replace("58", "59"), 6).unwrap().is_some());
        assert_eq!(differs(&path, "some-mirrors-tag", 6).unwrap(), None);
    }

    #[test]
    fn a_name_is_escaped_for_an_address() {
        assert_eq!(escaped("train 1#a?.jsonl"), "train%201%23a%3F.jsonl");
        assert_eq!(escaped("日"), "%E6%97%A5");
    }
}
