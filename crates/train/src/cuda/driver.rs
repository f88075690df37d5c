//! What the engine needs of a device: memory, copies, launches, descriptions of tensors. A card is
//! one (over the CUDA driver), the emulation of the kernels on the host another; all launch code is
//! written over this, so that it is tested where there is no card.

use anyhow::Result;

/// Where something stands in the device's memory.
pub type Address = u64;

/// What a device is.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its name, `NVIDIA H200` for one.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory, in all.
    pub memory: u64,
    /// Bytes of memory that are free.
    pub free: u64,
}

impl Facts {
    /// Whether it has Hopper's copy engine and warpgroup products.
    #[must_use]
    pub fn is_hopper(&self) -> bool {
        self.capability.0 == 9
    }
}

/// A two- or three-dimensional tensor of bf16 as the copy engine sees it. Sizes, innermost first;
/// `strides[i]` is the bytes from one index of dimension i + 1 to the next. Boxes have 64 columns,
/// which stand in shared memory under the 128-byte swizzle.
#[derive(Clone, Copy, Debug)]
pub struct TensorShape {
    /// Its first element.
    pub base: Address,
    /// Two or three.
    pub rank: u32,
    /// Elements by dimension.
    pub sizes: [u64; 3],
    /// Bytes between indices of the outer dimensions, multiples of 16.
    pub strides: [u64; 2],
    /// Elements that one copy brings, by dimension.
    pub boxes: [u32; 3],
}

/// What [`Driver::tensor_map`] makes of a [`TensorShape`]; a kernel's argument.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// Recorded work, by the number under which its driver keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphId(pub u64);

/// One argument, aligned as the strictest of them needs.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Slot([u8; 128]);

/// A kernel's arguments, in order, with their sizes.
#[derive(Clone, Default)]
pub struct Arguments(Vec<(Slot, u32)>);

impl Arguments {
    /// No arguments yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more. `T` is what the kernel declares: a number, an [`Address`] for a pointer, or a
    /// `repr(C)` struct of at most 128 bytes.
    #[must_use]
    pub fn with<T: Copy>(mut self, value: T) -> Self {
        const { assert!(size_of::<T>() <= 128 && align_of::<T>() <= 64) };
        let mut slot = Slot([0; 128]);
        // SAFETY: the slot is large and aligned enough, as asserted.
        unsafe { slot.0.as_mut_ptr().cast::<T>().write(value) };
        self.0.push((slot, size_of::<T>() as u32));
        self
    }

    /// Bytes of each. The driver does not ask: it reads as many arguments as the kernel declares, as
    /// long as it declares them.
    #[must_use]
    pub fn sizes(&self) -> Vec<u32> {
        self.0.iter().map(|&(_, size)| size).collect()
    }

    /// Pointers to each, as the driver takes them.
    pub fn pointers(&mut self) -> Vec<*mut core::ffi::c_void> {
        self.0.iter_mut().map(|(slot, _)| slot.0.as_mut_ptr().cast()).collect()
    }
}

/// How many blocks of how many threads, and how much shared memory a block asks for.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Grid {
    /// `blocks` blocks in one dimension.
    #[must_use]
    pub fn line(blocks: usize, threads: u32) -> Self {
        Self { blocks: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1], threads, shared: 0 }
    }

    /// Whether there is nothing to do, which a card would refuse to launch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.contains(&0)
    }
}

/// A queue of work. What one holds is carried out in the order in which it was asked for; between
/// two, only events say what comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Kernels, and every copy that names no stream.
    Compute,
    /// Copies from page-locked host memory that run beside the kernels.
    Load,
    /// Copies back to it.
    Store,
    /// What goes to other ranks and comes from them, beside the kernels.
    Exchange,
}

/// A point in a stream's work, for other streams to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub u64);

