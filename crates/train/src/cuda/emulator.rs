//! The kernels on the host: `kernels/host/kernels.cpp` compiled by the machine's C++ compiler into a
//! library, behind the same [`Driver`] as a card. For tests: it is exact about what the kernels
//! compute and strict about how, and as slow as that sounds.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context as _, Result, bail, ensure};
use libloading::Library;

use super::driver::{
    Address, Arguments, Driver, Event, Facts, GraphId, Grid, Stream, TensorMap, TensorShape,
};

type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    u32,
    *mut *mut c_void,
    *const u32,
    u32,
) -> c_int;

/// Bytes before and after each allocation that nothing may write.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// The emulation; one kernel at a time.
pub struct Emulator {
    library: &'static Mutex<Library>,
    facts: Facts,
    memory: Mutex<Vec<(Address, usize, std::alloc::Layout)>>,
    copies: Mutex<Copies>,
    recording: Mutex<Recording>,
}

/// What is being recorded, what was, and how often recordings ran.
#[derive(Default)]
struct Recording {
    open: Option<Vec<Step>>,
    graphs: BTreeMap<u64, Arc<Vec<Step>>>,
    replays: usize,
}

/// What can be recorded.
#[derive(Clone)]
enum Step {
    Launch(String, Grid, Arguments),
    Copy(Address, Address, usize),
    Zero(Address, usize),
}

/// The streams beside the kernels' own. Their copies happen as late as waits allow, so that a wait that
/// is missing shows; the kernels' own stream is always done.
#[derive(Default)]
struct Copies {
    load: Queue,
    store: Queue,
    exchange: Queue,
    events: BTreeMap<u64, (Stream, u64)>,
    made: u64,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// How many were asked for, and how many of them are done.
    asked: u64,
    done: u64,
}

#[derive(Clone, Copy)]
enum Work {
    Copy { to: Address, from: Address, bytes: usize },
    Wait { stream: Stream, until: u64 },
}

impl Copies {
    fn queue(&mut self, stream: Stream) -> Option<&mut Queue> {
        match stream {
            Stream::Compute => None,
            Stream::Load => Some(&mut self.load),
            Stream::Store => Some(&mut self.store),
            Stream::Exchange => Some(&mut self.exchange),
        }
    }

    /// Carries out what the stream holds up to its `until`-th piece of work.
    fn run(&mut self, stream: Stream, until: u64) {
        while let Some(queue) = self.queue(stream).filter(|queue| queue.done < until) {
            let work = queue.work.pop_front().expect("what was asked for and is not done");
            queue.done += 1;
            match work {
                Work::Wait { stream, until } => self.run(stream, until),
                Work::Copy { to, from, bytes } => copy_now(to, from, bytes),
            }
        }
    }

    fn add(&mut self, stream: Stream, work: Work) {
        match (self.queue(stream), work) {
            (Some(queue), work) => {
                queue.work.push_back(work);
                queue.asked += 1;
            }
            (None, Work::Wait { stream, until }) => self.run(stream, until),
            (None, Work::Copy { to, from, bytes }) => copy_now(to, from, bytes),
        }
    }

    fn run_all(&mut self) {
        for stream in [Stream::Load, Stream::Store, Stream::Exchange] {
            self.run_all_of(stream);
        }
    }

    fn run_all_of(&mut self, stream: Stream) {
        let asked = self.queue(stream).map_or(0, |queue| queue.asked);
        self.run(stream, asked);
    }
}

fn copy_now(to: Address, from: Address, bytes: usize) {
    // SAFETY: the caller of the copy owns both ranges.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
}

impl Emulator {
    /// A device of this compute capability, or `None` where there is no C++ compiler.
    ///
    /// # Panics
    /// If the kernels do not compile.
    #[must_use]
    pub fn new(capability: (u32, u32)) -> Option<Self> {
        let facts = Facts {
            name: "emulation".to_owned(),
            capability,
            multiprocessors: 3,
            memory: 1 << 30,
            free: 1 << 30,
        };
        library().map(|library| Self {
            library,
            facts,
            memory: Mutex::default(),
            copies: Mutex::default(),
            recording: Mutex::default(),
        })
    }

