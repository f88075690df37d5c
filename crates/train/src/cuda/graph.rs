//! Work that is asked for again and again with the same shapes and the same memory: recorded once,
//! then run by one call, so that launches do not bound small work.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::Cuda;
use super::driver::{Driver, GraphId};

/// What one piece of work has come to: it runs plainly first, for kernels get compiled then and it
/// shows what memory it takes, neither of which can happen in a recording; then there is its recording.
#[derive(Default)]
pub struct Recorded {
    /// Bytes that it takes and gives back.
    bytes: Option<usize>,
    graph: Option<Graph>,
    /// Why it could not be recorded; it runs plainly then.
    refused: Option<String>,
}

impl Recorded {
    /// Why the work could not be recorded, if it could not.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

/// A recording in a driver.
struct Graph {
    driver: Arc<dyn Driver>,
    id: GraphId,
    /// The memory that it takes its own from; it cannot run with another.
    generation: u64,
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.driver.forget(self.id);
    }
}

impl Cuda {
    /// Does `work`: plainly at first, then by a recording of it. It must ask for the same each time,
    /// of tensors and indices that stay where they are.
    pub(super) fn run_recorded(&self, recorded: &mut Recorded, work: &mut dyn FnMut()) {
        if recorded.graph.as_ref().is_some_and(|graph| self.replay(graph)) {
            return;
        }
        recorded.graph = None;
        let Some(bytes) = recorded.bytes.filter(|_| recorded.refused.is_none()) else {
            self.pool.begin_trial();
            work();
            recorded.bytes = Some(self.pool.end_trial());
            return;
        };
        match self.record(bytes, work) {
            Ok(graph) if self.replay(&graph) => recorded.graph = Some(graph),
            Ok(_) => work(),
            Err(fault) => {
                recorded.refused = Some(format!("{fault:#}"));
                work();
            }
        }
    }

    /// Runs a recording, unless its memory has gone to others; after a fault, nothing runs.
    fn replay(&self, graph: &Graph) -> bool {
        let is_gone = self.run(|| {
            let is_gone = graph.generation != self.pool.generation();
            if is_gone { Ok(true) } else { self.driver.replay(graph.id).map(|()| false) }
        });
        !is_gone
    }

    fn record(&self, bytes: usize, work: &mut dyn FnMut()) -> Result<Graph> {
        // Nothing runs after a fault, and the next check tells it.
        ensure!(self.turn.begin_recording(), "a fault came before it");
        let ended = self.pool.begin_recording(bytes).and_then(|()| {
            let ended = self.driver.begin_capture().and_then(|()| {
                work();
                self.driver.end_capture()
            });
            self.pool.end_recording();
            ended
        });
        let generation = self.pool.generation();
        let fault = self.turn.end_recording();
        let graph = Graph { driver: Arc::clone(&self.driver), id: ended?, generation };
        fault.map_or(Ok(graph), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::emulator::Emulator;
    use crate::ops::testing::random;
    use crate::ops::{Backend, Kind, LinearShape, Plus};

    /// Products that are split, so that they take temporary memory.
    const SHAPE: LinearShape = LinearShape::new(5, 1024, 8);

    #[test]
    fn recorded_work_sees_new_inputs_and_keeps_its_temporary_memory() {
        let Some(emulator) = Emulator::new((8, 0)).map(Arc::new) else { return };
        let ops = Cuda::new(emulator.clone());
        let weight = ops.tensor(Kind::Weight, random(1, 8 * 1024));
        let mut x = ops.zeros(Kind::Activation, 5 * 1024);
        let mut y = ops.zeros(Kind::Activation, 5 * 8);
        let mut recorded = Recorded::default();
        for round in 0..4_u8 {
            ops.fill(&mut x, 5 * 1024, f32::from(round) - 1.5);
            let mut expected = ops.zeros(Kind::Activation, 5 * 8);
            ops.linear_rows(&mut expected, &x, &weight, Plus::NOTHING, SHAPE);
            // What others take now must not be what the recording writes to.
            let planes = 5 * 8 * 4;
            let others: Vec<_> = (2..=4)
                .map(|splits| ops.tensor(Kind::Statistic, vec![1.0; splits * planes / 4]))
                .collect();
            ops.recorded(&mut recorded, &mut || {
                ops.linear_rows(&mut y, &x, &weight, Plus::NOTHING, SHAPE);
            });
            ops.check().expect("no fault");
            assert_eq!(ops.values(&y, 40), ops.values(&expected, 40), "round {round}");
            for other in &others {
                assert!(ops.values(other, other.len).iter().all(|&x| x == 1.0));
            }
        }
        assert_eq!((emulator.replays(), recorded.refused()), (3, None));
    }

    #[test]
    fn what_other_threads_ask_for_is_no_part_of_a_recording() {
        let Some(emulator) = Emulator::new((8, 0)).map(Arc::new) else { return };
        let ops = Cuda::new(emulator.clone());
        let mut x = ops.tensor(Kind::Statistic, vec![1.0; 4]);
        let mut recorded = Recorded::default();
        ops.recorded(&mut recorded, &mut || ops.scale(&mut x, 4, 2.0));
        std::thread::scope(|threads| {
            let other = ops.clone();
            let mut begun = None;
            ops.recorded(&mut recorded, &mut || {
                ops.scale(&mut x, 4, 2.0);
                let other = other.clone();
                // It waits for the end of the recording, or would be in it.
                begun = Some(threads.spawn(move || {
                    let mut own = other.tensor(Kind::Statistic, vec![1.0; 4]);
                    other.scale(&mut own, 4, 3.0);
                    other.values(&own, 4)
                }));
                std::thread::sleep(std::time::Duration::from_millis(50));
            });
            let own = begun.map(|thread| thread.join().expect("no panic"));
            assert_eq!(own, Some(vec![3.0; 4]));
        });
        ops.recorded(&mut recorded, &mut || ops.scale(&mut x, 4, 2.0));
        ops.check().expect("no fault");
        assert_eq!((ops.values(&x, 4), recorded.refused()), (vec![8.0; 4], None));
    }

    #[test]
    fn work_that_cannot_be_recorded_runs_plainly() {
        let Some(emulator) = Emulator::new((8, 0)).map(Arc::new) else { return };
        let ops = Cuda::new(emulator.clone());
        let mut recorded = Recorded::default();
        for _ in 0..3 {
            let mut sums = Vec::new();
            ops.recorded(&mut recorded, &mut || {
                sums = ops.values(&ops.tensor(Kind::Statistic, vec![2.0; 3]), 3);
            });
            ops.check().expect("no fault");
            assert_eq!(sums, [2.0; 3]);
        }
        assert_eq!(emulator.replays(), 0);
        assert!(recorded.refused().is_some_and(|why| why.contains("in a recording")));
    }
}
