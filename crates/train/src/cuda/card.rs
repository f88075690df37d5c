//! A card, over the CUDA driver. The driver is loaded at run time; where there is none, or no card,
//! [`Card::open`] says what is missing.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use artifact::error::user;
use cudarc::driver::{result, sys};

use super::driver::{
    Address, Arguments, Driver, Event, Facts, GraphId, Grid, Stream, TensorMap, TensorShape,
};
use super::kernels::{architecture, file_of};
use super::nvrtc::Nvrtc;

/// One card and its streams of work.
pub struct Card {
    facts: Facts,
    capability: (u32, u32),
    architecture: String,
    /// Most dynamic shared memory of a block.
    shared: i32,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Beside it: copies in, copies out.
    load: sys::CUstream,
    store: sys::CUstream,
    exchange: sys::CUstream,
    modules: Mutex<Modules>,
    /// Whether work is being written down, not done.
    records: AtomicBool,
}

/// A point in a card's work; see [`Card::mark`].
pub struct Mark(sys::CUevent);

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: nothing else has it.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

#[derive(Default)]
struct Modules {
    by_file: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<String, sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread; the maps are behind a lock.
unsafe impl Send for Card {}
// SAFETY: as above.
unsafe impl Sync for Card {}

/// Why there is no card to use; `None` if there is one.
#[must_use]
pub fn missing() -> Option<&'static str> {
    // SAFETY: this only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Some("the CUDA driver (libcuda.so.1) is not installed");
    }
    if result::init().is_err() {
        return Some(
            "the CUDA driver cannot be started; is a card there, and may this user use it?",
        );
    }
    match result::device::get_count() {
        Ok(count) if count > 0 => None,
        _ => Some("the CUDA driver sees no card"),
    }
}

impl Card {
    /// The card of this number.
    ///
    /// # Errors
    /// A user error where there is no driver, no such card, or one that is too old.
    pub fn open(number: i32) -> Result<Self> {
        if let Some(what) = missing() {
            return Err(user(format!("--device cuda: {what}; --device cpu runs without")));
        }
        let device = result::device::get(number)
            .map_err(|_| user(format!("--device cuda: there is no card number {number}")))?;
        use sys::CUdevice_attribute_enum as Attribute;
        // SAFETY: the device exists.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        );
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: the device exists; the context is retained until the drop.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        // SAFETY: the context was just made.
        unsafe { result::ctx::set_current(context) }?;
        let new_stream = || result::stream::create(result::stream::StreamKind::NonBlocking);
        let [stream, load, store, exchange] =
            [new_stream()?, new_stream()?, new_stream()?, new_stream()?];
        let (free, memory) = result::mem_get_info()?;
        let facts = Facts {
            name: result::device::get_name(device)?,
            capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            memory: memory as u64,
            free: free as u64,
        };
        let architecture = architecture(capability)?;
        let (modules, records) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self {
            facts,
            capability,
            architecture,
            shared,
            context,
            stream,
            load,
            store,
            exchange,
            modules,
            records,
        })
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the card.
        Ok(unsafe { result::ctx::set_current(self.context) }?)
    }

    /// A kernel's handle; compiles its file where that was not done yet.
    fn function(&self, kernel: &str) -> Result<sys::CUfunction> {
        let mut modules = self.modules.lock().expect("no panic while it is held");
        if let Some(&function) = modules.functions.get(kernel) {
            return Ok(function);
        }
        let file = file_of(kernel)?;
        let module = match modules.by_file.get(file.name) {
            Some(&module) => module,
            None => {
                let nvrtc = Nvrtc::get()?;
                let cubin = nvrtc.cubin(file, &self.architecture)?;
                // SAFETY: a whole cubin, which the driver copies.
                let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) }
                    .with_context(|| {
                        let (major, minor) = nvrtc.version;
                        format!(
                            "loading {} for {}; NVRTC {major}.{minor} compiled it, and a driver of an earlier CUDA may not take that (ISOGLOSS_NVRTC names another)",
                            file.name, self.architecture
                        )
                    })?;
                modules.by_file.insert(file.name, module);
                module
            }
        };
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module, CString::new(kernel)?) }
            .with_context(|| format!("{kernel} in {}", file.name))?;
        use sys::CUfunction_attribute_enum as Attribute;
        // SAFETY: the function is alive.
        unsafe {
            let fixed = result::function::get_function_attribute(
                function,
                Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )?;
            result::function::set_function_attribute(
                function,
                Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                self.shared - fixed,
            )?;
            let registers = result::function::get_function_attribute(
                function,
                Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS,
            )?;
            file.check_registers(kernel, registers)?;
        }
        modules.functions.insert(kernel.to_owned(), function);
        Ok(function)
    }

    /// Compute capability of the card itself, whatever it poses as.
    #[must_use]
    pub fn native(&self) -> (u32, u32) {
        self.capability
    }

    /// The card with the kernels that an older one would run: an Ampere card's on a Hopper card.
    #[must_use]
    pub fn posing_as(mut self, capability: (u32, u32)) -> Self {
        self.facts.capability = capability;
        self
    }

    /// A point in the kernels' stream, to measure from or to.
    ///
    /// # Errors
    /// If the device reports a fault.
    pub fn mark(&self) -> Result<Mark> {
        self.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        // SAFETY: both are alive.
        unsafe { result::event::record(event, self.stream) }?;
        Ok(Mark(event))
    }

    /// Seconds between two points, once the work between them is done.
    ///
    /// # Errors
    /// If some of it failed.
    pub fn seconds(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.enter()?;
        // SAFETY: both are alive and were recorded.
        unsafe {
            result::event::synchronize(to.0).context("work failed on the card")?;
            Ok(f64::from(result::event::elapsed(from.0, to.0)?) / 1e3)
        }
    }

    /// A recording would keep the host's address and read there, or write, at each run.
    fn refuse_in_recording(&self, what: &str) -> Result<()> {
        ensure!(!self.records.load(Ordering::Relaxed), "{what} in a recording");
        Ok(())
    }

    fn handle(&self, stream: Stream) -> sys::CUstream {
        match stream {
            Stream::Compute => self.stream,
            Stream::Load => self.load,
            Stream::Store => self.store,
            Stream::Exchange => self.exchange,
        }
    }
}