    /// How often a recording ran.
    pub fn replays(&self) -> usize {
        self.recording.lock().expect("no panic while it is held").replays
    }

    /// Writes work down if something is being recorded; else does it.
    fn take(&self, work: Step) -> Result<()> {
        if let Some(open) = &mut self.recording.lock().expect("no panic while it is held").open {
            open.push(work);
            return Ok(());
        }
        self.carry_out(work)
    }

    /// A card refuses this while it records.
    fn refuse_in_recording(&self, what: &str) -> Result<()> {
        let recording = self.recording.lock().expect("no panic while it is held");
        ensure!(recording.open.is_none(), "{what} in a recording");
        Ok(())
    }

    fn carry_out(&self, work: Step) -> Result<()> {
        match work {
            Step::Launch(kernel, grid, arguments) => self.run(&kernel, grid, arguments),
            Step::Copy(to, from, bytes) => {
                copy_now(to, from, bytes);
                Ok(())
            }
            // SAFETY: the caller owns the range.
            Step::Zero(at, bytes) => unsafe {
                std::ptr::write_bytes(at as *mut u8, 0, bytes);
                Ok(())
            },
        }
    }

    /// Dynamic shared memory that a block can have: on Hopper, and on the least of the cards that the
    /// kernels for Ampere run on.
    fn most_shared(&self) -> u32 {
        if self.facts.is_hopper() { 227 << 10 } else { 99 << 10 }
    }

    fn run(&self, kernel: &str, grid: Grid, mut arguments: Arguments) -> Result<()> {
        let name = CString::new(kernel)?;
        if grid.is_empty() {
            return Ok(());
        }
        // What a card refuses to launch.
        let [x, y, z] = grid.blocks;
        ensure!(
            x <= i32::MAX as u32 && y.max(z) <= 65_535 && (1..=1024).contains(&grid.threads),
            "{kernel} over {grid:?}"
        );
        ensure!(grid.shared <= self.most_shared(), "{kernel} asks for {} bytes", grid.shared);
        let sizes = arguments.sizes();
        let library = self.library.lock().expect("no panic while it is held");
        // SAFETY: the function has this type, and the kernel reads as many arguments as it
        // declares.
        let code = unsafe {
            let launch = library.get::<LaunchFn>(b"emulate_launch")?;
            let block = [grid.threads, 1, 1];
            let mut pointers = arguments.pointers();
            launch(
                name.as_ptr(),
                grid.blocks.as_ptr(),
                block.as_ptr(),
                grid.shared,
                pointers.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len() as u32,
            )
        };
        drop(library);
        match code {
            0 => {}
            1 => bail!("no kernel is called {kernel}"),
            2 => bail!("{kernel} is given other arguments than it declares: {sizes:?} bytes"),
            _ => bail!("{kernel} over {grid:?}: more threads than it is compiled for"),
        }
        self.check_guards(kernel)
    }

    /// Whether something wrote past the ends of an allocation.
    fn check_guards(&self, kernel: &str) -> Result<()> {
        for &(at, len, _) in self.memory.lock().expect("no panic while it is held").iter() {
            // SAFETY: guards on both sides belong to the allocation.
            let (before, after) = unsafe {
                (
                    std::slice::from_raw_parts((at as usize - GUARD) as *const u8, GUARD),
                    std::slice::from_raw_parts((at as usize + len) as *const u8, GUARD),
                )
            };
            ensure!(
                before.iter().chain(after).all(|&b| b == GUARD_BYTE),
                "{kernel} wrote past the ends of {len} bytes"
            );
        }
        Ok(())
    }
}

/// The kernels as a library of this host, or `None` where there is no C++ compiler.
///
/// # Panics
/// If they do not compile.
pub fn library() -> Option<&'static Mutex<Library>> {
    static LIBRARY: OnceLock<Option<Mutex<Library>>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let path = build(&compiler()?).expect("the kernels compile for the host");
        // SAFETY: the library is ours; loading it registers its kernels.
        Some(Mutex::new(unsafe { Library::new(path) }.expect("the library loads")))
    });
    library.as_ref()
}