/// A device. Work is carried out in the order in which it is asked for, in one stream unless another
/// is named.
pub trait Driver: Send + Sync {
    /// What it is.
    fn facts(&self) -> &Facts;
    /// Bytes of its memory that nobody has now.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn free_bytes(&self) -> Result<u64> {
        Ok(self.facts().free)
    }
    /// Reserves memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// If there is not enough.
    fn allocate(&self, bytes: usize) -> Result<Address>;
    /// Gives memory back.
    fn free(&self, at: Address);
    /// Copies from the host.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn copy_in(&self, to: Address, bytes: &[u8]) -> Result<()>;
    /// Copies to the host, once all work before it is done.
    ///
    /// # Errors
    /// If the device reports a fault, which may be that of earlier work.
    fn copy_out(&self, bytes: &mut [u8], from: Address) -> Result<()>;
    /// Copies inside the device's memory.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()>;
    /// Sets bytes to zero.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn zero(&self, at: Address, bytes: usize) -> Result<()>;
    /// Runs a kernel.
    ///
    /// # Errors
    /// If there is no such kernel, it cannot be compiled, or the device refuses the launch.
    fn launch(&self, kernel: &str, grid: Grid, arguments: Arguments) -> Result<()> {
        self.launch_on(Stream::Compute, kernel, grid, arguments)
    }
    /// The same in a stream; in another than [`Stream::Compute`] it cannot be recorded.
    ///
    /// # Errors
    /// As [`Driver::launch`].
    fn launch_on(
        &self,
        stream: Stream,
        kernel: &str,
        grid: Grid,
        arguments: Arguments,
    ) -> Result<()>;
    /// Describes a tensor to the copy engine.
    ///
    /// # Errors
    /// If the device refuses the shape.
    fn tensor_map(&self, shape: &TensorShape) -> Result<TensorMap>;
    /// Reserves page-locked host memory, zeroed and aligned to 256 bytes, which copies beside the
    /// kernels need.
    ///
    /// # Errors
    /// If there is not enough.
    fn allocate_host(&self, bytes: usize) -> Result<Address>;
    /// Gives it back. No copy of it may be under way.
    fn free_host(&self, at: Address);
    /// Copies between any of the device's memory and page-locked host memory, in this stream.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn copy_on(&self, stream: Stream, to: Address, from: Address, bytes: usize) -> Result<()>;
    /// Makes an event. Until it is recorded, waiting for it is no wait.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn event(&self) -> Result<Event>;
    /// Takes an event away.
    fn drop_event(&self, event: Event);
    /// The event stands for what the stream holds now.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn record(&self, event: Event, stream: Stream) -> Result<()>;
    /// What comes in `stream` after this begins when the event's work, as it was last recorded, is
    /// done.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn wait(&self, stream: Stream, event: Event) -> Result<()>;
    /// Waits until the event's work, as it was last recorded, is done.
    ///
    /// # Errors
    /// If some of it failed.
    fn await_event(&self, event: Event) -> Result<()>;
    /// The handle of [`Stream::Exchange`], as NVIDIA's libraries take it; null where there is none.
    fn exchange_stream(&self) -> *mut core::ffi::c_void {
        std::ptr::null_mut()
    }
    /// Whether [`Stream::Exchange`] has nothing left to do.
    ///
    /// # Errors
    /// If some of its work failed.
    fn has_exchanged(&self) -> Result<bool> {
        self.synchronize()?;
        Ok(true)
    }
    /// Waits for all work, in all streams.
    ///
    /// # Errors
    /// If some of it failed.
    fn synchronize(&self) -> Result<()>;
    /// From here to [`Driver::end_capture`] launches, copies inside the device and zeroings are
    /// written down and not carried out. Nothing else may be asked for meanwhile: memory has to be
    /// there, kernels have to be loaded, and the host's bytes are not part of a graph.
    ///
    /// # Errors
    /// If something is being recorded already, or the device refuses.
    fn begin_capture(&self) -> Result<()>;
    /// Ends the recording, also after a fault in it.
    ///
    /// # Errors
    /// If something was asked for that cannot be recorded.
    fn end_capture(&self) -> Result<GraphId>;
    /// Carries out what was recorded, at the addresses that it was recorded with.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn replay(&self, graph: GraphId) -> Result<()>;
    /// Forgets a recording.
    fn forget(&self, graph: GraphId);
}