impl Driver for Card {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64> {
        self.enter()?;
        Ok(result::mem_get_info()?.0 as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        // SAFETY: `free` gives it back.
        unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(|err| user(format!("the card has no {bytes} bytes left ({err})")))
    }

    fn free(&self, at: Address) {
        if self.enter().is_ok() {
            // SAFETY: it came from `allocate`; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(at) };
        }
    }

    fn copy_in(&self, to: Address, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.refuse_in_recording("a copy from the host")?;
        self.enter()?;
        // SAFETY: the caller owns the range. The driver has read pageable memory when this returns.
        Ok(unsafe { result::memcpy_htod_async(to, bytes, self.stream) }?)
    }

    fn copy_out(&self, bytes: &mut [u8], from: Address) -> Result<()> {
        self.refuse_in_recording("a copy to the host")?;
        self.enter()?;
        // SAFETY: the caller owns the range, and the wait makes the copy whole.
        unsafe {
            result::memcpy_dtoh_async(bytes, from, self.stream)?;
            result::stream::synchronize(self.stream).context("a kernel failed on the card")
        }
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the caller owns the ranges.
        Ok(unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }?)
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the caller owns the range.
        Ok(unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }?)
    }

    fn launch_on(
        &self,
        stream: Stream,
        kernel: &str,
        grid: Grid,
        mut arguments: Arguments,
    ) -> Result<()> {
        if grid.is_empty() {
            return Ok(());
        }
        self.enter()?;
        let function = self.function(kernel)?;
        let [x, y, z] = grid.blocks;
        let mut pointers = arguments.pointers();
        // SAFETY: the arguments are those that the kernel declares; the driver copies them.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared,
                self.handle(stream),
                &mut pointers,
            )
        }
        .with_context(|| format!("{kernel} over {grid:?}"))
    }

    fn tensor_map(&self, shape: &TensorShape) -> Result<TensorMap> {
        self.enter()?;
        let mut map = TensorMap([0; 16]);
        let steps = [1_u32; 3];
        // SAFETY: the map has the driver's size and alignment; the arrays have `rank` entries or more.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                shape.rank,
                shape.base as *mut core::ffi::c_void,
                shape.sizes.as_ptr(),
                shape.strides.as_ptr(),
                shape.boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .with_context(|| format!("describing {shape:?}"))?;
        Ok(map)
    }

    fn allocate_host(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        let bytes = bytes.max(1);
        // SAFETY: `free_host` gives it back.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(|err| {
            user(format!(
                "the machine has no {bytes} bytes of memory left that can be page-locked ({err})"
            ))
        })?;
        // SAFETY: the driver gave so many bytes.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(at as Address)
    }

    fn free_host(&self, at: Address) {
        if self.enter().is_ok() {
            // SAFETY: it came from `allocate_host`, and nothing uses it any more.
            let _ = unsafe { result::free_host(at as *mut core::ffi::c_void) };
        }
    }

    fn copy_on(&self, stream: Stream, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller owns the ranges; addresses of the device and of page-locked memory are
        // in one space, so that the driver sees which way it goes.
        Ok(unsafe { sys::cuMemcpyAsync(to, from, bytes, self.handle(stream)) }.result()?)
    }

    fn event(&self) -> Result<Event> {
        self.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Event(event as u64))
    }

    fn drop_event(&self, event: Event) {
        if self.enter().is_ok() {
            // SAFETY: it came from `event`; the driver keeps it while it is waited for.
            let _ = unsafe { result::event::destroy(event.0 as sys::CUevent) };
        }
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: both are alive.
        Ok(unsafe { result::event::record(event.0 as sys::CUevent, self.handle(stream)) }?)
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        self.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        Ok(unsafe {
            result::stream::wait_event(self.handle(stream), event.0 as sys::CUevent, flags)
        }?)
    }

    fn await_event(&self, event: Event) -> Result<()> {
        self.enter()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(event.0 as sys::CUevent) }
            .context("work failed on the card")
    }

    fn exchange_stream(&self) -> *mut core::ffi::c_void {
        self.exchange.cast()
    }

    fn has_exchanged(&self) -> Result<bool> {
        self.enter()?;
        // SAFETY: the stream is alive.
        match unsafe { sys::cuStreamQuery(self.exchange) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).context("a kernel failed on the card"),
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        for stream in [self.stream, self.load, self.store, self.exchange] {
            // SAFETY: the stream is alive.
            unsafe { result::stream::synchronize(stream) }.context("work failed on the card")?;
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter()?;
        // What this thread may not do while it records (allocate, wait) is refused; others are free.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and not the legacy one, which cannot be recorded.
        unsafe { result::stream::begin_capture(self.stream, mode) }?;
        self.records.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphId> {
        self.records.store(false, Ordering::Relaxed);
        self.enter()?;
        // SAFETY: the stream is recording. Where something broke the recording, this says so and the
        // stream is as before.
        let graph = unsafe { result::stream::end_capture(self.stream) }?;
        ensure!(!graph.is_null(), "nothing was recorded");
        // SAFETY: the graph was just made; what is run stands apart from it.
        unsafe {
            let run = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            result::graph::destroy(graph)?;
            let run = run.context("a recording cannot be run")?;
            // Not in the first run that counts.
            result::graph::upload(run, self.stream)?;
            Ok(GraphId(run as u64))
        }
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        self.enter()?;
        // SAFETY: it came from `end_capture` and was not forgotten.
        unsafe { result::graph::launch(graph.0 as sys::CUgraphExec, self.stream) }
            .context("running a recording")
    }

    fn forget(&self, graph: GraphId) {
        if self.enter().is_ok() {
            // SAFETY: it came from `end_capture` and is used no more; the driver keeps what still runs.
            let _ = unsafe { result::graph::exec_destroy(graph.0 as sys::CUgraphExec) };
        }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let _ = self.synchronize();
        // SAFETY: nothing uses the streams and the modules after this.
        unsafe {
            for module in self.modules.get_mut().map(|m| m.by_file.values()).into_iter().flatten() {
                let _ = result::module::unload(*module);
            }
            for stream in [self.stream, self.load, self.store, self.exchange] {
                let _ = result::stream::destroy(stream);
            }
        }
    }
}
