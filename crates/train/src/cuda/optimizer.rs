//! Launch code of the optimiser: sums of squares and AdamW over many tensors at once, and moments
//! that stand in page-locked host memory and pass through the card's in two slots: while the kernel
//! works on one, the other is stored and loaded anew, in streams of their own.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};

use super::driver::{Address, Arguments, Driver, Event, Grid, Stream};
use super::memory::{Buffer, Locked, Pool, Tensor, Use, bytes_of, bytes_of_mut};
use crate::ops::moments::{BLOCK, Values, code};
use crate::ops::rounding::Purpose;
use crate::ops::{AdamWStep, Form, Moments, Update};

/// Elements that one block of `adamw` takes; ADAMW_SPAN in adamw.cu.
const SPAN: usize = 8192;
/// Values that one block of `square_sums` takes; SQUARES in reduce.cu.
const SQUARES: usize = 1 << 16;
/// Bytes of one of the two slots that offloaded moments pass through.
const SLOT: usize = 64 << 20;
/// Moments of less than this share of a slot stay on the card: a copy costs more than they do.
const SMALL_SHARE: usize = 1024;

/// `AdamWTensor` in adamw.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct AdamWTensor {
    weight: Address,
    master: Address,
    gradient: Address,
    moments: [Address; 2],
    scales: [Address; 2],
    count: i64,
    element: i64,
    block: u32,
    form: i32,
    decays: i32,
    number: u32,
}

/// `AdamWStep` in adamw.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct AdamWConstants {
    beta1: f32,
    beta2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    factor: f32,
    keep: f32,
    step: u32,
    seed: [u32; 2],
}

/// `SquaresTensor` in reduce.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct SquaresTensor {
    x: Address,
    count: i64,
    block: u32,
    end: u32,
}

/// Both moments of one tensor, in one piece of memory.
#[derive(Default)]
pub struct DeviceMoments {
    form: Form,
    len: usize,
    place: Option<Place>,
    /// Stays as long as there are moments.
    held: Option<Arc<Held>>,
    /// Number of the passage that stored them last.
    stored: u64,
}

enum Place {
    Card(Buffer),
    Host(Locked),
}

/// Where the parts of some moments are, and how long: the values of the first and the second one,
/// then the scales of each.
#[derive(Clone, Copy)]
struct Parts {
    at: [usize; 4],
    bytes: [usize; 4],
}

impl Parts {
    /// Of `len` values from the beginning of a piece of memory; each part begins at 256 bytes.
    fn new(form: Form, len: usize) -> Self {
        let (values, scales) = (form.value_bytes(len), 4 * form.scales(len));
        let bytes = [values, values, scales, scales];
        let mut end = 0;
        let at = bytes.map(|bytes| {
            let at = end;
            end += bytes.next_multiple_of(256);
            at
        });
        Self { at, bytes }
    }

    /// Bytes of all.
    fn end(self) -> usize {
        self.at[3] + self.bytes[3].next_multiple_of(256)
    }

    /// Those of some of the values, whole blocks.
    fn some(self, form: Form, values: &Range<usize>) -> Self {
        let skipped = [form.value_bytes(values.start), 4 * form.scales(values.start)];
        let sizes = [form.value_bytes(values.len()), 4 * form.scales(values.len())];
        let at = std::array::from_fn(|part| self.at[part] + skipped[part / 2]);
        Self { at, bytes: std::array::from_fn(|part| sizes[part / 2]) }
    }
}

/// The optimiser's side of a device.
pub struct Optimizer {
    driver: Arc<dyn Driver>,
    pool: Arc<Pool>,
    held: Mutex<Weak<Held>>,
    slot_bytes: usize,
}

/// What stands on the card as long as there are moments.
struct Held {
    /// The codes of bytes, as the kernel has them.
    codes: Buffer,
    /// Lists of tensors by their content: those of one step are those of the next.
    lists: Mutex<BTreeMap<Vec<u8>, Arc<Buffer>>>,
    /// For moments in the host's memory, once there are any.
    slots: Mutex<Option<Slots>>,
}

impl Optimizer {
    /// For a device with this memory.
    #[must_use]
    pub fn new(driver: Arc<dyn Driver>, pool: Arc<Pool>) -> Self {
        Self { driver, pool, held: Mutex::default(), slot_bytes: SLOT }
    }

    /// The same with slots of another size.
    #[cfg(test)]
    pub fn with_slots(self, slot_bytes: usize) -> Self {
        Self { slot_bytes, ..self }
    }

