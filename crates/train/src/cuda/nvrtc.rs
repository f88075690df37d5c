//! CUDA C++ to machine code, by NVIDIA's run-time compiler. It is looked for at run time and loaded
//! by hand, because a wheel of PyPI keeps it where no loader looks; compiled modules stay on disk by
//! the hash of all that decides them.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};
use artifact::error::user;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::kernels::{HEADERS, KernelFile};

type Program = *mut core::ffi::c_void;

/// The compiler, loaded.
pub struct Nvrtc {
    library: Library,
    /// Where it was found.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (i32, i32),
}

/// What compiling gave.
pub struct Compiled {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// What the compiler and the assembler said: registers, spills, warnings.
    pub log: String,
}

impl Nvrtc {
    /// The compiler of this machine, found once.
    ///
    /// # Errors
    /// A user error that says where it was looked for and how to get it.
    pub fn get() -> Result<&'static Self> {
        static FOUND: OnceLock<Option<Nvrtc>> = OnceLock::new();
        FOUND.get_or_init(Self::find).as_ref().ok_or_else(|| {
            user(
                "--device cuda needs NVIDIA's run-time compiler (libnvrtc), which is not on this machine: install a CUDA toolkit (12.4 or later), \
                 or `pip install nvidia-cuda-nvrtc` into a virtual environment and activate it, or name the file in ISOGLOSS_NVRTC",
            )
        })
    }

    /// The first whose code the driver takes: none of a later major version than its own. Where there
    /// is no driver, or none suits it, the first.
    fn find() -> Option<Self> {
        let named = std::env::var_os("ISOGLOSS_NVRTC").is_some();
        let newest = driver_version().filter(|_| !named).map_or(i32::MAX, |(major, _)| major);
        let mut first = None;
        for path in candidates() {
            let Ok(found) = Self::load(&path) else { continue };
            if found.version.0 <= newest {
                return Some(found);
            }
            first = first.or(Some(found));
        }
        first
    }

    /// Loads it from a file, the library of its built-in headers first: it asks for that by name.
    ///
    /// # Errors
    /// If the file is not that library.
    pub fn load(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            for entry in std::fs::read_dir(folder)?.flatten() {
                let name = entry.file_name();
                if name.to_string_lossy().starts_with("libnvrtc-builtins.so") {
                    // SAFETY: NVIDIA's library; its initialisation has no effects of its own. It
                    // stays loaded.
                    if let Ok(builtins) =
                        unsafe { Library::open(Some(entry.path()), RTLD_NOW | RTLD_GLOBAL) }
                    {
                        std::mem::forget(builtins);
                    }
                }
            }
        }
        // SAFETY: as above.
        let library = unsafe { Library::open(Some(path), RTLD_NOW) }?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the documented signature.
        let code = unsafe {
            let version = library
                .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion")?;
            version(&raw mut major, &raw mut minor)
        };
        ensure!(code == 0, "nvrtcVersion: {code}");
        Ok(Self { library, path: path.to_owned(), version: (major, minor) })
    }

    /// Compiles one file for an architecture such as `sm_90a`.
    ///
    /// # Errors
    /// With the compiler's log if it refuses the source.
    pub fn compile(&self, file: &KernelFile, architecture: &str) -> Result<Compiled> {
        let source = CString::new(file.source)?;
        let name = CString::new(file.name)?;
        let texts: Vec<CString> =
            HEADERS.iter().map(|(_, text)| CString::new(*text)).collect::<Result<_, _>>()?;
        let names: Vec<CString> =
            HEADERS.iter().map(|(name, _)| CString::new(*name)).collect::<Result<_, _>>()?;
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let options: Vec<CString> =
            options(architecture).into_iter().map(CString::new).collect::<Result<_, _>>()?;
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the documented signatures; every string outlives the program.
        unsafe {
            let create = self.library.get::<unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> c_int>(b"nvrtcCreateProgram")?;
            let compile =
                self.library
                    .get::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>(
                        b"nvrtcCompileProgram",
                    )?;
            let destroy = self
                .library
                .get::<unsafe extern "C" fn(*mut Program) -> c_int>(b"nvrtcDestroyProgram")?;
            let code = create(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as c_int,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr(),
            );
            ensure!(code == 0, "nvrtcCreateProgram: {code}");
            let code = compile(program, options.len() as c_int, pointers(&options).as_ptr());
            let log = self.bytes(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog");
            let cubin = self.bytes(program, b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN");
            destroy(&raw mut program);
            let log = log.map(|log| {
                CStr::from_bytes_until_nul(&log)
                    .map_or(String::new(), |l| l.to_string_lossy().into_owned())
            })?;
            if code != 0 {
                bail!(
                    "{} does not compile for {architecture} with NVRTC {}.{}:\n{log}",
                    file.name,
                    self.version.0,
                    self.version.1
                );
            }
            Ok(Compiled { cubin: cubin?, log })
        }
    }

    /// One of the program's outputs, by the functions that give its size and itself.
    ///
    /// # Safety
    /// `program` is alive, and both functions have the documented signatures.
    unsafe fn bytes(&self, program: Program, size: &[u8], get: &[u8]) -> Result<Vec<u8>> {
        // SAFETY: as the caller promises.
        unsafe {
            let mut len = 0_usize;
            let code =
                self.library.get::<unsafe extern "C" fn(Program, *mut usize) -> c_int>(size)?(
                    program,
                    &raw mut len,
                );
            ensure!(code == 0, "{}: {code}", String::from_utf8_lossy(size));
            let mut bytes = vec![0_u8; len];
            let code =
                self.library.get::<unsafe extern "C" fn(Program, *mut c_char) -> c_int>(get)?(
                    program,
                    bytes.as_mut_ptr().cast(),
                );
            ensure!(code == 0, "{}: {code}", String::from_utf8_lossy(get));
            Ok(bytes)
        }
    }

    /// Machine code of one file, from the cache where it is there.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`]. A cache that cannot be written is no error.
    pub fn cubin(&self, file: &KernelFile, architecture: &str) -> Result<Vec<u8>> {
        let mut hasher = blake3::Hasher::new();
        for text in HEADERS.iter().map(|(_, text)| *text).chain([file.source]) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        for option in options(architecture) {
            hasher.update(option.as_bytes()).update(&[0]);
        }
        hasher.update(&self.version.0.to_le_bytes()).update(&self.version.1.to_le_bytes());
        let name =
            format!("{}-{architecture}-{}.cubin", file.name, &hasher.finalize().to_hex()[..32]);
        let cached = cache_folder().map(|folder| folder.join(name));
        if let Some(bytes) = cached.as_ref().and_then(|path| std::fs::read(path).ok())
            && bytes.starts_with(b"\x7fELF")
        {
            return Ok(bytes);
        }
        let cubin = self.compile(file, architecture)?.cubin;
        if let Some(path) = cached {
            let _ = keep(&path, &cubin);
        }
        Ok(cubin)
    }
}

/// The version of CUDA that the driver is of, if there is one.
fn driver_version() -> Option<(i32, i32)> {
    use cudarc::driver::sys;
    let mut version = 0;
    // SAFETY: the first only tries to load the library; the second is called where it is loaded.
    let is_known = unsafe {
        sys::is_culib_present()
            && sys::cuDriverGetVersion(&raw mut version) == sys::CUresult::CUDA_SUCCESS
    };
    is_known.then_some((version / 1000, version % 1000 / 10))
}

fn options(architecture: &str) -> Vec<String> {
    vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        "-default-device".to_owned(),
        "--ptxas-options=-v".to_owned(),
    ]
}