/// The machine's C++ compiler: $CXX, or c++.
fn compiler() -> Option<String> {
    let name = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    Command::new(&name).arg("--version").output().ok().filter(|o| o.status.success()).map(|_| name)
}

/// Compiles the kernels; the library's path. Built once for each state of the sources.
fn build(compiler: &str) -> Result<PathBuf> {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut hasher = blake3::Hasher::new();
    for folder in [kernels.clone(), kernels.join("host")] {
        let mut files: Vec<_> =
            std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        files.sort();
        for file in files.iter().filter(|f| f.is_file()) {
            hasher.update(&std::fs::read(file)?);
        }
    }
    // Beside the test itself: from there code can be loaded, which not every system allows of temporary folders.
    let test = std::env::current_exe()?;
    let folder = test.parent().context("a program stands in a folder")?;
    let path = folder.join(format!("isogloss-kernels-{}.so", &hasher.finalize().to_hex()[..16]));
    if path.exists() {
        return Ok(path);
    }
    let part = folder.join(format!("isogloss-kernels-{}.part", std::process::id()));
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-ffp-contract=off", "-w", "-shared", "-fPIC"])
        // A card faults where an address is no multiple of what it is read as; most hosts do not.
        .args(["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error", "-o"])
        .arg(&part)
        .arg(kernels.join("host/kernels.cpp"))
        .output()
        .context("running the C++ compiler")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&part, &path)?;
    Ok(path)
}

/// The emulation's own form of a tensor map; see `Tensor` in emulate_hopper.h.
#[repr(C)]
struct HostTensor {
    base: Address,
    rank: u32,
    element_bytes: u32,
    swizzle_bytes: u32,
    boxes: [u32; 3],
    sizes: [u64; 3],
    strides: [u64; 2],
}

