//! NVIDIA's library for talk between cards, loaded by hand at run time, because packages have it as `libnccl.so.2`
//! alone and a wheel of PyPI where no loader looks. Of it we use connections, sends and receives.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libloading::os::unix::Library;

use super::driver::Driver;
use super::exchange::{Carrier, Parcel};
use super::nvrtc::wheel_folders;
use crate::parallel::Mesh;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([c_char; 128]);

type Communicator = *mut c_void;
type Code = c_int;
/// `ncclInt8`: bytes travel as they are.
const BYTES: c_int = 0;

/// The functions that we use; their signatures are those of nccl.h, version 2.
struct Library2 {
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Code,
    init: unsafe extern "C" fn(*mut Communicator, c_int, UniqueId, c_int) -> Code,
    abort: unsafe extern "C" fn(Communicator) -> Code,
    destroy: unsafe extern "C" fn(Communicator) -> Code,
    group_start: unsafe extern "C" fn() -> Code,
    group_end: unsafe extern "C" fn() -> Code,
    send:
        unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Communicator, *mut c_void) -> Code,
    receive:
        unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Communicator, *mut c_void) -> Code,
    error: unsafe extern "C" fn(Code) -> *const c_char,
}

impl Library2 {
    /// The library of this machine, if there is one.
    fn get() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<Library2>> = OnceLock::new();
        FOUND.get_or_init(|| candidates().into_iter().find_map(Self::load)).as_ref()
    }

    fn load(path: PathBuf) -> Option<Self> {
        // SAFETY: NVIDIA's library, whose initialisation has no effects of its own; it stays
        // loaded, and the signatures are those of its header.
        unsafe {
            let library = Library::new(path).ok()?;
            let found = Self {
                unique_id: *library.get(b"ncclGetUniqueId").ok()?,
                init: *library.get(b"ncclCommInitRank").ok()?,
                abort: *library.get(b"ncclCommAbort").ok()?,
                destroy: *library.get(b"ncclCommDestroy").ok()?,
                group_start: *library.get(b"ncclGroupStart").ok()?,
                group_end: *library.get(b"ncclGroupEnd").ok()?,
                send: *library.get(b"ncclSend").ok()?,
                receive: *library.get(b"ncclRecv").ok()?,
                error: *library.get(b"ncclGetErrorString").ok()?,
            };
            std::mem::forget(library);
            Some(found)
        }
    }

    fn check(&self, what: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a static text.
        let text = unsafe { CStr::from_ptr((self.error)(code)) };
        bail!("{what}: {}", text.to_string_lossy())
    }
}

fn candidates() -> Vec<PathBuf> {
    let named = std::env::var_os("ISOGLOSS_NCCL").map(PathBuf::from);
    let of_system = ["libnccl.so.2", "libnccl.so"].map(PathBuf::from);
    let of_wheels = wheel_folders("nccl").into_iter().map(|folder| folder.join("libnccl.so.2"));
    named.into_iter().chain(of_system).chain(of_wheels).collect()
}

/// What the ranks of a new connection find each other by; none where there is no NCCL on this machine.
///
/// # Errors
/// If the library refuses.
pub fn unique_id() -> Result<Option<Vec<u8>>> {
    let Some(library) = Library2::get() else { return Ok(None) };
    let mut id = UniqueId([0; 128]);
    // SAFETY: the id is its to write.
    library.check("ncclGetUniqueId", unsafe { (library.unique_id)(&raw mut id) })?;
    Ok(Some(id.0.iter().map(|&byte| byte as u8).collect()))
}

/// A communicator, used by one thread at a time.
struct Held(Communicator);

// SAFETY: NCCL binds a communicator to no thread, and the lock that it stands behind lets one in at a time.
unsafe impl Send for Held {}

/// A connection between cards.
pub struct Nccl {
    library: &'static Library2,
    communicator: Mutex<Held>,
    driver: Arc<dyn Driver>,
    mesh: Arc<Mesh>,
}

impl Nccl {
    /// Connects this rank's card with those of the others, which all call this.
    ///
    /// # Errors
    /// If this machine has no NCCL, or it refuses.
    pub fn connect(driver: Arc<dyn Driver>, mesh: Arc<Mesh>, id: &[u8]) -> Result<Self> {
        let Some(library) = Library2::get() else {
            bail!(
                "rank 0 has NCCL and this machine has not: install libnccl2, or name libnccl.so.2 in ISOGLOSS_NCCL"
            );
        };
        ensure!(id.len() == 128, "an NCCL id of {} bytes", id.len());
        let mut unique = UniqueId([0; 128]);
        unique.0.iter_mut().zip(id).for_each(|(to, &from)| *to = from as c_char);
        // This makes the card's context the thread's, which NCCL takes.
        driver.synchronize()?;
        let mut communicator = std::ptr::null_mut();
        let (size, rank) = (mesh.size() as c_int, mesh.rank as c_int);
        // SAFETY: the communicator is its to write.
        let code = unsafe { (library.init)(&raw mut communicator, size, unique, rank) };
        library.check("ncclCommInitRank", code)?;
        let communicator = Mutex::new(Held(communicator));
        Ok(Self { library, communicator, driver, mesh })
    }

    fn communicator(&self) -> MutexGuard<'_, Held> {
        self.communicator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the exchange, and gives it up where a rank is gone: it would never end.
    fn wait(&self, communicator: Communicator) -> Result<()> {
        while !self.driver.has_exchanged()? {
            if let Some(rank) = self.mesh.first_gone() {
                // SAFETY: the communicator is not used after this but to be dropped.
                unsafe { (self.library.abort)(communicator) };
                bail!("rank {rank} is gone");
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

impl Carrier for Nccl {
    fn carry(&self, sends: &[Parcel], receives: &[Parcel]) -> Result<()> {
        let (library, stream) = (self.library, self.driver.exchange_stream());
        let held = self.communicator();
        let communicator = held.0;
        // SAFETY: the parcels lie in the card's memory, and the work is in its stream's order.
        unsafe {
            library.check("ncclGroupStart", (library.group_start)())?;
            for &Parcel { peer, at, bytes } in sends {
                let at = at as *const c_void;
                let code = (library.send)(at, bytes, BYTES, peer as c_int, communicator, stream);
                library.check("ncclSend", code)?;
            }
            for &Parcel { peer, at, bytes } in receives {
                let at = at as *mut c_void;
                let code = (library.receive)(at, bytes, BYTES, peer as c_int, communicator, stream);
                library.check("ncclRecv", code)?;
            }
            library.check("ncclGroupEnd", (library.group_end)())?;
        }
        self.wait(communicator)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.mesh.first_gone().is_none() {
            // SAFETY: nothing uses it after this.
            unsafe { (self.library.destroy)(self.communicator().0) };
        }
    }
}
