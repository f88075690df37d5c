//! What stands on the Hugging Face Hub: `hf://…` in place of a folder or a file. Each address is asked for once, so that a
//! branch that moves in the middle of a run does not change what the run works on; files are taken when they are needed.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Result;
use artifact::config::expand_env;
use artifact::{Context, bail_user};
use hub::{Address, Hub, Snapshot, is_address, is_tokenizer_file};
use ingest::{Paths, Source};

/// The Hub, and what it has said.
#[derive(Default)]
pub struct Remote {
    hub: OnceLock<Hub>,
    known: Mutex<BTreeMap<String, Snapshot>>,
}

impl Remote {
    fn hub(&self) -> Result<&Hub> {
        if let Some(hub) = self.hub.get() {
            return Ok(hub);
        }
        let hub = Hub::from_env()?;
        Ok(self.hub.get_or_init(|| hub))
    }

    fn once(&self, address: &str, ask: impl FnOnce() -> Result<Snapshot>) -> Result<Snapshot> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = known().get(address) {
            return Ok(snapshot.clone());
        }
        let snapshot = ask()?;
        Ok(known().entry(address.to_owned()).or_insert(snapshot).clone())
    }

    /// The files of the model at this address; none is taken yet.
    pub fn model(&self, address: &Path) -> Result<Snapshot> {
        let text = address.to_string_lossy();
        let parsed = Address::of_model(&text)?;
        self.once(&text, || self.hub()?.model(&parsed, &Context::quiet()))
    }

    /// Those of them that say how text becomes tokens.
    pub fn tokenizer(&self, address: &Path) -> Result<Snapshot> {
        let files = self.model(address)?.only(is_tokenizer_file);
        if !files.files.iter().any(|file| file.name == "tokenizer.json") {
            bail_user!("{} has no tokenizer.json", address.display());
        }
        Ok(files)
    }

    /// The data files at this address; none is taken yet.
    fn data(&self, address: &str) -> Result<Snapshot> {
        let parsed = Address::parse(address)?;
        let wanted = ingest::selects(&parsed.path)?;
        self.once(address, || self.hub()?.data(&parsed, wanted, &Context::quiet()))
    }

    /// Takes a snapshot's files, as far as they are not there yet.
    pub fn fetch(&self, snapshot: &Snapshot, ctx: &Context) -> Result<()> {
        self.hub()?.fetch(snapshot, ctx)
    }

    /// Puts the places of the files in the Hub's cache in place of the addresses in `sources`; returns what has to be
    /// fetched before they are read.
    pub fn localise(&self, sources: &mut [Source]) -> Result<Vec<Snapshot>> {
        let mut snapshots = Vec::new();
        for source in sources {
            let joined = source.join.iter_mut().map(|join| &mut join.path);
            for path in joined {
                if let [local] = &self.places(path, &mut snapshots)?[..] {
                    path.clone_from(local);
                } else {
                    bail_user!(
                        "[[source]] join, path = \"{path}\": this is several files, where one is needed"
                    );
                }
            }
            for paths in std::iter::once(&mut source.path).chain(source.parallel.values_mut()) {
                if paths.list().iter().any(is_address) {
                    let mut local = Vec::new();
                    for path in paths.list() {
                        local.extend(self.places(path, &mut snapshots)?);
                    }
                    *paths = Paths::Many(local);
                }
            }
        }
        Ok(snapshots)
    }

    /// Where the files of a path lie: in the cache if it is an address, else where it says.
    fn places(&self, path: &str, snapshots: &mut Vec<Snapshot>) -> Result<Vec<String>> {
        if !is_address(path) {
            return Ok(vec![path.to_owned()]);
        }
        let snapshot = self.data(&expand_env(path)?)?;
        let place = |file| snapshot.path(file).to_string_lossy().into_owned();
        let places = snapshot.files.iter().map(place).collect();
        snapshots.push(snapshot);
        Ok(places)
    }
}

/// A model's folder: where an address's files lie once they are fetched, else the path itself.
pub fn model_folder(path: &Path, ctx: &Context) -> Result<PathBuf> {
    fetched(path, Remote::model, ctx)
}

/// The same without its weights: what is needed to plan with it.
pub fn outline_folder(path: &Path, ctx: &Context) -> Result<PathBuf> {
    let without_weights = |remote: &Remote, address: &Path| {
        Ok(remote.model(address)?.only(|name| !name.contains(".safetensors")))
    };
    fetched(path, without_weights, ctx)
}

/// The same for its tokenizer alone.
pub fn tokenizer_folder(path: &Path, ctx: &Context) -> Result<PathBuf> {
    fetched(path, Remote::tokenizer, ctx)
}

/// What is meant by names that are most likely slips: `owner/name`, as the Hub's own tools call a model, and the
/// output of a training, which holds the model.
fn refuse_slips(path: &Path) -> Result<()> {
    let holds = |folder: &Path| {
        let files = ["config.json", "adapter_config.json", "tokenizer.json"];
        files.iter().any(|name| folder.join(name).exists())
    };
    let inner = path.join("model");
    if !holds(path) && holds(&inner) {
        bail_user!(
            "{}: no model folder, but what a training wrote; its model is {}",
            path.display(),
            inner.display()
        );
    }
    let parts: Vec<_> = path.components().collect();
    let is_plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    if parts.len() == 2 && is_plain && !path.exists() {
        let path = path.display();
        bail_user!("{path}: no such folder here; the Hub's model of that name is hf://{path}");
    }
    Ok(())
}

fn fetched(
    path: &Path,
    resolve: impl FnOnce(&Remote, &Path) -> Result<Snapshot>,
    ctx: &Context,
) -> Result<PathBuf> {
    if !is_address(path) {
        refuse_slips(path)?;
        return Ok(path.to_owned());
    }
    let remote = Remote::default();
    let snapshot = resolve(&remote, path)?;
    remote.fetch(&snapshot, ctx)?;
    Ok(snapshot.folder)
}

/// The files that paths of data name: those of an address once they are fetched, else the path itself.
pub fn data_files(paths: &[PathBuf], ctx: &Context) -> Result<Vec<PathBuf>> {
    let (remote, mut snapshots) = (Remote::default(), Vec::new());
    let mut files = Vec::new();
    for path in paths {
        match is_address(path) {
            true => files.extend(
                remote
                    .places(&path.to_string_lossy(), &mut snapshots)?
                    .into_iter()
                    .map(PathBuf::from),
            ),
            false => files.push(path.clone()),
        }
    }
    snapshots.iter().try_for_each(|snapshot| remote.fetch(snapshot, ctx))?;
    Ok(files)
}

/// The same where one file is needed.
pub fn data_file(path: &Path, ctx: &Context) -> Result<PathBuf> {
    match &data_files(&[path.to_owned()], ctx)?[..] {
        [file] => Ok(file.clone()),
        files => bail_user!(
            "{}: this is {} files, where one is needed; name it",
            path.display(),
            files.len()
        ),
    }
}

/// Takes what the sources name on the Hub, and puts the local places in.
pub fn fetch_sources(sources: &mut [Source], ctx: &Context) -> Result<()> {
    let remote = Remote::default();
    let snapshots = remote.localise(sources)?;
    snapshots.iter().try_for_each(|snapshot| remote.fetch(snapshot, ctx))
}