/// Writes a file whole or not at all.
fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file in a folder")?;
    std::fs::create_dir_all(folder)?;
    let part = path.with_extension(format!("part{}", std::process::id()));
    std::fs::write(&part, bytes)?;
    Ok(std::fs::rename(&part, path)?)
}

/// Where compiled kernels stay: `$XDG_CACHE_HOME/isogloss/kernels`, or under `~/.cache`.
fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base =
        base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("isogloss").join("kernels"))
}

/// Where NVRTC may stand, the likeliest first.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::env::var_os("ISOGLOSS_NVRTC").map(PathBuf::from).into_iter().collect();
    let mut folders = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = std::env::var_os(name).map(PathBuf::from) {
            folders.extend([root.join("lib64"), root.join("lib")]);
        }
    }
    folders.extend(wheel_folders("cu"));
    folders.extend(below(Path::new("/usr/local"), "cuda").into_iter().flat_map(|root| {
        [
            root.join("lib64"),
            root.join("targets/x86_64-linux/lib"),
            root.join("targets/sbsa-linux/lib"),
        ]
    }));
    for folder in folders {
        found.extend(below(&folder, "libnvrtc.so"));
    }
    found.extend(["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"].map(PathBuf::from));
    found
}

/// Where wheels of PyPI keep NVIDIA's libraries: of each environment there may be, the packages whose names begin so.
pub(super) fn wheel_folders(package: &str) -> Vec<PathBuf> {
    let mut environments: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(|name| std::env::var_os(name).map(PathBuf::from))
        .chain([PathBuf::from(".venv"), PathBuf::from("/usr/local"), PathBuf::from("/usr")])
        .collect();
    if let Some(home) = std::env::var_os("HOME") {
        environments.push(PathBuf::from(home).join(".local"));
    }
    let mut folders = Vec::new();
    for environment in environments {
        for python in below(&environment.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                let nvidia = python.join(packages).join("nvidia");
                folders.extend(below(&nvidia, package).into_iter().map(|one| one.join("lib")));
            }
        }
    }
    folders
}

/// Entries of a folder whose names begin so, the last name first: newer versions sort behind.
fn below(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    paths.sort();
    paths.reverse();
    paths
}