    /// Moments at zero.
    pub fn moments(&self, form: Form, len: usize, offload: bool) -> Result<DeviceMoments> {
        let bytes = Parts::new(form, len).end();
        if len == 0 {
            return Ok(DeviceMoments { form, ..DeviceMoments::default() });
        }
        let held = self.held()?;
        let place = if offload && bytes >= self.slot_bytes / SMALL_SHARE {
            let mut slots = held.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if slots.is_none() {
                *slots = Some(Slots::new(&self.driver, &self.pool, self.slot_bytes)?);
            }
            Place::Host(Locked::zeros(&self.driver, bytes)?)
        } else {
            let buffer = self.pool.take_for(Use::States, bytes)?;
            self.driver.zero(buffer.at, bytes)?;
            Place::Card(buffer)
        };
        Ok(DeviceMoments { form, len, place: Some(place), held: Some(held), stored: 0 })
    }

    /// Copies moments to the host.
    pub fn read(&self, moments: &DeviceMoments) -> Result<Moments> {
        let mut read = Moments::zeros(moments.form, moments.len);
        if matches!(moments.place, Some(Place::Host(_))) {
            self.driver.synchronize()?;
        }
        for (at, bytes) in parts_of(&mut read) {
            match &moments.place {
                Some(Place::Card(buffer)) => {
                    self.driver.copy_out(bytes, buffer.at + at as Address)?
                }
                Some(Place::Host(locked)) => {
                    bytes.copy_from_slice(&locked.bytes()[at..at + bytes.len()]);
                }
                None => {}
            }
        }
        Ok(read)
    }