impl Driver for Emulator {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.refuse_in_recording("memory is reserved")?;
        let layout = std::alloc::Layout::from_size_align(bytes + 2 * GUARD, 256)?;
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc(layout) };
        ensure!(!base.is_null(), "out of memory");
        // SAFETY: inside the allocation. Fresh memory is NaN, so that what is read before it is
        // written shows.
        unsafe {
            base.write_bytes(0xff, bytes + 2 * GUARD);
            base.write_bytes(GUARD_BYTE, GUARD);
            base.add(GUARD + bytes).write_bytes(GUARD_BYTE, GUARD);
        }
        let at = base as Address + GUARD as Address;
        self.memory.lock().expect("no panic while it is held").push((at, bytes, layout));
        Ok(at)
    }

    fn free(&self, at: Address) {
        // As the driver does.
        self.copies.lock().expect("no panic while it is held").run_all();
        let mut memory = self.memory.lock().expect("no panic while it is held");
        if let Some(place) = memory.iter().position(|m| m.0 == at) {
            let (at, _, layout) = memory.swap_remove(place);
            // SAFETY: it came from `allocate` with this layout.
            unsafe { std::alloc::dealloc((at as usize - GUARD) as *mut u8, layout) };
        }
    }

    fn copy_in(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.refuse_in_recording("a copy from the host")?;
        // SAFETY: the caller owns the range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn copy_out(&self, bytes: &mut [u8], from: Address) -> Result<()> {
        self.refuse_in_recording("a copy to the host")?;
        // SAFETY: the caller owns the range.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.take(Step::Copy(to, from, bytes))
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.take(Step::Zero(at, bytes))
    }

    fn launch_on(
        &self,
        stream: Stream,
        kernel: &str,
        grid: Grid,
        arguments: Arguments,
    ) -> Result<()> {
        if stream == Stream::Compute {
            return self.take(Step::Launch(kernel.to_owned(), grid, arguments));
        }
        self.refuse_in_recording("a launch in another stream")?;
        self.copies.lock().expect("no panic while it is held").run_all_of(stream);
        self.run(kernel, grid, arguments)
    }

    fn tensor_map(&self, shape: &TensorShape) -> Result<TensorMap> {
        ensure!(shape.base.is_multiple_of(16), "a tensor that does not begin at 16 bytes");
        for stride in &shape.strides[..shape.rank as usize - 1] {
            ensure!(stride.is_multiple_of(16) && *stride < 1 << 40, "a stride of {stride} bytes");
        }
        let is_size = |size: &u64| (1..=1 << 32).contains(size);
        let is_box = |size: &u32| (1..=256).contains(size);
        let rank = shape.rank as usize;
        // Rows of a box are as long as the swizzle's span.
        ensure!(
            (2..=3).contains(&rank)
                && shape.sizes[..rank].iter().all(is_size)
                && shape.boxes[..rank].iter().all(is_box)
                && shape.boxes[0] == 64,
            "{shape:?}"
        );
        let mut map = TensorMap([0; 16]);
        let host = HostTensor {
            base: shape.base,
            rank: shape.rank,
            element_bytes: 2,
            swizzle_bytes: 128,
            boxes: shape.boxes,
            sizes: shape.sizes,
            strides: shape.strides,
        };
        // SAFETY: a map has room for it.
        unsafe { (&raw mut map).cast::<HostTensor>().write(host) };
        Ok(map)
    }

    fn allocate_host(&self, bytes: usize) -> Result<Address> {
        let at = self.allocate(bytes)?;
        self.zero(at, bytes)?;
        Ok(at)
    }

    fn free_host(&self, at: Address) {
        self.free(at);
    }

    fn copy_on(&self, stream: Stream, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.refuse_in_recording("a copy in another stream")?;
        let mut copies = self.copies.lock().expect("no panic while it is held");
        copies.add(stream, Work::Copy { to, from, bytes });
        Ok(())
    }

    fn event(&self) -> Result<Event> {
        let mut copies = self.copies.lock().expect("no panic while it is held");
        copies.made += 1;
        Ok(Event(copies.made))
    }

    fn drop_event(&self, event: Event) {
        self.copies.lock().expect("no panic while it is held").events.remove(&event.0);
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        self.refuse_in_recording("an event")?;
        let mut copies = self.copies.lock().expect("no panic while it is held");
        let asked = copies.queue(stream).map_or(0, |queue| queue.asked);
        copies.events.insert(event.0, (stream, asked));
        Ok(())
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        self.refuse_in_recording("an event")?;
        let mut copies = self.copies.lock().expect("no panic while it is held");
        if let Some(&(of, until)) = copies.events.get(&event.0) {
            copies.add(stream, Work::Wait { stream: of, until });
        }
        Ok(())
    }

    fn await_event(&self, event: Event) -> Result<()> {
        // The kernels' own stream is always done with what it waits for.
        self.wait(Stream::Compute, event)
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_recording("a wait")?;
        self.copies.lock().expect("no panic while it is held").run_all();
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        self.refuse_in_recording("a recording")?;
        self.recording.lock().expect("no panic while it is held").open = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphId> {
        let mut recording = self.recording.lock().expect("no panic while it is held");
        let work = recording.open.take().context("nothing is being recorded")?;
        let id = recording.graphs.last_key_value().map_or(1, |(last, _)| last + 1);
        recording.graphs.insert(id, Arc::new(work));
        Ok(GraphId(id))
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        let work = {
            let mut recording = self.recording.lock().expect("no panic while it is held");
            ensure!(recording.open.is_none(), "a recording in a recording");
            recording.replays += 1;
            Arc::clone(recording.graphs.get(&graph.0).context("no such recording")?)
        };
        work.iter().try_for_each(|work| self.carry_out(work.clone()))
    }

    fn forget(&self, graph: GraphId) {
        self.recording.lock().expect("no panic while it is held").graphs.remove(&graph.0);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let all: Vec<_> =
            self.memory.lock().map(|m| m.iter().map(|m| m.0).collect()).unwrap_or_default();
        for at in all {
            self.free(at);
        }
    }
}