    /// Takes moments of the same form and length.
    pub fn write(&self, moments: &mut DeviceMoments, mut values: Moments) -> Result<()> {
        let (form, len) = (values.form(), values.first.len());
        ensure!((form, len) == (moments.form, moments.len), "moments of another form or length");
        if matches!(moments.place, Some(Place::Host(_))) {
            self.driver.synchronize()?;
        }
        for (at, bytes) in parts_of(&mut values) {
            match &mut moments.place {
                Some(Place::Card(buffer)) => {
                    self.driver.copy_in(buffer.at + at as Address, bytes)?
                }
                Some(Place::Host(locked)) => {
                    locked.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Sums of the squares of runs of f32 values: two launches and one copy, however many there are.
    pub fn squares(&self, runs: &[(&Tensor, Range<usize>)]) -> Result<Vec<f64>> {
        let (mut list, mut blocks) = (Vec::new(), 0);
        for (tensor, run) in runs {
            let end = blocks + run.len().div_ceil(SQUARES) as u32;
            list.push(SquaresTensor {
                x: tensor.from(run.start),
                count: run.len() as i64,
                block: blocks,
                end,
            });
            blocks = end;
        }
        let mut sums = vec![0.0; list.len()];
        if blocks == 0 {
            return Ok(sums);
        }
        let table = self.list(bytes_of(&list))?;
        let (parts, out) = (self.pool.take(blocks as usize * 8)?, self.pool.take(sums.len() * 8)?);
        let arguments = Arguments::new().with(parts.at).with(table.at).with(list.len() as i32);
        self.driver.launch("square_sums", Grid::line(blocks as usize, 256), arguments)?;
        let arguments = Arguments::new().with(out.at).with(parts.at).with(table.at);
        self.driver.launch("sum_parts", Grid::line(list.len(), 128), arguments)?;
        self.driver.copy_out(bytes_of_mut(&mut sums), out.at)?;
        Ok(sums)
    }

    /// One step of AdamW: one launch for all tensors whose moments are on the card, and one for
    /// each slot full of those whose are not.
    pub fn step(
        &self,
        step: &AdamWStep,
        updates: Vec<Update<'_, Tensor, DeviceMoments>>,
    ) -> Result<()> {
        let (mut on_card, mut offloaded) = (Vec::new(), Vec::new());
        for update in updates {
            let (parameter, gradient, moments) =
                (&*update.parameter, update.gradient, update.moments);
            ensure!(
                step.narrow == parameter.master.is_none() || moments.len == 0,
                "a weight that does not stand as the optimiser takes it to"
            );
            let first = update.first;
            let tensor = AdamWTensor {
                weight: parameter.from(first),
                master: parameter.master.as_ref().map_or(0, |master| master.from(first)),
                gradient: gradient.from(first),
                moments: [0; 2],
                scales: [0; 2],
                count: moments.len as i64,
                element: first as i64,
                block: 0,
                form: moments.form as i32,
                decays: i32::from(update.decays),
                number: update.number,
            };
            match &moments.place {
                Some(Place::Card(buffer)) => {
                    let parts = Parts::new(moments.form, moments.len);
                    on_card.push(tensor.with(buffer.at, parts));
                }
                Some(Place::Host(_)) => offloaded.push((tensor, moments)),
                None => {}
            }
        }
        self.launch(step, on_card)?;
        self.stream(step, offloaded)
    }

    fn launch(&self, step: &AdamWStep, mut tensors: Vec<AdamWTensor>) -> Result<()> {
        let mut blocks = 0;
        for tensor in &mut tensors {
            tensor.block = blocks;
            blocks += (tensor.count as usize).div_ceil(SPAN) as u32;
        }
        if tensors.is_empty() {
            return Ok(());
        }
        let factors = step.factors(true);
        let constants = AdamWConstants {
            beta1: factors.beta1,
            beta2: factors.beta2,
            rate: factors.rate,
            root: factors.root,
            eps: factors.eps,
            factor: factors.factor,
            keep: factors.keep,
            step: step.step as u32,
            seed: [step.seed as u32, (step.seed >> 32) as u32],
        };
        let (list, held) = (self.list(bytes_of(&tensors))?, self.held()?);
        let arguments = Arguments::new()
            .with(list.at)
            .with(tensors.len() as i32)
            .with(held.codes.at)
            .with(constants);
        self.driver.launch("adamw", Grid::line(blocks as usize, 256), arguments)
    }

    /// The tensors whose moments are in the host's memory, a slot full at a time.
    fn stream(
        &self,
        step: &AdamWStep,
        mut tensors: Vec<(AdamWTensor, &mut DeviceMoments)>,
    ) -> Result<()> {
        let Some(held) = tensors.first().and_then(|(_, moments)| moments.held.clone()) else {
            return Ok(());
        };
        let mut slots = held.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slots) = &mut *slots else { return Ok(()) };
        let sizes: Vec<_> = tensors.iter().map(|(_, held)| (held.form, held.len)).collect();
        for passage in passages(&sizes, self.slot_bytes) {
            slots.turns += 1;
            let [this, other] = [0, 1].map(|i| &slots.both[(slots.turns as usize + i) % 2]);
            let (mut copies, mut list, mut at) = (Vec::new(), Vec::new(), this.memory.at);
            self.driver.wait(Stream::Load, this.stored)?;
            for (index, values) in passage {
                let (tensor, moments) = &mut tensors[index];
                if moments.stored + 1 == slots.turns {
                    self.driver.wait(Stream::Load, other.stored)?;
                }
                moments.stored = slots.turns;
                let Some(Place::Host(locked)) = &moments.place else { continue };
                let from = Parts::new(moments.form, moments.len).some(moments.form, &values);
                let to = Parts::new(moments.form, values.len());
                for part in (0..4).filter(|&part| to.bytes[part] > 0) {
                    let pair = (locked.at + from.at[part] as Address, at + to.at[part] as Address);
                    self.driver.copy_on(Stream::Load, pair.1, pair.0, to.bytes[part])?;
                    copies.push((pair, to.bytes[part]));
                }
                list.push(tensor.some(&values).with(at, to));
                at += to.end() as Address;
            }
            self.driver.record(this.loaded, Stream::Load)?;
            self.driver.wait(Stream::Compute, this.loaded)?;
            self.launch(step, list)?;
            self.driver.record(this.used, Stream::Compute)?;
            self.driver.wait(Stream::Store, this.used)?;
            for ((host, card), bytes) in copies {
                self.driver.copy_on(Stream::Store, host, card, bytes)?;
            }
            self.driver.record(this.stored, Stream::Store)?;
        }
        Ok(())
    }

    /// A list in the card's memory, where it was if it has been there before.
    fn list(&self, bytes: &[u8]) -> Result<Arc<Buffer>> {
        let new = || {
            let buffer = Arc::new(self.pool.take_to_stay(bytes.len())?);
            self.driver.copy_in(buffer.at, bytes)?;
            Ok(buffer)
        };
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let Some(held) = held else { return new() };
        let mut lists = held.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.get(bytes) {
            return Ok(Arc::clone(known));
        }
        let buffer = new()?;
        lists.insert(bytes.to_vec(), Arc::clone(&buffer));
        Ok(buffer)
    }

    fn held(&self) -> Result<Arc<Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.upgrade() {
            return Ok(held);
        }
        let (first, second) = (code(Purpose::First), code(Purpose::Second));
        let table = [first.values, second.values, first.middles, second.middles];
        let codes = self.pool.take_to_stay(size_of_val(&table))?;
        self.driver.copy_in(codes.at, bytes_of(&table))?;
        let new = Arc::new(Held { codes, lists: Mutex::default(), slots: Mutex::default() });
        *held = Arc::downgrade(&new);
        Ok(new)
    }
}

impl DeviceMoments {
    /// As many in host memory, at zero.
    #[must_use]
    pub fn zeros(&self) -> Moments {
        Moments::zeros(self.form, self.len)
    }
}

/// Where each part of some moments begins, and its bytes in host memory.
fn parts_of(values: &mut Moments) -> impl Iterator<Item = (usize, &mut [u8])> {
    let at = Parts::new(values.form(), values.first.len()).at;
    let [first, second] = [&mut values.first, &mut values.second].map(|values| match values {
        Values::F32(values) => (bytes_of_mut(values), &mut [][..]),
        Values::Bf16(values) => (bytes_of_mut(values), &mut [][..]),
        Values::Int8 { codes, scales } => (&mut codes[..], bytes_of_mut(scales)),
    });
    at.into_iter().zip([first.0, second.0, first.1, second.1])
}

impl AdamWTensor {
    /// With moments that stand in a piece of the card's memory.
    fn with(self, at: Address, parts: Parts) -> Self {
        let [m, v, m_scales, v_scales] = parts.at.map(|part| at + part as Address);
        Self { moments: [m, v], scales: [m_scales, v_scales], ..self }
    }

    /// Some of its values.
    fn some(self, values: &Range<usize>) -> Self {
        let moved = |at: Address, bytes: usize| {
            if at == 0 { 0 } else { at + (values.start * bytes) as Address }
        };
        Self {
            weight: moved(self.weight, 2),
            master: moved(self.master, 4),
            gradient: moved(self.gradient, 4),
            count: values.len() as i64,
            element: self.element + values.start as i64,
            ..self
        }
    }
}

/// What passes through a slot of so many bytes at a time: tensors by their place in the list, and
/// which of their values.
fn passages(tensors: &[(Form, usize)], slot_bytes: usize) -> Vec<Vec<(usize, Range<usize>)>> {
    let mut all = vec![Vec::new()];
    let mut left = slot_bytes;
    for (index, &(form, len)) in tensors.iter().enumerate() {
        let mut start = 0;
        while start < len {
            // Of four parts each may waste 255 bytes.
            let unit = (form.value_bytes(BLOCK) + 4 * form.scales(BLOCK)) * 2;
            let fits = left.saturating_sub(4 * 255) / unit * BLOCK;
            if fits == 0 {
                all.push(Vec::new());
                left = slot_bytes;
                continue;
            }
            let end = len.min(start + fits);
            all.last_mut().expect("one at least").push((index, start..end));
            left -= Parts::new(form, end - start).end();
            start = end;
        }
    }
    all
}

/// Two pieces of the card's memory that moments pass through by turns.
struct Slots {
    driver: Arc<dyn Driver>,
    both: [Slot; 2],
    /// Passages so far; the slots take them by turns.
    turns: u64,
}

struct Slot {
    memory: Buffer,
    loaded: Event,
    used: Event,
    stored: Event,
}

impl Slots {
    fn new(driver: &Arc<dyn Driver>, pool: &Arc<Pool>, bytes: usize) -> Result<Self> {
        let slot = || {
            Ok::<_, anyhow::Error>(Slot {
                memory: pool.take_to_stay(bytes)?,
                loaded: driver.event()?,
                used: driver.event()?,
                stored: driver.event()?,
            })
        };
        let both = [slot()?, slot()?];
        // Kernels that used this memory before may not be done, and the other streams do not wait
        // for them.
        driver.synchronize()?;
        Ok(Self { driver: Arc::clone(driver), both, turns: 0 })
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // Whoever gets the memory next waits for the kernels' stream alone. A fault is told by the
        // next operation.
        let _ = self.driver.synchronize();
        for slot in &self.both {
            for event in [slot.loaded, slot.used, slot.stored] {
                self.driver.drop_event(event);
            }
        }
    }
}
